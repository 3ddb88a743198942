"""What an archive says of a run, held against itself: digests, and numbers made again of items.

1. Every file is the one that `bundle.json` lists (`archive.unpack`), and that its artifact's
   manifest lists; a file that belongs to no artifact and is none of the run's is named.
2. What item rows give is computed again by the stages' own functions, and every number is compared
   with the published one.
3. The metrics of the run are those of its artifacts.
4. The reports are made again of the artifacts (`reports.py`).

Digests lie beside what they are of, so they find damage, and not whoever changes a file and its
digests together; a number that was changed so is found by 2 to 4 unless its rows were changed too.
"""

from __future__ import annotations

import importlib
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from plumbrule.bundles.archive import Limits, unpack
from plumbrule.bundles.contents import COMMANDS, ENVIRONMENT, GUIDE, environment_of
from plumbrule.bundles.reports import NOT_OURS, ReportCheck, check_reports
from plumbrule.errors import ArtifactError, PlumbruleError
from plumbrule.pipeline.run_record import merge_metrics
from plumbrule.pipeline.stages import STAGES
from plumbrule.results.store_names import read_record
from plumbrule.store.artifacts import Artifact, unlisted
from plumbrule.store.file_names import ITEMS
from plumbrule.store.json_files import read_json, read_jsonl
from plumbrule.store.layout import REPORT_TEXT, RUN_RECORD, RUNS
from plumbrule.store.manifests import MANIFEST, Manifest, read_manifest

TOLERANCE = 1e-9
"""Relative: the same sums by another build of NumPy."""
OF_THE_RUN = ("time/total_seconds",)
"""Metrics of a run that are of no artifact."""


class NodeCheck(NamedTuple):
    """What became of an artifact's numbers. recomputed: how many were made again of items.

    wrong: sentences. unknown: names of numbers that no item gives.
    """

    artifact: str
    recomputed: int
    wrong: Sequence[str]
    unknown: Sequence[str]


class Check(NamedTuple):
    """What a check found. files: with right digests. left_out: sort -> how many files."""

    run: str
    files: int
    left_out: Mapping[str, int]
    nodes: Sequence[NodeCheck]
    reports: ReportCheck
    wrong: Sequence[str]

    @property
    def recomputed(self) -> int:
        """How many numbers were made again of items."""
        return sum(one.recomputed for one in self.nodes)

    @property
    def every_wrong(self) -> list[str]:
        """All that is wrong, a sentence each."""
        said = [line for one in self.nodes for line in one.wrong]
        return [*self.wrong, *said, *self.reports.wrong]


def check_archive(path: Path, limits: Limits | None = None) -> Check:
    """Return what an archive holds and what of it is wrong.

    Raises: ArtifactError: it can't be read or trusted at all, as `unpack`, or lacks a part.
    """
    with tempfile.TemporaryDirectory(prefix="plumbrule-check-") as made:
        root = Path(made) / "unpacked"
        root.mkdir()
        index = unpack(path, root, limits)
        record = read_record(root / index["run"]) if _is_run(index["run"]) else None
        if record is None or record["state"] != "done" or not record.get("nodes"):
            raise ArtifactError(
                f"archive {path} can't be used: it holds no whole record of a run that is "
                "done; get it again from whoever wrote it."
            )
        try:
            return _checked(path, root, Path(made) / "again", index, record)
        except NOT_OURS as error:
            raise ArtifactError(
                f"archive {path} can't be used: it holds what no version wrote "
                f"({type(error).__name__}: {error!s:.120})."
            ) from None


def _checked(
    path: Path, root: Path, again: Path, index: Mapping[str, Any], record: Mapping[str, Any]
) -> Check:
    """Return what an unpacked archive holds and what of it is wrong."""
    manifests: dict[str, Manifest] = {}
    wrong = _beside(root, index, record)
    for where in sorted({node["artifact"] for node in record["nodes"].values()}):
        manifests[where] = _manifest(path, root, where, index)
        wrong += _files(root, where, manifests[where], index["left_out"])
    nodes = [_node(root, where, one, manifests, again) for where, one in manifests.items()]
    wrong += _record(record, manifests)
    sorts = [str(about.get("sort")) for about in index["left_out"].values()]
    left_out = {sort: sorts.count(sort) for sort in sorted({*sorts})}
    reports = check_reports(root, index["run"], record)
    return Check(index["run"], len(index["files"]), left_out, nodes, reports, wrong)


def _beside(root: Path, index: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the files beside the artifacts, and which are not a run's."""
    run, wheres = index["run"], {node["artifact"] for node in record["nodes"].values()}
    own = {ENVIRONMENT, COMMANDS, GUIDE, f"{run}/{RUN_RECORD}", f"{run}/{REPORT_TEXT}"}
    wrong = [
        f"{name} belongs to no artifact of the run"
        for name in sorted({*index["files"]} - own)
        if "/".join(name.split("/")[:3]) not in wheres
        and not (name.startswith(f"{run}/") and name.endswith(".html"))
    ]
    environment = root / ENVIRONMENT
    if not environment.is_file() or read_json(environment) != environment_of(record):
        wrong.append(f"{ENVIRONMENT} is not what {RUN_RECORD} gives")
    return wrong


def _is_run(name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 3 and parts[0] == RUNS and not {"", ".", ".."} & {*parts}


def _manifest(path: Path, root: Path, where: str, index: Mapping[str, Any]) -> Manifest:
    if f"{where}/{MANIFEST}" not in index["files"]:
        raise ArtifactError(
            f"archive {path} can't be used: {where}/{MANIFEST} is missing, which the run names; "
            "get it again from whoever wrote it."
        )
    return read_manifest(root / where)


def _files(root: Path, where: str, manifest: Manifest, left_out: Mapping[str, Any]) -> list[str]:
    """Return where the files of an artifact are not those of its manifest."""
    artifact, wrong = Artifact.at(root / where), []
    for name in manifest.files:
        full = f"{where}/{name}"
        if not (root / full).exists():
            if full not in left_out:
                wrong.append(f"{full} is missing, and is not said to be left out")
            continue
        try:
            artifact.file(name)
        except ArtifactError:
            wrong.append(f"{full} is not the file that {where}/{MANIFEST} lists")
    added = unlisted(root / where, manifest.files)
    return [*wrong, *(f"{where}/{name} is in no manifest" for name in added)]


def _node(
    root: Path, where: str, manifest: Manifest, manifests: Mapping[str, Manifest], again: Path
) -> NodeCheck:
    """Return what became of the numbers of one artifact."""
    every = sorted(manifest.metrics)
    stage = STAGES.get(manifest.kind)
    if stage is None or stage.recompute is None:
        return NodeCheck(where, 0, [], every)
    fingerprints = {one.fingerprint: place for place, one in manifests.items()}
    inputs = {
        slot: Artifact.at(root / fingerprints[fingerprint])
        for slot, fingerprint in manifest.inputs.items()
        if fingerprint in fingerprints
    }
    out = again / where
    out.mkdir(parents=True)
    module, function = stage.recompute.split(":")
    artifact = Artifact.at(root / where)
    try:
        flat = getattr(importlib.import_module(module), function)(artifact, inputs, out)
        wrong, unknown, number = _compared("metrics", flat, manifest.metrics)
        for path in sorted(out.glob("*.json")):
            if artifact.has(path.name):
                found = _compared(path.name, read_json(path), read_json(root / where / path.name))
            else:
                found = [f"{path.name} is missing"], [], 0
            wrong, unknown, number = wrong + found[0], unknown + found[1], number + found[2]
        wrong += _rows(artifact, out)
    except (*NOT_OURS, PlumbruleError, OSError) as error:
        told = f"{type(error).__name__}: {error}".replace(str(root), "<archive>")
        return NodeCheck(where, 0, [f"{where}: its items can't be summarised ({told:.200})"], every)
    return NodeCheck(where, number, [f"{where}: {one}" for one in wrong], unknown)


def _rows(artifact: Artifact, out: Path) -> list[str]:
    """Return where item rows that were made again of other artifacts differ from the published."""
    wrong: list[str] = []
    for path in sorted((out / ITEMS).glob("*.jsonl")):
        name = f"{ITEMS}/{path.name}"
        if artifact.has(name):
            wrong += _compared(name, read_jsonl(path), read_jsonl(artifact.file(name)))[0]
        else:
            wrong.append(f"{name} is missing")
    return wrong


def _compared(name: str, again: Any, published: Any) -> tuple[list[str], list[str], int]:
    """Return what differs, which numbers are published and not made again, and how many agree."""
    ours, theirs = (dict(_leaves(one)) for one in (again, published))
    wrong, same = [], 0
    for key, value in ours.items():
        if key not in theirs:
            wrong.append(f"{name} {key} is missing; its items give {value!r}")
        elif not _is_same(value, theirs[key]):
            wrong.append(f"{name} {key} is {theirs[key]!r:.40}; its items give {value!r:.40}")
        else:
            same += isinstance(value, int | float)
    numbers = [key for key, x in theirs.items() if isinstance(x, int | float) and key not in ours]
    return wrong, [f"{name} {key}" for key in numbers if not _stands_beside(key, theirs)], same


BESIDE = ("confidence", "seed", "num_shots")
"""What stands beside each number of an evaluation, and is a setting."""


def _stands_beside(key: str, every: Mapping[str, Any]) -> bool:
    """Return whether a number is a setting that stands beside a number."""
    above, _, last = key.rpartition(" > ")
    return last in BESIDE and f"{above} > value" in every


def _leaves(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Return (name, value) of each number, text, truth and null inside a value of JSON."""
    if isinstance(value, Mapping):
        parts = [(str(key), one) for key, one in value.items()]
    elif isinstance(value, list):
        parts = [(str(place), one) for place, one in enumerate(value)]
    else:
        return [(prefix, value)]
    return [leaf for key, one in parts for leaf in _leaves(one, f"{prefix} > {key}".lstrip(" >"))]


def _is_same(a: Any, b: Any) -> bool:
    numbers = [x for x in (a, b) if isinstance(x, int | float) and not isinstance(x, bool)]
    if len(numbers) < 2:
        return type(a) is type(b) and a == b
    both_nan = all(math.isnan(x) for x in numbers)
    return both_nan or math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def _record(record: Mapping[str, Any], manifests: Mapping[str, Manifest]) -> list[str]:
    """Return where the metrics of a run are not those of its artifacts."""
    nodes = record["nodes"]
    own = {name: manifests[node["artifact"]].metrics for name, node in nodes.items()}
    merged = merge_metrics(own, {name: node["kind"] for name, node in nodes.items()})
    told = {k: v for k, v in record["metrics"].items() if k not in OF_THE_RUN}
    wrong = [
        f"run.json metrics {name} is {told.get(name)!r}; its artifact has {merged.get(name)!r}"
        for name in sorted({*merged, *told})
        if not _is_same(merged.get(name), told.get(name))
    ]
    for name, node in nodes.items():
        metrics = node.get("metrics", {})
        wrong += [
            f"run.json nodes.{name}.metrics {key} is {metrics.get(key)!r}; its artifact has "
            f"{own[name].get(key)!r}"
            for key in sorted({*metrics, *own[name]})
            if not _is_same(metrics.get(key), own[name].get(key))
        ]
    return wrong
