"""How a learning rate runs: a linear warm-up, then a schedule from full to its end. No torch here.

A schedule is a function of the share of the steps after warm-up that is done, in [0, 1): 0 at the
first of them, where the rate is full. The last step still moves something: no schedule is asked
for 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable


def lr_multiplier(
    step: int,
    num_steps: int,
    warmup_share: float = 0.0,
    schedule: Callable[[float], float] | None = None,
) -> float:
    """Return the share of the peak rate at `step` (from 0) of `num_steps`.

    The first round(warmup_share * num_steps) steps rise linearly and reach the peak at the last of
    them. schedule: what follows them; None: `linear`. PPO's table of schedules is not read here,
    so that a reward model's code does not hold all that PPO can choose from.
    """
    warmup = round(num_steps * warmup_share)
    if step < warmup:
        return (step + 1) / warmup
    return (schedule or linear)((step - warmup) / max(1, num_steps - warmup))


def linear(done: float) -> float:
    """Fall linearly to 0."""
    return 1.0 - done


def constant(done: float) -> float:
    """Stay as it is."""
    return 1.0


def cosine(done: float) -> float:
    """Fall to 0 along half a cosine."""
    return 0.5 * (1.0 + math.cos(math.pi * done))
