"""The executor `serial`: this process builds one node after the other."""

from __future__ import annotations

from collections.abc import Callable

from plumbrule.errors import NeedsInput
from plumbrule.pipeline.execute import RunContext, resolve
from plumbrule.pipeline.executors.config import ExecutorConfig
from plumbrule.pipeline.executors.merged_graph import Graph, Job, Outcome

THERE = ("cached", "copy")
"""States of planned nodes that no stage has to run for."""


def run(graph: Graph, config: ExecutorConfig, say: Callable[[str], None]) -> None:
    """Build what can be built, in order; what fails blocks only what needs it."""
    while (job := graph.take()) is not None:
        build_here(graph, job, say)


def build_here(graph: Graph, job: Job, say: Callable[[str], None]) -> None:
    """Resolve or build a job in this process."""
    graph.start(job)
    place = f"(node {len(graph.outcomes) + 1} of {len(graph.jobs)})"
    owner = graph.owner(job)
    try:
        if job.planned.state in THERE:  # no tracker has to start for a look into the store
            context = RunContext(owner.id, owner.store.root, owner.store, owner.runtime)
        else:
            context = owner.context()
        found = resolve(
            job.planned, context, graph.inputs(job), lambda line: say(f"{line} {place}")
        )
    except NeedsInput as wanted:
        graph.end(job, Outcome("waiting", error=wanted))
    except Exception as error:  # the boundary of a node: what does not need it goes on
        graph.end(job, Outcome("failed", error=error))
    else:
        graph.end(job, Outcome(found.state, found.manifest, found.folder))
