"""Stage `overoptimisation` and what PPO makes of it: curves, series, a run that is stopped."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from plumbrule.errors import ConfigError, DataError
from plumbrule.report import plots
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.tracking.stage_tracker import FileTracker
from rlhf.ppo.stopping import KLLimit, kl_limit, stop_reason
from rlhf.studies.config import OveroptimisationConfig
from rlhf.studies.overoptimisation import run


def ppo_run(folder: Path, alpha: float, beta: float, seed: int = 0, gold: bool = True) -> Artifact:
    """Write a PPO artifact whose gold follows the law to a KL of 9 nats."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    rows = []
    for update, d in enumerate(np.linspace(0, 3, 30), start=1):
        value = 1 + d * (alpha - beta * math.log(max(d, 1e-9))) + random.normal(0, 0.02)
        row = {"update": update, "objective/kl": d**2, "objective/scores_raw": d}
        rows.append(row | ({"reward/gold_raw": value} if gold else {}))
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    return Artifact(folder, "ppo", "ppo", "0" * 16, {})


def best_run(folder: Path, alpha: float, beta: float) -> Artifact:
    """Write a best-of-n artifact of 60 prompts whose mean gain is the law's, exactly."""
    folder.mkdir(parents=True)
    sizes = [1, 2, 4, 8, 16, 32, 64]
    d = np.sqrt([math.log(n) - (n - 1) / n for n in sizes])
    offsets = np.linspace(-1, 1, 60)  # of prompts, which no gain holds
    lines = []
    for i, offset in enumerate(offsets):
        gold = offset + d * (alpha + 0.3 * offset - beta * d)
        row = {"id": str(i), "n": sizes, "reward": d.tolist(), "utility": gold.tolist()}
        lines.append(json.dumps(row) + "\n")
    (folder / "prompts.jsonl").write_text("".join(lines), encoding="utf-8")
    return Artifact(folder, "best_of_n", "best_of_n", "1" * 16, {})


@pytest.fixture
def study(tmp_path: Path) -> tuple[Artifact, dict[str, float]]:
    """Return a study of two proxies under two seeds and one of best-of-n, and its metrics."""
    inputs = {
        "ppo_size@seed=0@num_rankings=20": ppo_run(tmp_path / "a", 1.0, 1.0, 0),
        "ppo_size@seed=1@num_rankings=20": ppo_run(tmp_path / "b", 1.0, 1.0, 1),
        "ppo_size@seed=0@num_rankings=80": ppo_run(tmp_path / "c", 2.0, 0.5, 2),
        "ppo_size@seed=1@num_rankings=80": ppo_run(tmp_path / "d", 2.0, 0.5, 3),
        "best_of_n@seed=0": best_run(tmp_path / "e", 1.2, 0.6),
    }
    out = tmp_path / "out"
    out.mkdir()
    config = OveroptimisationConfig(num_resamples=200)
    metrics = run(config, inputs, RuntimeConfig(), out, FileTracker(out))
    return Artifact(out, "overoptimisation", "study", "2" * 16, dict(metrics)), dict(metrics)


def test_runs_that_differ_by_their_seed_are_one_series(study) -> None:
    artifact, metrics = study
    rows = json.loads(artifact.file("fits.json").read_text())
    assert [(row["series"], row["runs"]) for row in rows] == [
        ("ppo size num_rankings=20", 2),
        ("ppo size num_rankings=80", 2),
        ("best_of_n", 1),
    ]
    assert metrics["overoptimisation/series"] == 3
    assert metrics["overoptimisation/peak_kl_ppo_size_num_rankings=20"] == pytest.approx(1, abs=0.2)


def test_fits_peaks_and_declines_are_those_of_the_law(study) -> None:
    rows = {r["series"]: r for r in json.loads(study[0].file("fits.json").read_text())}
    falling = rows["ppo size num_rankings=20"]
    assert falling["alpha"]["value"] == pytest.approx(1.0, abs=0.03)
    assert falling["beta"]["value"] == pytest.approx(1.0, abs=0.03)
    assert falling["level"] == pytest.approx(1.0, abs=0.03)
    assert falling["decline"]["low"] > 1.2  # 1 - 3 (1 - log 3) is 1.296
    assert falling["turns"] == 1.0
    rising = rows["ppo size num_rankings=80"]
    assert rising["turns"] == 0.0
    assert rising["decline"]["value"] == 0.0
    best = rows["best_of_n"]
    assert best["alpha"]["value"] == pytest.approx(1.2, abs=1e-6)
    assert best["peak_kl"]["value"] == pytest.approx(1.0, abs=1e-6)
    notes = json.loads(study[0].file("notes.json").read_text())
    assert notes[:1] == [
        "No decline of gold within the distance seen: ppo size num_rankings=80. A peak beyond it "
        "is extrapolated."
    ]
    assert "fewer than three seeds" in notes[1]


def test_the_figure_and_the_table_show_every_series(study) -> None:
    figures = json.loads(study[0].file("figures.json").read_text())
    assert [figure["title"] for figure in figures] == ["ppo size", "best_of_n"]
    svg = plots.plot(figures[0])
    assert svg.count("<circle") == 2 * 2 * 30
    assert svg.count("<polyline") == 2 + 4  # laws, and the proxy of each run
    assert [name for _, name in plots.legend(figures[0])] == [
        "size num_rankings=20",
        "size num_rankings=80",
    ]
    (table,) = json.loads(study[0].file("tables.json").read_text())
    assert len(table["rows"]) == 3
    assert all(len(row) == len(table["columns"]) for row in table["rows"])


def test_a_plot_of_nothing_or_of_one_point_is_drawn_or_left_out() -> None:
    empty = {"title": "t", "caption": "", "x": "x", "y": "y", "series": []}
    assert plots.plot(empty) == ""
    one = {"name": "<b>", "style": "dots", "colour": 9, "points": [(1.0, 2.0, 1.5, 2.5)]}
    svg = plots.plot({**empty, "series": [one]})
    assert "&lt;b&gt;: 1, 2 [1.5, 2.5]" in svg
    assert 'class="c1"' in svg


def test_a_run_without_gold_is_refused(tmp_path: Path) -> None:
    inputs = {"ppo": ppo_run(tmp_path / "a", 1, 1, gold=False)}
    with pytest.raises(DataError, match="name: gold, weight: 0"):
        run(OveroptimisationConfig(), inputs, RuntimeConfig(), tmp_path, FileTracker(tmp_path))
    with pytest.raises(DataError, match="must hold a run of ppo or best_of_n"):
        run(OveroptimisationConfig(), {}, RuntimeConfig(), tmp_path, FileTracker(tmp_path))


SERIES = "ppo size num_rankings=20"


def test_a_run_ends_behind_the_predicted_peak(study) -> None:
    limit = kl_limit(None, study[0], SERIES)
    assert limit is not None
    assert limit.kl == pytest.approx(1.0, abs=0.2)
    assert stop_reason(limit.kl - 0.01, limit, 3, 16) == ""
    reason = stop_reason(limit.kl + 0.01, limit, 4, 16)
    assert "ended after 4 of 16 updates" in reason
    assert "the peak that ppo.stop_at predicts" in reason
    assert stop_reason(1e9, None, 4, 16) == ""


def test_the_lower_of_two_limits_counts(study) -> None:
    assert kl_limit(0.5, study[0], SERIES) == KLLimit(0.5, "ppo.early_stop.run_kl")
    assert kl_limit(None) is None


@pytest.mark.parametrize(
    ("series", "said"),
    [
        (None, "must name one of the study's series of PPO: ppo size num_rankings=20, ppo size"),
        ("ppo", "(=ppo) must name one"),
    ],
)
def test_a_series_that_is_not_there_is_refused(study, series: str | None, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        kl_limit(None, study[0], series)
    assert said in str(caught.value)


def test_a_peak_that_the_study_did_not_see_stops_nothing(study) -> None:
    with pytest.raises(ConfigError, match="is extrapolated"):
        kl_limit(None, study[0], "ppo size num_rankings=80")


def test_without_a_fit_gains_are_over_the_first_point(tmp_path: Path) -> None:
    artifact = ppo_run(tmp_path / "a", 0, 0)
    rows = [json.loads(line) for line in (artifact.path / "metrics.jsonl").read_text().splitlines()]
    lines = [json.dumps({**row, "objective/kl": 0.0, "reward/gold_raw": 1.3}) for row in rows]
    (artifact.path / "metrics.jsonl").write_text("\n".join(lines), encoding="utf-8")
    run(
        OveroptimisationConfig(),
        {"ppo": artifact},
        RuntimeConfig(),
        tmp_path,
        FileTracker(tmp_path),
    )
    (figure,) = json.loads((tmp_path / "figures.json").read_text())
    assert {tuple(point) for point in figure["series"][0]["points"]} == {(0.0, 0.0)}


def test_a_fit_without_a_peak_stops_nothing(tmp_path: Path) -> None:
    inputs = {"ppo": ppo_run(tmp_path / "a", 1.0, -0.5)}
    run(OveroptimisationConfig(), inputs, RuntimeConfig(), tmp_path, FileTracker(tmp_path))
    study = Artifact(tmp_path, "overoptimisation", "study", "3" * 16, {})
    with pytest.raises(ConfigError, match="its fit has no peak"):
        kl_limit(None, study)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["ppo.stop_at=peak"], "ppo.stop_at (=peak)"),
        (["ppo.stop_series=x"], "ppo.stop_series (=x)"),
        (["ppo.stop_at=predicted_peak"], "input overoptimisation"),
        (["overoptimisation.num_resamples=3"], "overoptimisation.num_resamples"),
    ],
)
def test_bad_settings_stop_before_a_model_loads(
    composed: Callable, overrides: list[str], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        composed(*overrides)
    assert said in str(caught.value)
