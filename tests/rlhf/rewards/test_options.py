"""Terms by name: a plug-in's with settings of its own, and whose code counts for whom."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from places import ROOT
from plugin_files import importer
from worlds import ppo as world

from plumbrule.errors import ConfigError
from plumbrule.protocols import Episode
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.store.fingerprint import changed_settings, code_hashes
from plumbrule.tracking.stage_tracker import FileTracker, NullTracker, read_metrics
from rlhf.ppo.stage import run
from rlhf.rewards import stage
from rlhf.rewards.config import RewardConfig, RewardTermConfig
from rlhf.rewards.functions import FUNCTIONS
from rlhf.rewards.options import TERMS
from rlhf.rewards.terms import open_terms

CPU = RuntimeConfig(device="cpu")
PLUGIN = """
from dataclasses import dataclass

import numpy as np

from plumbrule.config import require_range
from rlhf.rewards.options import TERMS


@dataclass
class Letters:
    letter: str = "e"
    most: int = 3

    def __post_init__(self):
        require_range("reward.terms.letters.settings.most", self.most, 1)


class CountLetters:
    def __init__(self, settings):
        self.settings = settings

    def score(self, episodes):
        counts = [e.response.count(self.settings.letter) for e in episodes]
        return {"score": np.array([float(min(c, self.settings.most)) for c in counts])}


@TERMS.register("letters", settings=Letters)
def open_letters(given):
    assert given.runtime.device == "cpu"
    return CountLetters(given.settings)
"""


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], str]:
    """Import a plug-in's text as a file; its digest. What it registers is gone afterwards."""
    return importer(monkeypatch, [TERMS], tmp_path / "letters.py")


def said(*texts: str) -> list[Episode]:
    return [Episode(world.prompts(1)[0], (), text, True) for text in texts]


def test_a_plug_ins_term_has_settings_of_its_own(load: Callable[[str], str]) -> None:
    load(PLUGIN)
    reward = RewardConfig([RewardTermConfig("letters", settings={"letter": "a"})])
    (scorer,) = open_terms(reward, {}, CPU).values()
    assert scorer.score(said("banana bar", "else"))["score"].tolist() == [3.0, 0.0]


def test_its_settings_come_from_a_composed_config(load: Callable[[str], str]) -> None:
    load(PLUGIN)
    given = {"terms": [{"name": "letters", "settings": {"most": 1}}]}
    reward = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RewardConfig), given))
    assert isinstance(reward, RewardConfig)
    assert reward.terms[0].settings == {"letter": "e", "most": 1}
    (scorer,) = open_terms(reward, {}, CPU).values()
    assert scorer.score(said("eee"))["score"].tolist() == [1.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latter": "a"}, r"must be of letter, most: Key 'latter' not in"),
        ({"most": "many"}, r"must be of letter, most: Value 'many'"),
        ({"most": 0}, r"reward\.terms\.letters\.settings\.most \(=0\)"),
    ],
)
def test_settings_that_are_not_its_own_are_refused(
    load: Callable[[str], str], settings: dict, message: str
) -> None:
    load(PLUGIN)
    with pytest.raises(ConfigError, match=message):
        RewardTermConfig("letters", settings=settings)


def test_a_term_without_settings_takes_none() -> None:
    with pytest.raises(ConfigError, match=r"reward\.terms\.length\.settings .* be left out"):
        RewardTermConfig("length", settings={"a": 1})


def test_its_file_and_its_settings_count_for_those_who_choose_it(
    load: Callable[[str], str],
) -> None:
    plain = changed_settings(RewardConfig())
    digest = load(PLUGIN)
    assert changed_settings(RewardConfig()) == plain
    one = changed_settings(RewardTermConfig("letters"))
    assert one["source"] == digest
    assert one != changed_settings(RewardTermConfig("letters", settings={"most": 2}))


def test_a_term_that_is_a_function_too_is_refused(load: Callable[[str], str]) -> None:
    load(PLUGIN.replace('"letters"', '"length"'))
    with pytest.raises(ConfigError, match=r"\(=length\) must be registered once"):
        RewardTermConfig("length")


def test_a_plug_ins_term_trains_and_is_evaluated(
    load: Callable[[str], str], tmp_path: Path
) -> None:
    load(PLUGIN)
    reward = RewardConfig([RewardTermConfig("letters", settings={"letter": "r"})])
    inputs, out = world.build(tmp_path), tmp_path / "out"
    out.mkdir()
    config = world.config(total_episodes=16, num_samples=0, reward=reward)
    run(config, inputs, world.runtime(), out, FileTracker(out))
    assert "reward/letters_raw" in read_metrics(out)[0]
    (tmp_path / "reward").mkdir()
    stage.run(reward, {}, CPU, tmp_path / "reward", NullTracker())
    written = stage.open_configured(Artifact.of(tmp_path / "reward", "reward"), CPU)
    assert written.score(said("rarer"))["score"].tolist() == [3.0]


def test_ours_are_part_of_the_code_of_all_who_open_rewards_or_of_those_who_choose_them() -> None:
    code = code_hashes(["rlhf.best_of_n.stage"])
    for name in TERMS:
        option = TERMS.option(name)
        module = str(option.where).partition(":")[0].replace(".", "/") + ".py"
        separate = "separate" in option.traits
        assert (module in code) != separate, name
        assert bool(RewardTermConfig(name).source) == separate, name


def test_every_name_stands_on_the_page() -> None:
    page = (ROOT / "docs" / "bring_a_reward.md").read_text(encoding="utf-8")
    assert [name for name in (*TERMS, *FUNCTIONS) if f"`{name}`" not in page] == []
