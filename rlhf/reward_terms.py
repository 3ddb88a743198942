"""The reward as PPO sees it: named terms, each a Scorer over decoded responses.

rm        mean of the node's reward models (inputs `rm`, `rm_1`, ...)
gold      the gold utility of the generated world, for experiments that know the truth
constant  1 for every response: a control, under which a right PPO must not go anywhere

Terms see text and not ids, so a reward model may have another tokenizer than the policy. What they
return before their weights is logged and kept under their names; parts that a Scorer returns
beside its score (the gold utility's, one per reward model) under `<term>/<part>`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from plumbrule import distributed
from plumbrule.artifacts import Artifact
from plumbrule.atlas.gold import GoldUtility
from plumbrule.config import RuntimeConfig
from plumbrule.errors import ConfigError
from plumbrule.protocols import Episode, Scorer
from plumbrule.records import Prompt
from rlhf.config import RewardConfig
from rlhf.trajectory import Trajectory


class Mean:
    """The mean of several scorers; its parts are their shares of it."""

    def __init__(self, scorers: Mapping[str, Scorer]):
        self.scorers = scorers

    def score(self, episodes: Sequence[Episode]) -> Mapping[str, np.ndarray]:
        """Return the mean score (n,) and, for more than one scorer, each one's share of it."""
        shares = {
            name: scorer.score(episodes)["score"] / len(self.scorers)
            for name, scorer in self.scorers.items()
        }
        total = np.sum(list(shares.values()), axis=0)
        return {"score": total, **(shares if len(shares) > 1 else {})}


class Constant:
    """1 for every response."""

    def score(self, episodes: Sequence[Episode]) -> Mapping[str, np.ndarray]:
        """Return ones (n,)."""
        return {"score": np.ones(len(episodes))}


def reward_models(inputs: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """Return the inputs that are reward models, by slot name."""
    return {slot: inputs[slot] for slot in sorted(inputs) if slot.startswith("rm")}


def open_terms(
    reward: RewardConfig, inputs: Mapping[str, Artifact], runtime: RuntimeConfig
) -> dict[str, Scorer]:
    """Return the scorer of each term that `reward` weighs.

    Raises: ConfigError: rm without a reward model, or one that was trained without terminal tokens.
    """
    scorers: dict[str, Scorer] = {}
    for name in sorted(reward.weights):
        if name == "rm":
            models = reward_models(inputs)
            if not models:
                raise ConfigError(
                    "reward.terms (=rm) must not name rm without an rm input; give the node one."
                )
            for slot, artifact in models.items():
                check_terminal(slot, artifact)
            scorers[name] = Mean({s: a.open(runtime=runtime) for s, a in models.items()})
        elif name == "gold":
            scorers[name] = GoldUtility(reward.gold)
        else:
            scorers[name] = Constant()
    return scorers


def check_terminal(slot: str, artifact: Artifact) -> None:
    """Refuse a reward model that reads responses without the terminal token that PPO's have.

    Its score would be read one token away from where it was trained.
    Raises: ConfigError: `append_terminal` in reward_stats.json is not true.
    """
    stats = json.loads(artifact.file("reward_stats.json").read_text(encoding="utf-8"))
    if stats.get("append_terminal") is not True:
        raise ConfigError(
            f"{slot}: append_terminal (={stats.get('append_terminal')}) must be true, since PPO's "
            "responses keep their terminal token; train the reward model with "
            "rm.append_terminal=true."
        )


def score_terms(
    scorers: Mapping[str, Scorer], trajectory: Trajectory, prompts: Sequence[Prompt]
) -> dict[str, Tensor]:
    """Return what each term, and each part of one, gives every response: (b,) float64.

    The same in every process; each one scores its share of the rows.
    Args: prompts: of the trajectory's rows, in order.
    """
    finished = trajectory.finished.tolist()
    mine = list(distributed.share(len(trajectory)))
    episodes = [
        Episode(prompts[i], trajectory.passages[i], trajectory.texts[i], finished[i]) for i in mine
    ]
    terms: dict[str, Tensor] = {}
    for name, scorer in scorers.items():
        for part, values in scorer.score(episodes).items():
            full = trajectory.finished.new_zeros(len(trajectory), dtype=torch.float64)
            full[mine] = torch.as_tensor(np.asarray(values, dtype=np.float64)).to(full.device)
            terms[name if part == "score" else f"{name}/{part}"] = full
    distributed.all_reduce_sum_(list(terms.values()))  # rows of other processes are 0 here
    return terms
