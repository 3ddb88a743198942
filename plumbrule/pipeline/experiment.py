"""The typed config of one run: what a command may say. What becomes of it: `compose.py`.

Sections of stages follow from the stages' declarations (`plumbrule/pipeline/stages.py`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict

from plumbrule.atlas.config import AtlasConfig, GoldConfig
from plumbrule.config import require, require_choice
from plumbrule.lm.config import ModelConfig
from plumbrule.pipeline.executors.config import ExecutorConfig
from plumbrule.pipeline.planning.recipes import RecipeConfig
from plumbrule.pipeline.stages import LINKS, SECTIONS
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.tracking.config import TrackingConfig
from sft.data.config import DatasetConfig, require_folds

if TYPE_CHECKING:
    from eval.config import EvalConfig
    from rlhf.feedback.config import FeedbackConfig
    from rlhf.reward_model.config import RMConfig
    from sft.base.config import BaseConfig
    from sft.fine_tune.config import SFTConfig

LONGEST_NAME = 100
"""Of a run, bytes: a folder's name, and with the run's id the name of a group in W&B."""


@dataclass
class RunSection:
    """How a run is carried out, and for which seeds; no artifact depends on it."""

    name: str = "quickstart"
    """Folder under runs/."""
    store: str | None = None
    """Where artifacts/ and runs/ lie; None: $PLUMBRULE_STORE, else the working directory."""
    goals: list[str] = field(default_factory=lambda: ["compare"])
    """Nodes to build, with all that they need."""
    seeds: list[int] = field(default_factory=list)
    """Seeds for each of which the graph is built; empty: `seed` alone."""
    only: str | None = None
    """Build this node and what it needs, in place of the goals."""
    dry: bool = False
    """Print the plan and stop."""
    versions: str = "show"
    """What to do where a cached artifact was made with other library versions: show or strict."""
    objective: str | None = None
    """Metric that is returned to a sweeper; None: none."""
    notes: list[str] = field(default_factory=list)
    """Sentences that the report prints first, such as what an experiment can't show."""

    def __post_init__(self) -> None:
        require(bool(self.goals), "run.goals", self.goals, "name at least one node", "add compare")
        once = len(set(self.seeds)) == len(self.seeds)
        require(once, "run.seeds", self.seeds, "name each seed once", "take one out")
        require_choice("run.versions", self.versions, ("show", "strict"))
        plain = self.name.isprintable() and not set(self.name) & set('/\\:*?"<>| ')
        short = len(self.name.encode("utf-8", "replace")) <= LONGEST_NAME
        require(
            bool(self.name) and plain and short and self.name[0] not in ".-",
            "run.name",
            f"{self.name!r:.{LONGEST_NAME}}",
            f"be a plain folder name of at most {LONGEST_NAME} bytes",
            "use letters and _",
        )


def with_sections_of_stages(cls: type) -> type:
    """Return a class of fields with one more for each stage's section of the config."""
    for section, schema in SECTIONS.items():
        cls.__annotations__[section] = schema
        setattr(cls, section, field(default_factory=schema))
    return cls


@dataclass
@with_sections_of_stages
class RunConfig:
    """Everything that one command says."""

    seed: int = 0
    """What experiments vary; stages read it through their own `seed`."""
    folds: int | None = None
    """Of k-fold cross-validation: equal parts that the conversations of each source are cut into.
    -m data.folds=5 has a cell for each. None: `dataset.validation_share` is held out."""
    fold: int | None = None
    """Which of the folds is held out, from 0; None: there are none."""
    run: RunSection = field(default_factory=RunSection)
    nodes: dict[str, Any] = field(default_factory=dict)
    """Name -> NodeConfig. Typed by `read_nodes` rather than here: Hydra can't add an entry to a
    typed mapping from the command line."""
    model: ModelConfig = field(default_factory=ModelConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    atlas: AtlasConfig = field(default_factory=AtlasConfig)
    gold: GoldConfig = field(default_factory=GoldConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    data: dict[str, DatasetConfig] = field(default_factory=dict)
    """Role -> its own data set, where it is not `dataset`."""
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        require_folds(self.folds, self.fold)

    if TYPE_CHECKING:  # what the pipeline itself reads of stages, for whoever checks types
        base: BaseConfig = field(default_factory=BaseConfig)
        sft: SFTConfig = field(default_factory=SFTConfig)
        feedback: FeedbackConfig = field(default_factory=FeedbackConfig)
        rm: RMConfig = field(default_factory=RMConfig)
        eval: EvalConfig = field(default_factory=EvalConfig)


GROUPS: dict[str, type] = {
    "model": ModelConfig,
    "recipe": RecipeConfig,
    "atlas": AtlasConfig,
    "gold": GoldConfig,
    "dataset": DatasetConfig,
    **SECTIONS,
    "runtime": RuntimeConfig,
    "executor": ExecutorConfig,
    "tracking": TrackingConfig,
}
"""Config group -> its schema, which its files name as `schema`."""
DEFAULT_IS_SCHEMA = ("atlas", "gold", *SECTIONS)
"""Groups whose choice `default` is the schema as it is; the others choose one of their files."""


def schemas() -> dict[str, DictConfig]:
    """Return what each group's choice `schema` is, and the whole config's under the empty name.

    That has Hydra's `defaults` for the groups of `DEFAULT_IS_SCHEMA`, and their fields and links.
    So theirs add nothing: the same fields once more took as long as all the rest.
    """
    whole = OmegaConf.structured(RunConfig)
    for group in DEFAULT_IS_SCHEMA:
        for name, link in LINKS.get(group, {}).items():
            OmegaConf.update(whole, f"{group}.{name}", link)
    with open_dict(whole):
        whole.defaults = ["_self_", *({group: "default"} for group in DEFAULT_IS_SCHEMA)]
    nothing = OmegaConf.create({})
    own = {g: OmegaConf.structured(s) for g, s in GROUPS.items() if g not in DEFAULT_IS_SCHEMA}
    return {"": whole, **dict.fromkeys(DEFAULT_IS_SCHEMA, nothing), **own}


def as_json(config: Any) -> Any:
    """Return the JSON form of a config dataclass, for records.

    An artifact that is given is told by its name, never by where it lies on this machine.
    """
    plain = dataclasses.asdict(config)
    for node in plain.get("nodes", {}).values():
        if isinstance(node, dict) and node.get("given") is not None:
            node["given"] = f"{node['kind']}/{node['given']['fingerprint']}"
    return plain
