"""Settings of the studies that gather many runs of one command. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from plumbrule.config import require_range
from plumbrule.stage_kind import Slot, StageKind


@dataclass
class OveroptimisationConfig:
    """Stage `overoptimisation`: gold and proxy against the distance from the initial policy."""

    seed: int = 0
    confidence: float = 0.95
    """Of every interval."""
    num_resamples: int = 2000
    """Bootstrap resamples."""

    def __post_init__(self) -> None:
        require_range("overoptimisation.confidence", self.confidence, 0.5, 0.9999)
        require_range("overoptimisation.num_resamples", self.num_resamples, 100)


STAGE = StageKind(
    "overoptimisation",
    OveroptimisationConfig,
    "rlhf.studies.overoptimisation:run",
    {
        "ppo": Slot(("ppo",), required=False, gathers=True, compares_gold=True),
        "best_of_n": Slot(("best_of_n",), required=False, gathers=True, compares_gold=True),
    },
    headline=("overoptimisation/peak_kl_*", "overoptimisation/decline_*"),
    recompute="rlhf.studies.recompute:overoptimisation",
)
