"""The report: self-contained, honest about intervals, safe with any text."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from plumbrule.pipeline.run_record import HEADLINE, headlines_of, merge_metrics
from plumbrule.report import render_report
from plumbrule.report.answers import answer, by_condition
from plumbrule.report.figures import (
    CHARACTER,
    graph,
    layers,
    line_chart,
    number,
    reliability,
    ticks,
)
from plumbrule.report.metric_wording import (
    WORDINGS,
    bounds_text,
    describe,
    read_wording,
    within,
    wording_files,
)
from plumbrule.report.number_tables import benchmark_tables, comparison_rows, stage_table


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
    html, markdown = render_report(whole, {"ppo": tmp_path})
    for text in ("1.5", "1.2 to 1.8", "A rehearsal.", "3 prompts were left out.", "polyline"):
        assert text in html, text
    anchors = re.findall(r'href="#([^"]+)"', html)
    assert {"curves-ppo", "graph", "again"} <= set(anchors)
    assert all(f'id="{anchor}"' in html for anchor in anchors)
    assert "'reward.terms=[{name: gold}]'" in markdown
    assert "| ppo | ppo | sft |" in markdown
    assert not re.findall(r"src=|href=\"(?!#)", html)
    assert "<script" not in html


def test_text_of_a_policy_cannot_break_the_page(tmp_path: Path) -> None:
    row = {"id": "1", "response": "<script>alert(1)</script> | a\nb"}
    (tmp_path / "samples.jsonl").write_text(json.dumps(row) + "\n")
    html, markdown = render_report(record(), {"ppo": tmp_path})
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "\\| a b" in markdown


def test_a_headline_name_breaks_behind_its_signs_and_nowhere_else(tmp_path: Path) -> None:
    whole = record(**{"compare:ppo/known_<b>_change": 0.5})
    whole["headline"] = ["compare:ppo/known_<b>_change"]
    html, markdown = render_report(whole, {"ppo": tmp_path})
    shown = "compare:<wbr>ppo/<wbr>known_<wbr>&lt;b&gt;_<wbr>change"
    assert f"<h2>{shown}</h2>" in html
    assert "compare:ppo/known_<b>_change" in markdown


def test_an_unknown_bound_shows_no_interval() -> None:
    row = {"what": "gold_gain", "condition": "closed", "baseline": 1, "policy": 2, "n": 1}
    shown = comparison_rows([{**row, "difference": 1, "low": None, "high": None}])
    assert shown[0]["interval"] == ""
    assert shown[0]["bar"] == ""


def test_benchmarks_stand_side_by_side_with_gaps_where_nothing_was_measured() -> None:
    share = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10}
    (table,) = benchmark_tables(
        {
            "eval_sft": {"questions": {"closed": {"accuracy": share}}},
            "eval": {"questions": {"closed": {"abstain": {"value": 1.0, "low": None, "n": 1}}}},
        }
    )
    assert table["columns"] == ["eval_sft", "eval"]
    assert [row[:2] for row in table["rows"]] == [("accuracy", 1), ("abstain", 0)]
    (measured, missing), (blank, unbounded) = (cells for _, _, cells in table["rows"])
    assert (measured["value"], measured["bounds"]) == ("0.5", "0.4 to 0.6 · n 10")
    assert missing == blank == {"value": "", "interval": "", "n": "", "groups": "", "bounds": ""}
    assert (unbounded["value"], unbounded["bounds"]) == ("1", "n 1")


def test_items_and_groups_stand_beside_every_interval(tmp_path: Path) -> None:
    number = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 40, "groups": 8}
    few = {**number, "low": None, "high": None, "reason": "too few: 2 groups of at least 5"}
    (table,) = benchmark_tables({"eval": {"bold": {"closed": {"a": number, "b": few}}}})
    (known, unknown) = (cells[0]["bounds"] for _, _, cells in table["rows"])
    assert known == "0.4 to 0.6 · n 40 · groups 8"
    assert unknown == "too few: 2 groups of at least 5 · n 40 · groups 8"
    written = {"compare": {"ppo/gold_gain": number}, "rm": {"accuracy": few}}
    for name, file in (("compare", "intervals.json"), ("rm", "report_card.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(json.dumps(written[name]))
    row = {"what": "gold_gain", "condition": "all", "baseline": 1, "policy": 2, "difference": 1}
    rows = [{**row, "low": 0.4, "high": 1.6, "n": 40, "groups": 8}]
    (tmp_path / "compare" / "comparisons.json").write_text(json.dumps(rows))
    whole = record(**{"ppo/gold_gain_low": 0.4, "ppo/gold_gain_high": 0.6})
    html, markdown = render_report(whole, {name: tmp_path / name for name in written})
    assert "<small>n 40 · groups 8</small>" in html
    assert "too few: 2 groups of at least 5" in html
    assert "| 0.4 to 1.6 | 40 | 8 |" in markdown
    assert "| n 40 · groups 8 |" in markdown


def test_a_headline_without_an_interval_says_why(tmp_path: Path) -> None:
    few = {"value": 1.5, "low": None, "high": None, "n": 3, "groups": 3, "reason": "too few: 3"}
    (tmp_path / "intervals.json").write_text(json.dumps({"ppo/gold_gain": few}))
    html, _ = render_report(record(), {"compare": tmp_path})
    assert "too few: 3<br><small>n 3 · groups 3</small>" in html


@pytest.mark.parametrize(
    ("what", "above", "below"),
    [
        ("gold_gain", "good", "bad"),
        ("confident_wrong_change", "bad", "good"),
        ("words_change", "change", "change"),
    ],
)
def test_a_fall_is_coloured_by_whether_the_metric_should_rise(what, above, below) -> None:
    row = {"what": what, "condition": "closed", "baseline": 1, "policy": 2, "n": 9}
    cases = {above: (0.5, 1.5), below: (-1.5, -0.5), "level": (-0.5, 0.5)}
    for colour, (low, high) in cases.items():
        if above == below and colour != "level":
            low, high = -1.5, -0.5
        shown = comparison_rows([{**row, "difference": 0.1, "low": low, "high": high}])
        assert f'class="interval {colour}"' in shown[0]["bar"]


def evaluated_nodes() -> dict[str, Any]:
    """Nodes of a run that compares a PPO with its start."""
    return {
        "ppo": {"inputs": {"policy": "sft"}, "metrics": {"objective/kl": 1.84}},
        "eval_sft": {"inputs": {"policy": "sft"}},
        "eval": {"inputs": {"policy": "ppo"}},
        "compare": {"inputs": {"baseline": "eval_sft", "policy": "eval"}},
    }


def compared(what: str, low: float, high: float, condition: str = "all") -> dict[str, Any]:
    middle = (low + high) / 2
    about = {"what": what, "condition": condition, "low": low, "high": high, "n": 90}
    return {**about, "baseline": 0.0, "policy": middle, "difference": middle}


def test_a_report_begins_with_the_answer() -> None:
    rows = [
        compared("gold_gain", 0.5, 1.5),
        compared("gold_gain_right", -0.5, -0.2),  # a term of the sum that the sentence is about
        compared("accuracy_change", -0.3, -0.1, "rag"),
        compared("confident_wrong_change", -0.4, -0.2, "closed"),
        compared("known_accuracy_change", -0.1, 0.1, "closed"),
        compared("words_change", 2.0, 3.0),
    ]
    for what in ("accuracy_change", "confident_wrong_change", "known_accuracy_change"):
        rows += [compared(what, -0.2, 0.2, c) for c in ("all", "rag", "closed")]
    rows = list({(row["what"], row["condition"]): row for row in reversed(rows)}.values())[::-1]
    found = answer("compare", rows, evaluated_nodes())
    assert found["title"] == "ppo against sft"
    assert found["sentence"] == (
        "Gold utility of a response, ppo against sft: ppo raises it by 1 [0.5, 1.5], at a KL of "
        "1.84 nats per response (n = 90)."
    )
    assert found["worse"] == ["accuracy, rag: -0.2 [-0.3, -0.1]"]
    assert found["better"] == ["confident wrong, closed: -0.3 [-0.4, -0.2]"]
    assert (found["num_level"], found["num_judged"]) == (4, 6)


def test_a_row_over_all_conditions_stands_where_there_is_one_condition_only() -> None:
    one = [compared("accuracy_change", 0.1, 0.2, c) for c in ("all", "closed")]
    two = [compared("abstain_unanswerable_change", 0.1, 0.2, c) for c in ("all", "closed", "rag")]
    assert [row["condition"] for row in by_condition([*one, *two])] == ["all", "closed", "rag"]
    assert [row["condition"] for row in comparison_rows([*one, *two])] == [
        "closed", "all", "closed", "rag"
    ]  # fmt: skip


def test_an_interval_around_zero_is_no_gain() -> None:
    found = answer("compare", [compared("gold_gain", -0.5, 1.5)], evaluated_nodes())
    assert "does not measurably change it: +0.5 [-0.5, 1.5]" in found["sentence"]
    few = {**compared("gold_gain", 0.5, 1.5), "low": None, "high": None}
    assert "too few prompts" in answer("compare", [few], evaluated_nodes())["sentence"]
    few["reason"] = "too few: 3 groups of at least 5"  # as the table says it
    assert f"({few['reason']})" in answer("compare", [few], evaluated_nodes())["sentence"]
    assert answer("compare", [compared("words_change", 1, 2)], evaluated_nodes()) is None


def test_a_fall_is_told_without_a_minus() -> None:
    found = answer("compare", [compared("gold_gain", -1.1, -0.5)], evaluated_nodes())
    assert "ppo lowers it by 0.8 [0.5, 1.1]" in found["sentence"]


def test_each_value_of_a_varied_setting_has_its_answer_and_further_seeds_none(
    tmp_path: Path,
) -> None:
    whole, folders = record(), {}
    for place, coef in enumerate(("0.1", "0.4")):
        for seed in ("0", "1"):
            end = f"@seed={seed}@kl.coef={coef}"
            for name, inputs in (
                (f"eval{end}", {"policy": f"ppo{end}"}),
                (f"compare{end}", {"baseline": "eval_sft", "policy": f"eval{end}"}),
            ):
                whole["nodes"][name] = {**whole["nodes"]["ppo"], "inputs": inputs}
            folders[f"compare{end}"] = tmp_path / end
            folders[f"compare{end}"].mkdir()
            rows = [compared("gold_gain", place + 0.5, place + 1.5)]
            (tmp_path / end / "comparisons.json").write_text(json.dumps(rows))
    whole["nodes"]["eval_sft"] = {**whole["nodes"]["ppo"], "inputs": {"policy": "sft"}}
    page, _ = render_report(whole, folders)
    for coef, gain in (("0.1", "1"), ("0.4", "2")):
        policy = f"ppo@seed=0@kl.coef={coef}"
        assert f"{policy} raises it by {gain} [" in page
    assert page.count('class="lead"') == 2


def test_the_goals_card_stands_first_and_is_larger() -> None:
    whole = record(**{"rm/accuracy": 0.7, "ppo/reward_gain": 1.0})
    whole["headline"] = ["rm/accuracy", "ppo/reward_gain", "ppo/gold_gain"]
    whole["headline_nodes"] = {
        "rm/accuracy": "rm",
        "ppo/reward_gain": "compare",
        "ppo/gold_gain": "compare",
    }
    whole["config"] = {"run": {"only": None, "goals": ["compare", "rm"]}}
    page, _ = render_report(whole, {})
    cards = re.findall(r'<article class="(card[^"]*)">\s*<h2>(.*?)</h2>', page)
    shown = [(kind, name.replace("<wbr>", "")) for kind, name in cards]
    assert shown == [
        ("card main", "ppo/gold_gain"),
        ("card", "ppo/reward_gain"),
        ("card", "rm/accuracy"),
    ]


def test_notes_and_samples_say_nothing_twice_and_no_keys(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text(json.dumps(["ppo: 3 rows left out."]))
    row = {"prompt": "Hi", "passages": ["News: a.", "Entry: b."], "key": 16810209329975523137}
    (tmp_path / "samples.jsonl").write_text(json.dumps(row) + "\n")
    page, markdown = render_report(record(), {"ppo": tmp_path})
    assert "> **ppo**: 3 rows left out." in markdown
    assert "16810209329975523137" not in page + markdown
    assert "- News: a.\n- Entry: b." in page


def test_every_headline_metric_has_a_unit_and_a_meaning() -> None:
    for name in HEADLINE:
        unit, meaning = describe(name)
        assert meaning, name
        assert unit or "perplexity" in name, name


@pytest.mark.parametrize(
    ("name", "bounds", "shown"),
    [
        ("rm/accuracy", (-5.853, 6.853), (0.0, 1.0)),
        ("eval/words_ppo_closed", (-3.13, 20.0), (0.0, 20.0)),
        ("words", (-3.13, 20.0), (0.0, 20.0)),
        ("rm/loss", (-0.2, 1.5), (0.0, 1.5)),
        ("ppo/gold_gain", (-0.5, 1.5), (-0.5, 1.5)),
        ("ppo/known_accuracy_change_closed", (-0.5, 0.5), (-0.5, 0.5)),
        ("objective/kl", (-0.01, 0.2), (-0.01, 0.2)),  # an estimate that may be negative
        ("mine/unknown", (-2.0, 2.0), (-2.0, 2.0)),
    ],
)
def test_no_bound_lies_where_its_metric_can_not(name, bounds, shown) -> None:
    assert within(name, *bounds) == shown
    assert within(name, None, None) == (None, None)
    metrics = {f"{name}_low": bounds[0], f"{name}_high": bounds[1]}
    assert bounds_text(name, metrics) == f"  [{shown[0]:.4g}, {shown[1]:.4g}]"


@pytest.mark.parametrize("values", [(-0.0834, 0.021), (1e-5, 3e-5), (-1234.5, 99.0), (2.0, 2.0)])
def test_axis_labels_are_round_and_have_the_room_they_need(values) -> None:
    found = ticks(values, most=3)
    assert found[0] <= min(values)
    assert found[-1] >= max(values)
    steps = {round((b - a) / (found[1] - found[0]), 6) for a, b in itertools.pairwise(found)}
    assert steps == {1.0}
    svg = line_chart([(1, values[0]), (2, values[1])], "x")
    for x, text in re.findall(r'<text x="([\d.]+)"[^>]*text-anchor="end">(-[^<]*)<', svg):
        assert float(x) >= CHARACTER * len(text) or float(x) > 200, (x, text)


def test_variations_share_their_axes_and_have_a_result_table(tmp_path: Path) -> None:
    whole = record()
    whole["nodes"], folders = {}, {}
    for n, coef in enumerate(("0.1", "0.4")):
        name = f"ppo@kl.coef={coef}"
        folders[name] = tmp_path / coef
        folders[name].mkdir()
        rows = [{"update": u, "objective/kl": u * (n + 1)} for u in range(1, 4)]
        (folders[name] / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        whole["nodes"][name] = {
            **record()["nodes"]["ppo"],
            "metrics": {"objective/kl": 3.0 * (n + 1), "lr/policy": 1.0},
        }
        whole["metrics"][f"{name}:objective/kl"] = 3.0 * (n + 1)
    whole["headline"] = [f"ppo@kl.coef={coef}:objective/kl" for coef in ("0.1", "0.4")]
    page, markdown = render_report(whole, folders)
    assert page.index("results of its 2 variations") < page.index('id="headline"')
    assert "| kl.coef=0.4 | 6 |" in markdown
    (chart,) = re.findall(r'<svg class="plot".*?</svg>', page)
    assert chart.count("<polyline") == 2
    assert "kl.coef=0.1" in page[page.index(chart) :]


def test_responses_stand_beside_those_before(tmp_path: Path) -> None:
    whole = record()
    whole["nodes"] |= {
        name: {**whole["nodes"]["ppo"], **about} for name, about in evaluated_nodes().items()
    }
    folders = {}
    for name, response, gold in (("eval_sft", "It is red.", 0.5), ("eval", "I do not know.", 2.5)):
        folders[name] = tmp_path / name
        folders[name].mkdir()
        row = {"id": "p", "benchmark": "prompts", "condition": "closed", "prompt": "What is it?"}
        row |= {"passages": [], "response": response, "gold": gold, "proxy": 1.0}
        (folders[name] / "samples.jsonl").write_text(json.dumps(row) + "\n")
    folders["compare"] = tmp_path / "compare"
    folders["compare"].mkdir()
    rows = [compared("gold_gain", 0.5, 1.5)]
    (folders["compare"] / "comparisons.json").write_text(json.dumps(rows))
    page, _ = render_report(whole, folders)
    pair = page[page.index('class="pair"') :]
    assert pair.index("It is red.") < pair.index("gold 0.5") < pair.index("I do not know.")
    assert "gold 2.5 · proxy 1" in pair


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
    assert describe("eval/accuracy_ppo_rag") == WORDINGS["eval/accuracy"]
    assert describe("objective/kl") == WORDINGS["objective/kl"]
    assert describe("nothing/at_all") == ("", "")
    auroc, balanced = "eval/halueval_*_auroc", "eval/halueval_*_balanced_accuracy"
    assert describe("eval/halueval_qa_auroc_sft") == WORDINGS[auroc]
    assert describe("eval/halueval_qa_balanced_accuracy_ppo") == WORDINGS[balanced]
    assert describe("sft/bold_all_gap_change").meaning.endswith("positive texts, of a domain")
    assert within("eval/gold_proxy_spearman_sft_closed", -0.2, 0.4) == (-0.2, 0.4)


def test_a_metric_has_its_wording_in_one_file() -> None:
    names = [name for path in wording_files() for name in read_wording(path)]
    assert [name for name, times in Counter(names).items() if times > 1] == []
    assert set(names) == set(WORDINGS)


def test_every_headline_metric_has_a_wording() -> None:
    missing = [name for name in HEADLINE if not describe(name).meaning]
    assert missing == []


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
    page, markdown = render_report(record(), {"rm": folder})
    assert 'aria-label="reliability"' in page
    assert "adversarial · longer" in page
    assert "rm: where the time goes" in page
    assert '<td>ref<td class="n">2' in page
    assert "adversarial · longer" in markdown


def test_the_interval_in_a_stages_table_ends_where_its_metric_does(tmp_path: Path) -> None:
    number = {"value": 0.9, "low": -4.0, "high": 5.8, "n": 2, "groups": None}
    table = {"title": "means", "columns": ["metric", "mean"], "rows": []}
    for metric in ("rm/accuracy", "methods/gold_gain"):
        table["rows"].append([metric, {"metric": metric, **number}])
    rows = stage_table(table)["rows"]
    assert rows[0] == ["rm/accuracy", "0.9000 [0.0000, 1.0000]"]
    assert rows[1] == ["methods/gold_gain", "0.9000 [-4.0000, 5.8000]"]
    unknown = {"metric": "rm/accuracy", **number, "low": None, "high": None}
    assert stage_table({"rows": [[unknown]]})["rows"] == [["0.9000"]]


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
