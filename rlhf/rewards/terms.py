"""The terms of a reward as scorers, and what every scorer is held to.

A term is a Scorer over decoded responses. `options.py` names them and where each is opened. Terms
see text and not ids, so a reward model may have another tokenizer than the policy. Equal responses
to a prompt are scored once. What terms return is kept and logged under their names before anything
is done to it; parts that a Scorer returns beside its score (the gold utility's, one per reward
model and their spread) under `<term>/<part>`. What is done then, in which order, stands in
`transforms.py`.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from plumbrule.atlas.gold import GoldUtility
from plumbrule.errors import PlumbruleError, TrainingError
from plumbrule.protocols import Episode, Scorer
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from rlhf.rewards.config import RewardConfig
from rlhf.rewards.ensemble import open_reward_models
from rlhf.rewards.functions import FUNCTIONS, RewardFunction
from rlhf.rewards.options import TERMS, TermInputs


def open_terms(
    reward: RewardConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    replies: Path | None = None,
) -> dict[str, Scorer]:
    """Return the scorer of each term that `reward` weighs.

    Args: replies: folder for the replies of a scorer behind a URL; None: they are not kept.
    Raises: ConfigError: rm without a reward model, or one that was trained without terminal tokens;
    a classifier or judge that does not load; a token that is not set.
    """
    scorers: dict[str, Scorer] = {}
    for name in sorted(reward.weights):
        settings = reward.settings_of(name)
        given = TermInputs(name, settings, reward, inputs, runtime, replies)
        scorers[name] = TERMS[name](given) if name in TERMS else FunctionScorer(FUNCTIONS[name])
    return scorers


def open_gold(given: TermInputs) -> Scorer:
    """Return the gold utility of `reward.gold`."""
    return GoldUtility(given.settings)


def open_constant(given: TermInputs) -> Scorer:
    """Return the reward that is 1 for every response."""
    return Constant()


OURS = (open_reward_models, open_gold, open_constant)
"""Openers that `TERMS` names and that are no `separate` ones: here, they are part of the code of
every stage that opens a reward."""


class FunctionScorer:
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


def _place(scorer: Scorer, error: Exception) -> str:
    """Return the file and the line at which a scorer failed; of a function, in its own file."""
    frames = traceback.extract_tb(error.__traceback__)
    function = getattr(scorer, "function", None)
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    frame = ([one for one in frames if one.filename == file] or frames)[-1]
    return f"{frame.filename}, line {frame.lineno}"


def score_distinct(name: str, scorer: Scorer, episodes: Sequence[Episode]) -> dict[str, np.ndarray]:
    """Return a term's score and parts, (n,) float64 each, asking once for equal episodes.

    Raises: TrainingError: it raises, or does not give one number per episode.
    """
    first: dict[tuple, Episode] = {}
    keys = [(e.prompt.id, e.passages, e.response, e.finished, e.searching) for e in episodes]
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
            f"reward term {name} raised {type(error).__name__} on {len(distinct)} responses "
            f"({_place(scorer, error)}): {error}; mend it and run again."
        ) from error
    for part, values in found.items():
        if values.shape != (len(distinct),):
            shown = name if part == "score" else f"{name}/{part}"
            raise TrainingError(
                f"reward term {shown} (=shape {values.shape}) must give one number for each of "
                f"{len(distinct)} responses; mend it and run again."
            )
    return {part: values[places] for part, values in found.items()}
