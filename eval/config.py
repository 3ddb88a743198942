"""Settings of stage eval. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from plumbrule.atlas.config import GoldConfig
from plumbrule.config import NOT_HASHED, require, require_choice, require_range
from plumbrule.lm.config import RetrievalConfig, SamplingConfig
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.stage_kind import POLICIES, PlacedNode, Slot, StageKind

CONDITIONS = ("closed", "rag")
CHOICE_PROMPTS = ("chat", "plain")
FILES = ("truthfulqa", "multiple_choice", "bbq", "open_qa", "simpleqa", "perplexity")
"""Benchmarks that have `BenchmarkFiles`."""


@dataclass
class HaluEvalConfig:
    """HaluEval-shaped items, judged by the log-probs of Yes and No."""

    path: str | None = field(default=None, metadata=NOT_HASHED)
    """Folder of the official files, read by the data node `halueval`; None: Atlas's own."""
    per_task: int | None = field(default=100, metadata=NOT_HASHED)
    """Rows per task; None: all."""

    def __post_init__(self) -> None:
        if self.per_task is not None:
            require_range("eval.halueval.per_task", self.per_task, 1, unit="rows")


@dataclass
class BoldConfig:
    """BOLD-shaped prompts: sentiment of continuations by group."""

    path: str | None = field(default=None, metadata=NOT_HASHED)
    """Folder of the official files, read by the data node `bold`; None: Atlas's own."""
    per_group: int | None = field(default=None, metadata=NOT_HASHED)
    """Prompts per group; None: all."""
    max_new_tokens: int = 24
    """Longest continuation, tokens."""

    def __post_init__(self) -> None:
        if self.per_group is not None:
            require_range("eval.bold.per_group", self.per_group, 1, unit="prompts")
        require_range("eval.bold.max_new_tokens", self.max_new_tokens, 1, unit="tokens")


@dataclass
class BenchmarkFiles:
    """A benchmark of files that the user names; the path adds it to each evaluation."""

    path: str | None = field(default=None, metadata=NOT_HASHED)
    """File or folder, in the format of the benchmark's name; None: it is not measured."""
    per_group: int | None = field(default=None, metadata=NOT_HASHED)
    """Items per group, spread evenly; None: all."""


@dataclass
class PerplexityConfig(BenchmarkFiles):
    """Texts whose perplexity is taken."""

    stride: int | None = None
    """Tokens between the windows in which a text longer than the context is read; None: half the
    context."""

    def __post_init__(self) -> None:
        if self.stride is not None:
            require_range("eval.perplexity.stride", self.stride, 1, unit="tokens")


@dataclass
class EvalConfig:
    """Stage `eval`: everything that is measured of one policy."""

    seed: int = 0
    conditions: list[str] = field(default_factory=lambda: ["closed", "rag"])
    """Closed book, and with passages; `rag` is skipped by a node without an `index` input."""
    gold: GoldConfig = field(default_factory=GoldConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Of the responses to held-out prompts, which gold and reward model score."""
    max_prompts: int | None = 256
    """Held-out prompts scored; None: all."""
    retrieval: RetrievalConfig = field(default_factory=lambda: RetrievalConfig(share=1.0))
    halueval: HaluEvalConfig = field(default_factory=HaluEvalConfig)
    bold: BoldConfig = field(default_factory=BoldConfig)
    truthfulqa: BenchmarkFiles = field(default_factory=BenchmarkFiles)
    """TruthfulQA: its `mc_task.json`."""
    multiple_choice: BenchmarkFiles = field(default_factory=BenchmarkFiles)
    """Any questions with given answers: a table with question, choices and answer."""
    bbq: BenchmarkFiles = field(default_factory=BenchmarkFiles)
    """BBQ: its files, one for each category; a group is a category and kind of context."""
    open_qa: BenchmarkFiles = field(default_factory=BenchmarkFiles)
    """Any questions with reference answers: a table with question and answers."""
    simpleqa: BenchmarkFiles = field(default_factory=BenchmarkFiles)
    """SimpleQA: its CSV."""
    perplexity: PerplexityConfig = field(default_factory=PerplexityConfig)
    """Perplexity and bits per byte of any texts: a table with text."""
    choice_prompt: str = "chat"
    """How a question whose answers are given is put: chat, through the policy's template, or \
plain, as text behind `Q:` with the answer behind `A:`, for a model that knows no chat."""
    confidence: float = 0.95
    """Of every interval."""
    num_resamples: int = 2000
    """Bootstrap resamples, of the gap between BOLD's groups."""
    num_samples: int = 16
    """Responses shown in `samples.jsonl`, per benchmark and condition."""

    def __post_init__(self) -> None:
        require(bool(self.conditions), "eval.conditions", self.conditions, "name one", "add closed")
        for condition in self.conditions:
            require_choice("eval.conditions", condition, CONDITIONS)
        require_choice("eval.choice_prompt", self.choice_prompt, CHOICE_PROMPTS)
        for name in FILES:
            if getattr(self, name).per_group is not None:
                most = getattr(self, name).per_group
                require_range(f"eval.{name}.per_group", most, 1, unit="items")
        require_range("eval.confidence", self.confidence, 0.5, 0.9999)
        require_range("eval.num_resamples", self.num_resamples, 100)
        require_range("eval.num_samples", self.num_samples, 0, unit="responses")
        if self.max_prompts is not None:
            require_range("eval.max_prompts", self.max_prompts, 2, unit="prompts")


def _lacks_gold(node: PlacedNode) -> tuple[str, str] | None:
    if {"reference", "prompts"} <= set(node.inputs):
        return None
    return (
        "have inputs prompts and reference, for gold and KL",
        "give it the policy that the baseline evaluates as reference",
    )


def check_inputs(node: PlacedNode, runtime: RuntimeConfig) -> None:
    """Raise ConfigError for a KL of greedy answers."""
    require(
        "reference" not in node.inputs or node.config.sampling.temperature > 0,
        "eval.sampling.temperature",
        node.config.sampling.temperature,
        f"be above 0 where node {node.name} has an input reference",
        "greedy answers have no KL; raise it or leave the reference out",
    )


STAGE = StageKind(
    "eval",
    EvalConfig,
    "eval.stage:run",
    {
        "policy": Slot(POLICIES),
        "index": Slot(("index",), required=False),
        "rm": Slot(("rm",), required=False),
        "reward": Slot(("reward",), required=False),
        "reference": Slot(POLICIES, required=False),
    },
    links={"seed": "${seed}", "gold": "${gold}"},
    measured=True,
    shows_passages=lambda config: "rag" in config.conditions,
    passages_optional=True,
    lacks_gold=_lacks_gold,
    check="eval.config:check_inputs",
    headline=(
        "eval/known_accuracy_{policy}",
        "eval/accuracy_{policy}_rag",
        "eval/confident_wrong_{policy}_closed",
        "eval/confident_wrong_{policy}_rag",
    ),
)
"""Of whose slots and `needs_one_of`, `plumbrule/pipeline/stages.py` makes the benchmarks a part."""
