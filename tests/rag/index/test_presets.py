"""Approximate types: recall against exact search, exact scores, exact filters, files, settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from worlds.articles import build, opened

from plumbrule.data.records import Document
from plumbrule.errors import ArtifactError, ConfigError
from rag.config import IndexConfig
from rag.index.approximate import ApproximateIndex
from rag.index.dense import VectorIndex, import_faiss, inner_of
from rag.index.exact import ExactIndex
from rag.index.presets import PRESETS, codes, from_factory, from_preset, lists, set_effort
from rag.index.protocol import Selection
from rag.index.sharded import ShardedIndex
from rag.options import PRESET_NAMES

LEAST_RECALL = {"sq8": 0.99, "sqfp16": 0.99, "hnsw": 0.95, "ivf": 0.95, "ivf_pq": 0.95}
"""At 10, of the settings that the names stand for, on vectors as texts have them."""
N, D = 6000, 64


@pytest.fixture(scope="module")
def stored() -> np.ndarray:
    """Return vectors that lie near a surface of few dimensions, as those of texts do."""
    draw = np.random.default_rng(0)
    low = draw.normal(size=(N + 100, 12)) @ draw.normal(size=(12, D))
    found = (low + 0.3 * draw.normal(size=low.shape)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def indexes(stored: np.ndarray) -> Callable[[str], ApproximateIndex]:
    made: dict[str, ApproximateIndex] = {}

    def get(name: str) -> ApproximateIndex:
        if name not in made:
            coarse = VectorIndex.build(stored[:N], lambda v: from_preset(name, v))
            made[name] = ApproximateIndex(coarse, ExactIndex([stored[:N]]), PRESETS[name].nominated)
        return made[name]

    return get


def test_every_name_has_a_preset_and_a_bound() -> None:
    assert set(PRESET_NAMES) == set(PRESETS) == set(LEAST_RECALL)


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_recall_against_exact_search_and_exact_scores(stored, indexes, name: str) -> None:
    queries = stored[N:]
    exact = ExactIndex([stored[:N]]).search(queries, 10)
    found = indexes(name).search(queries, 10)
    shares = [np.isin(e.rows, f.rows).mean() for e, f in zip(exact, found, strict=True)]
    assert np.mean(shares) >= LEAST_RECALL[name]
    for query, hits in zip(queries, found, strict=True):
        right = (stored[hits.rows].astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
        assert hits.scores == pytest.approx(right, abs=1e-7)
        assert (np.diff(hits.scores) <= 0).all()


@pytest.mark.parametrize("name", PRESET_NAMES)
@pytest.mark.parametrize("share", [0.001, 0.05, 0.7])
def test_a_filter_is_exact_whatever_the_index(stored, indexes, name: str, share: float) -> None:
    draw = np.random.default_rng(1)
    passes, readable = draw.random(N) < share, draw.random(N) < 0.9
    selection = Selection(readable, passes)
    exact = ExactIndex([stored[:N]]).search(stored[N:], 10, selection)
    for right, hits in zip(exact, indexes(name).search(stored[N:], 10, selection), strict=True):
        assert hits.rows.tolist() == right.rows.tolist()
        assert selection.mask[hits.rows].all()


@pytest.mark.parametrize("name", PRESET_NAMES)
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_only_readable_rows_are_found_and_recall_holds(stored, indexes, name, share) -> None:
    readable = np.random.default_rng(2).random(N) < share
    selection = Selection(readable)
    exact = ExactIndex([stored[:N]]).search(stored[N:], 10, selection)
    found = indexes(name).search(stored[N:], 10, selection)
    assert all(readable[hits.rows].all() for hits in found)
    shares = [np.isin(e.rows, f.rows).mean() for e, f in zip(exact, found, strict=True)]
    assert np.mean(shares) >= LEAST_RECALL[name] - 0.02  # a graph with a tenth of it left out


def test_shards_find_what_one_index_finds(stored: np.ndarray, tmp_path: Path) -> None:
    parts = np.array_split(stored[:N], 3)
    index = ShardedIndex([VectorIndex.build(part) for part in parts])
    whole = VectorIndex.build(stored[:N])
    mask = np.random.default_rng(3).random(N) < 0.3
    for selection in (None, Selection(mask), Selection(np.zeros(N, dtype=bool))):
        found = index.search(stored[N:], 7, selection)
        for right, hits in zip(whole.search(stored[N:], 7, selection), found, strict=True):
            assert hits.rows.tolist() == right.rows.tolist()
            assert hits.scores.tolist() == right.scores.tolist()
    assert (len(index), index.dimensions) == (N, D)


@pytest.mark.parametrize("name", ["flat", *PRESET_NAMES])
def test_a_mapped_file_finds_the_same(stored: np.ndarray, tmp_path: Path, name: str) -> None:
    make = (lambda v: from_preset(name, v)) if name in PRESETS else None
    built = VectorIndex.build(stored[:N], make) if make else VectorIndex.build(stored[:N])
    built.save(tmp_path / "index.faiss")
    path = tmp_path / "index.faiss"
    mapped = VectorIndex.load(path, path.stat().st_size)
    one, other = (index.nearest(stored[N:], 10) for index in (built, mapped))
    assert np.array_equal(one[1], other[1])


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("name", ["flat", *PRESET_NAMES])
def test_a_file_that_is_cut_short_is_refused(stored, tmp_path: Path, name, mapped) -> None:
    path = tmp_path / "index.faiss"
    make = (lambda v: from_preset(name, v)) if name in PRESETS else None
    (VectorIndex.build(stored[:N], make) if make else VectorIndex.build(stored[:N])).save(path)
    content = path.read_bytes()
    for size in (len(content) - 1, len(content) // 2, 40, 0):
        path.write_bytes(content[:size])
        with pytest.raises(ArtifactError, match=r"can't be read .*build the index again"):
            VectorIndex.load(path, len(content) if mapped else None)


def words(n: int) -> list[Document]:
    """Return documents of random words."""
    draw = np.random.default_rng(0)
    known = [f"w{i}" for i in range(60)]
    return [Document(f"{i:03d}", " ".join(draw.choice(known, size=8))) for i in range(n)]


@pytest.mark.parametrize(
    "settings",
    [
        {"dense_index": "exact"},
        {"dense_index": "hnsw", "search_effort": 200},
        {"dense_index": "ivf_pq", "search_effort": 7, "nominated": 60},
        {"dense_index": "factory", "dense_factory": "IVF4,SQ8", "search_effort": 4},
    ],
)
def test_the_stage_builds_each_and_finds_what_flat_finds(tmp_path: Path, settings: dict) -> None:
    queries = ["w1 w2 w3", "w7", "w59 w58 w12", ""]
    flat = opened(build(tmp_path / "flat", words(300), dimensions=64), "dense").search(queries, 5)
    index = build(tmp_path / "other", words(300), dimensions=64, **settings)
    assert (index.path / "index.faiss").exists() == (settings["dense_index"] != "exact")
    found = opened(index, "dense").search(queries, 5)
    for one, other in zip(flat, found, strict=True):
        assert [p.id for p in one] == [p.id for p in other]
        assert [p.score for p in one] == pytest.approx([p.score for p in other], abs=1e-6)


def test_building_over_another_type_leaves_none_of_its_files(tmp_path: Path) -> None:
    build(tmp_path, words(60), dense_index="hnsw", dimensions=32)
    index = build(tmp_path, words(60), dense_index="exact", dimensions=32)
    assert not (index.path / "index.faiss").exists()
    index = build(tmp_path, words(60), dimensions=32)
    assert not (index.path / "vectors").exists()


def test_sizes_and_effort() -> None:
    # 4 sqrt(10,000) = 400, but a list of 39 vectors each leaves 10,000 / 39 = 256; 1 at the least.
    assert [lists(n) for n in (10_000, 1_000_000, 20)] == [256, 4000, 1]
    assert [codes(d) for d in (384, 64, 30, 7)] == [96, 16, 6, 1]
    faiss = import_faiss()
    index = from_factory("IVF8,Flat", np.eye(400, 16, dtype=np.float32), 3)
    assert inner_of(faiss.IndexIDMap2(index)).nprobe == 3
    set_effort(index, 100)
    assert faiss.downcast_index(index).nprobe == 8  # there are no more lists


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dense_factory": "IVF4,Flat"}, r"rag\.dense_factory \(=IVF4,Flat\) must be null"),
        ({"dense_index": "factory"}, r"rag\.dense_factory \(=None\) must be given"),
        ({"search_effort": 4}, r"rag\.search_effort \(=4\) must be null; .*\(=flat\) compares"),
        ({"dense_index": "exact", "nominated": 4}, r"rag\.nominated \(=4\) must be null"),
        ({"dense_index": "hnsw", "nominated": 0}, r"rag\.nominated \(=0 rows\)"),
        ({"precision": "float16"}, r"rag\.precision \(=float16\)"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        IndexConfig(**settings)


def test_a_factory_string_that_faiss_does_not_know_is_refused(stored: np.ndarray) -> None:
    for text in ("IVF", "HNSWx", "PQ7"):
        with pytest.raises(ConfigError, match=rf"index \(={text}, by rag\.dense_index"):
            from_factory(text, stored[:200])
    with pytest.raises(ConfigError, match=r"rag\.search_effort \(=4\) must be null"):
        set_effort(from_factory("SQ8", stored[:200]), 4)
    with pytest.raises(ArtifactError, match=r"=200 x 64\) must hold the stored vectors \(=100"):
        ApproximateIndex(VectorIndex.build(stored[:200]), ExactIndex([stored[:100]]), 1)


def test_shards_with_fewer_vectors_than_a_type_needs_are_told_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train on 6 vectors .* or fewer rag\.shards"):
        build(tmp_path, dense_index="ivf_pq", shards=2)


@pytest.mark.parametrize("kind", ["flat", "exact", "sq8", "hnsw"])
def test_an_index_in_shards_finds_what_one_in_one_piece_does(tmp_path: Path, kind: str) -> None:
    """By the stage, from its files; all of these nominate every row of so few."""
    whole = opened(build(tmp_path / "whole", dense_index=kind), "dense")
    index = build(tmp_path / "shards", dense_index=kind, shards=5)
    assert len(list((index.path / "shards").iterdir())) == 5
    queries = ["Where was Ada Quill born?", "baker", "Oslo dentist"]
    assert opened(index, "dense").search(queries, 12) == whole.search(queries, 12)
    with pytest.raises(ConfigError, match=r"rag\.shards \(=13 indexes\) must lie in \[1, 12\]"):
        build(tmp_path / "more", dense_index=kind, shards=13)
