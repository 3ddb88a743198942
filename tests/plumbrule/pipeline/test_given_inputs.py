"""Artifacts and folders as inputs: of this store, of another, of no store at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from plumbrule.errors import ArtifactError, ConfigError, GraphError
from plumbrule.pipeline import checks
from plumbrule.pipeline import execute as pipeline
from plumbrule.pipeline.execute import RunContext, execute
from plumbrule.pipeline.experiment import as_json
from plumbrule.pipeline.given_inputs import Given
from plumbrule.pipeline.graph import Node
from plumbrule.pipeline.plan import make_plan
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store import attempts, claims
from plumbrule.store.artifacts import Store
from plumbrule.store.manifests import Manifest
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.graph_checks import check_continued
from rlhf.rewards.config import EnsembleConfig, RewardConfig
from rlhf.rewards.graph_checks import check_reward

PRINT = "0123456789abcdef"


@pytest.fixture
def other(tmp_path: Path) -> Store:
    """A store elsewhere that holds a published reward model of a few bytes."""
    store = Store(tmp_path / "other")
    folder = store.folder("rm", PRINT)
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    (folder / "reward_stats.json").write_text('{"mean": 0.0}')
    store.publish(Manifest("rm", "rm", PRINT, {"seed": 0}, {}, metrics={"rm/accuracy": 0.8}))
    return store


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("PLUMBRULE_STORE", str(tmp_path / "mine"))
    return Store(tmp_path / "mine")


def test_an_artifact_of_another_store_is_an_input_and_is_copied_whole(
    composed: Callable, other: Store, mine: Store
) -> None:
    where = f"nodes.ppo.inputs.rm={other.folder('rm', PRINT)}"
    _, nodes = composed(where, "run.only=ppo")
    by_name = {node.name: node for node in nodes}
    assert by_name["ppo"].inputs["rm"] == f"rm/{PRINT}"
    assert "rm" not in by_name
    assert "feedback" not in by_name  # nothing is built to make another
    plan = {p.node.name: p for p in make_plan(nodes, mine)}
    given = plan[f"rm/{PRINT}"]
    assert (given.state, given.fingerprint) == ("copy", PRINT)
    assert plan["ppo"].inputs["rm"] == ("rm", PRINT)
    runtime = RuntimeConfig()
    context = RunContext("r/1", mine.root / "runs", mine, runtime)
    built = execute([given], context, lambda line: None)
    assert built[f"rm/{PRINT}"].manifest.metrics == {"rm/accuracy": 0.8}
    mine.verify("rm", PRINT)
    # then it is one of this store's, by its fingerprint or the beginning of it
    for name in (f"rm/{PRINT}", "rm/0123"):
        _, nodes = composed(f"nodes.ppo.inputs.rm={name}", "run.only=ppo")
        again = {p.node.name: p for p in make_plan(nodes, mine)}
        assert again[f"rm/{PRINT}"].state == "cached"
        assert again["ppo"].fingerprint == plan["ppo"].fingerprint


def test_a_damaged_artifact_is_not_taken(composed: Callable, other: Store, mine: Store) -> None:
    file = other.folder("rm", PRINT) / "reward_stats.json"
    file.write_text('{"mean": 9.0}')  # as many bytes as before
    _, nodes = composed(f"nodes.ppo.inputs.rm={file.parent}", "run.only=ppo")
    given = [p for p in make_plan(nodes, mine) if p.state == "copy"]
    runtime = RuntimeConfig()
    context = RunContext("r/1", mine.root / "runs", mine, runtime)
    with pytest.raises(ArtifactError, match=r"reward_stats\.json has other content"):
        execute(given, context, lambda line: None)
    assert not list((mine.root / "artifacts" / "rm").glob("*"))


def test_a_models_folder_is_a_policy_by_its_content(
    composed: Callable, mine: Store, tmp_path: Path
) -> None:
    from plumbrule.store.packaged_files import located

    folder = tmp_path / "checkpoint"
    shutil.copytree(located("plumbrule/atlas-base"), folder)
    _, nodes = composed(f"nodes.ppo.inputs.policy={folder}", "run.only=ppo")
    by_name = {node.name: node for node in nodes}
    assert by_name["ppo"].inputs["policy"] == "base/checkpoint"
    assert by_name["base/checkpoint"].kind == "base"
    before = {p.node.name: p.fingerprint for p in make_plan(nodes, mine)}
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    _, nodes = composed(f"nodes.ppo.inputs.policy={moved}", "run.only=ppo")
    after = {p.node.name: p.fingerprint for p in make_plan(nodes, mine)}
    assert after["ppo"] == before["ppo"]  # by content, not by name
    (moved / "generation_config.json").write_text("{}")
    from plumbrule.store.fingerprint import forget

    forget()
    assert {p.node.name: p.fingerprint for p in make_plan(nodes, mine)}["ppo"] != before["ppo"]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("rm/ffff", "must name one artifact of the store, and there none begins so"),
        ("artifacts/rm/ffff", ".*; plumbrule ls --artifacts --kind rm lists them"),
        ("/nowhere/at/all", "must be an artifact .* or a model's folder"),
    ],
)
def test_what_is_not_there_is_said(composed: Callable, mine: Store, source: str, says: str) -> None:
    with pytest.raises(GraphError, match=rf"nodes\.ppo\.inputs\.rm \(={source}\) {says}"):
        composed(f"nodes.ppo.inputs.rm={source}", "run.only=ppo")


def test_an_artifact_of_the_wrong_kind_is_refused(
    composed: Callable, other: Store, mine: Store
) -> None:
    with pytest.raises(GraphError, match="must be of kind base or sft or dpo or ppo, not rm"):
        composed(f"nodes.ppo.inputs.policy={other.folder('rm', PRINT)}", "run.only=ppo")


def publish(store: Store, kind: str, config: dict, inputs: dict, **more: object) -> Given:
    folder = store.folder(kind, PRINT)
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text("{}")
    store.publish(Manifest(kind, kind, PRINT, config, inputs, **more))
    return Given(PRINT, str(folder))


def test_checks_take_given_inputs(composed: Callable, mine: Store) -> None:
    """Of a given artifact they know what its manifest says, and nothing else."""
    publish(mine, "feedback", {"labeller": "gold"}, {"prompts": "p"})
    publish(mine, "data", {}, {})
    composed(f"nodes.rm.inputs.preferences=feedback/{PRINT}", "run.only=rm")
    composed(f"nodes.eval_sft.inputs.prompts=data/{PRINT}", "run.only=eval_sft")


def test_a_ppo_may_continue_a_given_one(mine: Store) -> None:
    before = publish(mine, "ppo", {}, {"policy": "p"})
    _, node = checks.place(
        [Node("b", "ppo", {}, before), Node("more", "ppo", {"continues": "b"}, 0)]
    )
    check_continued(node, node.inputs["continues"])


@pytest.mark.parametrize("labeller", ["gold", "rm"])
def test_who_ranked_given_samples_stands_in_their_manifest(mine: Store, labeller: str) -> None:
    samples = publish(mine, "feedback", {"labeller": labeller}, {})
    best = Node("best", "best_of_n", {"samples": "s"}, None)
    study = Node("study", "methods", {"best_of_n": "best"}, None)
    placed = checks.place([Node("s", "feedback", {}, samples), best, study])
    with nullcontext() if labeller == "gold" else pytest.raises(ConfigError, match="not ranked by"):
        checks.check_gathered(placed[-1])


@pytest.mark.parametrize("other_start", ["p", "q"])
def test_given_reward_models_start_where_their_manifests_say(
    mine: Store, other: Store, tmp_path: Path, other_start: str
) -> None:
    one = publish(mine, "rm", {}, {"policy": "p"})
    two = publish(Store(tmp_path / "third"), "rm", {}, {"policy": other_start})
    reward = RewardConfig(ensemble=EnsembleConfig(rule="weights"))
    node = Node("ppo", "ppo", {"rm": "a", "rm_1": "b"}, PPOConfig(reward=reward))
    placed = checks.place([Node("a", "rm", {}, one), Node("b", "rm", {}, two), node])
    same = other_start == "p"
    with nullcontext() if same else pytest.raises(ConfigError, match="start from several"):
        check_reward(placed[-1], reward)


def test_given_artifacts_are_held_to_the_versions(
    composed: Callable, mine: Store, other: Store, tmp_path: Path
) -> None:
    third = Store(tmp_path / "third")
    publish(third, "rm", {}, {"policy": "p"}, versions={"torch": "0.1"})
    for where in (third, mine):
        if where is mine:
            shutil.copytree(third.folder("rm", PRINT), mine.folder("rm", PRINT))
        _, nodes = composed(f"nodes.ppo.inputs.rm={where.folder('rm', PRINT)}", "run.only=ppo")
        with pytest.raises(ArtifactError, match=r"made with torch 0\.1"):
            make_plan(nodes, mine, strict=True)
        plan = {p.node.name: p for p in make_plan(nodes, mine)}
        assert plan[f"rm/{PRINT}"].versions["torch"][0] == "0.1"


def copy_plan(composed: Callable, other: Store, mine: Store) -> tuple[list, RunContext]:
    _, nodes = composed(f"nodes.ppo.inputs.rm={other.folder('rm', PRINT)}", "run.only=ppo")
    plan = [p for p in make_plan(nodes, mine) if p.state == "copy"]
    return plan, RunContext("r/1", mine.root / "runs", mine, RuntimeConfig())


def test_a_copy_waits_for_whoever_builds_the_same(
    composed: Callable, other: Store, mine: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And takes what that one has published."""
    plan, context = copy_plan(composed, other, mine)
    folder = mine.folder("rm", PRINT)
    held = attempts.claim(folder, "another")
    assert isinstance(held, claims.Claim)

    def publishes(seconds: float) -> None:
        shutil.copytree(other.folder("rm", PRINT), folder)

    monkeypatch.setattr(pipeline.time, "sleep", publishes)
    lines: list[str] = []
    built = execute(plan, context, lines.append)
    assert built[f"rm/{PRINT}"].state == "shared"
    assert "waiting for run another" in lines[0]


def test_a_copy_follows_no_links(composed: Callable, other: Store, mine: Store) -> None:
    plan, context = copy_plan(composed, other, mine)
    folder = other.folder("rm", PRINT) / "model"
    folder.rename(other.root / "elsewhere")
    folder.symlink_to(other.root / "elsewhere")
    with pytest.raises(ArtifactError, match=r"model/config\.json lies behind a link"):
        execute(plan, context, lambda line: None)
    assert not list((mine.root / "artifacts" / "rm").glob("*"))


def test_records_name_a_given_artifact_and_not_its_place(
    composed: Callable, other: Store, mine: Store
) -> None:
    where = other.folder("rm", PRINT)
    config, nodes = composed(f"nodes.ppo.inputs.rm={where}", "run.only=ppo")
    written = as_json(config)["nodes"]
    assert written[f"rm/{PRINT}"]["given"] == f"rm/{PRINT}"
    assert str(where) not in json.dumps(written)
    assert not any(str(where) in planned.reason for planned in make_plan(nodes, mine))
