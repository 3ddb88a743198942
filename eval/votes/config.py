"""Settings of stage vote. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from plumbrule.config import require, require_range
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.stage_kind import PlacedNode, Slot, StageKind


@dataclass
class VoteConfig:
    """Stage `vote`: several evaluations of the same questions, taken as one."""

    confidence: float = 0.95
    """Of every interval."""

    def __post_init__(self) -> None:
        require_range("vote.confidence", self.confidence, 0.5, 0.9999)


def check_members(node: PlacedNode, runtime: RuntimeConfig) -> None:
    """Raise ConfigError for a single evaluation."""
    require(
        len(node.inputs) > 1,
        f"inputs of node {node.name}",
        ", ".join(node.inputs) or "none",
        "be at least two evaluations",
        "set run.seeds=[1,2,3], or name the evaluations policy_1, policy_2",
    )


STAGE = StageKind(
    "vote",
    VoteConfig,
    "eval.votes.stage:run",
    {"policy": Slot(("eval",), gathers=True)},
    measured=True,
    headline=("vote/multiple_choice_mean_accuracy", "vote/open_qa_vote_f1", "vote/*"),
    check="eval.votes.config:check_members",
    recompute="eval.recompute:vote",
)
