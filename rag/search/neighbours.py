"""A passage with those beside it in its document, as one text without repetition."""

from __future__ import annotations

from collections.abc import Sequence

from plumbrule.protocols import Passage
from rag.access import Principal, readable
from rag.corpus import Corpus

WIDEST_GAP = 8
"""Characters between two chunks that still stand side by side: blanks, which no chunk holds."""


def with_neighbours(
    found: Sequence[tuple[int, float]], number: int, corpus: Corpus, principal: Principal
) -> list[Passage]:
    """Return passages with up to `number` neighbours on each side, best first.

    Neighbours that overlap or adjoin become one passage, from the start of the first to the end of
    the last, whose score is the best of them and whose id is that of the best. Blanks between two
    chunks are spaces, as many as there are characters, so that offsets stay right. Passages that
    were found side by side are one. A chunk that the principal may not read is no neighbour, as if
    it were not there: what lies beyond it is one only where it adjoins without it.

    Args: found: (row, score), best first. number: at least 0.
    """
    may_read = readable(corpus.rules, principal)
    scores: dict[int, float] = {}
    for row, score in found:
        if may_read[row]:
            scores.setdefault(row, score)
    shown: set[int] = set()
    for row in scores:
        every = corpus.by_document[corpus.chunks[row].document]
        rows = [other for other in every if may_read[other]]
        place = rows.index(row)
        shown.add(row)
        for side in (rows[place + 1 :], rows[:place][::-1]):
            last = row
            for other in side[:number]:
                if not _adjoin(corpus, last, other):
                    break
                shown.add(other)
                last = other
    merged = [_merged(run, scores, corpus) for run in _runs(shown, corpus)]
    return sorted(merged, key=lambda passage: -passage.score)


def _adjoin(corpus: Corpus, one: int, other: int) -> bool:
    first, second = sorted((corpus.chunks[one], corpus.chunks[other]), key=lambda c: c.start)
    return second.start - first.end <= WIDEST_GAP


def _runs(rows: set[int], corpus: Corpus) -> list[list[int]]:
    """Return the rows in groups that stand side by side in one document."""
    chunks = corpus.chunks
    ordered = sorted(rows, key=lambda row: (chunks[row].document, chunks[row].start, row))
    runs: list[list[int]] = []
    for row in ordered:
        together = (
            runs
            and chunks[runs[-1][-1]].document == chunks[row].document
            and _adjoin(corpus, runs[-1][-1], row)
        )
        if together:
            runs[-1].append(row)
        else:
            runs.append([row])
    return runs


def _merged(run: Sequence[int], scores: dict[int, float], corpus: Corpus) -> Passage:
    text, start = "", corpus.chunks[run[0]].start
    end = start
    for row in run:
        chunk = corpus.chunks[row]
        if chunk.end > end:
            text += " " * max(chunk.start - end, 0) + chunk.text[max(end - chunk.start, 0) :]
            end = chunk.end
    best = max((row for row in run if row in scores), key=lambda row: (scores[row], -row))
    chunk = corpus.chunks[best]
    return Passage(chunk.id, text, scores[best], chunk.document, start, end)
