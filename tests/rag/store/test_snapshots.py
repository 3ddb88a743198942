"""An index of a live store's commit: it stands still while the store goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from worlds.articles import CPU, build, documents

from plumbrule.errors import ArtifactError, ConfigError, DataError
from plumbrule.pipeline.experiment import RunConfig
from plumbrule.pipeline.stages import STAGES
from plumbrule.store.fingerprint import changed_settings
from plumbrule.tracking.stage_tracker import NullTracker
from rag.config import IndexConfig
from rag.stage import run
from rag.store.opening import make_store, open_store
from rag.store.settings import StoreSettings

SMALL = {"dimensions": 256, "chunk_words": 8}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a live store of the small world in two commits, the first with all of it."""
    with make_store(tmp_path, "notes", StoreSettings(dimensions=32)) as store:
        store.add(documents(), ["*"])
        store.delete(["doc-0"])
    return tmp_path


def config(root: Path, **settings: Any) -> IndexConfig:
    """Return the settings of an index of the store."""
    return IndexConfig(store="notes", store_root=str(root), **{**SMALL, **settings})


def files(folder: Path) -> dict[str, bytes]:
    """Return the files of an index, but for the passages' rules."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_commit_gives_the_index_of_its_documents(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    metrics = run(config(root, commit=1), {}, CPU, out, NullTracker())
    assert metrics["rag/documents"] == 6
    assert metrics["rag/recall_at_1"] == 1.0
    assert files(out) == files(build(tmp_path / "other").path)


def test_a_rule_of_the_store_holds_in_the_index_and_no_rule_opens_nothing(root: Path) -> None:
    with open_store(root, "notes") as store:
        store.add([documents()[0]])  # nobody may read it
    out = root / "out"
    out.mkdir()
    run(config(root), {}, CPU, out, NullTracker())
    rows = [
        json.loads(line)
        for line in (out / "passages.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert {row["document"]: row["readers"] for row in rows} == {
        "doc-0": [],
        **{f"doc-{i}": ["*"] for i in range(1, 6)},
    }


def test_content_and_not_name_or_number_is_hashed(root: Path, tmp_path: Path) -> None:
    first, newest = config(root, commit=1), config(root)
    assert newest.commit == 2
    assert changed_settings(first) != changed_settings(newest)
    with open_store(root, "notes") as store:
        store.add([documents()[0]], ["*"])
    again = config(root)
    assert again.commit == 3
    assert changed_settings(again) == changed_settings(first)  # the same documents
    assert changed_settings(newest) == changed_settings(config(root, commit=2))
    with make_store(tmp_path, "copy", StoreSettings(dimensions=64)) as store:
        store.add(documents()[::-1], ["*"])
    other = IndexConfig(store="copy", store_root=str(tmp_path), **SMALL)
    assert changed_settings(other) == changed_settings(first)


def test_a_planned_index_is_not_built_of_another_store(root: Path, tmp_path: Path) -> None:
    planned = config(root)
    (root / "stores" / "notes").rename(root / "stores" / "old")
    with pytest.raises(ConfigError, match=r"store \(=notes\) must be one of .*\(old\)"):
        run(planned, {}, CPU, tmp_path, NullTracker())
    with make_store(root, "notes", StoreSettings(dimensions=32)) as store:
        store.add(documents(), ["*"])
        store.update(documents()[:1], ["ann"])
    with pytest.raises(DataError, match="is not the one that was planned with"):
        run(planned, {}, CPU, tmp_path, NullTracker())


def test_documents_that_changed_under_their_commit_are_refused(root: Path, tmp_path: Path) -> None:
    import sqlite3

    planned = config(root)
    with sqlite3.connect(root / "stores" / "notes" / "store.db") as database:
        database.execute("UPDATE documents SET record = replace(record, 'Cairo', 'Paris')")
    database.close()
    with pytest.raises(ArtifactError, match="are not those that were committed"):
        run(planned, {}, CPU, tmp_path, NullTracker())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"store": None, "commit": 1}, r"rag\.commit \(=1\) must be null without rag\.store"),
        ({"store": "absent"}, r"store \(=absent\) must be one of those in .*\(notes\)"),
        ({"store": "../notes"}, "must be a name of letters"),
        ({"store": "notes", "commit": 9}, r"commit \(=9\) .* must be one of 1 to 2"),
        ({"store": "notes", "commit": 0}, r"commit \(=0\)"),
    ],
)
def test_a_store_or_commit_that_is_not_there_is_refused(
    root: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        IndexConfig(store_root=str(root), **settings)


def test_an_index_of_a_store_reads_no_documents_node(
    root: Path, composed: Callable[..., tuple[RunConfig, list[Any]]]
) -> None:
    words = ("run.only=index", f"run.store={root}")
    _, nodes = composed(*words)
    assert [node.name for node in nodes] == ["documents", "index"]
    whole, nodes = composed(*words, "rag.store=notes")
    assert [node.name for node in nodes] == ["index"]
    assert nodes[0].config.commit == 2
    assert whole.rag.store_root == str(root)
    assert STAGES["index"].slots["documents"].required
