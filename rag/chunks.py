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

A chunk also carries where it stands (page, URL, section), its document's date and metadata, and
`readers`, the principals that may read it. No rule means that nobody may: `readers` is empty unless
the document, or whoever cuts it, names them.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from plumbrule.data.json_lines import read_rows
from plumbrule.data.records import Document
from plumbrule.errors import DataError, listed
from plumbrule.store.json_files import write_jsonl

WORD = re.compile(r"\S+")
CLOSERS = "\"'”’)]}»"
"""What may stand between the full stop of a sentence and the next word."""
ABBREVIATIONS = frozenset(
    ("mr", "mrs", "ms", "dr", "prof", "st", "jr", "sr", "vs", "etc", "e.g", "i.e", "cf", "no")
)
EVERYONE = "*"
"""Among a chunk's readers: any principal may read it."""
Value: TypeAlias = str | int | float | bool | list[str]
"""Of one key of a chunk's metadata."""
NO_METADATA: Mapping[str, Value] = MappingProxyType({})
SECTION_JOIN = " > "
PLACES = "places"
"""Key of a document's `meta`: see `places_of`."""
FIRST_FIELDS = frozenset({"id", "document", "start", "end", "title", "text"})
"""Of a passage in an index that an earlier version made; all that it holds, everyone may read."""


class Chunk(NamedTuple):
    """A slice of a document; its place in the list of chunks is its row in every index."""

    id: str
    document: str
    start: int
    end: int
    title: str
    text: str
    page: int | None = None
    """On which it begins, from 1; None: its document has no pages."""
    url: str | None = None
    section: str = ""
    """The headings above it, outermost first, joined with SECTION_JOIN; "": there are none."""
    date: str | None = None
    """ISO 8601; None: not known."""
    metadata: Mapping[str, Value] = NO_METADATA
    readers: tuple[str, ...] = ()
    """Principals that may read it, EVERYONE for all; empty: nobody may."""

    @property
    def searched(self) -> str:
        """The text that is encoded and indexed: the slice with its document's title before it."""
        return f"{self.title}\n{self.text}" if self.title else self.text


def chunks_of(
    document: Document, chunk_words: int, overlap_words: int, readers: Sequence[str] = ()
) -> list[Chunk]:
    """Return a document's chunks, in order, of at most `chunk_words` words each.

    Each chunk but the first begins with the last `overlap_words` words of the one before it, or
    with all of a first chunk that is shorter.

    Args: readers: who may read a document that has no rule of its own (`meta["readers"]`).
    Raises: DataError: as `place_and_rule`.
    """
    return chunks_at(document, spans(document.text, chunk_words, overlap_words), readers)


def chunks_at(
    document: Document, found: Iterable[tuple[int, int]], readers: Sequence[str] = ()
) -> list[Chunk]:
    """Return the chunks of a document that begin and end at these character offsets.

    Args: readers: who may read a document that has no rule of its own (`meta["readers"]`).
    Raises: DataError: as `place_and_rule`.
    """
    fields, places = place_and_rule(document, readers), places_of(document)
    starts = [place.start for place in places]
    chunks = []
    for number, (start, end) in enumerate(found):
        chunk = Chunk(
            f"{document.id}#{number}",
            document.id,
            start,
            end,
            document.title,
            document.text[start:end],
            **fields,
        )
        if before := bisect_right(starts, start):
            place = places[before - 1]
            chunk = chunk._replace(page=place.page, section=place.section)
        chunks.append(chunk)
    return chunks


class TextPosition(NamedTuple):
    """Where a stretch of a document stands: from `start` on, until the next one."""

    start: int
    page: int | None
    section: str


def places_of(document: Document) -> list[TextPosition]:
    """Return the pages and sections that `meta["places"]` tells, in order; [] where it has none.

    A parser writes them (`rag/parsers/`): a list of [start, page or null, section], by start.

    Raises: DataError: it is something else.
    """
    given = document.meta.get(PLACES, [])
    try:
        found = [TextPosition(start, page, section) for start, page, section in given]
    except (TypeError, ValueError):
        found = [TextPosition(-1, None, "")]
    rising = all(a.start < b.start for a, b in pairwise(found))
    sound = rising and all(
        type(start) is int
        and start >= 0
        and isinstance(section, str)
        and (page is None or (type(page) is int and page > 0))
        for start, page, section in found
    )
    if not sound:
        raise DataError(
            f"document {document.id!r}: meta.{PLACES} (={given!r:.80}) must be a list of [start, "
            "page or null, section] with rising starts; correct it or remove it."
        )
    return found


def place_and_rule(document: Document, readers: Sequence[str]) -> dict[str, Any]:
    """Return what a document's `meta` gives each of its chunks: the fields from `page` on.

    A `date` that is no ISO 8601, or a `page` that is no number, stays among the metadata, as do
    texts, numbers, truth values and lists of texts; anything nested, and `questions`, is left out.

    Args: readers: who may read a document that has no rule of its own (`meta["readers"]`).
    Raises: DataError: a rule that is not a list of principals.
    """
    meta, found = document.meta, dict[str, Any]()
    date, page, url, section = (meta.get(name) for name in ("date", "page", "url", "section"))
    if isinstance(date, str) and is_iso_date(date):
        found["date"] = date
    if type(page) is int and page > 0:
        found["page"] = page
    if isinstance(url, str):
        found["url"] = url
    if isinstance(section, str):
        found["section"] = section
    found["readers"] = principals(meta.get("readers", readers), f"document {document.id!r}")
    own = (*found, "questions", PLACES)
    left = {key: value for key, value in meta.items() if key not in own}
    if metadata := {key: value for key, value in left.items() if is_metadata(value)}:
        found["metadata"] = metadata
    return found


def principals(rule: Any, whose: str) -> tuple[str, ...]:
    """Return an access rule as a chunk holds it: sorted, each principal once.

    Raises: DataError: it is not a list of names.
    """
    fits = isinstance(rule, Sequence) and not isinstance(rule, str)
    if not fits or not all(isinstance(name, str) and name.strip() for name in rule):
        raise DataError(
            f"{whose}: readers (={rule!r:.80}) must be a list of names of principals; "
            f'correct it, give ["{EVERYONE}"] for everyone, or [] for nobody.'
        )
    return tuple(sorted(set(rule)))


def is_metadata(value: Any) -> bool:
    """Return whether a value can stand in a chunk's metadata: see `Value`."""
    if isinstance(value, list):
        return all(isinstance(one, str) for one in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str | int)


def is_iso_date(text: str) -> bool:
    """Return whether a text is a date, or a date and time, of ISO 8601."""
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


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


def cut(
    documents: Iterable[Document],
    chunk_words: int,
    overlap_words: int,
    readers: Sequence[str] = (),
    spans_of: Callable[[Document], Iterable[tuple[int, int]]] | None = None,
) -> list[Chunk]:
    """Return the chunks of all documents, documents in the order of their ids.

    So a chunk's row, which breaks ties between equal scores, does not depend on the order of a
    file.

    Args: readers: who may read a document that has no rule of its own (`meta["readers"]`).
        spans_of: a chunker (`rag/chunking/`); None: by words.
    Raises: DataError: two documents share an id, there is no document, or a rule that is no list of
        principals.
    """
    ordered = sorted(documents, key=lambda document: document.id)
    if not ordered:
        raise DataError("an index needs at least one document; give the documents node some.")
    for one, other in pairwise(ordered):
        if one.id == other.id:
            raise DataError(f"two documents have the id {one.id!r}; give each its own.")
    if spans_of is not None:
        return [chunk for d in ordered for chunk in chunks_at(d, spans_of(d), readers)]
    return [chunk for d in ordered for chunk in chunks_of(d, chunk_words, overlap_words, readers)]


def to_row(chunk: Chunk) -> dict[str, Any]:
    """Return the JSON form of a chunk: place, date and metadata are left out where it has none."""
    row = chunk._asdict()
    for name, default in Chunk._field_defaults.items():
        if name != "readers" and row[name] == default:
            del row[name]
    if "metadata" in row:
        row["metadata"] = dict(row["metadata"])
    return row


def from_row(row: Mapping[str, Any]) -> Chunk:
    """Return the chunk of a row that `to_row`, or an earlier version, made.

    Raises: DataError: an unknown or missing field, or a value of another type.
    """
    fields = set(row)
    whole = fields == FIRST_FIELDS or "readers" in fields
    if not whole or not FIRST_FIELDS <= fields <= set(Chunk._fields):
        raise DataError(
            f"a passage has the fields {listed(sorted(FIRST_FIELDS | {'readers'}))}, and may have "
            f"{listed(sorted(set(Chunk._field_defaults) - {'readers'}))}."
        )
    values = dict(row)
    values["readers"] = principals(row.get("readers", [EVERYONE]), f"passage {row['id']!r:.80}")
    chunk = Chunk(**values)
    metadata = chunk.metadata
    sound = (
        all(isinstance(row[name], str) for name in ("id", "document", "title", "text"))
        and all(type(place) is int for place in (chunk.start, chunk.end))
        and isinstance(chunk.section, str)
        and (chunk.page is None or type(chunk.page) is int)
        and all(value is None or isinstance(value, str) for value in (chunk.url, chunk.date))
        and isinstance(metadata, Mapping)
        and all(is_metadata(value) for value in metadata.values())
    )
    if not sound:
        raise DataError(f"passage {row['id']!r:.80} has a field of another type.")
    return chunk


def write_chunks(chunks: Iterable[Chunk], path: Path) -> None:
    """Write chunks as JSON Lines, one a row."""
    write_jsonl(path, (to_row(chunk) for chunk in chunks))


def read_chunks(path: Path) -> list[Chunk]:
    """Return the chunks that `write_chunks`, or an earlier version, wrote.

    Raises: DataError: a row that is not a chunk.
    """
    chunks = []
    for number, row in read_rows(path):
        try:
            chunks.append(from_row(row))
        except DataError as error:
            raise DataError(str(error), path, number) from None
    return chunks
