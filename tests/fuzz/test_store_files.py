"""Whatever stands in the store's own files, nothing but the project's own errors may leave."""

from __future__ import annotations

import contextlib
import json
import math
import os
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from damaged_bytes import (
    AMOUNTS,
    amount,
    changed_json,
    damaged,
    json_values,
    object_or_bytes,
)
from hypothesis import given
from hypothesis import strategies as st

from plumbrule.cli import verbs
from plumbrule.cli.verbs.replay import inputs_of
from plumbrule.data.records import Message
from plumbrule.errors import ArtifactError, DataError
from plumbrule.report.sweep_table import find_cells, table_lines
from plumbrule.results.cells import gather_cells
from plumbrule.store import attempts, checkpoints, claims
from plumbrule.store.artifacts import Artifact, Store
from plumbrule.store.file_names import HEAD, METRIC_ROWS, REWARD_STATS
from plumbrule.store.manifests import MANIFEST, Manifest, signed
from plumbrule.store.metric_rows import read_metrics
from rlhf.feedback.people.judgements import AnnotatorJudgement, read_journal, to_row
from rlhf.feedback.people.questions import question_of, read_questions, require_own_ids
from rlhf.feedback.people.questions import to_row as question_row
from rlhf.ppo.rollout import parquet
from rlhf.ppo.rollout.trajectory import Trajectory, padded
from rlhf.reward_model.model import load_reward_model
from rlhf.reward_model.reward_stats import RewardStats

OWNER = asdict(claims.Owner("try/1", "here", 1, "2", "token"))
OWNER.pop("readable")


@AMOUNTS
def test_claims(tmp_path: Path, examples: int) -> None:
    artifact = tmp_path / "artifacts" / "sft" / "a1"
    path = claims.build_folder(artifact) / claims.NAME
    path.parent.mkdir(parents=True)

    @amount(examples)
    @given(object_or_bytes(OWNER))
    def look(content: bytes) -> None:
        path.write_bytes(content)
        assert isinstance(attempts.claim(artifact, "me"), claims.Claim | claims.Owner)
        path.write_bytes(content)
        os.utime(path, (0, 0))
        assert isinstance(attempts.claim(artifact, "me"), claims.Claim)
        path.unlink()

    look()


@AMOUNTS
def test_manifests(tmp_path: Path, examples: int) -> None:
    store = Store(tmp_path)
    folder = store.folder("sft", "a1")
    folder.mkdir(parents=True)
    (folder / "notes.json").write_text("[]")
    store.publish(Manifest("sft", "sft", "a1", {"seed": 1}, {"base": "b2"}, metrics={"x": 1.0}))
    whole = asdict(store.manifest("sft", "a1"))
    with_digest = changed_json(whole).map(lambda about: signed(about).encode("utf-8", "replace"))
    files = changed_json(whole["files"]["notes.json"])
    of_files = files.map(lambda f: signed({**whole, "files": {"notes.json": f}}).encode())

    @amount(examples)
    @given(damaged((folder / MANIFEST).read_bytes()) | object_or_bytes(whole) | with_digest)
    def look(content: bytes) -> None:
        (folder / MANIFEST).write_bytes(content)
        for command in (
            lambda: store.manifest("sft", "a1"),
            lambda: store.verify("sft", "a1"),
            lambda: Artifact.at(folder).file("notes.json"),
            lambda: inputs_of(store, Artifact.at(folder) and store.manifest("sft", "a1")),
        ):
            with contextlib.suppress(ArtifactError):
                command()
        verbs.main(["ls", "--artifacts", "--store", str(tmp_path)])

    look()

    @amount(examples)
    @given(of_files)
    def look_at_files(content: bytes) -> None:
        look.hypothesis.inner_test(content)

    look_at_files()


RUN = {
    "name": "try",
    "state": "done",
    "overrides": ["seed=1"],
    "notes": ["so"],
    "headline": ["sft/loss"],
    "metrics": {"time/total_seconds": 1.0, "sft/loss": 0.5},
    "nodes": {"sft": {"kind": "sft", "state": "built", "artifact": "artifacts/sft/a1"}},
    "config": {"run": {"only": None, "goals": ["sft"]}},
}


@AMOUNTS
def test_records_of_runs(tmp_path: Path, examples: int) -> None:
    path = tmp_path / "runs" / "try" / "1" / "run.json"
    path.parent.mkdir(parents=True)
    metrics = changed_json(RUN["metrics"]).map(lambda found: {**RUN, "metrics": found})
    nodes = changed_json(RUN["nodes"]["sft"]).map(lambda found: {**RUN, "nodes": {"sft": found}})
    parts = (metrics | nodes).map(lambda record: json.dumps(record).encode())

    @amount(examples)
    @given(object_or_bytes(RUN) | parts)
    def look(content: bytes) -> None:
        path.write_bytes(content)
        for words in (["ls"], ["ls", "--json"], ["show", "1"], ["show", "1", "--json"]):
            with contextlib.suppress(ArtifactError):
                verbs.main([*words, "--store", str(tmp_path)])

    look()


CELL = {
    "sweep": "s",
    "number": 0,
    "overrides": ["seed=1", "sft.epochs=2"],
    "objective": "sft/loss",
    "headline": ["sft/loss"],
    "metrics": {"sft/loss": 0.5},
    "zipped": {"pair": {"sft.epochs": "2"}},
    "run": "try/1",
    "fold": None,
}


@AMOUNTS
def test_cells_of_sweeps(tmp_path: Path, examples: int) -> None:
    path = tmp_path / "runs" / "try" / "sweep" / "0" / "cell.json"
    path.parent.mkdir(parents=True)
    metrics = changed_json(CELL["metrics"]).map(lambda found: {**CELL, "metrics": found})
    zipped = changed_json(CELL["zipped"]).map(lambda found: {**CELL, "zipped": found})
    parts = (metrics | zipped).map(lambda cell: json.dumps(cell).encode())

    @amount(examples)
    @given(object_or_bytes(CELL) | parts)
    def look(content: bytes) -> None:
        path.write_bytes(content)
        cells, _ = find_cells([path.parent.parent], "s")
        table_lines(cells)
        with contextlib.suppress(ArtifactError):
            gather_cells(Store(tmp_path), ["runs/try/sweep"])

    look()


@AMOUNTS
def test_rows_of_metrics(tmp_path: Path, examples: int) -> None:
    @amount(examples)
    @given(object_or_bytes({"update": 1, "sft/loss": 0.5}))
    def look(content: bytes) -> None:
        (tmp_path / METRIC_ROWS).write_bytes(content)
        for row in read_metrics(tmp_path):
            for value in row.values():
                assert not isinstance(value, int) or math.isfinite(value)

    look()


@AMOUNTS
def test_marks_of_checkpoints(tmp_path: Path, examples: int) -> None:
    (tmp_path / "state").write_text("x")

    @amount(examples)
    @given(object_or_bytes({"state": 1, "optimizer.pt": 2}))
    def look(content: bytes) -> None:
        (tmp_path / checkpoints.MARK).write_bytes(content)
        assert checkpoints.is_complete(tmp_path) in (True, False)

    look()


@AMOUNTS
def test_what_people_said(tmp_path: Path, examples: int) -> None:
    row = to_row(AnnotatorJudgement("q", "anna", (1, 2), "so", 1, "now"))
    path = tmp_path / "anna.jsonl"

    @amount(examples)
    @given(object_or_bytes(row), st.sampled_from([b"", b"\n"]))
    def look(content: bytes, end: bytes) -> None:
        path.write_bytes(content + end)
        for judgement in (suppressed(lambda: read_journal(path)) or {}).values():
            json.dumps(to_row(judgement), ensure_ascii=False).encode()

    look()


@AMOUNTS
def test_what_people_were_asked(tmp_path: Path, examples: int) -> None:
    row = question_row(question_of([Message("user", "Why?")], ["p"], ["a", "b"]))
    path = tmp_path / "questions.jsonl"

    @amount(examples)
    @given(changed_json(row) | json_values())
    def look(value: object) -> None:
        path.write_text(json.dumps(value))
        suppressed(lambda: require_own_ids(read_questions(path), path))

    look()


def suppressed(command):
    """What a command returns; None where it raises DataError."""
    with contextlib.suppress(DataError):
        return command()


@AMOUNTS
def test_reward_stats(tmp_path: Path, examples: int) -> None:
    @amount(examples)
    @given(object_or_bytes(asdict(RewardStats())))
    def look(content: bytes) -> None:
        (tmp_path / REWARD_STATS).write_bytes(content)
        (tmp_path / HEAD).write_bytes(content)
        with pytest.raises(ArtifactError):
            load_reward_model(tmp_path)

    look()


def small_rollout() -> parquet.Rollout:
    """Two responses of a rollout."""
    mask = padded([[1, 1], [1]], torch.bool)
    numbers = padded([[0.5, -1.0], [0.25]], torch.float32)
    trajectory = Trajectory(
        ["a", "b"], [(), ("p",)], [[1, 2], [3]], [[4, 5], [6]], ["x", "y"], mask, mask,
        torch.tensor([True, False]), numbers,
    )  # fmt: skip
    scores = torch.tensor([1.0, 2.0], dtype=torch.float64)
    tokens = dict.fromkeys(parquet.TOKEN_COLUMNS, numbers)
    return parquet.Rollout(
        trajectory, terms={"rm": scores}, raw_scores=scores, scores=scores, **tokens
    )


@AMOUNTS
def test_rollouts(tmp_path: Path, examples: int) -> None:
    path = tmp_path / "update-00001.parquet"
    parquet.write(small_rollout(), path)
    whole = path.read_bytes()
    kept = parquet.read(path)
    assert kept.trajectory.responses == [[4, 5], [6]]

    @amount(examples)
    @given(damaged(whole))
    def look(content: bytes) -> None:
        path.write_bytes(content)
        suppressed(lambda: parquet.read(path))

    look()
