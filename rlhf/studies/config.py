"""Settings of the studies that gather many runs of one command. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from plumbrule.config import require_range


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
