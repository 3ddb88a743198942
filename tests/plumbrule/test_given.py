"""Artifacts and folders as inputs: of this store, of another, of no store at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from plumbrule.artifacts import Manifest, Store
from plumbrule.config import RuntimeConfig
from plumbrule.errors import ArtifactError, GraphError
from plumbrule.pipeline import RunContext, execute, make_plan

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
    with pytest.raises(ArtifactError, match=r"content of reward_stats\.json"):
        execute(given, context, lambda line: None)
    assert not list((mine.root / "artifacts" / "rm").glob("*"))


def test_a_models_folder_is_a_policy_by_its_content(
    composed: Callable, mine: Store, tmp_path: Path
) -> None:
    from plumbrule.shipped import located

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
    from plumbrule.fingerprint import forget

    forget()
    assert {p.node.name: p.fingerprint for p in make_plan(nodes, mine)}["ppo"] != before["ppo"]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("rm/ffff", "must name one artifact of the store; no artifact there begins so"),
        ("/nowhere/at/all", "must be an artifact .* or a model's folder"),
    ],
)
def test_what_is_not_there_is_said(composed: Callable, mine: Store, source: str, says: str) -> None:
    with pytest.raises(GraphError, match=rf"nodes\.ppo\.inputs\.rm \(={source}\) {says}"):
        composed(f"nodes.ppo.inputs.rm={source}", "run.only=ppo")


def test_an_artifact_of_the_wrong_kind_is_refused(
    composed: Callable, other: Store, mine: Store
) -> None:
    with pytest.raises(GraphError, match="must be of kind base or sft or ppo or dpo, not rm"):
        composed(f"nodes.ppo.inputs.policy={other.folder('rm', PRINT)}", "run.only=ppo")
