"""What a report shows of a whole run: seeds' bands, reward against KL, times, directions, and the
page in a real browser.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from browser import open_browser

from plumbrule.report import render_report
from plumbrule.report.curves import by_seed
from plumbrule.report.frontier import draw_frontier, frontier
from plumbrule.report.metric_wording import BETTER, DIRECTIONS, direction
from plumbrule.report.times import where_time_went
from plumbrule.store.artifacts import Artifact
from plumbrule.tracking.stage_tracker import FileTracker


def node(kind: str, **more: Any) -> dict[str, Any]:
    about = {"kind": kind, "state": "built", "why": "new", "inputs": {}, "wall_seconds": 2.0}
    return {**about, "hardware": {}, "artifact": f"artifacts/{kind}/1", "metrics": {}, **more}


def record(nodes: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "try",
        "id": "20260101-000000-abcdef",
        "overrides": [],
        "seed": 0,
        "notes": [],
        "git": {},
        "versions": {},
        "headline": ["ppo/gold_gain"],
        "metrics": {"ppo/gold_gain": 1.0, "time/total_seconds": 9.0},
        "nodes": nodes,
    }


def seeded_run(tmp_path: Path, seeds: int = 3) -> tuple[dict[str, Any], dict[str, Path]]:
    """Return record and folders of PPO with some seeds, each compared with its start."""
    nodes: dict[str, Any] = {"sft": node("sft", state="cached"), "eval_sft": node("eval")}
    folders = {}
    for seed in range(seeds):
        end = f"@seed={seed}"
        nodes[f"ppo{end}"] = node(
            "ppo", inputs={"policy": "sft"}, metrics={"objective/kl": 2.0 + seed}
        )
        nodes[f"eval{end}"] = node("eval", inputs={"policy": f"ppo{end}"})
        nodes[f"compare{end}"] = node(
            "compare", inputs={"baseline": "eval_sft", "policy": f"eval{end}"}
        )
        rows = [
            {
                "update": u,
                "objective/kl": u / 2,
                "objective/scores": float(u + seed),
                "reward/gold_raw": float(u - seed),
                "time/generate_seconds": 0.25,
                "time/update_seconds": 0.125,
            }
            for u in range(1, 5)
        ]
        folder = folders[f"ppo{end}"] = tmp_path / f"ppo{seed}"
        folder.mkdir()
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        compared = {"what": "gold_gain", "condition": "all", "baseline": 1.0, "policy": 2.0}
        compared |= {"difference": 1.0 + seed, "low": 0.5, "high": 3.5, "n": 90, "groups": 45}
        folder = folders[f"compare{end}"] = tmp_path / f"compare{seed}"
        folder.mkdir()
        (folder / "comparisons.json").write_text(json.dumps([compared]))
    return record(nodes), folders


def test_seeds_are_thin_lines_and_from_three_on_a_mean_with_its_band(tmp_path: Path) -> None:
    page, _ = render_report(*seeded_run(tmp_path))
    charts = re.findall(r"<figure>(.*?)</figure>", page, re.S)
    (chart,) = (c for c in charts if "<b>objective/scores</b>" in c)
    assert chart.count('class="thin c0"') == 3
    assert chart.count("<polygon") == 1
    assert "mean of the seeds, with Student&#39;s 95 % interval over them as a band" in chart
    assert "3 seeds</span>" in chart
    (tmp_path / "two").mkdir()
    page, _ = render_report(*seeded_run(tmp_path / "two", seeds=2))
    (chart,) = (c for c in re.findall(r"<figure>(.*?)</figure>", page, re.S) if "scores</b>" in c)
    assert (chart.count('class="thin c0"'), chart.count("<polygon")) == (2, 0)
    assert "as a band" not in chart


def test_a_band_is_students_interval_by_hand() -> None:
    """Values 1, 2, 3: mean 2, deviation 1, quantile of 2 degrees 4.3027: 2 -+ 4.3027 / sqrt(3)."""
    from plumbrule.report.curves import _mean_over_seeds

    curves = [[(1.0, y), (2.0, 5.0)] for y in (1.0, 2.0, 3.0)]
    first, second = _mean_over_seeds([*curves[:2], [*curves[2], (3.0, 1.0)]])
    wide = 4.302653 / math.sqrt(3)
    assert first == pytest.approx((1.0, 2.0, 2.0 - wide, 2.0 + wide))
    assert second == (2.0, 5.0, 5.0, 5.0)  # at 3 one seed has a point: no mean


def test_variations_are_told_apart_by_all_but_their_seed() -> None:
    cells = {f"seed={s} kl.coef={c}": [(1.0, 1.0)] for s in (0, 1) for c in (0.1, 0.4)}
    assert {name: len(own) for name, own in by_seed(cells).items()} == {
        "kl.coef=0.1": 2, "kl.coef=0.4": 2
    }  # fmt: skip


def test_the_frontier_holds_who_gains_more_than_all_with_a_smaller_kl() -> None:
    points = [(0.0, 0.0), (3.0, 1.0), (1.0, 0.5), (2.0, 0.4), (3.0, 0.9), (5.0, 0.7)]
    assert frontier(points) == [(0.0, 0.0), (1.0, 0.5), (3.0, 1.0)]


def test_policies_stand_at_their_kl_with_the_interval_of_their_gain(tmp_path: Path) -> None:
    page, _ = render_report(*seeded_run(tmp_path))
    part = page[page.index('id="frontier"') : page.index('id="compare-')]
    assert "gain in gold utility" in part
    for kl, gain in ((2, 1), (3, 2), (4, 3)):
        assert f"ppo: {kl}, {gain} [0.5, 3.5]" in part
    assert part.count('class="dashes c7"') == 1
    assert part.count('class="way c0"') == part.count('class="way c1"') == 3  # reward and gold
    nothing = record({"sft": node("sft")})
    assert 'id="frontier"' not in render_report(nothing, {})[0]


def test_time_is_told_apart_by_whether_it_was_spent_here(tmp_path: Path) -> None:
    whole, folders = seeded_run(tmp_path, seeds=2)
    whole["nodes"]["ppo@seed=1"]["state"] = "cached"
    opened = {"ppo@seed=0": Artifact.of(folders["ppo@seed=0"], "ppo")}
    found = where_time_went(whole["nodes"], opened)
    rows = {row["name"]: (row["seconds"], row["built"], row["stored"]) for row in found["rows"]}
    assert rows["ppo"] == ("4", 50.0, 50.0)
    assert rows["sft"] == ("2", 0.0, 50.0)
    assert rows["compare"] == ("4", 100.0, 0.0)
    assert found["sentence"].startswith("This run built for 12 s")
    assert "had taken 4 s" in found["sentence"]
    ((name, parts),) = found["parts"]  # four updates of 0.25 and 0.125 s in a node of 2 s
    assert name == "ppo@seed=0"
    assert {p["name"]: p["share"] for p in parts} == {
        "sampling": 50.0, "training": 25.0, "the rest: loading, writing, publishing": 25.0
    }  # fmt: skip


def test_numbers_that_were_logged_as_text_are_left_out(tmp_path: Path) -> None:
    """`FileTracker` writes NaN and Inf as text, which JSON has no numbers for."""
    whole, folders = seeded_run(tmp_path, seeds=1)
    path = folders["ppo@seed=0"] / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    path.unlink()
    tracker = FileTracker(folders["ppo@seed=0"])
    rows[1] |= {"objective/kl": math.nan, "time/generate_seconds": math.nan}
    rows[2] |= {"objective/scores": math.inf}
    for row in rows:
        tracker.log({name: value for name, value in row.items() if name != "update"}, row["update"])
    opened = {"ppo@seed=0": Artifact.of(folders["ppo@seed=0"], "ppo")}
    (figure,) = draw_frontier(whole["nodes"], {}, opened)
    assert [len(line["points"]) for line in figure["series"]] == [2, 3]
    ((_, parts),) = where_time_went(whole["nodes"], opened)["parts"]
    assert parts[0]["share"] == 37.5  # three updates of 0.25 s in a node of 2 s
    assert render_report(whole, folders)[0]


@pytest.mark.parametrize(
    ("name", "sign"),
    [
        ("gold_gain", 1),
        ("ppo/gold_gain", 1),
        ("dpo_2:dpo/gold_gain_right_rag", 1),
        ("eval/accuracy_sft_rag", 1),
        ("known_accuracy_change", 1),
        ("ppo/confident_wrong_change_closed", -1),
        ("eval/halueval_qa_failure_rate_ppo", -1),
        ("halueval_qa_accuracy_change", 1),
        ("reading_abstain_change", 1),
        ("summary/rm/ece_pairs", -1),
        ("rm/accuracy_noise_free", 1),
        ("objective/kl", 0),
        ("proxy_change", 0),
        ("eval/words_ppo_closed", 0),
        ("ppo/gold_win_rate_ties", 0),
        ("mine/unknown", 0),
    ],
)
def test_a_metric_says_in_its_wording_whether_it_should_rise(name: str, sign: int) -> None:
    assert direction(name) == sign


def test_directions_are_said_in_two_words() -> None:
    assert set(DIRECTIONS.values()) == set(BETTER.values()) == {1, -1}


def test_colour_and_arrow_follow_the_direction_and_the_legend_says_what_an_interval_is(
    tmp_path: Path,
) -> None:
    row = {"condition": "closed", "baseline": 1.0, "policy": 0.5, "difference": -0.5, "n": 90}
    rows = [
        {**row, "what": what, "low": -0.75, "high": -0.25}
        for what in ("gold_gain", "confident_wrong_change", "words_change")
    ]
    (tmp_path / "comparisons.json").write_text(json.dumps(rows))
    page, _ = render_report(record({"compare": node("compare")}), {"compare": tmp_path})
    assert re.findall(r'<b class="(\w+)">-0.5</b>', page) == ["bad", "good", "change"]
    cells = re.findall(r"<tr><td>(\w+)(.*?)<td>closed", page)
    arrows = {name: re.findall("[↑↓]", rest) for name, rest in cells}
    assert arrows == {"gold_gain": ["↑"], "confident_wrong_change": ["↓"], "words_change": []}
    assert "<b>What an interval is.</b>" in page


def test_a_report_links_the_pages_of_its_rollouts_or_says_how_they_are_made() -> None:
    whole = record({"ppo": node("ppo")})
    page, markdown = render_report(whole, {}, {"ppo": "rollouts.html"})
    assert '<a href="rollouts.html">the rollouts of ppo</a>' in page
    assert "[the rollouts of ppo](rollouts.html)" in markdown
    page, markdown = render_report(whole, {}, {"ppo": None})
    asked = "plumbrule rollouts 20260101-000000-abcdef"
    assert asked in page
    assert asked in markdown
    assert 'id="rollouts"' not in render_report(whole, {})[0]


def test_a_browser_opens_it_without_a_word_on_the_console(tmp_path: Path) -> None:
    page, _ = render_report(*seeded_run(tmp_path))
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    with open_browser(tmp_path / "profile") as browser:
        browser.get((tmp_path / "report.html").as_uri())
        script = (
            "return [...document.querySelectorAll('svg')].map((e) => e.getBoundingClientRect())"
            ".every((box) => box.width > 100 && box.height > 15)"
        )
        assert browser.execute_script(script)
        assert browser.execute_script("return document.querySelectorAll('svg.plot').length") > 2
        colour = "return getComputedStyle(document.querySelector('.plot .c0')).color"
        light = browser.execute_script(colour)
        dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
        assert browser.execute_script(colour) != light
        size = {"width": 380, "height": 800, "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 380
        assert browser.get_log("browser") == []
