"""What came out of a paper's claims, kept as JSON: one small file per paper, to be committed.

A claim is kept with its expression, and a scale with what its runs and claims are made of, so that
a page can say where they have changed since.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from plumbrule.errors import ArtifactError
from plumbrule.papers.outcomes import Checked, ClaimOutcome
from plumbrule.papers.paper import PaperScale
from plumbrule.papers.runs_of_paper import DONE, PaperRun
from plumbrule.papers.sweep_words import command_words
from plumbrule.store.json_files import read_json, write_json

SIGNIFICANT = 6
"""Digits of a number that are kept."""


def as_result(checked: Checked) -> dict[str, Any]:
    """Return a checked scale in the form of its file."""
    done = [run for run in checked.runs if run.state == DONE]
    return {
        "command": command_words(checked.paper, checked.scale),
        "date": max((_date(run) for run in done), default=None),
        "hardware": sorted({_hardware(run) for run in done} - {""}),
        "code": sorted({_code(run) for run in done} - {""}),
        "runs": {"done": len(done), "of": len(checked.runs)},
        "made_of": made_of(checked.scale),
        "claims": [_claim(outcome) for outcome in checked.outcomes],
    }


def made_of(scale: PaperScale) -> dict[str, Any]:
    """Return by what the runs of a scale, and the names in its claims, are what they are."""
    return {
        "experiment": scale.experiment,
        "settings": [setting.override for setting in scale.settings],
        "seeds": list(scale.seeds),
        "arms": {arm: list(words) for arm, words in scale.arms.items()},
        "definitions": dict(scale.definitions),
    }


def changed_since(scale: PaperScale, result: Mapping[str, Any]) -> list[str]:
    """Return the parts of a scale that are not as they were when it was checked.

    An arm or a definition that was added changes no claim that was there.
    """
    then, now = result.get("made_of", {}), made_of(scale)
    return [
        name
        for name, value in then.items()
        if (
            any(now[name].get(key) != one for key, one in value.items())
            if isinstance(value, dict)
            else now[name] != value
        )
    ]


def _claim(outcome: ClaimOutcome) -> dict[str, Any]:
    claim = outcome.claim
    return {
        "text": claim.text,
        "expression": claim.expression,
        "tolerance": claim.tolerance,
        "verdict": outcome.verdict,
        "reason": outcome.reason,
        "seeds": list(outcome.seeds),
        "parts": [_rounded(part.as_json()) for part in outcome.parts],
    }


def _rounded(part: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: float(f"{value:.{SIGNIFICANT}g}") if isinstance(value, float) else value
        for key, value in part.items()
    }


def _date(run: PaperRun) -> str:
    """Return the day of a run as 2026-01-31, from its id."""
    day = str(run.record.get("id", ""))[:8]
    return f"{day[:4]}-{day[4:6]}-{day[6:]}" if day.isdigit() else ""


def _code(run: PaperRun) -> str:
    """Return the commit that a run was made with, and whether the tree differed from it."""
    git = run.record.get("git", {})
    return f"{str(git.get('commit', ''))[:12]}{' with changes' if git.get('dirty') else ''}"


def _hardware(run: PaperRun) -> str:
    """Return what the newest nodes of a run were built on, in words."""
    found = [n.get("hardware") or {} for n in run.record.get("nodes", {}).values()]
    about: Mapping[str, Any] = next((one for one in reversed(found) if one.get("processor")), {})
    if not about:
        return ""
    device = about.get("accelerator") or f"{about.get('cores', '?')} cores of {about['processor']}"
    return f"{device}, {about.get('memory_gib', '?')} GiB"


def write_result(folder: Path, checked: Checked) -> Path:
    """Write a checked scale into its paper's file, in which the other scale stays; return the path.

    Raises: ArtifactError: the file that is there can't be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{checked.paper.name}.json"
    known = read_results(folder, [checked.paper.name])[checked.paper.name]
    write_json(path, {**known, checked.scale.name: as_result(checked)})
    return path


def read_results(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return paper -> scale -> what its file holds; {} where a paper has none.

    Raises: ArtifactError: a file can't be read.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        path = folder / f"{name}.json"
        try:
            read = read_json(path) if path.is_file() else {}
        except (OSError, ValueError, RecursionError) as error:
            raise ArtifactError(f"{path} must be JSON that check wrote; {error}.") from None
        if not isinstance(read, dict):
            raise ArtifactError(f"{path} must be a JSON object; remove it and check again.")
        found[name] = read
    return found
