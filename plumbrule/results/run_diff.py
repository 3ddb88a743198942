"""In what two runs differ: settings, data, code, versions, and their metrics with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from plumbrule.errors import ArtifactError
from plumbrule.report.metric_wording import within
from plumbrule.results.store_names import find_run
from plumbrule.results.tables import metrics_of
from plumbrule.store.artifacts import Store
from plumbrule.store.fingerprint import differences
from plumbrule.store.manifests import Manifest, read_manifest

NONE = "none"
"""Shown for what one side lacks."""


class Change(NamedTuple):
    """One thing that differs. a, b: as text."""

    what: str
    a: str
    b: str


class MetricChange(NamedTuple):
    """A metric of both runs; bounds are None where there are none.

    apart: whether the intervals hold no common value; None: one of them is not known. Intervals
    of single runs are over their items: what another seed would give is not in them.
    """

    metric: str
    a: float
    b: float
    bounds_a: tuple[float | None, float | None]
    bounds_b: tuple[float | None, float | None]
    apart: bool | None

    @property
    def difference(self) -> float:
        """What the second has more than the first."""
        return self.b - self.a


class RunDiff(NamedTuple):
    """settings, data, code, versions: what differs. metrics: all that were asked for."""

    settings: Sequence[Change]
    data: Sequence[Change]
    code: Sequence[Change]
    versions: Sequence[Change]
    metrics: Sequence[MetricChange]


def diff(store: Store, first: str, second: str, metrics: Sequence[str] = ()) -> RunDiff:
    """Return in what two runs differ.

    Args: metrics: default: the headline of either.
    Raises: ArtifactError: one of them is no run. ConfigError: a metric that neither has.
    """
    (_, a), (_, b) = (_run(store, what) for what in (first, second))
    nodes = [_manifests(store, record) for record in (a, b)]
    return RunDiff(
        _changes(_settings(a), _settings(b)),
        _data(a, b, *nodes),
        _code(a, b, *nodes),
        _changes(a.get("versions", {}), b.get("versions", {})),
        _metrics(a, b, metrics),
    )


def _run(store: Store, what: str) -> tuple[Path, dict[str, Any]]:
    found = find_run(store, what)
    if found is None:
        raise ArtifactError(
            f"{what!r} must be a run of {store.root}, by its id or folder; plumbrule ls lists them."
        )
    return found


def _settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run without what changes no number."""
    config = dict(record.get("config", {}))
    for name in ("tracking", "executor"):
        config.pop(name, None)
    config["seed"] = record.get("seed")
    return config


def _changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Change]:
    return [Change(key, _value(a, key), _value(b, key)) for key in differences(dict(a), dict(b))]


def _value(config: Mapping[str, Any], key: str) -> str:
    """Return the value of a dotted key; keys of versions may hold dots themselves."""
    if key in config:
        return str(config[key])
    value: Any = config
    for part in key.split("."):
        value = value.get(part, NONE) if isinstance(value, Mapping) else NONE
    return str(value)


def _manifests(store: Store, record: Mapping[str, Any]) -> dict[str, Manifest]:
    """Return the manifests of a run's nodes, of those that are still in the store."""
    found = {}
    for name, node in record.get("nodes", {}).items():
        try:
            found[name] = read_manifest(store.root / node["artifact"])
        except (ArtifactError, OSError):
            continue
    return found


def _data(
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    nodes_a: Mapping[str, Manifest],
    nodes_b: Mapping[str, Manifest],
) -> list[Change]:
    """Return the data nodes whose artifacts differ, with their rows where these are known."""
    changes = []
    for name in _names(a, b):
        about = [record.get("nodes", {}).get(name) for record in (a, b)]
        if not any(node and node["kind"] == "data" for node in about):
            continue
        artifacts = [node["artifact"] if node else NONE for node in about]
        if artifacts[0] != artifacts[1]:
            rows = [
                f" ({int(nodes[name].metrics['data/rows'])} rows)"
                if name in nodes and "data/rows" in nodes[name].metrics
                else ""
                for nodes in (nodes_a, nodes_b)
            ]
            changes.append(Change(name, artifacts[0] + rows[0], artifacts[1] + rows[1]))
    return changes


def _names(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys([*a.get("nodes", {}), *b.get("nodes", {})]))


def _code(
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    nodes_a: Mapping[str, Manifest],
    nodes_b: Mapping[str, Manifest],
) -> list[Change]:
    """Return the commits where they differ, and per node the modules that are not the same."""
    commits = [str(r.get("git", {}).get("commit") or NONE)[:12] for r in (a, b)]
    dirty = [" with changes" if r.get("git", {}).get("dirty") else "" for r in (a, b)]
    said = [c + d for c, d in zip(commits, dirty, strict=True)]
    changes = [Change("commit", *said)] if said[0] != said[1] else []
    for name in _names(a, b):
        if name in nodes_a and name in nodes_b:
            codes = (nodes_a[name].code, nodes_b[name].code)
            for module in sorted({m for code in codes for m in code}):
                hashes = [code.get(module, NONE)[:12] for code in codes]
                if codes[0].get(module) != codes[1].get(module):
                    changes.append(Change(f"{name}: {module}", *hashes))
    return changes


def _metrics(
    a: Mapping[str, Any], b: Mapping[str, Any], asked: Sequence[str]
) -> list[MetricChange]:
    from plumbrule.results.cells import RunCell

    sides = [r.get("metrics", {}) for r in (a, b)]
    cells = [
        RunCell((), "done", metrics=side, headline=tuple(r.get("headline", ())))
        for side, r in zip(sides, (a, b), strict=True)
    ]
    found = []
    for name in metrics_of(cells, asked):
        if all(name in side for side in sides):
            bounds = [within(name, s.get(f"{name}_low"), s.get(f"{name}_high")) for s in sides]
            (low_a, high_a), (low_b, high_b) = bounds
            apart = None
            if None not in (low_a, high_a, low_b, high_b):
                apart = high_a < low_b or high_b < low_a  # type: ignore[operator]
            values = (float(sides[0][name]), float(sides[1][name]))
            found.append(MetricChange(name, *values, bounds[0], bounds[1], apart))
    return found
