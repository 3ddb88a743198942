"""Stage `eval_support`: is the lexical support measure worth anything? People's labels say.

1. Read FaithDial's audit and RAGTruth, as far as they are named.
2. Measure the support of each response by its evidence.
3. Rows to metrics with intervals, over all and of each file (FaithDial) or task (RAGTruth).
4. Write.

There is no model, and it takes seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from eval.intervals import Intervals, Metrics, publish
from eval.support.config import SupportEvalConfig
from eval.support.labelled import LabelledResponses, read_faithdial, read_ragtruth
from eval.support.scores import item_row, summarise
from plumbrule.errors import DataError
from plumbrule.protocols import Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import ITEMS, METRICS, NOTES
from plumbrule.store.json_files import write_json, write_jsonl


def run(
    config: SupportEvalConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    out: Path,
    tracker: Tracker,
) -> Mapping[str, float]:
    """Measure; return `eval_support/<set>_<metric>` over all responses of each set.

    Writes `items/<set>.jsonl`, `metrics.json` (set -> part -> metric) and `notes.json`.

    Raises: DataError: a set without a labelled response, or what its reader raises.
    """
    # 1
    sets: dict[str, LabelledResponses] = {}
    if config.faithdial is not None:
        sets["faithdial"] = read_faithdial(Path(config.faithdial))
    if config.ragtruth is not None:
        sets["ragtruth"] = read_ragtruth(Path(config.ragtruth))
    intervals = Intervals(config.confidence)
    metrics: dict[str, dict[str, Metrics]] = {}
    notes: list[str] = []
    (out / ITEMS).mkdir(exist_ok=True)
    for name, read in sets.items():
        if not read.responses:
            raise DataError(f"{name} must hold a labelled response; check eval_support.{name}.")
        # 2
        rows = [item_row(one, name, config.threshold) for one in read.responses]
        write_jsonl(out / ITEMS / f"{name}.jsonl", rows)
        # 3
        parts = {"all": rows}
        for row in rows:
            parts.setdefault(str(row["part"]), []).append(row)
        metrics[name] = {part: summarise(own, intervals) for part, own in parts.items()}
        notes += [f"{name}: {n} responses left out: {why}." for why, n in read.dropped.items()]
    # 4
    shown = {
        name: {p: {m: x.as_json() for m, x in found.items()} for p, found in parts.items()}
        for name, parts in metrics.items()
    }
    write_json(out / METRICS, shown)
    write_json(out / NOTES, notes)
    flat = {
        f"eval_support/{name}_{metric}": interval
        for name, parts in metrics.items()
        for metric, interval in parts["all"].items()
    }
    return publish(flat, out)
