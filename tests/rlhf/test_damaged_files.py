"""Rollouts and reward statistics that no run can have written are refused, with one error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from plumbrule.errors import ArtifactError, DataError
from plumbrule.store.file_names import HEAD, REWARD_STATS
from rlhf.ppo.rollout import parquet
from rlhf.ppo.rollout.trajectory import Trajectory, padded
from rlhf.reward_model.model import load_reward_model
from rlhf.reward_model.reward_stats import RewardStats


def table() -> dict[str, list]:
    """Return the columns of a rollout of two responses."""
    numbers = [[0.5, -1.0], [0.25]]
    return {
        "prompt_id": ["a", "b"],
        "passages": [["p"], []],
        "text": ["x", "y"],
        "finished": [True, False],
        "query": [[1, 2], [3]],
        "response": [[4, 5], [6]],
        "action_mask": [[True, True], [True]],
        "step_mask": [[True, True], [True]],
        "rollout_logprobs": numbers,
        "raw_scores": [1.0, 2.0],
        "scores": [1.0, 2.0],
        **dict.fromkeys(parquet.TOKEN_COLUMNS, numbers),
        "term:rm": [1.0, 2.0],
    }


def changed(**columns: list | None) -> Callable[[Path], None]:
    """Return what writes a rollout with other columns; None: without it."""

    def write(path: Path) -> None:
        whole = {**table(), **{name.replace("__", ":"): of for name, of in columns.items()}}
        pq.write_table(pa.table({k: v for k, v in whole.items() if v is not None}), path)

    return write


def not_unicode() -> pa.Array:
    """Return two texts of which the first has a byte that no UTF-8 has."""
    bounds = pa.array([0, 1, 2], type=pa.int32()).buffers()[1]
    return pa.StringArray.from_buffers(2, bounds, pa.py_buffer(b"\xf9y"))


def unreadable_name(path: Path) -> None:
    """Write a rollout of which a column's name is no UTF-8."""
    pq.write_table(pa.table(table()), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"returns", b"\xf2eturns"))


BAD_ROLLOUTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no Parquet": (lambda path: path.write_bytes(b"PAR1 is not enough"), "a Parquet file"),
    "no UTF-8": (changed(text=not_unicode()), "a Parquet file of a rollout .*UTF8"),
    "a name of no UTF-8": (unreadable_name, "a Parquet file of a rollout .*utf-8"),
    "no rows": (lambda path: pq.write_table(pa.table(table()).slice(0, 0), path), "not 0 rows"),
    "no column": (changed(values=None), "column values .=missing. must hold"),
    "float ids": (changed(response=[[4.0, 5.5], [6.0]]), "response .*must hold lists of token ids"),
    "ids as text": (changed(query=[["1"], ["2"]]), "query .*must hold lists of token ids"),
    "ids below 0": (changed(query=[[1, -2], [3]]), "row 1: query must hold token ids from 0 on"),
    "no list": (changed(response=[4, 6]), "response .*must hold lists"),
    "null": (changed(text=["x", None]), "text must hold text, and no null"),
    "null inside": (changed(query=[[1, None], [3]]), "query must hold lists of token ids, and no"),
    "inf": (changed(kl=[[0.5, float("inf")], [0.25]]), "row 1: kl must be finite"),
    "nan score": (changed(scores=[1.0, float("nan")]), "row 2: scores .=nan. must be finite"),
    "inf term": (changed(term__rm=[1.0, float("-inf")]), "row 2: term:rm .=-inf. must be finite"),
    "text as number": (changed(values=[["a", "b"], ["c"]]), "values .*must hold lists of numbers"),
    "short": (changed(returns=[[0.5], [0.25]]), r"row 1: returns .=1. must be 2 long"),
    "mask": (changed(step_mask=[[True], [True]]), "step_mask must be as long as the responses"),
}


@pytest.mark.parametrize("case", BAD_ROLLOUTS)
def test_a_rollout_that_cannot_be_is_refused(tmp_path: Path, case: str) -> None:
    write, message = BAD_ROLLOUTS[case]
    path = tmp_path / "update-00001.parquet"
    write(path)
    with pytest.raises(DataError, match=message) as error:
        parquet.read(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("behind", [0, 1])
def test_a_rollout_is_read_as_it_was_written(tmp_path: Path, behind: int) -> None:
    """Also where the first response is empty, and with a step behind each response."""
    lengths = [0 + behind, 2 + behind]
    mask = padded([[1] * n for n in lengths], torch.bool)
    action = padded([[], [1, 1] + [0] * behind], torch.bool)
    numbers = padded([[0.5] * n for n in lengths], torch.float64)
    steps = mask if behind else action
    trajectory = Trajectory(
        ["a", "b"], [(), ()], [[1], [2]], [[], [3, 4]], ["", "y"], action, steps,
        torch.tensor([True, False]), numbers,
    )  # fmt: skip
    scores = torch.tensor([1.0, 2.0], dtype=torch.float64)
    tokens = dict.fromkeys(parquet.TOKEN_COLUMNS, numbers)
    whole = parquet.Rollout(trajectory, terms={}, raw_scores=scores, scores=scores, **tokens)
    parquet.write(whole, tmp_path / "u.parquet")
    kept = parquet.read(tmp_path / "u.parquet")
    assert kept.trajectory.responses == [[], [3, 4]]
    assert torch.equal(kept.values, whole.values)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("std", 0, "std .=0. must be above 0"),
        ("std", -1.0, "std .=-1.0. must be above 0"),
        ("std", float("nan"), "std .=nan. must be a finite number"),
        ("std", "1", "std .='1'. must be a finite number"),
        ("mean", float("inf"), "mean .=inf. must be a finite number"),
        ("mean", True, "mean .=True. must be a finite number"),
        ("precision", "float8", "precision .='float8'. must be one of float32, bfloat16"),
        ("precision", 16, "precision .=16. must be one of"),
        ("append_terminal", "yes", "append_terminal .='yes'. must be true or false"),
        ("num_samples", -1, "num_samples .=-1. must be a whole number"),
        ("unknown", 1, "unexpected keyword"),
    ],
)
def test_reward_statistics_that_cannot_be_are_refused(
    tmp_path: Path, field: str, value: object, message: str
) -> None:
    (tmp_path / HEAD).touch()
    (tmp_path / REWARD_STATS).write_text(json.dumps({**vars(RewardStats()), field: value}))
    with pytest.raises(ArtifactError, match=message):
        load_reward_model(tmp_path)
