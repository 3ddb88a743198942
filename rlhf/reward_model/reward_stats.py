"""What a reward model's folder records beside its weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

from plumbrule.config import PRECISIONS

COMPUTED = tuple(name for name in PRECISIONS if name != "auto")
"""What a precision is once it is settled."""


@dataclass(frozen=True)
class RewardStats:
    """What `reward_stats.json` holds: how rows are made and how scores are normalised.

    uses_token_logprobs: whether the score has the part that sums over the response's tokens.
    mean, std: of raw scores on `num_samples` answers of the initial policy; a normalised score is
    (raw - mean) / std. precision: of the trunk's forward pass, in training and in scoring.
    """

    append_terminal: bool = True
    precision: str = "float32"
    uses_token_logprobs: bool = False
    mean: float = 0.0
    std: float = 1.0
    num_samples: int = 0

    def __post_init__(self) -> None:
        """Refuse what no reward model has. Raises: ValueError: a value's type or range is wrong."""
        for name in ("append_terminal", "uses_token_logprobs"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} (={getattr(self, name)!r:.40}) must be true or false")
        if self.precision not in COMPUTED:
            raise ValueError(
                f"precision (={self.precision!r:.40}) must be one of {', '.join(COMPUTED)}"
            )
        for name in ("mean", "std"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not math.isfinite(value):
                raise ValueError(f"{name} (={value!r:.40}) must be a finite number")
        if not self.std > 0:
            raise ValueError(f"std (={self.std}) must be above 0")
        if type(self.num_samples) is not int or self.num_samples < 0:
            raise ValueError(f"num_samples (={self.num_samples!r:.40}) must be a whole number")
