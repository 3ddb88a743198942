"""What `methods` shows: a row for each trial, tables, the figure, and what to know first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.comparisons.config import MethodsConfig
from eval.comparisons.trials import HALVES, Trial
from plumbrule.lm.cost_metrics import COSTS
from plumbrule.statistics import Interval


def as_row(trial: Trial, chosen: bool, config: MethodsConfig) -> dict[str, Any]:
    """Return a trial of `methods.json`."""
    return {
        "method": trial.method,
        "setting": trial.setting,
        "seeds": [run.seed for run in trial.runs],
        "chosen": chosen,
        "beyond_budget": trial.beyond(config.budget),
        **{
            f"{half}_{name}": interval.as_json()
            for half in HALVES
            for name, interval in (
                ("gold_gain", trial.gain(half, config)),
                ("kl", trial.kl(half, config)),
            )
        },
        **{name: trial.cost(name) for name in COSTS},
    }


def table(
    trials: Sequence[Trial], chosen: Mapping[str, Trial], config: MethodsConfig
) -> dict[str, Any]:
    """Return all trials as a table of the report; chosen ones are marked."""
    rows = []
    for trial in trials:
        over = trial.beyond(config.budget)
        mark = "chosen" if trial in chosen.values() else f"over {', '.join(over)}" if over else ""
        rows.append(
            [
                f"{trial.method} {trial.setting}".strip(),
                mark,
                len(trial.runs),
                f"{trial.gain('validation', config).value:.3f}",
                shown(trial.gain("test", config)),
                shown(trial.kl("test", config)),
                f"{trial.cost('generated_tokens'):,.0f}",
                f"{trial.cost('training_tokens'):,.0f}",
                f"{trial.cost('training_flops'):.3g}",
                f"{trial.cost('labels'):,.0f}",
            ]
        )
    return {
        "title": "methods, each with the setting that the validation half chose",
        "columns": [
            "method",
            "",
            "seeds",
            "gold gain, validation half",
            "gold gain, test half",
            "KL (nats)",
            "generated tokens",
            "training tokens",
            "training FLOPs",
            "labels",
        ],
        "rows": rows,
    }


def curve_tables(curve: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return best-of-n's curve as a table, none where there is none."""
    if not curve:
        return []
    rows = []
    for row in curve:
        name = f"{row['name']} n = {row['n']}".strip()
        gain = Interval.from_json(row["gold_gain"])
        rows.append([name, f"{row['kl_bound']:.2f}", shown(gain)])
    columns = ["best of n", "KL, at most (nats)", "gold gain, test half"]
    return [{"title": "best of n, at every answer again", "columns": columns, "rows": rows}]


def shown(interval: Interval) -> str:
    """Return an interval as text."""
    return interval.text(3)


def figure(
    trials: Sequence[Trial], curve: Sequence[Mapping[str, Any]], config: MethodsConfig
) -> dict[str, Any]:
    """Return the figure: gold gain against KL, a line through each method's trials."""
    series: list[dict[str, Any]] = []
    for colour, method in enumerate(dict.fromkeys(t.method for t in trials)):
        points: list[tuple[float, ...]] = []
        for trial in trials:
            if trial.method == method:
                gain, kl = trial.gain("test", config), trial.kl("test", config)
                bounds = (gain.low, gain.high) if gain.is_bounded else ()
                points.append((kl.value, gain.value, *bounds))
        points.sort()
        line = [point[:2] for point in points]
        series.append({"name": method, "style": "dots", "colour": colour, "points": points})
        series.append({"name": "", "style": "line", "colour": colour, "points": line})
    for number, label in enumerate(dict.fromkeys(row["name"] for row in curve)):
        own = [(r["kl_bound"], r["gold_gain"]["value"]) for r in curve if r["name"] == label]
        name = f"best of n {label}".strip() + " (KL at most)"
        series.append({"name": name, "style": "dashes", "colour": 7 - number, "points": own})
    return {
        "title": "gold gain against KL",
        "caption": "every trial, on the test half, with its interval",
        "x": "KL to the start (nats per response)",
        "y": "gold gained (utility per response)",
        "series": series,
    }


def notes(trials: Sequence[Trial], chosen: Mapping[str, Trial], config: MethodsConfig) -> list[str]:
    """Return what makes the comparison unfair, where something does."""
    said = []
    numbers = {
        m: sum(t.method == m for t in trials) for m in dict.fromkeys(t.method for t in trials)
    }
    if len(set(numbers.values())) > 1:
        listed = ", ".join(f"{method} {number}" for method, number in numbers.items())
        said.append(f"Methods were tuned over different numbers of trials: {listed}.")
    without = [method for method in numbers if method not in chosen]
    if without:
        said.append(f"Every trial is over the budget: {', '.join(without)}.")
    limits = {name: getattr(config.budget, name) for name in COSTS}
    if any(limits.values()):
        stated = ", ".join(f"{name} {limit:.3g}" for name, limit in limits.items() if limit)
        said.append(f"The budget: {stated}.")
    if trials and len(trials[0].runs) == 1:
        said.append("One seed: intervals are over prompts and say nothing about other seeds.")
    return said
