"""The language of claims: what is let through, what is not, and what it computes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from plumbrule.errors import ConfigError
from plumbrule.papers.expressions import MOST_CHARACTERS, Value, evaluate, parse

CURVES = {"d": "sqrt(max(curve(ppo:objective/kl), 0))", "gold": "curve(ppo:reward/gold_raw)"}


def computed(side: str, *values: Value) -> float:
    """Return a side of a comparison, given the values of its references in their order."""
    expression = parse(f"{side} > 0", CURVES)
    return float(evaluate(expression.comparisons[0].left, dict(enumerate(values))))


def test_a_reference_has_node_metric_and_selection() -> None:
    found = parse(
        "of_ppo@ppo.kl.coef=0.05:eval/gold[arm=a, rm.num_rankings=*] > eval/kl"
    ).references
    assert found[0].node == "of_ppo@ppo.kl.coef=0.05"
    assert found[0].metric == "eval/gold"
    assert found[0].where == (("arm", "a"), ("rm.num_rankings", "*"))
    assert found[1][1:] == ("", "eval/kl", (), False)


def test_a_metric_may_end_in_a_setting_and_its_value() -> None:
    text = "overoptimisation/decline_ppo_rule_reward.ensemble.rule=mean==0"
    (found,) = parse(text).references
    assert found.metric == "overoptimisation/decline_ppo_rule_reward.ensemble.rule=mean"


@pytest.mark.parametrize(
    ("side", "values", "expected"),
    [
        ("a/b - 2 * c/d + 1", (10.0, 3.0), 5.0),
        ("(a/b + c/d) / c/d", (6.0, 3.0, 3.0), 3.0),  # a division has spaces
        ("-a/b / 2", (3.0,), -1.5),
        ("abs(a/b)", (-3.0,), 3.0),
        ("min(a/b, c/d, 7)", (9.0, 8.0), 7.0),
        ("max(min(a/b, 1), 0)", (5.0,), 1.0),
        ("mean(a/b, c/d)", (1.0, 4.0), 2.5),
        ("first(a/b, 2)", (np.array([1.0, 3.0, 9.0]),), 2.0),
        ("last(a/b)", (np.array([1.0, 3.0, 9.0]),), 9.0),
        ("last(a/b, 2)", (np.array([1.0, 3.0, 9.0]),), 6.0),
        ("xlogx(a/b)", (0.0,), 0.0),
        ("xlogx(a/b)", (math.e,), math.e),
        # 1, 2, 6 over 0, 1, 2: (-1 * 1 + 0 * 2 + 1 * 6) / (1 + 0 + 1) = 2.5
        ("trend(a/b, c/d, 6)", (1.0, 2.0), 2.5),
        ("trend(a/b)", (np.array([1.0, 2.0, 6.0]),), 2.5),
        ("correlation(a/b, c/d)", (np.array([1.0, 2.0, 3.0]), np.array([6.0, 4.0, 2.0])), -1.0),
        # y = 1 + 2 x: all explained; y = 1, 0, 1 by x = 0, 1, 2: the best line is flat
        ("coefficient(a/b, c/d)", (np.array([1.0, 3.0, 5.0]), np.array([0.0, 1.0, 2.0])), 2.0),
        ("explained(a/b, c/d)", (np.array([1.0, 3.0, 5.0]), np.array([0.0, 1.0, 2.0])), 1.0),
        ("explained(a/b, c/d)", (np.array([1.0, 0.0, 1.0]), np.array([0.0, 1.0, 2.0])), 0.0),
    ],
)
def test_arithmetic_and_functions(side: str, values: tuple, expected: float) -> None:
    assert computed(side, *values) == pytest.approx(expected, abs=1e-12)


def test_a_law_is_fitted_through_definitions() -> None:
    """Gao's form for RL: gold = d (alpha - beta log d), with alpha 2 and beta 0.7 planted."""
    kl = np.array([0.0, 0.5, 1.0, 2.0, 4.0, 8.0])
    d = np.sqrt(kl)
    gold = 0.3 + d * (2 - 0.7 * np.log(np.where(d > 0, d, 1)))
    assert computed("coefficient(gold, d, xlogx(d))", gold, kl, kl) == pytest.approx(-0.7)


def test_what_cannot_be_computed_is_nan() -> None:
    assert math.isnan(computed("sqrt(a/b)", -1.0))
    assert not math.isfinite(computed("1 / a/b", 0.0))
    flat = np.array([1.0, 1.0, 1.0])
    assert math.isnan(computed("coefficient(a/b, c/d)", np.array([1.0, 2.0, 3.0]), flat))


def test_a_chain_and_an_and_are_several_comparisons() -> None:
    found = parse("0 < a/b[x=1] <= c/d and e/f == 2", CURVES).comparisons
    assert [one.text for one in found] == ["0 < a/b[x=1]", "a/b[x=1] <= c/d", "e/f == 2"]


def test_a_part_is_told_as_it_was_written() -> None:
    (found,) = parse("coefficient(gold, d, xlogx(d)) < 0", CURVES).comparisons
    assert found.text == "coefficient(gold, d, xlogx(d)) < 0"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1 > 0", "must name a metric"),
        ("a/b", "must compare"),
        ("a/b > 0 or c/d > 0", "must compare"),
        ("a/b != 1", "compare by one of < <= > >= =="),
        ("a/b > gain", "use names that are defined, not gain; definitions: d, gold"),
        ("__import__('os')/x > a/b", "call functions that there are, not __import__"),
        ("trnd(a/b) > 0", "not trnd; did you mean trend"),
        ("(lambda: a/b)() > 0", "hold numbers, metrics"),
        ("a/b ** 99999 > 0", r"take out a/b \*\* 99999"),
        ("[a/b][0] > 0", "hold numbers, metrics"),
        ("d.__class__ > a/b", "hold numbers, metrics"),
        ("'text' > a/b", "finite numbers alone"),
        ("True > a/b", "finite numbers alone"),
        ("a/b > 1e999", "finite numbers alone"),
        ("min(a/b, default=1) > 0", "hold numbers, metrics"),
        ("correlation(a/b) > 0", "give correlation 2 arguments, not 1"),
        ("curve(a/b) > 0", "name the node of a curve"),
        ("curve(1) > a/b", "give curve one metric"),
        ("curve(ppo:a/b[x=*]) > 0", "one group of runs"),
        ("a/b[1] > 0", "select runs by key=value"),
        ("a/b[x=*, y=*] > 0", "all values of one key alone"),
        ("_r0 > a/b", "hold no name like _r0"),
        ("a/b >", "must be readable"),
        (f"{'(' * 400}a/b{')' * 400} > 0", "must be readable"),
        (f"a/b > {'1 + ' * MOST_CHARACTERS}1", f"at most {MOST_CHARACTERS} characters"),
    ],
)
def test_what_is_no_claim_is_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse(text, CURVES)


def test_a_definition_that_leads_to_itself_is_refused() -> None:
    with pytest.raises(ConfigError, match="no definition that leads to itself"):
        parse("x > a/b", {"x": "y + 1", "y": "x + 1"})
