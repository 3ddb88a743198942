"""How many seeds or prompts would show a given effect, and which effect so many would show.

Normal approximations with Student's correction for seeds; the two-sided level is one minus the
confidence of the interval that will be looked at. No sample is needed, only how much one varies.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

from plumbrule.statistics.intervals import CONFIDENCE, checked_confidence

MOST = 10**9
"""Seeds or prompts beyond which an effect counts as never shown."""


def seed_power(
    effect: float, deviation: float, seeds: int, confidence: float = CONFIDENCE
) -> float:
    """Return the chance that Student's interval of paired differences over seeds excludes 0.

    The noncentral t, exact for normal differences.

    Args: effect: true mean difference. deviation: standard deviation of one seed's difference, in
        the same unit. seeds: of each side, paired, 2 at least.
    Raises: ValueError: a deviation that is not above 0, or fewer than 2 seeds.
    """
    if not deviation > 0 or seeds < 2:
        raise ValueError(
            f"deviation (={deviation}) must be above 0 and seeds (={seeds}) at least 2."
        )
    from scipy.special import nctdtr, stdtrit

    degrees, far = seeds - 1, abs(effect) / deviation * math.sqrt(seeds)
    limit = float(stdtrit(degrees, 0.5 + checked_confidence(confidence) / 2))
    return float(1 - nctdtr(degrees, far, limit) + nctdtr(degrees, far, -limit))


def share_power(
    before: float,
    after: float,
    prompts: int,
    *,
    correlation: float = 0.0,
    per_group: float = 1.0,
    within: float = 0.0,
    confidence: float = CONFIDENCE,
) -> float:
    """Return the chance that the interval of a paired difference of shares excludes 0.

    Args: before, after: true shares on the same prompts. correlation: of the two outcomes of one
        prompt. per_group: prompts of one source on average, whose outcomes correlate by `within`:
        the design effect 1 + (per_group - 1) within makes them count for fewer.
    Raises: ValueError: a share outside (0, 1), fewer than 2 prompts, or another range.
    """
    sound = 0 < before < 1 and 0 < after < 1 and prompts >= 2 and per_group >= 1
    if not sound or not -1 < correlation < 1 or not 0 <= within <= 1:
        raise ValueError(
            f"shares (={before}, {after}) must lie in (0, 1), prompts (={prompts}) be at least 2, "
            f"per_group (={per_group}) at least 1, correlation (={correlation}) in (-1, 1) and "
            f"within (={within}) in [0, 1]."
        )
    spread = [share * (1 - share) for share in (before, after)]
    variance = sum(spread) - 2 * correlation * math.sqrt(spread[0] * spread[1])
    effective = prompts / (1 + (per_group - 1) * within)
    far = abs(after - before) / math.sqrt(variance / effective)
    normal = NormalDist()
    limit = normal.inv_cdf(0.5 + checked_confidence(confidence) / 2)
    return 1 - normal.cdf(limit - far) + normal.cdf(-limit - far)


def fewest(power_of: Callable[[int], float], power: float) -> int | None:
    """Return the fewest seeds or prompts, 2 at least, that reach a power; None: no number does.

    Args: power_of: number -> power, which does not fall in it.
    """
    high = 2
    while power_of(high) < power:
        high *= 2
        if high > MOST:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if middle >= 2 and power_of(middle) >= power else (middle, high)
    return high
