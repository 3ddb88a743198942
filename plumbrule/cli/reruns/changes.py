"""What differs between a recorded run and what its rerun would be, before anything is built."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from plumbrule.cli.reruns.recompose import DEFAULT, NEW, Recomposed, SettingChange
from plumbrule.errors import ArtifactError, listed
from plumbrule.machine import environment
from plumbrule.pipeline.plan import Planned
from plumbrule.results.formats import aligned
from plumbrule.results.run_diff import NONE, Change
from plumbrule.store.artifacts import Store
from plumbrule.store.fingerprint import differences
from plumbrule.store.layout import ARTIFACTS
from plumbrule.store.manifests import Manifest, read_manifest
from plumbrule.store.source_files import is_hub_data

MOST_MODULES = 8
"""Changed modules that are named."""
MOST_NEW = 8
"""New settings that are named; of more, how many each section has."""


class RerunChanges(NamedTuple):
    """What differs from then to now. same: nodes with the fingerprint that they had; nodes: all.

    unknown: sentences on what can't be compared.
    """

    settings: Sequence[SettingChange]
    data: Sequence[Change]
    code: Sequence[Change]
    versions: Sequence[Change]
    machine: Sequence[Change]
    same: int
    nodes: int
    unknown: Sequence[str]


def changes_of(
    store: Store, record: Mapping[str, Any], again: Recomposed, plan: Sequence[Planned]
) -> RerunChanges:
    """Return what differs. Args: store: of the recorded run. plan: of the rerun."""
    nodes = record.get("nodes", {})
    manifests, unknown = _manifests(store, nodes)
    if not nodes:
        unknown.append(
            f"the run is {record['state']}, so its record names no artifacts: data and modules "
            "can't be compared"
        )
    if "config" not in record:
        unknown.append("the record holds no settings: defaults can't be compared")
    planned = {one.node.name: one for one in plan}
    same = sum(
        nodes[name]["artifact"] == f"{ARTIFACTS}/{one.node.kind}/{one.fingerprint}"
        for name, one in planned.items()
        if name in nodes
    )
    return RerunChanges(
        again.settings,
        _data(nodes, manifests, planned),
        [*_commit(record), *_modules(manifests, planned)],
        [
            Change(name, *pair)
            for name, pair in environment.changed_versions(record.get("versions", {})).items()
        ],
        _machine(nodes),
        same,
        len(plan),
        unknown,
    )


def lines(found: RerunChanges) -> list[str]:
    """Return what is printed: a part for each kind of difference, the same ones named."""
    said = [f"settings{'' if found.settings else ': the same'}"]
    new = [one.setting for one in found.settings if one.why == NEW]
    listed_ones = [one for one in found.settings if one.why != NEW or len(new) <= MOST_NEW]
    said += aligned(
        [
            (f"  {one.setting}", _one_line(one.then), "->", _one_line(one.now), _told(one))
            for one in listed_ones
        ]
    )
    if len(new) > MOST_NEW:
        sections = Counter(name.partition(".")[0] for name in new)
        told = ", ".join(f"{section} {number}" for section, number in sorted(sections.items()))
        said.append(f"  {len(new)} are new and have their defaults: {told}")
    for name in ("data", "code", "versions", "machine"):
        changes = getattr(found, name)
        said.append(f"{name}{'' if changes else ': the same'}")
        said += aligned([(f"  {one.what}", one.a, "->", one.b) for one in changes])
    said += [f"not compared: {one}" for one in found.unknown]
    return [*said, f"{found.same} of {found.nodes} nodes are the artifacts that the run had"]


def _one_line(text: str) -> str:
    """Return a value with its line breaks as Python writes them, so that a row stays one line."""
    return text.replace("\n", "\\n")


def _told(one: SettingChange) -> str:
    if one.why != DEFAULT:
        return one.why
    return f"{one.why}; {'the rerun has it as then' if one.kept else 'it can not be set back'}"


def _manifests(
    store: Store, nodes: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Manifest], list[str]]:
    """Return the manifests of recorded nodes, and a sentence on each that is gone or damaged."""
    found, unknown = {}, []
    for name, node in nodes.items():
        try:
            found[name] = read_manifest(store.root / node["artifact"])
        except (ArtifactError, OSError):
            unknown.append(f"{name}: {node['artifact']} is gone or damaged")
    return found, unknown


def _data(
    nodes: Mapping[str, Mapping[str, Any]],
    manifests: Mapping[str, Manifest],
    planned: Mapping[str, Planned],
) -> list[Change]:
    """Return the data nodes that are not the artifacts that they were, and by which settings.

    A path counts by a digest of its files, so a changed file shows as another `content:`.
    """
    found = []
    for name, node in nodes.items():
        now = planned.get(name)
        if node["kind"] != "data":
            continue
        then = node["artifact"].removeprefix(f"{ARTIFACTS}/")
        if now is None:
            found.append(Change(name, then, NONE))
        elif then != f"data/{now.fingerprint}":
            found.append(Change(name, then, f"data/{now.fingerprint}"))
            if name in manifests:
                old = manifests[name].config
                keys = differences(dict(old), dict(now.config))
                found += [
                    Change(f"  {name}: {key}", _value(old, key), _value(now.config, key))
                    for key in keys
                ]
    return found


def missing_data(store: Store, record: Mapping[str, Any]) -> str:
    """Return a sentence on the digests of the files that a run read, where one of them is gone."""
    config = record.get("config", {})
    sources = [config.get("dataset"), *(config.get("data") or {}).values()]
    paths = [one.get("path") for one in sources if isinstance(one, Mapping)]
    if all(path is None or is_hub_data(path) or Path(path).exists() for path in paths):
        return ""
    nodes = record.get("nodes", {})
    manifests, _ = _manifests(store, nodes)
    read = [
        f"{value} ({name})"
        for name, one in manifests.items()
        if (value := _value(one.config, "dataset.path")).startswith("content:")
    ]
    told = f"The run read {listed(read)}; files are the same data where they have that digest."
    return told if read else ""


def _value(config: Mapping[str, Any], key: str) -> str:
    value: Any = config
    for part in key.split("."):
        value = value.get(part, NONE) if isinstance(value, Mapping) else NONE
    return str(value)


def _commit(record: Mapping[str, Any]) -> list[Change]:
    git, here = record.get("git") or {}, environment.git_state()
    said = [_describe_commit(one) for one in (git, here)]
    if said[0] != said[1]:
        return [Change("commit", *said)]
    if git.get("dirty"):
        return [Change("uncommitted changes", "then", "now, perhaps others")]
    return []


def _describe_commit(git: Mapping[str, Any]) -> str:
    if not git.get("commit"):
        return NONE
    return str(git["commit"])[:12] + (" with uncommitted changes" if git.get("dirty") else "")


def _modules(manifests: Mapping[str, Manifest], planned: Mapping[str, Planned]) -> list[Change]:
    """Return the modules whose code differs, with the nodes that reach them."""
    users: dict[str, list[str]] = {}
    for name, old in manifests.items():
        now = planned.get(name)
        if now is None or not now.code:
            continue
        for module in sorted({*old.code, *now.code}):
            if old.code.get(module) != now.code.get(module):
                users.setdefault(module, []).append(name)
    shown = [
        Change(module, "changed for", ", ".join(names))
        for module, names in sorted(users.items())[:MOST_MODULES]
    ]
    if len(users) > MOST_MODULES:
        shown.append(Change(f"{len(users) - MOST_MODULES} more modules", "changed for", "others"))
    return shown


def _machine(nodes: Mapping[str, Mapping[str, Any]]) -> list[Change]:
    """Return in what the processor differs from those that built the recorded artifacts."""
    here = environment.compared()
    found: dict[str, set[str]] = {}
    for node in nodes.values():
        hardware = node.get("hardware") or {}
        for name in ("processor", "instructions"):
            if name in hardware and str(hardware[name]) != str(here[name]):
                found.setdefault(name, set()).add(str(hardware[name]))
    return [
        Change(name, " and ".join(sorted(then)), str(here[name])) for name, then in found.items()
    ]
