"""On-policy distillation: a teacher says of each sampled token how much likelier it finds it.

The policy learns on its own samples, so it is corrected where it really goes, and of a whole
distribution only one number per token is needed. What is minimised is the reverse KL, KL(policy ||
teacher), which asks for one of the teacher's answers and not for all (MiniLLM, Gu et al. 2024,
arXiv:2306.08543; on-policy GKD, Agarwal et al. 2024, arXiv:2306.13649). Its gradient by a score
function is that of a policy gradient whose reward at each token is log p_teacher - log p_policy.

Each token's number is its own advantage: a discount of 0, so that a token does not answer for what
comes behind it. That leaves out how the token changes which states are reached, as GKD does, and
takes away nearly all of the variance. It is added to whatever advantage the reward gives, whose own
discount stays as it is; with `ppo.advantage=none` it is all there is. GKD differentiates the KL of
whole distributions at each state, MiniLLM sums the reward over the rest of the response.
"""

from __future__ import annotations

from torch import Tensor

from rlhf.masked import fill


def distillation_advantages(
    logprobs: Tensor, teacher_logprobs: Tensor, action_mask: Tensor, coef: float
) -> Tensor:
    """Return coef (log p_teacher - log p_policy) at action tokens, (b, t); 0 elsewhere.

    Minus an unbiased estimate of the KL of the policy to the teacher at each state, of samples of
    the policy. Not whitened: its size says how far the two are apart.

    Args: logprobs: (b, t) nats, of the policy that ratios are to: the one that sampled or, with
    `ppo.staleness` and recomputed log-probs, the one before the update, of which the estimate is
    then off as the tokens are another's. teacher_logprobs: (b, t) nats, at the same temperature.
    action_mask: (b, t) bool, True = the policy sampled this token. coef: per nat.
    """
    return fill(coef * (teacher_logprobs - logprobs), action_mask)
