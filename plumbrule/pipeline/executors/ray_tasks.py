"""The executor `ray`: every node is a Ray task with the CPUs, GPUs and memory that it asks for.

A task gets the answers of its inputs' tasks, so Ray starts it when they are there; what runs where
and when is Ray's. All tasks are submitted at once. The store must lie where all machines of the
cluster see it, under the same path, and so must the code.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plumbrule.errors import ConfigError
from plumbrule.machine import cpus
from plumbrule.pipeline import plugins
from plumbrule.pipeline.executors.config import ExecutorConfig
from plumbrule.pipeline.executors.described import (
    Answer,
    Described,
    build,
    describe,
    lost,
    outcome_of,
)
from plumbrule.pipeline.executors.merged_graph import Graph, Job, JobOutcome, Key
from plumbrule.pipeline.executors.resources import Resources, resources_of

LOOK_SECONDS = 1.0
"""Between looks at which tasks have begun."""
UNANSWERED = 3
"""Looks in a row at which the cluster's head takes no connection, after which it is gone."""
END_SECONDS = 30.0
"""That tasks get to leave their work in order when the command is stopped."""
HANDED_OVER = ("PYTHONPATH", "HF_HUB_OFFLINE", "HF_HOME", plugins.VARIABLE)
"""Variables of this process that its tasks get."""


def run(graph: Graph, config: ExecutorConfig, say: Callable[[str], None]) -> None:
    """Build what can be built. Raises: ConfigError: Ray is not here, or no cluster answers."""
    ray = start(config, graph)
    try:
        futures = submit(ray, graph, config)
        _watch(ray, graph, futures)
    finally:
        with contextlib.suppress(Exception):  # of a cluster that is gone
            ray.shutdown()


def start(config: ExecutorConfig, graph: Graph) -> Any:
    """Connect to the cluster, or start a Ray of this machine, and return the module."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise ConfigError(
            "executor (=ray) must have Ray; install it: pip install 'plumbrule[sweep]'."
        ) from None
    variables = {name: os.environ[name] for name in HANDED_OVER if name in os.environ}
    paths = [path for path in sys.path if path]
    variables["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    address = config.address or os.environ.get("RAY_ADDRESS")
    about: dict[str, Any] = {"runtime_env": {"env_vars": variables}, "log_to_driver": False}
    if address is None:
        asked = resources_of(config, graph.members[0].runtime)
        about["num_cpus"] = (config.workers or max(1, cpus.available() // asked.cpus)) * asked.cpus
        about["include_dashboard"] = False
    try:
        _require_answer(address)
        ray.init(address=address, logging_level=logging.ERROR, **about)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"executor.address (={address}) must be a Ray cluster that answers "
            f"({str(error).splitlines()[0]}); start it, or leave the address out for a Ray of this "
            "machine."
        ) from error
    return ray


def _require_answer(address: str | None) -> None:
    """Raise OSError if nothing listens at an address; Ray itself would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and "/" not in host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def submit(ray: Any, graph: Graph, config: ExecutorConfig) -> dict[Any, tuple[Job, Path]]:
    """Submit every job that is left, inputs before what needs them."""
    futures: dict[Any, tuple[Job, Path]] = {}
    of: dict[Key, Any] = {}
    for job in graph.jobs.values():
        if job.key in graph.outcomes:
            continue
        asked = resources_of(config, graph.owner(job).runtime)
        task = ray.remote(build_task).options(name=job.name, max_retries=0, **_options(asked))
        described = describe(graph, job)
        begun = Path(described["log"]).with_suffix(".begun")
        begun.unlink(missing_ok=True)
        needs = [of[key] for key in job.needs if key in of]
        of[job.key] = task.remote(described, str(begun), *needs)
        futures[of[job.key]] = (job, begun)
    return futures


def build_task(described: Described, begun: str, *needs: Answer) -> Answer:
    """Build a job in a Ray worker; answer at once where an input has failed."""
    if any("error" in answer for answer in needs):
        return {"error": "blocked", "text": "an input has failed"}
    Path(begun).touch()
    return build(described)


def _options(asked: Resources) -> dict[str, Any]:
    options: dict[str, Any] = {"num_cpus": asked.cpus, "num_gpus": asked.gpus}
    if asked.memory_bytes is not None:
        options["memory"] = asked.memory_bytes
    return options


def _watch(ray: Any, graph: Graph, futures: dict[Any, tuple[Job, Path]]) -> None:
    """End jobs as their tasks end, until none is left, or the cluster is gone: then these are lost.

    Ray itself goes on waiting for tasks that no machine has begun.
    """
    left = dict(futures)
    address, unanswered = str(ray.get_runtime_context().gcs_address), 0
    try:
        while left:
            ended, _ = ray.wait(list(left), timeout=LOOK_SECONDS)
            unanswered = 0 if ended or _answers(address) else unanswered + 1
            if unanswered == UNANSWERED:
                _lose(graph, left, address)
                return
            for future in ended:
                job, begun = left.pop(future)
                if job.key not in graph.outcomes:  # else its input had failed
                    graph.end(job, _outcome(ray, graph, job, future, begun))
                begun.unlink(missing_ok=True)
            for job, begun in left.values():
                if job.key not in graph.running and begun.exists():
                    graph.start(job)
            stopped = graph.look()
            for future, (job, _) in left.items():
                if job in stopped:
                    ray.cancel(future, force=False)
    except BaseException:
        _cancel(ray, left)
        raise


def _answers(address: str) -> bool:
    """Return whether the head of a cluster takes a connection."""
    try:
        _require_answer(address)
    except OSError:
        return False
    return True


def _lose(graph: Graph, left: dict[Any, tuple[Job, Path]], address: str) -> None:
    """End the jobs that are left: their cluster is gone."""
    for job, begun in left.values():
        begun.unlink(missing_ok=True)
        if job.key not in graph.outcomes:
            how = f"its Ray cluster at {address} went away"
            graph.end(job, lost(job, how, begun.with_suffix(".log")))


def _outcome(ray: Any, graph: Graph, job: Job, future: Any, begun: Path) -> JobOutcome:
    log = begun.with_suffix(".log")
    try:
        answer = ray.get(future)
    except ray.exceptions.RayError as error:  # its worker, its machine or the cluster is gone
        how = " ".join(str(error).split())[:300]
        return lost(job, f"its Ray task was lost ({type(error).__name__}: {how})", log)
    return outcome_of(graph, job, answer, log)


def _cancel(ray: Any, futures: dict[Any, tuple[Job, Path]]) -> None:
    """Interrupt the tasks and let them leave their work in order."""
    with contextlib.suppress(Exception):  # the cluster may be gone
        for future in futures:
            ray.cancel(future, force=False)
        ray.wait(list(futures), num_returns=len(futures), timeout=END_SECONDS)
    for _, begun in futures.values():
        begun.unlink(missing_ok=True)
