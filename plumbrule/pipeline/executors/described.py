"""A job told in JSON, so that any process that sees the store can build it, and what it answers.

Other processes import what they need by themselves: no object of ours is pickled, whoever carries
the text over (loky, Ray, submitit). Like torchrun's workers they make the config again from plain
values and refuse one that comes out otherwise.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from plumbrule import errors
from plumbrule.errors import NeedsInput, PlumbruleError, Terminated, TrainingError
from plumbrule.machine import garbage
from plumbrule.pipeline.execute import NodeResult, RunContext, resolve
from plumbrule.pipeline.executors.merged_graph import Graph, Job, JobOutcome
from plumbrule.pipeline.executors.typed_config import typed_config
from plumbrule.pipeline.graph import Node
from plumbrule.pipeline.plan import Planned
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store import claims
from plumbrule.store.artifacts import Store
from plumbrule.store.json_files import as_read_back
from plumbrule.store.layout import LOGS

Described = dict[str, Any]
Answer = dict[str, Any]
"""state, and where it failed error (class, text and traceback)."""
STOPPED = "stopped"
"""In the place of an error's class: a signal told the process to end."""


def describe(graph: Graph, job: Job) -> Described:
    """Return what another process must know to build a job.

    The log lies in the folder of the run that owns the job, which is made.
    """
    owner = graph.owner(job)
    node, planned = job.planned.node, job.planned
    log = owner.begin() / LOGS / f"{node.name.replace('/', '_')}.log"
    log.parent.mkdir(exist_ok=True)
    return as_read_back(
        {
            "name": node.name,
            "kind": node.kind,
            "config": asdict(node.config),
            "sources": dict(node.inputs),
            "inputs": {slot: list(link) for slot, link in planned.inputs.items()},
            "fingerprint": planned.fingerprint,
            "hashed": planned.config,
            "code": dict(planned.code),
            "runtime": asdict(owner.runtime),
            "store": str(owner.store.root),
            "run": owner.id,
            "log": str(log),
        }
    )


def build(described: Described, watched: tuple[int, str, str] | None = None) -> Answer:
    """Build a described job in this process and say what became of it; it raises nothing.

    Call it in the main thread: claims and SIGTERM interrupt the building there.

    Args: watched: pid, birth and host of the process for which it builds, without which it ends;
    None: on a cluster, which ends what it started.
    """
    from plumbrule.pipeline import plugins

    if watched is not None:
        end_with(*watched)
    garbage.collect_seldom()
    with _signals(), _printing_into(Path(described["log"])):
        try:
            plugins.load()
            runtime = RuntimeConfig(**described["runtime"])
            store = Store(described["store"])
            context = RunContext(described["run"], store.root, store, runtime)
            planned = _planned(described)
            found = resolve(planned, context, _inputs(described, store), _print)
        except BaseException as error:  # told to whoever asked for it
            if not isinstance(error, NeedsInput):
                traceback.print_exc()
            return _told(error)
    return {"state": found.state}


def outcome_of(graph: Graph, job: Job, answer: Answer, log: Path | None = None) -> JobOutcome:
    """Return what a process has answered as what became of the job."""
    if "error" not in answer:
        owner = graph.owner(job)
        manifest = owner.store.manifest(job.planned.node.kind, job.planned.fingerprint)
        if manifest is not None:
            folder = owner.store.folder(job.planned.node.kind, job.planned.fingerprint)
            built = answer["state"] in ("built", "resumed")
            return JobOutcome(answer["state"], manifest, folder, elsewhere=built, log=log)
        answer = {"error": "TrainingError", "text": "it was built, but is not in the store"}
    error = error_of(answer, job.name, log)
    state = "waiting" if isinstance(error, NeedsInput) else "failed"
    return JobOutcome(state, error=error, log=log)


def error_of(answer: Answer, name: str, log: Path | None) -> BaseException:
    """Return the error that an answer tells of; one that is not ours as TrainingError."""
    text = answer["text"]
    if answer["error"] == "NeedsInput":
        return NeedsInput(answer["path"], answer["what"])
    known = getattr(errors, answer["error"], None)
    if isinstance(known, type) and issubclass(known, PlumbruleError):
        error = known.__new__(known)
        error.args = (text,)
        return error
    where = f"; its output: {log}" if log is not None else ""
    if answer["error"] == STOPPED:
        return TrainingError(
            f"{name}: its process was stopped by {text} (a cancelled job, or one out of time)"
            f"{where}. Run the same command again: it goes on from what is in the store."
        )
    return TrainingError(f"{name}: {answer['error']}: {text}{where}")


def lost(job: Job, how: str, log: Path | None) -> JobOutcome:
    """Return the outcome of a job whose process is gone without an answer."""
    where = f"; its output: {log}" if log is not None and log.exists() else ""
    error = TrainingError(
        f"{job.name}: {how}{where}. Run the same command again: it goes on from what is in the "
        "store."
    )
    return JobOutcome("failed", error=error, log=log)


def this_process() -> tuple[int, str, str]:
    """Return pid, birth and host of this process, for `build`."""
    return os.getpid(), claims.born(os.getpid()), socket.gethostname()


def end_with(pid: int, born: str, host: str) -> None:
    """End this process once another is gone; once for each process."""
    if host == socket.gethostname() and pid not in _watched:
        _watched.add(pid)
        threading.Thread(target=_end_once_gone, args=(pid, born), daemon=True).start()


_watched: set[int] = set()
WATCH_SECONDS = 1.0
_gone = threading.Event()


def _end_once_gone(pid: int, born: str) -> None:
    while claims.born(pid) == born:
        _gone.wait(WATCH_SECONDS)
    os._exit(1)


def _planned(described: Described) -> Planned:
    config = typed_config(described["kind"], described["config"], described["name"])
    node = Node(described["name"], described["kind"], described["sources"], config)
    inputs = {slot: (kind, name) for slot, (kind, name) in described["inputs"].items()}
    fingerprint, hashed = described["fingerprint"], described["hashed"]
    return Planned(node, fingerprint, hashed, described["code"], inputs, "build", "", {})


def _inputs(described: Described, store: Store) -> dict[str, NodeResult]:
    """Return the job's inputs from the store. Raises: TrainingError: one is not there."""
    found = {}
    for slot, (kind, fingerprint) in described["inputs"].items():
        name = described["sources"][slot]
        manifest = store.manifest(kind, fingerprint)
        if manifest is None:
            raise TrainingError(
                f"{described['name']}: its input {name} ({kind}/{fingerprint}) must be in the "
                f"store {store.root}; its process may not see it, or it was not built."
            )
        planned = Planned(Node(name, kind, {}, None), fingerprint, {}, {}, {}, "cached", "", {})
        found[name] = NodeResult(planned, manifest, store.folder(kind, fingerprint), "cached")
    return found


def _told(error: BaseException) -> Answer:
    if isinstance(error, NeedsInput):
        about = {"path": str(error.path), "what": error.what}
        return {"error": "NeedsInput", "text": str(error), **about}
    if isinstance(error, KeyboardInterrupt):
        by = "SIGTERM" if isinstance(error, Terminated) else "SIGINT"
        return {"error": STOPPED, "text": by}
    return {"error": type(error).__name__, "text": str(error)}


def _print(line: str) -> None:
    print(line, flush=True)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Let SIGTERM end the building in order, as it ends a command, and SIGINT too: a shell that
    starts a command in the background lets its processes ignore that.
    """

    def terminate(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    with heeding_interrupts():
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def heeding_interrupts() -> Iterator[None]:
    """Let this process, and those that it starts, be interrupted by SIGINT if it ignored that."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if not ignored or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def _printing_into(log: Path) -> Iterator[None]:
    """Append to a file what this process and its children print."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    opened = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.dup2(opened, 1)
        os.dup2(opened, 2)
        with (
            open(os.dup(opened), "w", encoding="utf-8", errors="backslashreplace") as text,
            contextlib.redirect_stdout(text),
            contextlib.redirect_stderr(text),
        ):
            yield
    finally:
        for number, place in zip(kept, (1, 2), strict=True):
            os.dup2(number, place)
            os.close(number)
        os.close(opened)
