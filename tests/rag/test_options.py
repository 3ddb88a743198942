"""Types of dense index and encoders by name: plug-ins add theirs in one file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from places import ROOT
from plugin_files import importer
from worlds.articles import build, documents, opened

from plumbrule.data.records import Document
from plumbrule.errors import ConfigError
from plumbrule.store.fingerprint import code_hashes
from rag.config import IndexConfig
from rag.index.dense import VectorIndex
from rag.options import DENSE_INDEXES, EXACT, FACTORY, PRESET_NAMES, REGISTRIES

HNSW = """
from rag.index.dense import import_faiss
from rag.options import DENSE_INDEXES

@DENSE_INDEXES.register("linked")
def linked(vectors):
    faiss = import_faiss()
    index = faiss.IndexHNSWFlat(vectors.shape[1], 4, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efSearch = 8
    return index

@DENSE_INDEXES.register("distances")
def distances(vectors):
    return import_faiss().IndexFlatL2(vectors.shape[1])
"""
LENGTHS = """
import json
import numpy as np
from rag.options import ENCODERS

@ENCODERS.register("lengths")
class Lengths:
    def __init__(self, dimensions):
        self.dimensions = dimensions

    @classmethod
    def fit(cls, texts, dimensions):
        return cls(dimensions)

    @classmethod
    def load(cls, folder):
        return cls(json.loads((folder / "lengths.json").read_text()))

    def encode_passages(self, texts):
        return np.eye(self.dimensions, dtype=np.float32)[[len(t) % self.dimensions for t in texts]]

    encode_queries = encode_passages

    def num_cut(self, texts):
        return 0

    def save(self, folder):
        folder.mkdir(exist_ok=True)
        (folder / "lengths.json").write_text(json.dumps(self.dimensions))
"""


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], str]:
    """Import a plug-in's text as a file; its digest. What it registers is gone afterwards."""
    return importer(monkeypatch, REGISTRIES, tmp_path / "own_rag.py")


def many() -> list[Document]:
    """Return 300 documents of random words."""
    draw = np.random.default_rng(0)
    words = [f"w{i}" for i in range(40)]
    return [Document(f"{i}", " ".join(draw.choice(words, size=6))) for i in range(300)]


def test_a_plug_ins_approximate_index_is_built_and_never_finds_a_row_that_is_not_there(
    load: Callable[[str], str], tmp_path: Path
) -> None:
    digest = load(HNSW)
    index = build(tmp_path, many(), dense_index="linked", dimensions=16)
    assert json.loads(index.file("fingerprint.json").read_text())["dense_index"] == "linked"
    assert IndexConfig(dense_index="linked").source == f"dense_index:{digest}"
    vectors = VectorIndex.load(index.file("index.faiss"))
    queries = np.random.default_rng(1).normal(size=(20, 16)).astype(np.float32)
    found = vectors.search(queries, 290)
    assert any(len(hits.rows) < 290 for hits in found)  # or nothing was missing
    for hits in found:
        assert hits.rows.min() >= 0
        assert np.isfinite(hits.scores).all()
    for method in ("dense", "hybrid"):
        for passages in opened(index, method).search(["w1 w2 w3", "w7"], 290):
            assert len({passage.id for passage in passages}) == len(passages)


def test_an_index_that_compares_by_distance_is_refused(
    load: Callable[[str], str], tmp_path: Path
) -> None:
    load(HNSW)
    with pytest.raises(ConfigError, match=r"\(=IndexFlatL2\) must compare by the inner product"):
        build(tmp_path, dense_index="distances")


def test_a_plug_ins_encoder_builds_and_opens_an_index(
    load: Callable[[str], str], tmp_path: Path
) -> None:
    digest = load(LENGTHS)
    index = build(tmp_path, encoder="lengths", dimensions=32)
    assert IndexConfig(encoder="lengths").source == f"encoder:{digest}"
    assert json.loads(index.file("fingerprint.json").read_text())["encoder"]["kind"] == "lengths"
    text = documents()[0].text.split(". ")[0] + "."
    (passages,) = opened(index, "dense").search([f"Ada Quill {text}"], 3)
    assert all(passage.score == 1.0 for passage in passages)


def test_a_choice_that_nobody_registered_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"rag\.dense_index \(=linked\) must be .*flat"):
        IndexConfig(dense_index="linked")


def test_ours_are_part_of_the_stages_code_and_on_the_page() -> None:
    code = code_hashes(["rag.stage"])
    page = (ROOT / "docs" / "retrieval.md").read_text(encoding="utf-8")
    for table in REGISTRIES:
        for name in table:
            where = str(table.option(name).where)
            assert where.partition(":")[0].replace(".", "/") + ".py" in code
            assert f"`{name}`" in page or f"={name}`" in page
    assert list(DENSE_INDEXES) == ["flat", *PRESET_NAMES, EXACT, FACTORY]
