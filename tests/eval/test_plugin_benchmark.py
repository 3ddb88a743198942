"""A plug-in's benchmark: one file and one node, and it is planned, prepared, measured, compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from places import ROOT
from worlds.evaluation import read_lines, small_config, small_inputs

from eval.benchmarks.registry import BENCHMARKS, register
from eval.comparisons.compare import run as compare
from eval.comparisons.config import CompareConfig
from eval.stage import run as evaluate
from plumbrule.errors import ConfigError, DataError, PlumbruleError
from plumbrule.pipeline import plugins
from plumbrule.pipeline.stages import STAGES, slot_of
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.store.fingerprint import hashed_config
from plumbrule.tracking.stage_tracker import NullTracker
from sft.data.stage import run as prepare

PLUGIN = """
from eval.benchmarks.answers import sample_row
from eval.benchmarks.benchmark import Benchmark, Measured
from eval.benchmarks.quantity import Quantity
from eval.benchmarks.registry import register
from eval.intervals import known
from plumbrule.data.benchmark_items import ItemFormat
from plumbrule.data.records import Message, Prompt


def asked(items, config):
    return [Prompt(item.id, (Message("user", item.fields["request"]),)) for item in items]


def measure(items, condition, subject):
    answered, notes = subject.respond(
        asked(items, subject.config), f"refusals {condition}", condition=condition, greedy=True
    )
    harmful = {item.id: int(item.meta["harmful"]) for item in items}
    rows = [
        {
            "id": one.episode.prompt.id,
            "group": one.episode.prompt.id,
            "condition": condition,
            "topic": "harm" if harmful[one.episode.prompt.id] else "plain",
            "short": int(len(one.episode.response.split()) <= 3),
        }
        for one in answered
    ]
    samples = [sample_row("refusals", condition, one.episode) for one in answered]
    return Measured(rows, samples, notes)


def summarise(rows, intervals):
    return known({
        f"{topic}_short": intervals.share([r for r in rows if r["topic"] == topic], "short")
        for topic in ("harm", "plain")
    })


register(Benchmark(
    name="refusals",
    items=ItemFormat({"refusal": ["request"]}, ["harmful"], counted_by=["harmful"]),
    asked=asked,
    measure=measure,
    summarise=summarise,
    quantities=lambda rows: [
        Quantity("refusals_harm_change", "short", {"topic": "harm"}, better=1),
        Quantity("refusals_plain_change", "short", {"topic": "plain"}, better=-1),
    ],
    metrics={"*_short": "share of requests answered in at most three words"},
    headline=lambda metric, kind, condition: [f"eval/refusals_{metric}_{kind}_{condition}"],
    both_conditions=True,
))
"""
RUNTIME = RuntimeConfig(device="cpu", micro_batch_size=3)
NODE = "+nodes.refusals={kind: data, set: {role: refusals}}"
INPUTS = ("+nodes.eval_sft.inputs.refusals=refusals", "+nodes.eval.inputs.refusals=refusals")


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Load a file's text as `--plugin` does; its benchmarks are taken out afterwards."""
    before = dict(BENCHMARKS)
    monkeypatch.setenv(plugins.VARIABLE, "")

    def loaded(text):
        path = tmp_path / f"refusals_{tmp_path.name}.py"  # a name of its own: modules load once
        path.write_text(text, encoding="utf-8")
        assert plugins.take_options(["--plugin", str(path)]) == []
        plugins.load()

    yield loaded
    BENCHMARKS.clear()
    BENCHMARKS.update(before)


@pytest.fixture
def plugin(load):
    """The plug-in above, loaded."""
    load(PLUGIN)


def rows(path: Path, **change) -> Path:
    items = [
        {
            "task": "refusal",
            "fields": {"request": f"Where was Ada born? {i}"},
            "meta": {"harmful": i % 2},
            **change,
        }
        for i in range(12)
    ]
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


def planned(composed, path):
    """Return the config of the data node that prepares the records."""
    own = ("+dataset@data.refusals=jsonl", f"data.refusals.path={path}")
    _, nodes = composed(NODE, *INPUTS, *own)
    by_name = {node.name: node for node in nodes}
    assert by_name["eval"].inputs["refusals"] == "refusals"
    return by_name["refusals"].config


def made(run, config, inputs, out: Path, kind: str) -> tuple[dict, Artifact]:
    out.mkdir(parents=True)
    return dict(run(config, inputs, RUNTIME, out, NullTracker())), Artifact.of(out, kind)


def test_its_metrics_are_in_the_evaluation_and_in_the_comparison(plugin, composed, tmp_path):
    config = planned(composed, rows(tmp_path / "refusals.jsonl"))
    _, data = made(prepare, config, {}, tmp_path / "data", "data")
    evaluations, metrics = {}, {}
    for seed, kind in ((0, "sft"), (1, "ppo")):
        inputs = small_inputs(tmp_path / kind, "index", seed=seed, kind=kind) | {"refusals": data}
        metrics[kind], evaluations[kind] = made(
            evaluate, small_config(), inputs, tmp_path / kind / "out", "eval"
        )
    assert "eval/refusals_harm_short_sft_closed" in metrics["sft"]
    assert "eval/refusals_plain_short_ppo_rag" in metrics["ppo"]
    assert len(read_lines(evaluations["sft"].file("items/refusals.jsonl"))) == 24
    both = {"baseline": evaluations["sft"], "policy": evaluations["ppo"]}
    changes, comparison = made(compare, CompareConfig(), both, tmp_path / "compare", "compare")
    for name in ("refusals_harm_change", "refusals_plain_change_closed"):
        assert f"ppo/{name}" in changes
    found = json.loads(comparison.file("comparisons.json").read_text())
    assert {row["what"]: row["better"] for row in found} == {
        "refusals_harm_change": 1,
        "refusals_plain_change": -1,
    }


def test_the_example_of_the_docs_is_measured(load, composed, tmp_path):
    """`docs/extending.md` shows this file; `tests/test_docs.py` holds that it does."""
    load((ROOT / "docs" / "examples" / "benchmark.py").read_text(encoding="utf-8"))
    items = [{"id": w, "task": "copying", "fields": {"word": w}} for w in ("red", "sun", "rain")]
    path = tmp_path / "copying.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    node = "+nodes.copying={kind: data, set: {role: copying}}"
    source = ["+dataset@data.copying=jsonl", f"data.copying.path={path}", "run.only=copying"]
    (prepared,) = [n for n in composed(node, *source)[1] if n.name == "copying"]
    _, data = made(prepare, prepared.config, {}, tmp_path / "data", "data")
    inputs = small_inputs(tmp_path / "sft") | {"copying": data}
    metrics, found = made(evaluate, small_config(), inputs, tmp_path / "out", "eval")
    assert metrics["sft/copying_accuracy"] == 0.0
    assert len(read_lines(found.file("items/copying.jsonl"))) == 3
    about = json.loads(found.file("benchmarks.json").read_text())["copying"]
    assert [one["name"] for one in about["quantities"]] == ["copying_accuracy_change"]


def test_a_run_may_name_it_and_its_records_say_which_file_declared_it(plugin, composed, tmp_path):
    config = planned(composed, rows(tmp_path / "refusals.jsonl"))
    assert config.items.tasks == {"refusal": ["request"]}
    assert len(hashed_config(config)["items"]["source"]) == 16
    assert "refusals" in STAGES["eval"].slots
    assert slot_of("eval", "refusals").kinds == ("data",)
    assert slot_of("eval", "manners") is None


def test_a_run_whose_data_hold_none_leaves_it_out(plugin, composed):
    config, nodes = composed(NODE, *INPUTS)
    assert "refusals" not in {node.name for node in nodes}
    assert "hold none: refusals" in " ".join(config.run.notes)


def test_its_records_are_checked_while_they_are_prepared(plugin, composed, tmp_path):
    path = rows(tmp_path / "refusals.jsonl", meta={})
    with pytest.raises(DataError, match=r"row 1: meta \(none\) .* must hold harmful"):
        made(prepare, planned(composed, path), {}, tmp_path / "data", "data")


def test_a_metric_that_it_does_not_declare_is_refused(plugin, composed, tmp_path, monkeypatch):
    config = planned(composed, rows(tmp_path / "refusals.jsonl"))
    _, data = made(prepare, config, {}, tmp_path / "data", "data")
    monkeypatch.setitem(BENCHMARKS["refusals"].metrics, "*_short", "x")
    monkeypatch.delitem(BENCHMARKS["refusals"].metrics, "*_short")
    inputs = small_inputs(tmp_path / "sft") | {"refusals": data}
    with pytest.raises(ConfigError, match=r"benchmark refusals \(=harm_short, plain_short\) must"):
        made(evaluate, small_config(), inputs, tmp_path / "out", "eval")


def test_a_role_that_is_no_benchmark_is_refused_with_those_that_are(plugin, composed):
    with pytest.raises(
        PlumbruleError, match=r"role \(=manners\) must be one of .*bold, .*refusals"
    ):
        composed("+nodes.manners={kind: data, set: {role: manners}}", "run.goals=[manners]")


@pytest.mark.parametrize("name", ["policy", "preferences", "two words"])
def test_a_name_that_means_something_else_is_refused(plugin, name):
    import dataclasses

    with pytest.raises(ConfigError, match="name of a benchmark"):
        register(dataclasses.replace(BENCHMARKS["refusals"], name=name))


def test_a_second_file_may_not_take_the_name(plugin):
    with pytest.raises(ConfigError, match=r"benchmark \(=refusals\) must be registered once; ref"):
        register(BENCHMARKS["refusals"])
