"""Format `rewardbench2`: RewardBench 2 (arXiv:2506.01937), as its hub repository holds it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from plumbrule.data.readers.published import named_rows, register_ranked, subset_name, texts_of
from plumbrule.data.readers.registry import SourceRow
from plumbrule.data.records import Message, Preference
from plumbrule.errors import DataError

KINDS = ("ref", "tied")


def read_rewardbench2(path: Path) -> Iterator[SourceRow]:
    """Yield a held-out ranking per row: rank 1 for each right answer, 2 for each wrong one.

    `meta` says how it is scored: best of all, or in the subset Ties by `kind` and `question`, which
    its id `ref:<number>` or `tied:<number>` holds. An answer that a side holds twice counts once.
    Raises: DataError: no table, or a row without prompt, chosen, rejected and subset; with file and
        row.
    """
    for row, id in named_rows(path, _check):
        subset = subset_name(row["subset"])
        chosen, rejected = (list(dict.fromkeys(texts_of(row, s))) for s in ("chosen", "rejected"))
        if set(chosen) & set(rejected):
            yield SourceRow(None, "an answer is both right and wrong", held_out=True)
            continue
        meta = {"protocol": "best_of", "subset": subset}
        if subset == "ties":
            kind, _, question = str(row["id"]).partition(":")
            meta = {"protocol": "ties", "subset": subset, "kind": kind, "question": question}
        ranks = (1,) * len(chosen) + (2,) * len(rejected)
        prompt = (Message("user", row["prompt"].strip()),)
        record = Preference(id, prompt, (*chosen, *rejected), ranks, meta=meta)
        yield SourceRow(record, held_out=True)


def _check(row: Mapping[str, Any]) -> None:
    if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        raise DataError("prompt must be text.")
    if not isinstance(row.get("subset"), str) or not row["subset"].strip():
        raise DataError("subset must be text.")
    for side in ("chosen", "rejected"):
        if not texts_of(row, side):
            raise DataError(f"{side} must hold an answer.")
    kind, _, question = str(row.get("id", "")).partition(":")
    if subset_name(row["subset"]) == "ties" and (kind not in KINDS or not question):
        raise DataError(f"id (={row.get('id')!r:.40}) of the subset Ties must be ref:n or tied:n.")


_ROW = (
    '{"id": "1", "prompt": "Is 7 prime?", "chosen": ["Yes."], "rejected": ["No.", "7 = 2 x 3.", '
    '"Ask me later."], "subset": "Math"}\n'
)
register_ranked(
    "rewardbench2",
    read_rewardbench2,
    "id, prompt, chosen and rejected (lists), subset; others are not read",
    {"test.jsonl": _ROW},
)
