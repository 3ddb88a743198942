"""What a person may call a run or an artifact of a store, and which one that is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plumbrule.errors import ArtifactError, listed
from plumbrule.report.contents import command_of
from plumbrule.results.nearest_names import nearest
from plumbrule.store.artifacts import Store
from plumbrule.store.json_files import read_json
from plumbrule.store.layout import RUN_RECORD, RUNS
from plumbrule.store.manifests import MANIFEST, Manifest, read_manifest, require_numbers


def runs(store: Store) -> list[tuple[Path, dict[str, Any]]]:
    """Return (folder, record) of every run of the store, oldest first."""
    found = []
    for path in store.root.glob(f"{RUNS}/*/*/{RUN_RECORD}"):
        record = read_record(path.parent)
        if record is not None:
            found.append((path.parent, record))
    return sorted(found, key=lambda item: item[0].name)


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return the record of a run, also of an earlier version; None: it is missing or damaged."""
    try:
        record = read_json(folder / RUN_RECORD)
        _require_types(record)
    except (OSError, ValueError, RecursionError):
        return None
    return {"overrides": [], "state": "unknown", **record}


def _require_types(record: Any) -> None:
    """Raise ValueError unless a run's record has the types that are read of it."""
    require_numbers(_object(record).get("metrics", {}), "metrics")
    _require_texts(
        [record.get(name, "") for name in ("name", "id", "state", "error", "awaits", "log")]
    )
    for name in ("overrides", "notes", "headline"):
        _require_texts(record.get(name, []))
    section = _object(_object(record.get("config", {})).get("run", {}))
    _require_texts([section.get("only") or ""])
    _require_texts(section.get("goals", []))
    for node in map(_object, _object(record.get("nodes", {})).values()):
        _require_texts([node.get(name) for name in ("kind", "state", "artifact")])
        if not re.fullmatch(r"artifacts/[^/\0]+/[^/\0]+", node["artifact"]):
            raise ValueError(f"{node['artifact']!r:.80} is no artifact of a store")


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _require_texts(values: Any) -> None:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError("not a list of texts")


def find_run(store: Store, what: str) -> tuple[Path, dict[str, Any]] | None:
    """Return the folder and the record of the run that `what` names, if one does."""
    for folder, record in runs(store):
        names = (folder.name, str(folder.relative_to(store.root)))
        if what in names or Path(what).resolve() == folder:
            return folder, record
    return None


def one_run(store: Store, what: str) -> tuple[Path, dict[str, Any]]:
    """Return the folder and the record of the one run that `what` names.

    Args: what: its id or the beginning of it, `<name>/<id>`, its folder, or a name that one run
    alone has.
    Raises: ArtifactError: no run is called so, several are, or the one that is has a damaged
    record.
    """
    path = Path(what).resolve()
    every = sorted(one for one in store.root.glob(f"{RUNS}/*/*") if (one / RUN_RECORD).exists())
    named = {folder: f"{folder.parent.name}/{folder.name}" for folder in every}
    short = what.rstrip("/").removeprefix(f"{RUNS}/")
    exact = [f for f in every if path == f or short in (named[f], f.name)]
    close = [f for f in every if short in (f.parent.name,) or f.name.startswith(short or "/")]
    found = exact or close
    if not found:
        if path.is_dir() and path.parent.parent == store.root / RUNS:
            raise ArtifactError(f"{path} must hold {RUN_RECORD}, and holds none; run it again.")
        raise ArtifactError(
            f"{what!r} must be a run of {store.root}, by its id or folder; "
            f"{nearest(short, [*named.values(), *dict.fromkeys(f.parent.name for f in every)])}"
        )
    if len(found) > 1:
        newest = [named[folder] for folder in sorted(found, key=lambda f: f.name, reverse=True)]
        raise ArtifactError(
            f"{what!r} must name one run, and {len(found)} are called so: "
            f"{listed(newest, 6)}; name one of them by its id."
        )
    record = read_record(found[0])
    if record is None:
        raise ArtifactError(
            f"{found[0] / RUN_RECORD} is damaged: it is no record of a run; put it back from a "
            "copy, or run the command again."
        )
    return found[0], record


def find_artifact(store: Store, what: str) -> Manifest:
    """Return the manifest of the artifact that `what` names.

    Args: what: the beginning of a fingerprint, by itself, behind `<kind>/` or behind
    `artifacts/<kind>/`; or the artifact's folder.
    Raises: ArtifactError: nothing is called so, or several are.
    """
    kind, _, begins = what.rstrip("/").removeprefix("artifacts/").rpartition("/")
    folders = [path.parent for path in store.root.glob(f"artifacts/*/*/{MANIFEST}")]
    found = [
        folder
        for folder in folders
        if (begins and folder.name.startswith(begins) and kind in ("", folder.parent.name))
        or Path(what).resolve() == folder
    ]
    if not found:
        raise ArtifactError(
            f"nothing is called {what!r} in {store.root}; a run is named by its id, an artifact by "
            "its fingerprint: plumbrule ls lists runs, plumbrule ls --artifacts artifacts."
        )
    if len(found) > 1:
        names = listed(sorted(f"{f.parent.name}/{f.name}" for f in found), 6)
        raise ArtifactError(f"{what!r} must name one artifact, not {len(found)} ({names}).")
    return read_manifest(found[0])


def pasted(record: Mapping[str, Any]) -> str:
    """Return the command of a run as it can be pasted."""
    return command_of(record["overrides"])
