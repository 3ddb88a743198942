"""Several reward models as one reward.

A policy finds what a reward model wrongly likes; models that differ by a seed like different wrong
things (Coste et al. 2023, arXiv:2310.02743; Eisenstein et al. 2023, arXiv:2312.09244). With s_k the
normalised scores of one response:

mean         1/K sum_k s_k
worst        min_k s_k
uncertainty  mean - penalty * variance over k (population)
weights      the score of one model whose weights are the mean of theirs (Ramé et al. 2024,
             arXiv:2401.12187); for models that were trained from one start

Each model's own score and their standard deviation, the disagreement, go along as parts: they are
kept for every response and logged.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from plumbrule.errors import ConfigError
from plumbrule.inputs import Inputs
from plumbrule.lm.loading import resolve_device
from plumbrule.lm.logprobs import causal_lm
from plumbrule.protocols import Episode, Scorer
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import REWARD_STATS
from rlhf.reward_model.model import RewardModel, RewardScorer, reward_model_of
from rlhf.rewards.config import EnsembleConfig
from rlhf.rewards.options import TermInputs


class Ensemble:
    """Several scorers as one, by the rule of `config`."""

    def __init__(self, scorers: Mapping[str, Scorer], config: EnsembleConfig):
        self.scorers, self.config = scorers, config

    def score(self, episodes: Sequence[Episode]) -> Mapping[str, np.ndarray]:
        """Return {"score"} (n,) and, of more than one scorer, each one's score and their `std`."""
        parts = {name: scorer.score(episodes)["score"] for name, scorer in self.scorers.items()}
        together = combine(np.stack(list(parts.values())), self.config)
        if len(parts) == 1:
            return {"score": together}
        return {"score": together, **parts, "std": np.std(list(parts.values()), axis=0)}


def open_reward_models(given: TermInputs) -> Scorer:
    """Return the node's reward models as one scorer.

    Raises: ConfigError: there is none, or one was trained without terminal tokens.
    """
    models = Inputs(given.inputs).many("rm")
    if not models:
        raise ConfigError(
            "reward.terms (=rm) must not name rm without an rm input; give the node one."
        )
    for slot, artifact in models.items():
        check_terminal(slot, artifact)
    config, runtime = given.reward.ensemble, given.runtime
    if config.rule == "weights":
        device = resolve_device(runtime)
        loaded = [reward_model_of(artifact, device) for artifact in models.values()]
        return RewardScorer(averaged(loaded), runtime.micro_batch_size)
    scorers = {slot: a.open(runtime) for slot, a in models.items()}
    return Ensemble(scorers, config)


def check_terminal(slot: str, artifact: Artifact) -> None:
    """Refuse a reward model that reads responses without the terminal token that PPO's have.

    Its score would be read one token away from where it was trained.
    Raises: ConfigError: `append_terminal` in reward_stats.json is not true.
    """
    stats = json.loads(artifact.file(REWARD_STATS).read_text(encoding="utf-8"))
    if stats.get("append_terminal") is not True:
        raise ConfigError(
            f"{slot}: append_terminal (={stats.get('append_terminal')}) must be true, since PPO's "
            "responses keep their terminal token; train the reward model with "
            "rm.append_terminal=true."
        )


def combine(scores: np.ndarray, config: EnsembleConfig) -> np.ndarray:
    """Return one score (n,) of the models' scores (k, n).

    Raises: ValueError: a rule that is none of scores.
    """
    if config.rule == "mean":
        return scores.mean(axis=0)
    if config.rule == "worst":
        return scores.min(axis=0)
    if config.rule == "uncertainty":
        return scores.mean(axis=0) - config.penalty * scores.var(axis=0)
    raise ValueError(f"rule (={config.rule}) must be mean, worst or uncertainty.")


def averaged(models: Sequence[RewardModel]) -> RewardModel:
    """Return the first model with the mean of all their weights; it gives normalised scores.

    Heads are normalised before they are averaged, since each model has a zero and unit of its own.

    Raises: ConfigError: models of other shapes, tokenizers or rules for their rows.
    """
    first = models[0]
    if any(causal_lm(model.policy.model) is not model.policy.model for model in models):
        raise ConfigError(
            "reward.ensemble.rule (=weights) must not be used for adapters, whose mean is not the "
            "mean of what they do; use mean, worst or uncertainty."
        )
    first_rules = (first.stats.append_terminal, first.stats.uses_token_logprobs)
    for model in models[1:]:
        shapes = {name: w.shape for name, w in model.trunk.state_dict().items()}
        if (
            shapes != {name: w.shape for name, w in first.trunk.state_dict().items()}
            or model.policy.tokenizer.get_vocab() != first.policy.tokenizer.get_vocab()
            or (model.stats.append_terminal, model.stats.uses_token_logprobs) != first_rules
        ):
            raise ConfigError(
                "reward.ensemble.rule (=weights) must not be used for reward models of different "
                "shapes, tokenizers or heads; use mean, worst or uncertainty."
            )
    with torch.no_grad():
        _average_into(first.trunk, [model.trunk for model in models])
        heads = [nn.ModuleDict(normalised_heads(model)) for model in models]
        _average_into(heads[0], heads)
        first.heads().load_state_dict(heads[0].state_dict())
    first.stats = dataclasses.replace(first.stats, mean=0.0, std=1.0)
    return first


def normalised_heads(model: RewardModel) -> dict[str, nn.Module]:
    """Return copies of a model's heads, under their names, that give normalised scores."""
    heads: dict[str, nn.Module] = {"score": model.normalised_head()}
    if model.surprise_head is not None:
        second = nn.Linear(model.surprise_head.in_features, 1).to(model.surprise_head.weight)
        second.load_state_dict(
            {name: w / model.stats.std for name, w in model.surprise_head.state_dict().items()}
        )
        heads["surprise"] = second
    return heads


def _average_into(first: nn.Module, modules: Sequence[nn.Module]) -> None:
    """Set each float weight of `first` to the mean over `modules`."""
    states = [module.state_dict() for module in modules]
    for name, weight in first.state_dict().items():
        if weight.is_floating_point():
            total = torch.stack([state[name].double() for state in states]).mean(0)
            weight.copy_(total.to(weight.dtype))
