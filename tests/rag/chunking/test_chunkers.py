"""Every chunker: slices that hold every word in order, and its own rule for where to cut."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds.articles import build, documents, opened

from plumbrule.data.records import Document
from plumbrule.errors import ConfigError, DataError
from rag.chunking.choosing import chunker_of
from rag.chunking.config import ChunkerConfig
from rag.chunking.cutting import Cutting
from rag.chunking.semantic import changes
from rag.chunking.tokens import token_spans
from rag.chunks import WORD, chunks_at, cut
from rag.options import CHUNKERS
from rag.store.opening import plain_hashing

TEXTS = st.text(alphabet=st.sampled_from("abcXY.!? \n\t'\")é漢😀"), max_size=150).filter(str.strip)
ENCODE = plain_hashing(64).encode_passages


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a byte-level tokenizer, in which a letter may be several tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    one = Tokenizer(models.BPE())
    one.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    one.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    one.train_from_iterator([d.text for d in documents()], trainer)
    one.enable_truncation(5)  # as a model's tokenizer may be saved
    folder = tmp_path_factory.mktemp("tokenizer")
    one.save(str(folder / "tokenizer.json"))
    return folder


def made(by: str, words: int = 6, overlap: int = 0, **chunker: Any) -> Any:
    """Return a chunker."""
    return chunker_of(Cutting(words, overlap, ChunkerConfig(by=by, **chunker), ENCODE))


@pytest.mark.parametrize("by", list(CHUNKERS))
@settings(max_examples=60, deadline=None)
@given(text=TEXTS, data=st.data())
def test_every_chunker_s_slices_hold_every_word_in_order(
    tokenizer: Path, by: str, text: str, data: st.DataObject
) -> None:
    own = {"tokens": 4, "overlap_tokens": 2, "tokenizer": str(tokenizer)} if by == "tokens" else {}
    places = data.draw(st.lists(st.integers(0, 150), unique=True, max_size=4).map(sorted))
    meta = {"places": [[start, None, f"S{start}"] for start in places]}
    spans = made(by, **own)(Document("d", text, meta=meta))
    assert spans == sorted(spans)
    for start, end in spans:
        assert text[start:end] == text[start:end].strip() != ""
    covered = {place for start, end in spans for place in range(start, end)}
    assert covered >= {place for m in WORD.finditer(text) for place in range(*m.span())}
    if by not in ("tokens",):
        assert all(len(WORD.findall(text[start:end])) <= 6 for start, end in spans)


def test_words_is_what_an_index_has_always_done(tmp_path: Path) -> None:
    every = documents()
    assert cut(every, 8, 2, spans_of=made("words", 8, 2)) == cut(every, 8, 2)
    assert [c.readers for c in cut(every, 8, 2, ["ann"], made("words", 8, 2))] == [
        c.readers for c in cut(every, 8, 2, ["ann"])
    ]


def texts_of(document: Document, spans: list[tuple[int, int]]) -> list[str]:
    """Return the slices."""
    return [document.text[start:end] for start, end in spans]


def test_sentences_are_counted_and_a_long_one_is_cut_by_words() -> None:
    document = Document("d", "One two. Three four! Five six seven eight nine ten eleven. Last?")
    assert texts_of(document, made("sentences")(document)) == [
        "One two.",
        "Three four!",
        "Five six seven eight nine ten",
        "eleven.",
        "Last?",
    ]
    assert texts_of(document, made("sentences", 20, sentences=2)(document)) == [
        "One two. Three four!",
        "Five six seven eight nine ten eleven. Last?",
    ]


def test_structure_never_crosses_a_heading_and_does_cross_a_page() -> None:
    text = "Intro words. Part one Here it is. Part two There it goes on."
    one, two, page = text.index("Part one"), text.index("Part two"), text.index("goes")
    places = [[one, 1, "Part one"], [two, 1, "Part two"], [page, 2, "Part two"]]
    document = Document("d", text, meta={"places": places})
    spans = made("structure", 20)(document)
    assert texts_of(document, spans) == [
        "Intro words.",
        "Part one Here it is.",
        "Part two There it goes on.",
    ]
    chunks = chunks_at(document, spans, ["*"])
    assert [(c.page, c.section) for c in chunks] == [(None, ""), (1, "Part one"), (1, "Part two")]
    assert all("places" not in c.metadata for c in chunks)


def test_a_chunk_has_the_page_on_which_it_begins() -> None:
    text = "One two three four. Five six seven eight. Nine ten."
    places = [[0, 1, ""], [text.index("seven"), 2, "Late"]]
    document = Document("d", text, meta={"places": places, "page": 9})
    chunks = chunks_at(document, made("words", 4)(document))
    assert [(c.page, c.section) for c in chunks] == [(1, ""), (1, ""), (2, "Late")]


@pytest.mark.parametrize(
    "places", ["x", [[0, 1]], [[0, 0, "a"]], [[1, 1, "a"], [1, 2, "a"]], [[0, 1, None]], 3]
)
def test_places_that_are_none_are_refused(places: Any) -> None:
    with pytest.raises(DataError, match=r"'d': meta\.places .* must be a list of"):
        chunks_at(Document("d", "Text.", meta={"places": places}), [(0, 5)])


def test_semantic_cuts_at_the_least_alike_neighbours() -> None:
    # cosines of neighbours: 1, 0, 1, 0.6; a quarter of four places is one, a half two.
    vectors = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0.8, 0.6]], dtype=np.float32)
    assert changes(vectors, 0.25) == {2}
    assert changes(vectors, 0.5) == {2, 4}
    assert changes(vectors, 0.01) == {2}  # rounded up
    document = Document("d", "Bread is baked. Bread is bread. Boats sail far. Boats sail fast.")
    assert texts_of(document, made("semantic", 60, breaks=0.3)(document)) == [
        "Bread is baked. Bread is bread.",
        "Boats sail far. Boats sail fast.",
    ]
    assert len(made("semantic", 4, breaks=0.3)(document)) == 4  # chunk_words holds all the same


def test_semantic_encodes_no_document_of_one_sentence() -> None:
    def encode(texts: Sequence[str]) -> np.ndarray:
        raise AssertionError(texts)

    document = Document("d", "Bread is baked of flour and water.")
    chunker = chunker_of(Cutting(4, 0, ChunkerConfig(by="semantic"), encode))
    assert texts_of(document, chunker(document)) == ["Bread is baked of", "flour and water."]


def test_token_chunks_have_so_many_tokens_and_overlap_by_so_many(tokenizer: Path) -> None:
    every = [(n, n + 1) for n in range(10)]
    assert token_spans("abcdefghij", every, 4, 1) == [(0, 4), (3, 7), (6, 10)]
    assert token_spans("abcdefghij", every, 4, 0) == [(0, 4), (4, 8), (8, 10)]
    assert token_spans("abc  fghij", every, 4, 0) == [(0, 3), (5, 8), (8, 10)]  # blanks are trimmed
    document = Document("d", "Ada Quill was born in Rome. " * 50)  # the file says to cut at 5
    assert made("tokens", tokens=8, tokenizer=str(tokenizer))(document)[-1][1] > 1000


def test_a_character_of_several_tokens_is_never_cut() -> None:
    # three letters of 1, 3 and 1 tokens, as a byte-level tokenizer has them
    offsets = [(0, 1), (1, 2), (1, 2), (1, 2), (2, 3)]
    assert token_spans("a漢b", offsets, 4, 0) == [(0, 2), (2, 3)]
    assert token_spans("a漢b", offsets, 2, 1) == [(0, 1), (0, 2), (2, 3)]


def test_ten_megabytes_on_one_line_are_cut(tokenizer: Path) -> None:
    text = "Ada Quill was born in Rome " * 40_000  # a million characters; 10 MB take ten times that
    for by, own in (("words", {}), ("tokens", {"tokenizer": str(tokenizer)})):
        spans = made(by, 60, **own)(Document("d", text))
        assert len(spans) > 3_000
        assert max(end - start for start, end in spans) < 2_000


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"by": "lines"}, r"rag\.chunker\.by \(=lines\) must be one of .*words"),
        ({"tokens": 3}, r"rag\.chunker\.tokens \(=3 tokens\)"),
        ({"tokens": 8, "overlap_tokens": 8}, r"overlap_tokens \(=8 tokens\) must be below"),
        ({"sentences": 0}, r"rag\.chunker\.sentences"),
        ({"breaks": 1.0}, r"rag\.chunker\.breaks \(=1\.0\) must lie between"),
        ({"breaks": 0.0}, r"rag\.chunker\.breaks"),
        ({"by": "tokens"}, r"rag\.chunker\.tokenizer \(=None\) must be a folder with tokenizer"),
        ({"by": "tokens", "tokenizer": "/no/such"}, r"rag\.chunker\.tokenizer \(=/no/such\)"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ChunkerConfig(**values)


def test_a_damaged_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"must hold a tokenizer\.json that can be read"):
        made("tokens", tokenizer=str(tmp_path))


@pytest.mark.parametrize("by", list(CHUNKERS))
def test_an_index_is_built_with_every_chunker(tokenizer: Path, tmp_path: Path, by: str) -> None:
    own = {"tokenizer": str(tokenizer), "tokens": 40} if by == "tokens" else {}
    index = build(tmp_path, chunk_words=20, chunker=ChunkerConfig(by=by, **own))
    about = json.loads(index.file("fingerprint.json").read_text(encoding="utf-8"))["chunking"]
    assert about.get("by", "words") == by
    assert str(tokenizer) not in json.dumps(about)
    (passages,) = opened(index, "bm25").search(["Where was Ada Quill born?"], 1)
    assert passages[0].document == "doc-0"
