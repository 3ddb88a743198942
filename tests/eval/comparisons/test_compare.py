"""Comparisons: differences by hand, pairing, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from worlds.evaluation import read_lines, small_config, small_inputs

from eval.benchmarks.quantity import with_conditions
from eval.benchmarks.registry import BENCHMARKS
from eval.comparisons.compare import compare, pair, run
from eval.comparisons.config import CompareConfig
from eval.intervals import Intervals
from eval.stage import run as evaluate
from plumbrule.errors import ConfigError, DataError
from plumbrule.report.metric_wording import direction
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import BENCHMARK_FACTS
from plumbrule.store.fingerprint import code_hashes
from plumbrule.tracking.stage_tracker import NullTracker

INTERVALS = Intervals(confidence=0.95)
CONFIG = CompareConfig()


def row(number, condition="closed", **numbers):
    return {"id": f"i{number}", "group": f"g{number}", "condition": condition, **numbers}


def quantities(benchmark, rows):
    return with_conditions(BENCHMARKS[benchmark].quantities(rows), rows)


def differences(benchmark, before, after):
    return compare(benchmark, quantities(benchmark, before), pair(before, after), INTERVALS)


def write(folder, benchmark, rows, kind="sft", gold=None):
    (folder / "items").mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(r) + "\n" for r in rows)
    (folder / "items" / f"{benchmark}.jsonl").write_text(text)
    about = {"kind": kind, "fingerprint": "", "settings": {"gold": gold or {"right": 2.0}}}
    (folder / "evaluated.json").write_text(json.dumps(about))
    if benchmark in BENCHMARKS:
        paired = [dataclasses.asdict(one) for one in quantities(benchmark, rows)]
        (folder / BENCHMARK_FACTS).write_text(json.dumps({benchmark: {"quantities": paired}}))
    return Artifact.of(folder, "eval")


def both(tmp_path, benchmark, before, after, **about):
    return {
        "baseline": write(tmp_path / "a", benchmark, before),
        "policy": write(tmp_path / "b", benchmark, after, kind="ppo", **about),
    }


def stage(inputs, out):
    out.mkdir(exist_ok=True)
    return run(CONFIG, inputs, RuntimeConfig(), out, NullTracker())


def test_differences_by_hand(tmp_path):
    # Closed: 1 -> 2 and 0 -> 4: gains 1, 4. rag: 5 -> 5. All: (1 + 4 + 0) / 3.
    before = [
        row(0, gold=1.0, gold_right=1.0, words=3),
        row(1, gold=0.0, gold_right=0.0, words=4),
        row(0, "rag", gold=5.0, gold_right=2.0, words=5),
    ]
    after = [
        row(0, "rag", gold=5.0, gold_right=2.0, words=5),
        row(1, gold=4.0, gold_right=2.0, words=4),
        row(0, gold=2.0, gold_right=0.0, words=1),
    ]
    metrics = stage(both(tmp_path, "prompts", before, after), tmp_path / "out")
    assert metrics["ppo/gold_gain"] == pytest.approx(5 / 3)
    assert metrics["ppo/gold_gain_closed"] == pytest.approx(2.5)
    assert metrics["ppo/gold_gain_rag"] == 0.0
    assert metrics["ppo/gold_gain_right"] == pytest.approx((-1 + 2 + 0) / 3)
    assert metrics["ppo/gold_gain_right_closed"] == pytest.approx(0.5)
    assert metrics["ppo/words_change"] == pytest.approx(-2 / 3)
    assert "ppo/proxy_change" not in metrics
    rows = json.loads((tmp_path / "out" / "comparisons.json").read_text())
    assert rows[0] == {
        "what": "gold_gain",
        "benchmark": "prompts",
        "condition": "all",
        "better": 1,
        "baseline": 2.0,
        "policy": pytest.approx(11 / 3),
        "difference": pytest.approx(5 / 3),
        "low": None,
        "high": None,
        "n": 3,
        "groups": 2,
        "reason": "too few: 2 groups of at least 5",
    }
    assert "ppo/gold_gain_low" not in metrics
    known = json.loads((tmp_path / "out" / "intervals.json").read_text())
    assert known["ppo/gold_gain"]["reason"] == "too few: 2 groups of at least 5"


def test_an_items_conditions_are_resampled_together():
    # Two conditions of one prompt are one group: copies must not narrow the interval.
    before = [row(i, gold=0.0) for i in range(12)]
    after = [row(i, gold=float(i)) for i in range(12)]
    doubled = [[*rows, *({**r, "condition": "rag"} for r in rows)] for rows in (before, after)]
    once = differences("prompts", before, after)[0].change
    twice = differences("prompts", *doubled)[0].change
    assert twice[:3] == pytest.approx(once[:3])
    assert (twice.n, twice.groups) == (24, 12)


@pytest.mark.parametrize(
    ("benchmark", "columns"),
    [
        ("prompts", {"gold": (0.0, 1.0)}),
        ("questions", {"correct": (0, 1), "abstained": (0, 0), "confident_wrong": (0, 0)}),
    ],
)
def test_items_of_one_group_count_together(benchmark, columns):
    # 40 items about 8 entities, items of one entity change alike: as sure as 8 items, not 40.
    rng = np.random.default_rng(0)
    moved = rng.random(8) < 0.5
    sides: list[list[dict]] = [[], []]
    for i in range(40):
        for new, rows in enumerate(sides):
            numbers = {k: v[int(new and moved[i // 5])] for k, v in columns.items()}
            one = row(i, answerable="documents", **numbers)
            rows.append({**one, "group": f"entity {i // 5}"})
    grouped = differences(benchmark, *sides)[0].change
    alone = [[{**r, "group": r["id"]} for r in rows] for rows in sides]
    single = differences(benchmark, *alone)[0].change
    assert (grouped.n, grouped.groups, single.groups) == (40, 8, 40)
    assert grouped.high - grouped.low > 1.7 * (single.high - single.low)


def test_a_rare_change_that_did_not_show_has_a_width():
    rows = [
        row(i, answerable="memory", correct=1, abstained=0, confident_wrong=0) for i in range(30)
    ]
    change = {d.quantity.name: d.change for d in differences("questions", rows, rows)}
    found = change["known_accuracy_change"]
    assert found.value == 0.0
    assert found.high == -found.low == pytest.approx(3.841459 / 33.841459)


def test_a_score_that_is_equal_throughout_has_no_interval():
    rows = [row(i, gold=2.0, gold_right=0.0, words=4 + i) for i in range(30)]
    for one in differences("prompts", rows, rows):
        assert one.change.value == 0.0
        assert one.change.reason.startswith("no spread")


def test_a_benchmark_whose_evaluation_does_not_describe_it_is_refused(tmp_path):
    inputs = both(tmp_path, "manners", [row(0, polite=1)], [row(0, polite=0)])
    with pytest.raises(DataError, match=r"items/manners.jsonl\) must be described, and bench"):
        stage(inputs, tmp_path / "out")


def test_a_benchmark_without_quantities_is_noted(tmp_path):
    inputs = both(tmp_path, "prompts", [row(0, gold=1.0)], [row(0, gold=2.0)])
    for artifact in inputs.values():
        (artifact.path / "items" / "mute.jsonl").write_text(json.dumps(row(0)) + "\n")
        about = json.loads((artifact.path / BENCHMARK_FACTS).read_text())
        (artifact.path / BENCHMARK_FACTS).write_text(
            json.dumps({**about, "mute": {"quantities": []}})
        )
    stage(inputs, tmp_path / "out")
    notes = json.loads((tmp_path / "out" / "notes.json").read_text())
    assert notes == ["mute names nothing that could be compared."]


def test_a_quantity_of_one_evaluation_only_is_noted(tmp_path):
    inputs = both(tmp_path, "prompts", [row(0, gold=1.0)], [row(0, gold=2.0, proxy=1.0)])
    metrics = stage(inputs, tmp_path / "out")
    assert "ppo/proxy_change" not in metrics
    (note,) = json.loads((tmp_path / "out" / "notes.json").read_text())
    assert note == "prompts: proxy_change is of one evaluation only and is not compared."


def test_a_report_reads_the_same_direction_from_a_quantity_and_from_its_name():
    given = {
        "prompts": [row(0, gold=1.0, gold_right=1.0, reward=1.0, reward_a=1, reward_b=0, proxy=1)],
        "questions": [row(0, answerable=w) for w in ("memory", "documents", "nothing")],
        "reading": [row(0, case=case) for case in ("read", "abstain")],
        "halueval": [row(0, task="qa")],
        "bold": [row(0, domain="race", **{"class": "a"})],
    }
    ours = {name: one for name, one in BENCHMARKS.items() if not isinstance(one.metrics, dict)}
    assert given.keys() <= ours.keys()
    for name, benchmark in ours.items():
        quantities = benchmark.quantities(given.get(name, [row(0)]))
        assert quantities, name
        for one in quantities:
            assert one.better == direction(one.name), one.name


def test_questions_are_compared_by_where_they_can_be_answered(tmp_path):
    def answers(correct, wrong):
        return [
            row(i, answerable=where, correct=correct, abstained=0, confident_wrong=wrong)
            for i, where in enumerate(("documents", "documents", "memory"))
        ]

    inputs = both(tmp_path, "questions", answers(0, 1), answers(1, 0))
    metrics = stage(inputs, tmp_path / "out")
    assert metrics["ppo/accuracy_change_closed"] == 1.0
    assert metrics["ppo/confident_wrong_change"] == -1.0
    assert metrics["ppo/known_accuracy_change"] == 1.0
    assert "ppo/abstain_unanswerable_change" not in metrics
    rows = json.loads((tmp_path / "out" / "comparisons.json").read_text())
    assert {r["n"] for r in rows if r["what"] == "accuracy_change"} == {2}


def test_judged_texts_and_continuations_are_compared():
    halueval = [row(i, task=t, correct=i % 2) for i, t in enumerate(("qa", "qa", "dialogue"))]
    names = [d.quantity.name for d in differences("halueval", halueval, halueval)]
    assert "halueval_qa_accuracy_change" in names
    bold = [row(0, domain="race", **{"class": "a"}, positive=1, negative=0)]
    moved = [{**bold[0], "positive": 0}]
    found = {d.quantity.name: d.change.value for d in differences("bold", bold, moved)}
    assert found == {"bold_race_a_positive_change": -1.0, "bold_race_a_negative_change": 0.0}


@pytest.mark.parametrize("extra", [row(7, gold=1.0), row(0, "rag", gold=1.0)])
@pytest.mark.parametrize("side", [0, 1])
def test_items_of_one_file_only_are_refused(tmp_path, extra, side):
    files = [[row(0, gold=1.0)], [row(0, gold=2.0)]]
    files[side].append(extra)
    with pytest.raises(DataError, match="1 items stand in one evaluation only"):
        stage(both(tmp_path, "prompts", *files), tmp_path / "out")


def test_an_item_that_stands_twice_is_refused():
    with pytest.raises(DataError, match="must stand once"):
        pair([row(0), row(0)], [row(0)])


def test_different_gold_utilities_are_refused(tmp_path):
    inputs = both(tmp_path, "prompts", [row(0, gold=1.0)], [row(0, gold=1.0)], gold={"right": 9.0})
    with pytest.raises(ConfigError, match=r"eval.gold.right \(=2.0 and 9.0\)"):
        stage(inputs, tmp_path / "out")


def test_no_common_benchmark_is_refused(tmp_path):
    inputs = {
        "baseline": write(tmp_path / "a", "prompts", [row(0, gold=1.0)]),
        "policy": write(tmp_path / "b", "questions", [row(0)]),
    }
    with pytest.raises(DataError, match="nothing in common that is compared"):
        stage(inputs, tmp_path / "out")


def test_comparing_a_policy_with_itself_and_with_another(tmp_path):
    artifacts = {}
    for name, seed, kind in (("sft", 0, "sft"), ("ppo", 1, "ppo")):
        folder = tmp_path / name
        inputs = small_inputs(folder, "prompts", "questions", "bold", seed=seed, kind=kind)
        out = folder / "out"
        out.mkdir()
        evaluate(small_config(), inputs, RuntimeConfig(device="cpu"), out, NullTracker())
        artifacts[name] = Artifact.of(out, "eval")
    same = stage({"baseline": artifacts["sft"], "policy": artifacts["sft"]}, tmp_path / "same")
    found = {k: v for k, v in same.items() if not k.endswith(("_low", "_high"))}
    tied = {k for k in found if "_ties" in k}
    won = {k for k in found if "_win_rate" in k} - tied
    assert {found[k] for k in won} <= {0.5}
    assert {found[k] for k in tied} <= {1.0}
    assert {v for k, v in found.items() if k not in won | tied} == {0.0}
    assert same["sft/known_accuracy_change_low"] < 0 < same["sft/known_accuracy_change_high"]
    other = stage({"baseline": artifacts["sft"], "policy": artifacts["ppo"]}, tmp_path / "other")
    rows = [read_lines(a.path / "items" / "prompts.jsonl") for a in artifacts.values()]
    gold = [[r["gold"] for r in part if "gold" in r] for part in rows]
    assert other["ppo/gold_gain"] == pytest.approx((sum(gold[1]) - sum(gold[0])) / len(gold[0]))


def test_settings_that_differ_are_noted(tmp_path):
    inputs = both(tmp_path, "prompts", [row(0, gold=1.0)], [row(0, gold=1.0)])
    path = tmp_path / "b" / "evaluated.json"
    about = json.loads(path.read_text())
    about["settings"]["sampling"] = {"temperature": 0.5}
    path.write_text(json.dumps(about))
    stage(inputs, tmp_path / "out")
    (note,) = json.loads((tmp_path / "out" / "notes.json").read_text())
    assert "eval.sampling.temperature: None and 0.5" in note


def test_a_new_benchmark_makes_no_other_comparison_and_no_other_data():
    ours = {f"eval/benchmarks/{name}.py" for name in ("registry", "benchmark", "subject", "bold")}
    assert ours <= code_hashes(["eval.stage"]).keys()
    for module in ("eval.comparisons.compare", "eval.comparisons.methods", "sft.data.stage"):
        assert not ours & code_hashes([module]).keys(), module


def test_comparing_needs_no_torch():
    code = "import sys, eval.comparisons.compare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
