"""The cells of a sweep, or any runs, as what became of each: done, failed, running, missing.

A cell is known from three places, and any of them will do: `multirun.yaml`, which Hydra writes into
the sweep's folder before the first cell; `cell.json` in a cell's own folder; and the record of a
run with the same overrides, so a cell that was run again by itself counts as done.
"""

from __future__ import annotations

import fnmatch
import glob
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from plumbrule.errors import ArtifactError, ConfigError, listed
from plumbrule.report.contents import command_of
from plumbrule.report.repeats import RunNumber, is_repeat, known_or_set, repeat_words, setting_of
from plumbrule.report.sweep_table import CELL, STOPPED, Cell, read_any_cell, with_labels
from plumbrule.results.store_names import find_run, read_record, runs
from plumbrule.results.sweep_axes import cells_of_sweep, labels_of, named_axes
from plumbrule.store.artifacts import Store
from plumbrule.store.json_files import read_json
from plumbrule.store.layout import LOGS, RUNS, TRACEBACK, store_root

SWEEPS = "sweep"
"""Folder of a run's name that holds its sweeps' cells."""
PLANNED = "multirun.yaml"
"""In a sweep's folder: the command that Hydra was given."""
FAILURE = "failure.json"
LOG_LINES = 20
LOG_BYTES = 2**16
"""At the end of a log, among which its last lines are."""
APART = ("run.store=", "tracking=", "tracking.", "executor=", "executor.")
"""Beginnings of overrides that change no number: they tell no cells apart."""
ENDED = ("done", "pruned")
"""States of cells that need no more to be done for them."""
ALIKE = "(all alike)"
"""The name of cells that differ by nothing but seed and fold."""


@dataclass(frozen=True)
class RunCell:
    """One cell. overrides: of its command. state: done, pruned (stopped early by a search), failed,
    stopped, waiting, running, missing.

    folder: of its run, or of the cell where no run is known; None: it left nothing. record: its
    `run.json`, {} without one. swept: the settings in which the gathered cells differ, by key, the
    seed and fold left out, zipped ones under the name of their axis. zipped: as in `Cell`. error:
    why it is not done. log: the last lines that it left.
    """

    overrides: tuple[str, ...]
    state: str
    folder: Path | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    headline: tuple[str, ...] = ()
    objective: str | None = None
    error: str = ""
    swept: Mapping[str, str] = field(default_factory=dict)
    log: tuple[str, ...] = ()
    command: str = ""
    zipped: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def seed(self) -> str:
        """The seed as text: that of its overrides, else of its record; "" where none is known."""
        return setting_of(self.overrides, "seed") or str(self.record.get("seed", ""))

    @property
    def fold(self) -> str:
        """The fold that it held out as text, from 0; "" without cross-validation."""
        return known_or_set(self.record.get("fold"), self.overrides, "fold")

    def measured(self, metric: str) -> RunNumber:
        """Return a metric of it, of which it has a number."""
        folds = known_or_set(self.record.get("folds"), self.overrides, "folds")
        return RunNumber(self.metrics[metric], self.fold, folds)

    @property
    def repeat(self) -> str:
        """What tells it from others of its group, as words: `seed=0 fold=1`."""
        return repeat_words(self.seed, self.fold)

    @property
    def name(self) -> str:
        """What it was swept with, as `key=value` words."""
        return " ".join(f"{key}={value}" for key, value in self.swept.items()) or ALIKE


def key_of(override: str) -> str:
    """Return the key of an override without the signs of Hydra: `+a.b=1` is of `a.b`."""
    return override.lstrip("+~").partition("=")[0]


def value_of(override: str) -> str:
    """Return the value of an override, whatever signs it holds, without quotes around all of it."""
    value = override.partition("=")[2]
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return value


def gather_cells(store: Store, words: Sequence[str]) -> list[RunCell]:
    """Return the cells that `words` name, those that are not done first, else in their order.

    Args: words: sweeps by id or folder; runs by id, folder, name (all runs of that name) or a
    pattern such as `quickstart/2026*`.
    Raises: ArtifactError: no word, or one that names nothing.
    """
    if not words:
        raise ArtifactError(
            f"gather must be given a sweep or runs of {store.root}; {_known(store)}."
        )
    every = runs(store)
    found: list[RunCell] = []
    for word in words:
        found += (
            _of_sweep(store, word, every) or _of_runs(store, word, every) or _nothing(store, word)
        )
    unique = {cell.folder or identity_of(cell.overrides): cell for cell in found}
    cells = [_with_log(store, cell) for cell in _told_apart(list(unique.values()))]
    return sorted(cells, key=lambda cell: cell.state in ENDED)


def every_run(store: Store) -> list[RunCell]:
    """Return a cell for each run of the store, oldest first."""
    cells = _told_apart([_of_record(*run) for run in runs(store)])
    return [_with_log(store, cell) for cell in cells]


def sweeps_of(store: Store) -> dict[str, Path]:
    """Return the ids of the sweeps that left a cell or a log, oldest first -> its folder."""
    logs = store.root.glob(f"{RUNS}/*/{SWEEPS}/*.log")
    found = {path.stem: path.parent for path in logs}
    for path in store.root.glob(f"{RUNS}/*/{SWEEPS}/*/{CELL}"):
        if (cell := read_any_cell(path)) is not None:
            found[cell.sweep] = path.parent.parent
    return dict(sorted(found.items()))


def _of_sweep(
    store: Store, word: str, every: Sequence[tuple[Path, Mapping[str, Any]]]
) -> list[RunCell]:
    """Return the cells of the sweep that a word names; none where it names none."""
    known = sweeps_of(store)
    folder = _folder_of_sweep(store, word)
    if word in known:
        sweep, folder = word, known[word]
    elif folder is not None:
        here = [sweep for sweep, place in known.items() if place.resolve() == folder]
        sweep = here[-1] if here else ""
    else:
        return []
    left = [(path, read_any_cell(path)) for path in sorted(folder.glob(f"*/{CELL}"))]
    cells = sorted(
        ((path, cell) for path, cell in left if cell is not None and cell.sweep == sweep),
        key=lambda item: item[1].number,
    )
    planned = _planned(folder)  # with what is zipped of each
    own = [tuple(cell.overrides) for _, cell in cells]
    if sweep and not {identity_of(o) for o in own} <= {identity_of(p) for p in planned}:
        planned = {}  # of a later sweep in the same folder
    done = {identity_of(cell.overrides): _of_cell(store, path, cell) for path, cell in cells}
    order = {identity_of(o): tuple(o) for o in [*planned, *own]}
    zipped = {identity_of(o): labels for o, labels in planned.items()}
    zipped |= {identity_of(cell.overrides): cell.zipped for _, cell in cells}
    name = folder.parent.name
    return [
        replace(_newest(overrides, done.get(identity), name, every), zipped=zipped[identity])
        for identity, overrides in order.items()
    ]


def _folder_of_sweep(store: Store, word: str) -> Path | None:
    """Return the folder of cells that a path is, as given or inside the store."""
    for path in (Path(word), store.root / word, store.root / RUNS / word):
        if path.is_dir() and ((path / PLANNED).is_file() or any(path.glob(f"*/{CELL}"))):
            return path.resolve()
    return None


def _planned(folder: Path) -> dict[tuple[str, ...], Mapping[str, Mapping[str, str]]]:
    """Return the overrides of each cell that Hydra was asked for, and what is zipped of them; none
    where it can't be known, or where a search chose them.
    """
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        asked: Any = OmegaConf.to_container(OmegaConf.load(folder / PLANNED).hydra)
        sweeper = asked.get("sweeper") or {}
        if sweeper.get("search"):
            return {}
        axes = named_axes(sweeper)
        return {cell: labels_of(axes, cell) for cell in cells_of_sweep(asked)}
    except (OSError, HydraException, ConfigError, OmegaConfBaseException, YAMLError):
        return {}
    except (AttributeError, TypeError, KeyError):
        return {}


def identity_of(overrides: Iterable[str]) -> frozenset[str]:
    """Return what tells the cell of some overrides from others."""
    return frozenset(o for o in overrides if not o.lstrip("+").startswith(APART))


def _of_cell(store: Store, path: Path, cell: Cell) -> RunCell:
    """Return what a `cell.json` says; its metrics are those of its run, where that is there."""
    record = read_record(store.root / RUNS / cell.run) if cell.run else None
    if cell.error:
        state = "stopped" if cell.error.startswith(STOPPED) else "failed"
    else:
        state = "waiting" if cell.awaits else "done" if cell.run else "missing"
        state = "pruned" if cell.pruned else state
    return RunCell(
        tuple(cell.overrides),
        state,
        store.root / RUNS / cell.run if record is not None else path.parent,
        record or {},
        (record or {}).get("metrics", cell.metrics),
        tuple(cell.headline),
        cell.objective,
        cell.error or cell.awaits or cell.pruned,
    )


def _newest(
    overrides: tuple[str, ...],
    cell: RunCell | None,
    name: str,
    every: Sequence[tuple[Path, Mapping[str, Any]]],
) -> RunCell:
    """Return a cell as its newest run has it, where what the cell itself left is not done."""
    if cell is not None and cell.state == "done":
        return cell
    same = [
        _of_record(folder, record)
        for folder, record in every
        if folder.parent.name == name and identity_of(record["overrides"]) == identity_of(overrides)
    ]
    done = [one for one in same if one.state == "done"]
    if done:
        return done[-1]
    if cell is not None:
        failed = same[-1] if same else None
        return replace(cell, folder=failed.folder) if failed is not None else cell
    return replace(same[-1], overrides=overrides) if same else RunCell(overrides, "missing")


def _of_runs(
    store: Store, word: str, every: Sequence[tuple[Path, Mapping[str, Any]]]
) -> list[RunCell]:
    """Return a cell for each run that a word names; none where it names none."""
    one = find_run(store, word)
    if one is not None:
        return [_of_record(*one)]
    path = Path(word).resolve()
    patterns = [word, f"{RUNS}/{word}", f"{RUNS}/{glob.escape(word)}/*"]
    found = [
        (folder, record)
        for folder, record in every
        if any(fnmatch.fnmatchcase(str(folder.relative_to(store.root)), p) for p in patterns)
        or path in (folder.parent, folder.parent.parent)
    ]
    return [_of_record(*run) for run in found]


def _of_record(folder: Path, record: Mapping[str, Any]) -> RunCell:
    state = record["state"] if record["state"] != "unknown" else "missing"
    error = record.get("error") or record.get("awaits") or ""
    if state == "running":
        error = "it has not ended: it still runs, or was killed"
    elif state == "missing":
        error = "its record does not say what became of it"
    metrics = record.get("metrics", {}) if state == "done" else {}
    headline = tuple(record.get("headline", ()))
    overrides = tuple(record["overrides"])
    objective, zipped = record.get("objective"), zipped_of(record)
    return RunCell(
        overrides, state, folder, record, metrics, headline, objective, error, zipped=zipped
    )


def zipped_of(record: Mapping[str, Any]) -> Mapping[str, Mapping[str, str]]:
    """Return the zipped axes that a run's record tells of: name -> setting -> value."""
    zipped = record.get("zipped")
    axes = zipped.values() if isinstance(zipped, dict) else ()
    sound = all(isinstance(at, dict) and all(map(_is_text, at.values())) for at in axes)
    return zipped if sound and isinstance(zipped, dict) else {}


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _told_apart(cells: Sequence[RunCell]) -> list[RunCell]:
    """Return the cells, each with the settings in which not all are alike."""
    words = [
        [o for o in with_labels(cell.overrides, cell.zipped) if not o.lstrip("+").startswith(APART)]
        for cell in cells
    ]
    shared = set.intersection(*map(set, words)) if len(cells) > 1 else set()
    keys = dict.fromkeys(
        key_of(o) for own in words for o in own if o not in shared and not is_repeat(o)
    )
    told = []
    for cell, own in zip(cells, words, strict=True):
        values = {key_of(o): value_of(o) for o in own}
        told.append(replace(cell, swept={key: values.get(key, "default") for key in keys}))
    return told


def _with_log(store: Store, cell: RunCell) -> RunCell:
    """Return a cell with the command that runs it, and, where it is not done, its last lines."""
    usual = Path(store_root(None)).resolve()
    overrides = [o for o in cell.overrides if not o.lstrip("+").startswith("run.store=")]
    where = [] if usual == store.root else [f"run.store={store.root}"]
    command = command_of([*overrides, *where])
    if cell.state == "done":
        return replace(cell, command=command)
    return replace(cell, command=command, log=tuple(_last_lines(store, cell)))


def last_log_lines(
    store: Store, folder: Path, record: Mapping[str, Any], error: str = ""
) -> list[str]:
    """Return the last lines that a run printed, else of its traceback; none where it left neither.

    Of a node that another process built, perhaps for another cell, they are that process's.

    Args: error: why the run is not done, which may name the log of the node that failed: others may
    have gone on after it.
    """
    named = (store.root / record.get("log", "")).resolve()
    inside = [named] if named.is_relative_to(store.root) else []
    logs = [*folder.glob("*.log"), *folder.glob(f"{LOGS}/*.log")]
    logs.sort(key=lambda path: (str(path) in error, path.stat().st_mtime), reverse=True)
    for path in [*inside, *logs, folder / TRACEBACK]:
        if path.is_file():
            with open(path, "rb") as opened:
                opened.seek(max(0, path.stat().st_size - LOG_BYTES))
                return opened.read().decode("utf-8", "replace").splitlines()[-LOG_LINES:]
    return []


def _last_lines(store: Store, cell: RunCell) -> list[str]:
    """Return the last lines of a cell's log, else of its traceback, else of its error."""
    if cell.folder is not None and cell.folder.is_dir():
        record = cell.record or read_record(cell.folder) or {}
        if found := last_log_lines(store, cell.folder, record, cell.error):
            return found
        try:
            return str(read_json(cell.folder / FAILURE)["trace"]).splitlines()[-LOG_LINES:]
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            pass
    return cell.error.splitlines()[-LOG_LINES:]


def _nothing(store: Store, word: str) -> list[RunCell]:
    raise ArtifactError(f"{word!r} must name a sweep or runs of {store.root}; {_known(store)}.")


def _known(store: Store) -> str:
    """Return what there is to be gathered."""
    sweeps = list(sweeps_of(store))
    names = sorted({folder.parent.name for folder, _ in runs(store)})
    if not sweeps and not names:
        return "it holds none: name the store with --store <folder>"
    said = []
    if sweeps:
        said.append(f"sweeps: {listed(reversed(sweeps), 4)}")
    if names:
        said.append(f"names of runs: {listed(map(shlex.quote, names), 8)}")
    return "; ".join(said)
