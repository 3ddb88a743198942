"""Stage `overoptimisation`: where more reward stops being more of what was wanted.

Reads runs of PPO and of best-of-n against proxies of which the gold utility is known, and nothing
else: no model is loaded. Runs that differ by their seed alone are one series.

1. Curves: of PPO, the mean proxy and gold scores of each update's responses against the square
   root of their KL to the initial policy; of best-of-n, those of the best of n answers against the
   square root of the bound log n - (n - 1) / n.
2. Laws (`scaling_fits.py`): each series' gold is fitted by the form that Gao et al. 2022 found for
   its method, with intervals, the predicted peak, and what is lost behind it.
3. `fits.json`, a figure for each group of series (the name behind the slot's: `ppo_size`), a table.

`ppo.stop_at=predicted_peak` reads the fits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from plumbrule.data.json_lines import read_rows
from plumbrule.errors import DataError
from plumbrule.inputs import Inputs
from plumbrule.protocols import Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.statistics import Interval
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import FIGURES, FITS, METRIC_ROWS, NOTES, PROMPTS, TABLES
from plumbrule.store.json_files import write_json
from plumbrule.store.metric_rows import read_metrics
from rlhf.studies.config import OveroptimisationConfig
from rlhf.studies.scaling_fits import (
    BEST_OF_N,
    REINFORCEMENT,
    Coefficients,
    Curve,
    Law,
    ScalingFit,
    fit,
    gained,
)

LAWS = {"ppo": REINFORCEMENT, "best_of_n": BEST_OF_N}
GOLD, PROXY, KL = "reward/gold_raw", "objective/scores_raw", "objective/kl"
FURTHEST = 1e12
"""KL in nats beyond which a peak is called none."""


class StudyRun(NamedTuple):
    """One run: proxy (m,) beside the curve of gold."""

    curve: Curve
    proxy: np.ndarray


class Series(NamedTuple):
    """Runs that differ by their seed alone. method: ppo or best_of_n. group: of one figure."""

    method: str
    group: str
    label: str
    runs: list[StudyRun]
    fit: ScalingFit | None

    @property
    def name(self) -> str:
        """What `ppo.stop_series` and the table call it."""
        return " ".join(part for part in (self.method, self.label) if part)


def run(
    config: OveroptimisationConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    out: Path,
    tracker: Tracker,
) -> Mapping[str, float]:
    """Fit, write and return headline metrics `overoptimisation/*` of the series fitted.

    Raises: DataError: a run has no gold score.
    """
    return write_study(config, inputs, out)


def write_study(
    config: OveroptimisationConfig, inputs: Mapping[str, Artifact], out: Path
) -> dict[str, float]:
    """Do what `run` does, of which nothing needs a machine or a tracker."""
    series = [one for method in LAWS for one in read_series(method, inputs, config)]
    if not series:
        raise DataError("inputs must hold a run of ppo or best_of_n; give the node one.")
    write_json(out / FITS, [as_row(one) for one in series])
    write_json(out / FIGURES, figures(series))
    write_json(out / TABLES, [table(series)])
    write_json(out / NOTES, notes(series))
    metrics: dict[str, float] = {"overoptimisation/series": float(len(series))}
    for one in series:
        if one.fit is not None and one.fit.peak.value < FURTHEST:
            key = one.name.replace(" ", "_")
            metrics[f"overoptimisation/peak_kl_{key}"] = one.fit.peak.value
            metrics[f"overoptimisation/decline_{key}"] = one.fit.decline.value
    return metrics


def read_series(
    method: str, inputs: Mapping[str, Artifact], config: OveroptimisationConfig
) -> list[Series]:
    """Return the series of one method, in the order of the config."""
    runs: dict[tuple[str, str], list[StudyRun]] = {}
    for one in Inputs(inputs).variations(method):
        read = read_ppo if method == "ppo" else read_best_of_n
        runs.setdefault((one.name, one.label), []).append(read(one.artifact))
    return [
        Series(method, group, label, own, fitted(LAWS[method], own, config))
        for (group, label), own in runs.items()
    ]


def read_ppo(artifact: Artifact) -> StudyRun:
    """Return the curve of a PPO run, a point per update.

    Raises: DataError: gold is no term of its reward.
    """
    rows = [row for row in read_metrics(artifact.file(METRIC_ROWS).parent) if KL in row]
    if not rows or any(GOLD not in row for row in rows):
        raise DataError(
            "updates must have a gold score; add {name: gold, weight: 0} to the reward's terms.",
            artifact.path,
        )
    distances = np.sqrt(np.maximum([row[KL] for row in rows], 0.0))
    gold, proxy = (np.array([row[name] for row in rows]) for name in (GOLD, PROXY))
    return StudyRun(Curve(distances, gold), proxy)


def read_best_of_n(artifact: Artifact) -> StudyRun:
    """Return the curve of best-of-n, a point per n, its prompts kept apart.

    Raises: DataError: the answers have no utility.
    """
    rows = [row for _, row in read_rows(artifact.file(PROMPTS))]
    if any("utility" not in row for row in rows):
        raise DataError(
            "answers must have a utility; sample them with labeller=gold.", artifact.path
        )
    n = np.array(rows[0]["n"], dtype=np.float64)
    distances = np.sqrt(np.log(n) - (n - 1) / n)
    gold, proxy = (np.array([row[name] for row in rows]) for name in ("utility", "reward"))
    return StudyRun(Curve(distances, gold - gold[:, :1]), proxy.mean(0))


def fitted(law: Law, runs: Sequence[StudyRun], config: OveroptimisationConfig) -> ScalingFit | None:
    """Return the law fitted to the runs; None where they have too few points."""
    try:
        return fit(
            law,
            [run.curve for run in runs],
            confidence=config.confidence,
            num_resamples=config.num_resamples,
            seed=config.seed,
        )
    except ValueError:
        return None


def as_row(series: Series) -> dict[str, Any]:
    """Return a series of `fits.json`; numbers that are infinite are null."""
    row: dict[str, Any] = {
        "series": series.name,
        "method": series.method,
        "group": series.group,
        "runs": len(series.runs),
        "law": LAWS[series.method].formula,
        "points": [
            {
                "sqrt_kl": run.curve.distances.tolist(),
                "gold": run.curve.means().tolist(),
                "proxy": run.proxy.tolist(),
            }
            for run in series.runs
        ],
    }
    if series.fit is not None:
        names = ("alpha", "beta", "peak", "height", "decline")
        row |= {
            name if name != "peak" else "peak_kl": number(getattr(series.fit, name))
            for name in names
        }
        row |= {"turns": series.fit.turns, "level": series.fit.coefficients.level}
    return row


def number(interval: Interval) -> dict[str, Any]:
    """Return an interval as JSON, in which what lies further than a fit can tell is unknown."""
    value, low, high = (x if abs(x) < FURTHEST else math.nan for x in interval[:3])
    return interval._replace(value=value, low=low, high=high).as_json()


def table(series: Sequence[Series]) -> dict[str, Any]:
    """Return the fits as a table of the report."""
    rows = []
    for one in series:
        best, last = extremes(one)
        row: list[Any] = [one.name, len(one.runs), f"{last[0] ** 2:.2f}", *best, *last[1:]]
        if one.fit is None:
            rows.append([*row, *[""] * 5])
            continue
        found = one.fit
        cells = [found.alpha, found.beta, found.peak, found.decline]
        rows.append([*row, *(shown(cell) for cell in cells), f"{found.turns:.2f}"])
    return {
        "title": "gold and proxy against the distance from the initial policy",
        "columns": [
            "series",
            "runs",
            "KL reached (nats)",
            "best gold gain",
            "at KL",
            "last proxy gain",
            "last gold gain",
            "alpha",
            "beta",
            "predicted peak (KL, nats)",
            "gold lost behind it",
            "share of resamples that turn",
        ],
        "rows": rows,
    }


def extremes(series: Series) -> tuple[tuple[str, str], tuple[float, str, str]]:
    """Return (best gold gain, its KL), and (last distance, proxy gain, gold gain), of all runs.

    Points of one update (or n) are averaged over the runs, and over three neighbours for PPO, whose
    points are noisy: the best of many noisy ones would be too good.
    """
    length = min(len(run.proxy) for run in series.runs)
    fitted_level = series.fit.coefficients.level if series.fit is not None else None
    distance, gold, proxy = (
        np.mean([values(run)[:length] for run in series.runs], 0)
        for values in (
            lambda run: run.curve.distances,
            lambda run: gains(run, fitted_level),
            lambda run: run.proxy - run.proxy[0],
        )
    )
    if series.method == "ppo" and length >= 3:
        distance, gold, proxy = (
            np.convolve(x, np.ones(3) / 3, "valid") for x in (distance, gold, proxy)
        )
    top = int(np.argmax(gold))
    best = (f"{gold[top]:.3f}", f"{distance[top] ** 2:.2f}")
    return best, (float(distance[-1]), f"{proxy[-1]:.3f}", f"{gold[-1]:.3f}")


def gains(run: StudyRun, level: float | None) -> np.ndarray:
    """Return gold gained over the fitted level (m,), over the first point where none is fitted."""
    gold = run.curve.means()
    return gold - (gold[0] if level is None else level)


def shown(interval: Interval) -> str:
    """Return an interval as text; "none" for a peak that is nowhere."""

    def one(x: float) -> str:
        return f"{x:.3g}" if abs(x) < FURTHEST else "none"

    if abs(interval.value) >= FURTHEST and abs(interval.low) >= FURTHEST:
        return "none"
    if not interval.is_bounded:
        return one(interval.value)
    return f"{one(interval.value)} [{one(interval.low)}, {one(interval.high)}]"


def figures(series: Sequence[Series]) -> list[dict[str, Any]]:
    """Return a figure for each method and group: gold as dots with its law, proxy dashed."""
    groups = dict.fromkeys((one.method, one.group) for one in series)
    found = []
    for method, group in groups:
        lines: list[dict[str, Any]] = []
        own = [one for one in series if (one.method, one.group) == (method, group)]
        for colour, one in enumerate(own):
            label = one.label or "gold"
            level = one.fit.coefficients.level if one.fit is not None else None
            gold = [
                (float(d), float(y))
                for run in one.runs
                for d, y in zip(run.curve.distances, gains(run, level), strict=True)
            ]
            lines.append({"name": label, "style": "dots", "colour": colour, "points": gold})
            if one.fit is not None:
                lines.append(
                    {
                        "name": "",
                        "style": "line",
                        "colour": colour,
                        "points": law_points(LAWS[method], one.fit.coefficients, gold),
                    }
                )
            for run in one.runs:
                proxy = run.proxy - run.proxy[0]
                points = [
                    (float(d), float(y)) for d, y in zip(run.curve.distances, proxy, strict=True)
                ]
                lines.append({"name": "", "style": "dashes", "colour": colour, "points": points})
        found.append(
            {
                "title": " ".join(part for part in (method, group) if part),
                "caption": "dots: gold gained, with the fitted law; dashes: proxy gained",
                "x": "square root of KL (nats)" + (", at most" if method == "best_of_n" else ""),
                "y": "score gained",
                "series": lines,
            }
        )
    return found


def law_points(
    law: Law, found: Coefficients, seen: Sequence[tuple[float, float]]
) -> list[tuple[float, float]]:
    """Return the fitted law over the distances seen, without its level."""
    distances = np.linspace(0.0, max(d for d, _ in seen), 48)
    values = gained(law, found, distances)
    return [(float(d), float(y)) for d, y in zip(distances, values, strict=True)]


def notes(series: Sequence[Series]) -> list[str]:
    """Return what a reader of the report should know: series without a fit, or without a peak."""
    said = []
    short = [one.name for one in series if one.fit is None]
    if short:
        said.append(f"Too few points to fit: {', '.join(short)}.")
    flat = [one.name for one in series if one.fit is not None and one.fit.turns < 0.5]
    if flat:
        said.append(
            f"No decline of gold within the distance seen: {', '.join(flat)}. A peak beyond it is "
            "extrapolated."
        )
    if min(len(one.runs) for one in series) < 3:
        said.append(
            "Intervals hold for the runs at hand: with fewer than three seeds they say little "
            "about others."
        )
    return said
