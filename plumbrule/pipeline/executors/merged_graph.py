"""The graphs of several runs as one: each artifact is built once, before what needs it.

The cells of a sweep, or a single run, are *members*; what several of them need is one *job*, named
by store, kind and fingerprint. An executor takes jobs whose inputs are there, in the order in which
members need them, and says what became of each. A job that fails blocks the jobs that need it and
nothing else. A member ends as soon as its last job has ended.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from plumbrule.errors import NeedsInput, Pruned
from plumbrule.pipeline.execute import NodeResult, RunContext
from plumbrule.pipeline.experiment import RunConfig
from plumbrule.pipeline.plan import Planned
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Store
from plumbrule.store.manifests import Manifest

Key = tuple[str, str, str]
"""Of a job: the store's folder, kind, fingerprint."""


class Member(Protocol):
    """A run that takes part: a cell of a sweep, or the only one."""

    id: str
    """As claims name it: <name of the run>/<its id>."""
    plan: list[Planned]
    store: Store
    config: RunConfig
    runtime: RuntimeConfig
    begun: bool
    """Whether it has left a record that says that it runs."""

    def begin(self) -> Path:
        """Return the run's folder; the first call makes it, with the record of a running run."""

    def context(self) -> RunContext:
        """Return what nodes that are built in this process are given; starts the tracker."""

    def end(self, built: Mapping[str, NodeResult], elsewhere: Sequence[str]) -> None:
        """Write the run's record. elsewhere: of its nodes, those that another process built."""

    def fail(self, error: BaseException, log: Path | None = None) -> None:
        """Write down what ended the run, or what it waits for.

        Args: log: what another process printed that built the node; None: this one built it.
        """


class JobOutcome(NamedTuple):
    """What became of a job. error: why it has no artifact. seconds: that this command waited."""

    state: str
    """cached, built, resumed, shared; or failed, waiting (for a person), pruned (by a search) or
    blocked (by an input)"""
    manifest: Manifest | None = None
    folder: Path | None = None
    error: BaseException | None = None
    elsewhere: bool = False
    """Whether another process of this command built it."""
    log: Path | None = None
    """What that process printed; of a blocked job, the one that built the failed input."""
    seconds: float = 0.0


@dataclass
class Job:
    """One artifact that members need. number: its place in the order of members and their nodes."""

    number: int
    key: Key
    planned: Planned
    """As its first member has it."""
    needs: frozenset[Key]
    users: list[int] = field(default_factory=list)
    """Members by number; the first owns the job."""

    @property
    def name(self) -> str:
        """The node's name in the member that owns the job."""
        return self.planned.node.name


class Watcher(Protocol):
    """What is told how a graph comes along."""

    def started(self, job: Job) -> None:
        """A job is being built."""

    def ended(self, job: Job, outcome: JobOutcome) -> None:
        """A job has ended, or will not begin since an input has none."""


class EarlyStop(Protocol):
    """Who may want jobs stopped before they are done."""

    def begin(self, members: Mapping[int, Member]) -> None:
        """Take the runs that will be carried out, by the number of their cell."""

    def look(self) -> None:
        """See how the runs come along."""

    def why(self, job: Job, users: Sequence[Member]) -> str:
        """Return why a job that these runs need is to be stopped; "": it is to go on."""


def key_of(store: Store, planned: Planned) -> Key:
    """Return the key of the job that a planned node is."""
    return (str(store.root), planned.node.kind, planned.fingerprint)


def merge(members: Sequence[Member]) -> dict[Key, Job]:
    """Return the jobs of all members, in the order of members, inputs before what needs them."""
    jobs: dict[Key, Job] = {}
    for number, member in enumerate(members):
        root = str(member.store.root)
        for planned in member.plan:
            key = key_of(member.store, planned)
            job = jobs.get(key)
            if job is None:
                built = planned.state in ("build", "resume")  # else it needs no input
                needs = [(root, *link) for link in planned.inputs.values()] if built else []
                job = jobs[key] = Job(len(jobs), key, planned, frozenset(needs))
            if number not in job.users:
                job.users.append(number)
    return jobs


class Graph:
    """A merged graph while an executor carries it out."""

    def __init__(
        self, members: Sequence[Member], watcher: Watcher, early_stop: EarlyStop | None = None
    ):
        self.members, self.watcher, self.early_stop = members, watcher, early_stop
        self.stopping: dict[Key, str] = {}
        """Jobs that a search wants stopped -> why."""
        self.interruptible: Key | None = None
        """The job that the main thread builds, while an exception may be raised in it."""
        self.jobs = merge(members)
        self.outcomes: dict[Key, JobOutcome] = {}
        self.running: dict[Key, float] = {}
        """Key -> when it began, by the monotonic clock."""
        self._unmet = {key: len(job.needs) for key, job in self.jobs.items()}
        self._users: dict[Key, list[Job]] = {key: [] for key in self.jobs}
        for job in self.jobs.values():
            for need in job.needs:
                self._users[need].append(job)
        self._ready = [job.number for job in self.jobs.values() if not job.needs]
        self._by_number = list(self.jobs.values())
        self._left = [len({key_of(m.store, p) for p in m.plan}) for m in members]
        self._open = set(range(len(members)))

    def take(self) -> Job | None:
        """Return the first job whose inputs are there and that was not taken; None: there is none.

        Whoever takes a job starts and ends it.
        """
        while self._ready:
            job = self._by_number[heapq.heappop(self._ready)]
            if job.key in self.stopping:
                self.end(job, self.pruned(job))
            elif job.key not in self.outcomes:
                return job
        return None

    def look(self) -> list[Job]:
        """Return the jobs that are to be stopped since this moment, begun or not.

        Whoever has begun one stops it; how it then ends does not matter.
        """
        if self.early_stop is None:
            return []
        self.early_stop.look()
        found = []
        for job in self.jobs.values():
            if job.key not in self.outcomes and job.key not in self.stopping:
                why = self.early_stop.why(job, [self.members[number] for number in job.users])
                if why:
                    self.stopping[job.key] = why
                    found.append(job)
        return found

    def pruned(self, job: Job) -> JobOutcome:
        """Return the outcome of a job that is being stopped."""
        return JobOutcome("pruned", error=Pruned(self.stopping[job.key]))

    def put_back(self, job: Job) -> None:
        """Let a job that was taken and not started be taken again."""
        heapq.heappush(self._ready, job.number)

    def owner(self, job: Job) -> Member:
        """Return the member that builds a job."""
        return self.members[job.users[0]]

    def inputs(self, job: Job) -> dict[str, NodeResult]:
        """Return the artifacts of a job's inputs, where they are known, by their nodes' names."""
        sources = {planned.node.name: planned for planned in self.owner(job).plan}
        store = self.owner(job).store
        keys = {name: key_of(store, sources[name]) for name in job.planned.node.inputs.values()}
        return {
            name: self._result(sources[name], self.outcomes[key])
            for name, key in keys.items()
            if key in self.outcomes
        }

    def start(self, job: Job) -> None:
        """Note that a job is being built."""
        self.running[job.key] = time.monotonic()
        self.watcher.started(job)

    def end(self, job: Job, outcome: JobOutcome) -> None:
        """Note what became of a job, block what needed it if it failed, and end whole members."""
        if job.key in self.outcomes:
            return
        if job.key in self.stopping and outcome.error is not None:
            outcome = self.pruned(job)
        began = self.running.pop(job.key, None)
        seconds = 0.0 if began is None else time.monotonic() - began
        outcome = outcome._replace(seconds=seconds)
        self.outcomes[job.key] = outcome
        self.watcher.ended(job, outcome)
        for user in self._users[job.key]:
            self._unmet[user.key] -= 1
            if outcome.error is not None:
                self.end(user, JobOutcome("blocked", error=outcome.error, log=outcome.log))
            elif not self._unmet[user.key]:
                heapq.heappush(self._ready, user.number)
        for number in job.users:
            self._left[number] -= 1
            if not self._left[number]:
                self._close(number)

    def stop(self, error: BaseException) -> None:
        """End the members that have begun and not ended: `error` stopped the whole command."""
        for number in sorted(self._open):
            if self.members[number].begun:
                self.members[number].fail(error)
        self._open.clear()

    def _close(self, number: int) -> None:
        self._open.discard(number)
        member = self.members[number]
        keys = {planned.node.name: key_of(member.store, planned) for planned in member.plan}
        found = {name: self.outcomes[key] for name, key in keys.items()}
        ended = [(o.error, o.log) for o in found.values() if o.error is not None]
        if ended:
            wrong = [one for one in ended if not isinstance(one[0], NeedsInput)]
            member.fail(*(wrong or ended)[0])
            return
        built, elsewhere = {}, []
        for planned in member.plan:
            outcome = found[planned.node.name]
            if self.jobs[keys[planned.node.name]].users[0] != number:
                outcome = outcome._replace(state="cached")
            elif outcome.elsewhere:
                elsewhere.append(planned.node.name)
            built[planned.node.name] = self._result(planned, outcome)
        member.end(built, elsewhere)

    def _result(self, planned: Planned, outcome: JobOutcome) -> NodeResult:
        assert outcome.manifest is not None
        assert outcome.folder is not None
        return NodeResult(planned, outcome.manifest, outcome.folder, outcome.state)
