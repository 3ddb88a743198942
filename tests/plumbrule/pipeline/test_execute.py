"""The pipeline on real stages that are quick: data and index of a small world."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from plumbrule.errors import ArtifactError, ConfigError, NeedsInput, Terminated
from plumbrule.machine import environment
from plumbrule.pipeline import execute as pipeline
from plumbrule.pipeline import plan as plan_module
from plumbrule.pipeline.execute import NodeResult, RunContext, execute
from plumbrule.pipeline.graph import Node
from plumbrule.pipeline.plan import make_plan
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store import claims
from plumbrule.store.artifacts import Store
from plumbrule.tracking.trackers import FilesOnly, NodeFacts

SMALL = ["atlas.num_known=16", "atlas.num_after=12", "run.goals=[index]"]


def context(store: Store) -> RunContext:
    return RunContext("try/1", store.root / "runs" / "try" / "1", store, RuntimeConfig())


def build(store: Store, nodes: list[Node]) -> dict[str, NodeResult]:
    return execute(make_plan(nodes, store), context(store), lambda line: None)


def states(nodes: list[Node], store: Store) -> dict[str, str]:
    return {p.node.name: p.state for p in make_plan(nodes, store)}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_built_once_then_cached(composed: Callable, store: Store) -> None:
    _, nodes = composed(*SMALL)
    assert states(nodes, store) == {"documents": "build", "index": "build"}
    first = build(store, nodes)
    assert {b.state for b in first.values()} == {"built"}
    assert states(nodes, store) == {"documents": "cached", "index": "cached"}
    again = build(store, nodes)
    assert {b.state for b in again.values()} == {"cached"}
    assert again["index"].manifest == first["index"].manifest


def test_a_plan_says_which_setting_input_or_file_changed(
    composed: Callable, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(store, composed(*SMALL)[1])
    plan = make_plan(composed(*SMALL, "rag.chunk_words=30")[1], store)
    assert [(p.state, p.reason) for p in plan] == [
        ("cached", ""),
        ("build", "changed: chunk_words"),
    ]
    plan = make_plan(composed(*SMALL, "atlas.seed=1")[1], store)
    assert [p.reason for p in plan] == ["changed: atlas.seed", "changed: input documents"]
    real = plan_module.code_hashes
    monkeypatch.setattr(
        plan_module, "code_hashes", lambda entries: {**real(entries), "rag/chunks.py": "edited"}
    )
    plan = make_plan(composed(*SMALL)[1], store)
    assert plan[1].reason.startswith("changed: rag/chunks.py")


def test_only_what_reads_a_benchmark_is_built_again(
    composed: Callable, store: Store, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        prompts = tmp_path / name / "prompts"
        prompts.mkdir(parents=True)
        row = {"group": {f"Entity_{name}": [f"Entity {name} is a "]}}
        (prompts / "race_prompt.json").write_text(json.dumps(row))
    plans = [
        {
            p.node.name: p.fingerprint
            for p in make_plan(composed(f"eval.bold.path={tmp_path / name}")[1], store)
        }
        for name in ("one", "two")
    ]
    changed = {name for name in plans[0] if plans[0][name] != plans[1][name]}
    assert changed == {"bold", "eval_base", "eval_sft", "eval", "compare"}


def test_a_docstring_rebuilds_nothing_and_a_constant_names_its_file(
    composed: Callable, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Edits are made to what is read of `rlhf/ppo/losses.py`, not to the project's own file."""
    from plumbrule.store import fingerprint

    _, nodes = composed()
    before = {p.node.name: p for p in make_plan(nodes, store)}
    source = fingerprint.ROOT / "rlhf" / "ppo" / "losses.py"
    text = source.read_text(encoding="utf-8")
    real = Path.read_text

    def edited(new: str) -> dict[str, plan_module.Planned]:
        monkeypatch.setattr(
            Path, "read_text", lambda self, **k: new if self == source else real(self, **k)
        )
        fingerprint.forget()
        plan = {p.node.name: p for p in make_plan(nodes, store)}
        monkeypatch.setattr(Path, "read_text", real)
        fingerprint.forget()
        return plan

    same = edited(text.replace('"""', '"""Reworded. ', 1))
    assert {n: p.fingerprint for n, p in same.items()} == {
        n: p.fingerprint for n, p in before.items()
    }
    assert "0.5" in text
    other = edited(text.replace("0.5", "0.6"))
    changed = {n for n in before if before[n].fingerprint != other[n].fingerprint}
    assert changed == {"ppo", "eval", "compare"}
    ppo = fingerprint.differences(before["ppo"].code, other["ppo"].code)
    assert ppo == ["rlhf/ppo/losses.py"]


def test_code_edited_after_the_plan_stops_the_node(composed: Callable, store: Store) -> None:
    plan = make_plan(composed(*SMALL, "run.goals=[documents]")[1], store)
    stale = [dataclasses.replace(p, code={**p.code, "sft/data/stage.py": "older"}) for p in plan]
    with pytest.raises(ConfigError, match=r"documents: sft/data/stage\.py must not change between"):
        execute(stale, context(store), lambda line: None)
    assert not list(store.root.glob("artifacts/*/*/manifest.json"))


def test_other_library_versions_are_shown_or_refused(
    composed: Callable, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, nodes = composed(*SMALL, "run.goals=[documents]")
    build(store, nodes)
    monkeypatch.setattr(environment, "versions", lambda: {"torch": "9.9"})
    (planned,) = make_plan(nodes, store)
    assert planned.state == "cached"
    assert planned.versions["torch"][1] == "9.9"
    with pytest.raises(ArtifactError, match=r"run\.versions is strict"):
        make_plan(nodes, store, strict=True)


def test_a_stage_that_waits_for_a_person_leaves_nothing_published(
    composed: Callable, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, nodes = composed(*SMALL, "run.goals=[documents]")

    def waits(config: object, inputs: object, runtime: object, out: Path, tracker: object) -> dict:
        if not (store.root / "labels.jsonl").exists():
            raise NeedsInput(store.root / "labels.jsonl", "rank the answers")
        return {"x": 1.0}

    monkeypatch.setattr(pipeline, "stage_function", lambda kind: waits)
    with pytest.raises(NeedsInput, match="rank the answers"):
        build(store, nodes)
    assert states(nodes, store) == {"documents": "build"}
    (store.root / "labels.jsonl").touch()
    assert build(store, nodes)["documents"].manifest.metrics == {"x": 1.0}


def test_a_manifest_records_what_made_it(composed: Callable, store: Store) -> None:
    built = build(store, composed(*SMALL)[1])["index"]
    manifest = built.manifest
    assert manifest.inputs == {"documents": built.planned.inputs["documents"][1]}
    assert manifest.config["chunk_words"] == 60
    assert manifest.hardware["cores"]
    assert manifest.versions["python"]
    assert manifest.wall_seconds > 0
    assert set(manifest.code) >= {"rag/stage.py", "rag/chunks.py"}
    assert str(store.root) not in json.dumps(manifest.__dict__)


def test_code_edited_after_the_plan_stops_a_node_of_several_processes(
    composed: Callable, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, nodes = composed(*SMALL, "run.goals=[documents]")
    (planned,) = make_plan(nodes, store)
    stage = dataclasses.replace(pipeline.STAGES["data"], parallel=True)
    monkeypatch.setitem(pipeline.STAGES, "data", stage)
    ran = []
    monkeypatch.setattr(pipeline, "run_in_processes", lambda *a: ran.append(a) or {})
    shared = dataclasses.replace(context(store), runtime=RuntimeConfig(processes=2))
    stale = dataclasses.replace(planned, code={**planned.code, "sft/data/stage.py": "older"})
    with pytest.raises(ConfigError, match="must not change between"):
        execute([stale], shared, lambda line: None)
    assert not ran


@pytest.mark.parametrize("stop", [Terminated, ConfigError])
def test_a_stop_and_a_users_error_stay_what_they_are(
    composed: Callable, store: Store, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    """Also where the claim is lost (SIGTERM ends with 143) or the disk is full."""
    _, nodes = composed(*SMALL, "run.goals=[documents]")

    def stops(config: object, inputs: object, runtime: object, out: Path, tracker: object) -> dict:
        if stop is Terminated:
            (out.parent / "claim.json").unlink()
        raise stop("x")

    monkeypatch.setattr(pipeline, "stage_function", lambda kind: stops)
    monkeypatch.setattr(pipeline, "FULL_BYTES", 2**80)
    with pytest.raises(stop):
        build(store, nodes)


def test_a_tracker_is_told_of_an_artifact_once_it_is_there(
    composed: Callable, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, nodes = composed(*SMALL, "run.goals=[documents]")
    told, shown = [], []

    class Tracker(FilesOnly):
        def published(self, about: NodeFacts) -> None:
            told.append(store.manifest(about.kind, about.fingerprint) is not None)

        def show(self, node: str, rows: object) -> None:
            shown.append(node)

    tracked = dataclasses.replace(context(store), tracker=Tracker())
    execute(make_plan(nodes, store), tracked, lambda line: None)
    assert told == [True]


def test_what_another_has_published_and_tidied_meanwhile_is_taken(
    composed: Callable, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, nodes = composed(*SMALL, "run.goals=[documents]")
    ours, other = make_plan(nodes, store), Store(store.root / "other")
    theirs = build(other, nodes)["documents"].folder

    def begins(folder: Path, claim: claims.Claim) -> Path:
        shutil.copytree(theirs, folder)
        shutil.rmtree(claim.path.parent)
        raise FileNotFoundError(claim.path)

    monkeypatch.setattr(pipeline.attempts, "begin", begins)
    assert execute(ours, context(store), lambda line: None)["documents"].state == "shared"
