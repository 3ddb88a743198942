"""Gold and proxy: summaries by hand, and what a prompt without an answer takes part in."""

from __future__ import annotations

import math

import pytest
from worlds.evaluation import WordReward, meta

from eval.benchmarks.held_out_rewards import judged, summarise
from eval.intervals import Intervals
from plumbrule.atlas.gold import GoldUtility
from plumbrule.config import GoldConfig
from plumbrule.data.records import Message, Prompt
from plumbrule.protocols import Episode
from plumbrule.statistics import Interval
from plumbrule.store.headline import flat

INTERVALS = Intervals(confidence=0.95, num_resamples=200, seed=0)


def row(number, gold, proxy, **more):
    numbers = {"gold": gold, "gold_right": gold / 2, "proxy": proxy}
    known = {name: value for name, value in numbers.items() if value is not None}
    return {"id": str(number), "group": "", "words": 3, "finished": 1, **known, **more}


def test_means_and_agreement_by_hand():
    # Gold 1 2 3 4, proxy 10 30 20 40: rank correlation 1 - 6 * 2 / (4 * 15) = 0.8.
    pairs = [(1, 10), (2, 30), (3, 20), (4, 40)]
    found = summarise([row(i, *pair) for i, pair in enumerate(pairs)], INTERVALS)
    assert found["gold"].value == 2.5
    assert found["gold_right"].value == 1.25
    assert found["proxy"].value == 25
    assert found["words"].value == 3
    assert found["finished"].value == 1
    assert found["gold_proxy_spearman"].value == pytest.approx(0.8)
    assert "too few: 4 groups" in found["gold_proxy_spearman"].reason


def test_rows_without_gold_count_for_proxy_only():
    rows = [row(0, 1.0, 5.0), row(1, 3.0, 7.0)]
    rows.append({"id": "2", "group": "", "words": 9, "finished": 0, "proxy": 0.0})
    found = summarise(rows, INTERVALS)
    assert (found["gold"].value, found["gold"].n) == (2.0, 2)
    assert (found["proxy"].value, found["proxy"].n) == (4.0, 3)
    assert found["finished"].value == pytest.approx(2 / 3)


def test_every_row_gets_its_own_scores():
    answers = {"Ada": "Ada was born in Arlen.", "": "Say it twice.", "Bea": "I do not know."}
    episodes = [
        Episode(
            Prompt(
                f"p{i}",
                (Message("user", "Where?"),),
                meta(entity, "Arlen", "memory") if entity else {},
            ),
            (),
            response,
            entity != "Bea",
        )
        for i, (entity, response) in enumerate(answers.items())
    ]
    rows = judged(episodes, "closed", GoldUtility(GoldConfig()), WordReward())
    assert [r["group"] for r in rows] == ["Ada", "p1", "Bea"]
    assert [r.get("gold_right") for r in rows] == [2.0, None, 0.0]
    assert [r["proxy"] for r in rows] == [5.0, 3.0, 4.0]
    assert [r["finished"] for r in rows] == [1, 1, 0]
    assert rows[0]["gold"] == 2.0 + 0.5  # right and brief
    # Of the two, being right alone is about what is said; the row without an answer has no gold.
    assert [r.get("gold_correctness") for r in rows] == [2.0, None, 0.0]
    assert "proxy" not in judged(episodes, "closed", GoldUtility(GoldConfig()), None)[0]


def test_no_gold_and_no_proxy_leave_length():
    rows = [{"id": "0", "group": "", "words": 9, "finished": 0}]
    assert set(summarise(rows, INTERVALS)) == {"words", "finished"}


def test_samples_of_one_entity_are_resampled_together():
    alone = [row(i, float(i // 5), 0.0) for i in range(40)]
    shared = [{**r, "group": str(int(r["gold"]))} for r in alone]
    widths = [summarise(r, INTERVALS)["gold"] for r in (alone, shared)]
    assert widths[1].high - widths[1].low > 1.5 * (widths[0].high - widths[0].low)


def test_items_without_a_group_are_groups_of_one():
    found = summarise([row(i, float(i), 0.0) for i in range(9)], INTERVALS)["gold"]
    assert (found.n, found.groups) == (9, 9)
    assert found.is_bounded


def test_unknown_bounds_are_null_and_no_headline():
    unknown = Interval(0.5, math.nan, math.nan, 3, 2, "too few")
    nothing = {"low": None, "high": None}
    assert unknown.as_json() == {"value": 0.5, **nothing, "n": 3, "groups": 2, "reason": "too few"}
    assert flat({"eval/x": unknown.as_json()}) == {"eval/x": 0.5}
    assert flat({"eval/x": Interval(0.5, 0.4, 0.6, 3).as_json()}) == {
        "eval/x": 0.5,
        "eval/x_low": 0.4,
        "eval/x_high": 0.6,
    }
