"""What each metric means and its unit, for the report and for whoever reads a log.

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


WORDINGS = {name: words for path in wording_files() for name, words in read_wording(path).items()}
"""Metric -> its wording. `*/gold_gain` is any stage's; any other `*` stands for any text, and the
first name that fits counts."""
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
    while True:
        for known in (name, f"*/{name.partition('/')[2]}"):
            if known in WORDINGS:
                return WORDINGS[known]
        for pattern in _PATTERNS:
            if fnmatchcase(name, pattern):
                return WORDINGS[pattern]
        if "_" not in name:
            return Wording("", "")
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


RISES = (
    "gold_gain",
    "gold",
    "reward",
    "accuracy",
    "known_accuracy",
    "abstain_unanswerable",
    "reading_",
    "read_accuracy",
    "closed_book_accuracy",
    "abstain_accuracy",
    "halueval_",
    "truthfulqa_mc",
    "multiple_choice_accuracy",
    "bbq_ambig_accuracy",
    "bbq_disambig_accuracy",
    "classification_accuracy",
    "classification_macro",
    "open_qa_exact_match",
    "open_qa_f1",
    "open_qa_contains",
    "open_qa_vote_exact_match",
    "open_qa_vote_f1",
    "simpleqa_correct",
    "utility_gain",
    "recall_at",
    "mrr",
)
"""Beginnings, behind the last `/`, of metrics that are better when they rise."""
FALLS = (
    "confident_wrong",
    "known_confident_wrong",
    "loss",
    "perplexity",
    "bits_per_byte",
    "ece",
    "best_rule_accuracy",
    "halueval_judge_failed",
    "simpleqa_incorrect",
)
"""The same of metrics that are better when they fall; these are looked at first."""


def direction(name: str) -> int:
    """Return 1 where a metric is better when it rises, -1 when it falls, 0 where neither is said.

    A shorter answer, a higher proxy score or another sentiment is neither better nor worse.
    """
    last = name.rpartition("/")[2]
    if last.startswith(FALLS):
        return -1
    return 1 if last.startswith(RISES) else 0


def better_when(row: Mapping[str, Any]) -> int:
    """Return the same of a row of comparisons.json, as the benchmark said; an older row is judged
    by its name.
    """
    return int(row["better"]) if "better" in row else direction(str(row["what"]))
