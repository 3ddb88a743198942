"""What PPO chooses by name: schedules by hand, plug-ins for all four tables, and what is hashed."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import detail_page
import pytest
from places import ROOT
from plugin_files import importer
from worlds import ppo as world

from plumbrule.errors import ConfigError
from plumbrule.store.fingerprint import code_hashes, hashed_config
from plumbrule.store.metric_rows import read_metrics
from plumbrule.tracking.stage_tracker import FileTracker
from rlhf.lr_schedules import lr_multiplier
from rlhf.ppo.config import KLConfig, PPOConfig
from rlhf.ppo.optimisation.learner import set_learning_rates
from rlhf.ppo.options import ADVANTAGES, KL_ESTIMATORS, POLICY_LOSSES, REGISTRIES, SCHEDULES
from rlhf.ppo.stage import run

PLUGIN = """
import torch
from rlhf.ppo.advantages import Advantages
from rlhf.masked import fill
from rlhf.ppo.options import ADVANTAGES, KL_ESTIMATORS, POLICY_LOSSES, SCHEDULES

@ADVANTAGES.register("reward_to_go")
def reward_to_go(given):
    rewards = fill(given.rewards, given.step_mask)
    to_go = rewards.flip(1).cumsum(1).flip(1)
    return Advantages(to_go, torch.zeros_like(to_go))

@POLICY_LOSSES.register("unclipped")
def unclipped(given):
    return -given.advantages * given.ratio, torch.zeros_like(given.action_mask)

@KL_ESTIMATORS.register("absolute")
def absolute(log_ratio):
    return log_ratio.abs()

@SCHEDULES.register("half")
def half(done):
    return 0.5
"""


def chosen() -> dict[str, Any]:
    """Settings that take all four."""
    return {
        "advantage": "reward_to_go",
        "policy_loss": "unclipped",
        "lr_scheduler_type": "half",
        "kl": KLConfig(coef=0.02, estimator="absolute"),
    }


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], str]:
    """Import a plug-in's text as a file; its digest. What it registers is gone afterwards."""
    return importer(monkeypatch, REGISTRIES, tmp_path / "own_ppo.py")


def test_a_plug_in_trains(load: Callable[[str], str], tmp_path: Path) -> None:
    load(PLUGIN)
    inputs = world.build(tmp_path, spread=0.5)
    out = tmp_path / "out"
    out.mkdir()
    config = world.config(total_episodes=32, num_samples=0, **chosen())
    assert not config.has_value_model
    run(config, inputs, world.runtime(), out, FileTracker(out))
    assert not (out / "value").exists()
    first, second = read_metrics(out)
    assert first["lr/policy"] == second["lr/policy"] == pytest.approx(0.5 * config.learning_rate)
    assert second["objective/non_score_reward"] < -0.02 * abs(second["objective/kl"])  # |k1|
    assert first["policy/clipfrac_avg"] == second["policy/clipfrac_avg"] == 0.0
    assert first["objective/grad_norm"] > 0


def test_a_plug_ins_file_counts_for_those_who_choose_from_it(load: Callable[[str], str]) -> None:
    plain = hashed_config(PPOConfig())
    digest = load(PLUGIN)
    assert hashed_config(PPOConfig()) == plain  # it is there and nobody chose it
    one = PPOConfig(kl=KLConfig(estimator="absolute"))
    assert one.source == f"kl.estimator:{digest}"
    everything = PPOConfig(**chosen()).source.split()
    settings = ("advantage", "policy_loss", "kl.estimator", "lr_scheduler_type")
    assert everything == [f"{setting}:{digest}" for setting in settings]
    edited = load(PLUGIN + "# edited\n")
    assert edited != digest
    assert PPOConfig(kl=KLConfig(estimator="absolute")).source == f"kl.estimator:{edited}"
    assert PPOConfig(source="whatever").source == ""


def test_ours_are_part_of_the_stages_code() -> None:
    """So they need no digest of their own."""
    code = code_hashes(["rlhf.ppo.stage"])
    for table in REGISTRIES:
        for name in table:
            where = table.option(name).where
            assert isinstance(where, str)
            assert where.split(":")[0].replace(".", "/") + ".py" in code
            assert table.source(name) == ""
            assert callable(table[name])


@pytest.mark.parametrize("table", REGISTRIES, ids=lambda t: t.setting)
def test_an_unknown_name_is_an_error_that_names_those_that_there_are(table) -> None:
    with pytest.raises(ConfigError, match=rf"{table.setting} \(=nothing\) must be one of") as error:
        table["nothing"]
    assert all(name in str(error.value) for name in table)


def test_a_config_knows_the_names_of_the_tables(load: Callable[[str], str]) -> None:
    with pytest.raises(
        ConfigError, match=r"ppo.policy_loss \(=unclipped\) must be one of cispo, clip, gspo;"
    ):
        PPOConfig(policy_loss="unclipped")
    load(PLUGIN)
    with pytest.raises(ConfigError, match=r"must be one of cispo, clip, gspo, unclipped;"):
        PPOConfig(policy_loss="clipped")


def test_what_can_not_be_registered_is_refused(load: Callable[[str], str]) -> None:
    with pytest.raises(ConfigError, match=r"ppo.kl.estimator \(=k1\) must be registered once"):
        KL_ESTIMATORS.register("k1")(lambda x: x)
    with pytest.raises(ConfigError, match="letters, digits"):
        POLICY_LOSSES.register("two words")
    with pytest.raises(ConfigError, match=r"trait of mine .* must be one of groups, values"):
        ADVANTAGES.register("mine", "value")
    load(PLUGIN)
    with pytest.raises(ConfigError, match=r"own_ppo.py and test_options.py both do"):
        SCHEDULES.register("half")(lambda done: 1.0)


def test_an_advantage_that_compares_needs_something_to_compare(load: Callable[[str], str]) -> None:
    grouped = PLUGIN.replace('register("reward_to_go")', 'register("reward_to_go", "groups")')
    load(grouped)
    with pytest.raises(ConfigError, match=r"samples_per_prompt .*at least 2"):
        PPOConfig(advantage="reward_to_go")
    assert PPOConfig(advantage="reward_to_go", samples_per_prompt=2)


@pytest.mark.detail(37)
@pytest.mark.option("ppo.lr_scheduler_type", "linear", "constant", "cosine")
def test_schedules_by_hand() -> None:
    # 10 updates, 20 % of them warm-up: 1/2, 1; then 8 more, of which k are done at the (k+1)th.
    # linear: 1 - k / 8.  constant: 1.  cosine: (1 + cos(pi k / 8)) / 2.
    for name, falls in (
        ("linear", lambda k: 1 - k / 8),
        ("constant", lambda k: 1.0),
        ("cosine", lambda k: (1 + math.cos(math.pi * k / 8)) / 2),
    ):
        shares = [lr_multiplier(step, 10, 0.2, SCHEDULES[name]) for step in range(10)]
        assert shares == pytest.approx([0.5, 1.0, *(falls(k) for k in range(8))])
        assert lr_multiplier(0, 10, 0.0, SCHEDULES[name]) == 1.0  # without warm-up full at once
        assert lr_multiplier(0, 1, 1.0, SCHEDULES[name]) == 1.0
    learner = world.learner_of(world.config())
    config = world.config(
        total_episodes=160,
        learning_rate=0.5,
        value_learning_rate=2.0,
        lr_scheduler_type="cosine",
        warmup_share=0.2,
    )
    for update, share in ((1, 0.5), (2, 1.0), (7, 0.5)):  # (1 + cos(pi / 2)) / 2 at k = 4
        set_learning_rates(learner.optimizer, world.learning_rates(config, update))
        rates = [group["lr"] for group in learner.optimizer.param_groups]
        assert rates == pytest.approx([0.5 * share, 2.0 * share])


def test_every_option_has_a_reference_test_and_a_line_on_the_page() -> None:
    lines = detail_page.read_options(ROOT / detail_page.DETAILS)
    assert detail_page.option_problems(lines, detail_page.option_tests(ROOT / "tests")) == []


def test_an_option_without_either_is_named(load: Callable[[str], str]) -> None:
    load(PLUGIN)
    lines = detail_page.read_options(ROOT / detail_page.DETAILS)
    found = detail_page.option_problems(lines, detail_page.option_tests(ROOT / "tests"))
    assert len(found) == 8
    assert found[2].startswith("option ppo.kl.estimator=absolute must have a reference test; mark")
    assert found[3] == (
        "option ppo.kl.estimator=absolute must have a line ([[option]]) in rlhf/ppo/details.toml."
    )
