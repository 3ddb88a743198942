"""A method under one setting, over seeds: what `methods` chooses among."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from eval.comparisons.config import BudgetConfig, MethodsConfig
from plumbrule.lm.cost_metrics import COSTS
from plumbrule.statistics import Interval, mean_interval, seed_interval

HALVES = ("validation", "test")
"""Settings are chosen on the one and reported on the other."""


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


def over_seeds(
    values: Sequence[tuple[Sequence[float], Sequence[str]]], config: MethodsConfig
) -> Interval:
    """Return the mean of one list of numbers per seed; of one seed, with an interval by group.

    Args: values: of each seed the numbers and their groups, (n,) each.
    """
    if len(values) > 1:
        return seed_interval([float(np.mean(own)) for own, _ in values], config.confidence)
    return mean_interval(*values[0], confidence=config.confidence)


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
