"""Format `rm_bench`: RM-Bench (arXiv:2410.16184), a file for each domain or one whole table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from plumbrule.data.readers.published import named_rows, register_ranked, subset_name, texts_of
from plumbrule.data.readers.registry import SourceRow
from plumbrule.data.records import Message, Preference
from plumbrule.errors import DataError

NUM_STYLES = 3
SUFFIX = "_filtered"


def read_rm_bench(path: Path) -> Iterator[SourceRow]:
    """Yield a held-out ranking per row; `meta.styles` has the place of each style's answer.

    Styles are concise, detailed, detailed with markdown. Where two styles of a side are the same
    text, the ranking holds it once. The domain is the row's `domain`, which only the whole table
    has, or the file's name.
    Raises: DataError: no table, or a row without prompt, three chosen and three rejected.
    """
    for row, id in named_rows(path, _check):
        sides = {side: texts_of(row, side) for side in ("chosen", "rejected")}
        if set(sides["chosen"]) & set(sides["rejected"]):
            yield SourceRow(None, "an answer is both right and wrong", held_out=True)
            continue
        responses = list(dict.fromkeys([*sides["chosen"], *sides["rejected"]]))
        styles = {side: [responses.index(t) for t in texts] for side, texts in sides.items()}
        ranks = tuple(1 if text in sides["chosen"] else 2 for text in responses)
        named = row.get("domain") or id.partition(":")[0].removesuffix(SUFFIX)
        meta = {"protocol": "styles", "subset": subset_name(str(named)), "styles": styles}
        prompt = (Message("user", row["prompt"].strip()),)
        record = Preference(id, prompt, tuple(responses), ranks, meta=meta)
        yield SourceRow(record, held_out=True)


def _check(row: Mapping[str, Any]) -> None:
    if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        raise DataError("prompt must be text.")
    for side in ("chosen", "rejected"):
        if len(texts_of(row, side)) != NUM_STYLES:
            raise DataError(f"{side} must hold three answers: concise, detailed, with markdown.")


_ROW = (
    '{"id": "1", "prompt": "Is 7 prime?", "chosen": ["Yes.", "Yes: 1 and 7 alone divide it.", '
    '"**Yes**: 1 and 7 alone divide it."], "rejected": ["No.", "No: 2 divides it.", '
    '"**No**: 2 divides it."]}\n'
)
register_ranked(
    "rm_bench",
    read_rm_bench,
    "prompt, chosen and rejected (three texts each) and perhaps domain; others are not read",
    {"math_filtered.jsonl": _ROW},
)
