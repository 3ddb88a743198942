"""Settings of stage add_fact. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from plumbrule.config import require_range
from plumbrule.lm.config import RetrievalConfig
from plumbrule.stage_kind import POLICIES, Slot, StageKind


@dataclass
class AddFactConfig:
    """Stage `add_fact`: how long it takes until a document that is added is answered from."""

    seed: int = 0
    num_facts: int = 5
    """Facts whose documents are added, one after the other; spread evenly over the \
questions, without those that are answered rightly already."""
    retrieval: RetrievalConfig = field(default_factory=lambda: RetrievalConfig(share=1.0))
    """Of the answer; `share` is taken as 1."""
    max_new_tokens: int = 32
    """Longest answer, tokens."""

    def __post_init__(self) -> None:
        require_range("add_fact.num_facts", self.num_facts, 1, unit="facts")
        require_range("add_fact.max_new_tokens", self.max_new_tokens, 1, unit="tokens")


STAGE = StageKind(
    "add_fact",
    AddFactConfig,
    "rag.add_fact.stage:run",
    {
        "policy": Slot(POLICIES),
        "documents": Slot(("data",)),
        "questions": Slot(("data",)),
    },
    links={"seed": "${seed}"},
    measured=True,
    headline=("add_fact/answered", "add_fact/until_answered_seconds"),
)
