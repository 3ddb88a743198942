"""How a graph comes along: nodes done, cached, running and failed, and how long it may still take.

Where this process builds the nodes itself their own progress lines stand on the terminal, and only
what fails is said beside them. Where others build them there is a table, redrawn in place on a
terminal (by rich), and a line for each start and end elsewhere.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from plumbrule.pipeline.executors.config import ExecutorConfig
from plumbrule.pipeline.executors.merged_graph import Job, JobOutcome
from plumbrule.pipeline.expected_time import duration
from plumbrule.surroundings import redraws

MOST_ROWS = 12
"""Running and failed nodes that the table shows of each."""


class Lines:
    """Says what fails; a `Watcher`, and a context manager while the graph is carried out.

    Args: say: prints a line.
    """

    def __init__(self, say: Callable[[str], None]):
        self.say = say

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None
    ) -> None:
        pass

    def started(self, job: Job) -> None:
        """Say nothing: the node does."""

    def ended(self, job: Job, outcome: JobOutcome) -> None:
        """Say what failed."""
        if outcome.state == "pruned":
            self.say(f"{job.name} pruned: {first_line(outcome)}")
        if outcome.state == "failed":
            self.say(f"{job.name} failed: {first_line(outcome)}; what does not need it goes on")


class Counts(Lines):
    """Counts nodes and says each start and end in a line.

    Args: total: nodes of the graph. words: of each member, what tells it from the others.
    expected: fingerprint -> seconds of a node that has to be built; None: not known.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        total: int,
        words: Sequence[str] = (),
        expected: Mapping[str, float | None] | None = None,
    ):
        super().__init__(say)
        self.total, self.words, self.expected = total, words, dict(expected or {})
        self.done = self.cached = self.blocked = self.pruned = 0
        self.running: dict[str, tuple[str, float]] = {}
        """Fingerprint -> what is shown of the node, and when it began by the monotonic clock."""
        self.failed: list[tuple[str, str]] = []

    def named(self, job: Job) -> str:
        """Return the node's name, and where there are several cells the first that needs it."""
        own = self.words[job.users[0]] if job.users[0] < len(self.words) else ""
        return f"{job.name} ({own})" if own and len(self.words) > 1 else job.name

    def started(self, job: Job) -> None:
        """Count a node as running."""
        if job.planned.fingerprint in self.expected:  # else it is only looked up
            self.running[job.planned.fingerprint] = (self.named(job), time.monotonic())
            self.changed(f"{self.named(job)}: building")

    def ended(self, job: Job, outcome: JobOutcome) -> None:
        """Count what became of a node."""
        self.running.pop(job.planned.fingerprint, None)
        self.expected.pop(job.planned.fingerprint, None)
        if outcome.state == "cached":
            self.cached += 1
            return
        if outcome.state == "blocked":
            self.blocked += 1
            return
        if outcome.state == "pruned":
            self.pruned += 1
            self.changed(f"{self.named(job)}: pruned: {first_line(outcome)}")
        elif outcome.error is not None:
            self.failed.append((self.named(job), first_line(outcome)))
            self.changed(f"{self.named(job)} {outcome.state}: {first_line(outcome)}")
        else:
            self.done += 1
            self.changed(f"{self.named(job)}: {outcome.state} in {duration(outcome.seconds)}")

    def changed(self, line: str) -> None:
        """Say what has changed, with the counts."""
        self.say(f"[{self.counts()}] {line}")

    def counts(self) -> str:
        """Return how many nodes there are of each state, and the time that is left if known."""
        told = [f"{self.done} done", f"{self.cached} cached", f"{len(self.running)} running"]
        told += [f"{len(self.failed)} failed"] if self.failed else []
        told += [f"{self.pruned} pruned"] if self.pruned else []
        told += [f"{self.blocked} blocked"] if self.blocked else []
        left = self.seconds_left()
        told += [f"about {duration(left)} left"] if left is not None else []
        return f"of {self.total} nodes {', '.join(told)}"

    def seconds_left(self) -> float | None:
        """Return how long what is left may take, as many at a time as run now; None: not known."""
        if not self.expected or None in self.expected.values():
            return None
        left = sum(seconds or 0.0 for seconds in self.expected.values())
        now = time.monotonic()
        for fingerprint, (_, began) in self.running.items():
            left -= min(now - began, self.expected[fingerprint] or 0.0)
        return left / max(1, len(self.running))


class Table(Counts):
    """The same as a table that is redrawn in place, on a terminal."""

    def __enter__(self) -> Table:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(
            get_renderable=self.render, console=Console(stderr=True), refresh_per_second=2
        )
        self._live.start()
        self.say = self._print
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def changed(self, line: str) -> None:
        """Draw again."""
        self._live.refresh()

    def render(self) -> Any:
        """Return the table as it stands now."""
        from rich.table import Table as Grid
        from rich.text import Text

        grid = Grid(title=self.counts(), title_justify="left", show_header=False)
        now = time.monotonic()
        for name, began in list(self.running.values())[:MOST_ROWS]:
            grid.add_row("running", Text(name), duration(now - began))
        for name, line in self.failed[-MOST_ROWS:]:
            grid.add_row("failed", Text(name), Text(line))
        return grid

    def _print(self, line: str) -> None:
        self._live.console.print(line, markup=False, highlight=False)


def first_line(outcome: JobOutcome) -> str:
    """Return the first line of what failed."""
    lines = str(outcome.error).splitlines()
    return lines[0] if lines else type(outcome.error).__name__


def start_table(
    executor: ExecutorConfig,
    say: Callable[[str], None],
    total: int,
    words: Sequence[str],
    expected: Mapping[str, float | None],
) -> Lines:
    """Return what tells how a command's graph comes along. Args: as of `Counts`."""
    if executor.name == "serial":
        return Lines(say)
    terminal = redraws(sys.stderr.isatty())
    return (Table if terminal else Counts)(say, total, words, expected)
