"""`plumbrule power`: how many seeds or prompts would show a given effect."""

from __future__ import annotations

import argparse
import json
from typing import Any

from plumbrule.config import require, require_range
from plumbrule.statistics.power import fewest, seed_power, share_power


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what may stand behind the verb."""
    parser.add_argument("--effect", type=float, required=True, help="true difference to be seen")
    parser.add_argument("--deviation", type=float, help="of one seed's paired difference: seeds")
    parser.add_argument("--share", type=float, help="of the baseline, as 0.5: prompts")
    parser.add_argument("--power", type=float, default=0.8, help="chance that it is seen")
    parser.add_argument("--confidence", type=float, default=0.95, help="of the interval")
    parser.add_argument("--correlation", type=float, default=0.0, help="of a prompt's two outcomes")
    parser.add_argument("--per-group", type=float, default=1.0, help="prompts of one source")
    parser.add_argument("--within", type=float, default=0.0, help="their correlation")


def run(options: argparse.Namespace) -> None:
    """Print the number as JSON. Raises: ConfigError: as `describe`."""
    print(json.dumps(describe(**vars(options))))


def describe(
    *,
    effect: float,
    deviation: float | None,
    share: float | None,
    power: float,
    confidence: float,
    correlation: float = 0.0,
    per_group: float = 1.0,
    within: float = 0.0,
) -> dict[str, Any]:
    """Return the fewest seeds (with a deviation) or prompts (with a share) that show an effect.

    Args: effect: true difference. deviation: of one seed's paired difference. share: of the
        baseline, from which the effect is counted. Others: as in `share_power`.
    Raises: ConfigError: neither or both of deviation and share; a number out of its range.
    """
    one = (deviation is None) != (share is None)
    named = f"{deviation} and {share}"
    require(one, "--deviation and --share", named, "be one of the two", "name one")
    require_range("--power", power, 0.01, 0.9999)
    require_range("--confidence", confidence, 0.5, 0.9999)
    require(effect != 0, "--effect", effect, "not be 0", "say what should be seen")
    if deviation is not None:
        require_range("--deviation", deviation, 1e-12)
        number = fewest(lambda n: seed_power(effect, deviation, n, confidence), power)
        unit = "seeds"
    else:
        before = float(share or 0.0)
        require_range("--share", before, 1e-6, 1 - 1e-6)
        after = before + effect
        require(0 < after < 1, "--share and --effect", after, "add up to a share", "lower one")
        require_range("--correlation", correlation, -0.999, 0.999)
        require_range("--per-group", per_group, 1, unit="prompts")
        require_range("--within", within, 0, 1)
        number = fewest(
            lambda n: share_power(
                before,
                after,
                n,
                correlation=correlation,
                per_group=per_group,
                within=within,
                confidence=confidence,
            ),
            power,
        )
        unit = "prompts"
    return {"unit": unit, "effect": effect, "power": power, "fewest": number}
