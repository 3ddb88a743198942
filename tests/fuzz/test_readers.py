"""Whatever a file of data holds, the data stage raises the project's own errors alone."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
import tempfile
from pathlib import Path

import pyarrow as arrow
import pytest
from effort import efforts, search
from hypothesis import strategies as st
from outside import (
    ANY_ROW,
    GOOD,
    NUMBERS,
    TEXTS,
    TURNS,
    VALUES,
    as_lines,
    changed,
    damaged,
    require_short,
    rows,
)
from pyarrow import parquet

from eval.benchmarks.registry import BENCHMARKS
from plumbrule.data.benchmark_items import BENCHMARK
from plumbrule.data.readers import FORMATS, READERS
from plumbrule.data.records import (
    BenchmarkItem,
    Demonstration,
    Document,
    Preference,
    Prompt,
    from_dict,
    read_records,
    to_dict,
)
from plumbrule.data.row_schemas import SHAPES
from plumbrule.errors import DataError
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.tracking.stage_tracker import NullTracker
from sft.data.config import DataConfig, DatasetConfig
from sft.data.stage import run

KINDS = (Prompt, Demonstration, Preference, Document, BenchmarkItem)
JSONL_ROLES = sorted({role for format, role in READERS if format == "jsonl"} - {BENCHMARK})
JSONL_ROLES += sorted(set(BENCHMARKS) - set(JSONL_ROLES))


@pytest.fixture(scope="module")
def folder():
    """A folder in memory where there is one, since every example writes files."""
    memory = Path("/dev/shm")
    made = tempfile.mkdtemp(dir=memory if memory.is_dir() else None)
    yield Path(made)
    shutil.rmtree(made)


def prepare(folder: Path, format: str, role: str, name: str, content: bytes) -> None:
    """Run the data stage on a file; a DataError must stay short and on one line."""
    (folder / "in").mkdir(exist_ok=True)
    (folder / "out").mkdir(exist_ok=True)
    (folder / "in" / name).write_bytes(content)
    dataset = DatasetConfig(format, str(folder / "in" / name), validation_share=0.0)
    try:
        items = BENCHMARKS[role].items if role in BENCHMARKS else None
        config = DataConfig(role, dataset, items=items)
        run(config, {}, RuntimeConfig(), folder / "out", NullTracker())
    except DataError as error:
        require_short(error)
    else:
        kind = {"corpus": None, "prompts": Prompt, "documents": Document}.get(role, BenchmarkItem)
        kind = {"demonstrations": Demonstration, "preferences": Preference}.get(role, kind)
        if kind is not None:  # what was written reads back
            read_records(kind, folder / "out" / "records.jsonl")


@efforts
@pytest.mark.parametrize("shape", [shape.name for shape in SHAPES])
def test_rows_that_are_nearly_right(shape, effort, folder):
    known = next(s for s in SHAPES if s.name == shape)
    needs = sorted(known.needs) + [f"{known.numbered}{k}" for k in (0, 1) if known.numbered]

    def check(table, role):
        prepare(folder, "jsonl", role, "a.jsonl", as_lines(table))

    roles_of = known.roles
    if shape == BENCHMARK:
        roles_of = {name for name, one in BENCHMARKS.items() if one.items is not None}
    for role in roles_of - {"halueval", "bold", "reading"}:
        prepare(folder, "jsonl", role, "a.jsonl", as_lines([GOOD[shape]]))
        assert (folder / "out" / "records.jsonl").stat().st_size > 2  # the row itself is read
    roles = st.sampled_from(sorted(roles_of))
    row = changed(GOOD[shape])
    search(effort, 40, check, table=st.lists(row, min_size=1, max_size=2), role=roles)
    search(effort, 10, check, table=st.lists(rows(needs), min_size=1, max_size=2), role=roles)


@efforts
def test_rows_of_any_columns(effort, folder):
    def check(table, role):
        prepare(folder, "jsonl", role, "a.jsonl", as_lines(table))

    table = st.lists(ANY_ROW | VALUES, max_size=3)
    search(effort, 60, check, table=table, role=st.sampled_from(JSONL_ROLES))


PAIRS = [
    {"prompt": f"{i}?", "chosen": "yes, so", "rejected": 'no "no"', "margin": i / 2, "id": str(i)}
    for i in range(6)
]
HALUEVAL = {"knowledge": "k", "question": "q", "right_answer": "r", "hallucinated_answer": "h"}
DIALOGUE = {"chosen": "\n\nHuman: Hi\n\nAssistant: a", "rejected": "\n\nHuman: Hi\n\nAssistant: b"}


def as_csv() -> bytes:
    text = io.StringIO()
    table = csv.DictWriter(text, list(PAIRS[0]))
    table.writeheader()
    table.writerows(PAIRS)
    return text.getvalue().encode()


def as_parquet() -> bytes:
    sink = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist(PAIRS), sink)
    return sink.getvalue()


FILES = [
    ("jsonl", "preferences", "a.jsonl", as_lines(PAIRS)),
    ("jsonl", "preferences", "a.jsonl.gz", gzip.compress(as_lines(PAIRS))),
    ("jsonl", "preferences", "a.json", json.dumps(PAIRS, indent=1).encode()),
    ("jsonl", "preferences", "a.csv", as_csv()),
    ("jsonl", "preferences", "a.parquet", as_parquet()),
    ("hh_rlhf", "preferences", "train.jsonl", as_lines([DIALOGUE] * 3)),
    ("halueval", "halueval", "qa_data.json", as_lines([HALUEVAL] * 3)),
    ("bold", "bold", "race_prompt.json", b'{"g": {"e": ["She is ", "He "]}, "h": {"f": []}}'),
]


@efforts
@pytest.mark.parametrize(("format", "role", "name", "content"), FILES, ids=[f[2] for f in FILES])
def test_damaged_files(format, role, name, content, effort, folder):
    def check(damage):
        prepare(folder, format, role, name, damage)

    search(effort, 40, check, damage=damaged(content) | st.binary(max_size=60))


@efforts
@pytest.mark.parametrize("format", ["hh_rlhf", "halueval", "bold"])
def test_values_of_published_sets(format, effort, folder):
    role, name, row = {
        "hh_rlhf": ("preferences", "train.jsonl", DIALOGUE),
        "halueval": ("halueval", "qa_data.json", HALUEVAL),
        "bold": ("bold", "race_prompt.json", {"g": {"e": ["She "]}}),
    }[format]

    def check(value, place):
        changed = {**row, place: value}
        prepare(folder, format, role, name, as_lines([changed]))

    search(effort, 30, check, value=VALUES, place=st.sampled_from(list(row)))


@efforts
@pytest.mark.parametrize("kind", KINDS)
def test_records_of_any_fields(kind, effort):
    names = list(kind.__dataclass_fields__)

    def check(row):
        try:
            record = from_dict(kind, row)
        except DataError as error:
            require_short(error)
        else:
            again = from_dict(kind, json.loads(json.dumps(to_dict(record))))
            assert repr(to_dict(again)) == repr(to_dict(record))

    search(effort, 40, check, row=rows(names) | ANY_ROW | VALUES)


EXAMPLES = sorted(set(FORMATS) - {format for format, *_ in FILES})
"""Formats whose own example is changed and damaged."""
PARTS = {
    "winner": st.sampled_from(["model_a", "tie (bothbad)", "model_c"]) | VALUES,
    "overall_preference": st.integers(-4, 4) | NUMBERS,
    "helpfulness": NUMBERS,
    "score_0": NUMBERS,
    "score_A": NUMBERS,
    "rank": NUMBERS,
    "answers": st.lists(
        st.fixed_dictionaries({"answer": TEXTS, "rank": NUMBERS}) | VALUES, max_size=3
    ),
    "parent_id": st.sampled_from(["a", "b", "c", "z", None]) | VALUES,
    "conversation_a": TURNS,
    "context": TURNS | TEXTS,
    "metadata": st.sampled_from(["{'topic': 1}", "[" * 300, "{1: (2,)}", "1 + 1"]) | TEXTS,
}
"""Columns that are of another type than the example's rows would lead to."""


def rows_of(text: str) -> list[dict]:
    """Return the rows of an example, a table of any form."""
    if text.startswith("["):
        return json.loads(text)
    if text.startswith("{"):
        return [json.loads(line) for line in text.splitlines()]
    return list(csv.DictReader(io.StringIO(text)))


@st.composite
def nearly(draw, table):
    """Return the rows of a table with one or two cells, deep ones too, of another value."""
    table = json.loads(json.dumps(table))
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.sampled_from(table))
        while True:
            key = draw(st.sampled_from(list(at) if isinstance(at, dict) else range(len(at))))
            inner = at[key]
            deeper = isinstance(inner, dict | list) and len(inner) > 0
            if not deeper or draw(st.booleans()):
                break
            at = inner
        if draw(st.integers(0, 5)) == 0 and isinstance(at, dict) and len(at) > 1:
            del at[key]
        else:
            at[key] = draw(PARTS.get(str(key), VALUES) | VALUES)
    return table


@efforts
@pytest.mark.parametrize("format", EXAMPLES)
def test_published_formats(format, effort, folder):
    role, files = next(
        (role, files)
        for role, files in FORMATS[format].examples.items()
        if role in ("preferences", *BENCHMARKS)
    )
    ((name, text),) = files.items()
    prepare(folder, format, role, name, text.encode())
    written = ("records.jsonl", "validation.jsonl")
    assert any((folder / "out" / one).stat().st_size > 2 for one in written)  # it itself is read
    (folder / "in" / name).unlink()
    table = name if not name.endswith(".csv") else "changed.jsonl"

    def check(rows):
        prepare(folder, format, role, table, as_lines(rows))
        (folder / "in" / table).unlink()

    def check_bytes(damage):
        prepare(folder, format, role, name, damage)
        (folder / "in" / name).unlink()

    search(effort, 40, check, rows=nearly(rows_of(text)))
    search(effort, 15, check_bytes, damage=damaged(text.encode()))


def test_every_reader_is_fuzzed():
    assert {f for f, _ in READERS} == {*EXAMPLES, *(format for format, *_ in FILES)}
