"""The coefficient of the entropy bonus: fixed, or steered to a target.

Steered as in Skywork-OR1 (He et al. 2025, arXiv:2505.22312, section 4): a coefficient moves by a
fixed step after each update, up where the entropy was below the target and down where it was above,
and it counts only while the entropy is not above. A bonus that always counts would push a policy
past the target; this one pushes it back.
"""

from __future__ import annotations


def entropy_weight(coef: float, entropy: float, target: float | None) -> float:
    """Return the weight of the bonus in an update whose rollout has `entropy`, nats per token."""
    return coef if target is None or entropy <= target else 0.0


def next_entropy_coefficient(
    coef: float, entropy: float, target: float | None, step: float
) -> float:
    """Return the coefficient after an update whose rollout had `entropy`; without a target, it."""
    if target is None or entropy == target:
        return coef
    return coef + step if entropy < target else max(0.0, coef - step)
