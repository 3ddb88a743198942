"""Rows of the HaluEval shape: a right text and a hallucinated twin that differs in one value.

Three tasks, as in the original: `qa` (knowledge, question, two answers), `dialogue` (knowledge,
history, two responses) and `summarization` (document, two summaries). In the original, hallucinated
answers are so much longer than right ones that their length alone tells them apart; here both come
from the same sentence, and the knowledge tells the fact in other words, so only what is true does.
Half the subjects are known entities, half those
after the cut-off that are kept for evaluation.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from plumbrule.atlas.config import AtlasConfig
from plumbrule.atlas.relations import ask, state
from plumbrule.atlas.texts import article, dialogue, reserved_form, summary
from plumbrule.atlas.world import Entity, World

TASKS = ("qa", "dialogue", "summarization")
Row = tuple[dict[str, str], str]
"""Fields of one item, and the entity it is about."""

_OFFICIAL: Mapping[str, Mapping[str, str]] = {
    "qa": {"right": "right_answer", "hallucinated": "hallucinated_answer"},
    "dialogue": {
        "history": "dialogue_history",
        "right": "right_response",
        "hallucinated": "hallucinated_response",
    },
    "summarization": {"right": "right_summary", "hallucinated": "hallucinated_summary"},
}


def official_name(task: str, field: str) -> str:
    """Return what HaluEval's own files call a field of an item."""
    return _OFFICIAL[task].get(field, field)


def halueval_rows(rng: random.Random, world: World, config: AtlasConfig) -> dict[str, list[Row]]:
    """Return `num_halueval` rows for each of `TASKS`."""
    writers = {"qa": _qa, "dialogue": _dialogue, "summarization": _summarization}
    rows: dict[str, list[Row]] = {}
    for task in TASKS:
        subjects = _subjects(rng, world, config.num_halueval)
        rows[task] = [(writers[task](rng, world, config, e), e.name) for e in subjects]
    return rows


def _subjects(rng: random.Random, world: World, number: int) -> list[Entity]:
    """Return `number` entities, known and after the cut-off in turn; they repeat if too few."""
    known, after = list(world.known), list(world.after_evaluation)
    rng.shuffle(known)
    rng.shuffle(after)
    halves = (known, after)
    return [halves[i % 2][i // 2 % len(halves[i % 2])] for i in range(number)]


def _qa(rng: random.Random, world: World, config: AtlasConfig, entity: Entity) -> dict[str, str]:
    relation = rng.choice(list(entity.facts))
    value = entity.facts[relation]
    wrong = world.wrong_value(rng, relation, value, entity.name)
    return {
        "knowledge": article(rng, entity, config.phrasings, "Entry", relation),
        "question": ask(relation, entity.name, reserved_form(entity.name, relation)),
        "right": state(relation, entity.name, value),
        "hallucinated": state(relation, entity.name, wrong),
    }


def _dialogue(
    rng: random.Random, world: World, config: AtlasConfig, entity: Entity
) -> dict[str, str]:
    relation = rng.choice(list(entity.facts))
    value = entity.facts[relation]
    wrong = world.wrong_value(rng, relation, value, entity.name)
    return {
        "knowledge": article(rng, entity, config.phrasings, "Entry", relation),
        "history": dialogue(rng, entity, relation),
        "right": state(relation, entity.name, value),
        "hallucinated": state(relation, entity.name, wrong),
    }


def _summarization(
    rng: random.Random, world: World, config: AtlasConfig, entity: Entity
) -> dict[str, str]:
    others = [e for e in (*world.known, *world.after_evaluation) if e.name != entity.name]
    other = rng.choice(others)
    articles = [article(rng, e, config.phrasings) for e in (entity, other)]
    kept = [(r, entity.name, entity.facts[r]) for r in rng.sample(list(entity.facts), 1)]
    kept += [(r, other.name, other.facts[r]) for r in rng.sample(list(other.facts), 1)]
    relation, name, value = kept[0]
    wrong = (relation, name, world.wrong_value(rng, relation, value, name))
    order = rng.sample(range(2), 2)
    return {
        "document": "\n".join(articles),
        "right": summary([kept[i] for i in order]),
        "hallucinated": summary([(wrong, kept[1])[i] for i in order]),
    }
