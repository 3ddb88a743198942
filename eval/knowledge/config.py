"""Settings of stage knowledge. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from plumbrule.config import require, require_range
from plumbrule.stage_kind import Slot, StageKind

ARMS = ("base", "fine_tuned", "rag", "both", "rl_with_retrieval", "rl_without_retrieval")
SIDES = {"memory": "before", "documents": "after", "nothing": "unanswerable"}
"""`answerable` of a question -> its side of the cut-off."""
NEEDED = ("memory", "documents")
LEAST_GROUPS = 2
"""Entities that questions of a side must be about: one has no spread."""


@dataclass
class KnowledgeBudgetConfig:
    """What every arm has alike; planning refuses an arm that differs."""

    context_tokens: int = 160
    """That passages may add to a prompt, in each arm that retrieves: eval.retrieval.budget_tokens \
of its evaluation."""
    training_tokens: int | None = None
    """That each fine-tuned arm may train on: sft.train_tokens. None: no arm is fine-tuned."""
    generated_tokens: int | None = None
    """That each arm made by ppo may sample in training: ppo.total_episodes times \
ppo.sampling.max_new_tokens. None: no arm is made by ppo."""

    def __post_init__(self) -> None:
        require_range("knowledge.budget.context_tokens", self.context_tokens, 1, unit="tokens")
        for name in ("training_tokens", "generated_tokens"):
            if getattr(self, name) is not None:
                require_range(f"knowledge.budget.{name}", getattr(self, name), 1, unit="tokens")


@dataclass
class PricesConfig:
    """What an answer costs: a price of each thing that is used. 0: it costs nothing."""

    source: str = ""
    """Where the prices are from; it stands beside every figure made with them."""
    currency: str = "USD"
    """Of all prices, as it is written in the table."""
    input_tokens: float = 0.0
    """Of a million tokens of prompts, passages included."""
    output_tokens: float = 0.0
    """Of a million tokens of answers, and of those sampled in training."""
    training_tokens: float = 0.0
    """Of a million tokens that are trained on, each time that they are."""
    gigabyte_month: float = 0.0
    """Of 10^9 bytes that are kept for a month."""
    num_answers: float = 1e5
    """Answers over which training and storage are spread."""
    months: float = 1.0
    """In which these answers are given."""

    def __post_init__(self) -> None:
        for name in ("input_tokens", "output_tokens", "training_tokens", "gigabyte_month"):
            require_range(f"knowledge.prices.{name}", getattr(self, name), 0.0, unit=self.currency)
        require_range("knowledge.prices.num_answers", self.num_answers, 1.0, unit="answers")
        require_range("knowledge.prices.months", self.months, 0.0, unit="months")


@dataclass
class KnowledgeConfig:
    """Stage `knowledge`: ways to give a policy new facts, compared on the same questions."""

    arms: list[str] = field(default_factory=lambda: list(ARMS))
    """Arms of the comparison; `arm_<name>` is the node's input of each, an evaluation on the \
benchmark questions under one condition."""
    baseline: str = "base"
    """The arm that all others are compared with, question by question, and whose policy theirs \
are made from."""
    budget: KnowledgeBudgetConfig = field(default_factory=KnowledgeBudgetConfig)
    prices: PricesConfig = field(default_factory=PricesConfig)
    confidence: float = 0.95
    """Of each arm's own intervals; and of all differences to the baseline together, by \
Bonferroni's correction."""

    def __post_init__(self) -> None:
        require_range("knowledge.confidence", self.confidence, 0.5, 0.9999)
        once = len(set(self.arms)) == len(self.arms)
        require(once, "knowledge.arms", self.arms, "name each arm once", "take one out")
        require(
            len(self.arms) > 1 and self.baseline in self.arms,
            "knowledge.baseline",
            self.baseline,
            f"be one of at least two knowledge.arms ({', '.join(self.arms) or 'none'})",
            "name one of them",
        )


STAGE = StageKind(
    "knowledge",
    KnowledgeConfig,
    "eval.knowledge.stage:run",
    {
        "arm": Slot(("eval",), gathers=True),
        "learn_fact": Slot(("learn_fact",), required=False, gathers=True),
        "add_fact": Slot(("add_fact",), required=False, gathers=True),
    },
    headline=(
        "knowledge/accuracy_after_*",
        "knowledge/accuracy_before_*",
        "knowledge/confident_wrong_after_*",
    ),
    check="eval.knowledge.checks:check_arms",
    recompute="eval.recompute:knowledge",
)
