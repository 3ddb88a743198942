"""Artifacts: published whole or not at all, and damage is named."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from plumbrule.cli import verbs
from plumbrule.errors import ArtifactError, ConfigError, TrainingError
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store import claims, manifests
from plumbrule.store.artifacts import Artifact, Store
from plumbrule.store.json_files import write_json
from plumbrule.store.manifests import MANIFEST, Manifest, read_manifest, signed


def published(store: Store, **files: str) -> Path:
    folder = store.folder("sft", "abc")
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "optimizer.pt").write_text("state")
    store.publish(Manifest("sft", "sft", "abc", {"seed": 1}, {}, metrics={"sft/loss": 1.0}))
    return folder


def test_publishing_lists_files_and_drops_working_state(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = published(store, a="hello", b="there")
    manifest = store.manifest("sft", "abc")
    assert manifest is not None
    assert set(manifest.files) == {"a", "b"}
    assert manifest.files["a"]["size"] == 5
    assert not (folder / "checkpoints").exists()
    store.verify("sft", "abc")


def test_no_manifest_means_unfinished(tmp_path: Path) -> None:
    assert Store(tmp_path).manifest("sft", "abc") is None


def test_a_changed_size_is_named_at_once_and_changed_content_on_demand(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = published(store, a="hello", b="there")
    (folder / "b").write_text("thera")
    assert store.manifest("sft", "abc") is not None
    with pytest.raises(ArtifactError, match="b has other content than"):
        store.verify("sft", "abc")
    (folder / "a").write_text("hell")
    with pytest.raises(ArtifactError, match=r"sft/abc is damaged: a has 4 bytes .* says 5"):
        store.manifest("sft", "abc")
    (folder / "a").unlink()
    with pytest.raises(ArtifactError, match="a is missing"):
        store.manifest("sft", "abc")


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = published(store, a="x")
    (folder / MANIFEST).write_text('{"node": "sft"')
    with pytest.raises(ArtifactError, match=r"manifest\.json is damaged"):
        store.manifest("sft", "abc")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"files": {"a": {"size": 10**400}}}, "files.a has no size"),
        ({"files": {"a": {"size": -1}}}, "files.a has no size"),
        ({"wall_seconds": 10**400}, "wall_seconds is no time"),
        ({"wall_seconds": float("nan")}, "wall_seconds is no time"),
        ({"wall_seconds": float("inf")}, "wall_seconds is no time"),
        ({"wall_seconds": -1.0}, "wall_seconds is no time"),
        ({"metrics": {"data/rows": 10**400}}, "metrics.data/rows is no number, or out of range"),
    ],
)
def test_a_number_out_of_range_is_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: dict[str, Any], said: str
) -> None:
    """What is added up or printed of a manifest, also of one whose digest is right."""
    store = Store(tmp_path)
    folder = published(store, a="x")
    about = asdict(read_manifest(folder))
    if "files" in damage:
        damage = {"files": {"a": {**about["files"]["a"], **damage["files"]["a"]}}}
    (folder / MANIFEST).write_text(signed({**about, **damage}))
    with pytest.raises(ArtifactError, match=rf"is damaged \({said}\)"):
        read_manifest(folder)
    assert verbs.main(["ls", "--artifacts", "--store", str(tmp_path)]) == 0
    assert "no such artifacts" in capsys.readouterr().out


def test_pickles_are_never_published(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.folder("sft", "abc")
    folder.mkdir(parents=True)
    (folder / "training_args.bin").write_text("x")
    with pytest.raises(ArtifactError, match=r"training_args\.bin, a pickle format"):
        store.publish(Manifest("sft", "sft", "abc", {}, {}))
    assert not (folder / MANIFEST).exists()


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"run\.store .* must be a folder that can be written"):
        Store(tmp_path / "file").require_writable()


def test_a_store_can_be_moved(tmp_path: Path) -> None:
    published(Store(tmp_path / "here"), a="x")
    (tmp_path / "here").rename(tmp_path / "there")
    assert Store(tmp_path / "there").manifest("sft", "abc") is not None
    text = (Store(tmp_path / "there").folder("sft", "abc") / MANIFEST).read_text()
    assert str(tmp_path) not in text


def test_an_artifact_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"has no model"):
        Artifact.of(tmp_path, "sft").file("model")
    with pytest.raises(ArtifactError, match="read by its files only"):
        Artifact.of(tmp_path, "sft").open(RuntimeConfig())


def test_files_of_a_moment_are_not_published(tmp_path: Path) -> None:
    """A waiting command's clock, a dead one's claim and half-written files may lie beside."""
    store = Store(tmp_path)
    folder = store.folder("sft", "abc")
    folder.mkdir(parents=True)
    for name in (".clock-1", ".claim-2", ".manifest.json.77", "metrics.partial", "a"):
        (folder / name).write_text("x")
    manifest = store.publish(Manifest("sft", "sft", "abc", {}, {}))
    assert set(manifest.files) == {"a"}


def test_waiting_commands_do_not_disturb_publishing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.folder("sft", "abc")
    stop = threading.Event()
    with claims.acquire(folder, "builder"):

        def wait() -> None:
            while not stop.is_set():
                claims.acquire(folder, "waiter")

        waiters = [threading.Thread(target=wait) for _ in range(3)]
        for waiter in waiters:
            waiter.start()
        try:
            for n in range(40):
                (folder / f"file-{n}").write_text("x" * n)
                store.publish(Manifest("sft", "sft", "abc", {}, {}))
        finally:
            stop.set()
            for waiter in waiters:
                waiter.join()
    manifest = store.manifest("sft", "abc")
    assert manifest is not None
    assert len(manifest.files) == 40


def test_a_claim_lost_at_the_last_moment_publishes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.folder("sft", "abc")
    folder.mkdir(parents=True)

    def lost() -> None:
        raise TrainingError("taken over")

    with pytest.raises(TrainingError, match="taken over"):
        store.publish(Manifest("sft", "sft", "abc", {}, {}), before_it_counts=lost)
    assert not (folder / MANIFEST).exists()


def test_one_unreadable_manifest_does_not_stop_a_plan(tmp_path: Path) -> None:
    store = Store(tmp_path)
    published(store, a="x")
    other = store.folder("rm", "def")
    other.mkdir(parents=True)
    (other / MANIFEST).write_text("{")
    assert [m.kind for m in store.manifests()] == ["sft"]
    path = store.folder("sft", "abc") / MANIFEST
    later = json.loads(path.read_text())
    later.pop("digest")
    path.write_text(signed({**later, "new_field": 1}))  # of a later version
    assert store.manifest("sft", "abc") is not None


def test_json_is_replaced_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1})
    write_json(tmp_path / "a.json", {"x": 2})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_path_in_an_attempt_is_named_as_it_will_be_published(tmp_path: Path) -> None:
    folder = Store(tmp_path).folder("sft", "abc")
    attempt = claims.build_folder(folder) / "token"
    assert claims.published_path(attempt) == folder
    assert claims.published_path(attempt / "model" / "x") == folder / "model" / "x"
    assert claims.published_path(folder / "model") == folder / "model"


def test_what_this_user_may_not_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*a: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(manifests.os, "lstat", refuses)
    with pytest.raises(PermissionError):
        manifests.file_damage(tmp_path / "x", {"size": 1})
    monkeypatch.setattr(Path, "read_bytes", refuses)
    with pytest.raises(PermissionError):
        manifests.read_manifest(tmp_path)
