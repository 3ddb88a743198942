"""The value model: a trunk of its own and one linear head in float32.

A value belongs to a state, and the state in which the policy chooses token j is the text *before*
token j. So values[i, j] is read from the hidden state of the token before slot j: for the first
slot that is the query's last token, and after a foreign segment it is that segment's last token.
The hidden state *of* token j already knows what was chosen, and a baseline that knows the action is
biased.

`value_init=policy`: a copy of the policy's trunk and a head of zeros, so that every value is 0 at
first and the first advantages are the rewards' own. `value_init=rm`: the reward model's trunk and
its head, rescaled to normalised scores, so that the value after a whole response is its score.
The trunk is separate in both cases: value and policy gradients do not meet.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from safetensors.torch import save_model
from torch import Tensor, nn

from plumbrule.models import Policy
from plumbrule.scoring import hidden_states, trunk
from rlhf.reward_model import RewardModel


class ValueModel(nn.Module):
    """Values of states. `trunk` ends in hidden states (b, l, h); `head` is Linear(h, 1)."""

    def __init__(self, trunk: nn.Module, head: nn.Linear):
        super().__init__()
        self.trunk, self.head = trunk, head

    def forward(self, tokens: Tensor, real_mask: Tensor) -> Tensor:
        """Return the value (b, l) of the state *after* each token, in the head's dtype.

        Args: tokens: (b, l) int64. real_mask: (b, l) bool.
        """
        hidden = hidden_states(self.trunk, tokens, real_mask)
        with torch.autocast(tokens.device.type, enabled=False):
            return self.head(hidden.to(self.head.weight.dtype)).squeeze(-1)


def value_from_policy(policy: Policy) -> ValueModel:
    """Return a value model with a copy of the policy's trunk; it is 0 everywhere."""
    model = policy.model
    width = model.config.get_text_config().hidden_size
    head = nn.Linear(width, 1).to(model.device, torch.promote_types(model.dtype, torch.float32))
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return ValueModel(copy.deepcopy(trunk(model)).requires_grad_(True), head)


def value_from_reward_model(reward_model: RewardModel) -> ValueModel:
    """Return a value model with a copy of the reward model's trunk, that begins as its score."""
    copied = copy.deepcopy(reward_model.trunk).requires_grad_(True)
    return ValueModel(copied, reward_model.normalised_head())


def save_value_model(model: ValueModel, folder: Path) -> None:
    """Write trunk and head (`model.safetensors`) and the trunk's `config.json` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, str(folder / "model.safetensors"))
    model.trunk.config.save_pretrained(folder)  # type: ignore[union-attr, operator]
