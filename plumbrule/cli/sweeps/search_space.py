"""What a search chooses from: the settings of a sweep with several values, as Optuna takes them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from plumbrule.errors import ConfigError
from plumbrule.report.repeats import REPEATED
from plumbrule.report.sweep_table import label_words, settings_at
from plumbrule.results.sweep_axes import named_axes, words_of_sweep

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

MOST_DIGITS = 6
"""Of a number that a search chose: its cell's name is read by people."""


class Space(NamedTuple):
    """axes: setting, or name of a zipped axis -> its values. zipped: name of an axis -> position as
    tables have it -> overrides. fixed: overrides of every cell. repeats: `seed` and `fold` where
    they have several values, over which a trial is the mean -> these.
    """

    axes: Mapping[str, BaseDistribution]
    zipped: Mapping[str, Mapping[str, Sequence[str]]]
    fixed: Sequence[str]
    repeats: Mapping[str, Sequence[str]]

    def overrides(self, chosen: Mapping[str, Any]) -> list[str]:
        """Return the overrides of what a trial chose."""
        out: list[str] = []
        for key, value in chosen.items():
            if key in self.zipped:
                out += self.zipped[key][value]
            else:
                text = f"{value:.{MOST_DIGITS}g}" if isinstance(value, float) else str(value)
                out.append(f"{key}={text}")
        return out

    def cells(self, chosen: Mapping[str, Any]) -> list[list[str]]:
        """Return the overrides of each cell of a trial: one, or one for each seed and fold."""
        own = [*self.fixed, *self.overrides(chosen)]
        columns = [[f"{key}={value}" for value in values] for key, values in self.repeats.items()]
        return [[*own, *repeat] for repeat in itertools.product(*columns)]


def space_of(hydra: Mapping[str, Any], loader: Any = None) -> Space:
    """Return what a search chooses from.

    Raises: ConfigError: nothing has several values, or a zipped setting stands by itself too.
    HydraException: a word can't be read.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from optuna.distributions import CategoricalDistribution

    axes: dict[str, BaseDistribution] = {}
    zipped: dict[str, dict[str, list[str]]] = {}
    words: dict[str, Any] = {}
    for override in OverridesParser.create(config_loader=loader).parse_overrides(
        words_of_sweep(hydra)
    ):
        words[override.get_key_element()] = override
    for name, positions in named_axes(hydra["sweeper"]).items():
        keys = [key for at in positions for key in settings_at(at)]
        twice = [key for key in [*dict.fromkeys(keys), name] if key in words]
        if twice:
            raise ConfigError(
                f"{twice[0]} must not stand in axis {name} of a sweep and by itself; take one out."
            )
        zipped[name] = {
            label_words({name: at})[0].partition("=")[2]: [
                f"{key}={value}" for key, value in settings_at(at).items()
            ]
            for at in positions
        }
        axes[name] = CategoricalDistribution(list(zipped[name]))
    fixed: list[str] = []
    repeats: dict[str, list[str]] = {}
    for key, override in words.items():
        if not override.is_sweep_override():
            fixed.append(f"{key}={override.get_value_element_as_str()}")
        elif key.lstrip("+") in REPEATED and override.is_discrete_sweep():
            repeats[key] = list(override.sweep_string_iterator())
        else:
            axes[key] = _distribution(key, override)
    if not axes:
        raise ConfigError(
            "sweep.search must have something to choose; give a setting several values or an "
            "interval."
        )
    return Space(axes, zipped, fixed, repeats)


def grid_points(space: Space) -> list[dict[str, Any]]:
    """Return every combination of the values. Raises: ConfigError: an interval, which has no end of
    values.
    """
    from optuna.distributions import CategoricalDistribution, IntDistribution

    columns = []
    for key, axis in space.axes.items():
        if isinstance(axis, CategoricalDistribution):
            columns.append([(key, value) for value in axis.choices])
        elif isinstance(axis, IntDistribution) and not axis.log:
            values = range(axis.low, axis.high + 1, axis.step)
            columns.append([(key, value) for value in values])
        else:
            raise ConfigError(
                f"{key} must list its values for sweep.search=grid; list them, or take tpe."
            )
    return [dict(point) for point in itertools.product(*columns)]


def _distribution(key: str, override: Any) -> BaseDistribution:
    """Return the values of one setting."""
    from hydra.core.override_parser.types import IntervalSweep
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    value = override.value()
    if isinstance(value, IntervalSweep):
        log = "log" in value.tags
        low, high = value.start, value.end
        whole = isinstance(low, int) and isinstance(high, int)
        if low is None or high is None or not low < high or (log and low <= 0):
            rises = low is not None and high is not None and low < high
            rule = "lie above 0 on a scale of logarithms" if log and rises else "rise"
            raise ConfigError(f"{override.input_line} must {rule}; change the ends of {key}.")
        kind: Any = IntDistribution if whole else FloatDistribution
        return kind(low, high, log=log)
    texts = list(override.sweep_string_iterator())
    if override.is_range_sweep():
        numbers = [int(text) for text in texts if text.lstrip("-").isdigit()]
        if len(numbers) == len(texts) > 1:
            step = abs(numbers[1] - numbers[0])
            return IntDistribution(min(numbers), max(numbers), step=step)
    return CategoricalDistribution(texts)
