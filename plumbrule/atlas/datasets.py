"""Role -> records: the data sets that Atlas stands in for, all a pure function of the config.

What is kept apart, and tested:

- a fact that evaluation asks from memory is asked in its reserved form, which no training set uses;
- entities after the cut-off are halved: one half may be asked about in prompts and preferences, the
  other only in evaluation; subjects of unanswerable evaluation questions are of that half or
  strangers, whom nothing mentions. `new_facts` alone tells the facts of both halves, which is what
  it is for;
- prompts, demonstrations and preferences are split into training and validation by (entity,
  relation), the same in all three.

Where a world has fewer distinct questions than rows asked for, questions repeat; the data stage
drops and counts exact repeats.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from plumbrule.atlas.benchmarks import bold_items, halueval_items, question_items
from plumbrule.atlas.config import AtlasConfig
from plumbrule.atlas.corpus import corpus
from plumbrule.atlas.demonstrations import demonstrations, preferences
from plumbrule.atlas.new_facts import new_facts
from plumbrule.atlas.questions import Question, Split, meta_of, question_pools, split_rows
from plumbrule.atlas.reading import reading_items
from plumbrule.atlas.texts import document_ids, documents
from plumbrule.atlas.world import World, generate_world
from plumbrule.config import require_choice
from plumbrule.data.records import Message, Prompt

ROLES: dict[str, Callable[[World, AtlasConfig], Split]] = {
    "corpus": lambda world, config: Split(*corpus(world, config)),
    "demonstrations": demonstrations,
    "new_facts": new_facts,
    "preferences": preferences,
    "prompts": lambda world, config: prompts(world, config),
    "documents": lambda world, config: Split(documents(world, config), []),
    "questions": lambda world, config: Split(question_items(world, config), []),
    "reading": lambda world, config: Split(reading_items(world, config), []),
    "halueval": lambda world, config: Split(halueval_items(world, config), []),
    "bold": lambda world, config: Split(bold_items(world, config), []),
}


def records(role: str, config: AtlasConfig) -> Split:
    """Return the records of a role; benchmarks and documents have an empty validation half.

    Raises: ConfigError: a role that Atlas does not have, or a benchmark larger than the world.
    """
    require_choice("data.role", role, ROLES)
    return ROLES[role](generate_world(config), config)


def prompts(world: World, config: AtlasConfig) -> Split:
    """Return the prompts of feedback and PPO."""
    rng = random.Random(f"atlas/{config.seed}/prompts")
    ids = document_ids(world)

    def make(index: int, question: Question) -> Prompt:
        messages = (Message("user", question.text),)
        return Prompt(f"prompt-{index:06d}", messages, meta_of(question, ids))

    pools = question_pools(rng, world, config.num_prompts)
    return split_rows(rng, pools, config.num_prompts, make)
