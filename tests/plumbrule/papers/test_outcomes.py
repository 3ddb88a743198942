"""Holds, near, fails and not run, from run folders alone."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
from made_papers import made_paper, write_cells

from plumbrule.papers.outcomes import Checked, ClaimOutcome, check_scale, verdict_of
from plumbrule.papers.paper import Paper
from plumbrule.statistics import Interval
from plumbrule.store.artifacts import Store
from plumbrule.store.json_files import read_json, write_json

ABOVE = ("kl", "0.1")
BELOW = ("kl", "1e-05")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def only(paper: Paper, store: Store) -> ClaimOutcome:
    (found,) = check_scale(paper, "laptop", store).outcomes
    return found


def interval(value: float, reach: float | None) -> Interval:
    ends = (math.nan, math.nan) if reach is None else (value - reach, value + reach)
    return Interval(value, *ends, 3, 3)


@pytest.mark.parametrize(
    ("op", "value", "reach", "tolerance", "expected"),
    [
        (">", 1.0, 0.9, 0, "holds"),
        (">", 1.0, 1.1, 0, "near"),
        (">", 1.0, None, 0, "near"),  # no interval, as of two seeds
        (">", -0.1, 0.05, 0, "fails"),
        (">", -0.1, 0.05, 0.2, "holds"),
        (">", -0.1, 0.15, 0.2, "near"),
        (">", 0.0, 0.0, 0, "fails"),
        (">=", 0.0, 0.0, 0, "holds"),
        ("<", -1.0, 0.9, 0, "holds"),
        ("<", 1.0, 0.5, 0, "fails"),
        ("<=", 0.1, 0.05, 0.2, "holds"),
        ("==", 0.1, 0.05, 0.2, "holds"),
        ("==", -0.1, 0.15, 0.2, "near"),
        ("==", 0.3, 0.01, 0.2, "fails"),
    ],
)
def test_the_rule(op: str, value: float, reach: float, tolerance: float, expected: str) -> None:
    assert verdict_of(op, interval(value, reach), tolerance) == expected


def test_a_claim_holds_where_the_interval_over_seeds_does(store: Store) -> None:
    paper = made_paper()
    write_cells(store, paper, {ABOVE: [0.9, 1.0, 1.1]})
    found = only(paper, store)
    # mean 1, deviation 0.1, Student's quantile of two degrees 4.303: 1 +- 4.303 * 0.1 / sqrt(3)
    (part,) = found.parts
    assert found.verdict == "holds"
    assert part.difference.low == pytest.approx(1 - 4.30265 * 0.1 / math.sqrt(3), abs=1e-4)
    assert found.seeds == [0, 1, 2]


def test_it_is_near_where_the_mean_alone_does_and_fails_where_that_does_not(store: Store) -> None:
    paper = made_paper({}, {"expression": "ppo/gold_gain[ppo.kl.coef=0.1] < -1"})
    write_cells(store, paper, {ABOVE: [-1.0, 1.0, 2.0]})
    near, fails = check_scale(paper, "laptop", store).outcomes
    assert (near.verdict, fails.verdict) == ("near", "fails")
    assert check_scale(paper, "laptop", store).failed == [fails]


@pytest.mark.parametrize("seeds", [1, 2])
def test_nothing_holds_by_fewer_than_three_seeds(store: Store, seeds: int) -> None:
    paper = made_paper(seeds=list(range(seeds)))
    write_cells(store, paper, {ABOVE: [1.0, 1.1][:seeds]})
    found = only(paper, store)
    assert found.verdict == "near"
    assert found.reason.startswith(f"{seeds} seed")
    assert "no interval" in found.reason


def test_sides_are_paired_by_seed(store: Store) -> None:
    """The seeds differ by 10, the arms by 1 in each of them: unpaired, nothing could be told."""
    text = "ppo/gold_gain[ppo.kl.coef=0.1] > ppo/gold_gain[ppo.kl.coef=1e-5]"
    paper = made_paper({"expression": text})
    write_cells(store, paper, {ABOVE: [1.0, 11.1, 20.9], BELOW: [0.0, 10.0, 20.0]})
    assert only(paper, store).verdict == "holds"


def test_all_values_of_a_key_are_in_the_order_of_the_sweep(store: Store) -> None:
    paper = made_paper({"expression": "trend(ppo/gold_gain[ppo.kl.coef=*]) < 0"})
    write_cells(store, paper, {ABOVE: [1.0, 2.0, 3.0], BELOW: [0.1, 0.9, 2.1]})
    (part,) = only(paper, store).parts
    # two values: the slope is second less first, -.9, -1.1, -.9
    assert part.difference.value == pytest.approx((-0.9 - 1.1 - 0.9) / 3)


def test_a_curve_is_read_of_the_artifact(store: Store) -> None:
    paper = made_paper({"expression": "last(curve(ppo:objective/kl[arm=rloo]), 2) > 3.4"})
    write_cells(store, paper, {("rloo", "rloo"): [1.0, 1.01, 0.99]})
    assert only(paper, store).parts[0].difference.value == pytest.approx(0.1)  # 3.5 - 3.4
    shutil.rmtree(store.root / "artifacts")
    found = only(paper, store)
    assert found.verdict == "not run"
    assert "the curves of ppo are gone" in found.reason


def test_a_claim_with_several_parts_is_as_good_as_its_worst(store: Store) -> None:
    paper = made_paper({"expression": "0 < ppo/gold_gain[ppo.kl.coef=0.1] < 0.95"})
    write_cells(store, paper, {ABOVE: [0.9, 1.0, 1.1]})
    found = only(paper, store)
    assert [part.verdict for part in found.parts] == ["holds", "fails"]
    assert found.verdict == "fails"


def test_without_runs_nothing_is_said_but_that(store: Store) -> None:
    found = only(made_paper(), store)
    assert (found.verdict, found.reason) == ("not run", "no run of it is in the store")


def test_a_seed_that_failed_keeps_a_claim_from_holding(store: Store) -> None:
    paper = made_paper(seeds=[0, 1, 2, 3])
    write_cells(store, paper, {ABOVE: [0.9, 1.0, 1.1, 1.0]})
    last = sorted(store.root.glob("runs/*/*/run.json"))[-1]
    write_json(last, {**read_json(last), "state": "failed", "error": "NaN in the loss"})
    found = only(paper, store)
    assert found.verdict == "near"
    assert found.reason.startswith("3 of 4 seeds: run kl ppo.kl.coef=0.1 seed=3 is failed: NaN")


def test_a_later_run_counts_in_place_of_one_that_failed(store: Store) -> None:
    paper = made_paper()
    write_cells(store, paper, {ABOVE: [0.0, 0.0, 0.0]}, state="failed")
    assert only(paper, store).verdict == "not run"
    write_cells(store, paper, {ABOVE: [0.9, 1.0, 1.1]})
    assert only(paper, store).verdict == "holds"


def test_what_a_user_adds_does_not_hide_a_run(store: Store) -> None:
    paper = made_paper()
    write_cells(store, paper, {ABOVE: [0.9, 1.0, 1.1]})
    for path in store.root.glob("runs/*/*/run.json"):
        record = read_json(path)
        more = ["tracking=jsonl", "executor.workers=2", "run.dry=false"]
        write_json(path, {**record, "overrides": [*record["overrides"], *more]})
    assert only(paper, store).verdict == "holds"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_that_is_no_number_decides_nothing(store: Store, value: float) -> None:
    paper = made_paper()
    write_cells(store, paper, {ABOVE: [0.9, value, 1.1]})
    found = only(paper, store)
    assert found.verdict == "not run"
    assert "is no finite number with seed 1" in found.reason


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("ppo/known_accuracy_change[arm=rloo] > 0", "no such metric; there are"),
        ("ppoo:ppo/gold_gain[arm=rloo] > 0", "no such node; did you mean ppo"),
        ("objective/kl[arm=rloo] > 0", "must name its node: ppo"),
        (
            "ppo/gold_gain > 0",
            "must mean one run of a seed, and means kl ppo.kl.coef=0.1 seed=0, kl",
        ),
        ("curve(ppo:objective/entropy[arm=rloo]) > 0", "no such curve"),
        ("curve(ppo:objective/kl[arm=rloo]) > 0", "must compare numbers"),
    ],
)
def test_what_the_runs_do_not_have_is_said(store: Store, expression: str, says: str) -> None:
    paper = made_paper({"expression": expression})
    every = {ABOVE: [1.0, 1.1, 1.2], BELOW: [1.0, 1.1, 1.2], ("rloo", "rloo"): [1.0, 1.1, 1.2]}
    write_cells(store, paper, every)
    found = only(paper, store)
    assert found.verdict == "not run"
    assert says in found.reason


def test_data_that_is_not_there_is_the_reason(store: Store) -> None:
    needs = {"eval.halueval.path": "the official files of HaluEval"}
    found = only(made_paper(needs=needs), store)
    assert found.verdict == "not run"
    assert "eval.halueval.path (the official files of HaluEval)" in found.reason


def test_a_scale_that_there_is_not_has_no_outcomes(store: Store) -> None:
    found: Checked = check_scale(made_paper(), "full", store)
    assert (list(found.outcomes), found.scale.unavailable) == ([], "Its data were never there.")
