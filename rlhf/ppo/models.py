"""The models of a PPO run: loaded, shared, sharded over processes, and gathered again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

from plumbrule.errors import ConfigError
from plumbrule.inputs import Inputs
from plumbrule.lm.adapters import has_adapter, merged
from plumbrule.lm.loading import Policy, load_policy
from plumbrule.lm.named_policy import load_named
from plumbrule.lm.parallel import distributed, fsdp
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import MODEL
from plumbrule.timing import timed
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.optimisation.learner import Learner, make_learner
from rlhf.ppo.rollout.teacher import require_same_tokens
from rlhf.ppo.rollout.trajectory import Trajectory
from rlhf.ppo.shared_trunk import Actors, FrozenLayers, branch_of, make_actors
from rlhf.ppo.state import put_weights, weights_of
from rlhf.ppo.value_model import ValueModel, value_from_policy, value_from_reward_model, value_on
from rlhf.reward_model.model import reward_model_of


def load_actors(config: PPOConfig, inputs: Mapping[str, Artifact], device: torch.device) -> Actors:
    """Return the policy that is trained, its reference, and the frozen layers that both share.

    Raises: ConfigError: the model can't be shared as configured.
    """

    def load() -> Policy:
        return load_policy(inputs["policy"].file(MODEL), device=device)

    return make_actors(
        load(),
        load,
        adapter=config.adapter,
        unfrozen_layers=config.unfrozen_layers,
        seed=config.seed,
    )


def load_teacher(
    config: PPOConfig, inputs: Mapping[str, Artifact], policy: Policy
) -> Policy | None:
    """Return the teacher of `config.distill`, on the policy's device; None: there is none.

    Raises: ConfigError: it does not load, or has another tokenizer or a shorter context.
    """
    distill = config.distill
    if not distill.coef:
        return None
    teacher = load_named(
        distill.name_or_path,
        inputs.get("teacher"),
        "ppo.distill",
        device=policy.model.device,
        revision=distill.revision,
        pad_token=distill.pad_token,
        precision=distill.precision,
    )
    require_same_tokens(teacher, policy)
    return teacher


def make_value_model(
    config: PPOConfig, actors: Actors, inputs: Mapping[str, Artifact]
) -> ValueModel | None:
    """Return the value model that `config.value_init` names; of several reward models the first.

    None where advantages need none.
    Raises: ConfigError: rm without a reward model, or with one of another tokenizer.
    """
    if not config.has_value_model:
        return None
    policy = actors.policy
    if config.value_trunk == "branch":
        return value_on(branch_of(actors), policy, on_frozen_layers=True)
    if config.value_trunk == "policy":
        return value_on(None, policy)
    if config.value_init == "policy":
        before = actors.reference.policy
        if has_adapter(before):  # a value model's trunk is a plain one
            start = load_policy(inputs["policy"].file(MODEL), device=policy.model.device)
            before = merged(start)
        return value_from_policy(before)
    models = Inputs(inputs).many("rm")
    if not models:
        raise ConfigError("ppo.value_init (=rm) must be policy without an rm input; change it.")
    slot, artifact = next(iter(models.items()))
    reward_model = reward_model_of(artifact, policy.model.device)
    if reward_model.policy.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        raise ConfigError(
            f"ppo.value_init (=rm) must be policy where {slot} has another tokenizer: a value "
            "model reads the policy's tokens; change it."
        )
    return value_from_reward_model(reward_model)


def assemble_learner(config: PPOConfig, actors: Actors, value_model: ValueModel | None) -> Learner:
    """Return what is trained, with the optimizer that the config chooses."""
    return make_learner(
        actors.policy,
        value_model,
        actors.reader,
        learning_rate=config.learning_rate,
        value_learning_rate=config.value_learning_rate,
        adam=config.adam,
        adam_epsilon=config.adam_epsilon,
    )


def with_frozen_states(
    trajectory: Trajectory, layers: FrozenLayers | None, micro_batch_size: int
) -> Trajectory:
    """Return the trajectory with the hidden states of the frozen layers, if there are any."""
    if layers is None:
        return trajectory
    rows = [[*q, *r] for q, r in zip(trajectory.queries, trajectory.responses, strict=True)]
    with timed("frozen_layers"):
        return dataclasses.replace(trajectory, frozen_states=layers.read(rows, micro_batch_size))


def shard_models(actors: Actors, value_model: ValueModel | None, runtime: RuntimeConfig) -> bool:
    """Shard the models' weights over the processes if that is configured; return whether.

    Raises: ConfigError: a model that can't be sharded.
    """
    if runtime.sharding == "none" or distributed.world_size() == 1:
        return False
    fsdp.shard_policy(actors.policy.model)
    if actors.reference.policy is not actors.policy:
        fsdp.shard_policy(actors.reference.policy.model)
    if value_model is not None and value_model.trunk is not None:
        fsdp.shard_trunk(value_model.trunk)
    return True


def gather_full_model(
    config: PPOConfig, inputs: Mapping[str, Artifact], device: torch.device, learner: Learner
) -> tuple[Actors, Learner]:
    """Return actors and a learner that are not sharded, with the weights of one that is.

    Collective: all ranks must call. Those of the main one alone hold what was learnt.
    """
    weights = weights_of(learner)
    actors = load_actors(config, inputs, device)
    value_model = make_value_model(config, actors, inputs)
    learner = assemble_learner(config, actors, value_model)
    if distributed.is_main():
        put_weights(learner, weights)
    return actors, learner
