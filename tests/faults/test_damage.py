"""Every published kind of file, damaged in every way, is refused by name wherever it is read."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from eval.comparisons import compare, costs, methods
from plumbrule.cli.verbs.label import labels_of
from plumbrule.cli.verbs.replay import inputs_of
from plumbrule.errors import ArtifactError
from plumbrule.inputs import GatheredInput
from plumbrule.report import render_report
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store import manifests
from plumbrule.store.artifacts import Artifact, Store
from plumbrule.store.manifests import MANIFEST, Manifest
from plumbrule.tracking.stage_tracker import NullTracker
from rlhf.reward_model.model import reward_model_of
from rlhf.studies.overoptimisation import read_ppo

FILES = {
    "data": ("records.jsonl", "validation.jsonl", "card.json"),
    "sft": ("model/model.safetensors", "model/config.json", "model/policy.json", "metrics.jsonl"),
    "rm": ("model/model.safetensors", "head.safetensors", "reward_stats.json", "report_card.json"),
    "ppo": ("rollouts/update-00001.parquet", "value/head.safetensors", "metrics.jsonl"),
    "feedback": ("samples.jsonl", "questions.jsonl", "labels.jsonl", "labelling.json"),
    "best_of_n": ("curve.json", "prompts.jsonl"),
    "index": ("index.faiss", "bm25/data.csc.index.npy", "passages.jsonl", "fingerprint.json"),
    "eval": ("metrics.json", "items/prompts.jsonl", "items/questions.jsonl", "evaluated.json"),
    "compare": ("comparisons.json", "notes.json", "tables.json", "figures.json"),
    "summary": ("summary.json",),
    "overoptimisation": ("fits.json",),
}
EVERY = [(kind, name) for kind, names in FILES.items() for name in names]


def publish(store: Store, kind: str, fingerprint: str, files: dict[str, str]) -> Artifact:
    """Publish an artifact with these files as a stage's attempt is published."""
    attempt = store.folder(kind, f"{fingerprint}.build") / "token"
    for name, text in files.items():
        (attempt / name).parent.mkdir(parents=True, exist_ok=True)
        (attempt / name).write_text(text)
    store.publish(Manifest(kind, kind, fingerprint, {}, {}), attempt)
    return Artifact.at(store.folder(kind, fingerprint))


def flip(path: Path) -> None:
    """Change one bit in the middle, in place, and put the times back."""
    before = path.stat()
    with open(path, "r+b") as file:
        file.seek(before.st_size // 2)
        (byte,) = file.read(1)
        file.seek(before.st_size // 2)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flip": flip,
    "truncate": lambda path: os.truncate(path, path.stat().st_size - 1),
    "empty": lambda path: os.truncate(path, 0),
    "link": lambda path: (path.rename(path.with_name("aside")), path.symlink_to("aside")),
    "remove": Path.unlink,
}


def damaged(path: Path, how: str, other: bytes) -> None:
    """Damage a file; `other` is what another artifact has in its place, as long as it."""
    if how == "swap":
        path.write_bytes(other)
    else:
        DAMAGES[how](path)


@pytest.mark.parametrize("how", [*DAMAGES, "swap"])
def test_every_kind_of_file_is_refused_when_damaged(tmp_path: Path, how: str) -> None:
    store = Store(tmp_path)
    for number, (kind, name) in enumerate(EVERY):
        artifact = publish(store, kind, f"{number:016x}", {name: '{"x": 1}\n', "more/a": "a"})
        whole = artifact.file(name)
        assert whole.read_text() == '{"x": 1}\n'
        damaged(whole, how, b'{"x": 2}\n')
        for asked in (name, name.split("/")[0]):
            with pytest.raises(ArtifactError) as error:
                artifact.file(asked)
            said = str(error.value)
            assert f"{kind} artifact {artifact.path} is damaged: {name} " in said, (kind, name)
            assert "remove the folder and run the same command to build it again" in said
        with pytest.raises(ArtifactError, match="is damaged"):
            store.verify(kind, artifact.fingerprint)
        artifact.file("more")  # what is whole is read all the same


@pytest.mark.parametrize("place", range(0, 100, 5))
def test_a_flipped_byte_of_a_manifest_is_refused(tmp_path: Path, place: int) -> None:
    """At 20 places of it, its digest among them; the last line is the most of such a small one."""
    artifact = publish(Store(tmp_path), "sft", "a1", {"notes.json": "[]"})
    path = artifact.path / MANIFEST
    whole = path.read_bytes()
    at = min(len(whole) - 1, place * len(whole) // 95)
    for bit in (0, 3, 5):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        with pytest.raises(ArtifactError, match=r"manifest\.json is damaged .*remove the folder"):
            Artifact.at(artifact.path)


@pytest.mark.parametrize("how", ["truncate", "empty", "swap"])
def test_a_damaged_manifest_is_refused(tmp_path: Path, how: str) -> None:
    store = Store(tmp_path)
    path = publish(store, "sft", "a1", {"notes.json": "[]"}).path / MANIFEST
    other = publish(store, "sft", "b2", {"notes.json": "[]"}).path / MANIFEST
    damaged(path, how, other.read_bytes())
    with pytest.raises(ArtifactError, match=r"sft/a1/manifest\.json is damaged"):
        store.manifest("sft", "a1")


@pytest.mark.parametrize("name", ["../b2/notes.json", "/etc/hostname", "model/../../b2/x", ""])
def test_nothing_outside_an_artifact_is_read(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path)
    publish(store, "sft", "b2", {"notes.json": "[]"})
    artifact = publish(store, "sft", "a1", {"notes.json": "[]", "model/x": "x"})
    with pytest.raises(ArtifactError, match="must be inside the artifact"):
        artifact.file(name)


def test_no_more_is_read_than_was_published(tmp_path: Path) -> None:
    artifact = publish(Store(tmp_path), "sft", "a1", {"model/config.json": "{}"})
    (artifact.path / "model" / ".DS_Store").touch()  # nobody reads it
    artifact.file("model")
    (artifact.path / "model" / "adapter_config.json").write_text("{}")
    for name in ("model", "model/adapter_config.json"):
        with pytest.raises(ArtifactError, match=r"model/adapter_config\.json was added after"):
            artifact.file(name)
    (artifact.path / "model").rename(tmp_path / "elsewhere")
    (artifact.path / "model").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="model is a link"):
        artifact.file("model/config.json")


def test_a_file_is_read_once_for_checking_and_again_when_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = publish(Store(tmp_path), "sft", "a1", {"model/a": "aaaa", "model/b": "bbbb"})
    read: list[str] = []
    real = manifests.digests
    monkeypatch.setattr(
        manifests, "digests", lambda path, *names: (read.append(path.name), real(path, *names))[1]
    )
    time.sleep(2 * manifests.UNSETTLED_SECONDS)
    for _ in range(3):
        artifact.file("model")
    assert sorted(read) == ["a", "b"]
    flip(artifact.path / "model" / "b")
    with pytest.raises(ArtifactError, match="model/b has other content"):
        artifact.file("model")
    assert sorted(read) == ["a", "b", "b"]


def test_an_artifact_of_an_earlier_version_is_checked_by_sha256(tmp_path: Path) -> None:
    """Its manifest has neither a digest of its own nor fast ones."""
    artifact = publish(Store(tmp_path), "sft", "a1", {"notes.json": "[]"})
    about = json.loads((artifact.path / MANIFEST).read_text())
    for name in ("digest", "built_by"):
        about.pop(name)
    about["files"]["notes.json"].pop("xxh128")
    (artifact.path / MANIFEST).write_text(json.dumps(about, indent=1))
    older = Artifact.at(artifact.path)
    assert older.file("notes.json").read_text() == "[]"
    flip(older.path / "notes.json")
    with pytest.raises(ArtifactError, match=r"notes\.json has other content"):
        older.file("notes.json")


def test_what_workers_are_told_holds_the_list_of_files(tmp_path: Path) -> None:
    """As `launch.py` writes it into stage.json and `worker.py` reads it."""
    artifact = publish(Store(tmp_path), "sft", "a1", {"notes.json": "[]"})
    told = json.loads(json.dumps({**asdict(artifact), "path": str(artifact.path)}))
    flip(artifact.path / "notes.json")
    with pytest.raises(ArtifactError, match=r"notes\.json has other content"):
        Artifact(**{**told, "path": Path(told["path"])}).file("notes.json")


ROW = '{"id": "p", "condition": "closed", "group": "p", "gold": 1.0}\n'


def compared(store: Store, artifact: Artifact) -> None:
    whole = publish(store, "eval", "ffff", WAYS["compare"][1])
    inputs = {"baseline": whole, "policy": artifact}
    compare.run(compare.CompareConfig(), inputs, RuntimeConfig(), store.root, NullTracker())


def labels(store: Store, artifact: Artifact) -> None:
    labels_of(store, artifact.fingerprint)


def reported(store: Store, artifact: Artifact) -> None:
    node = {"kind": "eval", "state": "built", "inputs": {}, "wall_seconds": 1.0, "hardware": {}}
    record = {"metrics": {}, "overrides": [], "notes": [], "headline": []}
    render_report({**record, "nodes": {"node": node}}, {"node": artifact.path})


WAYS: dict[str, tuple[Callable[[Store, Artifact], object], dict[str, str], str]] = {
    "compare": (
        compared,
        {"evaluated.json": '{"kind": "sft", "settings": {}}', "items/prompts.jsonl": ROW},
        "items/prompts.jsonl",
    ),
    "methods": (lambda s, a: methods.read_items(a), {"items/prompts.jsonl": ROW}, "items"),
    "curve": (lambda s, a: read_ppo(a), {"metrics.jsonl": '{"update": 1}\n'}, "metrics.jsonl"),
    "best_of_n": (
        lambda s, a: methods.best_of_n([GatheredInput("", {}, a)], [], methods.MethodsConfig()),
        {"prompts.jsonl": "{}\n"},
        "prompts.jsonl",
    ),
    "reward model": (
        lambda s, a: reward_model_of(a, "cpu"),
        {"reward_stats.json": "{}", "head.safetensors": "x", "model/config.json": "{}"},
        "head.safetensors",
    ),
    "label": (labels, {"labelling.json": '{"labels": "labels/1"}'}, "labelling.json"),
    "costs": (lambda s, a: costs.lineage(a), {"notes.json": "[]"}, MANIFEST),
    "report": (reported, {"notes.json": '["x"]'}, "notes.json"),
    "report of curves": (reported, {"metrics.jsonl": '{"update": 1}\n'}, "metrics.jsonl"),
    "report of samples": (reported, {"samples.jsonl": "{}\n"}, "samples.jsonl"),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_in_looks(tmp_path: Path, way: str) -> None:
    go, files, name = WAYS[way]
    store = Store(tmp_path)
    kind = "feedback" if way == "label" else "eval"
    artifact = publish(store, kind, "a1", files)
    path = artifact.path / name
    flip(next(iter(path.iterdir())) if path.is_dir() else path)
    with pytest.raises(ArtifactError, match="is damaged"):
        go(store, artifact)


def test_an_input_of_a_verb_is_checked(tmp_path: Path) -> None:
    store = Store(tmp_path)
    data = publish(store, "data", "b2", {"records.jsonl": "{}\n"})
    manifest = replace(Manifest("ppo", "ppo", "c3", {}, {}), inputs={"prompts": "b2"})
    flip(data.path / "records.jsonl")
    with pytest.raises(ArtifactError, match=r"records\.jsonl has other content"):
        inputs_of(store, manifest)["prompts"].file("records.jsonl")
