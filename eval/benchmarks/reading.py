"""Reading comprehension: questions that bring their own passages.

Greedy answers, judged as in `questions.py`, with no retriever between the policy and the text: it
shows what a model can do with the right passages before it, what it remembers, and whether it
admits not knowing when neither helps. `meta.case` says which of these an item asks for; any other
entry of meta that is named in `BREAKDOWNS` gives a breakdown, so a set may bring its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eval.benchmarks.answers import sample_row
from eval.benchmarks.benchmark import Benchmark, Measured
from eval.benchmarks.quantity import Quantity
from eval.benchmarks.questions import outcome
from eval.config import EvalConfig
from eval.intervals import Intervals, Metrics, Row, known
from plumbrule.data.benchmark_items import ItemFormat
from plumbrule.data.records import BenchmarkItem, Message, Prompt
from plumbrule.data.splits import bootstrap_cluster
from plumbrule.errors import DataError

if TYPE_CHECKING:
    from eval.benchmarks.subject import Subject

CASES = {
    "read": ("read_accuracy", "correct"),
    "read_new": ("read_new_words_accuracy", "correct"),
    "closed": ("closed_book_accuracy", "correct"),
    "beside": ("closed_book_beside_passages_accuracy", "correct"),
    "abstain": ("abstain_accuracy", "abstained"),
}
"""Case -> (its metric, the column whose share that is)."""
BREAKDOWNS = ("num_passages", "position", "distractor", "relation")


def asked(items: Sequence[BenchmarkItem], config: EvalConfig) -> list[Prompt]:
    """Return the questions as chats. Raises: DataError: as `as_prompt`."""
    return [as_prompt(item) for item in items]


def measure(items: Sequence[BenchmarkItem], condition: str, subject: Subject) -> Measured:
    """Return rows with `case`, `correct`, `abstained`, `confident_wrong` and the breakdowns.

    Raises: DataError: an item without question or with an unknown case.
    """
    prompts, passages = asked(items, subject.config), [passages_of(item) for item in items]
    groups = {item.id: item.group or bootstrap_cluster(item.id, item.meta) for item in items}
    answered, notes = subject.respond(prompts, "reading", passages=passages, greedy=True)
    rows, samples = [], []
    for episode in (one.episode for one in answered):
        meta = episode.prompt.meta
        row = {
            "id": episode.prompt.id,
            "group": groups[episode.prompt.id],
            "condition": condition,
            "case": meta["case"],
            **{name: meta[name] for name in BREAKDOWNS if name in meta},
            **outcome(episode),
        }
        rows.append(row)
        shown = {"answer": meta["answer"], "case": meta["case"], "correct": row["correct"]}
        samples.append(sample_row("reading", condition, episode, **shown))
    every = max(1, len(samples) // max(1, subject.config.num_samples))
    return Measured(rows, samples[::every][: subject.config.num_samples], notes)


def as_prompt(item: BenchmarkItem) -> Prompt:
    """Return the question as a chat of one turn.

    Raises: DataError: it has no text, no answer, an unknown case, or a breakdown that is neither
    text nor a whole number.
    """
    question, meta = str(item.fields.get("question", "")).strip(), item.meta
    for name in BREAKDOWNS:
        if not isinstance(meta.get(name, ""), str | int):
            raise DataError(
                f"reading item {item.id!r}: meta.{name} (={meta[name]!r:.80}) must be text or a "
                "whole number; repair the row."
            )
    if not question or meta.get("case") not in CASES or "answer" not in meta:
        raise DataError(
            f"reading item {item.id!r} must have a question, meta.answer and meta.case of "
            f"{', '.join(CASES)}; repair the row."
        )
    return Prompt(item.id, (Message("user", question),), meta)


def passages_of(item: BenchmarkItem) -> tuple[str, ...]:
    """Return the passages of an item.

    Raises: DataError: they are not a list of texts.
    """
    passages = item.fields.get("passages", [])
    if not isinstance(passages, list | tuple) or not all(isinstance(p, str) for p in passages):
        raise DataError(
            f"reading item {item.id!r}: passages (={passages!r:.80}) must be a list of texts; "
            "repair the row."
        )
    return tuple(passages)


def summarise(rows: Sequence[Row], intervals: Intervals) -> Metrics:
    """Return each case's share, overall as `<metric>` and as `<metric> · <breakdown> <value>`."""
    found: dict[str, Any] = {}
    for case, (name, column) in CASES.items():
        mine = [row for row in rows if row["case"] == case]
        found[name] = intervals.share(mine, column)
        for breakdown in BREAKDOWNS:
            values = sorted({row[breakdown] for row in mine if breakdown in row}, key=str)
            for value in values if len(values) > 1 else []:
                some = [row for row in mine if row.get(breakdown) == value]
                label = breakdown.replace("_", " ")
                found[f"{name} · {label} {value}"] = intervals.share(some, column)
    return known(found)


def quantities(rows: Sequence[Row]) -> list[Quantity]:
    """Return the share of each case's metric."""
    cases = dict.fromkeys(row["case"] for row in rows)
    return [Quantity(f"reading_{c}_change", CASES[c][1], {"case": c}, 1) for c in cases]


def headline(metric: str, kind: str, condition: str) -> list[str]:
    """Return `<kind>/<metric>`, such as base/read_accuracy, of all but the breakdowns."""
    return [] if "·" in metric else [f"{kind}/{metric}"]


BENCHMARK = Benchmark(
    name="reading",
    items=ItemFormat({"reading": ["question"]}, ["answer", "case"]),
    asked=asked,
    measure=measure,
    summarise=summarise,
    quantities=quantities,
    metrics=(
        "* · *",
        "read_accuracy",
        "read_new_words_accuracy",
        "closed_book_accuracy",
        "closed_book_beside_passages_accuracy",
        "abstain_accuracy",
    ),
    headline=headline,
    unit="entities",
    no_shots="it shows what the policy does with a plain question",
)
