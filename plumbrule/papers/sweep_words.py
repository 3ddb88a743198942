"""The sweeps of a paper's scale as commands, and the cells that they have."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hydra.errors import HydraException

from plumbrule.errors import ConfigError, listed
from plumbrule.papers.paper import Paper, PaperScale
from plumbrule.results.cells import APART, key_of, value_of
from plumbrule.results.sweep_axes import cells_of_sweep, grid_of

SEED = "seed="
FREE = (*APART, "run.dry=", "runtime.", "runtime=")
"""How overrides begin that a user may add to a paper's sweeps: they change no result."""


class PaperCell(NamedTuple):
    """A cell of a paper's sweeps. selection: the arm's settings in it, by key. overrides: of its
    command.
    """

    arm: str
    selection: Mapping[str, str]
    seed: int
    overrides: tuple[str, ...]


def arm_values(words: Sequence[str]) -> dict[str, list[str]]:
    """Return setting -> its values as text, in the sweep's order, of an arm's words.

    Raises: ConfigError: a word that can't be read.
    """
    try:
        return {key: [value_of(one) for one in own] for key, own in grid_of(words).items()}
    except HydraException as error:
        told = " ".join(str(error).split())
        raise ConfigError(
            f"arm (={listed(words)}) must be overrides that Hydra reads; {told}"
        ) from None


def sweep_words(paper: Paper, scale: PaperScale, arm: str, more: Sequence[str] = ()) -> list[str]:
    """Return the words of the sweep of one arm, without `-m`.

    Args: more: what a user adds: `seed=` takes the place of the seeds, all else stands behind.
    """
    seeds = [word for word in more if word.startswith(SEED)]
    return [
        f"experiment={scale.experiment}",
        f"run.name={paper.run_name}",
        *(setting.override for setting in scale.settings),
        *scale.arms[arm],
        *(seeds[-1:] or [f"{SEED}{','.join(map(str, scale.seeds))}"]),
        *(word for word in more if not word.startswith(SEED)),
    ]


def require_free(scale: PaperScale, more: Sequence[str]) -> None:
    """Raise ConfigError for an added word that would change what a paper's runs are, or a path that
    the scale needs and that is not given.
    """
    needed = [need.setting for need in scale.needs]
    allowed = (*FREE, SEED, *(f"{key}=" for key in needed))
    for word in more:
        if not word.startswith(allowed):
            raise ConfigError(
                f"{word} must not be added to a paper's runs, whose settings stand in conf/paper; "
                f"leave it out, or start a run of your own. Allowed: {listed(allowed, 20)}."
            )
    if missing := missing_data(scale, more):
        raise ConfigError(f"{missing}; add {' '.join(f'{key}=<path>' for key in needed)}.")


def require_seeds(paper: Paper, scale: PaperScale, more: Sequence[str]) -> None:
    """Raise ConfigError for an added seed that is none of the paper's, since claims are compared
    over those alone.
    """
    known = [str(seed) for seed in scale.seeds]
    given = arm_values([word for word in more if word.startswith(SEED)])
    for seed in given.get(SEED.removesuffix("="), []):
        if seed not in known:
            raise ConfigError(
                f"seed (={seed}) must be one of {listed(known)}, over which claims of {paper.name} "
                f"are compared; take one of these, or add it to conf/paper/{paper.name}.yaml."
            )


def missing_data(scale: PaperScale, more: Sequence[str]) -> str:
    """Return which data a scale needs that these words give no path of; "" where all is there."""
    given = {key_of(word) for word in more}
    lacking = [f"{n.setting} ({n.what})" for n in scale.needs if n.setting not in given]
    return f"the {scale.name} scale must be given {', '.join(lacking)}" if lacking else ""


def cells_of(paper: Paper, scale: PaperScale) -> list[PaperCell]:
    """Return all cells of a scale. Raises: ConfigError: an arm that can't be read."""
    found = []
    for arm, own in scale.arms.items():
        keys = list(arm_values(own))
        words = sweep_words(paper, scale, arm)
        for overrides in cells_of_sweep({"overrides": {"task": words}}):
            values = {key_of(word): value_of(word) for word in overrides}
            selection = {key: values[key] for key in keys}
            found.append(PaperCell(arm, selection, int(values["seed"]), overrides))
    return found


def command_words(paper: Paper, scale: PaperScale) -> str:
    """Return the command that runs a scale, as it is typed."""
    data = [shlex.quote(f"{need.setting}=<path>") for need in scale.needs]
    other = [] if scale.name == "laptop" else [f"scale={scale.name}"]
    return " ".join(["plumbrule paper run", paper.name, *other, *data])


def normal(value: str) -> str:
    """Return a swept value in one form, so that 1e-5 and 1e-05 are the same."""
    try:
        return repr(float(value))
    except ValueError:
        return value
