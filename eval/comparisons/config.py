"""Settings of the stages compare, win_rate, methods and summary. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from plumbrule.config import NOT_HASHED, require, require_range
from plumbrule.lm.endpoints.settings import require_endpoint
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
class JudgeEndpointConfig:
    """A judge behind an OpenAI-compatible endpoint."""

    url: str | None = None
    """Such as http://localhost:8000/v1; /chat/completions is added. None: no endpoint is asked."""
    model: str | None = None
    """What the endpoint calls the model; needed with `url`."""
    token_env: str | None = None
    """Environment variable whose value is sent as a bearer token; None: none is."""
    max_reply_tokens: int = 16
    """That the endpoint may say to a question; a model that reasons first needs many more."""
    num_requests: int = field(default=8, metadata=NOT_HASHED)
    """Requests to the endpoint at once; each asks one question."""
    timeout_seconds: float = field(default=60.0, metadata=NOT_HASHED)
    """Of one request, from connecting to the reply's last byte."""
    patience_seconds: float = field(default=180.0, metadata=NOT_HASHED)
    """How long a request is tried again before it counts as failed."""

    def __post_init__(self) -> None:
        require_endpoint("win_rate.endpoint", self)


@dataclass
class WinRateConfig:
    """Stage `win_rate`: which of two policies' answers a judge, or a reward model, prefers."""

    endpoint: JudgeEndpointConfig = field(default_factory=JudgeEndpointConfig)
    """The judge, where it is no policy of the graph."""
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
    training_tokens: float | None = None
    training_flops: float | None = None
    labels: float | None = None

    def __post_init__(self) -> None:
        for name in ("generated_tokens", "training_tokens", "training_flops", "labels"):
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


def check_judges(node: PlacedNode, runtime: RuntimeConfig) -> None:
    """Raise ConfigError unless there is something that prefers, and one judge at most."""
    url = node.config.endpoint.url
    require(
        bool({"judge", "rm"} & set(node.inputs)) or url is not None,
        f"inputs of node {node.name}",
        ", ".join(node.inputs) or "none",
        "hold a judge or an rm where win_rate.endpoint.url is null",
        f"give it one, such as nodes.{node.name}.inputs.rm=rm, or name an endpoint",
    )
    require(
        "judge" not in node.inputs or url is None,
        "win_rate.endpoint.url",
        url,
        f"be null where node {node.name} has an input judge",
        f"set nodes.{node.name}.inputs.judge=null, or take the endpoint out",
    )


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
    recompute="eval.recompute:comparison",
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
    headline=(
        "{policy}/judge_win_rate",
        "{policy}/judge_first_share",
        "{policy}/judge_failure_rate",
        "{policy}/rm_win_rate",
    ),
    check="eval.comparisons.config:check_judges",
    recompute="eval.recompute:win_rate",
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
    recompute="eval.recompute:methods",
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
    recompute="eval.recompute:summary",
)
