"""The cells that a sweep asks for: the grid of its words, its named axes, and their order.

A zipped axis is several settings that change together. It has a name, which stands in tables in
place of its settings, and as many positions as each of its settings has values.

A one-at-a-time axis is a baseline and changes of it, each alone: its positions have names, of which
the first is `default`, where nothing is changed.

Every position of an axis is combined with every value of the other axes.
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
from plumbrule.report.sweep_table import POSITION, label_words, settings_at

FOLDS = "data.folds"
"""The setting of a sweep that asks for a cell for each fold."""
SWEEP = "sweep."
SWEEP_FILE = "sweep="
"""How the word begins that names a file of conf/sweep; it is of the sweep, not of its cells."""
EXAMPLE = 'sweep.zip.scale="ppo.learning_rate=1e-5,3e-5; ppo.batch_size=64,128"'
ALONE_EXAMPLE = "sweep.alone.detail.dual_clip='ppo.dual_clip=3'"
BASELINE = "default"
"""The position of a one-at-a-time axis at which nothing is changed."""
Axes = Mapping[str, Sequence[Mapping[str, str]]]
"""Name of an axis -> at each of its positions, setting -> value, and where positions have names
that of this one under `POSITION`."""


def cells_of_sweep(hydra: Mapping[str, Any], loader: Any = None) -> list[tuple[str, ...]]:
    """Return the overrides of each cell of a sweep, in the order in which they are to be built.

    Args: hydra: the part `hydra` of the sweep's config. loader: Hydra's, for globs over files.
    Raises: ConfigError: axes or an order that can't be. HydraException: an unreadable word.
    """
    sweeper = hydra.get("sweeper") or {}
    axes = named_axes(sweeper)
    grid = grid_of(words_of_sweep(hydra), loader)
    for name, positions in axes.items():
        for key in dict.fromkeys(key for at in positions for key in settings_at(at)):
            if key in grid:
                part = "alone" if POSITION in positions[0] else "zip"
                raise ConfigError(
                    f"{key} must not stand in sweep.{part}.{name} and by itself; take one out."
                )
    named = [[_words(at) for at in axis] for axis in axes.values()]
    single = [[[word] for word in words] for words in grid.values()]
    products = itertools.product(*named, *single)
    cells = [tuple(itertools.chain.from_iterable(product)) for product in products]
    return _in_order(cells, axes, sweeper.get("first"))


def _words(at: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in settings_at(at).items()]


def named_axes(sweeper: Mapping[str, Any]) -> dict[str, list[dict[str, str]]]:
    """Return the zipped and the one-at-a-time axes of a sweep by name.

    Raises: ConfigError: as `zipped_axes` and `alone_axes`; two have a name or a setting in common.
    """
    zipped, alone = zipped_axes(sweeper.get("zip")), alone_axes(sweeper.get("alone"))
    owner = {key: name for name, positions in zipped.items() for key in positions[0]}
    for name, positions in alone.items():
        if name in zipped:
            raise ConfigError(
                f"sweep.alone.{name} must have another name than sweep.zip.{name}; rename one."
            )
        for key in dict.fromkeys(key for at in positions for key in settings_at(at)):
            if (other := owner.setdefault(key, name)) != name:
                raise ConfigError(
                    f"{key} must stand in one axis of a sweep, not in {other} and {name}; take one "
                    "out."
                )
    return zipped | alone


def alone_axes(given: Mapping[str, Any] | None) -> dict[str, list[dict[str, str]]]:
    """Return the one-at-a-time axes of a sweep by name; each begins with `BASELINE`.

    Args: given: name -> position -> `key=1; other=2`, or a mapping of settings to values.
    Raises: ConfigError: a name that can't be, no position, or what can't be read.
    """
    axes: dict[str, list[dict[str, str]]] = {}
    for name, positions in (given or {}).items():
        _require_name("alone", name)
        if not isinstance(positions, Mapping) or not positions:
            raise ConfigError(
                f"sweep.alone.{name} (={positions}) must be names of changes and their settings; "
                f"write {ALONE_EXAMPLE}."
            )
        axes[str(name)] = [{POSITION: BASELINE}]
        for position, settings in positions.items():
            field = f"sweep.alone.{name}.{position}"
            if not re.fullmatch(r"[A-Za-z_]\w*", str(position)) or position == BASELINE:
                raise ConfigError(
                    f"{field} must be named by one word other than {BASELINE}, which is the "
                    "baseline; rename it."
                )
            columns = _columns(field, settings, ALONE_EXAMPLE)
            if repeated := [key for key in columns if key.lstrip("+~") in REPEATED]:
                raise ConfigError(
                    f"{field} must not set {repeated[0]}, by which a change is paired with "
                    f"{BASELINE}; sweep it beside the axis, as in seed=0,1,2."
                )
            several = [key for key, values in columns.items() if len(values) > 1]
            if several:
                raise ConfigError(
                    f"{field} must set {several[0]} to one value; name another change for each."
                )
            values = {key: column[0] for key, column in columns.items()}
            axes[str(name)].append({POSITION: str(position), **values})
    return axes


def _require_name(part: str, name: object) -> None:
    """Raise ConfigError unless an axis can be called so: its name is a column of tables."""
    if not re.fullmatch(r"[A-Za-z_]\w*", str(name)) or name in REPEATED:
        raise ConfigError(
            f"sweep.{part}.{name} must be named by one word other than {' and '.join(REPEATED)}, "
            "of which a table has the mean; name it by what its settings are."
        )


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
        _require_name("zip", name)
        field = f"sweep.zip.{name}"
        columns = _columns(field, values, EXAMPLE)
        if len(columns) < 2:
            raise ConfigError(
                f"{field} (={values}) must hold two settings or more; write {EXAMPLE}."
            )
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
    """Return name -> setting -> value of the positions of axes at which a cell stands.

    Of several, the one with the most settings: at the baseline of an axis there are none.
    """
    own = set(overrides)
    found = {}
    for name, positions in axes.items():
        fitting = [dict(at) for at in positions if own.issuperset(_words(at))]
        if fitting:
            found[name] = max(fitting, key=len)
    return found


def _columns(field: str, given: Any, example: str) -> dict[str, list[str]]:
    """Return setting -> its values as words, of one zipped axis or position."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if isinstance(given, str):
        parts = [part.strip() for part in given.split(";") if part.strip()]
    elif isinstance(given, Mapping):
        parts = [
            f"{key}={_as_word(f'{field.removeprefix(SWEEP)}.{key}', value)}"
            for key, value in given.items()
        ]
    else:
        raise ConfigError(f"{field} (={given}) must be settings and their values; write {example}.")
    columns: dict[str, list[str]] = {}
    for part in parts:
        try:
            override = OverridesParser.create().parse_override(part)
        except HydraException:
            raise ConfigError(
                f"{field} (={part}) must be setting=values; write {example}."
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
    if not columns:
        least = "a setting" if example == ALONE_EXAMPLE else "two settings or more"
        raise ConfigError(f"{field} (={given}) must hold {least}; write {example}.")
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
