"""What is told while a graph is carried out."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plumbrule.cli import progress_table
from plumbrule.cli.progress_table import Counts, Lines, Table, start_table
from plumbrule.errors import TrainingError
from plumbrule.pipeline.executors.config import ExecutorConfig
from plumbrule.pipeline.executors.merged_graph import JobOutcome


def job(name: str, fingerprint: str, user: int = 0) -> Any:
    planned = SimpleNamespace(fingerprint=fingerprint)
    return SimpleNamespace(name=name, users=[user], planned=planned)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(progress_table.time, "monotonic", lambda: now.seconds)
    return now


def test_counts_and_the_time_that_is_left(clock: SimpleNamespace) -> None:
    said: list[str] = []
    table = Counts(said.append, 6, ["seed=0", "seed=1"], {"a": 60.0, "b": 100.0, "c": 40.0})
    table.ended(job("data", "z"), JobOutcome("cached"))
    table.started(job("sft", "a"))
    table.started(job("sft", "b", 1))
    clock.seconds += 30
    assert table.seconds_left() == pytest.approx((200 - 60) / 2)
    table.ended(job("sft", "a"), JobOutcome("built", seconds=30.0))
    assert said[-1] == (
        "[of 6 nodes 1 done, 1 cached, 1 running, about 110 s left] "
        "sft (seed=0): built in 30 s".replace("110 s", "2 min")
    )
    broken = JobOutcome("failed", error=TrainingError("NaN\nat update 3"))
    table.ended(job("sft", "b", 1), broken)
    table.ended(job("ppo", "c", 1), JobOutcome("blocked", error=broken.error))
    assert said[-1] == "[of 6 nodes 1 done, 1 cached, 0 running, 1 failed, about 40 s left] " + (
        "sft (seed=1) failed: NaN"
    )
    assert table.counts() == "of 6 nodes 1 done, 1 cached, 0 running, 1 failed, 1 blocked"


def test_a_time_that_is_not_known_is_not_told(clock: SimpleNamespace) -> None:
    table = Counts(print, 2, [], {"a": None, "b": 3.0})
    assert table.seconds_left() is None
    assert "left" not in table.counts()


def test_a_clock_that_is_set_changes_no_count(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times are of the monotonic clock; that of the wall is not read."""
    table = Counts(print, 1, [], {"a": 60.0})
    table.started(job("sft", "a"))
    monkeypatch.setattr(progress_table.time, "time", lambda: -1e9)
    clock.seconds += 20
    assert table.seconds_left() == 40.0


def test_the_table_shows_what_runs_and_what_failed(clock: SimpleNamespace) -> None:
    from rich.console import Console

    table = Table(print, 4, ["ppo.kl.coef=[0.1]", "ä=b"], {"a": 60.0, "b": 60.0})
    table.changed = lambda line: None  # type: ignore[method-assign]  # it is not on a terminal here
    table.started(job("ppo", "a"))
    table.ended(
        job("rm", "b", 1), JobOutcome("failed", error=TrainingError("[red]NaN[/red]\nmore"))
    )
    clock.seconds += 5
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    console.print(table.render())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "of 4 nodes 0 done, 0 cached, 1 running, 1 failed" in text
    assert "ppo (ppo.kl.coef=[0.1])" in text
    assert "5 s" in text
    assert "[red]NaN[/red]" in text
    assert "more" not in text


def test_who_builds_itself_prints_lines_only(tmp_path: Path) -> None:
    given = (print, 1, [""], {})
    assert type(start_table(ExecutorConfig(), *given)) is Lines
    assert type(start_table(ExecutorConfig(name="local"), *given)) is Counts  # no terminal here
