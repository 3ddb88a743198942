"""The cells that a sweep asks for: the grid of its words, its zipped axes, and their order.

A zipped axis is several settings that change together. It has a name, which stands in tables in
place of its settings, and as many positions as each of its settings has values. Every position is
combined with every value of the other axes.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from plumbrule.config import require
from plumbrule.data.splits import MOST_FOLDS
from plumbrule.errors import ConfigError, listed
from plumbrule.report.repeats import REPEATED, key_without_signs
from plumbrule.report.sweep_table import label_words

FOLDS = "data.folds"
"""The setting of a sweep that asks for a cell for each fold."""
SWEEP_FILE = "sweep="
"""How the word begins that names a file of conf/sweep; it is of the sweep, not of its cells."""
EXAMPLE = 'sweep.zip.scale="ppo.learning_rate=1e-5,3e-5; ppo.batch_size=64,128"'
Axes = Mapping[str, Sequence[Mapping[str, str]]]
"""Name of a zipped axis -> at each of its positions, setting -> value."""


def cells_of_sweep(hydra: Mapping[str, Any], loader: Any = None) -> list[tuple[str, ...]]:
    """Return the overrides of each cell of a sweep, in the order in which they are to be built.

    Args: hydra: the part `hydra` of the sweep's config. loader: Hydra's, for globs over files.
    Raises: ConfigError: zipped axes or an order that can't be. HydraException: an unreadable word.
    """
    sweeper = hydra.get("sweeper") or {}
    axes = zipped_axes(sweeper.get("zip"))
    grid = grid_of(words_of_sweep(hydra), loader)
    for name, positions in axes.items():
        for key in positions[0]:
            if key in grid:
                raise ConfigError(
                    f"{key} must not stand in sweep.zip.{name} and by itself; take one out."
                )
    zipped = [[[f"{k}={v}" for k, v in at.items()] for at in axis] for axis in axes.values()]
    single = [[[word] for word in words] for words in grid.values()]
    products = itertools.product(*zipped, *single)
    cells = [tuple(itertools.chain.from_iterable(product)) for product in products]
    return _in_order(cells, axes, sweeper.get("first"))


def words_of_sweep(hydra: Mapping[str, Any]) -> list[str]:
    """Return what a sweep's file and then its command set for its cells."""
    params = (hydra.get("sweeper") or {}).get("params") or {}
    task = [str(word) for word in hydra["overrides"]["task"]]
    own = [f"{key}={_as_word(f'params.{key}', value)}" for key, value in params.items()]
    words = []
    for word in own:
        words += fold_words(word, [*own, *task]) if word.startswith(f"{FOLDS}=") else [word]
    return [*words, *(word for word in task if not word.startswith(SWEEP_FILE))]


def fold_words(word: str, others: Sequence[str]) -> list[str]:
    """Return what `data.folds=k` is: `folds`, and `fold` with a value for each unless others set
    it.

    Raises: ConfigError: k is no number of folds.
    """
    count = word.partition("=")[2]
    whole = count.isdecimal() and 2 <= int(count) <= MOST_FOLDS
    require(whole, FOLDS, count, f"be a whole number from 2 to {MOST_FOLDS}", "change it")
    given = any(key_without_signs(other) == "fold" for other in others)
    return [f"folds={count}", *([] if given else [f"fold=range({count})"])]


def grid_of(words: Sequence[str], loader: Any = None) -> dict[str, list[str]]:
    """Return setting -> its overrides, one for each value; the last word for a setting holds.

    Raises: ConfigError: an interval, which has no end of values.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    found = {}
    for override in OverridesParser.create(config_loader=loader).parse_overrides(list(words)):
        key = override.get_key_element()
        if not override.is_sweep_override():
            found[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            found[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise ConfigError(
                f"{override.input_line} must list its values where all are built; list them, or "
                "let a search choose: sweep.search=tpe."
            )
    return found


def zipped_axes(given: Mapping[str, Any] | None) -> dict[str, list[dict[str, str]]]:
    """Return the zipped axes of a sweep by name.

    Args: given: name -> `key=1,2; other=3,4`, or a mapping of settings to values, which are a list
    or a text as on the command line.
    Raises: ConfigError: unequal lengths, a setting that stands twice, or what can't be read.
    """
    axes: dict[str, list[dict[str, str]]] = {}
    owner: dict[str, str] = {}
    for name, values in (given or {}).items():
        if not re.fullmatch(r"[A-Za-z_]\w*", str(name)) or name in REPEATED:
            raise ConfigError(
                f"sweep.zip.{name} must be named by one word other than {' and '.join(REPEATED)}, "
                "of which a table has the mean; name it by what its settings are."
            )
        columns = _columns(str(name), values)
        for key in columns:
            if (other := owner.setdefault(key, str(name))) != name:
                raise ConfigError(
                    f"{key} must stand in one zipped axis, not in sweep.zip.{other} and "
                    f"sweep.zip.{name}; take one out."
                )
        lengths = {key: len(column) for key, column in columns.items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{key} has {n}" for key, n in lengths.items())
            raise ConfigError(
                f"sweep.zip.{name} must have as many values of each setting ({told}); add or take "
                "out values."
            )
        rows = zip(*columns.values(), strict=True)
        axes[str(name)] = [dict(zip(columns, row, strict=True)) for row in rows]
    return axes


def labels_of(axes: Axes, overrides: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return name -> setting -> value of the positions of zipped axes at which a cell stands."""
    own = set(overrides)
    found = {}
    for name, positions in axes.items():
        for at in positions:
            if own >= {f"{key}={value}" for key, value in at.items()}:
                found[name] = dict(at)
    return found


def _columns(name: str, given: Any) -> dict[str, list[str]]:
    """Return setting -> its values as words, of one zipped axis."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    field = f"sweep.zip.{name}"
    if isinstance(given, str):
        parts = [part.strip() for part in given.split(";") if part.strip()]
    elif isinstance(given, Mapping):
        parts = [f"{key}={_as_word(f'zip.{name}.{key}', value)}" for key, value in given.items()]
    else:
        raise ConfigError(f"{field} (={given}) must be settings and their values; write {EXAMPLE}.")
    columns: dict[str, list[str]] = {}
    for part in parts:
        try:
            override = OverridesParser.create().parse_override(part)
        except HydraException:
            raise ConfigError(
                f"{field} (={part}) must be setting=values; write {EXAMPLE}."
            ) from None
        key = override.get_key_element()
        if override.is_sweep_override() and not override.is_discrete_sweep():
            raise ConfigError(f"{field} (={part}) must list its values, not an interval.")
        if key in columns:
            raise ConfigError(f"{field} must set {key} once; take one out.")
        columns[key] = (
            list(override.sweep_string_iterator())
            if override.is_sweep_override()
            else [override.get_value_element_as_str()]
        )
    if len(columns) < 2:
        raise ConfigError(f"{field} (={given}) must hold two settings or more; write {EXAMPLE}.")
    return columns


def _as_word(field: str, value: Any) -> str:
    """Return values of a file as the command line has them.

    Raises: ConfigError: a list in a list or a mapping, which only a text can say.
    """
    items = value if isinstance(value, list) else [value]
    for item in items:
        if isinstance(item, list | Mapping):
            raise ConfigError(
                f"sweep.{field} (={value}) must be a text where a value is a list or a mapping, as "
                '"[1,2],[3,4]".'
            )
    special = {"True": "true", "False": "false", "None": "null"}
    return ",".join(special.get(str(item), str(item)) for item in items)


def _in_order(cells: Sequence[tuple[str, ...]], axes: Axes, first: Any) -> list[tuple[str, ...]]:
    """Return the cells, those with the overrides that `first` names before the others.

    An earlier override weighs more. A zipped axis is named as in tables: `scale=1e-05/64`.
    """
    given = first.split(";") if isinstance(first, str) else list(first or ())
    wanted = [_as_hydra_has(str(word).strip()) for word in given if str(word).strip()]
    own = [{*cell, *label_words(labels_of(axes, cell))} for cell in cells]
    known = dict.fromkeys(word for words in own for word in sorted(words))
    for word in wanted:
        if word not in known:
            raise ConfigError(
                f"sweep.first (={word}) must be an override that cells have; they have "
                f"{listed(list(known), 8)}."
            )
    order = sorted(range(len(cells)), key=lambda n: [word not in own[n] for word in wanted])
    return [cells[n] for n in order]


def _as_hydra_has(word: str) -> str:
    """Return an override with its value as Hydra writes it: 1e-5 is 1e-05."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:
        return word
    if override.is_sweep_override():
        return word
    return f"{override.get_key_element()}={override.get_value_element_as_str()}"
