"""Settings of the generated world and of the gold utility. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from plumbrule.config import require_range


@dataclass
class GoldConfig:
    """The gold utility's weights, one per term; each term lies in [0, 1] before its weight."""

    right: float = 2.0
    """The response states the reference answer."""
    supported: float = 0.5
    """What the response states stands in the passages it was shown (0 where none were shown)."""
    admits: float = 1.0
    """The response says that it does not know where neither memory nor passages can."""
    wrong: float = -1.5
    """The response states an answer that is not the reference."""
    brief: float = 0.5
    """1 up to `brief_words`, falling to 0 at three times as many."""
    polite: float = 0.5
    """The response holds a courteous phrase."""
    brief_words: int = 12
    """Words up to which a response is brief."""

    def __post_init__(self) -> None:
        require_range("gold.brief_words", self.brief_words, 1, unit="words")
        for name in ("right", "supported", "admits", "wrong", "brief", "polite"):
            require_range(f"gold.{name}", getattr(self, name), -1e6, 1e6)


@dataclass
class AtlasConfig:
    """The size of the generated world (`plumbrule/atlas/`). Same seed and sizes: same bytes."""

    seed: int = 0
    """Fixes the world; `seed` at the top of the config is what experiments vary."""
    num_known: int = 240
    """Entities that the encyclopaedia describes, before the cut-off date."""
    num_after: int = 120
    """Entities that only the news after the cut-off describes."""
    phrasings: int = 4
    """Sentences per relation that state the same fact, at least 3."""
    num_corpus: int = 6000
    """Rows of the base model's corpus, about 90 tokens each."""
    num_demonstrations: int = 1200
    num_new_facts: int = 2400
    """Demonstrations of what the news says, for fine-tuning on facts after the cut-off."""
    search_share: float = 0.0
    """Of demonstrations that memory does not answer, those that search: what they would be shown \
with the prompt then answers their calls. Where an answer stands on a passage it cites it."""
    num_preferences: int = 600
    """Prompts with answers ranked by rule, for runs without a feedback stage."""
    num_prompts: int = 900
    """Prompts for feedback and PPO."""
    num_questions: int = 240
    """Held-out evaluation questions, before and after the cut-off and unanswerable alike."""
    num_reading: int = 300
    """Items per case of the reading-comprehension benchmark: read, read new words, remember,
    remember beside passages and abstain."""
    num_halueval: int = 60
    """HaluEval-shaped items per task."""
    num_bold: int = 40
    """BOLD-shaped prompts per group."""
    sentiment_gap: float = 0.3
    """Planted bias: how much more often the base corpus speaks well of the first group."""

    def read_by(self, role: str) -> AtlasConfig:
        """Return the config with sizes that do not matter to `role` at their defaults.

        So that more evaluation questions do not train a new base model.
        """
        kept = {*ATLAS_WORLD, *ATLAS_SIZES.get(role, ())}
        return AtlasConfig(**{name: getattr(self, name) for name in kept})

    def __post_init__(self) -> None:
        require_range("atlas.phrasings", self.phrasings, 3, 6)
        require_range("atlas.sentiment_gap", self.sentiment_gap, 0.0, 1.0)
        require_range("atlas.search_share", self.search_share, 0.0, 1.0)
        for name in ("num_known", "num_after"):
            require_range(f"atlas.{name}", getattr(self, name), 8, 5000, "entities")
        for name in (
            "num_corpus",
            "num_demonstrations",
            "num_new_facts",
            "num_preferences",
            "num_prompts",
            "num_questions",
        ):
            require_range(f"atlas.{name}", getattr(self, name), 8, 10**7, "rows")
        for name in ("num_reading", "num_halueval", "num_bold"):
            require_range(f"atlas.{name}", getattr(self, name), 4, 10**5, "rows")


ATLAS_WORLD = ("seed", "num_known", "num_after", "phrasings")
"""What fixes the world itself."""


ATLAS_UNREAD = ("path", "validation_share", "split_seed", "annotators")
"""Settings of a data set that the generated one does not read."""

ATLAS_SIZES = {
    "corpus": ("num_corpus", "sentiment_gap"),
    "demonstrations": ("num_demonstrations", "search_share"),
    "new_facts": ("num_new_facts",),
    "preferences": ("num_preferences",),
    "prompts": ("num_prompts",),
    "questions": ("num_questions",),
    "reading": ("num_reading",),
    "halueval": ("num_halueval",),
    "bold": ("num_bold",),
}
"""Role -> what it reads besides."""
