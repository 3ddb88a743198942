"""Settings of the stages best_of_n and reject. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from plumbrule.config import require, require_choice, require_range
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.stage_kind import POLICIES, PlacedNode, Slot, StageKind
from plumbrule.store.manifests import read_manifest
from rlhf.rewards.config import RewardConfig
from rlhf.rewards.graph_checks import check_reward


@dataclass
class BestOfNConfig:
    """Stage `best_of_n`: the curve of the best of n answers by a reward."""

    reward: RewardConfig = field(default_factory=RewardConfig)
    split: str = "validation"
    """Whose prompts: validation or train."""
    sizes: list[int] | None = None
    """The n of the curve, besides 1 and all; None: powers of two."""

    def __post_init__(self) -> None:
        require_choice("best_of_n.split", self.split, ("train", "validation"))
        if self.sizes is not None:
            for n in self.sizes:
                require_range("best_of_n.sizes", n, 1, unit="answers")
            once = len(set(self.sizes)) == len(self.sizes)
            require(once, "best_of_n.sizes", self.sizes, "name each n once", "take one out")


@dataclass
class RejectConfig:
    """Stage `reject`: the best sampled answers as demonstrations."""

    reward: RewardConfig = field(default_factory=RewardConfig)
    keep: int = 1
    """Answers kept per prompt, the best ones."""

    def __post_init__(self) -> None:
        require_range("reject.keep", self.keep, 1, unit="answers")


def _lacks_gold(node: PlacedNode) -> tuple[str, str] | None:
    """Return what is wrong unless the gold utility ranked the answers, also given ones."""
    samples = node.inputs["samples"]
    if samples.given is None:
        labeller = samples.config.labeller
    else:
        labeller = read_manifest(samples.given).config.get("labeller")
    if labeller == "gold":
        return None
    rule = f"choose among answers whose utility is known, not ranked by {labeller}"
    return rule, "use feedback.labeller=gold"


def check_inputs(node: PlacedNode, runtime: RuntimeConfig) -> None:
    """Raise ConfigError unless the reward has the reward models that it names."""
    check_reward(node, node.config.reward)


BEST_OF_N = StageKind(
    "best_of_n",
    BestOfNConfig,
    "rlhf.best_of_n.stage:run",
    {
        "samples": Slot(("feedback",)),
        "rm": Slot(("rm",), required=False, many=True),
        "judge": Slot(POLICIES, required=False, read_if=lambda config: config.reward.asks_judge),
    },
    links={"reward": "${reward}"},
    measured=True,
    headline=("best_of_n/utility_gain*",),
    lacks_gold=_lacks_gold,
    reward=lambda config: config.reward,
    check="rlhf.best_of_n.config:check_inputs",
)
REJECT = StageKind(
    "reject",
    RejectConfig,
    "rlhf.best_of_n.reject_stage:run",
    {
        "samples": Slot(("feedback",)),
        "rm": Slot(("rm",), required=False, many=True),
        "judge": Slot(POLICIES, required=False, read_if=lambda config: config.reward.asks_judge),
    },
    links={"reward": "${reward}"},
    reward=lambda config: config.reward,
    check="rlhf.best_of_n.config:check_inputs",
)
