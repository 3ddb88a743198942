"""How far the policy has moved from its reference, in nats.

The samples come from the policy, so log pi(a|s) - log pi_ref(a|s) is an unbiased estimate of
KL(pi || pi_ref), called k1 (Schulman 2020, joschu.net/blog/kl-approx.html). A single estimate may
be negative; clamping it at 0 would bias the penalty upward, so nothing here clamps.

Both log-probs must be taken at the temperature that sampled: only then do they belong to the
distribution that the policy acts with, and only then is the KL of a policy to itself 0.
"""

from __future__ import annotations

from torch import Tensor

from rlhf.masked import fill


def k1(logprobs: Tensor, ref_logprobs: Tensor, action_mask: Tensor) -> Tensor:
    """Return the k1 estimate of the KL at each action token, (b, t); 0 at other slots.

    Args: logprobs, ref_logprobs: (b, t) of the sampled tokens. action_mask: (b, t) bool.
    """
    return fill(logprobs - ref_logprobs, action_mask)
