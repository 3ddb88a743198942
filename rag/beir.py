"""Retrieval sets in BEIR's format: documents, queries, and who answers what.

    corpus.jsonl        {"_id": "d1", "title": "...", "text": "..."}
    queries.jsonl       {"_id": "q1", "text": "..."}
    qrels/<split>.tsv   query-id <tab> corpus-id <tab> score, under a heading of those names

A document without a text has its title as text; one without either is left out and counted, as
BEIR's own sets have some.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, NamedTuple

from plumbrule.data.json_lines import read_rows
from plumbrule.data.records import Document
from plumbrule.errors import DataError, listed

CORPUS, QUERIES, JUDGEMENTS = "corpus.jsonl", "queries.jsonl", "qrels"
HEADING = ("query-id", "corpus-id", "score")


class RetrievalSet(NamedTuple):
    """A corpus with judged queries."""

    documents: list[Document]
    queries: Mapping[str, str]
    """Judged ones, in the order of the file: id -> text."""
    judged: Mapping[str, Mapping[str, float]]
    """Query -> document -> gain."""
    num_empty: int
    """Documents that were left out, because they have neither text nor title."""

    def with_questions(self) -> list[Document]:
        """Return the documents with the queries that they answer as `meta.questions`.

        The stage `index` measures itself by those.
        """
        asked: dict[str, list[str]] = {}
        for query, gains in self.judged.items():
            for document, gain in gains.items():
                if gain > 0:
                    asked.setdefault(document, []).append(self.queries[query])
        return [
            Document(d.id, d.text, d.title, {**d.meta, "questions": asked.get(d.id, [])})
            for d in self.documents
        ]

    def among(self, findable: Set[str]) -> RetrievalSet:
        """Return the set as it judges searches that can find these documents alone.

        Judgements of other documents are left out, and so is a query all of whose relevant
        documents are among those.
        """
        judged: dict[str, dict[str, float]] = {}
        for query, gains in self.judged.items():
            kept = {document: gain for document, gain in gains.items() if document in findable}
            had, has = (any(g > 0 for g in some.values()) for some in (gains, kept))
            if has or not had:
                judged[query] = kept
        queries = {name: text for name, text in self.queries.items() if name in judged}
        return self._replace(queries=queries, judged=judged)


def read_beir(folder: Path, split: str = "test") -> RetrievalSet:
    """Return the set in a folder.

    Raises: DataError: a file is missing, a row breaks the format, an id comes twice, or a judgement
        names what is not there.
    """
    documents, empty = _documents(_file(folder, CORPUS))
    texts = _queries(_file(folder, QUERIES))
    known = {document.id for document in documents}
    judged = _judgements(folder, split, texts, known | empty)
    queries = {name: texts[name] for name in texts if name in judged}
    kept = {q: {d: g for d, g in judged[q].items() if d in known} for q in queries}
    return RetrievalSet(documents, queries, kept, len(empty))


def _file(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise DataError(
            f"{folder} must be a folder in BEIR's format, with {CORPUS}, {QUERIES} and "
            f"{JUDGEMENTS}/<split>.tsv; {name} is missing."
        )
    return path


def _documents(path: Path) -> tuple[list[Document], set[str]]:
    """Return the documents, and the ids of those without text."""
    found: dict[str, Document] = {}
    empty: set[str] = set()
    for number, row in read_rows(path):
        name, title, text = (_text(row, key, path, number) for key in ("_id", "title", "text"))
        if not name or name in found or name in empty:
            raise DataError(f"`_id` (={name!r}) must be a text of its own.", path, number)
        if not (text or title).strip():
            empty.add(name)
            continue
        meta = row.get("metadata")
        meta = meta if isinstance(meta, Mapping) else {}
        found[name] = Document(name, text if text.strip() else title, title, meta)
    if not found:
        raise DataError("a corpus needs at least one document with text.", path)
    return list(found.values()), empty


def _queries(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, row in read_rows(path):
        name, text = _text(row, "_id", path, number), _text(row, "text", path, number)
        if not name or name in found or not text.strip():
            raise DataError(f"query {name!r} must have a text, and an id of its own.", path, number)
        found[name] = text
    return found


def _text(row: Mapping[str, Any], key: str, path: Path, number: int) -> str:
    value = row.get(key, "")
    if not isinstance(value, str):
        raise DataError(f"`{key}` (={value!r:.80}) must be a text.", path, number)
    return value


def _judgements(
    folder: Path, split: str, queries: Mapping[str, str], documents: set[str]
) -> dict[str, dict[str, float]]:
    path = folder / JUDGEMENTS / f"{split}.tsv"
    if not path.is_file():
        there = listed(sorted(p.stem for p in path.parent.glob("*.tsv"))) or "none"
        raise DataError(f"{path} must hold the judgements of a split; there are: {there}.")
    found: dict[str, dict[str, float]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        parts = line.split("\t")
        if (number == 1 and tuple(parts) == HEADING) or not line.strip():
            continue
        try:
            query, document, gain = parts[0], parts[1], float(parts[2])
            if not math.isfinite(gain):
                raise ValueError(gain)
        except (IndexError, ValueError):
            rule = f"a row must be {', '.join(HEADING)} with tabs between, the score finite."
            raise DataError(rule, path, number, line) from None
        for name, known, file in ((query, queries, QUERIES), (document, documents, CORPUS)):
            if name not in known:
                raise DataError(f"{name!r} is not in {file}.", path, number, line)
        if document in found.setdefault(query, {}):
            raise DataError(f"{query!r} judges {document!r} twice.", path, number, line)
        found[query][document] = gain
    return found
