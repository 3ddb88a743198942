"""Carry a merged graph out with the executor that the command chose."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from plumbrule.pipeline.execute import say_what_is_emulated
from plumbrule.pipeline.executors.config import EXECUTORS, ExecutorConfig
from plumbrule.pipeline.executors.merged_graph import EarlyStop, Graph, Member, Watcher
from plumbrule.pipeline.executors.serial import THERE, build_here

Say = Callable[[str], None]


def carry_out(
    members: Sequence[Member],
    config: ExecutorConfig,
    watcher: Watcher,
    say: Say,
    early_stop: EarlyStop | None = None,
) -> Graph:
    """Build what the members need and end each of them; return the graph with all outcomes.

    What is cached, or copied from another store, this process looks up or copies; with nothing else
    to do no executor starts. Errors of nodes are their members' (`Member.fail`).

    Args: early_stop: may want jobs stopped before they are done.
    Raises: KeyboardInterrupt: stopped; members that had begun say so. ConfigError: the executor
    can't start.
    """
    graph = Graph(members, watcher, early_stop)
    try:
        there = [job for job in graph.jobs.values() if job.planned.state in THERE]
        todo = [job for job in graph.jobs.values() if job.planned.state not in THERE]
        if todo:
            planned = [job.planned for job in todo]
            say_what_is_emulated(planned, graph.owner(todo[0]).runtime, say)
        if config.name == "serial":
            _executor(config.name)(graph, config, say)
            return graph
        for job in there:
            build_here(graph, job, say)
        if len(graph.outcomes) < len(graph.jobs):
            _executor(config.name)(graph, config, say)
    except BaseException as error:
        graph.stop(error)
        raise
    return graph


def _executor(name: str) -> Any:
    module, function = EXECUTORS[name].split(":")
    return getattr(importlib.import_module(module), function)
