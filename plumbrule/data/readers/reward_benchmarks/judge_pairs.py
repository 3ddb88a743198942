"""Formats `llmbar` and `pandalm`: pairs of answers on which judges are held to people's word.

LLMBar (arXiv:2310.07641): one right label a pair. PandaLM (arXiv:2306.05087): several annotators a
pair, each 0 for a tie, 1 or 2; each one's word is a ranking of its own. In both the order of the
answers is the one that a judge is shown, so "the first wins" is measured as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from plumbrule.data.readers.published import named_rows, register_ranked, subset_name
from plumbrule.data.readers.registry import SourceRow
from plumbrule.data.records import Message, Preference
from plumbrule.errors import DataError

LLMBAR_FILE = "dataset.json"
_ANNOTATOR = re.compile(r"annotator\d+")
EQUAL = "the answers are equal"


def read_llmbar(path: Path) -> Iterator[SourceRow]:
    """Yield a held-out pair per row; in a folder, of every `dataset.json`, named by its folders.

    Raises: DataError: no such file, or a row without input, output_1, output_2 and label 1 or 2.
    """
    for row, id in named_rows(path, _check_llmbar, LLMBAR_FILE):
        answers = (row["output_1"].strip(), row["output_2"].strip())
        if answers[0] == answers[1]:
            yield SourceRow(None, EQUAL, held_out=True)
            continue
        folder = id.rpartition("/")[0]
        meta = {"in_order": True, "subset": subset_name(folder) if path.is_dir() else ""}
        ranks = (1, 2) if row["label"] == 1 else (2, 1)
        prompt = (Message("user", row["input"].strip()),)
        yield SourceRow(Preference(id, prompt, answers, ranks, meta=meta), held_out=True)


def _check_llmbar(row: Mapping[str, Any]) -> None:
    _texts(row, "input", "output_1", "output_2")
    if type(row.get("label")) is not int or row["label"] not in (1, 2):
        raise DataError(f"label (={row.get('label')!r:.40}) must be 1 or 2.")


def read_pandalm(path: Path) -> Iterator[SourceRow]:
    """Yield a held-out pair for each annotator of each row.

    Raises: DataError: no table, or a row without instruction, response1, response2 and annotators.
    """
    for row, id in named_rows(path, _check_pandalm):
        answers = (row["response1"].strip(), row["response2"].strip())
        if answers[0] == answers[1]:
            yield SourceRow(None, EQUAL, held_out=True)
            continue
        asked = [row["instruction"].strip(), str(row.get("input") or "").strip()]
        prompt = (Message("user", "\n\n".join(filter(None, asked))),)
        for name in sorted(filter(_ANNOTATOR.fullmatch, row)):
            ranks = {0: (1, 1), 1: (1, 2), 2: (2, 1)}[row[name]]
            record = Preference(
                f"{id}/{name}",
                prompt,
                answers,
                ranks,
                annotator=name,
                meta={"in_order": True},
            )
            yield SourceRow(record, held_out=True)


def _check_pandalm(row: Mapping[str, Any]) -> None:
    _texts(row, "instruction", "response1", "response2")
    names = list(filter(_ANNOTATOR.fullmatch, row))
    if not names:
        raise DataError("a row must hold annotator1, annotator2, ...: 0 for a tie, 1 or 2.")
    for name in names:
        if type(row[name]) is not int or row[name] not in (0, 1, 2):
            raise DataError(f"{name} (={row[name]!r:.40}) must be 0 (a tie), 1 or 2.")


def _texts(row: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise DataError(f"{name} (={row.get(name)!r:.40}) must be text.")


_LLMBAR = '{"input": "Is 7 prime?", "output_1": "No.", "output_2": "Yes.", "label": 2}\n'
_PANDALM = (
    '{"instruction": "Is it prime?", "input": "7", "response1": "No.", "response2": "Yes.", '
    '"annotator1": 2, "annotator2": 2, "annotator3": 0}\n'
)
register_ranked(
    "llmbar",
    read_llmbar,
    "input, output_1, output_2, label (1 or 2)",
    {LLMBAR_FILE: _LLMBAR},
)
register_ranked(
    "pandalm",
    read_pandalm,
    "instruction, input, response1, response2, annotator1, annotator2, ... (0 a tie, 1 or 2)",
    {"testset.jsonl": _PANDALM},
)
