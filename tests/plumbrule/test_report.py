"""The report: self-contained, honest about intervals, safe with any text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from plumbrule.metrics import METRICS, describe
from plumbrule.record import headlines_of, merge_metrics
from plumbrule.report import render
from plumbrule.report.contents import _benchmarks, _comparison
from plumbrule.report.figures import graph, layers, line_chart, number, reliability


def record(**metrics: float) -> dict[str, Any]:
    node = {"state": "built", "why": "new", "wall_seconds": 1.5, "hardware": {"cores": 2}}
    return {
        "name": "try",
        "id": "20260101-000000-abcdef",
        "overrides": ["ppo.kl.coef=0.1", "reward.terms=[{name: gold}]"],
        "seed": 3,
        "notes": ["A rehearsal."],
        "git": {"commit": "a" * 40, "dirty": False},
        "versions": {"torch": "2.13.0"},
        "headline": ["ppo/gold_gain"],
        "metrics": {"ppo/gold_gain": 1.5, "time/total_seconds": 9.0, **metrics},
        "nodes": {
            "sft": {
                **node,
                "kind": "sft",
                "inputs": {},
                "artifact": "artifacts/sft/1",
                "metrics": {},
            },
            "ppo": {
                **node,
                "kind": "ppo",
                "inputs": {"policy": "sft"},
                "artifact": "artifacts/ppo/2",
                "metrics": {},
            },
        },
    }


def test_a_page_holds_headline_interval_graph_notes_and_command(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"update": u, "objective/kl": u / 2}) + "\n" for u in range(1, 6))
    (tmp_path / "metrics.jsonl").write_text(rows)
    (tmp_path / "notes.json").write_text('["3 prompts were left out."]')
    whole = record(**{"ppo/gold_gain_low": 1.2, "ppo/gold_gain_high": 1.8})
    html, markdown = render(whole, {"ppo": tmp_path})
    for text in ("1.5", "1.2 to 1.8", "A rehearsal.", "3 prompts were left out.", "polyline"):
        assert text in html, text
    assert "'reward.terms=[{name: gold}]'" in markdown
    assert "| ppo | ppo | sft |" in markdown
    assert not re.findall(r"(?:src|href)=", html)
    assert "<script" not in html


def test_text_of_a_policy_cannot_break_the_page(tmp_path: Path) -> None:
    row = {"id": "1", "response": "<script>alert(1)</script> | a\nb"}
    (tmp_path / "samples.jsonl").write_text(json.dumps(row) + "\n")
    html, markdown = render(record(), {"ppo": tmp_path})
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "\\| a b" in markdown


def test_an_unknown_bound_shows_no_interval() -> None:
    row = {"what": "gold_gain", "condition": "closed", "baseline": 1, "policy": 2, "n": 1}
    shown = _comparison([{**row, "difference": 1, "low": None, "high": None}])
    assert shown[0]["interval"] == ""
    assert shown[0]["bar"] == ""


def test_benchmarks_stand_side_by_side_with_gaps_where_nothing_was_measured() -> None:
    share = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10}
    (table,) = _benchmarks(
        {
            "eval_sft": {"questions": {"closed": {"accuracy": share}}},
            "eval": {"questions": {"closed": {"abstain": {"value": 1.0, "low": None, "n": 1}}}},
        }
    )
    assert table["columns"] == ["eval_sft", "eval"]
    assert [metric for metric, _ in table["rows"]] == ["accuracy", "abstain"]
    (measured, missing), (blank, unbounded) = (cells for _, cells in table["rows"])
    assert (measured["value"], measured["bounds"]) == ("0.5", "0.4 to 0.6 · n 10")
    assert missing == blank == {"value": "", "interval": "", "n": "", "bounds": ""}
    assert (unbounded["value"], unbounded["bounds"]) == ("1", "n 1")


def test_interval_bars_say_on_which_side_of_zero_they_lie() -> None:
    row = {"what": "gold_gain", "condition": "closed", "baseline": 1, "policy": 2, "n": 9}
    cases = {"above": (0.5, 1.5), "below": (-1.5, -0.5), "across": (-0.5, 0.5)}
    for side, (low, high) in cases.items():
        shown = _comparison([{**row, "difference": 0.1, "low": low, "high": high}])
        assert f'class="interval {side}"' in shown[0]["bar"]


def test_a_graph_puts_every_node_right_of_its_inputs() -> None:
    inputs = {"a": [], "b": ["a"], "c": ["a", "b"], "d": []}
    columns = layers({**inputs, "e": ["c", "d"]})
    column = {name: i for i, names in enumerate(columns) for name in names}
    assert column["a"] < column["b"] < column["c"] < column["e"]
    assert column["d"] == column["e"] - 1  # a source stands just left of its user


def test_names_are_escaped_in_the_graph() -> None:
    node = {"kind": "data", "state": "built", "inputs": {}, "wall_seconds": 1.0}
    assert "<b>" not in graph({"<b>": node})


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1234567.0, "1.23e+06"), (12345.6, "12,346"), (0.12347, "0.1235"), (3.0, "3")],
)
def test_numbers_read_as_people_write_them(value: float, text: str) -> None:
    assert number(value) == text


def test_a_constant_curve_is_drawn() -> None:
    assert "polyline" in line_chart([(1, 2.0), (2, 2.0)], "x")


def test_a_case_of_a_metric_has_its_meaning() -> None:
    assert describe("eval/accuracy_ppo_rag") == METRICS["eval/accuracy"]
    assert describe("objective/kl") == METRICS["objective/kl"]
    assert describe("nothing/at_all") == ("", "")


def test_metrics_that_two_nodes_share_are_qualified() -> None:
    metrics = {"rm": {"rm/accuracy": 0.7}, "rm_1": {"rm/accuracy": 0.8, "x": 1.0}}
    merged = merge_metrics(metrics, {"rm": "rm", "rm_1": "rm"})
    assert merged == {"rm/accuracy": 0.7, "rm_1:rm/accuracy": 0.8, "x": 1.0}


def test_an_infinite_number_does_not_end_a_report() -> None:
    assert number(float("inf")) == "inf"
    assert number(float("nan")) == "n/a"


def test_reliability_is_drawn_with_the_line_of_the_calibrated() -> None:
    bins = [
        {"sureness": 0.55, "share": 0.4, "n": 10.0},
        {"sureness": 0.95, "share": 1.0, "n": 40.0},
    ]
    drawn = reliability(bins)
    assert drawn.count("<circle") == 2
    assert "sure to 0.55: right in 0.4 of 10" in drawn
    assert 'class="zero"' in drawn
    assert reliability([]) == ""


def test_a_report_card_is_a_table_with_its_reliability(tmp_path: Path) -> None:
    folder = tmp_path / "rm"
    folder.mkdir()
    card = {
        "accuracy": {"value": 0.75, "low": 0.7, "high": 0.8, "n": 200},
        "reliability": [{"low": 0.7, "high": 0.8, "sureness": 0.75, "share": 0.7, "n": 20}],
        "adversarial": {"longer": {"value": 0.6, "low": 0.5, "high": 0.7, "n": 90}},
    }
    (folder / "report_card.json").write_text(json.dumps(card), "utf-8")
    table = {"title": "where the time goes", "columns": ["part", "seconds"], "rows": [["ref", 2]]}
    (folder / "tables.json").write_text(json.dumps([table]), "utf-8")
    page, markdown = render(record(), {"rm": folder})
    assert 'aria-label="reliability"' in page
    assert "adversarial · longer" in page
    assert "rm: where the time goes" in page
    assert '<td>ref<td class="n">2' in page
    assert "adversarial · longer" in markdown


def test_headlines_are_the_known_ones_and_those_of_studies() -> None:
    summary = {
        "summary/rm/ece_pairs": 0.1,
        "summary/rm/ece_pairs_low": 0.0,
        "methods/labels_ppo": 3.0,
        "methods/gold_gain_ppo": 1.0,
    }
    by_node = {"sft": {"sft/loss": 2.0, "sft/rows": 5.0}, "summary": summary}
    kinds = {"sft": "sft", "summary": "summary"}
    found = headlines_of(by_node, kinds, {"summary": {"run": "sft"}}, ["summary"])
    assert found == {
        "sft/loss": "sft",
        "summary/rm/ece_pairs": "summary",
        "methods/gold_gain_ppo": "summary",
    }
    assert describe("summary/rm/ece_pairs") == describe("rm/ece") != ("", "")


def test_headlines_are_those_of_the_goals_and_name_their_node() -> None:
    by_node = {
        "ppo": {"objective/kl": 1.0},
        "ppo_2": {"objective/kl": 2.0},
        "eval": {},
        "compare": {"ppo/gold_gain": 0.5},
        "compare_2": {"ppo/gold_gain": 0.7},
    }
    kinds = {name: name.split("_")[0] for name in by_node}
    inputs = {
        "ppo_2": {"policy": "ppo"},
        "eval": {"policy": "ppo"},
        "compare": {"policy": "eval"},
        "compare_2": {"policy": "ppo_2"},
    }

    def told(*goals: str) -> dict[str, str]:
        return headlines_of(by_node, kinds, inputs, goals)

    assert told("ppo_2") == {"ppo_2:objective/kl": "ppo_2"}  # though it starts from ppo
    assert told("ppo") == {"objective/kl": "ppo"}
    assert told("compare", "compare_2") == {
        "ppo_2:objective/kl": "ppo_2",
        "ppo/gold_gain": "compare",
        "compare_2:ppo/gold_gain": "compare_2",
    }
    merged = merge_metrics(by_node, kinds)
    assert set(told("compare", "compare_2")) <= set(merged)
    assert describe("ppo_2:objective/kl") == describe("objective/kl")


def test_a_metric_of_many_nodes_is_no_headline() -> None:
    by_node = {f"ppo@seed={i}": {"objective/kl": float(i)} for i in range(5)}
    kinds = dict.fromkeys(by_node, "ppo")
    assert headlines_of(by_node, kinds, {}, list(by_node)) == {}
    assert len(headlines_of(by_node, kinds, {}, list(by_node)[:4])) == 4


def test_fine_tuning_on_chosen_answers_has_its_gain_as_a_headline() -> None:
    """compare_reject compares a policy of kind sft."""
    metrics = {"sft/gold_gain": 0.4, "sft/gold_gain_low": 0.1, "sft/reward_gain": 0.2}
    found = headlines_of({"c": metrics}, {"c": "compare"}, {}, ["c"])
    assert found == {"sft/reward_gain": "c", "sft/gold_gain": "c"}
