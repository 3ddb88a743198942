"""Low-rank adapters on a policy (Hu et al. 2021, arXiv:2106.09685), whichever stage trains them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from plumbrule.config import AdapterConfig
from plumbrule.errors import ConfigError
from plumbrule.policies import Policy
from plumbrule.scoring import causal_lm


def with_adapter(policy: Policy, config: AdapterConfig, seed: int, setting: str) -> Policy:
    """Return the policy with fresh adapters, its own weights frozen; it answers as before.

    Args: setting: name of `config`, for errors: `ppo.adapter`.
    Raises: ConfigError: no layer of that name; the policy is an adapter already.
    """
    from peft import LoraConfig, get_peft_model

    if causal_lm(policy.model) is not policy.model:
        raise ConfigError(
            f"{setting}.rank must be 0 for a policy that is an adapter itself; merge it first."
        )
    check_targets(policy.model, config.targets, setting)
    settings = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=0.0,
        target_modules=config.targets[0] if config.targets == ["all-linear"] else config.targets,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = get_peft_model(policy.model, settings)
    return Policy(cast(PreTrainedModel, model), policy.tokenizer, policy.spec)


def check_targets(model: nn.Module, targets: Sequence[str], setting: str) -> None:
    """Raise ConfigError unless each target ends a linear layer's name, or all are meant."""
    if list(targets) == ["all-linear"]:
        return
    names = sorted({n.rpartition(".")[2] for n, m in model.named_modules() if is_linear(m)})
    lost = [target for target in targets if target.rpartition(".")[2] not in names]
    if lost:
        raise ConfigError(
            f"{setting}.targets (={lost}) must name layers of the model, or be [all-linear] "
            f"alone; it has {', '.join(names)}."
        )


def is_linear(module: nn.Module) -> bool:
    """Return whether a module is a matrix product; GPT-2 calls its own Conv1D."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
