"""The value model: a trunk of its own and one linear head in float32.

A value belongs to a state, and the state in which the policy chooses token j is the text *before*
token j. So values[i, j] is read from the hidden state of the token before position j: for the first
that is the query's last token, and after text that the policy did not sample (tool output) it is
the last token of that text. The hidden state *of* token j already knows what was chosen, and a
baseline that knows the action is biased.

`value_init=policy`: a copy of the policy's trunk and a head of zeros, so that every value is 0 at
first and the first advantages are the rewards' own. `value_init=rm`: the reward model's trunk and
its head, rescaled to normalised scores, so that the value after a whole response is its score,
but for the part that reads the response's surprises, if it has one.
The trunk is separate in both cases: value and policy gradients do not meet. What can be shared
(`value_trunk`) stands in `shared_trunk.py`.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from safetensors.torch import save_model
from torch import Tensor, nn

from plumbrule.lm.adapters import merged
from plumbrule.lm.loading import Policy
from plumbrule.lm.logprobs import hidden_states, hidden_width, trunk
from plumbrule.store.file_names import WEIGHTS
from rlhf.reward_model.model import RewardModel


class ValueModel(nn.Module):
    """Values of states. `trunk` ends in hidden states (b, l, h); `head` is Linear(h, 1).

    Without a trunk it reads the policy's hidden states. on_frozen_layers: the trunk stands on the
    policy's frozen layers and reads their hidden states (a hydra head, as trlX calls it).
    """

    def __init__(self, trunk: nn.Module | None, head: nn.Linear, on_frozen_layers: bool = False):
        super().__init__()
        self.trunk, self.head, self.on_frozen_layers = trunk, head, on_frozen_layers

    def forward(
        self,
        tokens: Tensor,
        real_mask: Tensor,
        frozen_states: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        """Return the value (b, l) of the state *after* each token, in the head's dtype.

        Args: tokens: (b, l) int64. real_mask: (b, l) bool. frozen_states: as in
            `logprobs.hidden_states`. hidden: (b, l, h), the policy's, for a value model without a
            trunk.
        """
        if self.trunk is not None:
            hidden = hidden_states(
                self.trunk, tokens, real_mask, frozen_states if self.on_frozen_layers else None
            )
        assert hidden is not None
        with torch.autocast(tokens.device.type, enabled=False):
            return self.head(hidden.to(self.head.weight.dtype)).squeeze(-1)


def value_from_policy(policy: Policy) -> ValueModel:
    """Return a value model with a copy of the policy's trunk; it is 0 everywhere."""
    return value_on(copy.deepcopy(trunk(policy.model)).requires_grad_(True), policy)


def value_on(own: nn.Module | None, policy: Policy, on_frozen_layers: bool = False) -> ValueModel:
    """Return a value model on a trunk, or None for the policy's; it is 0 everywhere."""
    model = policy.model
    head = nn.Linear(hidden_width(model), 1).to(
        model.device, torch.promote_types(model.dtype, torch.float32)
    )
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return ValueModel(own, head, on_frozen_layers)


def value_from_reward_model(reward_model: RewardModel) -> ValueModel:
    """Return a value model with a copy of the reward model's trunk, that begins as its score."""
    merged(reward_model.policy)  # in place: a value model's trunk is a plain one
    copied = copy.deepcopy(reward_model.trunk).requires_grad_(True)
    return ValueModel(copied, reward_model.normalised_head())


def save_value_model(model: ValueModel, folder: Path) -> None:
    """Write trunk and head (`model.safetensors`) and the trunk's `config.json` into `folder`.

    Of a branch these are its own layers, counted from its first; of a head on the policy, the head.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, str(folder / WEIGHTS))
    if model.trunk is not None:
        model.trunk.config.save_pretrained(folder)  # type: ignore[union-attr, operator]
