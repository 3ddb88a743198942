"""The table of arms: a function of answers, costs and the config alone.

Quantities of an arm, `<quantity>_<side>` for the sides `before`, `after` (of the cut-off) and
`unanswerable`:

    accuracy, confident_wrong             shares of the side's questions, with their intervals
    accuracy_change, confident_wrong_change
                                          the paired difference to the baseline, simultaneous
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from eval.intervals import Intervals, Row, values
from eval.knowledge.config import KnowledgeConfig, PricesConfig
from eval.knowledge.costs import Costs, price
from plumbrule.errors import DataError
from plumbrule.statistics import Interval, point

MEASURED = (
    ("accuracy", "correct", "after"),
    ("accuracy", "correct", "before"),
    ("confident_wrong", "confident_wrong", "after"),
    ("confident_wrong", "confident_wrong", "before"),
    ("confident_wrong", "confident_wrong", "unanswerable"),
)
"""(quantity, column, side)."""
WORDS = {
    "after": "after the cut-off",
    "before": "before the cut-off",
    "unanswerable": "unanswerable",
    "accuracy": "accuracy",
    "confident_wrong": "confidently wrong",
}
SHOWN_COSTS = {
    "training_seconds": ("training (s)", "{:,.0f}"),
    "training_tokens": ("tokens trained on", "{:,.0f}"),
    "generated_tokens": ("tokens sampled in training", "{:,.0f}"),
    "seconds_per_answer": ("seconds per answer", "{:.4f}"),
    "prompt_tokens": ("prompt tokens per answer", "{:.1f}"),
    "answer_tokens": ("answer tokens per answer", "{:.1f}"),
    "policy_bytes": ("bytes stored: weights", "{:,.0f}"),
    "index_bytes": ("bytes stored: index", "{:,.0f}"),
    "fact_seconds": ("seconds until a new fact is answered", "{:.2f}"),
    "fact_answered": ("new facts that came to be answered", "{:.0%}"),
    "cost_per_1000": ("cost of 1,000 answers", "{:.4f}"),
}
UNKNOWN = "-"


class Arm(NamedTuple):
    """One arm. shares: quantity -> its interval. changes: of all but the baseline."""

    name: str
    shares: dict[str, Interval]
    changes: dict[str, Interval]
    costs: Costs

    def numbers(self) -> dict[str, Interval]:
        """Return every number of the arm by its name."""
        return self.shares | self.changes | {name: point(x, 1) for name, x in self.costs.items()}


def num_differences(config: KnowledgeConfig, sides: set[str]) -> int:
    """Return how many differences the table shows, which its intervals are corrected for."""
    return (len(config.arms) - 1) * sum(side in sides for _, _, side in MEASURED)


def arms_of(
    answers: Sequence[Row], costs: Sequence[Mapping[str, Any]], config: KnowledgeConfig
) -> list[Arm]:
    """Return the arms in the order of the config.

    Args: answers: rows of `answers.jsonl`. costs: rows of `arms.jsonl`.
    Raises: DataError: an arm answered other questions than the baseline.
    """
    sides = {str(row["side"]) for row in answers}
    own = Intervals(config.confidence)
    together = Intervals(1 - (1 - config.confidence) / max(1, num_differences(config, sides)))
    known = {row["arm"]: {k: float(v) for k, v in row.items() if k != "arm"} for row in costs}
    base = {row["id"]: row for row in answers if row["arm"] == config.baseline}
    found = []
    for name in config.arms:
        rows = [row for row in answers if row["arm"] == name]
        if [row["id"] for row in rows] != list(base):
            raise DataError(
                f"arm {name} must have answered the {len(base)} questions of {config.baseline}, in "
                "their order; evaluate both on the same ones."
            )
        shares: dict[str, Interval] = {}
        changes: dict[str, Interval] = {}
        for quantity, column, side in MEASURED:
            chosen = [row for row in rows if row["side"] == side]
            share = own.share(chosen, column)
            if share is not None:
                shares[f"{quantity}_{side}"] = share
                if name != config.baseline:
                    before = [base[row["id"]] for row in chosen]
                    change = together.gain(before, chosen, column)
                    changes[f"{quantity}_change_{side}"] = change
        spent = dict(known[name])
        for column in ("prompt_tokens", "answer_tokens"):
            spent[column] = sum(values(rows, column)) / len(rows)
        spent["cost_per_1000"] = price(spent, config.prices)
        found.append(Arm(name, shares, changes, spent))
    return found


def table(arms: Sequence[Arm], config: KnowledgeConfig) -> dict[str, Any]:
    """Return the table of the report: quantities down, arms across."""
    rows: list[list[str]] = []
    for quantity, _, side in MEASURED:
        key = f"{quantity}_{side}"
        if key not in arms[0].shares:
            continue
        number = arms[0].shares[key]
        about = f"{number.n} answers, {number.groups} entities"
        said = f"{WORDS[quantity]}, {WORDS[side]} ({about})"
        rows.append([said, *(short(arm.shares[key]) for arm in arms)])
        change = f"{quantity}_change_{side}"
        cells = [
            f"{short(arm.changes[change], signed=True)}{mark(arm.changes[change])}"
            if change in arm.changes
            else UNKNOWN
            for arm in arms
        ]
        rows.append([f"  less that of {config.baseline}", *cells])
    for name, (said, form) in SHOWN_COSTS.items():
        head = f"{said}, {config.prices.currency}" if name == "cost_per_1000" else said
        cells = [form.format(arm.costs[name]) if name in arm.costs else UNKNOWN for arm in arms]
        rows.append([head, *cells])
    return {
        "title": f"new facts: retrieval, fine-tuning and RLHF against {config.baseline}",
        "columns": ["", *(arm.name for arm in arms)],
        "rows": rows,
    }


def short(interval: Interval, signed: bool = False) -> str:
    """Return a share with its bounds as text."""
    form = "+.3f" if signed else ".3f"
    said = f"{interval.value:{form}}"
    if interval.is_bounded:
        said += f" [{interval.low:{form}}, {interval.high:{form}}]"
    return said


def mark(interval: Interval) -> str:
    """Return a star for a difference whose bounds leave out 0."""
    return " *" if interval.is_bounded and not interval.low <= 0 <= interval.high else ""


def metrics_of(arms: Sequence[Arm]) -> dict[str, Interval]:
    """Return the headline metrics of all arms."""
    return {
        f"knowledge/{name}_{arm.name}": interval
        for arm in arms
        for name, interval in arm.numbers().items()
    }


def notes(arms: Sequence[Arm], num_seeds: int, config: KnowledgeConfig) -> list[str]:
    """Return what a reader of the table must know."""
    budget = config.budget
    sides = {name.rpartition("_")[2] for name in arms[0].shares}
    number = num_differences(config, sides)
    said = [
        f"Differences to {config.baseline} are paired question by question; the bounds of all "
        f"{number} hold together with confidence {config.confidence:g} (Bonferroni). A star: they "
        "leave out 0.",
        f"Budgets: {budget.context_tokens} tokens of passages per answer where an arm retrieves"
        + (f"; {budget.training_tokens:,} to fine-tune on" if budget.training_tokens else "")
        + (f"; {budget.generated_tokens:,} sampled by PPO" if budget.generated_tokens else "")
        + ", all at most.",
        prices_told(config.prices),
    ]
    if num_seeds == 1:
        said.append("One seed: intervals are over questions and say nothing about other seeds.")
    said += [
        f"{arm.name}: seconds per answer are not known, since its evaluation was resumed."
        for arm in arms
        if "seconds_per_answer" not in arm.costs
    ]
    return said


def prices_told(prices: PricesConfig) -> str:
    """Return the prices in a sentence."""
    unit = prices.currency
    return (
        f"Prices ({prices.source}): {prices.input_tokens:g} {unit} per million prompt tokens, "
        f"{prices.output_tokens:g} per million answer tokens and tokens sampled in training, "
        f"{prices.training_tokens:g} per million tokens trained on, {prices.gigabyte_month:g} per "
        f"GB and month; training and storage are spread over {prices.num_answers:,.0f} answers in "
        f"{prices.months:g} months."
    )
