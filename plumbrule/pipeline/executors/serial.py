"""The executor `serial`: this process builds one node after the other."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from plumbrule.errors import NeedsInput, Pruned
from plumbrule.pipeline.execute import RunContext, resolve
from plumbrule.pipeline.executors.config import ExecutorConfig
from plumbrule.pipeline.executors.merged_graph import Graph, Job, JobOutcome

THERE = ("cached", "copy")
"""States of planned nodes that no stage has to run for."""
LOOK_SECONDS = 0.5
"""Between looks at whether the node that is built is to be stopped."""


def run(graph: Graph, config: ExecutorConfig, say: Callable[[str], None]) -> None:
    """Build what can be built, in order; what fails blocks only what needs it."""
    with interrupting(graph):
        while (job := graph.take()) is not None:
            build_here(graph, job, say)


def build_here(graph: Graph, job: Job, say: Callable[[str], None]) -> None:
    """Resolve or build a job in this process."""
    graph.start(job)
    place = f"(node {len(graph.outcomes) + 1} of {len(graph.jobs)})"
    owner = graph.owner(job)
    try:
        try:
            graph.interruptible = job.key
            if job.planned.state in THERE:  # no tracker has to start for a look into the store
                context = RunContext(owner.id, owner.store.root, owner.store, owner.runtime)
            else:
                context = owner.context()
            found = resolve(
                job.planned, context, graph.inputs(job), lambda line: say(f"{line} {place}")
            )
        finally:
            graph.interruptible = None
    except Pruned:
        graph.end(job, graph.pruned(job))
    except NeedsInput as wanted:
        graph.end(job, JobOutcome("waiting", error=wanted))
    except Exception as error:  # the boundary of a node: what does not need it goes on
        graph.end(job, JobOutcome("failed", error=error))
    else:
        graph.end(job, JobOutcome(found.state, found.manifest, found.folder))


@contextlib.contextmanager
def interrupting(graph: Graph) -> Iterator[None]:
    """Look beside the main thread whether a search wants the node that it builds stopped.

    A signal then raises Pruned in it, which also ends the wait for a child, as a lost claim does
    (`plumbrule/store/claims.py`): once, and not while the node's end is written down.
    """
    main = threading.main_thread()
    if graph.early_stop is None or threading.current_thread() is not main:
        yield
        return
    ended = threading.Event()

    def interrupt(number: int, frame: Any) -> None:
        if graph.interruptible in graph.stopping:
            graph.interruptible = None
            raise Pruned

    def watch() -> None:
        while not ended.wait(LOOK_SECONDS):
            graph.look()
            if graph.interruptible in graph.stopping:
                signal.pthread_kill(main.ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    watcher = threading.Thread(target=watch, daemon=True, name="early stop")
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        signal.signal(signal.SIGUSR1, before)
