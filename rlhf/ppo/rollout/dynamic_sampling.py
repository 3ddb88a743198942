"""Dynamic sampling: prompts whose responses all have one score are replaced by further ones.

Where every response to a prompt has the same score, each advantage of the group is 0, so the group
costs its share of the rollout and teaches nothing. Section 3.2 of DAPO (Yu et al. 2025,
arXiv:2503.14476) asks further prompts until the batch is full of groups whose scores vary.

What was decided:

- Held against each other are scores after every transform, as they enter the rewards: what the
  advantage compares. The KL is not part of them. It differs between any two responses, and a group
  that only it tells apart says nothing of the reward. A spread that is rounding counts as none.
- A further draw asks as many prompts as groups are missing, so nothing that varies is left out.
- After the last draw that is allowed, groups that were left out fill the rollout, first drawn
  first; their advantage is 0 but for the KL in their reward.
- Groups stand in the order in which they were drawn, those that fill up behind them.

A rollout's size stays `batch_size`, so `total_episodes` counts what is trained on. How many
responses that took is `ppo/episodes_sampled`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from rlhf.ppo.advantages import alike_groups


class Draws(NamedTuple):
    """What an update drew to fill its rollout."""

    draws: int
    groups: int
    """Prompts asked in all of them."""
    with_variance: int
    """Groups whose scores vary."""
    group_size: int
    prompt_tokens_left_out: int
    """Of the responses that are not trained on, each with its prompt."""
    response_tokens_left_out: int

    def metrics(self, num_groups: int) -> dict[str, float]:
        """Return the `rollout/*` metrics. Args: num_groups: that are trained on."""
        return {
            "rollout/draws": float(self.draws),
            "rollout/groups_drawn": float(self.groups),
            "rollout/groups_with_variance": float(self.with_variance),
            "rollout/groups_left_out": float(self.groups - num_groups),
            "rollout/groups_filled_up": float(max(0, num_groups - self.with_variance)),
            "rollout/prompt_tokens_left_out": float(self.prompt_tokens_left_out),
            "rollout/response_tokens_left_out": float(self.response_tokens_left_out),
        }


def groups_that_vary(scores: Tensor, group_size: int) -> list[bool]:
    """Return whether each group's scores differ by more than rounding.

    Args: scores: (b,) as they enter the rewards, rows of one prompt one behind the other; models
    computed them in float32, whatever holds them now. group_size: rows per prompt.
    """
    return (~alike_groups(scores, group_size, "float32")).tolist()


def fill_rollout(varied: Sequence[bool], num_groups: int) -> list[int]:
    """Return the numbers of `num_groups` groups, in order: those that vary, then the others.

    Args: varied: of each group in the order drawn, at least `num_groups`.
    """
    first = [number for number, varies in enumerate(varied) if varies]
    rest = [number for number, varies in enumerate(varied) if not varies]
    return [*first, *rest][:num_groups]
