"""Where a store lies and what lies where in it: the only module that knows.

    <store>/artifacts/<kind>/<fingerprint>/   published artifacts (`artifacts.py`)
    <store>/runs/<run>/                       records of runs
    <store>/labels/<questions>/               what people judged
    <store>/accepted/<kind>/                  which artifacts stand for changed code
    <store>/stores/<name>/                    live stores of documents (`rag/store/`)

A stage is given the folder of its own artifact, perhaps an attempt at one (`claims.py`), and finds
everything else of the store from there.
"""

from __future__ import annotations

import os
from pathlib import Path

from plumbrule.store.claims import published_path
from plumbrule.store.manifests import MANIFEST

VARIABLE = "PLUMBRULE_STORE"
ARTIFACTS, RUNS, LABELS = "artifacts", "runs", "labels"
LIVE_STORES = "stores"
NOTEBOOK = "notebook-"
"""Beginning of the id of a notebook's run, which has no folder."""
RUN_RECORD = "run.json"
"""In the folder of a run: what it was and what became of it."""
LOGS = "logs"
"""In the folder of a run: what processes printed that built nodes for it, a file each."""
REPORT_PAGE, REPORT_TEXT = "report.html", "report.md"
TRACEBACK = "failure.txt"
"""In the folder of a run that an error ended which is more than its one line."""


def store_root(given: str | Path | None = None) -> str:
    """Return the store's folder: the one given, $PLUMBRULE_STORE, or the working directory."""
    return str(given or os.environ.get(VARIABLE) or Path.cwd())


def kind_folder(root: Path, kind: str) -> Path:
    """Return where the artifacts of a kind lie, the attempts at them beside."""
    return root / ARTIFACTS / kind


def artifact_folder(root: Path, kind: str, fingerprint: str) -> Path:
    """Return where the artifact of that kind and fingerprint lies or will lie."""
    return kind_folder(root, kind) / fingerprint


def is_artifact_folder(folder: Path) -> bool:
    """Return whether a folder is that of a published artifact in some store."""
    return (folder / MANIFEST).is_file() and folder.parent.parent.name == ARTIFACTS


def artifacts_of(artifact: Path) -> Path:
    """Return the folder of all kinds in which an artifact's folder, or an attempt's, lies."""
    return published_path(artifact).parents[1]


def store_of(artifact: Path) -> Path:
    """Return the store in which an artifact's folder, or an attempt's, lies."""
    return artifacts_of(artifact).parent


def store_of_run(run: Path) -> Path:
    """Return the store in which the record `runs/<name>/<id>/` of a run lies."""
    return run.resolve().parents[2]


def kind_of(artifact: Path) -> str:
    """Return the kind of the artifact in a published folder."""
    return artifact.parent.name


def find_artifact(artifacts: Path, fingerprint: str) -> Path | None:
    """Return the published folder of that fingerprint, whatever its kind; None: there is none.

    Args: artifacts: the folder of all kinds, `artifacts_of` an artifact or a store's `ARTIFACTS`.
    """
    found = sorted(artifacts.glob(f"*/{fingerprint}/{MANIFEST}"))
    return found[0].parent if found else None
