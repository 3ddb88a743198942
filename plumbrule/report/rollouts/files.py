"""Reading the Parquet files of rollouts (`rlhf/ppo/rollout/parquet.py` writes them), torch-free.

Files of earlier versions lack columns; what is not there is not shown. Only what a list of
responses cannot do without is required: `REQUIRED`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from plumbrule.errors import ArtifactError, DataError
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import ROLLOUTS

REQUIRED = ("prompt_id", "text", "response", "scores")
TERM = "term:"
"""Beginning of the columns that hold a reward term, or a part of one, before its weight."""
TOKEN_NUMBERS = (
    "rewards",
    "kl",
    "values",
    "advantages",
    "returns",
    "logprobs",
    "ref_logprobs",
    "rollout_logprobs",
    "teacher_logprobs",
    "entropy",
    "penalties",
)
"""Columns that are lists of numbers over the positions of a response."""
LATER = ("passages", "finished", "query", "action_mask", "step_mask", "raw_scores")
SEARCHES = ("turns", "search_queries")
"""Columns that the files of a policy that may search have beside them."""
EXPECTED = {*REQUIRED, *LATER, *TOKEN_NUMBERS} - {"teacher_logprobs"}
"""Columns of a file of today; the teacher's stands there only where there is one."""
OF_TOKENS_ALONE = {*TOKEN_NUMBERS, "query", "step_mask"} - {"kl"}
"""Columns that a list of responses needs nothing of."""
REDO = "remove the artifact's folder and run again."
_NAME = re.compile(r"update-(\d+)\.parquet")
_TEXT = {"prompt_id", "text"}


class RolloutFiles(NamedTuple):
    """The rollouts of an artifact: update -> its file, and the updates whose file was removed."""

    paths: Mapping[int, Path]
    removed: Sequence[int]


class Responses(NamedTuple):
    """The responses of some updates, n in all, in order of update and of place in their file."""

    updates: np.ndarray
    """(n,) int64."""
    places: np.ndarray
    """(n,) int64: rows in their files, from 0."""
    prompt_ids: Sequence[str]
    texts: Sequence[str]
    passages: Sequence[tuple[str, ...]]
    finished: Sequence[bool | None]
    """None: the file does not say."""
    turns: Sequence[tuple[str, ...]]
    """Text of each turn; () of a policy that may not search."""
    search_queries: Sequence[tuple[str, ...]]
    """Query of each search call, in order."""
    numbers: Mapping[str, np.ndarray]
    """Name -> (n,) float64, NaN where a file has no such column: `scores`, `raw_scores`, `kl` (sum
    over action tokens, nats), `length` (action tokens), and each `term:...`."""
    about: Mapping[int, Mapping[str, str]]
    """Update -> what its file says: sampler, staleness."""
    absent: Mapping[int, Sequence[str]]
    """Update -> columns of today that its file lacks."""

    def __len__(self) -> int:
        return len(self.updates)


def find_rollouts(artifact: Artifact, updates: Sequence[int] | None = None) -> RolloutFiles:
    """Return the files of an artifact's rollouts, each as it was published.

    Args: updates: which; None: all.
    Raises: ArtifactError: there are none, they were removed, one is damaged, or a wanted one was
    never there.
    """
    listed = artifact.files if artifact.files is not None else _on_disk(artifact.path)
    names = {int(m[1]): name for name in listed if (m := _NAME.fullmatch(_inside(name)))}
    if not names:
        raise ArtifactError(f"{artifact.kind} artifact {artifact.path} keeps no rollouts.")
    unknown = sorted(set(updates or ()) - set(names))
    if unknown:
        raise ArtifactError(
            f"update (={unknown[0]}) must be one of {min(names)} to {max(names)}, of which "
            f"{artifact.path} keeps rollouts; name another."
        )
    wanted = {u: name for u, name in sorted(names.items()) if updates is None or u in updates}
    there = {u: name for u, name in wanted.items() if (artifact.path / name).exists()}
    if not there:
        raise ArtifactError(
            f"the rollouts of {artifact.kind} artifact {artifact.path} were removed ({len(wanted)} "
            "files); remove the artifact's folder and run the same command to build them again."
        )
    paths = {update: artifact.file(name) for update, name in there.items()}
    return RolloutFiles(paths, [u for u in wanted if u not in there])


def count_rollouts(artifact: Artifact) -> int:
    """Return how many responses an artifact keeps; 0 where it keeps none, or its files can't be
    read. The files' contents are not checked.
    """
    try:
        return sum(pq.read_metadata(p).num_rows for p in find_rollouts(artifact).paths.values())
    except (ArtifactError, pa.ArrowException, OSError):
        return 0


def _on_disk(folder: Path) -> list[str]:
    return [f"{ROLLOUTS}/{path.name}" for path in (folder / ROLLOUTS).glob("*.parquet")]


def _inside(name: str) -> str:
    folder, _, file = name.rpartition("/")
    return file if folder == ROLLOUTS else ""


def read_responses(paths: Mapping[int, Path]) -> Responses:
    """Return what the files say of each response but for its tokens.

    Raises: DataError: a file is no Parquet file, has no rows, or lacks one of `REQUIRED`.
    """
    parts: list[dict[str, Any]] = []
    about: dict[int, dict[str, str]] = {}
    absent: dict[int, list[str]] = {}
    for update, path in paths.items():
        whole, names_there = _read(path, lambda name: name not in OF_TOKENS_ALONE)
        absent[update] = sorted(EXPECTED - set(names_there))
        kept = whole.schema.metadata or {}
        about[update] = {k.decode(): v.decode() for k, v in kept.items() if not k.startswith(b"AR")}
        parts.append(_of_rows(whole, path))
    sizes = [len(part["prompt_id"]) for part in parts]
    names = dict.fromkeys(name for part in parts for name in part["numbers"])
    return Responses(
        updates=np.repeat(np.array(list(paths), dtype=np.int64), sizes),
        places=np.concatenate([np.arange(size) for size in sizes]),
        prompt_ids=[x for part in parts for x in part["prompt_id"]],
        texts=[x for part in parts for x in part["text"]],
        passages=[x for part in parts for x in part["passages"]],
        finished=[x for part in parts for x in part["finished"]],
        turns=[x for part in parts for x in part["turns"]],
        search_queries=[x for part in parts for x in part["search_queries"]],
        numbers={
            name: np.concatenate(
                [
                    part["numbers"].get(name, np.full(size, np.nan))
                    for part, size in zip(parts, sizes, strict=True)
                ]
            )
            for name in names
        },
        about=about,
        absent={update: columns for update, columns in absent.items() if columns},
    )


def _of_rows(table: pa.Table, path: Path) -> dict[str, Any]:
    """Return the columns of one file that have one value a response."""
    size, names = table.num_rows, table.column_names
    numbers = {
        name: _numbers(table, name, path)
        for name in names
        if name in ("scores", "raw_scores") or name.startswith(TERM)
    }
    ids = ragged(table, "response", path)
    mask = ragged(table, "action_mask", path) if "action_mask" in names else None
    numbers["length"] = (ids if mask is None else mask).sums(count=mask is None)
    if "kl" in names:
        numbers["kl"] = ragged(table, "kl", path).sums()
    passages, turns, searched = (
        [tuple(row or ()) for row in _plain(table, name, pa.list_(pa.string()), path)]
        or [()] * size
        for name in ("passages", *SEARCHES)
    )
    finished = _plain(table, "finished", pa.bool_(), path) or [None] * size
    return {
        "prompt_id": table.column("prompt_id").to_pylist(),
        "text": table.column("text").to_pylist(),
        "passages": passages,
        "turns": turns,
        "search_queries": searched,
        "finished": finished,
        "numbers": numbers,
    }


class Ragged(NamedTuple):
    """A column of lists: their values one behind the other, and the length of each."""

    values: np.ndarray
    lengths: np.ndarray

    def sums(self, count: bool = False) -> np.ndarray:
        """Return the sum of each list, (n,) float64; count: how many values it has."""
        if count:
            return self.lengths.astype(np.float64)
        rows = np.repeat(np.arange(len(self.lengths)), self.lengths)
        return np.bincount(rows, self.values.astype(np.float64), len(self.lengths))


def ragged(table: pa.Table, name: str, path: Path) -> Ragged:
    """Return a column of lists. Raises: DataError: it is none, or has a null."""
    column = table.column(name).combine_chunks()
    if not pa.types.is_list(column.type) or column.null_count:
        raise DataError(f"column {name} (={column.type}) must hold lists, no null; {REDO}", path)
    flat = column.flatten()
    known = flat.type == pa.null() or any(
        fits(flat.type) for fits in (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    )
    if not known or flat.null_count:
        raise DataError(f"column {name} (={column.type}) must hold lists of numbers; {REDO}", path)
    values = flat.to_numpy(zero_copy_only=False) if len(flat) else np.zeros(0)
    return Ragged(values, pc.list_value_length(column).to_numpy().astype(np.int64))


def _plain(table: pa.Table, name: str, kind: pa.DataType, path: Path) -> list[Any]:
    """Return a column that a file need not have, as Python's values; [] where it has none.

    Raises: DataError: it is of another type; lists of nothing have none.
    """
    if name not in table.column_names:
        return []
    column = table.column(name)
    if column.type not in (kind, pa.list_(pa.null())):
        raise DataError(f"column {name} (={column.type}) must hold {kind}; {REDO}", path)
    return list(column.to_pylist())


def _numbers(table: pa.Table, name: str, path: Path) -> np.ndarray:
    kind = table.schema.field(name).type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        raise DataError(f"column {name} (={kind}) must hold numbers; {REDO}", path)
    return table.column(name).to_numpy().astype(np.float64)


def ids_of(table: pa.Table, name: str, path: Path) -> Ragged:
    """Return a column of token ids. Raises: DataError: as `ragged`, or one is no token id."""
    found = ragged(table, name, path)
    values = found.values
    if len(values) and (values.dtype.kind not in "iu" or values.min() < 0 or values.max() >= 2**31):
        raise DataError(f"column {name} must hold token ids from 0 on; {REDO}", path)
    return found


def read_tokens(path: Path, places: np.ndarray) -> tuple[pa.Table, Mapping[str, Ragged]]:
    """Return (the rows, their columns of lists) of some responses of a file.

    Args: places: (k,) rows from 0. Raises: DataError: as `ragged`; or a column's lists are not as
    long as those of the others (of `response` one shorter, with `score_at=after`).
    """
    per_token = {"response", "action_mask", "step_mask", *TOKEN_NUMBERS}
    table = _read(path, lambda name: name in {*per_token, "query"})[0].take(places)
    columns = {n: ragged(table, n, path) for n in table.column_names if n in per_token}
    columns["response"] = ids_of(table, "response", path)
    lists = {name: column.lengths for name, column in columns.items() if name != "response"}
    behind = {int(n) for found in lists.values() for n in found - columns["response"].lengths}
    if behind not in (set(), {0}, {1}):
        raise DataError(f"lists (={sorted(behind)} longer) must fit the responses; {REDO}", path)
    return table, columns


def _read(path: Path, wanted: Callable[[str], bool]) -> tuple[pa.Table, Sequence[str]]:
    """Return the columns of a file whose names are wanted, and the names of all."""
    try:
        schema = pq.read_schema(path)
        table = pq.read_table(path, columns=[n for n in schema.names if wanted(n)])
        table.validate(full=True)  # text that is no UTF-8 would raise only where it is read
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"must be a Parquet file of a rollout ({error!s:.120}).", path) from None
    for name in REQUIRED:
        if schema.names.count(name) != 1:
            found = "missing" if name not in schema.names else "there twice"
            raise DataError(f"column {name} (={found}) must be there once; {REDO}", path)
        if name in _TEXT and name in table.column_names:
            column = table.column(name)
            if not pa.types.is_string(column.type) or column.null_count:
                raise DataError(f"column {name} (={column.type}) must hold text; {REDO}", path)
    if table.num_rows == 0:
        raise DataError(f"must hold a response at least, not 0 rows; {REDO}", path)
    return table, schema.names


def in_files(responses: Responses, chosen: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (update, rows of its file) of chosen responses, in order."""
    for update in dict.fromkeys(responses.updates[chosen].tolist()):
        own = chosen[responses.updates[chosen] == update]
        yield update, responses.places[own]
