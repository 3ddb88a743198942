"""Stage `eval_ibem`: mathematical expressions of pages against their ground truth.

1. Read the ground truth and, where they are named, what a system found.
2. Match found expressions to true ones, page by page, and compare them.
3. Look for each expression's page by the other expressions on it: by the true expression, and by
   what was found of it.
4. Rows to metrics with intervals over documents, of all expressions and of each type.
5. Write.

There is no model, and no image is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from eval.ibem.config import IbemEvalConfig
from eval.ibem.records import IbemPages, MathExpression, document_of, read_ibem
from eval.ibem.retrieval import WITHIN, Pages, evenly, search_rows
from eval.ibem.scores import (
    BLEU_SETTINGS,
    compared,
    match_boxes,
    match_numbers,
    page_row,
    summarise,
)
from eval.intervals import Intervals, Metrics, Row, known, publish
from plumbrule.errors import ConfigError, DataError
from plumbrule.protocols import Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import ITEMS, METRICS, NOTES
from plumbrule.store.json_files import write_json, write_jsonl

TYPES = ("embedded", "displayed")
Matched = list[tuple[MathExpression, MathExpression]]


def run(
    config: IbemEvalConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    out: Path,
    tracker: Tracker,
) -> Mapping[str, float]:
    """Measure; return `eval_ibem/<metric>` over all expressions.

    Writes `items/expressions.jsonl`, `items/pages.jsonl`, `items/retrieval.jsonl`, `metrics.json`
    (part -> metric) and `notes.json`.

    Raises: ConfigError: no ground truth is named. DataError: what the reader raises, no expression,
        or predictions for other pages alone.
    """
    # 1
    if config.path is None:
        raise ConfigError("eval_ibem.path (=None) must name IBEM.json; pass eval_ibem.path=<file>.")
    by_box = config.match == "box"
    true = read_ibem(Path(config.path))
    if not any(true.pages.values()):
        raise DataError(
            "the file must hold an expression; check eval_ibem.path.", Path(config.path)
        )
    notes = notes_on("the ground truth", true)
    found: IbemPages | None = None
    if config.predictions is not None:
        found = read_ibem(Path(config.predictions), boxes=by_box)
        notes += notes_on("the predictions", found)
        notes += notes_on_pages(true, found, Path(config.predictions))
        notes.append(f"BLEU by sacrebleu {version('sacrebleu')}, {BLEU_SETTINGS}.")
    # 2
    matched: Matched = []
    pages: list[dict[str, Any]] = []
    if found is not None:
        matched, pages = match(true, found, config)
    pairs = [compared(*pair) for pair in matched]
    # 3
    searched = retrieval(true, matched, config)
    # 4
    intervals = Intervals(config.confidence)
    parts: dict[str, Metrics] = {}
    for part in ("all", *TYPES):
        own = [[r for r in rows if part in ("all", r["type"])] for rows in (pairs, pages, searched)]
        parts[part] = summarise(own[0], own[1] if by_box else [], intervals)
        parts[part] |= retrieval_metrics(own[2], intervals)
    # 5
    (out / ITEMS).mkdir(exist_ok=True)
    for name, rows in (("expressions", pairs), ("pages", pages), ("retrieval", searched)):
        write_jsonl(out / ITEMS / f"{name}.jsonl", rows)
    shown = {p: {m: x.as_json() for m, x in metrics.items()} for p, metrics in parts.items()}
    write_json(out / METRICS, shown)
    write_json(out / NOTES, notes)
    return publish({f"eval_ibem/{name}": one for name, one in parts["all"].items()}, out)


def notes_on(what: str, read: IbemPages) -> list[str]:
    """Return sentences on what was left out of a file."""
    return [f"{what}: {n} left out: {why}." for why, n in read.dropped.items()]


def notes_on_pages(true: IbemPages, found: IbemPages, path: Path) -> list[str]:
    """Return sentences on pages of one file only.

    Raises: DataError: they have no page in common.
    """
    both = true.pages.keys() & found.pages.keys()
    if not both:
        raise DataError(
            "predictions must name pages as the ground truth does, and no page is in both; check "
            "eval_ibem.predictions.",
            path,
        )
    notes = []
    if len(both) < len(true.pages):
        missing = len(true.pages) - len(both)
        notes.append(f"{missing} pages have no predictions; their expressions count as missed.")
    if len(both) < len(found.pages):
        notes.append(f"{len(found.pages) - len(both)} predicted pages are unknown and not read.")
    return notes


def match(
    true: IbemPages, found: IbemPages, config: IbemEvalConfig
) -> tuple[Matched, list[dict[str, Any]]]:
    """Return matched (true, found) expressions, and a row for each page and type."""
    matched: Matched = []
    rows = []
    for page, own in true.pages.items():
        said = found.pages.get(page, [])
        places = (
            match_boxes(own, said, config.iou)
            if config.match == "box"
            else match_numbers(own, said)
        )
        pairs = [(own[i], said[j]) for i, j in places]
        matched += pairs
        for type in TYPES:
            numbers = [
                sum(one.type == type for one in some)
                for some in (own, said, [one for one, _ in pairs])
            ]
            if numbers[0] or numbers[1]:
                rows.append(page_row(page, document_of(page), type, *numbers))
    return matched, rows


def retrieval(true: IbemPages, matched: Matched, config: IbemEvalConfig) -> list[dict[str, Any]]:
    """Return a row for each expression whose page was looked for."""
    pages = Pages(true.pages)
    every = [one for own in true.pages.values() for one in own]
    rows = search_rows(
        pages, [(one, one.latex_norm) for one in evenly(every, config.max_queries)], "gold"
    )
    queries = [(one, said.latex_norm) for one, said in evenly(matched, config.max_queries)]
    return rows + search_rows(pages, queries, "found")


def retrieval_metrics(rows: Sequence[Row], intervals: Intervals) -> Metrics:
    """Return `<gold|found>_page_hit_at_<k>` and `_page_mrr`."""
    metrics: dict = {}
    for what in ("gold", "found"):
        own = [row for row in rows if row["what"] == what]
        for k in WITHIN:
            metrics[f"{what}_page_hit_at_{k}"] = intervals.share(own, f"hit_at_{k}")
        metrics[f"{what}_page_mrr"] = intervals.mean(own, "reciprocal_rank")
    return known(metrics)
