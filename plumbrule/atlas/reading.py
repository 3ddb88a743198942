"""A reading-comprehension benchmark: read, remember or admit, beside passages that it brings.

What a base model can do, before any fine-tuning and without a retriever between. `case` says what
is asked of it, and the rest of `meta` how hard it was made:

- `read`: the answer stands in one of two to four passages, about an entity whose name is a held-out
  pair. What else is there (`distractor`): passages about anything (`other`), a second entity with
  the same relation (`relation`), or one that also shares a word of the name (`namesake`).
- `read_new`: the same with names of words that no training text shows.
- `closed`: a known fact, asked in the form that no training text uses. `beside`: the same behind
  passages that have nothing to do with it.
- `abstain`: nothing has the answer. `distractor` says why: no passages at all (`none`), passages
  about others that state the relation (`absent`), or passages about the entity that leave it out
  (`unstated`).

The passages of entities to be read are invented on the spot, each with facts of its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from plumbrule.atlas.config import AtlasConfig
from plumbrule.atlas.corpus import context
from plumbrule.atlas.names import fresh_name
from plumbrule.atlas.questions import Question, cycle, meta_of
from plumbrule.atlas.relations import BY_NAME, ask
from plumbrule.atlas.texts import article, reserved_form
from plumbrule.atlas.world import Entity, World, facts, random_kind
from plumbrule.data.records import BenchmarkItem

CASES = ("read", "read_new", "closed", "beside", "abstain")
DISTRACTORS = ("other", "relation", "namesake")
WHY_UNKNOWN = ("none", "absent", "unstated")
PASSAGES = (2, 3, 4)
Case = tuple[Question, list[str], dict[str, Any]]
"""A question, its passages, and how hard it was made."""


def reading_items(world: World, config: AtlasConfig) -> list[BenchmarkItem]:
    """Return `num_reading` items of each case."""
    rng = random.Random(f"atlas/{config.seed}/reading")
    strangers = {
        kind: cycle(rng, [Entity(name, kind, {}) for name in names])
        for kind, names in world.strangers.items()
    }

    def stranger(kind: str) -> str:
        return next(strangers[kind]).name

    def new(kind: str) -> str:
        return fresh_name(rng, world.pools, kind, held_out=True)

    known = cycle(rng, facts(world.known))
    items = []
    for case in CASES:
        for index in range(config.num_reading):
            if case in ("read", "read_new"):
                name = new if case == "read_new" else stranger
                item = _read(rng, world, config, index, name)
            elif case == "abstain":
                item = _abstain(rng, world, config, index, stranger)
            else:
                entity, relation, value = next(known)
                form = reserved_form(entity.name, relation)
                shown = context(rng, world, config.phrasings, PASSAGES[index % len(PASSAGES)])
                passages = shown.passages if case == "beside" else ()
                question = Question(entity, relation, form, "memory", value)
                item = (question, list(passages), {"num_passages": len(passages)})
            items.append(_item(case, index, *item))
    return items


def _item(
    case: str, index: int, question: Question, passages: list[str], about: dict[str, Any]
) -> BenchmarkItem:
    fields = {
        "question": ask(question.relation, question.entity.name, question.form),
        "passages": passages,
    }
    meta = {**meta_of(question, {}), "case": case, **about}
    return BenchmarkItem(f"{case}-{index:05d}", "reading", fields, question.entity.name, meta)


def _read(
    rng: random.Random, world: World, config: AtlasConfig, index: int, name: Callable[[str], str]
) -> Case:
    """Return a question that one of the passages answers; the cases take turns."""
    number = PASSAGES[index % len(PASSAGES)]
    distractor = DISTRACTORS[index // len(PASSAGES) % len(DISTRACTORS)]
    kind = random_kind(rng)
    subject = world.invent_facts(rng, name(kind), kind)
    relation = rng.choice(list(subject.facts))
    others = _others(rng, world, config, subject, relation, distractor, number - 1, name)
    position = rng.randrange(number)
    passages = [*others[:position], article(rng, subject, config.phrasings), *others[position:]]
    form = rng.randrange(len(BY_NAME[relation].questions))
    question = Question(subject, relation, form, "documents", subject.facts[relation])
    about = {"num_passages": number, "position": position + 1, "distractor": distractor}
    return question, passages, about


def _abstain(
    rng: random.Random, world: World, config: AtlasConfig, index: int, name: Callable[[str], str]
) -> Case:
    """Return a question that neither memory nor passages answer."""
    why = WHY_UNKNOWN[index % len(WHY_UNKNOWN)]
    number = 0 if why == "none" else PASSAGES[index // len(WHY_UNKNOWN) % len(PASSAGES)]
    kind = random_kind(rng)
    subject = world.invent_facts(rng, name(kind), kind)
    passages: list[str] = []
    if why == "unstated":
        relation = subject.missing[0].name
        others = _others(rng, world, config, subject, relation, "relation", number - 1, name)
        passages = [article(rng, subject, config.phrasings), *others]
        rng.shuffle(passages)
    else:
        relation = rng.choice(list(subject.facts))
        if number:
            passages = _others(rng, world, config, subject, relation, "relation", number, name)
    form = rng.randrange(len(BY_NAME[relation].questions))
    question = Question(subject, relation, form, "nothing")
    return question, passages, {"num_passages": number, "distractor": why}


def _others(
    rng: random.Random,
    world: World,
    config: AtlasConfig,
    subject: Entity,
    relation: str,
    distractor: str,
    number: int,
    name: Callable[[str], str],
) -> list[str]:
    """Return passages that do not answer the question, in random order."""
    passages: list[str] = []
    taken = {subject.name}
    if distractor != "other":
        rival_name = _namesake(rng, world, subject, name) if distractor == "namesake" else None
        rival_name = rival_name or _other_name(taken, name, subject.kind)
        rival = _invented(rng, world, rival_name, subject, relation, subject.kind, must=relation)
        taken.add(rival_name)
        passages.append(article(rng, rival, config.phrasings))
    while len(passages) < number:
        kind = random_kind(rng)
        other = _other_name(taken, name, kind)
        taken.add(other)
        entity = _invented(rng, world, other, subject, relation, kind)
        passages.append(article(rng, entity, config.phrasings))
    rng.shuffle(passages)
    return passages


def _invented(
    rng: random.Random,
    world: World,
    name: str,
    subject: Entity,
    relation: str,
    kind: str,
    must: str | None = None,
) -> Entity:
    """Return an entity whose passage would give a wrong answer, if any."""
    right = subject.facts.get(relation)
    while True:
        entity = world.invent_facts(rng, name, kind, must=must)
        if right is None or entity.facts.get(relation) != right:
            return entity


def _other_name(taken: set[str], name: Callable[[str], str], kind: str) -> str:
    """Return a name of a type that is not taken yet."""
    while (other := name(kind)) in taken:
        pass
    return other


def _namesake(rng: random.Random, world: World, subject: Entity, name: Callable[[str], str]) -> str:
    """Return a name of nobody's that shares a made-up word with the subject's.

    Second words of places, firms and works are ordinary and few, so there it is the first.
    """
    one, two = subject.name.split()
    while True:
        first, second = name(subject.kind).split()
        keep_first = subject.kind != "person" or rng.random() < 0.5
        other = f"{one} {second}" if keep_first else f"{first} {two}"
        if other != subject.name and other not in world.known_set:
            return other
