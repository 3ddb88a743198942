"""Documents cut into chunks that never lose their place.

A chunk is a slice of its document: `document.text[start:end] == chunk.text`, character for
character, so that an answer can be traced to where it stands. Nothing is normalised, joined or
trimmed inside a slice. Lengths are counted in words (runs of non-blank characters), which need no
tokenizer and so do not change with the policy that reads them.

A chunk ends at the last sentence end that fits, or in mid-sentence where none does. Where a
sentence ends is guessed from punctuation; a wrong guess moves a cut and loses nothing. The next
chunk starts `overlap_words` words before that end. Together the chunks hold every word.

Titles are not part of the slice. They are put before it for encoding and keyword search only
(`Chunk.searched`), so that the second chunk of an article still says whom it is about.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from plumbrule.data.json_lines import read_rows
from plumbrule.data.records import Document
from plumbrule.errors import DataError
from plumbrule.store.json_files import write_jsonl

WORD = re.compile(r"\S+")
CLOSERS = "\"'”’)]}»"
"""What may stand between the full stop of a sentence and the next word."""
ABBREVIATIONS = frozenset(
    ("mr", "mrs", "ms", "dr", "prof", "st", "jr", "sr", "vs", "etc", "e.g", "i.e", "cf", "no")
)


class Chunk(NamedTuple):
    """A slice of a document; its place in the list of chunks is its row in every index."""

    id: str
    document: str
    start: int
    end: int
    title: str
    text: str

    @property
    def searched(self) -> str:
        """The text that is encoded and indexed: the slice with its document's title before it."""
        return f"{self.title}\n{self.text}" if self.title else self.text


def chunks_of(document: Document, chunk_words: int, overlap_words: int) -> list[Chunk]:
    """Return a document's chunks, in order, of at most `chunk_words` words each.

    Each chunk but the first begins with the last `overlap_words` words of the one before it, or
    with all of a first chunk that is shorter.
    """
    return [
        Chunk(
            f"{document.id}#{number}",
            document.id,
            start,
            end,
            document.title,
            document.text[start:end],
        )
        for number, (start, end) in enumerate(spans(document.text, chunk_words, overlap_words))
    ]


def spans(text: str, chunk_words: int, overlap_words: int) -> list[tuple[int, int]]:
    """Return (start, end) character offsets of the chunks of `text`; [] for a blank text."""
    words = [match.span() for match in WORD.finditer(text)]
    ends = sentence_ends(text, words)
    found: list[tuple[int, int]] = []
    first = last = 0  # the chunk is words[first:last]
    while last < len(words):
        limit = min(first + chunk_words, len(words))
        fresh = range(limit, last, -1)  # a chunk must end beyond the one before it
        last = limit if limit == len(words) else next((n for n in fresh if n in ends), limit)
        found.append((words[first][0], words[last - 1][1]))
        first = max(last - overlap_words, 0)  # a first sentence may be shorter than the overlap
    return found


def sentence_ends(text: str, words: Sequence[tuple[int, int]]) -> set[int]:
    """Return the n for which a sentence ends between words[n - 1] and words[n], or at the end.

    A word ends a sentence if it ends in `.`, `!` or `?` (quotes and brackets may follow), the next
    word does not start in lower case, and it is no abbreviation or initial; or if a blank line
    follows it.
    """
    ends = {len(words)}
    for n in range(1, len(words)):
        (start, end), (following, _) = words[n - 1], words[n]
        word = text[start:end].rstrip(CLOSERS)
        stops = word.endswith((".", "!", "?")) and not text[following].islower()
        if stops and word.endswith("."):
            stem = word.rstrip(".").lstrip("([{\"'“‘«")
            stops = stem.lower() not in ABBREVIATIONS and not (len(stem) == 1 and stem.isupper())
        if stops or text.count("\n", end, following) > 1:
            ends.add(n)
    return ends


def cut(documents: Iterable[Document], chunk_words: int, overlap_words: int) -> list[Chunk]:
    """Return the chunks of all documents, documents in the order of their ids.

    So a chunk's row, which breaks ties between equal scores, does not depend on the order of a
    file.

    Raises: DataError: two documents share an id, or there is no document.
    """
    ordered = sorted(documents, key=lambda document: document.id)
    if not ordered:
        raise DataError("an index needs at least one document; give the documents node some.")
    for one, other in pairwise(ordered):
        if one.id == other.id:
            raise DataError(f"two documents have the id {one.id!r}; give each its own.")
    return [chunk for d in ordered for chunk in chunks_of(d, chunk_words, overlap_words)]


def write_chunks(chunks: Iterable[Chunk], path: Path) -> None:
    """Write chunks as JSON Lines, one a row."""
    write_jsonl(path, (chunk._asdict() for chunk in chunks))


def read_chunks(path: Path) -> list[Chunk]:
    """Return the chunks that `write_chunks` wrote.

    Raises: DataError: a row that is not a chunk.
    """
    chunks = []
    for number, row in read_rows(path):
        if set(row) != set(Chunk._fields):
            raise DataError(f"a passage has the fields {list(Chunk._fields)}.", path, number)
        chunks.append(Chunk(**row))
    return chunks
