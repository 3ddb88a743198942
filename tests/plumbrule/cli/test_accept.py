"""`plumbrule accept`: an artifact stands for changed code where both make the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from plumbrule.cli import verbs
from plumbrule.errors import ArtifactError, ConfigError
from plumbrule.pipeline import plan as plan_module
from plumbrule.pipeline.execute import RunContext, execute
from plumbrule.pipeline.graph import Node
from plumbrule.pipeline.plan import Planned, make_plan
from plumbrule.pipeline.planning.acceptance import accept, different_files
from plumbrule.pipeline.planning.accepted import Accepted, record_path, write_accepted
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store import fingerprint
from plumbrule.store.artifacts import Store
from plumbrule.store.fingerprint import PACKAGES, ROOT
from plumbrule.store.manifests import Manifest
from rag import chunks

SMALL = ("atlas.num_known=16", "atlas.num_after=12", "run.goals=[index]")
SAME = ("ordered = sorted(documents, key=lambda document: document.id)", "by_id = ordered = ")
OTHER = ('f"{document.id}#{number}"', 'f"{document.id}#{number + 1}"')


def contents(store: Path) -> dict[str, bytes]:
    files = [path for path in (store / "artifacts").rglob("*") if path.is_file()]
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a copy of the project, whose sources a test may edit, in the store `tmp_path / store`."""
    tree, store = tmp_path / "tree", tmp_path / "store"
    for package in (*PACKAGES, "conf", "hydra_plugins"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tree / package, ignore=ignored)
    store.mkdir()

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        paths = {"PLUMBRULE_STORE": str(store), "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "plumbrule", *words]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=store, env={**os.environ, **paths}
        )

    return run


def edit(tree: Path, old: str, new: str) -> None:
    source = tree / "rag" / "chunks.py"
    text = source.read_text()
    assert text.count(old) == 1
    source.write_text(text.replace(old, new))


@pytest.mark.slow
def test_code_that_makes_the_same_bytes_is_accepted_and_other_code_is_not(
    tmp_path: Path, project: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    tree, store = tmp_path / "tree", tmp_path / "store"
    done = project(*SMALL, "tracking=jsonl")
    assert done.returncode == 0, done.stderr
    (old,) = [path.name for path in (store / "artifacts" / "index").iterdir()]
    before = contents(store)

    edit(tree, SAME[0], SAME[1] + SAME[0].removeprefix("ordered = "))
    accepted = project("accept", f"index/{old}")
    assert accepted.returncode == 0, accepted.stderr
    assert "index: building" in accepted.stderr
    assert "changed code: rag/chunks.py" in accepted.stdout
    (record,) = store.glob("accepted/index/*.json")
    told = json.loads(record.read_text())
    assert told["stands_for_it"] == old
    assert told["fingerprint"] == record.stem != old
    assert list(told["changed"]) == ["rag/chunks.py"]
    assert told["code"]["old"] != told["code"]["new"]
    assert told["files"].keys() >= {"index.faiss", "passages.jsonl"}
    planned = project(*SMALL, "tracking=jsonl", "run.dry=true")
    assert f"cached  index/{old}  (accepted for {record.stem})" in planned.stdout
    again = project("accept", f"index/{old}")
    assert again.returncode == 2
    assert "was accepted already; there is nothing to accept" in again.stderr

    edit(tree, *OTHER)
    refused = project("accept", f"index/{old}")
    assert refused.returncode == 2
    assert "must have the bytes that the new code makes" in refused.stderr
    assert "differ in passages.jsonl" in refused.stderr.replace("fingerprint.json, ", "")
    assert len(list(store.glob("accepted/*/*.json"))) == 1
    after = contents(store)
    assert {name: after[name] for name in before} == before  # nothing was written over


@pytest.fixture
def built(tmp_path: Path, composed: Callable) -> tuple[Store, list[Node], dict[str, Manifest]]:
    """A store that holds the nodes of a small run."""
    store, (_, nodes) = Store(tmp_path), composed(*SMALL)
    found = execute(make_plan(nodes, store), context(store), lambda line: None)
    return store, nodes, {name: result.manifest for name, result in found.items()}


def context(store: Store) -> RunContext:
    return RunContext("try/1", store.root / "runs" / "try" / "1", store, RuntimeConfig())


def edited(monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    """Let the hash of a source file be another, wherever it is reached."""
    real = plan_module.code_hashes

    def hashes(entries: list[str]) -> dict[str, str]:
        found = real(entries)
        return {**found, file: "edited"} if file in found else found

    monkeypatch.setattr(plan_module, "code_hashes", hashes)


def by_name(nodes: list[Node], store: Store) -> dict[str, Planned]:
    return {planned.node.name: planned for planned in make_plan(nodes, store)}


def test_an_input_is_accepted_before_what_was_made_from_it(
    built: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, nodes, made = built
    edited(monkeypatch, "plumbrule/data/records.py")  # which both nodes reach
    with pytest.raises(ConfigError, match=r"accept that artifact first: plumbrule accept data/"):
        accept(made["index"], nodes, "index", context(store), print)
    for name in ("documents", "index"):
        accept(made[name], nodes, name, context(store), print)
    plan = by_name(nodes, store)
    assert {p.state for p in plan.values()} == {"cached"}
    assert {name: p.fingerprint for name, p in plan.items()} == {
        name: manifest.fingerprint for name, manifest in made.items()
    }


def rewrite(monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    """Let the source of rag/chunks.py have another text, for whoever hashes it."""
    source, read_text = ROOT / "rag" / "chunks.py", Path.read_text
    text = read_text(source, encoding="utf-8")
    assert text.count(old) == 1
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda self, **k: text.replace(old, new) if self == source else read_text(self, **k),
    )
    fingerprint.forget()


def test_an_edit_is_accepted_by_its_bytes(built: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    store, nodes, made = built
    old, before = made["index"], contents(store.root)
    with monkeypatch.context() as patched:
        rewrite(patched, SAME[0], SAME[1] + SAME[0].removeprefix("ordered = "))
        found = accept(old, nodes, "index", context(store), print)
        assert (found.stands_for_it, list(found.changed)) == (old.fingerprint, ["rag/chunks.py"])
        planned = by_name(nodes, store)["index"]
        assert (planned.fingerprint, planned.state) == (old.fingerprint, "cached")
        assert planned.reason == f"accepted for {found.fingerprint}"
        with pytest.raises(ConfigError, match="was accepted already; there is nothing to accept"):
            accept(old, nodes, "index", context(store), print)
    with monkeypatch.context() as patched:
        rewrite(patched, *OTHER)
        real = chunks.chunks_of
        patched.setattr(
            chunks, "chunks_of", lambda *a: [c._replace(id=f"{c.id}0") for c in real(*a)]
        )
        with pytest.raises(ArtifactError, match=r"differ in .*passages\.jsonl.*nothing was acc"):
            accept(old, nodes, "index", context(store), print)
    fingerprint.forget()
    assert len(list(store.root.glob("accepted/*/*.json"))) == 1
    after = contents(store.root)
    assert {name: after[name] for name in before} == before  # nothing was written over


def test_more_than_code_or_nothing_is_refused(built: tuple, composed: Callable) -> None:
    store, nodes, made = built
    with pytest.raises(ConfigError, match="is what the code makes as it is"):
        accept(made["index"], nodes, "index", context(store), print)
    other = composed(*SMALL, "rag.chunk_words=30")[1]
    with pytest.raises(ConfigError, match="chunk_words differ; accept is for changed code alone"):
        accept(made["index"], other, "index", context(store), print)
    with pytest.raises(ConfigError, match=r"node \(=rm\) must be a node of the run"):
        accept(made["index"], nodes, "rm", context(store), print)
    with pytest.raises(ConfigError, match="be of kind index"):
        accept(made["index"], nodes, "documents", context(store), print)
    assert not (store.root / "accepted").exists()


def test_an_artifact_that_no_run_used_is_refused(built: tuple) -> None:
    store, _, made = built
    words = ["accept", f"index/{made['index'].fingerprint}", "--store", str(store.root)]
    with pytest.raises(ArtifactError, match=r"must have been used by a run.*and no run of .* did;"):
        verbs.main(words)
    with pytest.raises(ArtifactError, match=r"'r1' must be a run of"):
        verbs.main([*words, "--run", "r1"])


def test_a_damaged_artifact_is_not_accepted(built: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    store, nodes, made = built
    edited(monkeypatch, "rag/chunks.py")
    file = store.folder("index", made["index"].fingerprint) / "passages.jsonl"
    file.write_bytes(file.read_bytes()[::-1])
    with pytest.raises(ArtifactError, match=r"passages\.jsonl has other content"):
        accept(made["index"], nodes, "index", context(store), print)
    assert not (store.root / "accepted").exists()


def recorded(store: Store, new: str, old: str) -> Path:
    return write_accepted(store.root, Accepted("index", new, old, "index", {}, {}, {}, ""))


def test_a_record_whose_artifact_is_gone_says_nothing(
    built: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, nodes, made = built
    edited(monkeypatch, "rag/chunks.py")
    new = by_name(nodes, store)["index"].fingerprint
    recorded(store, new, made["index"].fingerprint)
    assert by_name(nodes, store)["index"].fingerprint == made["index"].fingerprint
    shutil.rmtree(store.folder("index", made["index"].fingerprint))
    planned = by_name(nodes, store)["index"]
    assert (planned.state, planned.fingerprint) == ("build", new)


@pytest.mark.parametrize("damage", ["[]", "{", '{"kind": "rm"}', "../x", None])
def test_a_damaged_record_is_said(
    built: tuple, monkeypatch: pytest.MonkeyPatch, damage: str | None
) -> None:
    store, nodes, _ = built
    edited(monkeypatch, "rag/chunks.py")
    new = by_name(nodes, store)["index"].fingerprint
    path = recorded(store, new, "../../../elsewhere" if damage is None else "0" * 16)
    assert path == record_path(store.root, "index", new)
    if damage is not None:
        path.write_text(damage)
    with pytest.raises(ArtifactError, match=r"is damaged .*; remove it"):
        make_plan(nodes, store)


def test_times_are_no_difference_and_any_other_metric_is(tmp_path: Path) -> None:
    folders, manifests = [], []
    for n, rate in enumerate((0.5, 0.25)):
        folder = tmp_path / str(n)
        folder.mkdir()
        row = {"update": 1, "loss": float("nan"), "time/update_seconds": rate}
        (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        about = {"metrics.jsonl": {"size": 1, "sha256": str(n)}}
        metrics = {"rag/build_seconds": rate, "ppo/episodes_per_second": rate, "loss": 1.0}
        manifests.append(Manifest("a", "ppo", f"{n}", {}, {}, about, metrics))
        folders.append(folder)
    assert different_files(tuple(manifests), tuple(folders)) == []
    (folders[1] / "metrics.jsonl").write_text('{"update": 1, "loss": 1.0}\n')
    manifests[1].metrics["loss"] = 1.0 + 2**-52
    manifests[1].files["state.json"] = {"size": 1, "sha256": "a"}
    assert different_files(tuple(manifests), tuple(folders)) == [
        "metrics.jsonl",
        "state.json (only in 1)",
        "metric loss",
    ]
