"""Means over seeds, and differences seed by seed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from eval.comparisons.config import SummaryConfig
from eval.comparisons.summary import run
from plumbrule.errors import ConfigError, DataError, GraphError
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.statistics import seed_interval
from plumbrule.store.artifacts import Artifact
from plumbrule.tracking.stage_tracker import FileTracker


def artifacts(tmp_path: Path, **numbers: list[float]) -> dict[str, Artifact]:
    """Return artifacts with the metric `x`, one per label and seed."""
    return {
        f"run_{label}@seed={seed}": Artifact(tmp_path, "rm", "rm", "0" * 16, {"x": value})
        for label, values in numbers.items()
        for seed, value in enumerate(values)
    }


def test_an_interval_over_seeds_by_hand() -> None:
    found = seed_interval([1.0, 2.0, 3.0])
    # t of 2 degrees of freedom at 97.5 % is 4.302653; the standard error is 1 / sqrt(3)
    assert found.value == 2.0
    assert found.high - 2.0 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert 2.0 - found.low == pytest.approx(found.high - 2.0)
    assert math.isnan(seed_interval([1.0]).low)
    for bad in ([], [math.nan], [math.inf]):
        with pytest.raises(ValueError, match="must be finite numbers"):
            seed_interval(bad)


def test_what_seeds_share_cancels_in_the_difference(tmp_path: Path) -> None:
    inputs = artifacts(tmp_path, one=[0.1, 0.5, 0.9], other=[0.2, 0.6, 1.1])
    config = SummaryConfig(["x"], "one")
    metrics = run(config, inputs, RuntimeConfig(), tmp_path, FileTracker(tmp_path))
    first, second = json.loads((tmp_path / "summary.json").read_text())
    assert first["seeds"] == {"0": 0.1, "1": 0.5, "2": 0.9}
    assert first["change"] is None
    assert second["mean"]["value"] == pytest.approx(1.9 / 3)
    change = second["change"]
    assert change["value"] == pytest.approx(0.4 / 3)
    # gains .1, .1, .2: standard error (.1 / sqrt(3)) / sqrt(3)
    assert change["high"] - change["value"] == pytest.approx(4.302653 * 0.1 / 3, rel=1e-6)
    assert second["mean"]["low"] < 0 < change["low"] + 0.02
    assert metrics["summary/x_other"] == pytest.approx(1.9 / 3)
    assert metrics["summary/x_one_low"] < 0.5 < metrics["summary/x_one_high"]
    (table,) = json.loads((tmp_path / "tables.json").read_text())
    assert [row[:3] for row in table["rows"]] == [["x", "one", 3], ["x", "other", 3]]
    assert table["rows"][0][3] == {"metric": "x", **first["mean"]}


def test_one_seed_has_a_value_and_no_interval(tmp_path: Path) -> None:
    inputs = artifacts(tmp_path, one=[0.5])
    metrics = run(SummaryConfig(["x"]), inputs, RuntimeConfig(), tmp_path, FileTracker(tmp_path))
    assert metrics == {"summary/x_one": 0.5}


def test_a_metric_that_a_run_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"summary.metrics \(=y\).*this one has x"):
        run(
            SummaryConfig(["y"]),
            artifacts(tmp_path, one=[0.5]),
            RuntimeConfig(),
            tmp_path,
            FileTracker(tmp_path),
        )


def test_a_baseline_that_no_seed_reaches_serves_all(tmp_path: Path) -> None:
    inputs = artifacts(tmp_path, one=[0.5, 0.7])
    inputs["run_base"] = Artifact(tmp_path, "rm", "rm", "0" * 16, {"x": 0.1})
    run(SummaryConfig(["x"], "base"), inputs, RuntimeConfig(), tmp_path, FileTracker(tmp_path))
    rows = {row["label"]: row for row in json.loads((tmp_path / "summary.json").read_text())}
    assert rows["one"]["change"]["value"] == pytest.approx(0.5)
    assert rows["base"]["change"] is None


@pytest.mark.parametrize(
    ("inputs", "config", "said"),
    [
        ({"run": 1.0, "run_rm": 2.0}, SummaryConfig(["x"]), "must have one run of rm"),
        ({"run_a": 1.0}, SummaryConfig(["x"], "b"), "summary.baseline (=b) must be one of a"),
        ({"run_a": math.nan}, SummaryConfig(["x"]), "x (=nan) must be finite"),
    ],
)
def test_what_can_not_be_summarised_is_named(tmp_path, inputs, config, said) -> None:
    given = {k: Artifact(tmp_path, "rm", "rm", "0" * 16, {"x": v}) for k, v in inputs.items()}
    with pytest.raises((ConfigError, DataError)) as caught:
        run(config, given, RuntimeConfig(), tmp_path, FileTracker(tmp_path))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "error", "said"),
    [
        (["summary.metrics=[a, a]"], ConfigError, "summary.metrics"),
        (["summary.metrics=[]", "experiment=compare_losses"], ConfigError, "summary.metrics"),
        (
            ["+nodes.s={kind: summary, inputs: {run_a: prompts}}", "run.goals=[s]"],
            GraphError,
            "nodes.s.inputs.run_a (=prompts)",
        ),
        (["+nodes.s={kind: summary}", "run.goals=[s]"], GraphError, "nodes.s.inputs.run"),
    ],
)
def test_bad_summaries_stop_before_anything_is_built(
    composed: Callable, overrides: list[str], error: type[Exception], said: str
) -> None:
    with pytest.raises(error) as caught:
        composed(*overrides)
    assert said in str(caught.value)


def test_the_losses_are_compared_over_five_seeds(composed: Callable) -> None:
    _, nodes = composed("experiment=compare_losses")
    summary = nodes[-1]
    assert summary.kind == "summary"
    assert len(summary.inputs) == 15
    assert sum(node.kind == "sft" for node in nodes) == 5
