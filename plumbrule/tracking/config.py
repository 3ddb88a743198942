"""Settings of tracking: where a command's metrics go beside its files."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from plumbrule.config import require
from plumbrule.tracking.trackers import TRACKERS

BESIDE_EXTRAS = {"pillow": "PIL.Image"}
"""Package -> module without which an optional tracker breaks more than itself: where tensorboard or
trackio is installed, transformers and TRL import it too, and find no PIL."""


@dataclass
class TrackingConfig:
    """Where metrics go; `metrics.jsonl` is always written."""

    name: str = "wandb"
    """wandb (online with a key, else offline into the run folder), tensorboard (event files in the
    run folder), trackio (its local database), jsonl or none (nothing beside the files), or what a
    plug-in registers."""
    project: str = "plumbrule"
    entity: str | None = None
    """W&B entity; None: the key's default."""
    stage_runs: bool = False
    """Whether each node that is built gets a W&B run of its own too, in the group of its command;
    data nodes never do."""

    def __post_init__(self) -> None:
        option = TRACKERS.option(self.name)
        needed = {self.name: self.name, **BESIDE_EXTRAS} if "extra" in option.traits else {}
        missing = [package for package, module in needed.items() if not _is_installed(module)]
        require(
            not missing,
            "tracking.name",
            self.name,
            f"have the package {' and '.join(missing)}, which is not installed",
            f"pip install 'plumbrule[{self.name}]', or choose another",
        )
        named = self.project.strip() and self.project.isprintable() and len(self.project) <= 128
        require(
            bool(named) and not set(self.project) & set("/\\#?%:"),
            "tracking.project",
            f"{self.project!r:.140}",
            "be a name of at most 128 characters without / \\ # ? % :",
            "choose another",
        )
        require(
            self.entity is None or (self.entity.isprintable() and bool(self.entity.strip("/ "))),
            "tracking.entity",
            repr(self.entity),
            "name a W&B user or team",
            "leave it out for the key's default",
        )


def _is_installed(module: str) -> bool:
    """Return whether a module is there, whole enough to be found."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it is in
        return False
