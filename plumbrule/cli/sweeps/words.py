"""The words of a command that say how its cells are chosen: `sweep=<file>` and `sweep.<setting>`.

They are settings of our sweeper, not of a run: Hydra gets them as `hydra.sweeper.<setting>`.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Sequence

from plumbrule.cli.explain import MULTIRUN
from plumbrule.config import require, require_range
from plumbrule.errors import ConfigError
from plumbrule.overrides import as_override
from plumbrule.results.sweep_axes import ALONE_EXAMPLE, EXAMPLE, FOLDS, fold_words

SETTINGS = {
    "first": "the cells that are built before the others",
    "at_once": "how many cells, or trials of a search, are one graph; null: all, or one trial",
    "search": "grid, random, tpe or gp: Optuna chooses the cells",
    "trials": "how many a search has in all",
    "study": "the name of a search's journal",
    "pruner": "median or halving: trials that fall behind are stopped early",
    "pruner_metric": "of metrics.jsonl, by which they do",
    "pruner_start": "updates before which none is stopped; of halving the first at which it is",
    "pruner_trials": "of median: trials that must be done before one is stopped",
    "pruner_factor": "of halving: one in so many goes on",
}
"""Names behind `sweep.`, beside `sweep.zip.<name>` and `sweep.alone.<name>.<change>`."""
NAMES = {"at_once": "max_batch_size"}
"""What Hydra calls a setting."""
TEXTS = ("first", "zip", "alone")
"""Settings that may hold several overrides, which Hydra then gets in quotes."""


def sweeper_words(words: Sequence[str]) -> list[str]:
    """Return the words of a command as Hydra takes them.

    Raises: ConfigError: such a word in a command that is no sweep, or an unknown setting.
    """
    sweeps = bool(set(words) & set(MULTIRUN))
    out = []
    for word in words:
        if word.startswith(f"{FOLDS}="):
            expanded = fold_words(word, words)
            if not sweeps:
                raise ConfigError(
                    f"{word} must stand in a sweep; write plumbrule -m {word}, or for one fold of "
                    f"them {expanded[0]} fold=0"
                )
            out += expanded
            continue
        if not sweeps and word.startswith(("sweep=", "sweep.")):
            raise ConfigError(
                f"{word} must stand in a sweep; write plumbrule -m {shlex.quote(word)}"
            )
        out.append(_as_hydra_takes(word) if word.startswith("sweep.") else word)
    return out


def require_count(name: str, value: object) -> None:
    """Raise ConfigError unless a setting of the sweep is None or a whole number from 1 on."""
    if value is not None:
        whole = type(value) is int
        require(whole, f"sweep.{name}", value, "be a whole number", "change it")
        require_range(f"sweep.{name}", int(str(value)), 1)


def _as_hydra_takes(word: str) -> str:
    key, equals, value = word.partition("=")
    name = key.removeprefix("sweep.")
    group = name.partition(".")[0]
    if group == "zip" and name in ("zip", "zip."):
        raise ConfigError(f"{key} must name its axis, whose name is a column; write {EXAMPLE}.")
    if group == "alone" and not re.fullmatch(r"alone(\.[^.]+){2}", name):
        raise ConfigError(
            f"{key} must name its axis, whose name is a column, and the change; write "
            f"{ALONE_EXAMPLE}."
        )
    if group not in ("zip", "alone") and name not in SETTINGS:
        axes = ("zip.<name>", "alone.<name>.<change>")
        known = [f"sweep.{known}" for known in (*axes, *SETTINGS)]
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"it is one of {', '.join(known)}."
        raise ConfigError(f"{key} must be a known setting of a sweep; {hint}")
    if not equals:
        raise ConfigError(f"{key} must have a value; write {key}=...")
    theirs = ".".join([NAMES.get(group, group), *name.split(".")[1:]])
    if group in TEXTS and value[:1] not in "\"'{[":
        (quoted,) = shlex.split(as_override("value", value))
        value = quoted.partition("=")[2]
        value = value if value[:1] == '"' else f'"{value}"'
    return f"++hydra.sweeper.{theirs}={value}"
