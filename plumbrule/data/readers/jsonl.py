"""Format `jsonl`: the user's own table, as JSON Lines, a JSON list, CSV or Parquet.

What a row is, its columns say (`plumbrule/data/row_schemas.py`): ours, TRL's, chats of several
kinds. The file is the user's, so the first bad row is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterator
from functools import partial
from pathlib import Path

from plumbrule.data.annotators import item_of
from plumbrule.data.benchmark_items import BENCHMARK, ItemFormat
from plumbrule.data.columns import parse_row
from plumbrule.data.readers.registry import Format, SourceRow, register_format
from plumbrule.data.records import BenchmarkItem, Preference
from plumbrule.data.row_files import TABLE_ENDINGS, form_of, read_table, stem_of
from plumbrule.data.row_schemas import RowSchema, shape_of, unread
from plumbrule.errors import DataError
from plumbrule.store.source_files import is_litter

_SIDE = re.compile(r"(train|records|validation|valid|dev|test)(?![a-z])")


def read_jsonl(path: Path, role: str, items: ItemFormat | None = None) -> Iterator[SourceRow]:
    """Yield the rows of a table (JSON Lines, a JSON list, CSV, Parquet), or of a folder's training
    and validation tables.

    All files must have rows of one shape (`plumbrule/data/columns.py`). Rankings of one item by
    several annotators stay rows of their own. Raises: DataError: a row that is malformed, of
    another shape, breaks its record's rules, is an annotator's second, other ranking of an item, or
    a benchmark's item that is not of the format `items`; with file and row.
    """
    first: RowSchema | None = None
    labels: dict[Hashable, tuple[str, Hashable]] = {}
    for file, held_out in _jsonl_files(path):
        form = form_of(file)
        for number, raw in read_table(file):
            row = {name: value for name, value in raw.items() if value is not None}
            try:
                shape = shape_of(row, role)
                first = first or shape
                if shape is not first:
                    raise DataError(f"all rows must be of one shape; before it: {first.name}.")
                record = parse_row(row, shape, f"{stem_of(file)}:{number}", role)
                if isinstance(record, Preference) and record.annotator:
                    _check_label(record, f"{file.name}, row {number}", labels)
                if items is not None and isinstance(record, BenchmarkItem):
                    items.check(record)
            except DataError as error:
                text = json.dumps(raw, ensure_ascii=False)
                raise DataError(str(error), file, number, text) from None
            done = tuple(text for text in (form, shape.conversion) if text)
            yield SourceRow(record, "", held_out, unread(row, shape), done)


def _read_items(path: Path, items: ItemFormat) -> Iterator[SourceRow]:
    return read_jsonl(path, BENCHMARK, items)


def _check_label(
    label: Preference, where: str, labels: dict[Hashable, tuple[str, Hashable]]
) -> None:
    """Add an annotator's ranking to `labels`: (item, annotator) -> (where, ranking).

    The same ranking once more is a repeat, which the data stage removes and counts.
    Raises: DataError: the annotator ranked the item before, and otherwise.
    """
    ranking = frozenset(zip(label.responses, label.ranks, strict=True))
    key = (item_of(label), label.annotator)
    before, other = labels.setdefault(key, (where, ranking))
    if ranking != other:
        raise DataError(
            f"annotator (={label.annotator!r}) must rank an item once; {before} holds another "
            "ranking of the same answers; keep one."
        )


def _jsonl_files(path: Path) -> list[tuple[Path, bool | None]]:
    """Return (file, held out) of a file or folder; None where there are no validation files.

    In a folder, names begin with train or records, and validation, valid, dev or test. The first of
    these four that is there is the held-out part, so a test file beside a validation file stays
    untouched.
    """
    if path.is_file():
        return [(path, None)]
    sides: dict[str, list[Path]] = {}
    names = sorted(file.name for file in path.iterdir() if not is_litter(file.name))
    for name in names:
        if name.endswith(TABLE_ENDINGS) and (match := _SIDE.match(name)):
            sides.setdefault(match[1], []).append(path / name)
    train = sides.get("train") or sides.get("records")
    if not train:
        raise DataError(
            f"the folder (with {', '.join(names[:8]) or 'nothing'}) must hold "
            f"train{TABLE_ENDINGS[0]} or the like ({', '.join(TABLE_ENDINGS)}), and may hold "
            "validation files; name a file.",
            path,
        )
    sides_held_out = (side for side in ("validation", "valid", "dev", "test") if side in sides)
    held_out = sides.get(next(sides_held_out, ""), [])
    side = False if held_out else None
    return [(file, side) for file in train] + [(file, True) for file in held_out]


def _holds_out(path: Path) -> bool:
    return any(held_out for _, held_out in _jsonl_files(path))


EXAMPLES = {
    "corpus": '{"text": "A text."}\n',
    "demonstrations": '{"prompt": "Hi", "completion": "Hello."}\n',
    "preferences": '{"prompt": "Hi", "chosen": "Hello.", "rejected": "What?"}\n',
    "prompts": '{"prompt": "Hi"}\n',
    "documents": '{"text": "A text.", "title": "T"}\n',
    BENCHMARK: '{"task": "bold", "fields": {"prompt": "Ada was"}}\n',
}
"""Role -> a row of the simplest kind."""

register_format(
    Format(
        name="jsonl",
        readers={role: partial(read_jsonl, role=role) for role in EXAMPLES},
        columns="one of the sets in plumbrule/data/row_schemas.py",
        examples={role: {"train.jsonl": text} for role, text in EXAMPLES.items()},
        own_split=_holds_out,
        read_items=_read_items,
    )
)
