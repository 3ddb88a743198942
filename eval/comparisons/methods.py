"""Stage `methods`: which method buys how much, at what distance and at what cost.

Each input `policy_<method>` is an evaluation, under some settings and seeds, of a policy that the
method made; `baseline` are the evaluations of what all of them started from, on the same prompts.

1. Prompts are split in two by what they ask about (their group). On the one half, the validation
   half, each method's settings are compared and the best is chosen; only the other half is
   reported, so that a method with more trials gains nothing from lucky prompts. From lucky training
   seeds it still does, being in both halves; so a number of trials that differs is noted.
2. Gold gain is paired with the baseline that the policy started from, prompt by prompt; KL is the
   evaluation's own estimate on the same sampled answers, the same for all methods. Over seeds both
   are means with Student's interval; with one seed the interval is over prompts.
3. Cost is what the policy was made from, without what the baseline was
   (`eval/comparisons/costs.py`). Trials over the budget are shown and can't be chosen.
4. Best-of-n has no policy: its curve stands beside the others at log n - (n - 1) / n, which is an
   upper bound of its KL; what it costs it costs at every answer again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.benchmarks.quantity import items_file
from eval.comparisons.compare import same_terms
from eval.comparisons.config import MethodsConfig
from eval.comparisons.costs import input_of, lineage, total
from eval.comparisons.methods_page import as_row, curve_tables, figure, notes, table
from eval.comparisons.trials import HALVES, Evaluated, Half, Trial, choose, over_seeds
from eval.intervals import publish
from plumbrule.data.json_lines import read_rows
from plumbrule.errors import ConfigError, DataError
from plumbrule.inputs import GatheredInput, Inputs
from plumbrule.lm.cost_metrics import COSTS
from plumbrule.protocols import Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import BEST_OF_N, FIGURES, METHODS, NOTES, PROMPTS, TABLES
from plumbrule.store.json_files import write_json

Items = dict[tuple[str, str], Mapping[str, Any]]
"""(prompt id, condition) -> item row."""


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
    return write_methods(config, inputs, out)


def write_methods(
    config: MethodsConfig, inputs: Mapping[str, Artifact], out: Path
) -> dict[str, float]:
    """Do what `run` does, of which nothing needs a machine or a tracker."""
    baselines = Inputs(inputs).variations("baseline")
    by_trial: dict[tuple[str, str], list[Evaluated]] = {}
    said: list[str] = []
    asked: set[str] = set()
    for one in Inputs(inputs).variations("policy"):
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
    curve = best_of_n(Inputs(inputs).variations("best_of_n"), asked, config)
    write_json(out / METHODS, [as_row(t, t in chosen.values(), config) for t in trials])
    write_json(out / BEST_OF_N, curve)
    write_json(out / TABLES, [table(trials, chosen, config), *curve_tables(curve)])
    write_json(out / FIGURES, [figure(trials, curve, config)])
    write_json(out / NOTES, [*notes(trials, chosen, config), *dict.fromkeys(said)])
    found = {f"methods/gold_gain_{m}": trial.gain("test", config) for m, trial in chosen.items()}
    found |= {f"methods/kl_{m}": trial.kl("test", config) for m, trial in chosen.items()}
    costs = {f"methods/{n}_{m}": trial.cost(n) for m, trial in chosen.items() for n in COSTS}
    return publish(found, out) | costs


def baseline_of(one: GatheredInput, baselines: Sequence[GatheredInput]) -> Artifact:
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


def evaluated(one: GatheredInput, baseline: Artifact) -> Evaluated:
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
    path = artifact.file(items_file("prompts"))
    return {(row["id"], row["condition"]): row for _, row in read_rows(path)}


def half_of(group: str) -> str:
    """Return the half that a group of prompts belongs to, by a hash of its name."""
    return HALVES[hashlib.sha256(group.encode()).digest()[0] % 2]


def best_of_n(
    given: Sequence[GatheredInput], asked: Collection[str], config: MethodsConfig
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
        for _, row in read_rows(one.artifact.file(PROMPTS)):
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
            rows.append({"name": label, "n": n, "kl_bound": bound, "gold_gain": gain.as_json()})
    return rows
