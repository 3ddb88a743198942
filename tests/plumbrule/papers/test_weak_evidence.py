"""What must not read as evidence: rounding, fits without freedom, results of other settings."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from made_papers import made_paper, write_cells

from plumbrule.errors import ConfigError
from plumbrule.papers.expressions import evaluate, parse
from plumbrule.papers.outcomes import check_scale, part_of
from plumbrule.papers.paper import Paper
from plumbrule.papers.paper_files import read_paper
from plumbrule.papers.results_files import read_results, write_result
from plumbrule.papers.wording import page
from plumbrule.store.artifacts import Store

CURVE = np.array([1.0, 2.0, 4.0])


def computed(side: str, *values: float | np.ndarray) -> float:
    (one,) = parse(f"{side} > 0").comparisons
    return float(evaluate(one.left, dict(enumerate(values))))


def test_differences_that_are_equal_up_to_rounding_have_no_interval() -> None:
    (one,) = parse("a/b > c/d").comparisons
    # all are .2, and differ in the last digit as float64; spread from rounding is no evidence
    sides = [(0.9, 0.7), (0.8, 0.6), (0.5, 0.3)]
    assert len({left - right for left, right in sides}) > 1
    part = part_of(one, sides, 0)
    assert part.verdict == "near"
    assert part.difference.reason == "no spread: all seeds gave the same"
    assert part_of(one, [(0.9, 0.7), (0.8, 0.6), (0.5, 0.2999)], 0).verdict == "holds"


def test_a_fit_with_as_many_coefficients_as_points_explains_nothing() -> None:
    # 1, d and d^2 through three points leave nothing over, whatever the points are
    d = np.array([1.0, 3.0, 2.0])
    fit = "explained(curve(n:a/b), curve(n:c/d), curve(n:e/f))"
    assert math.isnan(computed(fit, CURVE, d, d**2))
    # 1 and x at 0, 1, 2: slope 1.5, left over 1/6, -1/3, 1/6 of a variance of 14/3
    explained = computed("explained(curve(n:a/b), curve(n:c/d))", CURVE, np.arange(3.0))
    assert explained == pytest.approx(1 - (1 / 6) / (14 / 3))


@pytest.mark.parametrize(
    ("side", "values"),
    [
        ("correlation(a/b, c/d)", (1.0, 2.0)),
        ("correlation(curve(n:a/b), curve(n:c/d))", (CURVE[:2], CURVE[1:])),
    ],
)
def test_two_points_have_no_correlation(side: str, values: tuple[float | np.ndarray, ...]) -> None:
    assert math.isnan(computed(side, *values))


@pytest.mark.parametrize("count", ["1 / 0", "0 / 0", "0", "curve(ppo:objective/kl[arm=rloo])"])
def test_a_count_of_points_that_is_none_is_said(tmp_path: Path, count: str) -> None:
    text = f"last(curve(ppo:objective/kl[arm=rloo]), {count}) > 0"
    paper, store = made_paper({"expression": text}), Store(tmp_path)
    write_cells(store, paper, {("rloo", "rloo"): [1.0, 1.1, 0.9]})
    (found,) = check_scale(paper, "laptop", store).outcomes
    assert found.verdict == "not run"
    assert "count points from 1" in found.reason


def test_an_expression_that_is_nested_too_deeply_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"must be (nested less deeply|readable)"):
        parse(f"{'-' * 1500}a/b > 0")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seeds": [0, 1, 2, 3]}, "seeds"),
        ({"experiment": "policy_gain"}, "experiment"),
        ({"settings": {}}, "settings"),
        ({"arms": {"kl": ["ppo.kl.coef=0.1,1e-4"], "rloo": ["ppo.advantage=rloo"]}}, "arms"),
        ({"definitions": {"gain": "2 * ppo/gold_gain[ppo.kl.coef=0.1]"}}, "definitions"),
    ],
)
def test_a_result_of_other_settings_is_not_told(
    tmp_path: Path, changes: dict[str, object], told: str
) -> None:
    claim = {"expression": "gain > 0"}
    first = {"definitions": {"gain": "ppo/gold_gain[ppo.kl.coef=0.1]"}}
    paper, store = made_paper(claim, **first), Store(tmp_path)
    write_cells(store, paper, {("kl", "0.1"): [0.9, 1.0, 1.1]})
    write_result(tmp_path / "results", check_scale(paper, "laptop", store))

    def shown(paper: Paper) -> str:
        return page([paper], read_results(tmp_path / "results", ["made"]))

    assert "| holds |" in shown(paper)
    assert f"{told} changed since it was checked" in shown(
        made_paper(claim, **{**first, **changes})
    )
    more = {**first, "definitions": {**first["definitions"], "other": "ppo/gold_gain"}}
    assert "| holds |" in shown(made_paper(claim, **more))


@pytest.mark.parametrize("text", ["hello", "3", "[" * 3000])
def test_a_file_that_holds_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "made.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"paper made|conf/paper/made\.yaml"):
        read_paper(tmp_path, "made")


def test_a_seed_that_stands_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="be a list of whole numbers, each once"):
        made_paper(seeds=[0, 0, 1])
