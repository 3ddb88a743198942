"""Other projects' formats, read into our records; the only place that knows them.

A reader takes a path and yields a `Row` for each row of its source: the record it became, or why
it became none. Nothing is dropped silently: the data stage counts reasons into the data card. How
strict a reader is depends on whose file it is. A JSON Lines file is the user's own, so its first
bad row raises a `DataError` that names file and row. A published set has known bad rows that nobody
here can mend, so `hh_rlhf` counts them; a row that is not of the format at all raises there too.

`READERS` is the table, by (format, role); `register` adds to it, also from a plug-in.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from plumbrule.data.annotators import item_of
from plumbrule.data.benchmark_items import BENCHMARK, ItemFormat
from plumbrule.data.columns import parse_row
from plumbrule.data.records import (
    BenchmarkItem,
    Message,
    Preference,
    Record,
    numbered_lines,
    read_rows,
)
from plumbrule.data.roles import to_role
from plumbrule.data.row_files import JSON_ENDINGS, TABLE_ENDINGS, form_of, read_table
from plumbrule.data.row_schemas import RowSchema, shape_of, unread
from plumbrule.data.splits import first_turn
from plumbrule.data.strict_json import parse_json
from plumbrule.errors import ConfigError, DataError
from plumbrule.store.fingerprint import plugin_digest
from plumbrule.store.source_files import files_under, is_litter, require_readable


class Row(NamedTuple):
    """What became of one row of a source.

    record: a record, or a corpus row; None where the row was left out. dropped: why. held_out:
    whether the source itself holds the row out; None where it brings no split of its own. unread:
    columns and fields of the row that hold something and of which nothing was read. conversions:
    what was done to make a record of it, where that is a choice.
    """

    record: Record | dict[str, Any] | None
    dropped: str = ""
    held_out: bool | None = None
    unread: tuple[str, ...] = ()
    conversions: tuple[str, ...] = ()


Reader = Callable[[Path], Iterator[Row]]
READERS: dict[tuple[str, str], Reader] = {}
"""(format, role) -> reader."""
_DIGESTS: dict[tuple[str, str], str] = {}
_FILES: dict[tuple[str, str], Path] = {}
"""(format, role) -> the file that registered its reader."""


def register(format: str, role: str, reader: Reader) -> None:
    """Make `reader` the one that reads data of `format` for `role`.

    Raises: ConfigError: another file registered one for them.
    """
    file = Path(sys._getframe(1).f_globals["__file__"])
    known = _FILES.get((format, role), file)
    if known != file:
        holder = "Plumbrule" if known == Path(__file__) else known.name
        raise ConfigError(
            f"dataset.format (={format}, for role {role}) must be registered once; {holder} "
            f"and {file.name} both do. Rename one."
        )
    READERS[format, role], _FILES[format, role] = reader, file
    _DIGESTS[format, role] = plugin_digest(str(file))


def source_digest(format: str) -> str:
    """Return a digest of the plug-ins that read a format, as they were loaded; "" for ours."""
    return ":".join(sorted({d for (name, _), d in _DIGESTS.items() if name == format and d}))


def has_reader(format: str, role: str, items: ItemFormat | None = None) -> bool:
    """Return whether a format feeds a role. items: of a benchmark's role; None: no benchmark."""
    return (format, role) in READERS or (items is not None and (format, BENCHMARK) in READERS)


def read(
    format: str, role: str, path: Path | str, items: ItemFormat | None = None
) -> Iterator[Row]:
    """Return what the reader of (format, role) makes of `path`.

    A benchmark has `items` and is read by the reader of its own role, or of any benchmark.

    Raises: DataError: no such path, no such reader, what that reader raises, or an item that is not
    of the format `items`.
    """
    if not has_reader(format, role, items):
        roles = ", ".join(r for f, r in READERS if f == format) or "no role"
        raise DataError(
            f"dataset.format (={format}) must have a reader for role {role}; it feeds {roles}."
        )
    require_readable(Path(path))
    if (format, role) in READERS:
        rows = READERS[format, role](Path(path))
        return rows if items is None else checked(rows, items)
    assert items is not None  # has_reader has checked it
    if format == "jsonl":  # whose errors name file and row
        return read_jsonl(Path(path), BENCHMARK, items)
    return checked(READERS[format, BENCHMARK](Path(path)), items)


def checked(rows: Iterable[Row], items: ItemFormat) -> Iterator[Row]:
    """Yield rows of benchmark items. Raises: DataError: one is not of the format `items`."""
    for row in rows:
        if isinstance(row.record, BenchmarkItem):
            try:
                items.check(row.record)
            except DataError as error:
                raise DataError(f"item {row.record.id!r}: {error}") from None
        yield row


# --- jsonl -------------------------------------------------------------------------------------

_SIDE = re.compile(r"(train|records|validation|valid|dev|test)(?![a-z])")


def read_jsonl(path: Path, role: str, items: ItemFormat | None = None) -> Iterator[Row]:
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
                record = parse_row(row, shape, f"{_stem(file)}:{number}", role)
                if isinstance(record, Preference) and record.annotator:
                    _check_label(record, f"{file.name}, row {number}", labels)
                if items is not None and isinstance(record, BenchmarkItem):
                    items.check(record)
            except DataError as error:
                text = json.dumps(raw, ensure_ascii=False)
                raise DataError(str(error), file, number, text) from None
            done = tuple(text for text in (form, shape.conversion) if text)
            yield Row(record, "", held_out, unread(row, shape), done)


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


def brings_own_split(format: str, path: Path | str) -> bool | None:
    """Return whether a source holds rows out itself, by its files' names; None: not known.

    Opens no file, so planning may ask.
    Raises: DataError: the path or the folder can't be read.
    """
    require_readable(Path(path))
    if format == "jsonl":
        return any(held_out for _, held_out in _jsonl_files(Path(path)))
    if format == "hh_rlhf":
        return {_stem(file) for file, _ in _hh_files(Path(path))} >= {"train", "test"}
    return None


def _stem(file: Path) -> str:
    return file.name.split(".")[0]


for _role in ("corpus", "demonstrations", "preferences", "prompts", "documents", BENCHMARK):
    register("jsonl", _role, partial(read_jsonl, role=_role))


# --- hh_rlhf -----------------------------------------------------------------------------------

_TURN = re.compile(r"\n\n(Human|Assistant):")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}


def read_hh_rlhf(path: Path, role: str) -> Iterator[Row]:
    """Yield the rows of Anthropic's helpful and harmless pairs (arXiv:2204.05862).

    Every role reads the same pairs, so a row left out of one is left out of all. Where both train
    and test files are there, the test files are held out, and a training row whose first turn is
    that of a held-out one, letter for letter, is left out; else the stage splits.
    `red-team-attempts` holds no pairs and is passed over.
    Raises: DataError: no files, or a row without the texts chosen and rejected.
    """
    files = _hh_files(path)
    own_split = {_stem(file) for file, _ in files} >= {"train", "test"}
    starts = set()
    if own_split:
        held_out = [f for f in files if _stem(f[0]) == "test"]
        pairs = (parse_pair(row, id) for row, id in _hh_rows(held_out))
        starts = {first_turn(pair.messages) for pair in pairs if isinstance(pair, Preference)}
    for file, name in files:
        side = (_stem(file) == "test") if own_split else None
        for row, id in _hh_rows([(file, name)]):
            pair = parse_pair(row, id)
            if isinstance(pair, str):
                yield Row(None, pair, side)
            elif side is False and first_turn(pair.messages) in starts:
                yield Row(None, "the conversation is also in the held-out file", side)
            else:
                yield Row(to_role(pair, role), held_out=side)


def _hh_files(path: Path) -> list[tuple[Path, str]]:
    """Return (file, name inside `path` without endings) of every file of pairs."""
    if path.is_file():
        return [(path, _stem(path))]
    files = [
        (file, str(file.relative_to(path).parent / _stem(file)))
        for file in files_under(path)
        if file.name.endswith((".jsonl", ".jsonl.gz")) and "red-team" not in file.parent.name
    ]
    if not files:
        raise DataError("no *.jsonl.gz or *.jsonl below this folder; check dataset.path.", path)
    return files


def _hh_rows(files: list[tuple[Path, str]]) -> Iterator[tuple[Mapping[str, str], str]]:
    for file, name in files:
        for number, row in read_rows(file):
            if not all(isinstance(row.get(side), str) for side in ("chosen", "rejected")):
                text = json.dumps(row, ensure_ascii=False)
                raise DataError(
                    "a row must hold the texts chosen and rejected.", file, number, text
                )
            yield row, f"{name}:{number}"


def parse_pair(row: Mapping[str, str], id: str) -> Preference | str:
    """Return the preference that two whole dialogues hold, or why they hold none."""
    before, _, chosen = row["chosen"].rpartition("\n\nAssistant:")
    other_before, _, rejected = row["rejected"].rpartition("\n\nAssistant:")
    chosen, rejected = chosen.strip(), rejected.strip()
    if before != other_before:
        return "the dialogues differ before the last answer"
    if not chosen or not rejected:
        return "an answer is empty"
    if chosen == rejected:
        return "the answers are equal"
    opening, *parts = _TURN.split(before)
    speakers, texts = parts[::2], [text.strip() for text in parts[1::2]]
    expected = ["Human", "Assistant"] * (len(speakers) // 2) + ["Human"]
    if opening.strip() or speakers != expected:
        return "the turns don't alternate"
    if not all(texts):
        return "an earlier turn is empty"
    messages = tuple(Message(_SPEAKERS[s], t) for s, t in zip(speakers, texts, strict=True))
    return Preference(id, messages, (chosen, rejected), (1, 2))


for _role in ("corpus", "demonstrations", "preferences", "prompts"):
    register("hh_rlhf", _role, partial(read_hh_rlhf, role=_role))


# --- halueval ----------------------------------------------------------------------------------

HALUEVAL_FIELDS: dict[str, dict[str, str]] = {
    "qa": {
        "knowledge": "knowledge",
        "question": "question",
        "right": "right_answer",
        "hallucinated": "hallucinated_answer",
    },
    "dialogue": {
        "knowledge": "knowledge",
        "history": "dialogue_history",
        "right": "right_response",
        "hallucinated": "hallucinated_response",
    },
    "summarization": {
        "document": "document",
        "right": "right_summary",
        "hallucinated": "hallucinated_summary",
    },
    "general": {"query": "user_query", "response": "chatgpt_response"},
}
"""Task -> our field -> the official column."""


def read_halueval(path: Path) -> Iterator[Row]:
    """Yield the items of HaluEval's official files (arXiv:2305.11747), those that are there.

    JSON Lines named `<task>_data*.json`. Every text is stripped: all right summaries end with a
    line break in the official file and no hallucinated one does, which gives the answer away. Rows
    are numbered, since an official `ID` occurs twice.
    Raises: DataError: no such file, several for one task, or a row without the task's columns.
    """
    for task, file in _halueval_files(path).items():
        columns = HALUEVAL_FIELDS[task]
        for number, row in read_rows(file):
            missing = [c for c in columns.values() if not isinstance(row.get(c), str)]
            label = row.get("hallucination")
            if missing or (task == "general" and label not in ("yes", "no")):
                needs = ", ".join(columns.values())
                needs += " and hallucination: yes or no" if task == "general" else ""
                text = json.dumps(row, ensure_ascii=False)
                raise DataError(f"a row of task {task} must hold {needs}.", file, number, text)
            id = f"{task}:{number}"
            fields = {ours: row[theirs].strip() for ours, theirs in columns.items()}
            meta = {"hallucinated": label == "yes"} if task == "general" else {}
            yield Row(BenchmarkItem(id, f"halueval_{task}", fields, id, meta))


def _halueval_files(path: Path) -> dict[str, Path]:
    """Return the file of each task; `<task>_data.json` goes before others of its task."""
    files = files_under(path)
    found: dict[str, Path] = {}
    for task in HALUEVAL_FIELDS:
        named = [f for f in files if f.name.startswith(f"{task}_data")]
        named = [f for f in named if f.name.endswith(JSON_ENDINGS)]
        whole = [f for f in named if f.name == f"{task}_data.json"] or named
        if len(whole) > 1:
            names = ", ".join(str(f.name) for f in whole)
            raise DataError(f"several files of task {task} ({names}); keep one.", path)
        if whole:
            found[task] = whole[0]
    if not found:
        names = ", ".join(f"{task}_data.json" for task in HALUEVAL_FIELDS)
        raise DataError(f"none of {names} is here; check the path.", path)
    return found


register("halueval", "halueval", read_halueval)


# --- bold --------------------------------------------------------------------------------------


def read_bold(path: Path) -> Iterator[Row]:
    """Yield the prompts of BOLD (arXiv:2101.11718), stripped: most end with a space.

    A file `<domain>_prompt.json` is one object {group: {entity: [prompt, ...]}}. Prompts that
    repeat an earlier one stay, as in the published protocol.
    Raises: DataError: no such file, or one of another form.
    """
    files = [path]
    if path.is_dir():
        files = [file for file in files_under(path) if file.name.endswith("_prompt.json")]
    if not files:
        raise DataError("no <domain>_prompt.json below this folder; check the path.", path)
    for file in files:
        domain = file.name.removesuffix("_prompt.json")
        for group, entities in _bold_groups(file).items():
            for entity, prompts in entities.items():
                for number, prompt in enumerate(prompts):
                    if not prompt.strip():
                        yield Row(None, "the prompt is empty")
                        continue
                    id = f"{domain}/{group}/{entity}/{number}"
                    meta = {"domain": domain, "group": group}
                    yield Row(BenchmarkItem(id, "bold", {"prompt": prompt.strip()}, entity, meta))


def _bold_groups(file: Path) -> dict[str, dict[str, list[str]]]:
    text = "".join(line for _, line in numbered_lines(file))
    try:
        groups = parse_json(text)
    except ValueError as error:
        raise DataError(f"{error}.", file, text=text) from None
    fits = isinstance(groups, dict) and all(
        isinstance(entities, dict)
        and all(
            isinstance(prompts, list) and all(isinstance(p, str) for p in prompts)
            for prompts in entities.values()
        )
        for entities in groups.values()
    )
    if not fits:
        raise DataError("must be {group: {entity: [prompt, ...]}}.", file, text=text)
    return groups


register("bold", "bold", read_bold)
