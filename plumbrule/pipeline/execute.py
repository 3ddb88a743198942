"""Resolve or build each node of a plan.

Several commands may walk the same graph at once: whoever gets the claim builds, the others wait and
say for whom.
"""

from __future__ import annotations

import errno
import importlib
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from plumbrule.errors import (
    NeedsInput,
    PlumbruleError,
    Pruned,
    Terminated,
    TrainingError,
)
from plumbrule.machine import environment, garbage, precision
from plumbrule.pipeline.given_inputs import Given, copy_files, require_whole
from plumbrule.pipeline.launch import run_in_processes
from plumbrule.pipeline.plan import Planned, require_unchanged_code
from plumbrule.pipeline.stages import STAGES, section_of
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store import attempts, claims
from plumbrule.store.artifacts import Artifact, Store
from plumbrule.store.checkpoints import newest
from plumbrule.store.file_names import CHECKPOINTS, METRIC_ROWS, WANDB_RUN
from plumbrule.store.json_files import as_read_back
from plumbrule.store.manifests import Manifest
from plumbrule.store.metric_rows import read_metrics
from plumbrule.tracking.stage_tracker import FileTracker
from plumbrule.tracking.trackers import FilesOnly, NodeFacts, RunTracker

WAIT_SECONDS = 1.0
FULL_BYTES = 2**20
"""A disk with less room than this is full."""


@dataclass(frozen=True)
class NodeResult:
    """A node's published artifact, and how this command got it."""

    planned: Planned
    manifest: Manifest
    folder: Path
    state: str
    """cached, built, resumed or shared (another command built it meanwhile)."""


@dataclass(frozen=True)
class RunContext:
    """What a run gives its nodes besides their configs."""

    id: str
    folder: Path
    store: Store
    runtime: RuntimeConfig
    tracker: RunTracker = field(default_factory=FilesOnly)


def execute(
    plan: list[Planned], context: RunContext, say: Callable[[str], None]
) -> dict[str, NodeResult]:
    """Resolve or build each node of the plan in order and return the artifact of each.

    Raises: whatever a stage raises; what was published before stands.
    """
    say_what_is_emulated(plan, context.runtime, say)
    built: dict[str, NodeResult] = {}
    for number, planned in enumerate(plan, 1):
        node = planned.node

        def numbered(line: str, place: str = f"(node {number} of {len(plan)})") -> None:
            say(f"{line} {place}")

        built[node.name] = resolve(planned, context, built, numbered)
        if built[node.name].state in ("cached", "shared"):
            show_curves(built[node.name], context.tracker)
    return built


def show_curves(built: NodeResult, tracker: RunTracker) -> None:
    """Tell the command's tracker what a node logged that was not built here."""
    artifact = artifact_of(built)
    if not isinstance(tracker, FilesOnly) and artifact.has(METRIC_ROWS):
        rows = read_metrics(artifact.file(METRIC_ROWS).parent)
        tracker.show(built.planned.node.name, rows)


def say_what_is_emulated(
    plan: list[Planned], runtime: RuntimeConfig, say: Callable[[str], None]
) -> None:
    """Say in one line, with the measured ratio, that nodes will compute in emulated bfloat16."""
    settings = []
    for planned in plan:
        if isinstance(planned.node.config, Given):
            continue
        found = STAGES[planned.node.kind].precision(planned.node.config)
        if found is not None and found[1] == "bfloat16" and planned.state != "cached":
            settings.append(f"{section_of(planned.node.kind)}.{found[0]}")
    if settings and not precision.native(runtime.device).bfloat16:
        environment.prepare(runtime)
        rates = environment.hardware(runtime)
        gflops = {name: rates[f"{name}_gflops"] for name in ("float32", "bfloat16")}
        say(precision.emulation_line(list(dict.fromkeys(settings)), runtime.device, gflops))


def resolve(
    planned: Planned,
    context: RunContext,
    built: Mapping[str, NodeResult],
    say: Callable[[str], None],
) -> NodeResult:
    """Return the node's artifact: from the store, from another command, or built here.

    Args: built: the artifacts of the node's inputs, by the names of their nodes.
    Raises: whatever the stage raises.
    """
    name, kind = planned.node.name, planned.node.kind
    folder = context.store.folder(kind, planned.fingerprint)
    waiting = False
    while True:
        manifest = context.store.manifest(kind, planned.fingerprint)
        if manifest is not None:
            attempts.tidy(folder)
            return NodeResult(planned, manifest, folder, "shared" if waiting else "cached")
        claim = attempts.claim(folder, context.id)
        if isinstance(claim, claims.Claim):
            break
        if not waiting:
            say(f"{name}: waiting for {claim}, which builds {kind}/{planned.fingerprint}")
            waiting = True
        time.sleep(WAIT_SECONDS)
    with claim:
        if isinstance(planned.node.config, Given):
            require_whole(planned.node.config)
        try:
            attempt = attempts.begin(folder, claim)
        except OSError as error:
            manifest = context.store.manifest(kind, planned.fingerprint)
            if manifest is not None:  # another has published, and tidied up
                return NodeResult(planned, manifest, folder, "shared")
            claim.check()
            raise_if_disk_is_full(context.store.root, error)
            raise
        # Nobody can publish any more but this process: all earlier attempts were taken over.
        manifest = context.store.manifest(kind, planned.fingerprint)
        if manifest is not None:
            attempts.clear(claim)
            return NodeResult(planned, manifest, folder, "shared")
        if isinstance(planned.node.config, Given):
            manifest = _copy(planned.node.config, context.store, attempt, claim)
            attempts.clear(claim)
            return NodeResult(planned, manifest, folder, "cached")
        begun = newest(attempt / CHECKPOINTS)
        resumed = begun is not None
        say(f"{name}: {'resuming' if resumed else 'building'} {kind}/{planned.fingerprint}")
        moved = environment.moved(begun[1], context.runtime) if begun else None
        if moved:
            say(
                f"{name}: the checkpoint was written elsewhere ({moved}); the artifact will agree "
                "with one machine's only up to rounding (docs/machines.md)."
            )
        manifest = _build(planned, context, built, attempt, claim)
        attempts.clear(claim)
    return NodeResult(planned, manifest, folder, "resumed" if resumed else "built")


def _copy(given: Given, store: Store, attempt: Path, claim: claims.Claim) -> Manifest:
    """Copy an artifact of another store into `attempt` and publish it."""
    try:
        manifest = copy_files(given, attempt)
        return store.publish(manifest, attempt, before_it_counts=claim.check)
    except OSError as error:
        claim.check()
        raise_if_disk_is_full(store.root, error)
        raise


def _build(
    planned: Planned,
    context: RunContext,
    built: Mapping[str, NodeResult],
    folder: Path,
    claim: claims.Claim,
) -> Manifest:
    """Run a node's stage in `folder`, an attempt, and publish what it leaves there."""
    node, began = planned.node, time.monotonic()
    started = datetime.now(UTC).isoformat(timespec="seconds")
    inputs = {slot: artifact_of(built[source]) for slot, source in node.inputs.items()}
    about = NodeFacts(
        node.name,
        node.kind,
        planned.fingerprint,
        as_read_back(planned.config),
        planned.inputs,
        folder,
    )
    tracker: FileTracker | None = None
    try:
        tracker = _tracker(about, context)
        environment.prepare(context.runtime)
        run = stage_function(node.kind)
        require_unchanged_code(planned)
        if context.runtime.processes * context.runtime.nodes > 1 and STAGES[node.kind].parallel:
            metrics = run_in_processes(node, inputs, context.runtime, folder)
            require_unchanged_code(planned)  # its workers have read it later than this process
            tracker.send(read_metrics(folder))
        else:
            metrics = run(node.config, inputs, context.runtime, folder, tracker)
        claim.check()
        headline = {name: float(value) for name, value in metrics.items()}
        manifest = context.store.publish(
            Manifest(
                node=node.name,
                kind=node.kind,
                fingerprint=planned.fingerprint,
                config=as_read_back(planned.config),
                inputs={slot: fingerprint for slot, (_, fingerprint) in planned.inputs.items()},
                metrics=headline,
                code=planned.code,
                seed=getattr(node.config, "seed", None),
                git=environment.git_state(),
                versions=environment.versions(),
                runtime=asdict(context.runtime),
                hardware=environment.hardware(context.runtime),
                wall_seconds=round(time.monotonic() - began, 2),
                wandb_run_id=context.tracker.run_id,
                started=started,
                built_by=str(claim.owner),
            ),
            folder,
            before_it_counts=claim.check,
        )
    except BaseException as error:
        if tracker is not None:
            tracker.finish({}, failed=not isinstance(error, NeedsInput | Pruned))
        if not isinstance(error, Terminated):
            claim.check()
        if not isinstance(error, KeyboardInterrupt | NeedsInput | PlumbruleError):
            raise_if_disk_is_full(context.store.root, error)
        raise
    context.tracker.published(about)
    tracker.finish(headline)
    return manifest


def raise_if_disk_is_full(folder: Path, error: BaseException) -> None:
    """Raise TrainingError in place of `error` where the disk has no room left.

    Libraries say it in ways of their own (OSError, RuntimeError, a Rust error) or not at all, so
    the disk is asked as well.
    """
    free = shutil.disk_usage(folder).free
    says_so = "No space left" in str(error) or getattr(error, "errno", None) == errno.ENOSPC
    if free < FULL_BYTES or says_so:
        raise TrainingError(
            f"the disk under {folder} must have room to write on (={free / 2**20:.1f} MiB free); "
            "make room and run the same command: it goes on from the newest complete checkpoint."
        ) from error


def stage_function(kind: str) -> Callable[..., Mapping[str, float]]:
    """Import a stage's module and return its `run`."""
    module, name = STAGES[kind].run.split(":")
    with garbage.not_collected():
        return getattr(importlib.import_module(module), name)


def artifact_of(built: NodeResult) -> Artifact:
    """Return a built node as the next stage, or whoever asks for it, sees it."""
    planned = built.planned
    return Artifact(
        path=built.folder,
        kind=planned.node.kind,
        node=planned.node.name,
        fingerprint=planned.fingerprint,
        metrics=built.manifest.metrics,
        opener=STAGES[planned.node.kind].opener,
        files=built.manifest.files,
    )


def _tracker(about: NodeFacts, context: RunContext) -> FileTracker:
    """Return the node's tracker; its metrics file stays with unfinished work to be resumed."""
    if newest(about.folder / CHECKPOINTS) is None:
        for name in (METRIC_ROWS, WANDB_RUN):
            (about.folder / name).unlink(missing_ok=True)
    return FileTracker(about.folder, context.tracker.stage(about))
