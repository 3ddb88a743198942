"""Stage `compare`: what changed between two policies, item by item.

Both policies answered the same items, so their difference is taken per item before anything is
averaged: the spread between easy and hard items cancels, and the interval is that of the change
itself. Intervals of two separate means that overlap do not say that there is no difference; these
do. Where a quantity names a win rate, it is also counted whose number is the better one
(`win_rates.py`). Nothing here loads a model: it reads the `items/*.jsonl` of two eval artifacts,
and in their `benchmarks.json` which columns of them to pair. So it knows no benchmark, and a new
one changes nothing here.

An item that only one file holds would make the comparison one of different questions, so it is
refused. So are two evaluations by different gold utilities; other settings that differ are noted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eval.benchmarks.quantity import Quantity, items_file
from eval.comparisons import win_rates
from eval.comparisons.config import CompareConfig
from eval.comparisons.win_rates import WinRate
from eval.intervals import Intervals, Row, publish, values
from plumbrule.data.json_lines import read_rows
from plumbrule.errors import ConfigError, DataError
from plumbrule.protocols import Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.statistics import Interval
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import (
    BENCHMARK_FACTS,
    COMPARISONS,
    EVALUATED,
    ITEMS,
    NOTES,
    WIN_RATES,
)
from plumbrule.store.json_files import read_json, write_json

Settings = dict[str, Any]
Pairs = list[tuple[Row, Row]]


class Difference(NamedTuple):
    """One compared quantity. condition: `all` over every condition."""

    benchmark: str
    quantity: Quantity
    condition: str
    baseline: float
    policy: float
    change: Interval


def run(
    config: CompareConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    out: Path,
    tracker: Tracker,
) -> Mapping[str, float]:
    """Write `comparisons.json`, `win_rates.json` and `notes.json`; return, with bounds,
    `<policy kind>/<quantity>` and `<policy kind>/<win rate>`.

    Raises: DataError: an item stands in one evaluation only, or nothing was measured in both.
    ConfigError: the two were judged by different gold utilities.
    """
    return write_comparison(config, inputs, out)


def write_comparison(
    config: CompareConfig, inputs: Mapping[str, Artifact], out: Path
) -> dict[str, float]:
    """Do what `run` does, of which nothing needs a machine or a tracker."""
    before, after = inputs["baseline"], inputs["policy"]
    kind, notes = same_terms(before, after)
    stems = sorted({p.stem for a in (before, after) for p in a.file(ITEMS).glob("*.jsonl")})
    intervals = Intervals(config.confidence)
    differences: list[Difference] = []
    rates: list[WinRate] = []
    for name in stems:
        if not all(artifact.has(items_file(name)) for artifact in (before, after)):
            notes.append(f"{name} was measured of one policy only and is not compared.")
            continue
        old, new = (quantities(name, artifact) for artifact in (before, after))
        notes += unpaired(name, old, new)
        files = [artifact.file(items_file(name)) for artifact in (before, after)]
        rows = [[row for _, row in read_rows(file)] for file in files]
        both = pair(rows[0], rows[1], files[1])
        differences += compare(name, old, both, intervals)
        rates += rate(name, old, both, intervals)
    if not differences:
        raise DataError(
            "the two evaluations have nothing in common that is compared; give both the same "
            "inputs.",
            after.path,
        )
    write_json(out / COMPARISONS, [as_row(difference) for difference in differences])
    write_json(out / WIN_RATES, [win_rates.as_row(one) for one in rates])
    write_json(out / NOTES, notes)
    metrics = {f"{kind}/{metric_name(one)}": one.change for one in differences}
    return publish(metrics | win_rates.metrics_of(kind, rates), out)


def same_terms(before: Artifact, after: Artifact) -> tuple[str, list[str]]:
    """Return the kind of the policy under test, and notes on settings that differ.

    Raises: ConfigError: the gold utilities or the rewards differ.
    """
    about = [read_json(artifact.file(EVALUATED)) for artifact in (before, after)]
    old, new = (flatten(one["settings"]) for one in about)
    differ = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    gold = [name for name in differ if name.startswith("gold.")]
    if gold:
        raise ConfigError(
            f"eval.{gold[0]} (={old.get(gold[0])} and {new.get(gold[0])}) must be the same in both "
            "evaluations: scores of different utilities have no difference; evaluate one again."
        )
    reward = [one.get("reward") for one in about]
    if None not in reward and reward[0] != reward[1]:
        raise ConfigError(
            f"inputs.reward (={reward[0]} and {reward[1]}) must be the same reward in both "
            "evaluations: scores of different rewards have no difference; evaluate one again."
        )
    notes = [
        f"The two evaluations differ in eval.{name}: {old.get(name)} and {new.get(name)}."
        for name in differ
    ]
    return str(about[1]["kind"]), notes


def flatten(settings: Settings, head: str = "") -> Settings:
    """Return nested settings with dotted names."""
    flat_settings: Settings = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat_settings |= flatten(value, f"{head}{name}.")
        else:
            flat_settings[head + name] = value
    return flat_settings


def pair(before: Sequence[Row], after: Sequence[Row], path: Path | None = None) -> Pairs:
    """Return (baseline row, policy row) per item and condition, in the baseline's order.

    Raises: DataError: an item and condition stands twice in one of the two, or in one only.
    """
    old, new = by_item(before), by_item(after)
    alone = [key for key in [*old, *new] if key not in old or key not in new]
    if alone:
        shown = ", ".join(f"{item} ({condition})" for item, condition in alone[:3])
        raise DataError(
            f"{len(alone)} items stand in one evaluation only, such as {shown}; evaluate both "
            "policies on the same records and conditions.",
            path,
        )
    return [(row, new[key]) for key, row in old.items()]


def by_item(rows: Sequence[Row]) -> dict[tuple[str, str], Row]:
    """Return rows by (id, condition). Raises: DataError: one stands twice."""
    found: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = (row["id"], row["condition"])
        if key in found:
            raise DataError(f"item {key[0]!r} ({key[1]}) must stand once; give items unique ids.")
        found[key] = row
    return found


def quantities(benchmark: str, artifact: Artifact) -> list[Quantity]:
    """Return what an evaluation says is paired of a benchmark.

    Raises: DataError: it does not say.
    """
    path = (
        artifact.file(BENCHMARK_FACTS)
        if artifact.has(BENCHMARK_FACTS)
        else artifact.path / BENCHMARK_FACTS
    )
    about = read_json(path) if path.is_file() else {}
    if benchmark not in about:
        raise DataError(
            f"benchmark (={items_file(benchmark)}) must be described, and {BENCHMARK_FACTS} "
            f"describes {', '.join(about) or 'none'}; evaluate both policies again, or take "
            "the file out.",
            path,
        )
    return [Quantity(**one) for one in about[benchmark]["quantities"]]


def unpaired(benchmark: str, old: Sequence[Quantity], new: Sequence[Quantity]) -> list[str]:
    """Return notes on what is not compared of a benchmark that both evaluations have."""
    if not old and not new:
        return [f"{benchmark} names nothing that could be compared."]
    sides = [{one.name for one in side} for side in (old, new)]
    alone = [one.name for one in [*old, *new] if not all(one.name in names for names in sides)]
    if not alone:
        return []
    return [f"{benchmark}: {', '.join(alone)} is of one evaluation only and is not compared."]


def compare(
    benchmark: str, compared: Sequence[Quantity], both: Pairs, intervals: Intervals
) -> list[Difference]:
    """Return every quantity's difference, over all conditions and under each.

    `all` stands even for a single condition: `ppo/gold_gain` asks the same either way.
    """
    differences = []
    for quantity in compared:
        for condition in ["all", *quantity.conditions]:
            chosen = [
                (old, new)
                for old, new in both
                if condition in ("all", old["condition"])
                and quantity.stands_for(old)
                and quantity.column in new
            ]
            if chosen:
                differences.append(difference(benchmark, quantity, condition, chosen, intervals))
    return differences


def rate(
    benchmark: str, compared: Sequence[Quantity], both: Pairs, intervals: Intervals
) -> list[WinRate]:
    """Return the win rate of every quantity that names one."""
    found = []
    for one in compared:
        if one.wins:
            rows = [
                win_rates.verdict_row(
                    old,
                    win_rates.verdict(old[one.column], new[one.column], one.better or 1),
                )
                for old, new in both
                if one.stands_for(old) and one.column in new
            ]
            found += win_rates.win_rates(one.wins, benchmark, rows, one.conditions, intervals)
    return found


def difference(
    benchmark: str, quantity: Quantity, condition: str, chosen: Pairs, intervals: Intervals
) -> Difference:
    """Return one quantity's paired difference over the chosen pairs of rows."""
    old, new = [row for row, _ in chosen], [row for _, row in chosen]
    means = [sum(values(rows, quantity.column)) / len(rows) for rows in (old, new)]
    change = intervals.gain(old, new, quantity.column)
    return Difference(benchmark, quantity, condition, means[0], means[1], change)


def metric_name(difference: Difference) -> str:
    """Return the quantity's name with its condition, where that is not `all`."""
    end = "" if difference.condition == "all" else f"_{difference.condition}"
    return f"{difference.quantity.name}{end}"


def as_row(difference: Difference) -> dict[str, Any]:
    """Return the row of `comparisons.json`."""
    change = difference.change.as_json()
    return {
        "what": difference.quantity.name,
        "benchmark": difference.benchmark,
        "condition": difference.condition,
        "better": difference.quantity.better,
        "baseline": difference.baseline,
        "policy": difference.policy,
        "difference": change.pop("value"),
        **change,
    }
