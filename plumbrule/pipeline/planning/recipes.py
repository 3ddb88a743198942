"""Recipes: settings that belong to a model's size and a device's memory (`conf/recipe/`).

Learning rates, batch sizes, precision, adapters and micro-batches of an experiment on the shipped
base model are wrong for a model five hundred times as large. A recipe sets them, stands behind the
experiment in the defaults list and before the command line, and says for which sizes it is meant.

Which one is taken follows from the model's file alone (`model=pythia_1b`), never from the device
that is there: the same command means the same on every machine. `recipe=<name>` chooses another,
`tiny` none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import yaml
from omegaconf import OmegaConf

from plumbrule.config import require, require_range

TINY = "tiny"
"""The recipe that sets nothing."""
MOST_TINY = 2e7
"""Parameters up to which an experiment's own values hold."""
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Written in C where PyYAML was built with it: a tenth of the time of OmegaConf's."""


@dataclass
class RecipeConfig:
    """What a recipe, or an experiment with values of its own, says of itself; nothing hashes it."""

    name: str = TINY
    least_parameters: float = 0.0
    """Of the models for which the learning rates are meant."""
    most_parameters: float = MOST_TINY
    device_gb: float | None = None
    """Memory of the device for which micro-batches and adapters are chosen; None: any."""

    def __post_init__(self) -> None:
        require_range("recipe.least_parameters", self.least_parameters, 0.0)
        require_range("recipe.most_parameters", self.most_parameters, 1.0)
        require(
            self.least_parameters <= self.most_parameters,
            "recipe.least_parameters",
            f"{self.least_parameters:g}",
            f"be at most recipe.most_parameters (={self.most_parameters:g})",
            "exchange them",
        )
        if self.device_gb is not None:
            require_range("recipe.device_gb", self.device_gb, 1.0, unit="GB")

    def suits(self, parameters: float) -> bool:
        """Return whether the recipe is meant for models of this size."""
        return self.least_parameters <= parameters <= self.most_parameters


class Advice(NamedTuple):
    """What the plan says of a recipe. warns: whether a user should change something."""

    text: str
    warns: bool


@lru_cache(maxsize=8)
def recipes(conf: Path) -> tuple[RecipeConfig, ...]:
    """Return what each file of conf/recipe says of itself, sorted by size and memory."""
    found = []
    for file in sorted((conf / "recipe").glob("*.yaml")):
        about = OmegaConf.select(OmegaConf.load(file), "recipe") or {}
        found.append(RecipeConfig(**{str(key): value for key, value in about.items()}))
    return tuple(sorted(found, key=lambda r: (r.most_parameters, r.device_gb or 0)))


def recipe_of_size(
    parameters: float | None, conf: Path, device_gb: float | None = None
) -> str | None:
    """Return the name of the recipe for a model; None where none is, or the size is not known.

    Of several the one for the largest device: it trains all weights, as the published runs do.

    Args: device_gb: memory of the device; None: any.
    """
    suiting = [
        recipe
        for recipe in recipes(conf)
        if parameters is not None
        and recipe.suits(parameters)
        and (device_gb is None or (recipe.device_gb or 0) <= device_gb)
    ]
    return max(suiting, key=lambda r: r.device_gb or 0).name if suiting else None


def recipe_of_model(choice: str, conf: Path) -> str:
    """Return the recipe that a file of conf/model brings; `tiny` for one without a known size.

    Args: choice: the file's name, as in `model=pythia_1b`.
    """
    file = conf / "model" / f"{choice}.yaml"
    if not file.is_file():
        return TINY
    return recipe_of_size(_parameters_of(file, file.stat().st_mtime_ns), conf) or TINY


@lru_cache(maxsize=256)
def _parameters_of(file: Path, changed_ns: int) -> float | None:
    """Return the size that a file of conf/model states, as it was changed last.

    Every command reads all of these files.
    """
    about = yaml.load(file.read_text(encoding="utf-8"), Loader=_LOADER)
    return OmegaConf.select(OmegaConf.create(about or {}), "shape.parameters")


def advise(recipe: RecipeConfig, parameters: float | None, conf: Path) -> Advice | None:
    """Return what there is to say of a recipe for a model of so many parameters; None: nothing."""
    if parameters is None:
        return None
    size = count_text(parameters)
    better = recipe_of_size(parameters, conf)
    if recipe.suits(parameters):
        if recipe.name == TINY:
            return None
        return Advice(f"recipe: {recipe.name}, for a model of {size} parameters", False)
    span = f"up to {count_text(recipe.most_parameters)}"
    if recipe.least_parameters:
        span = f"{count_text(recipe.least_parameters)} to {count_text(recipe.most_parameters)}"
    fix = (
        f"add recipe={better}"
        if better is not None
        else "no file of conf/recipe is for this size: set rates and batches yourself"
    )
    return Advice(
        f"warning: recipe {recipe.name} is for models of {span} parameters, and this one has "
        f"{size}: its learning rates and batch sizes are wrong for it; {fix}",
        True,
    )


def count_text(number: float) -> str:
    """Return a count of parameters as it is said: 135M, 1.01B."""
    if number >= 1e9:
        return f"{number / 1e9:.3g}B"
    return f"{number / 1e6:.3g}M"
