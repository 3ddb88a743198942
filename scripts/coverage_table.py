"""How often the intervals of `plumbrule.statistics` hold the truth, by simulation.

    python scripts/coverage_table.py                    the table of docs/statistics.md, as Markdown
    python scripts/coverage_table.py --trials 200 --only mean

A cell is an estimate, a distribution, a number of groups and their sizes; of each trial's data set
an interval of nominal 95 % is made by the function that the stages call. `coverage` is the share
of intervals that hold the true value, `type I` that of intervals that leave out 0 where nothing
changed. Where items are alone and values are 0 or 1 both are exact sums over all counts, and no
simulation. Groups are the unit of n: clusters of 6 at n = 10 are 60 items.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri
from scipy.stats import binom

from plumbrule.statistics import (
    Interval,
    auroc_interval,
    mean_interval,
    paired_interval,
    seed_interval,
    share_interval,
    spearman_interval,
    stratified_share_interval,
)

NUMBERS = (5, 10, 30, 100, 300)
SIZES = ("1", "2", "6", "uneven")
UNEVEN = (1, 1, 2, 2, 3, 3, 4, 6, 9, 12)
"""Sizes of groups in turn, where they are uneven: as good as 60 % as many equal ones."""
SHARES = (0.5, 0.8, 0.9, 0.95, 0.99)
CHANGES = {0.5: -0.1, 0.8: -0.1, 0.9: -0.1, 0.95: -0.05, 0.99: -0.02}
"""Share before -> its change."""
CORRELATION = 0.3
"""Within a group, of what values (or thresholds of shares) are made of."""
SHAPES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "heavy tails (t, 3 degrees)": lambda rng, n: rng.standard_t(3, size=n),
    "skewed (exponential)": lambda rng, n: rng.exponential(size=n) - 1,
    "very skewed (lognormal)": lambda rng, n: rng.lognormal(size=n) - math.exp(0.5),
}
"""Shape -> n draws of mean 0."""


class Covered(NamedTuple):
    """Shares of a cell's intervals; NaN where none has bounds. bounded: share that has."""

    coverage: float
    type_one: float
    bounded: float


class Cell(NamedTuple):
    """One cell. detail: the distribution. size: of groups, one of SIZES."""

    estimate: str
    detail: str
    size: str
    n: int
    simulate: Callable[[np.random.Generator, int], Covered]


def sizes(name: str, num_groups: int) -> np.ndarray:
    """Return the size of each group."""
    if name == "uneven":
        return np.resize(UNEVEN, num_groups)
    return np.full(num_groups, int(name))


def counted(found: Sequence[Interval], truth: float) -> tuple[float, float]:
    """Return the share of bounded intervals that hold the truth, and of those with bounds."""
    known = [i for i in found if i.is_bounded]
    if not known:
        return math.nan, 0.0
    # a count has no rounding: 1e-12 keeps a bound that is the truth itself
    hits = [i.low - 1e-12 <= truth <= i.high + 1e-12 for i in known]
    return float(np.mean(hits)), len(known) / len(found)


def correlated(rng: np.random.Generator, index: np.ndarray) -> np.ndarray:
    """Return standard normal numbers (n,), correlated within the groups of `index`."""
    shared = rng.normal(size=int(index.max()) + 1)[index]
    own = rng.normal(size=len(index))
    return math.sqrt(CORRELATION) * shared + math.sqrt(1 - CORRELATION) * own


def share_cell(p: float, size: str, n: int) -> Cell:
    """Return the cell of a share."""

    def exact(rng: np.random.Generator, trials: int) -> Covered:
        found = [share_interval([1] * k + [0] * (n - k)) for k in range(n + 1)]
        chances = binom.pmf(range(n + 1), n, p)
        held = [i.low - 1e-12 <= p <= i.high + 1e-12 for i in found]
        coverage = float(chances @ np.array(held))
        return Covered(coverage, 1 - coverage, 1.0)

    def simulate(rng: np.random.Generator, trials: int) -> Covered:
        index = np.repeat(np.arange(n), sizes(size, n))
        hits = (correlated(rng, index) < ndtri(p) for _ in range(trials))
        coverage, bounded = counted([share_interval(h.astype(float), index) for h in hits], p)
        return Covered(coverage, 1 - coverage, bounded)

    return Cell("share", f"{p:g}", size, n, exact if size == "1" else simulate)


def paired_cell(p: float, size: str, n: int) -> Cell:
    """Return the cell of a change of a share from p. Half of what makes an item hard is its own."""
    index = np.repeat(np.arange(n), sizes(size, n))
    change = CHANGES[p]

    def simulate(rng: np.random.Generator, trials: int) -> Covered:
        known: dict[tuple[float, float], Interval] = {}

        def interval(a: np.ndarray, b: np.ndarray) -> Interval:
            key = (float(np.sum(a < b)), float(np.sum(a > b)))
            if size != "1":
                return paired_interval(a, b, index)
            return known.get(key) or known.setdefault(key, paired_interval(a, b))

        effect, null = [], []
        for _ in range(trials):
            before = correlated(rng, index)
            after = 0.5 * before + math.sqrt(0.75) * correlated(rng, index)
            a, b, moved = (
                (z < ndtri(q)).astype(float)
                for z, q in ((before, p), (after, p), (after, p + change))
            )
            null.append(interval(a, b))
            effect.append(interval(a, moved))
        coverage, bounded = counted(effect, change)
        return Covered(coverage, 1 - counted(null, 0.0)[0], bounded)

    return Cell("paired share", f"{p:g} to {p + change:g}", size, n, simulate)


def mean_cell(shape: str, size: str, n: int) -> Cell:
    """Return the cell of a mean, or of a mean difference: the function is the same."""
    index = np.repeat(np.arange(n), sizes(size, n))

    def simulate(rng: np.random.Generator, trials: int) -> Covered:
        found = []
        for _ in range(trials):
            x = SHAPES[shape](rng, len(index))
            if size != "1":
                x = math.sqrt(1 - CORRELATION) * x
                x += math.sqrt(CORRELATION) * SHAPES[shape](rng, n)[index]
            found.append(mean_interval(x, index))
        coverage, bounded = counted(found, 0.0)
        return Covered(coverage, 1 - coverage, bounded)

    return Cell("mean", shape, size, n, simulate)


def other_cells(n: int) -> Iterator[Cell]:
    """Yield cells of estimates that are neither, of n groups."""

    def trial(name: str, rng: np.random.Generator) -> tuple[Interval, float]:
        match name:
            case "balanced accuracy, .9 and .7, a third of one label":
                labels = np.arange(n) % 3 == 0
                right = (rng.random(n) < np.where(labels, 0.9, 0.7)).astype(float)
                return stratified_share_interval(right, labels.tolist(), equal=True), 0.8
            case "balanced accuracy, both labels in each group, one verdict in two":
                yes = rng.random(n) < 0.7
                own = np.where(rng.random(n) < 0.5, yes, rng.random(n) < 0.7)
                rows = np.concatenate([np.arange(n), np.arange(n)])
                hits = np.concatenate([yes, ~own]).astype(float)
                truth = 0.5
                labels_of = [1] * n + [0] * n
                return stratified_share_interval(hits, labels_of, rows, equal=True), truth
            case "AUROC .76, a positive and a negative in each group":
                both = np.concatenate([rng.normal(1, 1, n), rng.normal(0, 1, n)])
                rows = np.concatenate([np.arange(n), np.arange(n)])
                return auroc_interval(both, [True] * n + [False] * n, rows), 0.7602499
            case "rank correlation .58":
                a = rng.normal(size=n)
                truth = 6 / math.pi * math.asin(0.3)
                return spearman_interval(a, 0.6 * a + 0.8 * rng.normal(size=n)), truth
        return seed_interval(rng.normal(size=n).tolist()), 0.0

    names = (
        "balanced accuracy, .9 and .7, a third of one label",
        "balanced accuracy, both labels in each group, one verdict in two",
        "AUROC .76, a positive and a negative in each group",
        "rank correlation .58",
    )
    for name in (*names, "mean over seeds, normal") if n <= 10 else names:

        def simulate(rng: np.random.Generator, trials: int, name: str = name) -> Covered:
            both = [trial(name, rng) for _ in range(trials)]
            coverage, bounded = counted([i for i, _ in both], both[0][1])
            return Covered(coverage, 1 - coverage, bounded)

        yield Cell("other", name, "1", n, simulate)


def cells(numbers: Sequence[int] = NUMBERS, of: Sequence[str] = SIZES) -> Iterator[Cell]:
    """Yield the cells of the table."""
    for size in of:
        for n in numbers:
            yield from (share_cell(p, size, n) for p in SHARES)
            yield from (paired_cell(p, size, n) for p in SHARES)
            yield from (mean_cell(shape, size, n) for shape in SHAPES)
    for n in numbers:
        yield from other_cells(n)


def shown(found: Covered, estimate: str) -> str:
    """Return a cell as text: coverage, type I error of a change, share with bounds if not all."""
    if math.isnan(found.coverage):
        return "too few"
    said = f"{found.coverage:.3f}".lstrip("0")
    if estimate == "paired share":
        said += " / " + f"{abs(found.type_one):.3f}".lstrip("0")
    return said + (f" ({found.bounded:.0%})" if found.bounded < 0.995 else "")


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000, help="data sets per cell")
    parser.add_argument("--only", choices=("share", "paired", "mean", "other"))
    given = parser.parse_args()
    rows: dict[tuple[str, str, str], dict[int, str]] = {}
    for cell in cells():
        if cell.estimate.startswith(given.only or ""):
            found = cell.simulate(np.random.default_rng(cell.n), given.trials)
            key = (cell.estimate, cell.detail, cell.size)
            rows.setdefault(key, {})[cell.n] = shown(found, cell.estimate)
    print("| estimate | distribution | group size |", *(f"n = {n} |" for n in NUMBERS))
    print("| --- | --- | --- |", *("--- |" for _ in NUMBERS))
    for (estimate, detail, size), found_at in sorted(rows.items(), key=lambda r: r[0][0]):
        texts = (found_at.get(n, "") for n in NUMBERS)
        print(f"| {estimate} | {detail} | {size} |", *(f"{text} |" for text in texts), flush=True)


if __name__ == "__main__":
    main()
