"""Settings of stage eval_rm. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from plumbrule.config import CONTENT, require, require_choice, require_range
from plumbrule.data.readers import READERS, read
from plumbrule.errors import ConfigError
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.stage_kind import POLICIES, PlacedNode, Slot, StageKind

ROLE = "preferences"
"""The role of all that a reward model is tested on."""


@dataclass
class RewardSetConfig:
    """One set of rankings that a reward model is tested on, all of it."""

    format: str = "jsonl"
    """rewardbench2, rm_bench, llmbar, pandalm, or any format that feeds role preferences."""
    path: str = field(default="", metadata=CONTENT)
    """File or folder. Hashed by the content of the files, not by name."""
    name: str = ""
    """What its metrics are called after; "": the format."""
    max_rows: int | None = None
    """Rankings used, the first ones; None: all."""

    @property
    def called(self) -> str:
        """The name of its metrics."""
        return self.name or self.format

    def __post_init__(self) -> None:
        feeding = {name for name, role in READERS if role == ROLE}
        require_choice("eval_rm.sets.format", self.format, feeding)
        require(
            not self.name or self.name.isidentifier(),
            "eval_rm.sets.name",
            repr(self.name),
            "have letters, digits and _ alone",
            "choose another",
        )
        require(
            bool(self.path), "eval_rm.sets.path", repr(self.path), "name a file", "give its path"
        )
        if self.max_rows is not None:
            require_range("eval_rm.sets.max_rows", self.max_rows, 1, unit="rankings")


@dataclass
class RewardEvalConfig:
    """Stage `eval_rm`: what a reward model, a classifier or a judge makes of rankings."""

    seed: int = 0
    """Draws which answer stands first where the data's order gives the better one away."""
    sets: list[RewardSetConfig] = field(default_factory=list)
    """Sets of rankings from files."""
    rewrites: bool = True
    """Whether pairs are also judged after rewrites that keep the meaning of both answers."""
    num_rewritten: int = 200
    """Pairs of each set that are rewritten, the first ones."""
    confidence: float = 0.95
    """Of every interval."""

    def __post_init__(self) -> None:
        require_range("eval_rm.num_rewritten", self.num_rewritten, 1, unit="pairs")
        require_range("eval_rm.confidence", self.confidence, 0.5, 0.9999)
        names = [one.called for one in self.sets]
        require(
            len(set(names)) == len(names),
            "eval_rm.sets",
            ", ".join(names),
            "have names that differ",
            "give one a name of its own",
        )


def check_inputs(node: PlacedNode, runtime: RuntimeConfig) -> None:
    """Raise ConfigError unless there is one thing to test and something to test it on.

    The files are read to the end, so that a bad row is found before anything is trained.

    Raises: DataError: a file that can't be read.
    """
    tested = [name for name in ("rm", "judge") if name in node.inputs]
    require(
        len(tested) == 1,
        f"inputs of node {node.name}",
        ", ".join(node.inputs) or "none",
        "hold either rm or judge",
        "give one node for each",
    )
    if not node.config.sets and "preferences" not in node.inputs:
        raise ConfigError(
            f"eval_rm.sets (=[]) must name a set for node {node.name}, or the node have an input "
            "preferences; pass 'eval_rm.sets=[{format:rewardbench2,path:<file>}]'."
        )
    for one in node.config.sets:
        rows = read(one.format, ROLE, one.path)
        require(
            any(row.record is not None for row in rows),
            "eval_rm.sets.path",
            one.path,
            "hold a ranking",
            "name another file",
        )
        for _ in rows:
            pass


STAGE = StageKind(
    "eval_rm",
    RewardEvalConfig,
    "eval.reward_models.stage:run",
    {
        "rm": Slot(("rm", "reward"), required=False),
        "judge": Slot(POLICIES, required=False),
        "preferences": Slot(("data", "feedback"), required=False, many=True, held_out=True),
    },
    links={"seed": "${seed}"},
    measured=True,
    headline=("eval_rm/rewardbench2_score", "eval_rm/rm_bench_accuracy", "eval_rm/*"),
    needs_one_of=("rm", "judge"),
    check="eval.reward_models.config:check_inputs",
    recompute="eval.recompute:reward_evaluation",
)
