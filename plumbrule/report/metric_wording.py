"""What each metric means and its unit, for the report and for whoever reads a log.

The words stand in a `metrics.toml` beside the stage that has the metric. Nothing but this module
reads these files, and no stage imports it, so a better wording rebuilds nothing.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import NamedTuple

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


METRICS = {name: words for path in wording_files() for name, words in read_wording(path).items()}
"""Metric -> its wording. `*/gold_gain` is any stage's."""


def describe(name: str) -> Wording:
    """Return the wording of a metric, or of the metric that it is a case of; else two blanks.

    `eval/accuracy_ppo_rag` is a case of `eval/accuracy`, `ppo/gold_gain` of `*/gold_gain`,
    `summary/rm/ece_pairs` of `rm/ece`, and `ppo_2:objective/kl`, a node's own, of `objective/kl`.
    """
    name = name.rpartition(":")[2]
    name = name.removeprefix("summary/")
    while True:
        for known in (name, f"*/{name.partition('/')[2]}"):
            if known in METRICS:
                return METRICS[known]
        if "_" not in name:
            return Wording("", "")
        name = name.rpartition("_")[0]


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
