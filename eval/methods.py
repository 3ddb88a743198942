"""Stage `methods`: which method buys how much, at what distance and at what cost.

Each input `policy_<method>` is an evaluation, under some settings and seeds, of a policy that the
method made; `baseline` are the evaluations of what all of them started from, on the same prompts.

1. Prompts are split in two by what they ask about (their group). On the one half, the validation
   half, each method's settings are compared and the best is chosen; only the other half is
   reported, so that a method with more trials gains nothing from lucky prompts. From lucky training
   seeds it still does, being in both halves; so a number of trials that differs is noted.
2. Gold gain is paired with the baseline of the same seed, prompt by prompt; KL is the evaluation's
   own estimate on the same sampled answers, the same for all methods. Over seeds both are means
   with Student's interval; with one seed the interval is a bootstrap over prompts.
3. Cost is what the policy was made from, without what the baseline was (`plumbrule/costs.py`).
   Trials over the budget are shown and can't be chosen.
4. Best-of-n has no policy: its curve stands beside the others at log n - (n - 1) / n, which is an
   upper bound of its KL; what it costs it costs at every answer again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eval.compare import same_terms
from eval.config import BudgetConfig, MethodsConfig
from eval.intervals import as_json
from plumbrule.artifacts import Artifact, write_json
from plumbrule.config import RuntimeConfig
from plumbrule.costs import COSTS, input_of, lineage, total
from plumbrule.errors import ConfigError, DataError
from plumbrule.gathered import Gathered, gathered
from plumbrule.records import read_rows
from plumbrule.seeds import seed_interval
from plumbrule.statistics import Interval, mean_interval
from plumbrule.tracking import Tracker

HALVES = ("validation", "test")
Items = dict[tuple[str, str], Mapping[str, Any]]
"""(prompt id, condition) -> item row."""


class Half(NamedTuple):
    """What one half of the prompts says of a policy, per prompt and condition."""

    gains: list[float]
    kl: list[float]
    groups: list[str]


class Evaluated(NamedTuple):
    """One policy against its baseline."""

    seed: str
    halves: dict[str, Half]
    costs: dict[str, float]


@dataclass(frozen=True)
class Trial:
    """A method under one setting, over seeds."""

    method: str
    setting: str
    runs: list[Evaluated]

    def gain(self, half: str, config: MethodsConfig) -> Interval:
        """Return the gold gain on a half of the prompts."""
        return over_seeds([(h.gains, h.groups) for h in self._halves(half)], config)

    def kl(self, half: str, config: MethodsConfig) -> Interval:
        """Return the KL to the baseline on a half of the prompts, nats per response."""
        return over_seeds([(h.kl, h.groups) for h in self._halves(half)], config)

    def _halves(self, half: str) -> list[Half]:
        return [run.halves[half] for run in self.runs]

    def cost(self, name: str) -> float:
        """Return a cost, the mean over seeds."""
        return float(np.mean([run.costs[name] for run in self.runs]))

    def beyond(self, budget: BudgetConfig) -> list[str]:
        """Return the costs that are over the budget."""
        limits = {name: getattr(budget, name) for name in COSTS}
        return [n for n, limit in limits.items() if limit is not None and self.cost(n) > limit]


def run(
    config: MethodsConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    out: Path,
    tracker: Tracker,
) -> Mapping[str, float]:
    """Compare, choose and write; return `methods/{gold_gain,kl}_<method>` of the chosen trials.

    Raises: DataError: an evaluation without gold or KL, to another start or on other prompts than
    its baseline, or on too few. ConfigError: two gold utilities, two inputs of one trial and seed.
    """
    baselines = gathered(inputs, "baseline")
    by_trial: dict[tuple[str, str], list[Evaluated]] = {}
    said: list[str] = []
    asked: set[str] = set()
    for one in gathered(inputs, "policy"):
        key = (one.name or one.artifact.kind, one.label.removeprefix(one.name).strip())
        runs = by_trial.setdefault(key, [])
        if any(run.seed == one.seed for run in runs):
            raise ConfigError(f"inputs must have one policy of {' '.join(key)}; rename one.")
        baseline = baseline_of(one, baselines)
        said += same_terms(baseline, one.artifact)[1]
        runs.append(evaluated(one, baseline))
        asked |= {prompt for prompt, _ in read_items(one.artifact)}
    trials = [Trial(method, setting, runs) for (method, setting), runs in by_trial.items()]
    chosen = choose(trials, config)
    curve = best_of_n(gathered(inputs, "best_of_n"), asked, config)
    write_json(out / "methods.json", [as_row(t, t in chosen.values(), config) for t in trials])
    write_json(out / "best_of_n.json", curve)
    write_json(out / "tables.json", [table(trials, chosen, config), *curve_tables(curve)])
    write_json(out / "figures.json", [figure(trials, curve, config)])
    write_json(out / "notes.json", [*notes(trials, chosen, config), *dict.fromkeys(said)])
    metrics: dict[str, float] = {}
    for method, trial in chosen.items():
        for name, interval in (
            (f"methods/gold_gain_{method}", trial.gain("test", config)),
            (f"methods/kl_{method}", trial.kl("test", config)),
        ):
            ends = {"": interval.value, "_low": interval.low, "_high": interval.high}
            metrics |= {name + end: x for end, x in ends.items() if x == x}
        metrics |= {f"methods/{name}_{method}": trial.cost(name) for name in COSTS}
    return metrics


def baseline_of(one: Gathered, baselines: Sequence[Gathered]) -> Artifact:
    """Return the baseline whose variation is part of a policy's.

    Raises: DataError: none is, or several are.
    """
    found = [b for b in baselines if b.variation.items() <= one.variation.items()]
    if len(found) != 1:
        what = " ".join(f"{k}={v}" for k, v in one.variation.items()) or "the run"
        raise DataError(
            f"inputs must hold one baseline for {what}, not {len(found)}; give the node the "
            "evaluation of what the policy started from.",
            one.artifact.path,
        )
    return found[0].artifact


def evaluated(one: Gathered, baseline: Artifact) -> Evaluated:
    """Return one policy's gains, KL and costs.

    Raises: DataError: see `run`.
    """
    path = one.artifact.path
    before, after = (read_items(artifact) for artifact in (baseline, one.artifact))
    if before.keys() != after.keys():
        raise DataError(
            "an evaluation must be of its baseline's prompts and conditions; give both the same.",
            path,
        )
    lacking = [name for name in ("gold", "kl") if any(name not in row for row in after.values())]
    if lacking:
        raise DataError(
            f"every prompt must have {' and '.join(lacking)}; {WAYS[lacking[0]]}.", path
        )
    if input_of(one.artifact, "reference") != input_of(baseline, "policy"):
        raise DataError(
            "the evaluation's reference must be the policy of its baseline, or KL and gain are to "
            "different starts; give both nodes the same one.",
            path,
        )
    halves = {}
    for half in HALVES:
        keys = [key for key, row in after.items() if half_of(row["group"]) == half]
        gains = [after[key]["gold"] - before[key]["gold"] for key in keys]
        groups = [str(after[key]["group"]) for key in keys]
        if len(set(groups)) < 2:
            raise DataError(
                f"the {half} half must have prompts of two groups at least; raise "
                "eval.max_prompts.",
                path,
            )
        halves[half] = Half(gains, [after[key]["kl"] for key in keys], groups)
    costs = total(one.artifact, "policy", without=lineage(baseline, "policy"))
    return Evaluated(one.seed, halves, costs)


WAYS = {
    "gold": "use prompts whose answers the gold utility knows",
    "kl": "give the evaluation the baseline's policy as its input reference",
}


def read_items(artifact: Artifact) -> Items:
    """Return the item rows of an evaluation's held-out prompts."""
    path = artifact.file("items/prompts.jsonl")
    return {(row["id"], row["condition"]): row for _, row in read_rows(path)}


def half_of(group: str) -> str:
    """Return the half that a group of prompts belongs to, by a hash of its name."""
    return HALVES[hashlib.sha256(group.encode()).digest()[0] % 2]


def over_seeds(
    values: Sequence[tuple[Sequence[float], Sequence[str]]], config: MethodsConfig
) -> Interval:
    """Return the mean of one list of numbers per seed; of one seed, bootstrapped by group.

    Args: values: of each seed the numbers and their groups, (n,) each.
    """
    if len(values) > 1:
        return seed_interval([float(np.mean(own)) for own, _ in values], config.confidence)
    return mean_interval(
        *values[0],
        confidence=config.confidence,
        num_resamples=config.num_resamples,
        seed=config.seed,
    )


def choose(trials: Sequence[Trial], config: MethodsConfig) -> dict[str, Trial]:
    """Return each method's trial with the highest gain on the validation half, within the budget.

    A method whose trials all cost too much has none.
    """
    chosen: dict[str, Trial] = {}
    for trial in trials:
        if trial.beyond(config.budget):
            continue
        best = chosen.get(trial.method)
        gains = [t.gain("validation", config).value for t in (trial, best) if t is not None]
        if best is None or gains[0] > gains[1]:
            chosen[trial.method] = trial
    return chosen


def best_of_n(
    given: Sequence[Gathered], asked: Collection[str], config: MethodsConfig
) -> list[dict[str, Any]]:
    """Return best-of-n's curve over seeds: a row for each name and n.

    Args: asked: ids of the prompts that policies were evaluated on; others are left out.
    Raises: DataError: its answers have no utility.
    """
    by_label: dict[str, list[Mapping[int, list[float]]]] = {}
    groups: dict[str, list[list[str]]] = {}
    for one in given:
        curve: dict[int, list[float]] = {}
        whose: list[str] = []
        for _, row in read_rows(one.artifact.file("prompts.jsonl")):
            if "utility" not in row:
                raise DataError(
                    "answers must have a utility; sample them with labeller=gold.",
                    one.artifact.path,
                )
            if half_of(row["group"]) == "test" and row["id"] in asked:
                whose.append(row["group"])
                for n, value in zip(row["n"], row["utility"], strict=True):
                    curve.setdefault(int(n), []).append(value - row["utility"][0])
        if len(set(whose)) < 2:
            raise DataError(
                "best-of-n must share prompts of two groups with the evaluations; sample more.",
                one.artifact.path,
            )
        by_label.setdefault(one.label, []).append(curve)
        groups.setdefault(one.label, []).append(whose)
    rows = []
    for label, curves in by_label.items():
        for n in curves[0]:
            pairs = zip(curves, groups[label], strict=True)
            gain = over_seeds([(curve[n], whose) for curve, whose in pairs], config)
            bound = float(np.log(n) - (n - 1) / n)
            rows.append({"name": label, "n": n, "kl_bound": bound, "gold_gain": as_json(gain)})
    return rows


def as_row(trial: Trial, chosen: bool, config: MethodsConfig) -> dict[str, Any]:
    """Return a trial of `methods.json`."""
    return {
        "method": trial.method,
        "setting": trial.setting,
        "seeds": [run.seed for run in trial.runs],
        "chosen": chosen,
        "beyond_budget": trial.beyond(config.budget),
        **{
            f"{half}_{name}": as_json(interval)
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
        gain = row["gold_gain"]
        bounds = "" if gain["low"] is None else f" [{gain['low']:.3f}, {gain['high']:.3f}]"
        name = f"{row['name']} n = {row['n']}".strip()
        rows.append([name, f"{row['kl_bound']:.2f}", f"{gain['value']:.3f}{bounds}"])
    columns = ["best of n", "KL, at most (nats)", "gold gain, test half"]
    return [{"title": "best of n, at every answer again", "columns": columns, "rows": rows}]


def shown(interval: Interval) -> str:
    """Return an interval as text."""
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def figure(
    trials: Sequence[Trial], curve: Sequence[Mapping[str, Any]], config: MethodsConfig
) -> dict[str, Any]:
    """Return the figure: gold gain against KL, a line through each method's trials."""
    series: list[dict[str, Any]] = []
    for colour, method in enumerate(dict.fromkeys(t.method for t in trials)):
        points = []
        for trial in trials:
            if trial.method == method:
                gain, kl = trial.gain("test", config), trial.kl("test", config)
                points.append((kl.value, gain.value, gain.low, gain.high))
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
