"""Chunks keep their place: slices, lengths, overlaps and cuts."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plumbrule.data.records import Document
from plumbrule.errors import DataError
from rag.chunks import (
    EVERYONE,
    WORD,
    Chunk,
    chunks_of,
    cut,
    from_row,
    read_chunks,
    sentence_ends,
    spans,
    to_row,
    write_chunks,
)

TEXTS = st.text(alphabet=st.sampled_from("abcXY.!? \n\t'\")é漢0"), max_size=200)


@settings(max_examples=300, deadline=None)
@given(text=TEXTS, chunk_words=st.integers(1, 12), data=st.data())
def test_chunks_are_slices_that_hold_every_word_in_order(text, chunk_words, data) -> None:
    overlap = data.draw(st.integers(0, chunk_words - 1))
    found = spans(text, chunk_words, overlap)
    words = [match.span() for match in WORD.finditer(text)]
    inside = [[w for w in words if start <= w[0] and w[1] <= end] for start, end in found]

    assert bool(found) == bool(words)
    for (start, end), held in zip(found, inside, strict=True):
        assert 1 <= len(held) <= chunk_words
        assert (start, end) == (held[0][0], held[-1][1])  # no blank at either end, no word cut
    assert sorted({w for held in inside for w in held}) == words
    for before, after in pairwise(inside):
        assert after[-1] > before[-1]
        kept = before[-overlap:] if overlap else []
        assert after[: len(kept)] == kept
        assert len(set(before) & set(after)) == len(kept)


@settings(max_examples=100, deadline=None)
@given(text=TEXTS.filter(lambda text: text.strip()))
def test_a_chunk_is_its_document_s_text_at_its_offsets(text) -> None:
    document = Document("d", text, title="T")
    for number, chunk in enumerate(chunks_of(document, 5, 2)):
        assert document.text[chunk.start : chunk.end] == chunk.text
        assert (chunk.id, chunk.document) == (f"d#{number}", "d")


def test_cuts_at_the_last_sentence_end_that_fits() -> None:
    text = "One two three. Four five! Six seven eight nine."
    # 6 words reach into "Six"; the last sentence end among words 1..6 is after word 5.
    assert [text[a:b] for a, b in spans(text, 6, 0)] == [
        "One two three. Four five!",
        "Six seven eight nine.",
    ]


def test_a_sentence_longer_than_a_chunk_is_cut_between_words() -> None:
    text = "a b c d e f g. H"
    assert [text[a:b] for a, b in spans(text, 3, 1)] == ["a b c", "c d e", "e f g.", "g. H"]


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("Ask Dr. Smith. Then go.", {3, 5}),
        ("Ask J. Smith. Then go.", {3, 5}),
        ("Ask me (i.e. Smith). Then go.", {4, 6}),
        ('Ask "Smith?" then. Go on', {3, 5}),
        ('He said "Stop!" Then he left (at once.) 2 others', {3, 8, 10}),
        ("Version 2.5 is out", {4}),
    ],
)
def test_where_sentences_end(text: str, ends: set[int]) -> None:
    """Not after abbreviations, initials, before lower case, or inside a word; n counts words."""
    assert sentence_ends(text, [match.span() for match in WORD.finditer(text)]) == ends


def test_an_overlap_that_holds_the_only_sentence_end_does_not_stop_the_cutting() -> None:
    text = "a b. C d e f g"
    found = [text[start:end] for start, end in spans(text, 4, 3)]
    assert found == ["a b.", "a b. C d", "b. C d e", "C d e f", "d e f g"]


def test_a_blank_line_ends_a_sentence_without_a_stop() -> None:
    text = "A heading\n\nAnd its text goes on here"
    start, end = spans(text, 5, 0)[0]
    assert text[start:end] == "A heading"


def test_order_of_documents_does_not_matter() -> None:
    documents = [Document(name, f"Text of {name}.") for name in ("b", "a", "c")]
    assert cut(documents, 9, 0) == cut(documents[::-1], 9, 0)
    assert [chunk.document for chunk in cut(documents, 9, 0)] == ["a", "b", "c"]


def test_title_is_searched_and_not_shown() -> None:
    (chunk,) = chunks_of(Document("d", "She lived in Rome.", title="Ann Lee"), 60, 0)
    assert chunk.text == "She lived in Rome."
    assert chunk.searched == "Ann Lee\nShe lived in Rome."
    (plain,) = chunks_of(Document("d", "She lived in Rome."), 60, 0)
    assert plain.searched == plain.text


def test_no_documents_and_equal_ids_are_refused() -> None:
    with pytest.raises(DataError, match="at least one document"):
        cut([], 60, 0)
    with pytest.raises(DataError, match=r"'d'.*own"):
        cut([Document("d", "One."), Document("d", "Two.")], 60, 0)


def test_chunks_survive_a_file(tmp_path: Path) -> None:
    chunks = [
        Chunk("d#0", "d", 2, 7, "Tïtle", 'é "x"\n'),
        Chunk(
            *("d#1", "d", 8, 9, "Tïtle", "é"),
            page=2,
            url="https://a.example/d",
            section="One > Two",
            date="2026-11-01",
            metadata={"year": 2026, "tags": ["a", "b"], "draft": False, "share": 0.5},
            readers=("ann", "group:staff"),
        ),
    ]
    write_chunks(chunks, tmp_path / "p.jsonl")
    assert read_chunks(tmp_path / "p.jsonl") == chunks
    (tmp_path / "p.jsonl").write_text('{"id": "d#0"}\n')
    with pytest.raises(DataError, match="row 1"):
        read_chunks(tmp_path / "p.jsonl")


def test_a_passage_of_an_earlier_version_may_be_read_by_everyone() -> None:
    row = {"id": "d#0", "document": "d", "start": 2, "end": 3, "title": "", "text": "x"}
    assert from_row(row) == Chunk(*row.values(), readers=(EVERYONE,))
    assert to_row(Chunk(*row.values())) == {**row, "readers": ()}
    with pytest.raises(DataError, match=r"has the fields .*readers"):
        from_row({**row, "page": 1})  # a later version's row without its rule


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"readers": "ann"}, r"readers \(='ann'\) must be a list of names"),
        ({"readers": [" "]}, r"readers \(=\[' '\]\) must be a list"),
        ({"readers": None}, r"readers \(=None\)"),
        ({"readers": [], "page": "1"}, "another type"),
        ({"readers": [], "metadata": {"a": {"b": 1}}}, "another type"),
        ({"readers": [], "metadata": [1]}, "another type"),
        ({"readers": [], "start": "0"}, "another type"),
        ({"readers": [], "colour": 1}, "has the fields"),
    ],
)
def test_a_row_that_is_no_chunk_is_refused(values: dict[str, Any], message: str) -> None:
    row = {"id": "d#0", "document": "d", "start": 2, "end": 3, "title": "", "text": "x"}
    with pytest.raises(DataError, match=message):
        from_row({**row, **values})


def test_a_chunk_carries_its_document_s_place_date_metadata_and_rule() -> None:
    meta = {
        "date": "2026-11-01T12:00:00",
        "url": "https://a.example/",
        "page": 3,
        "section": "Part",
        "year": 2026,
        "tags": ["x"],
        "nested": {"a": 1},
        "questions": ["Who?"],
        "readers": ["bob", "ann", "bob"],
    }
    (chunk,) = chunks_of(Document("d", "Text.", meta=meta), 60, 0, ["*"])
    assert (chunk.date, chunk.url) == ("2026-11-01T12:00:00", "https://a.example/")
    assert (chunk.page, chunk.section) == (3, "Part")
    assert chunk.metadata == {"year": 2026, "tags": ["x"]}
    assert chunk.readers == ("ann", "bob")
    other = Document("d", "Text.", meta={"date": "in May", "page": "iv", "n": float("nan")})
    (chunk,) = chunks_of(other, 60, 0)
    assert (chunk.date, chunk.page, chunk.metadata) == (
        None,
        None,
        {"date": "in May", "page": "iv"},
    )


def test_no_rule_means_that_nobody_may_read_and_a_document_s_own_rule_counts() -> None:
    plain, own = Document("a", "One."), Document("b", "Two.", meta={"readers": []})
    assert [chunk.readers for chunk in cut([plain, own], 60, 0)] == [(), ()]
    assert [chunk.readers for chunk in cut([plain, own], 60, 0, ["*"])] == [("*",), ()]
    with pytest.raises(DataError, match=r"document 'c': readers \(='ann'\)"):
        cut([Document("c", "One.", meta={"readers": "ann"})], 60, 0)
