"""The executor `local`: processes of this machine build nodes side by side.

Each process is a pool of one (loky): it keeps its accelerator and its threads, and one that is
killed, say for memory, fails its own node alone. A node starts only where the machine has room for
it beside those that run (`memory.py`). Which node is next is the order of the graph.
"""

from __future__ import annotations

import contextlib
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plumbrule.errors import ConfigError
from plumbrule.machine import cpus, environment
from plumbrule.machine.accelerators import num_accelerators
from plumbrule.pipeline.executors.config import ExecutorConfig
from plumbrule.pipeline.executors.described import (
    Described,
    build,
    describe,
    lost,
    outcome_of,
    this_process,
)
from plumbrule.pipeline.executors.memory import Room
from plumbrule.pipeline.executors.merged_graph import Graph, Job
from plumbrule.runtime_config import RuntimeConfig

LOOK_SECONDS = 0.5
"""Between looks at whether nodes that are built are to be stopped."""
END_SECONDS = 30.0
"""That processes get to leave their work in order when the command is stopped."""
REPLACED = r"A worker (was restarted|stopped) while some jobs were given to the executor"
"""Beginning of loky's warning when it replaces a process whose memory has grown. Before 3.7 it said
the same of a process that stopped for another reason, whose job fails with an error of its own."""


@dataclass
class WorkerSlot:
    """One process. variables: of its environment, over this one's."""

    variables: Mapping[str, str]
    pool: Any = None
    job: Job | None = None
    described: Described = field(default_factory=dict)

    def submit(self, described: Described) -> Future[Any]:
        """Start building in the process, which is started if there is none."""
        from loky.process_executor import ProcessPoolExecutor

        if self.pool is None:  # in a session of its own: Ctrl-C is for this process alone
            self.pool = ProcessPoolExecutor(1, initializer=os.setsid, env=dict(self.variables))
        self.described = described
        return self.pool.submit(build, described, this_process())

    def drop(self, kill: bool = True) -> None:
        """End the process, or forget it if it is gone; the next job starts another."""
        if self.pool is not None:
            self.pool.shutdown(wait=True, kill_workers=kill)
        self.pool = None


def run(graph: Graph, config: ExecutorConfig, say: Callable[[str], None]) -> None:
    """Build what can be built. Raises: ConfigError: there are fewer accelerators than asked for."""
    slots = [WorkerSlot(variables) for variables in environments(config, graph.members[0].runtime)]
    room = Room(config.memory_gib)
    running: dict[Future[Any], WorkerSlot] = {}
    try:
        with replaced_without_warning():
            while True:
                _fill(graph, slots, running, room)
                if not running:
                    return
                seconds = None if graph.early_stop is None else LOOK_SECONDS
                ended, _ = wait(running, seconds, return_when=FIRST_COMPLETED)
                for future in ended:
                    _end(graph, running.pop(future), future, room)
                stopped = graph.look()
                _interrupt([slot for slot in slots if slot.job in stopped])
    except BaseException:
        _terminate(list(running.values()), running)
        raise
    finally:
        for slot in slots:
            slot.drop(kill=slot.job is not None)


@contextlib.contextmanager
def replaced_without_warning() -> Iterator[None]:
    """Keep loky's warning of a memory leak from a user: nodes differ in size, and none leaks."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", REPLACED, UserWarning)
        yield


def environments(config: ExecutorConfig, runtime: RuntimeConfig) -> list[dict[str, str]]:
    """Return the variables of each process: its accelerators and its threads.

    Raises: ConfigError: executor.workers is more than there are accelerators for.
    """
    there = 0 if runtime.device == "cpu" else num_accelerators()
    if there:
        each = runtime.processes
        workers = config.workers or max(1, there // each)
        if workers * each > there or runtime.device.startswith("cuda:"):
            raise ConfigError(
                f"executor.workers (={workers}) must leave each process {each} of the {there} "
                f"accelerators, with runtime.device (={runtime.device}) without a number; lower it."
            )
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(there))))
        names = visible.split(",")
        devices = [",".join(names[n * each : (n + 1) * each]) for n in range(workers)]
    else:
        threads = environment.num_threads(runtime) if _sets_threads(runtime) else 1
        workers = config.workers or max(1, cpus.available() // threads)
        devices = [""] * workers
    found = []
    for device in devices:
        threads = environment.num_threads(runtime)
        if not _sets_threads(runtime):
            threads = max(1, threads // workers)
        variables = {"OMP_NUM_THREADS": str(threads)}
        if device:
            variables["CUDA_VISIBLE_DEVICES"] = device
        found.append(variables)
    return found


def _sets_threads(runtime: RuntimeConfig) -> bool:
    return runtime.threads is not None or environment.openmp.chosen_threads() is not None


def _fill(
    graph: Graph, slots: list[WorkerSlot], running: dict[Future[Any], WorkerSlot], room: Room
) -> None:
    """Give free processes what can be built; a node without room waits until another has ended."""
    for slot in slots:
        if slot.job is not None:
            continue
        job = graph.take()
        if job is None:
            return
        if not room.take(job, graph.owner(job)):
            graph.put_back(job)
            return
        described = describe(graph, job)
        graph.start(job)
        slot.job = job
        running[slot.submit(described)] = slot


def _end(graph: Graph, slot: WorkerSlot, future: Future[Any], room: Room) -> None:
    job, log = slot.job, Path(slot.described["log"])
    assert job is not None
    slot.job = None
    room.give_back(job)
    error = future.exception()
    if error is None:
        graph.end(job, outcome_of(graph, job, future.result(), log))
        return
    slot.drop()
    graph.end(job, lost(job, "its process ended without an answer (out of memory?)", log))


def _terminate(slots: list[WorkerSlot], futures: Mapping[Future[Any], WorkerSlot]) -> None:
    """Let processes leave their work in order: state written, claims released."""
    _interrupt(slots)
    wait(futures, timeout=END_SECONDS)


def _interrupt(slots: list[WorkerSlot]) -> None:
    for slot in slots:
        for pid in list(slot.pool._processes):  # loky replaces a process that has grown
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
