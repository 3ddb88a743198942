"""Verbs: what is asked of a store rather than composed by Hydra.

`plumbrule ls` lists runs and artifacts, `plumbrule show <run or artifact>` prints one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plumbrule.artifacts import MANIFEST, Store, read_manifest
from plumbrule.errors import ArtifactError

VERBS = ("ls", "show")


def main(arguments: Sequence[str]) -> int:
    """Run one verb and return the exit code."""
    parser = argparse.ArgumentParser(prog="plumbrule", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    ls = verbs.add_parser("ls", help="list runs, newest last, or artifacts with --artifacts")
    ls.add_argument("--artifacts", action="store_true")
    show = verbs.add_parser("show", help="print a run or an artifact")
    show.add_argument("what", help="a run folder or its id, or an artifact's fingerprint")
    show.add_argument("--verify", action="store_true", help="check every file's sha256")
    for sub in (ls, show):
        sub.add_argument("--store", default=None, help="default: $PLUMBRULE_STORE, else here")
        sub.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    store = Store(options.store or os.environ.get("PLUMBRULE_STORE") or Path.cwd())
    if options.verb == "show":
        _show(store, options.what, options.json, options.verify)
    elif options.artifacts:
        _list_artifacts(store, options.json)
    else:
        _list_runs(store, options.json)
    return 0


def runs(store: Store) -> list[tuple[Path, dict[str, Any]]]:
    """Return (folder, record) of every run of the store, oldest first."""
    found = []
    for path in store.root.glob("runs/*/*/run.json"):
        try:
            found.append((path.parent, json.loads(path.read_text(encoding="utf-8"))))
        except json.JSONDecodeError:
            continue
    return sorted(found, key=lambda item: item[0].name)


def _list_runs(store: Store, as_json: bool) -> None:
    found = runs(store)
    if as_json:
        print(json.dumps([{**r, "folder": str(f.relative_to(store.root))} for f, r in found]))
        return
    for folder, record in found:
        seconds = record.get("metrics", {}).get("time/total_seconds")
        took = "" if seconds is None else f"{seconds:8.1f} s"
        overrides = " ".join(record["overrides"])
        print(f"{folder.relative_to(store.root)}  {record['state']:<8}{took:>10}  {overrides}")
    if not found:
        print(f"no runs under {store.root / 'runs'}")


def _list_artifacts(store: Store, as_json: bool) -> None:
    manifests = store.manifests()
    if as_json:
        rows = [{"kind": m.kind, "node": m.node, "fingerprint": m.fingerprint} for m in manifests]
        print(json.dumps(rows))
        return
    for m in manifests:
        size = sum(int(about["size"]) for about in m.files.values())
        print(
            f"{m.kind}/{m.fingerprint}  {m.node:<16} {size / 1e6:9.2f} MB {m.wall_seconds:8.1f} s"
        )


def _show_run(folder: Path, record: dict[str, Any], as_json: bool) -> None:
    """Print a run's report, or what is known of one that did not finish."""
    report = folder / "report.md"
    if report.is_file() and not as_json:
        print(report.read_text(encoding="utf-8"))
        return
    if not as_json:
        print(f"{record['state']}: {record.get('error', 'no report yet')}", file=sys.stderr)
    print(json.dumps(record, indent=1))


def _show(store: Store, what: str, as_json: bool, verify: bool) -> None:
    """Print the run or artifact that `what` names.

    Raises: ArtifactError: none does, or several do, or (verify) its content has changed.
    """
    for folder, record in runs(store):
        names = (folder.name, str(folder.relative_to(store.root)))
        if what in names or Path(what).resolve() == folder:
            _show_run(folder, record, as_json)
            return
    found = [p.parent for p in store.root.glob(f"artifacts/*/*/{MANIFEST}")]
    found = [p for p in found if p.name.startswith(what) or f"{p.parent.name}/{p.name}" == what]
    if len(found) != 1:
        state = "no run or artifact" if not found else f"{len(found)} artifacts"
        raise ArtifactError(f"{what!r} names {state} in {store.root}; see plumbrule ls.")
    manifest = read_manifest(found[0], (found[0] / MANIFEST).read_text(encoding="utf-8"))
    if verify:
        store.verify(manifest.kind, manifest.fingerprint)
        print(f"{len(manifest.files)} files have the sha256 of the manifest", file=sys.stderr)
    print(json.dumps(manifest.__dict__, indent=1))
