"""The sentences that a report begins with: what changed between two policies, and what got worse.

One paragraph for each `compare` node: the main difference with its interval, the distance at which
it was reached, then every other quantity whose interval excludes 0, sorted by whether its change is
for the better, as its benchmark says. A quantity whose interval holds 0 is not called a change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plumbrule.report.figures import number, verdict
from plumbrule.report.metric_wording import better_when

Row = Mapping[str, Any]
MAIN = ("gold_gain", "reward_gain", "reward_change", "proxy_change")
"""Quantities that a comparison is about, the first that it has."""
KL = ("objective/kl", "dpo/kl")
"""What a policy's node calls its KL to where it started, nats per response."""


def answer(
    name: str, rows: Sequence[Row], nodes: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Return the answer of a compare node: title, sentence, better, worse, num_level; or None.

    Args: rows: of its `comparisons.json`. nodes: of the run's record.
    """
    main = next((row for what in MAIN for row in rows if _is(row, what, "all")), None)
    if main is None:
        return None
    policy, baseline = (policy_of(nodes, name, slot) for slot in ("policy", "baseline"))
    rest = [
        row for row in by_condition(rows) if not _is_part(row, str(main["what"])) and _judged(row)
    ]
    verdicts = {
        kind: [row for row in rest if verdict(row["low"], row["high"], better_when(row)) == kind]
        for kind in ("good", "bad", "level")
    }
    return {
        "title": f"{policy} against {baseline}",
        "sentence": _sentence(main, policy, baseline, nodes.get(policy, {}).get("metrics", {})),
        "better": [describe_change(row) for row in verdicts["good"]],
        "worse": [describe_change(row) for row in verdicts["bad"]],
        "num_level": len(verdicts["level"]),
        "num_judged": len(rest),
    }


def by_condition(rows: Sequence[Row]) -> list[Row]:
    """Return rows without those over all conditions, where a quantity has rows of each of several;
    where it was measured under one only, the row of all conditions stands for it.
    """
    measured: dict[Any, set[Any]] = {}
    for row in rows:
        measured.setdefault(row["what"], set()).add(row["condition"])
    return [row for row in rows if (row["condition"] == "all") == (len(measured[row["what"]]) <= 2)]


def describe_change(row: Row) -> str:
    """Return a difference with its interval: `confident wrong, closed: -0.17 [-0.24, -0.1]`."""
    where = "" if row["condition"] == "all" else f", {row['condition']}"
    return f"{_words(row['what'])}{where}: {_with_interval(row)}"


def _sentence(main: Row, policy: str, baseline: str, metrics: Mapping[str, float]) -> str:
    better = better_when(main) or 1
    if main["low"] is None or main["high"] is None:
        reason = main.get("reason") or "too few prompts for an interval"
        found = f"differs by {_signed(main['difference'])} ({reason})"
    else:
        found = f"does not measurably change it: {_with_interval(main)}"
        if verdict(main["low"], main["high"], better) in ("good", "bad"):
            ends = sorted((abs(main["low"]), abs(main["high"])))  # both on one side of 0
            found = (
                f"{'raises' if main['low'] > 0 else 'lowers'} it by "
                f"{_short(abs(main['difference']))} [{_short(ends[0])}, {_short(ends[1])}]"
            )
    kl = next((metrics[name] for name in KL if name in metrics), None)
    distance = "" if kl is None else f", at a KL of {_short(kl)} nats per response"
    return (
        f"{MEANING.get(str(main['what']), _words(main['what']))}, {policy} against {baseline}: "
        f"{policy} {found}{distance} (n = {number(main['n'])})."
    )


MEANING = {
    "gold_gain": "Gold utility of a response",
    "reward_gain": "Reward of a response",
    "reward_change": "Reward of a response",
    "proxy_change": "Score of the reward model, which is not the truth",
}


def _is(row: Row, what: str, condition: str) -> bool:
    return row["what"] == what and row["condition"] == condition


def _is_part(row: Row, main: str) -> bool:
    """Return whether a row is the main quantity itself or a term of its sum."""
    return str(row["what"]).startswith(main)


def _judged(row: Row) -> bool:
    return better_when(row) != 0 and row["low"] is not None and row["high"] is not None


def _words(what: Any) -> str:
    return str(what).removesuffix("_change").replace("_", " ")


def _with_interval(row: Row) -> str:
    return f"{_signed(row['difference'])} [{_short(row['low'])}, {_short(row['high'])}]"


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{_short(value)}"


def _short(value: float) -> str:
    return number(value, digits=3)


def policy_of(nodes: Mapping[str, Mapping[str, Any]], compare: str, slot: str) -> str:
    """Return the node of the policy that an input of a compare node evaluated, else the input."""
    evaluation = nodes.get(compare, {}).get("inputs", {}).get(slot, slot)
    return str(nodes.get(evaluation, {}).get("inputs", {}).get("policy", evaluation))
