"""Stage `reward`: the configured reward as an artifact, so that an evaluation can ask it.

What PPO maximises is a sum of terms: reward models, a classifier, a scorer behind a URL, functions
of text, those of a plug-in. The stage writes them down with the reward models they name; opened,
they are one `Scorer` of an episode. It trains nothing and loads nothing.

A term that is normalised over an update's responses has no value of a single response: its raw
value is reported, and a reward with such a term has no total.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from plumbrule.errors import ArtifactError
from plumbrule.protocols import Episode, Scorer, Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import NOTES, REWARD
from plumbrule.store.input_names import is_of_slot
from plumbrule.store.json_files import write_json
from plumbrule.store.layout import artifacts_of, find_artifact
from plumbrule.store.manifests import inputs_of
from rlhf.rewards.config import RewardConfig
from rlhf.rewards.options import TOTAL

REWARD_MODEL_OPENER = "rlhf.reward_model.model:open_reward"


def run(
    config: RewardConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    out: Path,
    tracker: Tracker,
) -> Mapping[str, float]:
    """Write `reward.json`: the terms with all that they are made from; return their number."""
    write_json(out / REWARD, asdict(config))
    notes = []
    if any(term.normalise == "batch" for term in config.terms):
        notes.append(
            "A term is normalised over each update's responses, so single responses have no total "
            "of the reward: its terms are evaluated one by one, as they are."
        )
    if config.notes():
        notes.append("A term is asked of a service behind a URL, which no config can reproduce.")
    write_json(out / NOTES, notes)
    return {"reward/terms": float(len(config.terms))}


def open_configured(artifact: Artifact, runtime: RuntimeConfig) -> Scorer:
    """Return the reward of an artifact as one scorer of episodes.

    Raises: ArtifactError: a reward model of it is not in the store. ConfigError: a term that does
    not open.
    """
    from rlhf.rewards.terms import open_terms

    text = artifact.file(REWARD).read_text(encoding="utf-8")
    merged = OmegaConf.merge(OmegaConf.structured(RewardConfig), json.loads(text))
    config = OmegaConf.to_object(merged)
    assert isinstance(config, RewardConfig)
    return ConfiguredReward(config, open_terms(config, _models_of(artifact), runtime))


def _models_of(artifact: Artifact) -> dict[str, Artifact]:
    """Return the models that the artifact's manifest names, from beside it in the store."""
    found = {}
    for slot, fingerprint in inputs_of(artifact.path).items():
        is_rm = is_of_slot(slot, "rm")
        folder = find_artifact(artifacts_of(artifact.path), fingerprint)
        if folder is None:
            what = f"rm/{fingerprint}" if is_rm else f"its {slot} <kind>/{fingerprint}"
            raise ArtifactError(
                f"reward artifact {artifact.path} needs {what}, which the store "
                "does not hold; run the same command to build it again or, where the reward was "
                f"copied from another store, copy {what} into this store as well."
            )
        found[slot] = Artifact.at(folder, REWARD_MODEL_OPENER if is_rm else None)
    return found


class ConfiguredReward:
    """A weighted sum of terms as a Scorer."""

    def __init__(self, config: RewardConfig, scorers: Mapping[str, Scorer]):
        self.config, self.scorers = config, scorers

    def score(self, episodes: Sequence[Episode]) -> Mapping[str, np.ndarray]:
        """Return each term's values as they are, and `score`, their sum, where it has one: (n,).

        Of the sum a term is cut to its bound and weighed, as PPO does it.
        Raises: TrainingError: a term raises, or does not give one number per response.
        """
        import torch

        from rlhf.rewards.terms import score_distinct
        from rlhf.rewards.transforms import reward_of

        raw = {
            name: score_distinct(name, scorer, episodes)["score"]
            for name, scorer in self.scorers.items()
        }
        if any(term.normalise == "batch" for term in self.config.terms):
            return raw
        total = reward_of({name: torch.from_numpy(x) for name, x in raw.items()}, self.config)
        return {TOTAL: total.numpy(), **raw}
