"""Win rates: verdicts, shares by hand, and what `compare` writes of two evaluations."""

from __future__ import annotations

import dataclasses
import json

import pytest

from eval.benchmarks.quantity import Quantity, with_conditions
from eval.benchmarks.registry import BENCHMARKS
from eval.comparisons.compare import run
from eval.comparisons.config import CompareConfig
from eval.comparisons.win_rates import metrics_of, verdict, verdict_row, win_rates
from eval.intervals import Intervals
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.tracking.stage_tracker import NullTracker

INTERVALS = Intervals(confidence=0.95)


def row(number, condition="closed", **numbers):
    return {"id": f"i{number}", "group": f"g{number}", "condition": condition, **numbers}


def write(folder, rows, kind):
    (folder / "items").mkdir(parents=True)
    text = "".join(json.dumps(r) + "\n" for r in rows)
    (folder / "items" / "prompts.jsonl").write_text(text)
    about = {"kind": kind, "fingerprint": "", "settings": {"gold": {"right": 2.0}}}
    (folder / "evaluated.json").write_text(json.dumps(about))
    paired = with_conditions(BENCHMARKS["prompts"].quantities(rows), rows)
    facts = {"prompts": {"quantities": [dataclasses.asdict(one) for one in paired]}}
    (folder / "benchmarks.json").write_text(json.dumps(facts))
    return Artifact.of(folder, "eval")


def compared(tmp_path, before, after):
    inputs = {
        "baseline": write(tmp_path / "a", before, "sft"),
        "policy": write(tmp_path / "b", after, "ppo"),
    }
    (tmp_path / "out").mkdir()
    flat = run(CompareConfig(), inputs, RuntimeConfig(), tmp_path / "out", NullTracker())
    return flat, json.loads((tmp_path / "out" / "win_rates.json").read_text())


@pytest.mark.parametrize(
    ("baseline", "policy", "better", "win"),
    [
        (1.0, 2.0, 1, 1.0),
        (2.0, 1.0, 1, 0.0),
        (1.0, 2.0, -1, 0.0),
        (0.0, 0.0, 1, 0.5),
        (3.0, 3.0 + 1e-6, 1, 0.5),  # one text, scored in two batches
        (3.0, 3.0 + 1e-4, 1, 1.0),
        (0.0, 1e-7, -1, 0.5),
    ],
)
def test_a_verdict(baseline, policy, better, win):
    assert verdict(baseline, policy, better) == win


def test_win_rate_by_hand():
    # Two wins, a tie, a loss: (2 + 1/2) / 4; ties 1 of 4. Closed: win, tie; rag: win, loss.
    wins = [(0, "closed", 1.0), (1, "closed", 0.5), (0, "rag", 1.0), (1, "rag", 0.0)]
    rows = [verdict_row(row(i, condition), win) for i, condition, win in wins]
    found = win_rates("gold_win_rate", "prompts", rows, ["closed", "rag"], INTERVALS)
    assert [one.condition for one in found] == ["all", "closed", "rag"]
    assert [one.win_rate.value for one in found] == [0.625, 0.75, 0.5]
    assert [one.ties.value for one in found] == [0.25, 0.5, 0.0]
    assert (found[0].win_rate.n, found[0].win_rate.groups) == (4, 2)  # a prompt's conditions
    assert set(metrics_of("ppo", found[:2])) == {
        *("ppo/gold_win_rate", "ppo/gold_win_rate_ties"),
        *("ppo/gold_win_rate_closed", "ppo/gold_win_rate_ties_closed"),
    }


def test_a_comparison_counts_whose_answer_is_better(tmp_path):
    before = [row(i, gold=1.0, reward=float(i), words=3) for i in range(8)]
    after = [row(i, gold=float(i > 1) * 2, reward=float(i), words=3) for i in range(8)]
    flat, rows = compared(tmp_path, before, after)
    assert flat["ppo/gold_win_rate"] == flat["ppo/gold_win_rate_closed"] == 0.75
    verdicts = [{**old, "win": float(i > 1)} for i, old in enumerate(before)]
    expected = INTERVALS.share(verdicts, "win")
    assert flat["ppo/gold_win_rate_low"] == pytest.approx(expected.low)
    assert flat["ppo/gold_win_rate_high"] == pytest.approx(expected.high)
    assert (rows[0]["n"], rows[0]["groups"], rows[0]["method"]) == (8, 8, "wilson")
    assert flat["ppo/gold_win_rate_ties"] == 0.0
    assert (flat["ppo/reward_win_rate"], flat["ppo/reward_win_rate_ties"]) == (0.5, 1.0)
    assert "ppo/proxy_win_rate" not in flat
    assert [one["what"] for one in rows if one["condition"] == "all"] == [
        *("gold_win_rate", "reward_win_rate")
    ]
    assert rows[0]["ties"]["value"] == 0.0


def test_an_evaluation_that_names_no_win_rate_has_none(tmp_path):
    assert Quantity("words_change", "words").wins == ""
    rows = [row(i, words=i) for i in range(6)]
    flat, found = compared(tmp_path, rows, rows)
    assert found == []
    assert not any("win_rate" in name for name in flat)
