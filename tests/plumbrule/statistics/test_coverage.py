"""Intervals hold the truth as often as they say: a few cells of scripts/coverage_table.py.

Shares of lone items are summed exactly. Elsewhere a coverage over `TRIALS` data sets has a standard
error, and three of these are left to chance. Coverages above .97 are the price of counts (there is
no interval between two of them) and of groups that might answer as one; those of lognormal values
below .93 are what ten or thirty of them can tell. Both stand in docs/statistics.md as they are.
"""

from __future__ import annotations

import math

import coverage_table as table
import numpy as np
import pytest
from places import ROOT
from statistics_mutants import MUTANTS

TRIALS = 400
LOW, HIGH = 0.93, 0.97


def chance(p: float, trials: int) -> float:
    """Three standard errors of a coverage."""
    return 3 * math.sqrt(p * (1 - p) / trials)


def covered(cell: table.Cell, trials: int = TRIALS) -> table.Covered:
    return cell.simulate(np.random.default_rng(cell.n), trials)


@pytest.mark.parametrize("n", [10, 30, 100, 300])
@pytest.mark.parametrize("p", table.SHARES)
def test_shares_of_lone_items_cover_to_the_last_digit(p: float, n: int) -> None:
    found = covered(table.share_cell(p, "1", n))
    assert found.coverage >= 0.929  # at p = .9 and n = 10; which counts there are decides
    # Discreteness: with p .99 and n 30 all 30 come out right in 74 of 100 samples.
    expected = n * (1 - p)
    assert found.coverage <= (HIGH if expected >= 10 else 1.0)
    assert found.type_one == pytest.approx(1 - found.coverage)


@pytest.mark.parametrize("n", [10, 30, 100])
@pytest.mark.parametrize("size", ["2", "6", "uneven"])
@pytest.mark.parametrize("p", [0.5, 0.9])
def test_grouped_shares_cover(p: float, size: str, n: int) -> None:
    found = covered(table.share_cell(p, size, n), 200)
    assert found.coverage >= LOW - chance(LOW, 200)
    assert found.bounded == 1.0


@pytest.mark.parametrize("n", [10, 30, 100])
@pytest.mark.parametrize("p", table.SHARES)
def test_paired_shares_cover_and_find_nothing_where_nothing_is(p: float, n: int) -> None:
    found = covered(table.paired_cell(p, "1", n))
    assert found.bounded == 1.0
    assert found.coverage >= LOW - chance(LOW, TRIALS)
    assert found.type_one <= 0.07 + chance(0.07, TRIALS)
    if n * (1 - p) >= 10:
        assert found.coverage <= HIGH + chance(HIGH, TRIALS)


@pytest.mark.parametrize("size", ["2", "6"])
@pytest.mark.parametrize("p", [0.5, 0.9])
def test_paired_shares_of_groups_cover(p: float, size: str) -> None:
    found = covered(table.paired_cell(p, size, 30), 200)
    assert found.coverage >= LOW - chance(LOW, 200)
    assert found.type_one <= 0.07 + chance(0.07, 200)


@pytest.mark.parametrize("n", [10, 30, 100])
@pytest.mark.parametrize("size", ["1", "6", "uneven"])
@pytest.mark.parametrize("shape", table.SHAPES)
def test_means_cover(shape: str, size: str, n: int) -> None:
    found = covered(table.mean_cell(shape, size, n))
    short = 0.90 if "lognormal" in shape and n < 100 else LOW
    # heavy tails, which make Student's deviation too large now and then, cover more
    most = 0.98 if "heavy" in shape else HIGH
    assert short - chance(short, TRIALS) <= found.coverage <= most + chance(most, TRIALS)
    assert found.bounded == 1.0


@pytest.mark.parametrize("cell", list(table.other_cells(30)), ids=lambda c: c.detail[:24])
def test_other_estimates_cover(cell: table.Cell) -> None:
    found = covered(cell, 200)
    assert LOW - chance(LOW, 200) <= found.coverage <= 0.985 + chance(0.985, 200)


def test_balanced_accuracy_is_no_wider_than_it_needs_to_be() -> None:
    (cell,) = [c for c in table.other_cells(300) if "a third of one label" in c.detail]
    found = covered(cell)
    assert found.coverage <= HIGH + chance(HIGH, TRIALS)


def test_a_percentile_bootstrap_would_not_cover() -> None:
    """What the table is there to see: ten normal values, percentiles of resampled means."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        x = rng.normal(size=10)
        means = x[rng.integers(10, size=(400, 10))].mean(1)
        low, high = np.quantile(means, (0.025, 0.975))
        held += low <= 0 <= high
    assert held / 400 < LOW - chance(LOW, 400) + 0.01


def test_every_mutants_patch_applies_and_names_tests() -> None:
    root = ROOT
    for mutant in MUTANTS:
        text = (root / mutant.file).read_text("utf-8")
        assert text.count(mutant.old) == 1, mutant.name
        assert mutant.old != mutant.new
        for test in mutant.tests:
            path, function = test.split("::")
            assert f"def {function}(" in (root / "tests" / path).read_text("utf-8"), test


@pytest.mark.slow
@pytest.mark.parametrize("size", table.SIZES)
def test_no_cell_falls_short(size: str) -> None:
    """The whole table: nothing below what its distribution allows, whatever the groups."""
    short = []
    for cell in table.cells(of=(size,)):
        found = covered(cell, 1000)
        least = LOW
        if cell.n < 10 or "lognormal" in cell.detail:
            least = 0.89
        if not math.isnan(found.coverage) and found.coverage < least - chance(least, 1000):
            short.append((cell[:4], found))
    assert short == []
