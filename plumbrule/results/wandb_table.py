"""The table of a gathered sweep as a W&B artifact, offline where W&B is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from plumbrule.results.formats import TABLE
from plumbrule.results.gathered import Gathered
from plumbrule.tracking.wandb_run import safe_id
from plumbrule.tracking.wandb_start import start_run


def send(found: Gathered, folder: Path, say: Callable[[str], None]) -> None:
    """Log the files of `folder` as an artifact of a run, and the table as one of W&B's.

    The project is that of the cells' runs, where they say one.
    """
    import wandb

    sections = [cell.record.get("config", {}).get("tracking", {}) for cell in found.cells]
    about: Mapping[str, Any] = next((section for section in sections if section), {})
    run = start_run(
        say,
        project=about.get("project", "plumbrule"),
        entity=about.get("entity"),
        id=safe_id(f"gather-{found.name}")[:120],
        name=f"gather {found.name}",
        job_type="gather",
        dir=str(folder),
    )
    artifact = wandb.Artifact(safe_id(f"gathered-{found.name}")[:120], type="table")
    for path in sorted(folder.iterdir()):
        if path.is_file():
            artifact.add_file(str(path))
    run.log_artifact(artifact)
    run.log({TABLE: wandb.Table(dataframe=found.table)})
    run.finish()
