"""Settings of the stages compare, win_rate, methods and summary. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from plumbrule.config import require, require_range
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.stage_kind import MEASURED, POLICIES, PlacedNode, Slot, StageKind


@dataclass
class CompareConfig:
    """Stage `compare`: paired differences between the items of two evaluations."""

    confidence: float = 0.95
    """Of every interval."""

    def __post_init__(self) -> None:
        require_range("compare.confidence", self.confidence, 0.5, 0.9999)


@dataclass
class WinRateConfig:
    """Stage `win_rate`: which of two policies' answers a judge, or a reward model, prefers."""

    max_prompts: int | None = None
    """Prompts whose answers are judged, the first ones; None: all that were answered."""
    num_samples: int = 16
    """Pairs of answers shown side by side in `samples.jsonl`."""
    confidence: float = 0.95
    """Of every interval."""

    def __post_init__(self) -> None:
        if self.max_prompts is not None:
            require_range("win_rate.max_prompts", self.max_prompts, 1, unit="prompts")
        require_range("win_rate.num_samples", self.num_samples, 0, unit="pairs")
        require_range("win_rate.confidence", self.confidence, 0.5, 0.9999)


@dataclass
class SummaryConfig:
    """Stage `summary`: metrics of many runs, over their seeds."""

    metrics: list[str] = field(default_factory=list)
    """Headline metrics that every run has."""
    baseline: str | None = None
    """Label of the run that the others are compared with, seed by seed; None: none is."""
    confidence: float = 0.95
    """Of every interval."""

    def __post_init__(self) -> None:
        require_range("summary.confidence", self.confidence, 0.5, 0.9999)
        once = len(set(self.metrics)) == len(self.metrics)
        require(once, "summary.metrics", self.metrics, "name each metric once", "take one out")


@dataclass
class BudgetConfig:
    """What one method may cost; None: any amount. See `eval/comparisons/costs.py`."""

    generated_tokens: float | None = None
    training_flops: float | None = None
    labels: float | None = None

    def __post_init__(self) -> None:
        for name in ("generated_tokens", "training_flops", "labels"):
            if getattr(self, name) is not None:
                require_range(f"methods.budget.{name}", getattr(self, name), 1.0)


@dataclass
class MethodsConfig:
    """Stage `methods`: methods compared at a stated budget."""

    budget: BudgetConfig = field(default_factory=BudgetConfig)
    confidence: float = 0.95
    """Of every interval."""

    def __post_init__(self) -> None:
        require_range("methods.confidence", self.confidence, 0.5, 0.9999)


COMPARE = StageKind(
    "compare",
    CompareConfig,
    "eval.comparisons.compare:run",
    {"baseline": Slot(("eval",)), "policy": Slot(("eval",))},
    measured=True,
    headline=(
        "{policy}/reward_gain",
        "{policy}/gold_gain",
        "{policy}/known_accuracy_change_closed",
    ),
)
WIN_RATE = StageKind(
    "win_rate",
    WinRateConfig,
    "eval.comparisons.judged_answers:run",
    {
        "baseline": Slot(("eval",)),
        "policy": Slot(("eval",)),
        "prompts": Slot(("data",), held_out=True),
        "judge": Slot(POLICIES, required=False),
        "rm": Slot(("rm", "reward"), required=False),
    },
    measured=True,
    headline=("{policy}/judge_win_rate", "{policy}/judge_first_share", "{policy}/rm_win_rate"),
    needs_one_of=("judge", "rm"),
)
METHODS = StageKind(
    "methods",
    MethodsConfig,
    "eval.comparisons.methods:run",
    {
        "policy": Slot(("eval",), gathers=True, compares_gold=True),
        "baseline": Slot(("eval",), gathers=True),
        "best_of_n": Slot(("best_of_n",), required=False, gathers=True, compares_gold=True),
    },
    headline=("methods/gold_gain_*", "methods/kl_*"),
)


def check_summary(node: PlacedNode, runtime: RuntimeConfig) -> None:
    """Raise ConfigError where there is nothing to summarise."""
    require(
        bool(node.config.metrics),
        "summary.metrics",
        node.config.metrics,
        f"name what node {node.name} shall summarise",
        "give headline metrics of its inputs",
    )


SUMMARY = StageKind(
    "summary",
    SummaryConfig,
    "eval.comparisons.summary:run",
    {"run": Slot(MEASURED, gathers=True)},
    headline=("summary/*",),
    check="eval.comparisons.config:check_summary",
)
