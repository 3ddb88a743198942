"""What a policy loss is given, those of plug-ins included (`options.POLICY_LOSSES`)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class PolicyLossInputs(NamedTuple):
    """What a policy loss may be made of, all (b, t). At padding ratio is 1 and advantage 0."""

    logprobs: Tensor
    """With gradient."""
    old_logprobs: Tensor
    ratio: Tensor
    """pi(a|s) / pi_old(a|s), with gradient where the log-ratio is no larger than 20 nats."""
    advantages: Tensor
    action_mask: Tensor
    """bool."""
    cliprange: float
    dual_clip: float | None
