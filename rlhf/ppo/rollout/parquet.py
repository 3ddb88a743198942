"""A rollout with all that PPO made of it, and the Parquet file that keeps it.

`rollouts/update-00001.parquet` has one row per response: ids, masks, log-probs of sampler, policy
and reference, values, rewards, advantages and returns, exactly the numbers that the update was
computed from. So every loss of a run can be computed again, and a strange curve can be read token
by token years later. Columns of tokens are lists as long as the response (with `score_at=after` one
longer); tokens in them that the policy did not sample are kept, and `action_mask` is False there.
Of a policy that may search there are some columns more (`searches.py`).

A file is written beside its final name and renamed, so one that is there is whole.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from plumbrule.errors import DataError, TrainingError
from plumbrule.lm.parallel import distributed
from rlhf.ppo.rollout import searches
from rlhf.ppo.rollout.trajectory import Trajectory, padded


class Rollout(NamedTuple):
    """One rollout as the update sees it. (b, t) at action tokens, 0 elsewhere, unless said.

    Values, rewards and returns are at all steps (`Trajectory.step_mask`).
    """

    trajectory: Trajectory
    logprobs: Tensor
    """Of the policy before the update: the old log-probs, nats."""
    ref_logprobs: Tensor
    values: Tensor
    entropy: Tensor
    """Of the policy's next-token distributions, nats."""
    kl: Tensor
    """Of the policy to its reference, k1 estimate, nats."""
    penalties: Tensor
    """What the KL takes from the reward; 0 where it stands in the loss."""
    terms: Mapping[str, Tensor]
    """Reward term (or part of one, `gold/right`) -> (b,) before its weight."""
    raw_scores: Tensor
    """(b,): the weighted sum of the terms."""
    scores: Tensor
    """(b,): after every transform, as it enters the rewards."""
    rewards: Tensor
    advantages: Tensor
    """As they enter the loss, whitened where they are to be."""
    returns: Tensor
    teacher_logprobs: Tensor | None = None
    """Nats; None: there is no teacher."""


TOKEN_COLUMNS = (
    "logprobs",
    "ref_logprobs",
    "values",
    "entropy",
    "kl",
    "penalties",
    "rewards",
    "advantages",
    "returns",
)
"""Columns that are lists over response positions; `action_mask` and `rollout_logprobs` are too."""
TEACHER = "teacher_logprobs"
"""A column more, of a rollout that a teacher has read."""
_Fits = Callable[[pa.DataType], bool]
_NUMBERS: tuple[int, _Fits, str] = (0, pa.types.is_floating, "numbers")
COLUMN_TYPES: dict[str, tuple[int, _Fits, str]] = {
    "prompt_id": (0, pa.types.is_string, "text"),
    "passages": (1, pa.types.is_string, "lists of text"),
    "text": (0, pa.types.is_string, "text"),
    "finished": (0, pa.types.is_boolean, "true or false"),
    "query": (1, pa.types.is_int64, "lists of token ids"),
    "response": (1, pa.types.is_int64, "lists of token ids"),
    "action_mask": (1, pa.types.is_boolean, "lists of true or false"),
    "step_mask": (1, pa.types.is_boolean, "lists of true or false"),
    "raw_scores": _NUMBERS,
    "scores": _NUMBERS,
    **dict.fromkeys(
        ("rollout_logprobs", *TOKEN_COLUMNS, TEACHER), (1, pa.types.is_floating, "lists of numbers")
    ),
    **searches.COLUMN_TYPES,
}
"""Column -> (how deep in lists, the type there, in words); reward terms are numbers, too."""
REDO = "remove the artifact's folder and run again."
"""What to do about a damaged file."""
_NAME = re.compile(r"update-(\d+)\.parquet")


def path_of(folder: Path, update: int) -> Path:
    """Return where the rollout of `update` lies."""
    return folder / f"update-{update:05d}.parquet"


def write(rollout: Rollout, path: Path, sampler: str = "own", staleness: int = 0) -> None:
    """Write a rollout as one Parquet file, whole or not at all.

    Args: sampler: who sampled it. staleness: how many updates older the sampling policy was. Both
    stand in the file's metadata, the latter where it is not 0.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    trajectory = rollout.trajectory
    lengths = [len(response) + trajectory.steps_after_end for response in trajectory.responses]

    def ragged(x: Tensor) -> list[list[Any]]:
        return [row[:length] for row, length in zip(x.tolist(), lengths, strict=True)]

    def floats(x: Tensor) -> pa.Array:  # in the tensor's own width, so that reading is exact
        width = pa.float64() if x.dtype == torch.float64 else pa.float32()
        return pa.array(ragged(x), pa.list_(width))

    columns: dict[str, Any] = {
        "prompt_id": list(trajectory.prompt_ids),
        "passages": pa.array([list(p) for p in trajectory.passages], pa.list_(pa.string())),
        "text": list(trajectory.texts),
        "finished": trajectory.finished.tolist(),
        "query": [list(ids) for ids in trajectory.queries],
        "response": [list(ids) for ids in trajectory.responses],
        "action_mask": ragged(trajectory.action_mask),
        "step_mask": ragged(trajectory.step_mask),
        "rollout_logprobs": floats(trajectory.rollout_logprobs),
        "raw_scores": rollout.raw_scores.tolist(),
        "scores": rollout.scores.tolist(),
    }
    for name in TOKEN_COLUMNS:
        columns[name] = floats(getattr(rollout, name))
    if rollout.teacher_logprobs is not None:
        columns[TEACHER] = floats(rollout.teacher_logprobs)
    if trajectory.searching is not None:
        columns |= searches.columns_of(trajectory.searching)
    for name, term in rollout.terms.items():
        columns[f"term:{name}"] = term.tolist()
    partial = path.with_suffix(".partial")
    about = {"sampler": sampler, **({"staleness": str(staleness)} if staleness else {})}
    table = pa.table(columns).replace_schema_metadata(about)
    pq.write_table(table, partial, compression="zstd")
    os.replace(partial, path)


def read(path: Path, device: torch.device | str = "cpu", *, finite: bool = True) -> Rollout:
    """Return the rollout that `write` wrote, on `device`.

    finite: whether NaN and Inf are refused; the one that an update failed on may hold them.

    Raises: DataError: the file holds no rollout: it is no Parquet file, has no rows, lacks a
    column, or holds a value that none can have (an id that is no whole number, NaN, a list of
    another length than its response).
    """
    try:
        table = pq.read_table(path)
        table.validate(full=True)  # text that is no UTF-8 would raise only where it is read
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"must be a Parquet file of a rollout ({error!s:.120}).", path) from None
    _require_columns(table, path)
    rows = table.to_pydict()
    _require_values(rows, path, finite)

    def tensor(name: str) -> Tensor:
        wide = table.schema.field(name).type.value_type == pa.float64()
        return padded(rows[name], torch.float64 if wide else torch.float32).to(device)

    def per_row(name: str) -> Tensor:
        return torch.tensor(rows[name], dtype=torch.float64, device=device)

    trajectory = Trajectory(
        prompt_ids=rows["prompt_id"],
        passages=[tuple(p) for p in rows["passages"]],
        queries=rows["query"],
        responses=rows["response"],
        texts=rows["text"],
        action_mask=padded(rows["action_mask"], torch.bool).to(device),
        step_mask=padded(rows["step_mask"], torch.bool).to(device),
        finished=torch.tensor(rows["finished"], device=device),
        rollout_logprobs=tensor("rollout_logprobs"),
        searching=searches.read_columns(rows, path, REDO) if "turns" in rows else None,
    )
    terms = {name[5:]: per_row(name) for name in rows if name.startswith("term:")}
    return Rollout(
        trajectory=trajectory,
        terms=terms,
        raw_scores=per_row("raw_scores"),
        scores=per_row("scores"),
        **{name: tensor(name) for name in (*TOKEN_COLUMNS, TEACHER) if name in rows},
    )


def _require_columns(table: pa.Table, path: Path) -> None:
    """Raise DataError unless a table has rows, and each column of a rollout with its type."""
    if table.num_rows == 0:
        raise DataError(f"must hold a response at least, not 0 rows; {REDO}", path)
    terms = [name for name in table.column_names if name.startswith("term:")]
    absent = {TEACHER} - set(table.column_names)
    if not set(searches.COLUMNS) & set(table.column_names):
        absent |= set(searches.COLUMNS)
    for name in (*(name for name in COLUMN_TYPES if name not in absent), *terms):
        depth, fits, what = COLUMN_TYPES.get(name, _NUMBERS)
        if table.column_names.count(name) != 1:
            found = "missing" if name not in table.column_names else "there twice"
            raise DataError(f"column {name} (={found}) must hold {what}; {REDO}", path)
        column = table.column(name)
        kind = column.type
        for _ in range(depth):
            kind = kind.value_type if pa.types.is_list(kind) else None
        empty = kind == pa.null() and depth > 0  # no row has a value
        if kind is None or not (fits(kind) or empty):
            raise DataError(f"column {name} (={column.type}) must hold {what}.", path)
        flat = column.combine_chunks()
        if flat.null_count or (depth and flat.flatten().null_count):
            raise DataError(f"column {name} must hold {what}, and no null.", path)


def _require_values(rows: Mapping[str, list[Any]], path: Path, finite: bool) -> None:
    """Raise DataError for ids below 0, lists of other lengths than the responses, NaN and Inf."""
    for name, values in rows.items():
        if name.startswith("term:") or name in ("raw_scores", "scores"):
            for number, value in enumerate(values, 1):
                if finite and not math.isfinite(value):
                    raise DataError(f"{name} (={value}) must be finite; {REDO}", path, number)
    extra = {len(m) - len(r) for m, r in zip(rows["step_mask"], rows["response"], strict=True)}
    if extra not in ({0}, {1}):
        raise DataError(f"step_mask must be as long as the responses, or one longer; {REDO}", path)
    for number, response in enumerate(rows["response"], 1):
        for name in ("query", "response"):
            if any(id_ < 0 for id_ in rows[name][number - 1]):
                raise DataError(f"{name} must hold token ids from 0 on; {REDO}", path, number)
        length = len(response) + max(extra)
        for name in ("action_mask", "rollout_logprobs", *TOKEN_COLUMNS, TEACHER):
            if name not in rows:
                continue
            values = rows[name][number - 1]
            if len(values) != length:
                raise DataError(
                    f"{name} (={len(values)}) must be {length} long; {REDO}", path, number
                )
            if finite and not all(map(math.isfinite, values)):
                raise DataError(f"{name} must be finite everywhere; {REDO}", path, number)


def remove_after(folder: Path, update: int) -> None:
    """Remove the rollouts of updates after `update`: a resumed run makes them again."""
    for path in sorted(folder.glob("*")):
        match = _NAME.fullmatch(path.name)
        if match is None or int(match.group(1)) > update:
            path.unlink()


@contextmanager
def kept_on_failure(rollout: Rollout, folder: Path, update: int) -> Iterator[None]:
    """Write the rollout into `folder` if training on it fails, and say so in the error."""
    try:
        yield
    except TrainingError as error:
        path = folder / f"failed-update-{update:05d}.parquet"
        if distributed.is_main():
            write(rollout, path)
        raise TrainingError(f"{error} Its rollout is kept: {path}") from error
