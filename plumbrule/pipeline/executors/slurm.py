"""The executors `slurm` and `submitit_local`: every node is a job that submitit submits.

On Slurm all jobs are submitted at once, each behind the jobs of its inputs (`afterany`: a job whose
input has failed finds that it is not in the store, and ends). Slurm decides what runs where and
when; this process only waits, and may be stopped and given again. `submitit_local` runs the same
jobs as processes of this machine, each when its inputs are there.

Submitit keeps its files in the run's folder `submitit/`; its pickles are removed when a job ends.
The store and the environment must lie where all machines see them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plumbrule.errors import ConfigError
from plumbrule.machine import cpus
from plumbrule.pipeline.executors.config import ExecutorConfig
from plumbrule.pipeline.executors.described import (
    build,
    describe,
    heeding_interrupts,
    lost,
    outcome_of,
)
from plumbrule.pipeline.executors.merged_graph import Graph, Job, JobOutcome, Key
from plumbrule.pipeline.executors.resources import resources_of

LOOK_SECONDS = 1.0
"""Between looks at this machine's jobs; Slurm is asked by submitit, more rarely."""
END_SECONDS = 30.0
"""That jobs get to leave their work in order when the command is stopped."""
FOLDER = "submitit"


def run(graph: Graph, config: ExecutorConfig, say: Callable[[str], None]) -> None:
    """Build what can be built as Slurm jobs. Raises: ConfigError: submitit or Slurm is not here."""
    jobs = Jobs(graph, config, "slurm")
    try:
        for job in graph.jobs.values():
            if job.key not in graph.outcomes:
                jobs.submit(job)
        while jobs.submitted:
            jobs.look()
    except BaseException:
        jobs.cancel()
        raise


def run_local(graph: Graph, config: ExecutorConfig, say: Callable[[str], None]) -> None:
    """Build what can be built as processes that submitit starts here."""
    jobs = Jobs(graph, config, "local")
    asked = resources_of(config, graph.members[0].runtime)
    most = config.workers or max(1, cpus.available() // asked.cpus)
    with heeding_interrupts():  # by which submitit cancels a job of this machine
        try:
            while True:
                while len(jobs.submitted) < most and (job := graph.take()) is not None:
                    jobs.submit(job)
                if not jobs.submitted:
                    return
                jobs.look()
        except BaseException:
            jobs.cancel()
            raise


class Jobs:
    """The jobs of a graph that were submitted and have not ended."""

    def __init__(self, graph: Graph, config: ExecutorConfig, cluster: str):
        try:
            import submitit
        except ImportError:
            raise ConfigError(
                f"executor (={config.name}) must have submitit; install it: "
                "pip install 'plumbrule[sweep]'."
            ) from None
        self.graph, self.config, self.cluster = graph, config, cluster
        self.submitit = submitit
        self.submitted: dict[Key, tuple[Job, Any, Path]] = {}
        self._ids: dict[Key, str] = {}

    def submit(self, job: Job) -> None:
        """Submit a job behind those of its inputs."""
        described = describe(self.graph, job)
        owner = self.graph.owner(job)
        log = Path(described["log"])
        executor = self._executor(owner.begin() / FOLDER)
        asked = resources_of(self.config, owner.runtime)
        parameters: dict[str, Any] = {
            "timeout_min": self.config.time_minutes,
            "name": f"{job.name}-{job.planned.fingerprint[:8]}",
            "cpus_per_task": asked.cpus,
        }
        if asked.gpus:
            parameters["gpus_per_node"] = int(asked.gpus)
        if asked.memory_bytes is not None:
            parameters["mem_gb"] = asked.memory_bytes / 2**30
        if self.cluster == "slurm":
            parameters |= self._slurm_parameters(job)
        executor.update_parameters(**parameters)
        found = executor.submit(build, described)
        self._ids[job.key] = found.job_id
        self.submitted[job.key] = (job, found, log)
        if self.cluster == "local":
            self.graph.start(job)

    def _executor(self, folder: Path) -> Any:
        try:
            return self.submitit.AutoExecutor(folder=folder, cluster=self.cluster)
        except RuntimeError as error:
            raise ConfigError(
                f"executor (={self.config.name}) must run where Slurm's commands are "
                f"({' '.join(str(error).split())}); log in to the cluster, or take "
                "executor=submitit_local."
            ) from None

    def _slurm_parameters(self, job: Job) -> dict[str, Any]:
        more: dict[str, Any] = dict(self.config.sbatch)
        needs = [self._ids[key] for key in job.needs if key in self._ids]
        if needs:
            more["dependency"] = ":".join(["afterany", *needs])
        parameters: dict[str, Any] = {"slurm_additional_parameters": more}
        if self.config.partition is not None:
            parameters["slurm_partition"] = self.config.partition
        return parameters

    def look(self) -> None:
        """End what has ended, after a moment."""
        time.sleep(LOOK_SECONDS)
        for key, (job, found, log) in list(self.submitted.items()):
            if found.done():
                del self.submitted[key]
                outcome = self._outcome(job, found, log)
                if key not in self.graph.outcomes:  # else its input had failed
                    self.graph.end(job, outcome)
                remove_pickles(found)
            elif key not in self.graph.running and log.exists():
                self.graph.start(job)
        stopped = self.graph.look()
        for job, found, _ in self.submitted.values():
            if job in stopped:
                found.cancel(check=False)

    def _outcome(self, job: Job, found: Any, log: Path) -> JobOutcome:
        try:
            return outcome_of(self.graph, job, found.result(), log)
        except (self.submitit.core.utils.UncompletedJobError, OSError) as error:
            state = found.state
            how = " ".join(str(error).split())[:300]
            return lost(
                job, f"its job {found.job_id} ended without an answer ({state}: {how})", log
            )

    def cancel(self) -> None:
        """Cancel what is left and let it leave its work in order."""
        for _, found, _ in self.submitted.values():
            found.cancel(check=False)
        until = time.monotonic() + END_SECONDS
        left = [found for _, found, _ in self.submitted.values()]
        while self.cluster == "local" and left and time.monotonic() < until:
            time.sleep(LOOK_SECONDS / 4)
            left = [found for found in left if not found.done(force_check=True)]
        for _, found, _ in self.submitted.values():
            remove_pickles(found)


def remove_pickles(found: Any) -> None:
    """Remove what submitit has pickled of an ended job; its logs stay."""
    for path in (found.paths.submitted_pickle, found.paths.result_pickle):
        path.unlink(missing_ok=True)
