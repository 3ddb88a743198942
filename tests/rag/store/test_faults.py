"""What must not fail, or must be said, when a disk, a file or another process gets in the way."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import forked
import pytest

from plumbrule.data.records import Document
from plumbrule.errors import ArtifactError, ConfigError, DataError
from rag.store import database, derived
from rag.store.live import LiveStore
from rag.store.opening import make_store, open_store
from rag.store.settings import StoreSettings
from rag.store.sqlite_errors import explained

SETTINGS = StoreSettings(chunk_words=5, dimensions=16)
EVERYONE = ["*"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LiveStore]:
    """A new store."""
    with make_store(tmp_path, "notes", SETTINGS) as one:
        yield one


def holding(folder: Path, text: bytes) -> list[str]:
    """Return the names of the files under a folder that hold a text."""
    return [p.name for p in folder.rglob("*") if p.is_file() and text in p.read_bytes()]


def test_a_purge_leaves_a_text_in_no_file_and_says_where_a_reader_keeps_it(
    store: LiveStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "ERASE_SECONDS", 0.1)
    secret = b"Xylographer"
    store.add([Document("a", "Xylographer lived in Rome."), Document("b", "Bo.")], EVERYONE)
    with open_store(store.folder.parent.parent, "notes") as other:
        store.delete(["a"])
        with other._database.transaction():
            other._database.newest()
            assert store.compact() == 1
            assert not store.erased
            assert holding(store.folder, secret)
        assert store.compact() == 0
        assert store.erased
        assert holding(store.folder, secret) == []


def test_a_change_that_is_committed_is_not_reported_as_failed(store: LiveStore) -> None:
    shutil.rmtree(store.folder / "derived", ignore_errors=True)
    (store.folder / "derived").write_text("", encoding="utf-8")
    assert store.add([Document("a", "Rome.")], EVERYONE).number == 1
    assert "File exists" in store.untidied
    assert len(store.search(["Rome"], 1, "ann", "bm25")[0]) == 1
    (store.folder / "derived").unlink()
    assert store.delete(["a"]).number == 2
    assert store.untidied == ""


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: entry.__setitem__(1, "x"),
        lambda entry: entry.__setitem__(0, 1.5),
        lambda entry: entry.__setitem__(0, 2),
        lambda entry: entry.__setitem__(2, f"../derived/{entry[2]}"),
        lambda entry: entry.__setitem__(3, ["numbers.npy"]),
        lambda entry: entry.__setitem__(3, {"numbers.npy": 5}),
    ],
)
def test_a_list_of_segments_with_wrong_types_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage
) -> None:
    monkeypatch.setattr(derived, "TAIL_MOST", 2)
    with make_store(tmp_path, "notes", SETTINGS) as store:
        store.add([Document("a", "Rome."), Document("b", "Oslo.")], EVERYONE)
        path = store.folder / "derived" / "segments.json"
    listed = json.loads(path.read_text(encoding="utf-8"))
    damage(listed["segments"][0])
    path.write_text(json.dumps(listed), encoding="utf-8")
    with open_store(tmp_path, "notes") as store:
        assert store.stats()["tail"] == 2
        assert len(store.search(["Rome"], 1, "ann", "bm25")[0]) == 1


def test_a_full_disk_is_said_while_a_store_is_made(tmp_path: Path) -> None:
    """A limit on the size of a file stands for the disk: writing fails as on a full one."""
    code = (
        "import sys, resource, signal\n"
        "from pathlib import Path\n"
        "from plumbrule.errors import ArtifactError\n"
        "from rag.store.opening import make_store\n"
        "from rag.store.settings import StoreSettings\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "try: make_store(Path(sys.argv[1]), 'notes', StoreSettings())\n"
        "except ArtifactError as error: print(error)\n"
    )
    done = forked.run(["-c", code, str(tmp_path)], None, tmp_path, timeout=600.0)
    assert "can't be written" in done.stdout, done.stderr
    assert "make room" in done.stdout
    make_store(tmp_path, "notes", SETTINGS).close()


def test_what_sqlite_can_not_write_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with sqlite3.connect(path) as sql:
        sql.execute("CREATE TABLE a (b)")
    sql.close()
    read_only = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    with pytest.raises(ArtifactError, match="read-only for this user"), explained(path):
        read_only.execute("INSERT INTO a VALUES (1)")
    read_only.close()
    small = sqlite3.connect(path)
    small.execute("PRAGMA max_page_count = 3")
    with pytest.raises(ArtifactError, match="the disk is full"), explained(path):
        small.execute("INSERT INTO a VALUES (zeroblob(100000))")
    small.close()


def test_calls_of_the_wrong_kind_are_refused_and_empty_ones_commit_nothing(
    store: LiveStore,
) -> None:
    store.add([Document("a", "Rome.")], EVERYONE)
    assert [one.number for one in (store.add([]), store.update([]), store.delete([]))] == [1] * 3
    with pytest.raises(ConfigError, match=r"k \(=2\.5\) must be a whole number"):
        store.search(["Rome"], 2.5, "ann")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"groups \(='ann'\) must be a list of texts"):
        store.search(["Rome"], 2, "bo", "bm25", "ann")
    with pytest.raises(ConfigError, match=r"queries \(='Rome'\) must be a list of texts"):
        store.search("Rome", 2, "bo")
    with pytest.raises(DataError, match=r"ids \(='ab'\) must be a list of texts"):
        store.delete("ab")


@pytest.mark.parametrize(
    "document",
    [
        Document("a", "Rome \ud800."),
        Document("a", "Rome.", "\ud800"),
        Document("a", "Rome.", meta={"x": "\ud800"}),
        Document("a", "Rome.", meta={"x": object()}),
        Document(" ", "Rome."),
    ],
)
def test_a_document_that_no_store_can_hold_is_named(store: LiveStore, document: Document) -> None:
    with pytest.raises(DataError, match=r"^document '.' must|^document 'a': .* must be"):
        store.add([document], EVERYONE)
    assert store.commit.number == 0


@pytest.mark.parametrize("method", ["dense", "hybrid"])
def test_what_shares_nothing_with_a_query_is_not_found(store: LiveStore, method: str) -> None:
    store.add([Document("a", "Rome."), Document("b", "Zzz qqq xyz.")], EVERYONE)
    for query in ("Rome", "kept"):
        (found,) = store.search([query], 5, "ann", method)
        assert all(one.score > 0 for one in found)
    (found,) = store.search(["Rome"], 5, "ann", "dense")
    assert found[0].chunk.id == "a#0"
