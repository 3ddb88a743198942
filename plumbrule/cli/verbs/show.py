"""`plumbrule show`: a run in a few lines, its whole report, or an artifact's manifest."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from plumbrule.cli.verbs import add_store, store_of
from plumbrule.pipeline.stages import STAGES
from plumbrule.report.metric_wording import bounds_text, describe
from plumbrule.results.store_names import find_artifact, find_run, pasted
from plumbrule.results.tags import read_tags
from plumbrule.store.artifacts import Store
from plumbrule.store.layout import REPORT_PAGE, REPORT_TEXT, TRACEBACK


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what may stand behind the verb."""
    parser.add_argument("what", help="a run's folder or id, or the beginning of a fingerprint")
    parser.add_argument("--full", action="store_true", help="the whole report, or all code hashes")
    parser.add_argument("--verify", action="store_true", help="check every file's sha256")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_store(parser)


def run(options: argparse.Namespace) -> None:
    """Print the run or artifact. Raises: as `show_what`."""
    show_what(store_of(options), options.what, options.json, options.verify, options.full)


def show_what(store: Store, what: str, as_json: bool, verify: bool, full: bool) -> None:
    """Print the run or artifact that `what` names.

    Args: verify: hold each file against its sha256 first. full: all of it.
    Raises: ArtifactError: nothing or several are called so, or (verify) content has changed.
    """
    found = find_run(store, what)
    if found is not None:
        folder, record = found
        if verify:
            _verify_run(store, record)
        _show_run(folder, record, as_json, full)
        return
    manifest = find_artifact(store, what)
    if verify:
        store.verify(manifest.kind, manifest.fingerprint)
        print(
            f"verified: {len(manifest.files)} files of {manifest.kind}/{manifest.fingerprint} have "
            "the sha256 of its manifest",
            file=sys.stderr,
        )
    about = asdict(manifest)
    if not full:
        about["code"] = f"{len(manifest.code)} modules; --full lists them"
    print(json.dumps(about, indent=1))


def _verify_run(store: Store, record: Mapping[str, Any]) -> None:
    """Check the artifacts of a run's nodes and say what was checked. Raises: ArtifactError."""
    artifacts = {node["artifact"] for node in record.get("nodes", {}).values()}
    num_files = 0
    for name in sorted(artifacts):
        _, kind, fingerprint = name.split("/")
        manifest = find_artifact(store, f"{kind}/{fingerprint}")
        store.verify(kind, fingerprint)
        num_files += len(manifest.files)
    print(
        f"verified: {num_files} files of the run's {len(artifacts)} artifacts have the sha256 of "
        "their manifests"
        if artifacts
        else "verified: nothing; a run that did not end names no artifacts",
        file=sys.stderr,
    )


def _show_run(folder: Path, record: Mapping[str, Any], as_json: bool, full: bool) -> None:
    report = folder / REPORT_TEXT
    if as_json:
        print(json.dumps(record, indent=1))
    elif full and report.is_file():
        print(report.read_text(encoding="utf-8"))
    else:
        print("\n".join(summary(folder, record)))
        if full:
            print(json.dumps(record, indent=1))


def summary(folder: Path, record: Mapping[str, Any]) -> list[str]:
    """Return the lines that tell of a run: state, command, goals, headlines, its report's path."""
    metrics = record.get("metrics", {})
    seconds = metrics.get("time/total_seconds")
    took = "" if seconds is None else f", {seconds:.1f} s"
    lines = [f"run      {record.get('name', folder.parent.name)}/{folder.name}"]
    lines += [f"state    {record['state']}{took}"]
    lines += [f"tags     {' '.join(tags)}"] if (tags := read_tags(folder)) else []
    lines += [f"command  {pasted(record)}"]
    section = record.get("config", {}).get("run", {})
    goals = [section["only"]] if section.get("only") else section.get("goals", [])
    lines += [f"goals    {', '.join(goals)}"] if goals else []
    lines += [f"note     {note}" for note in record.get("notes", [])]
    lines += [f"error    {record['error']}"] if "error" in record else []
    lines += [f"waits    for {record['awaits']}"] if "awaits" in record else []
    nodes = record.get("nodes", {})
    built = sum(node["state"] in ("built", "resumed") for node in nodes.values())
    lines += [f"nodes    {built} built, {len(nodes) - built} cached"] if nodes else []
    headline = [name for name in record.get("headline", []) if name in metrics]
    width = max(map(len, headline), default=0)
    for name in headline:
        interval = bounds_text(name, metrics)
        unit = describe(name)[0]
        lines.append(
            f"  {name:<{width}}  {metrics[name]:.4g}{interval}" + (f"  {unit}" if unit else "")
        )
    lines += policy_lines(folder, nodes)
    files = [path for path in (REPORT_PAGE, TRACEBACK) if (folder / path).is_file()]
    lines += [f"{Path(path).stem:<8} {folder / path}" for path in files]
    if (folder / REPORT_TEXT).is_file():
        lines.append(f"all of it: plumbrule show {folder.name} --full")
    return lines


def policy_lines(folder: Path, nodes: Mapping[str, Any]) -> list[str]:
    """Return a line for each policy that the run's nodes made: its Hugging Face folder."""
    artifacts = {name: Path(node["artifact"]) for name, node in nodes.items()}
    policies = {
        name: folder.parents[2] / path / "model"
        for name, path in artifacts.items()
        if path.parent.name in STAGES and STAGES[path.parent.name].makes_policy
    }
    width = max(map(len, policies), default=0)
    return [f"policy   {name:<{width}}  {model}" for name, model in policies.items()]
