"""Stage `data`: any source into clean, split records and a card that says what was done.

One node prepares one role. Steps:
  1  read the source with its reader, or generate Atlas;
  2  drop what the reader refused (counted by reason), repeats (counted) and rows over `max_rows`;
     of preferences, merge the rankings of several annotators and drop those without an order;
  3  split by conversation (`plumbrule/data/splits.py`), unless the source brings its own split:
     a share is held out, or one of several folds;
  4  check that no prompt is on both sides and no id is given twice;
  5  write `records.jsonl`, `validation.jsonl`, `card.json`, `samples.jsonl`, `notes.json`.

Documents and benchmarks are not split: all their rows are in `records.jsonl`. Benchmarks keep their
repeats too, since published protocols count them. The stage is quick and holds no checkpoint; it
writes the same bytes each time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from plumbrule.atlas.config import AtlasConfig
from plumbrule.data.readers import SourceRow, checked, read
from plumbrule.data.records import to_dict
from plumbrule.errors import DataError
from plumbrule.protocols import Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import CARD, NOTES, RECORDS, SAMPLES, VALIDATION
from plumbrule.store.json_files import write_json, write_jsonl
from sft.data.config import DataConfig
from sft.data.data_card import card, notes, sample
from sft.data.selection import Item, check_split, collect, divide, merge_rankings, take_evenly

NUM_SAMPLES = 8
"""Rows of each node that the report shows."""


def run(
    config: DataConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    out: Path,
    tracker: Tracker,
) -> Mapping[str, float]:
    """Prepare the records of one role and return how many there are.

    Raises: DataError: the source is missing, malformed or empty, or its split leaks.
    """
    dataset = config.dataset
    # 1, 2
    rows = source_rows(config)
    kept = collect(rows, dataset.max_rows, unique=config.items is None)
    kept = merge_rankings(kept, dataset.annotators, dataset.ties)
    if not kept.train and not kept.validation:
        reasons = ", ".join(f"{n} because {why}" for why, n in kept.dropped.items()) or "no rows"
        raise DataError(f"no row is left for role {config.role} ({reasons}).", dataset.path)
    # 3
    if config.is_split:
        train, validation = divide(
            kept, dataset.validation_share, dataset.split_seed, config.held_out_fold
        )
    else:
        train, validation = [*kept.train, *kept.validation], []
        if config.items is not None:
            train = take_evenly(train, config.per_group, config.items.group)
    # 4
    check_split(train, validation)
    # 5
    write_jsonl(out / RECORDS, map(as_row, train))
    write_jsonl(out / VALIDATION, map(as_row, validation))
    facts = card(config, kept, train, validation)
    facts["content_sha256"] = sha256_of(out / RECORDS, out / VALIDATION)
    write_json(out / CARD, facts)
    write_json(out / NOTES, notes(config, facts))
    write_jsonl(out / SAMPLES, map(sample, train[:NUM_SAMPLES]))
    metrics = {
        "data/rows": float(len(train)),
        "data/validation_rows": float(len(validation)),
        "data/duplicates": float(kept.duplicates),
        "data/dropped": float(kept.dropped.total()),
    }
    tracker.log(metrics, 0)
    return metrics


def source_rows(config: DataConfig) -> Iterator[SourceRow]:
    """Return the rows of a data node's source.

    Raises: DataError: see `plumbrule.data.readers.read`.
    """
    if config.dataset.format != "atlas":
        assert config.dataset.path is not None  # DataConfig has checked it
        return read(config.dataset.format, config.role, config.dataset.path, config.items)
    assert config.atlas is not None  # DataConfig has checked it
    rows = atlas_rows(config.role, config.atlas)
    return rows if config.items is None else checked(rows, config.items)


def atlas_rows(role: str, atlas: AtlasConfig) -> Iterator[SourceRow]:
    """Yield Atlas's rows for a role; it brings its own held-out ones."""
    from plumbrule.atlas.datasets import records

    split = records(role, atlas)
    yield from (SourceRow(record, held_out=False) for record in split.train)
    yield from (SourceRow(record, held_out=True) for record in split.validation)


def as_row(item: Item) -> dict[str, Any]:
    """Return a record or a row of corpus as JSON."""
    return item if isinstance(item, dict) else to_dict(item)


def sha256_of(*paths: Path) -> str:
    """Return the sha256, as 64 hex digits, of the files' bytes one after another."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()
