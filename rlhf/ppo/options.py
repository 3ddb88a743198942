"""What PPO chooses by name: advantages, policy losses, KL estimators, learning-rate schedules.

Each table is what a setting's check, its error message and the page of details
(`rlhf/ppo/README.md`) read, and where plug-ins enter their own (`plumbrule/registry.py`). No torch
here.

    table          setting                  what it maps to
    ADVANTAGES     ppo.advantage            AdvantageInputs -> Advantages (`advantages.py`)
    POLICY_LOSSES  ppo.policy_loss          PolicyLossInputs -> (loss, clipped) (`loss_inputs.py`)
    KL_ESTIMATORS  ppo.kl.estimator         log-ratios (b, t) -> nats (b, t) (`kl.py`)
    SCHEDULES      ppo.lr_scheduler_type    share of the run done -> share of the rate
    SAMPLERS       ppo.sampler              (precision, runtime) -> an opened `NamedSampler`

An advantage with the trait `values` is given a value model's estimates, and what it returns is
whitened over the rollout unless `ppo.whiten_advantages` is false; one with `groups` compares
the responses to one prompt and needs at least two of them. A sampler's code counts for those alone
who choose it (`sampler_code`), so the stage imports none but its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from plumbrule.registry import Registry
from plumbrule.store.fingerprint import code_hashes, digest

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf.ppo.advantages import AdvantageInputs, Advantages
    from rlhf.ppo.loss_inputs import PolicyLossInputs
    from rlhf.ppo.rollout.trajectory import OpenSampler

ADVANTAGES: Registry[Callable[[AdvantageInputs], Advantages]] = Registry(
    "ppo.advantage",
    {
        "gae": ("rlhf.ppo.advantages:from_values", "values"),
        "rloo": ("rlhf.ppo.advantages:rloo", "groups"),
        "grpo": ("rlhf.ppo.advantages:grpo", "groups"),
        "reinforce_baseline": ("rlhf.ppo.advantages:reinforce_baseline", "groups"),
        "none": ("rlhf.ppo.advantages:no_advantages",),
    },
    traits=("values", "groups"),
)
POLICY_LOSSES: Registry[Callable[[PolicyLossInputs], tuple[Tensor, Tensor]]] = Registry(
    "ppo.policy_loss",
    {
        "clip": ("rlhf.ppo.losses:clipped_surrogate",),
        "gspo": ("rlhf.ppo.losses:sequence_surrogate",),
        "cispo": ("rlhf.ppo.losses:clipped_weights",),
    },
)
KL_ESTIMATORS: Registry[Callable[[Tensor], Tensor]] = Registry(
    "ppo.kl.estimator",
    {
        "k1": ("rlhf.ppo.kl:plain",),
        "k2": ("rlhf.ppo.kl:half_square",),
        "k3": ("rlhf.ppo.kl:bregman",),
    },
)
SCHEDULES: Registry[Callable[[float], float]] = Registry(
    "ppo.lr_scheduler_type",
    {
        "linear": ("rlhf.lr_schedules:linear",),
        "constant": ("rlhf.lr_schedules:constant",),
        "cosine": ("rlhf.lr_schedules:cosine",),
    },
)
LOSS_AGGREGATIONS = ("token", "sequence", "constant")
"""What `ppo.loss_aggregation` may be (`optimisation/aggregation.py`)."""
IMPORTANCE_LEVELS = ("token", "sequence", "geometric")
OUTSIDE_RULES = ("clip", "mask")
"""What `ppo.importance_level` and `ppo.importance_outside` may be (`losses.py`)."""
OWN_SAMPLER = "own"
SAMPLERS: Registry[OpenSampler] = Registry(
    "ppo.sampler",
    {
        OWN_SAMPLER: ("rlhf.ppo.rollout.samplers:open_own",),
        "transformers": ("rlhf.ppo.rollout.transformers_engine:open_transformers",),
        "vllm": ("rlhf.ppo.rollout.vllm_engine:open_vllm",),
    },
)
REGISTRIES = (ADVANTAGES, POLICY_LOSSES, KL_ESTIMATORS, SCHEDULES)
"""Tables of which ours are part of the stage's code."""


def sampler_code(name: str) -> str:
    """Return the digest of a sampler's code, of ours too; "" for the stage's own."""
    option = SAMPLERS.option(name)
    if name == OWN_SAMPLER or not isinstance(option.where, str):
        return option.source
    return digest(code_hashes([option.where.partition(":")[0]]))
