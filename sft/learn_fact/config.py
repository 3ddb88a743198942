"""Settings of stage learn_fact. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from plumbrule.config import require_range
from plumbrule.stage_kind import POLICIES, Slot, StageKind


@dataclass
class LearnFactConfig:
    """Stage `learn_fact`: how long a policy is trained until it answers one new fact."""

    seed: int = 0
    num_facts: int = 5
    """Facts that are learned, each from the policy as it was given; spread evenly over the \
questions, without those that it answers rightly already."""
    learning_rate: float = 1e-3
    """Of AdamW, constant."""
    max_steps: int = 30
    """Optimizer steps after which a fact counts as not answered; each is on all demonstrations of \
the fact."""
    max_new_tokens: int = 32
    """Longest answer, tokens."""

    def __post_init__(self) -> None:
        require_range("learn_fact.num_facts", self.num_facts, 1, unit="facts")
        require_range("learn_fact.learning_rate", self.learning_rate, 0.0, 10.0)
        require_range("learn_fact.max_steps", self.max_steps, 1, unit="steps")
        require_range("learn_fact.max_new_tokens", self.max_new_tokens, 1, unit="tokens")


STAGE = StageKind(
    "learn_fact",
    LearnFactConfig,
    "sft.learn_fact.stage:run",
    {
        "policy": Slot(POLICIES),
        "demonstrations": Slot(("data",)),
        "questions": Slot(("data",)),
    },
    links={"seed": "${seed}"},
    measured=True,
    headline=("learn_fact/answered", "learn_fact/until_answered_seconds"),
)
