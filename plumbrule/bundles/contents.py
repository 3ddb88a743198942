"""Which files of a run an archive holds, and what of them is changed before others get them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from markupsafe import escape

from plumbrule.bundles.archive import write_archive
from plumbrule.bundles.scrub import Scrubber, require_no_secret
from plumbrule.errors import ArtifactError
from plumbrule.report.contents import command_of
from plumbrule.store.artifacts import Artifact, Store
from plumbrule.store.content_digests import SLOW
from plumbrule.store.file_names import (
    HEAD,
    JUDGEMENTS,
    MODEL,
    PEOPLES_LABELS,
    QUESTIONS,
    RECORDS,
    REPLIES,
    ROLLOUTS,
    STATE,
    VALIDATION,
    VALUE,
)
from plumbrule.store.layout import RUN_RECORD, RUNS
from plumbrule.store.manifests import MANIFEST, file_damage, read_manifest, signed

WEIGHTS, DATA = "weights", "data"
_WEIGHTS = (MODEL, VALUE, STATE, HEAD, "encoder", "vectors", "bm25", "index.faiss")
"""Files and folders of models, and of an index, which is made of one."""
_DATA = (
    *(RECORDS, VALIDATION, QUESTIONS, PEOPLES_LABELS, JUDGEMENTS, REPLIES, ROLLOUTS),
    *("passages.jsonl", "asked.jsonl"),
)
_INDEXED = "index"
_PACKED = (".safetensors", ".faiss", ".npy", ".npz", ".parquet", ".pt")
"""Endings of files in which no text can be looked for."""
ENVIRONMENT, COMMANDS, GUIDE = "environment.json", "commands.txt", "README.txt"
_GUIDE = """One run of Plumbrule for a reader who wants to check it.

{run}/run.json      settings, metrics and nodes
{run}/report.html   the report; report.md is the same as text
artifacts/          of each node its manifest (settings, code, inputs, digests) and what it
                    measured, items/*.jsonl with a row for each item
environment.json    versions, commit and machine
commands.txt        how it was made and how it is made again
bundle.json         every file with its size and sha256, and what was left out

`plumbrule check <this archive>` verifies all hashes and computes the tables again from the items.
"""


class Bundle(NamedTuple):
    """A written archive. files: how many it holds. left_out: how many files of each sort it does
    not.
    """

    path: Path
    sha256: str
    files: int
    left_out: Mapping[str, int]


def write_bundle(
    store: Store,
    folder: Path,
    record: Mapping[str, Any],
    to: Path,
    weights: bool = False,
    data: bool = False,
) -> Bundle:
    """Write the archive of a run.

    Args: folder, record: of the run. to: the archive. weights: models and indexes, too. data:
    records, passages and rollouts, too.
    Raises: ArtifactError: the run is not done, an artifact of it is gone or damaged, or a file
    holds what looks like a secret.
    """
    if record["state"] != "done":
        raise ArtifactError(
            f"run {folder.name} must be done to be bundled, and is {record['state']}; run it again."
        )
    scrubber = Scrubber(store.root)
    files: dict[str, bytes | Path] = {}
    left_out: dict[str, dict[str, Any]] = {}
    for where in sorted({node["artifact"] for node in record["nodes"].values()}):
        _add_artifact(store.root / where, where, scrubber, files, left_out, weights, data)
    run = f"{RUNS}/{folder.parent.name}/{folder.name}"
    _add_run(folder, run, record, scrubber, files)
    for name, content in files.items():
        if isinstance(content, bytes) or not name.endswith(_PACKED):
            whole = content if isinstance(content, bytes) else content.read_bytes()
            require_no_secret(name, whole)
    sorts = [about["sort"] for about in left_out.values()]
    digest = write_archive(to, files, {"run": run, "left_out": dict(sorted(left_out.items()))})
    return Bundle(to, digest, len(files), {sort: sorts.count(sort) for sort in sorted({*sorts})})


def sort_of(name: str, kind: str) -> str:
    """Return what a file of an artifact is: `weights`, `data`, or "" for what always goes along."""
    top = PurePosixPath(name).parts[0]
    if top in _WEIGHTS or name.endswith((".safetensors", ".faiss", ".npy")):
        return WEIGHTS
    if top in _DATA or name.endswith(".parquet") or (kind == _INDEXED and name.endswith(".jsonl")):
        return DATA
    return ""


def _add_artifact(
    folder: Path,
    where: str,
    scrubber: Scrubber,
    files: dict[str, bytes | Path],
    left_out: dict[str, dict[str, Any]],
    weights: bool,
    data: bool,
) -> None:
    """Add what goes along of an artifact, each file checked, and note what does not."""
    try:
        manifest = read_manifest(folder)
    except FileNotFoundError:
        raise ArtifactError(
            f"{where} must be in the store, and is gone; build it again: plumbrule rerun <run>."
        ) from None
    artifact = Artifact.at(folder)
    for name, about in manifest.files.items():
        sort = sort_of(name, manifest.kind)
        if (sort == WEIGHTS and not weights) or (sort == DATA and not data):
            left_out[f"{where}/{name}"] = {
                "sort": sort,
                "size": about["size"],
                "sha256": about[SLOW],
            }
            continue
        path = artifact.file(name)
        if found := file_damage(path, about, SLOW):
            raise ArtifactError(f"{where} is damaged: {name} {found}; build it again.")
        files[f"{where}/{name}"] = path
    whole = json.loads((folder / MANIFEST).read_bytes())
    whole.pop("digest", None)
    told = scrubber.value(whole) | {"built_by": "", "files": whole["files"]}
    files[f"{where}/{MANIFEST}"] = signed(told).encode()


def _add_run(
    folder: Path,
    run: str,
    record: Mapping[str, Any],
    scrubber: Scrubber,
    files: dict[str, bytes | Path],
) -> None:
    """Add the record of a run, its reports and pages, and what is said of how it was made."""
    told = scrubber.value(dict(record))
    told["overrides"] = [scrubber.word(word) for word in record["overrides"]]
    told.pop("log", None)
    files[f"{run}/{RUN_RECORD}"] = _as_json(told)
    words = list(zip(record["overrides"], told["overrides"], strict=True))
    before, after = (command_of(one["overrides"]) for one in (record, told))
    changed = {before: after, **{old: new for old, new in words if old != new}}
    for path in sorted([*folder.glob("*.html"), *folder.glob("report.md")]):
        text = path.read_text(encoding="utf-8")
        for old, new in changed.items():  # the whole command first: it quotes what it holds
            is_page = path.suffix == ".html"
            text = text.replace(*((str(escape(old)), str(escape(new))) if is_page else (old, new)))
        files[f"{run}/{path.name}"] = scrubber.text(text).encode()
    files[ENVIRONMENT] = _as_json(environment_of(told))
    own = [
        command_of(told["overrides"]),
        f"plumbrule rerun {folder.name}",
        "plumbrule check <this>",
    ]
    files[COMMANDS] = "".join(f"{line}\n" for line in own).encode()
    files[GUIDE] = _GUIDE.format(run=run).encode()


def environment_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `environment.json` holds: commit, versions and the machine of each node."""
    hardware = {name: node.get("hardware", {}) for name, node in record["nodes"].items()}
    return {"git": record.get("git", {}), "versions": record.get("versions", {})} | {
        "hardware": hardware
    }


def _as_json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
