"""Accepting an artifact for changed code, once its node was built again and has the same bytes.

The node is built under the new code like any other: under its new fingerprint, in a folder of its
own, with a claim and checkpoints. The older artifact is only read. Where both have the same files,
byte by byte, a record says so (`accepted.py`); else nothing is recorded, and the new artifact
stays, which is what the new code makes.

Two things are no part of the comparison: manifests, which tell times and machines, and measured
times among metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from plumbrule.errors import ArtifactError, ConfigError, listed
from plumbrule.pipeline.execute import NodeResult, RunContext, resolve
from plumbrule.pipeline.given_inputs import Given
from plumbrule.pipeline.graph import Node
from plumbrule.pipeline.plan import Planned, changed_keys, make_plan, settings_left_off
from plumbrule.pipeline.planning.accepted import Accepted, write_accepted
from plumbrule.store.artifacts import Store
from plumbrule.store.content_digests import SLOW
from plumbrule.store.file_names import METRIC_ROWS
from plumbrule.store.fingerprint import changed_settings, differences, digest
from plumbrule.store.json_files import as_read_back, read_jsonl
from plumbrule.store.manifests import Manifest

MOST_SHOWN = 8
"""Files that a refusal names."""


def accept(
    old: Manifest, nodes: list[Node], name: str, context: RunContext, say: Callable[[str], None]
) -> Accepted:
    """Build a node under the present code, compare it with an artifact of it, and record that the
    artifact stands for the present code.

    Args: old: of the artifact. nodes: of the run that used it, composed anew. name: its node's name
    among them.
    Raises: ArtifactError: they differ, or a file is damaged. ConfigError: more than the code
    changed, or nothing did.
    """
    store = context.store
    plan = {planned.node.name: planned for planned in make_plan(nodes, store)}
    if name not in plan:
        raise ConfigError(
            f"node (={name}) must be a node of the run, which now has {listed(plan, 8)}; name "
            "another run with --run."
        )
    planned = plan[name]
    _require_code_alone(old, planned, plan)
    store.verify(old.kind, old.fingerprint)
    found = resolve(planned, context, _inputs(planned, plan, store), say)
    store.verify(old.kind, planned.fingerprint)
    folders = (store.folder(old.kind, old.fingerprint), found.folder)
    differing = different_files((old, found.manifest), folders)
    if differing:
        raise ArtifactError(
            f"{old.kind}/{old.fingerprint} must have the bytes that the new code makes "
            f"({old.kind}/{planned.fingerprint}), but they differ in "
            f"{listed(differing, MOST_SHOWN)}; nothing was accepted, and the next run takes the "
            "new one."
        )
    about = Accepted(
        kind=old.kind,
        fingerprint=planned.fingerprint,
        stands_for_it=old.fingerprint,
        node=name,
        code={"old": digest(dict(old.code)), "new": digest(dict(planned.code))},
        changed={
            file: (old.code.get(file), planned.code.get(file))
            for file in differences(dict(old.code), dict(planned.code))
        },
        files={file: str(told[SLOW]) for file, told in old.files.items()},
        accepted=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    write_accepted(store.root, about)
    return about


def _require_code_alone(old: Manifest, planned: Planned, plan: Mapping[str, Planned]) -> None:
    """Raise ConfigError unless a node differs from an artifact of it by its code alone."""
    what = f"{old.kind}/{old.fingerprint}"
    node = planned.node
    if isinstance(node.config, Given) or node.kind != old.kind:
        raise ConfigError(
            f"node (={node.name}) must be built by the run and be of kind {old.kind}; name a run "
            "that built the artifact with --run."
        )
    if planned.fingerprint == old.fingerprint:
        how = "was accepted already" if planned.reason else "is what the code makes as it is"
        raise ConfigError(f"{what} {how}; there is nothing to accept.")
    left_off = settings_left_off(planned.config, changed_settings(node.config))
    keys = changed_keys(old, as_read_back(planned.config), left_off)
    if keys:
        raise ConfigError(
            f"{what} must have the settings that the run has now, but {listed(keys, MOST_SHOWN)} "
            "differ; accept is for changed code alone."
        )
    links = {slot: fingerprint for slot, (_, fingerprint) in planned.inputs.items()}
    for slot in differences(dict(old.inputs), links):
        source = node.inputs.get(slot)
        before = f"{plan[source].node.kind}/{old.inputs.get(slot)}" if source else "none"
        raise ConfigError(
            f"input {slot} of {what} must be what it was made from ({before}), but is "
            f"{links.get(slot)} now; accept that artifact first: plumbrule accept {before}"
        )
    if not differences(dict(old.code), dict(planned.code)):
        raise ConfigError(
            f"{node.name} is {node.kind}/{planned.fingerprint} by another artifact that was "
            "accepted; there is nothing to accept."
        )


def _inputs(planned: Planned, plan: Mapping[str, Planned], store: Store) -> dict[str, NodeResult]:
    """Return the artifacts of a node's inputs by their nodes' names.

    Raises: ArtifactError: one is not in the store.
    """
    found: dict[str, NodeResult] = {}
    for source in planned.node.inputs.values():
        kind, fingerprint = plan[source].node.kind, plan[source].fingerprint
        manifest = store.manifest(kind, fingerprint)
        if manifest is None:
            raise ArtifactError(
                f"input {source} ({kind}/{fingerprint}) must be in {store.root}; give the command "
                "of the run again, which builds it."
            )
        folder = store.folder(kind, fingerprint)
        found[source] = NodeResult(plan[source], manifest, folder, "cached")
    return found


def different_files(manifests: tuple[Manifest, Manifest], folders: tuple[Path, Path]) -> list[str]:
    """Return what two artifacts of a node differ in: names of files, then of headline metrics.

    Their files must have been held against the manifests' digests before.
    """
    one, other = manifests
    found = []
    for name in sorted(set(one.files) | set(other.files)):
        a, b = one.files.get(name), other.files.get(name)
        if a is None or b is None:
            found.append(f"{name} (only in {(other if a is None else one).fingerprint})")
        elif name == METRIC_ROWS:
            rows = [[without_times(row) for row in read_jsonl(f / name)] for f in folders]
            found += [name] if not _same(*rows) else []
        elif a[SLOW] != b[SLOW]:
            found.append(name)
    metrics = [without_times(m.metrics) for m in manifests]
    names = sorted(set(metrics[0]) | set(metrics[1]))
    found += [f"metric {n}" for n in names if not _same(metrics[0].get(n), metrics[1].get(n))]
    return found


def without_times(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return metrics but for those that measure time, or a rate per time."""
    return {
        name: value
        for name, value in metrics.items()
        if not name.startswith("time/") and not name.endswith(("_seconds", "_per_second"))
    }


def _same(one: Any, other: Any) -> bool:
    """Return whether two JSON values are alike to the last digit; NaN is like NaN."""
    return repr(one) == repr(other)
