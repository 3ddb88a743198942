"""Kept rollouts computed again: equal to the log where nothing changes, and through the verb."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from worlds import ppo as world

from plumbrule.cli import verbs
from plumbrule.cli.verbs.replay import inputs_of
from plumbrule.errors import ArtifactError, ConfigError
from plumbrule.store.artifacts import Store
from plumbrule.store.json_files import write_json
from plumbrule.store.manifests import Manifest
from plumbrule.tracking.stage_tracker import FileTracker
from rlhf.ppo.config import KLConfig, PPOConfig, PTXConfig
from rlhf.ppo.replay import replay
from rlhf.ppo.stage import run
from rlhf.rewards.config import RewardConfig, RewardTermConfig

CONSTANT = RewardConfig([RewardTermConfig("constant")])


def train(folder: Path, config: PPOConfig) -> Path:
    inputs = world.build(folder, spread=0.5, layers=2)
    out = folder / "out"
    out.mkdir()
    run(config, inputs, world.runtime(), out, FileTracker(out))
    return out


CASES = [
    world.config(),
    world.config(score_at="after", whiten_rewards=True, score_clip=0.2, missing_eos_penalty=0.3),
    world.config(advantage="rloo", samples_per_prompt=4, kl=KLConfig(where="loss")),
    world.config(kl=KLConfig(target=0.01, horizon=64), dual_clip=2.0, vf_coef=0.1),
    world.config(unfrozen_layers=1, value_trunk="branch"),
]


@pytest.mark.parametrize("config", CASES, ids=["plain", "after", "rloo", "adaptive", "stem"])
def test_nothing_changed_gives_the_runs_own_numbers(config: PPOConfig, tmp_path: Path) -> None:
    """Every update's scores and rewards, and every loss, norm and ratio of the first."""
    out = train(tmp_path, config)
    found = replay(config, world.inputs_in(tmp_path), world.runtime(), out, rescore=True)
    assert [update for update, _, _ in found] == [1, 2, 3, 4, 5, 6]
    for update, logged, now in found:
        # 0 where every response of the update scored the same: nothing then rises with anything.
        assert now.pop("replay/score_rank_correlation") in (0.0, pytest.approx(1.0))
        assert now.pop("replay/advantage_correlation") == pytest.approx(1.0)
        assert now == pytest.approx({name: logged[name] for name in now}, rel=1e-6, abs=1e-9)
        assert ("loss/policy_avg" in now) is (update == 1)


def test_what_is_changed_changes_what_it_should(tmp_path: Path) -> None:
    config = world.config(total_episodes=32)
    out = train(tmp_path, config)
    inputs = world.inputs_in(tmp_path)

    def of(changed: PPOConfig, rescore: bool = False) -> dict[str, float]:
        return replay(changed, inputs, world.runtime(), out, [1], rescore)[0][2]

    same = of(config)
    other = of(replace(config, reward=CONSTANT), rescore=True)
    assert other["objective/scores_raw"] == 1.0
    assert other["replay/score_rank_correlation"] == 0.0
    half = of(replace(config, reward=RewardConfig([RewardTermConfig("rm", 0.5)])))
    assert half["objective/scores_raw"] == pytest.approx(0.5 * same["objective/scores_raw"])
    wide = of(replace(config, cliprange=10.0, cliprange_value=10.0))
    assert wide["objective/scores"] == same["objective/scores"]
    assert wide["policy/clipfrac_avg"] == 0.0
    with pytest.raises(ConfigError, match=r"reward.terms .=\['constant'\]. must be among"):
        of(replace(config, reward=CONSTANT))
    with pytest.raises(ArtifactError, match="no rollout of update 9"):
        replay(config, inputs, world.runtime(), out, [9])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with a published PPO of two updates and its inputs."""
    store = Store(tmp_path_factory.mktemp("store"))
    world.build(tmp := store.root / "made")
    for kind, fingerprint, source in (("sft", "a1", "sft"), ("data", "b2", "prompts")):
        store.folder(kind, fingerprint).parent.mkdir(parents=True)
        (tmp / source).rename(store.folder(kind, fingerprint))
        store.publish(Manifest(source, kind, fingerprint, {}, {}))
    config = world.config(total_episodes=32, reward=CONSTANT, missing_eos_penalty=0.1)
    manifest = Manifest(
        "ppo",
        "ppo",
        "c3",
        asdict(config),
        {"policy": "a1", "prompts": "b2"},
        runtime={"device": "cpu", "micro_batch_size": 8},
    )
    out = store.folder("ppo", "c3")
    out.mkdir(parents=True)
    run(config, inputs_of(store, manifest), world.runtime(), out, FileTracker(out))
    store.publish(manifest)
    return store


def test_the_verb(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--store", str(store.root)]
    assert verbs.main(["replay", "c3", "--json", *given]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["update"] for row in rows] == [1, 2]
    first = rows[0]
    assert first["replayed"]["loss/policy_avg"] == first["logged"]["loss/policy_avg"]
    words = ["ppo.missing_eos_penalty=0", "--reward", "2*constant", "--update", "2"]
    verbs.main(["replay", "ppo/c3", *words, "--json", *given])
    (row,) = json.loads(capsys.readouterr().out)
    assert row["update"] == 2
    assert row["replayed"]["objective/scores"] == 2.0
    verbs.main(["replay", "c3", *given])
    assert "objective/scores_raw" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["c9"], "nothing is called"),
        (["a1"], r"'a1' .=sft. must be a ppo artifact"),
        (["c3", "sft.batch_size=2"], r"setting .=sft.batch_size=2. must be ppo"),
        (["c3", "ppo.no_such=2"], "no_such"),
        (["c3", "ppo.cliprange=-1"], "ppo.cliprange"),
        (["c3", "--reward", "x*gold"], r"--reward .=x\*gold. must be terms"),
        (["c3", "--reward", "silver"], "reward.terms.name"),
    ],
)
def test_the_verb_refuses(store: Store, words: list[str], message: str) -> None:
    with pytest.raises((ArtifactError, ConfigError), match=message):
        verbs.main(["replay", *words, "--store", str(store.root)])


def test_an_input_that_is_gone_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    manifest = Manifest("ppo", "ppo", "c3", asdict(PPOConfig(ptx=PTXConfig())), {"policy": "a1"})
    with pytest.raises(ArtifactError, match=r"needs its input policy .a1."):
        inputs_of(store, manifest)


def test_a_run_that_has_not_ended_is_refused(store: Store) -> None:
    """It names no nodes yet; its PPO can be named by itself."""
    folder = store.root / "runs" / "quickstart" / "20261122-000000-abcdef"
    folder.mkdir(parents=True)
    write_json(folder / "run.json", {"name": "quickstart", "id": folder.name, "state": "running"})
    with pytest.raises(ArtifactError, match="must have a finished node ppo to be replayed"):
        verbs.main(["replay", folder.name, "--store", str(store.root)])
