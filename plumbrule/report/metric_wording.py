"""What each metric means, its unit and whether it should rise, for the report and readers of logs.

The words stand in a `metrics.toml` beside the stage that has the metric. Nothing but this module
reads these files, and no stage imports it, so a better wording rebuilds nothing.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from plumbrule.store.fingerprint import PACKAGES, ROOT

WORDING = "metrics.toml"


class Wording(NamedTuple):
    """What a metric is."""

    unit: str
    meaning: str


def wording_files() -> list[Path]:
    """Return the files of wording that lie in the project's packages."""
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob(WORDING))]


def read_wording(path: Path) -> dict[str, Wording]:
    """Return metric -> its wording, as one file has it."""
    words = tomllib.loads(path.read_text(encoding="utf-8"))
    return {name: Wording(about["unit"], about["meaning"]) for name, about in words.items()}


BETTER = {"higher": 1, "lower": -1}


def read_directions(path: Path) -> dict[str, int]:
    """Return metric -> 1 or -1, of those whose wording in one file says which way is better."""
    words = tomllib.loads(path.read_text(encoding="utf-8"))
    return {name: BETTER[about["better"]] for name, about in words.items() if "better" in about}


WORDINGS = {name: words for path in wording_files() for name, words in read_wording(path).items()}
"""Metric -> its wording. `*/gold_gain` is any stage's; any other `*` stands for any text, and the
first name that fits counts."""
DIRECTIONS = {
    name: sign for path in wording_files() for name, sign in read_directions(path).items()
}
"""Metric -> 1 or -1, of those that are better when they rise or when they fall."""
_PATTERNS = [name for name in WORDINGS if "*" in name and not name.startswith("*/")]


def describe(name: str) -> Wording:
    """Return the wording of a metric, or of the metric that it is a case of; else two blanks.

    `eval/accuracy_ppo_rag` is a case of `eval/accuracy`, `ppo/gold_gain` of `*/gold_gain`,
    `eval/halueval_qa_auroc_sft` of `eval/halueval_*_auroc`,
    `summary/rm/ece_pairs` of `rm/ece`, and `ppo_2:objective/kl`, a node's own, of `objective/kl`.
    """
    name = name.rpartition(":")[2]
    name = name.removeprefix("summary/")
    last = name.rpartition("/")[2]
    whole, changed, _ = last.partition("_change")
    if changed:
        found = describe(f"eval/{whole}")
        meaning = f"paired difference to the baseline: {found.meaning}" if found.meaning else ""
        return Wording(found.unit if meaning else "", meaning)
    return WORDINGS.get(find_name(name) or "", Wording("", ""))


def find_name(name: str) -> str | None:
    """Return the metric with a wording that a metric is, or is a case of; None: there is none."""
    name = name.removeprefix("summary/")
    while True:
        for known in (name, f"*/{name.partition('/')[2]}"):
            if known in WORDINGS:
                return known
        for pattern in _PATTERNS:
            if fnmatchcase(name, pattern):
                return pattern
        if "_" not in name:
            return None
        name = name.rpartition("_")[0]


DIFFERENCES = ("change", "gain", "gap", "decline", "difference", "bias")
"""Words in the names of metrics that may be below 0 whatever their unit."""
SIGNED_UNITS = ("reward", "utility", "nats", "rank correlation")
"""How the units of those begin; a loss in nats is none."""


def within(name: str, low: float | None, high: float | None) -> tuple[float | None, float | None]:
    """Return the bounds of a metric's interval, none of them where the metric can't lie.

    Student's interval knows nothing of that: of two shares it may reach from -5 to 7.
    """
    unit = describe(name).unit or describe(f"eval/{name}").unit
    signed = unit.startswith(SIGNED_UNITS) and "loss" not in name
    if not unit or signed or any(word in name for word in DIFFERENCES):
        return low, high
    most = 1.0 if unit.startswith("share of") else math.inf
    return (
        None if low is None else min(max(low, 0.0), most),
        None if high is None else min(max(high, 0.0), most),
    )


def bounds_text(name: str, metrics: Mapping[str, float]) -> str:
    """Return the interval of a metric as `  [low, high]`; "" where it has none."""
    low, high = within(name, metrics.get(f"{name}_low"), metrics.get(f"{name}_high"))
    return "" if low is None or high is None else f"  [{low:.4g}, {high:.4g}]"


def direction(name: str) -> int:
    """Return 1 where a metric is better when it rises, -1 when it falls, 0 where neither is said.

    `better` in its wording says so: "higher" or "lower". A shorter answer, a higher proxy score or
    another sentiment is neither better nor worse. A name without a stage, as the rows of a
    comparison have it, is one of an evaluation.
    """
    name = name.rpartition(":")[2]
    whole, changed, _ = name.rpartition("/")[2].partition("_change")
    if changed or "/" not in name:
        name = f"eval/{whole}"
    return DIRECTIONS.get(find_name(name) or "", 0)


def better_when(row: Mapping[str, Any]) -> int:
    """Return the same of a row of comparisons.json, as the benchmark said; an older row is judged
    by its name.
    """
    return int(row["better"]) if "better" in row else direction(str(row["what"]))
