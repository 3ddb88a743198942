"""What is built once for several runs, in which order, and what a failure blocks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plumbrule.errors import NeedsInput, TrainingError
from plumbrule.pipeline.executors.merged_graph import Graph, Job, JobOutcome
from plumbrule.pipeline.graph import Node
from plumbrule.pipeline.plan import Planned
from plumbrule.store.artifacts import Store
from plumbrule.store.manifests import Manifest


def planned(name: str, fingerprint: str, state: str = "build", **inputs: str) -> Planned:
    """Return a node of kind data; inputs: slot -> "<name>/<fingerprint>"."""
    node = Node(name, "data", {slot: link.split("/")[0] for slot, link in inputs.items()}, None)
    links = {slot: ("data", link.split("/")[1]) for slot, link in inputs.items()}
    return Planned(node, fingerprint, {}, {}, links, state, "", {})


class Cell:
    """A member that notes how it ended."""

    def __init__(self, root: Path, *plan: Planned):
        self.id, self.plan, self.store = "r/1", list(plan), Store(root)
        self.config: Any = SimpleNamespace()
        self.runtime: Any = None
        self.begun = False
        self.ended: Any = None
        self.log: Path | None = None

    def begin(self) -> Path:
        self.begun = True
        return self.store.root

    def context(self) -> Any:
        raise AssertionError("nothing is built here")

    def end(self, built: Any, elsewhere: Any) -> None:
        self.ended = {name: result.state for name, result in built.items()}

    def fail(self, error: BaseException, log: Path | None = None) -> None:
        self.ended, self.log = error, log


class Watcher:
    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    def started(self, job: Job) -> None:
        self.said.append((job.name, "started"))

    def ended(self, job: Job, outcome: JobOutcome) -> None:
        self.said.append((job.name, outcome.state))


def done(graph: Graph, job: Job, state: str = "built") -> None:
    graph.start(job)
    made = Manifest(job.name, "data", job.planned.fingerprint, {}, {})
    graph.end(job, JobOutcome(state, made, Path()))


def taken(graph: Graph) -> list[Job]:
    found = []
    while (job := graph.take()) is not None:
        found.append(job)
    return found


def two_cells(root: Path) -> tuple[Cell, Cell, Graph, Watcher]:
    """A shared `base`, and of each cell its own `ppo` that needs it and `eval` that needs both."""
    cells = [
        Cell(
            root,
            planned("base", "f0"),
            planned("other", f"g{n}"),
            planned("ppo", f"f{n}", policy="base/f0"),
            planned("eval", f"e{n}", policy=f"ppo/f{n}", base="base/f0"),
        )
        for n in (1, 2)
    ]
    watcher = Watcher()
    return cells[0], cells[1], Graph(cells, watcher), watcher


def test_what_cells_share_is_built_once_and_before_what_needs_it(tmp_path: Path) -> None:
    first, second, graph, _ = two_cells(tmp_path)
    assert len(graph.jobs) == 7  # 8 nodes, one of them shared
    begun = taken(graph)
    assert [job.name for job in begun] == ["base", "other", "other"]
    assert graph.take() is None
    for job in begun:
        done(graph, job)
    ppo = taken(graph)
    assert [(job.name, job.users) for job in ppo] == [("ppo", [0]), ("ppo", [1])]
    assert set(graph.inputs(ppo[0])) == {"base"}
    done(graph, ppo[1])
    done(graph, graph.take())  # the second cell ends before the first
    assert first.ended is None
    assert second.ended == {"base": "cached", "other": "built", "ppo": "built", "eval": "built"}
    done(graph, ppo[0])
    done(graph, graph.take())
    assert first.ended == {"base": "built", "other": "built", "ppo": "built", "eval": "built"}


def test_a_failure_blocks_what_needs_it_and_nothing_else(tmp_path: Path) -> None:
    first, second, graph, watcher = two_cells(tmp_path)
    for job in taken(graph):
        done(graph, job)
    broken = TrainingError("NaN")
    graph.end(graph.take(), JobOutcome("failed", error=broken))
    assert first.ended is broken
    assert ("eval", "blocked") in watcher.said
    for name in ("ppo", "eval"):
        job = graph.take()
        assert (job.name, job.users) == (name, [1])
        done(graph, job)
    assert second.ended["eval"] == "built"
    assert graph.take() is None


def test_a_shared_failure_ends_every_cell_once_the_rest_has_ended(tmp_path: Path) -> None:
    first, second, graph, _ = two_cells(tmp_path)
    base, *others = taken(graph)
    broken = TrainingError("NaN")
    log = tmp_path / "base.log"
    graph.end(base, JobOutcome("failed", error=broken, log=log))
    assert (first.ended, second.ended) == (None, None)  # `other` is still built, and kept
    for job in others:
        done(graph, job)
    assert (first.ended, second.ended) == (broken, broken)
    assert (first.log, second.log) == (log, log)  # also of the cell that did not own the job
    assert graph.take() is None


def test_a_cell_that_waits_and_fails_has_failed(tmp_path: Path) -> None:
    first, _, graph, _ = two_cells(tmp_path)
    base, other, _ = taken(graph)
    graph.end(base, JobOutcome("waiting", error=NeedsInput(tmp_path, "rank")))
    broken = TrainingError("NaN")
    graph.end(other, JobOutcome("failed", error=broken))
    assert first.ended is broken


def test_cached_nodes_need_no_input_to_be_there_first(tmp_path: Path) -> None:
    cell = Cell(
        tmp_path, planned("base", "f0"), planned("ppo", "f1", state="cached", policy="base/f0")
    )
    graph = Graph([cell], Watcher())
    assert [job.name for job in taken(graph)] == ["base", "ppo"]


def test_one_fingerprint_in_two_stores_is_two_artifacts(tmp_path: Path) -> None:
    cells = [Cell(tmp_path / name, planned("base", "f0")) for name in "ab"]
    assert len(Graph(cells, Watcher()).jobs) == 2


def test_a_stop_is_told_to_what_had_begun_alone(tmp_path: Path) -> None:
    first, second, graph, _ = two_cells(tmp_path)
    graph.owner(graph.take()).begin()
    stopped = KeyboardInterrupt()
    graph.stop(stopped)
    assert first.ended is stopped
    assert second.ended is None


@pytest.mark.parametrize("state", ["build", "resume"])
def test_what_has_to_be_built_needs_its_inputs(tmp_path: Path, state: str) -> None:
    cell = Cell(
        tmp_path, planned("base", "f0"), planned("ppo", "f1", state=state, policy="base/f0")
    )
    assert [job.name for job in taken(Graph([cell], Watcher()))] == ["base"]
