"""The reward as PPO sees it: named terms, each a Scorer over decoded responses.

rm          the node's reward models (inputs `rm`, `rm_1`, ...), as `ensembles.py` makes them one
gold        the gold utility of the generated world, for experiments that know the truth
constant    1 for every response: a control, under which a right PPO must not go anywhere
classifier  a ready-made sequence classifier (`classifier.py`)
http        a scorer behind a URL (`http_scorer.py`)
others      functions of text: rules of ours, and those of plug-ins (`reward_functions.py`)

Terms see text and not ids, so a reward model may have another tokenizer than the policy. Equal
responses to a prompt are scored once. What terms return is kept and logged under their names before
anything is done to it; parts that a Scorer returns beside its score (the gold utility's, one per
reward model and their spread) under `<term>/<part>`. What is done then, in which order, stands in
`rewards.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from plumbrule.atlas.gold import GoldUtility
from plumbrule.data.records import Prompt
from plumbrule.errors import ConfigError, PlumbruleError, TrainingError
from plumbrule.lm import distributed
from plumbrule.lm.loading import resolve_device
from plumbrule.protocols import Episode, Scorer
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from rlhf.reward_model.model import RewardScorer, reward_model_of
from rlhf.rewards.classifier import open_classifier
from rlhf.rewards.config import RewardConfig
from rlhf.rewards.ensemble import Ensemble, averaged
from rlhf.rewards.functions import FUNCTIONS, RewardFunction
from rlhf.rewards.http_scorer import HTTPScorer

if TYPE_CHECKING:  # so that an edit there rebuilds no stage but ppo
    from rlhf.ppo.rollout.trajectory import Trajectory


class Function:
    """A function of episodes as a Scorer."""

    def __init__(self, function: RewardFunction):
        self.function = function

    def score(self, episodes: Sequence[Episode]) -> Mapping[str, np.ndarray]:
        """Return what the function does, (n,)."""
        return {"score": np.asarray(self.function(episodes), dtype=np.float64)}


class Constant:
    """1 for every response."""

    def score(self, episodes: Sequence[Episode]) -> Mapping[str, np.ndarray]:
        """Return ones (n,)."""
        return {"score": np.ones(len(episodes))}


def reward_models(inputs: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """Return the inputs that are reward models, by slot name."""
    return {slot: inputs[slot] for slot in sorted(inputs) if slot.startswith("rm")}


def open_terms(
    reward: RewardConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    kept: Path | None = None,
) -> dict[str, Scorer]:
    """Return the scorer of each term that `reward` weighs.

    Args: kept: folder for the replies of a scorer behind a URL; None: they are not kept.
    Raises: ConfigError: rm without a reward model, or one that was trained without terminal tokens;
    a classifier that does not load.
    """
    scorers: dict[str, Scorer] = {}
    for name in sorted(reward.weights):
        if name == "rm":
            scorers[name] = open_reward_models(reward, inputs, runtime)
        elif name == "gold":
            scorers[name] = GoldUtility(reward.gold)
        elif name == "constant":
            scorers[name] = Constant()
        elif name == "classifier":
            scorers[name] = open_classifier(reward.classifier, runtime)
        elif name == "http":
            own = None if kept is None else kept / f"{distributed.rank()}.jsonl"
            scorers[name] = HTTPScorer(reward.http, own)
        else:
            scorers[name] = Function(FUNCTIONS[name])
    return scorers


def open_reward_models(
    reward: RewardConfig, inputs: Mapping[str, Artifact], runtime: RuntimeConfig
) -> Scorer:
    """Return the node's reward models as one scorer.

    Raises: ConfigError: there is none, or one was trained without terminal tokens.
    """
    models = reward_models(inputs)
    if not models:
        raise ConfigError(
            "reward.terms (=rm) must not name rm without an rm input; give the node one."
        )
    for slot, artifact in models.items():
        check_terminal(slot, artifact)
    if reward.ensemble.rule == "weights":
        device = resolve_device(runtime)
        loaded = [reward_model_of(artifact, device) for artifact in models.values()]
        return RewardScorer(averaged(loaded), runtime.micro_batch_size)
    scorers = {slot: a.open(runtime=runtime) for slot, a in models.items()}
    return Ensemble(scorers, reward.ensemble)


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
    Raises: TrainingError: a term raises, or does not give one number per response.
    """
    finished = trajectory.finished.tolist()
    mine = list(distributed.rank_indices(len(trajectory)))
    episodes = [
        Episode(prompts[i], trajectory.passages[i], trajectory.texts[i], finished[i]) for i in mine
    ]
    terms: dict[str, Tensor] = {}
    for name, scorer in scorers.items():
        for part, values in score_distinct(name, scorer, episodes).items():
            full = trajectory.finished.new_zeros(len(trajectory), dtype=torch.float64)
            full[mine] = torch.from_numpy(values).to(full.device)
            terms[name if part == "score" else f"{name}/{part}"] = full
    distributed.all_reduce_sum_(list(terms.values()))  # rows of other processes are 0 here
    return terms


def score_distinct(name: str, scorer: Scorer, episodes: Sequence[Episode]) -> dict[str, np.ndarray]:
    """Return a term's score and parts, (n,) float64 each, asking once for equal episodes.

    Raises: TrainingError: it raises, or does not give one number per episode.
    """
    first: dict[tuple, Episode] = {}
    keys = [(e.prompt.id, e.passages, e.response, e.finished) for e in episodes]
    for key, episode in zip(keys, episodes, strict=True):
        first.setdefault(key, episode)
    distinct = list(first.values())
    place = {key: i for i, key in enumerate(first)}
    places = [place[key] for key in keys]
    try:
        found = {
            part: np.asarray(v, dtype=np.float64) for part, v in scorer.score(distinct).items()
        }
    except PlumbruleError:
        raise
    except Exception as error:
        raise TrainingError(
            f"reward term {name} raised {type(error).__name__} on {len(distinct)} responses: "
            f"{error}; mend it and run again."
        ) from error
    for part, values in found.items():
        if values.shape != (len(distinct),):
            shown = name if part == "score" else f"{name}/{part}"
            raise TrainingError(
                f"reward term {shown} (=shape {values.shape}) must give one number for each of "
                f"{len(distinct)} responses; mend it and run again."
            )
    return {part: values[places] for part, values in found.items()}
