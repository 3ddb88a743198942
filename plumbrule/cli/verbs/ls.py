"""`plumbrule ls`: runs, newest last, and artifacts with what tells them apart."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from plumbrule.cli.verbs import add_store, store_of
from plumbrule.errors import ConfigError
from plumbrule.pipeline.stages import STAGES
from plumbrule.report.sweep_table import label_words
from plumbrule.results.cells import zipped_of
from plumbrule.results.store_names import pasted, runs
from plumbrule.results.tags import read_tags
from plumbrule.store.artifacts import Store
from plumbrule.store.fingerprint import differences, hashed_config
from plumbrule.store.manifests import Manifest

Run = tuple[Path, Mapping[str, Any]]
"""Folder and record of a run."""
STATES = ("done", "running", "failed", "stopped", "pruned", "waiting")
MOST_CHANGES = 4
"""Settings that are shown of an artifact."""
ZIPPED = 4
"""Which column tells of zipped axes; it is left out where no run has any."""
DIGITS = 8
"""Of an input's fingerprint."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what may stand behind the verb."""
    parser.add_argument("text", nargs="*", help="only lines that hold each of these")
    parser.add_argument("--artifacts", action="store_true")
    parser.add_argument("--kind", help="only artifacts of this kind, such as ppo")
    parser.add_argument("--state", choices=STATES, help="only runs in this state")
    parser.add_argument("--tag", action="append", default=[], help="only runs with this tag")
    parser.add_argument("--since", help="only runs begun then (UTC) or later: 2026-01-31")
    parser.add_argument("--last", type=int, help="only so many of the newest")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_store(parser)


def run(options: argparse.Namespace) -> None:
    """Print the list."""
    store = store_of(options)
    if options.artifacts or options.kind:
        list_artifacts(store, options.json, options.kind, options.text)
    else:
        chosen = choose(runs(store), options.state, options.tag, options.since)
        list_runs(store, options.json, options.text, chosen, options.last)


def choose(
    found: Sequence[Run],
    state: str | None = None,
    tags: Sequence[str] = (),
    since: str | None = None,
) -> list[Run]:
    """Return the runs in a state, with each of some tags, begun on a day (UTC) or later.

    Raises: ConfigError: `since` is no day.
    """
    begun = ""
    if since is not None:
        try:
            begun = f"{date.fromisoformat(since):%Y%m%d}"
        except ValueError:
            raise ConfigError(f"--since (={since}) must be a day, as 2026-01-31.") from None
    return [
        (folder, record)
        for folder, record in found
        if state in (None, record["state"])
        and set(tags) <= set(read_tags(folder))
        and folder.name >= begun
    ]


def list_runs(
    store: Store,
    as_json: bool,
    texts: Sequence[str] = (),
    chosen: Sequence[Run] | None = None,
    last: int | None = None,
) -> None:
    """Print a line for each run whose line holds each of `texts`.

    Args: chosen: None: all of the store. last: how many of the newest; None: all.
    """
    rows, records = [], []
    for folder, record in runs(store) if chosen is None else chosen:
        name = str(folder.relative_to(store.root))
        seconds = record.get("metrics", {}).get("time/total_seconds")
        took = "" if seconds is None else f"{seconds:.1f} s"
        tags = read_tags(folder)
        axes = " ".join(label_words(zipped_of(record)))
        row = (name, record["state"], took, " ".join(tags), axes, pasted(record))
        if all(text in "  ".join(row) for text in texts):
            rows.append(row)
            records.append({**_brief(name, record), **({"tags": tags} if tags else {})})
    if last is not None:
        rows, records = rows[-last:] if last > 0 else [], records[-last:] if last > 0 else []
    if as_json:
        print(json.dumps(records))
    elif rows:
        header = ("run", "state", "time", "tags", "zipped", "command")
        shown: list[tuple[str, ...]] = [header, *rows]
        if not any(row[ZIPPED] for row in rows):
            shown = [(*row[:ZIPPED], *row[ZIPPED + 1 :]) for row in shown]
        print("\n".join(_table(shown, right=(2,))))
    else:
        which = f" with {' and '.join(texts)}" if texts else ""
        print(f"no runs under {store.root / 'runs'}{which}")


def _brief(folder: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return of a run's record what a list needs; run.json holds the rest."""
    metrics = record.get("metrics", {})
    return {
        **{key: record[key] for key in ("name", "id", "state", "overrides") if key in record},
        "folder": folder,
        "seconds": metrics.get("time/total_seconds"),
        **{key: record[key] for key in ("error", "awaits", "zipped") if key in record},
        "headline": {name: metrics[name] for name in record.get("headline", ()) if name in metrics},
    }


def list_artifacts(
    store: Store, as_json: bool, kind: str | None = None, texts: Sequence[str] = ()
) -> None:
    """Print a line for each artifact of a kind whose line holds each of `texts`, oldest first."""
    manifests = [m for m in store.manifests() if kind in (None, m.kind)]
    manifests.sort(key=lambda m: (m.kind, m.node, m.started))
    rows, found = [], []
    for m in manifests:
        size = sum(int(about["size"]) for about in m.files.values())
        apart = changes_of(m, [o for o in manifests if (o.kind, o.node) == (m.kind, m.node)])
        row = (
            f"{m.kind}/{m.fingerprint}",
            m.node,
            m.started[:16].replace("T", " "),
            f"{size / 1e6:.2f} MB",
            f"{m.wall_seconds:.1f} s",
            apart,
        )
        if all(text in "  ".join(row) for text in texts):
            rows.append(row)
            found.append(
                {
                    "kind": m.kind,
                    "node": m.node,
                    "fingerprint": m.fingerprint,
                    "started": m.started,
                    "bytes": size,
                    "seconds": m.wall_seconds,
                    "differs": apart,
                }
            )
    if as_json:
        print(json.dumps(found))
    elif rows:
        header = ("artifact", "node", "built (UTC)", "size", "time", "what tells it apart")
        print("\n".join(_table([header, *rows], right=(3, 4))))
    else:
        print(f"no such artifacts under {store.root / 'artifacts'}")


def changes_of(manifest: Manifest, alike: Sequence[Manifest]) -> str:
    """Return the settings and inputs in which artifacts of one node differ, with this one's values.

    "other code" where only the code does. Of a node's only artifact: how its settings differ from
    those that its kind has by itself.
    """
    if len(alike) == 1:
        keys = differences(_defaults(manifest.kind), dict(manifest.config))
        return _shortened([f"{key}={_value(manifest.config, key)}" for key in keys])
    changed: dict[str, None] = {}
    slots: dict[str, None] = {}
    for other in alike:
        changed |= dict.fromkeys(differences(dict(other.config), dict(manifest.config)))
        slots |= dict.fromkeys(differences(dict(other.inputs), dict(manifest.inputs)))
    told = [f"{key}={_value(manifest.config, key)}" for key in changed]
    told += [f"{slot}={manifest.inputs.get(slot, 'none')[:DIGITS]}" for slot in slots]
    if not told and any(other.code != manifest.code for other in alike):
        told = ["other code"]
    return _shortened(told)


def _defaults(kind: str) -> dict[str, Any]:
    """Return the settings of a kind of stage by itself, as a manifest shows them; {} of none."""
    try:
        return dict(json.loads(json.dumps(hashed_config(STAGES[kind].config()))))
    except (KeyError, ConfigError):  # an unknown kind, or one without defaults: data
        return {}


def _shortened(told: Sequence[str]) -> str:
    more = f" and {len(told) - MOST_CHANGES} more" if len(told) > MOST_CHANGES else ""
    return " ".join(told[:MOST_CHANGES]) + more


def _value(config: Mapping[str, Any], key: str) -> str:
    """Return the value of a dotted key as text, shortened; "none" where there is none."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    text = "null" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Return rows as lines of aligned columns; the last column is as wide as it is."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            text.rjust(width) if place in right else text.ljust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
