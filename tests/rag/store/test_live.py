"""A live store against a model of it: what lives, who may find it, and in which order."""

from __future__ import annotations

import fcntl
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import forked
import numpy as np
import pytest
from worlds.live_stores import PRINCIPALS, WORDS, Model, random_change

from plumbrule.data.records import Document
from plumbrule.errors import ArtifactError, ConfigError, DataError
from rag.chunks import Chunk
from rag.index.bm25 import KeywordIndex
from rag.index.dense import VectorIndex, import_faiss
from rag.index.protocol import Hits
from rag.index.ranking import DENSE_WEIGHT, POOL, fuse
from rag.options import DENSE_INDEXES
from rag.store import derived, verification
from rag.store.live import LiveStore
from rag.store.opening import make_store, open_store
from rag.store.ranking import positive
from rag.store.settings import StoreSettings

SETTINGS = {"chunk_words": 5, "dimensions": 32}


def opened(root: Path, **settings: Any) -> LiveStore:
    """Return a new store with small chunks."""
    return make_store(root, "notes", StoreSettings(**{**SETTINGS, **settings}))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LiveStore]:
    """A new store."""
    with opened(tmp_path) as one:
        yield one


def found_ids(store: LiveStore, query: str, principal: str = "ann", method: str = "bm25") -> list:
    """Return the ids of the chunks that a query finds."""
    return [one.chunk.id for one in store.search([query], 10, principal, method)[0]]


EVERYONE = ["*"]
QUILL = Document("a", "Ada Quill lived in Rome.")
MARSH = Document("b", "Bo Marsh lived in Cairo.")


def found_texts(store: LiveStore, query: str, principal: str = "ann") -> list[str]:
    """Return the texts that keyword and dense search find, which must be the same."""
    keyword, dense = (
        [f.chunk.text for f in store.search([query], 10, principal, method)[0] if f.score > least]
        for method, least in (("bm25", 0.0), ("dense", 0.3))
    )
    assert keyword == dense
    return keyword


def test_what_is_added_updated_and_deleted_is_seen_by_both_searches_at_once(
    store: LiveStore,
) -> None:
    assert found_texts(store, "Rome") == []
    assert store.add([QUILL, MARSH], EVERYONE).number == 1
    assert found_texts(store, "Rome") == [QUILL.text]
    store.update([Document("a", "Ada Quill moved to Lima.")], EVERYONE)
    assert found_texts(store, "Lima") == ["Ada Quill moved to Lima."]
    assert found_texts(store, "Rome") == []
    assert store.delete(["a"]).documents == 1
    assert found_texts(store, "Lima") == []


def test_another_process_s_changes_are_seen_without_opening_again(tmp_path: Path) -> None:
    with opened(tmp_path) as one, open_store(tmp_path, "notes") as other:
        one.add([QUILL], EVERYONE)
        assert found_texts(other, "Rome") == [QUILL.text]
        other.delete(["a"])
        assert found_texts(one, "Rome") == []


def test_two_processes_that_add_at_once_lose_nothing(tmp_path: Path) -> None:
    opened(tmp_path).close()
    code = (
        "import sys; from pathlib import Path; from rag.store.opening import open_store\n"
        "from plumbrule.data.records import Document\n"
        "with open_store(Path(sys.argv[1]), 'notes') as store:\n"
        "    for n in range(8): store.add([Document(f'{sys.argv[2]}{n}', 'Some text.')], ['*'])"
    )
    both = [forked.Forked(["-c", code, str(tmp_path), name]) for name in "ab"]
    assert [child.wait() for child in both] == [0, 0]
    with open_store(tmp_path, "notes") as store:
        assert store.commit[0] == store.commit.documents == 16
        assert len(found_texts(store, "text")) == 10
        found = store.search(["text"], 99, "ann", "bm25")[0]
        assert [one.number for one in found] == list(range(1, 17))


def test_numbers_rise_and_are_never_used_again(tmp_path: Path) -> None:
    """As they were in a store whose newest number was that of a vector which had been removed."""
    with opened(tmp_path) as store:
        store.add([QUILL, MARSH], EVERYONE)
        first = [one.number for one in store.search(["lived"], 10, "ann", "bm25")[0]]
        store.delete(["b"])
        store.compact()
    with open_store(tmp_path, "notes") as store:
        store.add([Document("d", "Di Thorne lived in Oslo.")], EVERYONE)
        (new,) = store.search(["Oslo"], 1, "ann", "bm25")[0]
        assert new.number > max(first)
        assert new.chunk.text == "Di Thorne lived in Oslo."
        (old,) = store.search(["Rome"], 1, "ann", "dense")[0]
        assert (old.number, old.chunk.id) == (first[0], "a#0")


def test_a_change_is_whole_or_not_at_all(store: LiveStore) -> None:
    store.add([QUILL], EVERYONE)
    before = store.commit
    for change in (
        lambda: store.add([MARSH, QUILL], EVERYONE),
        lambda: store.add([MARSH, MARSH], EVERYONE),
        lambda: store.update([QUILL, MARSH], EVERYONE),
        lambda: store.delete(["a", "b"]),
    ):
        with pytest.raises(DataError, match=r"'[ab]'|\(=[ab]\)"):
            change()
        assert store.commit == before
        assert found_ids(store, "lived") == ["a#0"]


def test_no_rule_means_that_nobody_finds_it(store: LiveStore) -> None:
    own = Document("b", MARSH.text, meta={"readers": ["bob"]})
    store.add([QUILL, own])
    assert found_ids(store, "lived") == found_ids(store, "lived", method="dense") == []
    assert found_ids(store, "lived", "bob") == ["b#0"]
    assert store.stats()["chunks_that_nobody_may_read"] == 1
    assert [d.meta["readers"] for d in store.documents()] == [[], ["bob"]]
    for principal in ("", " ", "*"):
        with pytest.raises(ConfigError, match="principal"):
            store.search(["lived"], 5, principal)


def test_a_score_says_nothing_of_what_one_may_not_read(store: LiveStore) -> None:
    """BM25's frequencies are of what the principal may find."""
    store.add([QUILL, MARSH], EVERYONE)
    before = store.search(["lived Rome"], 5, "ann", "bm25")
    secret = [Document(f"s{i}", "Rome Rome Rome lived.", meta={"readers": ["bob"]}) for i in "123"]
    store.add(secret)
    after = store.search(["lived Rome"], 5, "ann", "bm25")
    assert [(f.number, f.score) for f in after[0]] == [(f.number, f.score) for f in before[0]]
    assert len(store.search(["lived Rome"], 9, "bob", "bm25")[0]) == 5


def test_commits_keep_their_documents_until_a_purge(store: LiveStore) -> None:
    store.add([QUILL, MARSH], EVERYONE)
    store.update([Document("a", "Ada Quill moved.")], EVERYONE)
    store.delete(["b"])
    assert [[d.text for d in store.documents(n)] for n in (1, 2, 3)] == [
        [QUILL.text, MARSH.text],
        ["Ada Quill moved.", MARSH.text],
        ["Ada Quill moved."],
    ]
    for number in (0, 4, -1):
        with pytest.raises(ConfigError, match=rf"commit \(={number}\)"):
            store.documents(number)
    assert store.compact() == 2
    assert [d.text for d in store.documents()] == ["Ada Quill moved."]
    with pytest.raises(ConfigError, match=r"commit \(=2\) .* must be at least 3"):
        store.documents(2)


def test_what_is_removed_during_a_purge_stays_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The segments that the purge has made still hold it; its mark in the database must stay."""
    with opened(tmp_path) as store, open_store(tmp_path, "notes") as other:
        store.add([QUILL, MARSH, Document("c", "Cy.")], EVERYONE)
        store.delete(["c"])
        real = derived.DerivedIndex._made

        def made_while_another_deletes(self: Any, *bounds: int) -> Any:
            segment = real(self, *bounds)
            other.delete(["b"])
            return segment

        with monkeypatch.context() as patched:
            patched.setattr(derived.DerivedIndex, "_made", made_while_another_deletes)
            assert store.compact() == 1  # of c
        for one in (store, other):
            assert found_texts(one, "lived") == [QUILL.text]
    with open_store(tmp_path, "notes") as store:
        assert found_texts(store, "lived") == [QUILL.text]
        assert [d.id for d in store.documents()] == ["a"]


def test_content_is_of_what_lives_whatever_led_there(tmp_path: Path) -> None:
    def content(folder: str, *changes: Any) -> str:
        with opened(tmp_path / folder) as store:
            for change in changes:
                change(store)
            return store.commit.content

    one = content("1", lambda s: s.add([QUILL, MARSH], EVERYONE))
    two = content(
        "2",
        lambda s: s.add([MARSH], EVERYONE),
        lambda s: s.add([Document("a", "Other."), Document("c", "Gone.")]),
        lambda s: s.update([QUILL], EVERYONE),
        lambda s: s.delete(["c"]),
    )
    assert one == two
    assert content("3", lambda s: s.add([QUILL, MARSH], ["ann"])) != one


def test_settings_of_a_store_are_kept_and_names_are_checked(tmp_path: Path) -> None:
    opened(tmp_path, chunk_words=7).close()
    with open_store(tmp_path, "notes") as store:
        assert store.settings.chunk_words == 7
    with pytest.raises(ArtifactError, match="must be new"):
        opened(tmp_path)
    for name in ("../x", "", "a/b", ".hidden", "x" * 65):
        with pytest.raises(ConfigError, match="must be a name of letters"):
            make_store(tmp_path, name, StoreSettings())
    with pytest.raises(ConfigError, match=r"store \(=other\) must be one of .*\(notes\)"):
        open_store(tmp_path, "other")
    for settings in ({"chunk_words": 3}, {"dimensions": 8}, {"dense_index": "tree"}):
        with pytest.raises(ConfigError, match="|".join(settings).replace("_", "-")[:5]):
            opened(tmp_path / "new", **settings)


def test_a_damaged_database_is_named_and_damaged_segments_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(derived, "TAIL_MOST", 2)
    with opened(tmp_path) as store:
        store.add([QUILL, MARSH], EVERYONE)
        expected = store.search(["lived Rome"], 5, "ann")
        assert store.stats()["segments"] == [2]
    folder = tmp_path / "stores" / "notes"
    files = sorted(p for p in (folder / "derived").rglob("*") if p.is_file() and p.stat().st_size)
    assert len(files) >= 8
    for path in files:
        data = path.read_bytes()
        for damage in (data[: len(data) // 2], data[:-1] + bytes([data[-1] ^ 1]), None):
            path.unlink() if damage is None else path.write_bytes(damage)
            with open_store(tmp_path, "notes") as store:
                assert store.search(["lived Rome"], 5, "ann") == expected
            path.write_bytes(data)
    with open_store(tmp_path, "notes") as store:
        store.add([Document("c", "Cy Farrow lived in Rome."), Document("d", "Di.")], EVERYONE)
        assert found_ids(store, "Farrow") == ["c#0"]
    path = folder / "store.db"
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(ArtifactError, match=r"store\.db can't be read"):
        open_store(tmp_path, "notes")


def test_a_store_whose_making_was_cut_off_is_made_by_the_same_command(tmp_path: Path) -> None:
    folder = tmp_path / "stores" / "notes"
    (folder / "encoder").mkdir(parents=True)
    (folder / "store.db").touch()
    with pytest.raises(ArtifactError, match="was cut off"):
        open_store(tmp_path, "notes")
    with opened(tmp_path) as store:
        store.add([QUILL], EVERYONE)
        assert found_ids(store, "Rome") == ["a#0"]


def test_of_processes_that_make_a_store_at_once_one_makes_it_and_others_open_it(
    tmp_path: Path,
) -> None:
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from plumbrule.data.records import Document\n"
        "from rag.store.opening import open_or_make\n"
        "from rag.store.settings import StoreSettings\n"
        "name = sys.argv[2]\n"
        "settings = StoreSettings(dimensions=16 + int(name))\n"
        "while not Path(sys.argv[1], 'all are there').exists(): time.sleep(0.001)\n"
        "for turn in range(5):\n"
        "    with open_or_make(Path(sys.argv[1]), f'notes{turn}', settings) as store:\n"
        "        store.add([Document(name, 'Rome.')], ['*'])\n"
    )
    makers = [forked.Forked(["-c", code, str(tmp_path), str(number)]) for number in range(3)]
    (tmp_path / "all are there").touch()
    for maker in makers:
        _, errors = maker.communicate(timeout=60)
        assert maker.returncode == 0, errors
    for turn in range(5):
        with open_store(tmp_path, f"notes{turn}") as store:
            assert [one.id for one in store.documents()] == ["0", "1", "2"]


def test_a_maker_that_comes_late_leaves_the_store_that_another_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = shutil.rmtree

    def late(path: Path, **how: Any) -> None:
        monkeypatch.setattr(shutil, "rmtree", remove)
        with (
            pytest.raises(BlockingIOError),
            open(path.parent / "making.lock", "a", encoding="utf-8") as file,
        ):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # another would wait here
        remove(path, **how)

    monkeypatch.setattr(shutil, "rmtree", late)
    opened(tmp_path).close()
    with pytest.raises(ArtifactError, match=r"store \(=notes\) must be new"):
        opened(tmp_path, dimensions=64)
    with open_store(tmp_path, "notes") as store:
        assert store.settings.dimensions == 32


def test_vectors_that_are_not_finite_are_refused_and_nothing_is_lost(
    store: LiveStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add([QUILL], EVERYONE)
    real = store._encoder.encode_passages

    def broken(texts: list[str]) -> np.ndarray:
        return np.where(np.arange(32) == 3, np.nan, real(texts)).astype(np.float32)

    monkeypatch.setattr(store._encoder, "encode_passages", broken)
    with pytest.raises(DataError, match=r"vectors must be finite.*Bo Marsh"):
        store.add([MARSH], EVERYONE)
    assert found_ids(store, "lived") == ["a#0"]


def test_ids_that_are_no_unicode_are_refused(store: LiveStore) -> None:
    for id in ("a\udcff", "a\0"):
        with pytest.raises(DataError, match="must have an id without NUL, in Unicode"):
            store.add([Document(id, "Text.")])
    with pytest.raises(DataError, match="must be in the store to be deleted"):
        store.delete(["a\udcff"])  # as a shell gives a file's name


def test_odd_queries_find_little_and_break_nothing(store: LiveStore) -> None:
    store.add([QUILL, MARSH], EVERYONE)
    for query in ("", " ", "the of", "zzzz", "\0", "lived " * 5000):
        for method in ("bm25", "dense", "hybrid"):
            (found,) = store.search([query], 1000, "ann", method)  # k is larger than the store
            assert len(found) <= 2
    assert store.search([], 5, "ann") == []
    with pytest.raises(ConfigError, match="k "):
        store.search(["x"], 0, "ann")


FACTORIES = {"hnsw": "HNSW4", "sq8": "SQ8", "ivf": "IVF2,Flat"}
KINDS = ["flat", *FACTORIES]


def made_by(text: str) -> Callable[[np.ndarray], Any]:
    """Return the type of index of a FAISS factory string, trained on what it indexes."""

    def make(vectors: np.ndarray) -> Any:
        faiss = import_faiss()
        index = faiss.index_factory(vectors.shape[1], text, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            index.train(vectors)
        return index

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_random_changes_and_searches_agree_with_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Searches of the store against bm25s and a flat index of what the principal may find."""
    drive(tmp_path, monkeypatch, kind, seed=0, steps=20)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
@pytest.mark.parametrize("kind", KINDS)
def test_many_random_changes_and_searches_agree_with_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, seed: int
) -> None:
    drive(tmp_path, monkeypatch, kind, seed, steps=80)


def drive(folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str, seed: int, steps: int) -> None:
    """Make random changes, compact and open the store again, and let searches be compared."""
    option = type(DENSE_INDEXES.option("flat"))
    for name, text in FACTORIES.items():
        monkeypatch.setitem(DENSE_INDEXES._options, name, option(made_by(text)))
    monkeypatch.setattr(derived, "TAIL_MOST", 6)
    monkeypatch.setattr(derived, "BULK", 20)
    draw = random.Random(f"{kind} {seed}")
    settings = StoreSettings(**SETTINGS, dense_index=kind)
    store = make_store(folder, "notes", settings, approximate_from=8)
    model = Model()
    for step in range(steps):
        change = random_change(draw, model)
        change.apply(store)
        model.apply(change)
        if draw.random() < 0.1:
            store.compact()
        if draw.random() < 0.1:
            store.close()
            store = open_store(folder, "notes", approximate_from=8)
        if step % 3 == 0:
            agree(store, model, draw, exact=kind == "flat")
    agree(store, model, draw, exact=kind == "flat")
    assert [d.id for d in store.documents()] == sorted(model.documents)
    store.close()


def agree(store: LiveStore, model: Model, draw: random.Random, exact: bool) -> None:
    """Fail unless a few searches find what they must."""
    encoder = store._encoder
    for _ in range(3):
        principal = draw.choice(PRINCIPALS)
        chunks = model.readable(principal, SETTINGS["chunk_words"])
        queries = [" ".join(draw.choices(WORDS, k=draw.randint(1, 3))) for _ in range(2)]
        k = draw.choice([1, 3, 200])
        texts = [chunk.searched for chunk in chunks]
        pool = max(POOL, k)
        keyword = expected_keyword(texts, queries, pool)
        vectors = encoder.encode_passages(texts) if texts else np.empty((0, 32), np.float32)
        asked = encoder.encode_queries(queries)
        dense = expected_dense(vectors, asked, pool)
        hybrid = [fuse(d, w, DENSE_WEIGHT, k) for d, w in zip(dense, keyword, strict=True)]
        wanted = {"bm25": keyword, "dense": dense, "hybrid": hybrid}
        for method in wanted if exact else ("bm25",):
            found = store.search(queries, k, principal, method)
            for hits, got in zip(wanted[method], found, strict=True):
                rows, scores = hits.rows[:k], hits.scores[:k]
                assert [f.chunk.id for f in got] == [chunks[row].id for row in rows], method
                assert [f.score for f in got] == [float(score) for score in scores], method
        for query, got in zip(asked, store.search(queries, k, principal, "dense"), strict=True):
            check_dense(got, chunks, vectors, query, k)
        if texts:
            whole = {
                "bm25": expected_keyword(texts, queries, len(texts)),
                "dense": expected_dense(vectors, asked, len(texts)),
            }
            agree_filtered(store, principal, chunks, queries, k, whole, draw)


FILTERS: list[tuple[dict[str, Any], Callable[[Chunk], bool]]] = [
    ({"words": {"min": 6}}, lambda chunk: chunk.metadata["words"] >= 6),
    ({"not": {"document": ["d1", "d2", "d3"]}}, lambda c: c.document not in ("d1", "d2", "d3")),
    (
        {"any": [{"words": [3, 4]}, {"document": "d5"}]},
        lambda chunk: chunk.metadata["words"] in (3, 4) or chunk.document == "d5",
    ),
    ({"page": {"exists": True}}, lambda chunk: False),
]


def agree_filtered(
    store: LiveStore,
    principal: str,
    chunks: list[Chunk],
    queries: list[str],
    k: int,
    whole: dict[str, list[Hits]],
    draw: random.Random,
) -> None:
    """Fail unless a filter finds what passes of the whole ranking, on every type of index.

    Args: whole: method -> all that each query finds without a filter.
    """
    wanted, passes = draw.choice(FILTERS)
    for method, rankings in whole.items():
        searched = store.find(queries, k, principal, method, filter=wanted)
        assert searched.num_passing == sum(map(passes, chunks))
        for hits, got in zip(rankings, searched.passages, strict=True):
            kept = [i for i, row in enumerate(hits.rows) if passes(chunks[row])][:k]
            assert [f.chunk.id for f in got] == [chunks[hits.rows[i]].id for i in kept], method
            scores = [float(hits.scores[i]) for i in kept]
            assert [f.score for f in got] == scores, method


def test_a_filter_says_what_fields_there_are_for_its_principal(tmp_path: Path) -> None:
    with make_store(tmp_path, "notes", StoreSettings(**SETTINGS)) as store:
        store.add([Document("a", "Rome", meta={"topic": "towns", "readers": ["ann"]})])
        store.add([Document("b", "Rome", meta={"secret": 1, "readers": ["bob"]})])
        found = store.find(["Rome"], 3, "ann", filter="{topic: towns}")
        assert [one.chunk.document for one in found.passages[0]] == ["a"]
        assert found.shortfall(1) is None
        assert str(found.shortfall(3)).startswith("1 passages that may be read pass the filter")
        for name in ("secret", "absent"):  # told in the same words
            with pytest.raises(
                ConfigError, match=rf"a field of filter \(={name}\) .*topic"
            ) as told:
                store.search(["Rome"], 3, "ann", filter={name: 1})
            assert "secret" not in str(told.value).replace(f"(={name})", "")
        with pytest.raises(ConfigError, match=r"nearest is topic"):
            store.search(["Rome"], 3, "ann", filter={"topics": 1})
        with pytest.raises(ConfigError, match=r"filter \(=5\) must be a mapping of fields"):
            store.search(["Rome"], 3, "ann", filter=cast(Any, 5))
        store.add([Document("c", "Rome", meta={"topic": "towns", "readers": ["ann"]})])
        (again,) = store.search(["Rome"], 3, "ann", filter={"topic": "towns"})
        assert [one.chunk.document for one in again] == ["a", "c"]


@pytest.fixture
def read_files(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the files of segments that are read whole, as they are."""
    read: list[Path] = []
    whole = verification.digests

    def digests(path: Path, algorithms: Any) -> dict[str, str]:
        read.append(path)
        return whole(path, algorithms)

    monkeypatch.setattr(verification, "digests", digests)
    return read


def test_files_of_segments_are_read_whole_when_they_are_not_as_they_were(
    tmp_path: Path, read_files: list[Path]
) -> None:
    with make_store(tmp_path, "notes", StoreSettings(**SETTINGS)) as store:
        store.add([Document("a", "Rome", meta={"readers": ["ann"]})])
        store.compact()
        folder = next(path for path in (store.folder / "derived").iterdir() if path.is_dir())

    def found() -> list[str]:
        with open_store(tmp_path, "notes") as store:
            (passages,) = store.search(["Rome"], 1, "ann")
            return [one.chunk.id for one in passages]

    assert found() == ["a#0"]
    assert read_files == []
    (folder / "rules.npy").touch()
    assert found() == ["a#0"]
    assert [path.name for path in read_files] == ["rules.npy"]
    assert found() == ["a#0"]  # and was noted
    assert len(read_files) == 1
    content = bytearray((folder / "rules.npy").read_bytes())
    content[-4] ^= 1  # of another rule: bob's, were there one
    (folder / "rules.npy").write_bytes(content)
    assert found() == ["a#0"]  # made again from the database
    assert len(read_files) == 2
    copied = tmp_path / "copied"
    shutil.copytree(tmp_path / "stores", copied / "stores")
    read_files.clear()
    with open_store(copied, "notes") as store:
        assert len(store.search(["Rome"], 1, "ann")[0]) == 1


def expected_keyword(texts: list[str], queries: list[str], depth: int) -> list[Hits]:
    """Return what bm25s finds in an index of these texts alone."""
    if not texts:
        return [Hits(np.empty(0, np.int64), np.empty(0, np.float32), 0.0) for _ in queries]
    return KeywordIndex.build(texts).search(queries, depth)


def expected_dense(vectors: np.ndarray, queries: np.ndarray, depth: int) -> list[Hits]:
    """Return what an exact index of these vectors alone finds."""
    if not len(vectors):
        return [Hits(np.empty(0, np.int64), np.empty(0, np.float32), 0.0) for _ in queries]
    return [positive(hits) for hits in VectorIndex.build(vectors).search(queries, depth)]


def check_dense(
    found: list[Any], chunks: list[Chunk], vectors: np.ndarray, query: np.ndarray, k: int
) -> None:
    """Fail unless what was found may be read, is in order, and is as much as there is."""
    place = {chunk.id: row for row, chunk in enumerate(chunks)}
    assert {one.chunk.id for one in found} <= set(place)
    sharing = int(np.count_nonzero(vectors @ query > 1e-6)) if len(vectors) else 0
    assert min(k, sharing) <= len(found) <= min(k, len(chunks))
    assert all(one.score > 0 for one in found)
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True)
    true = [float(vectors[place[one.chunk.id]] @ query) for one in found]
    assert scores == pytest.approx(true, abs=1e-6)
