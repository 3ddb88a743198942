"""Questions on a world: what can be asked, who may be asked about where, and which side it is on.

A `Question` is (entity, relation, form) with what can answer it: `memory` (the base corpus states
it), `documents` (only the news, or the passages of a demonstration) or `nothing`. Training sets
draw from pools of questions in the wanted mix. Training and validation are split by (entity,
relation), by a hash: a fact asked in one half is asked in the other in no form and in no role.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from plumbrule.atlas.relations import BY_NAME, ask
from plumbrule.atlas.texts import training_forms
from plumbrule.atlas.world import Entity, Fact, World, facts, random_kind

T = TypeVar("T")

VALIDATION_SHARE = 0.15
"""Of the rows of demonstrations, preferences and prompts."""
MIX = {"memory": 0.4, "documents": 0.35, "nothing": 0.25}
"""What can answer the questions of demonstrations, preferences and prompts."""


class Split(NamedTuple):
    """Records to train on and records held out."""

    train: list
    validation: list


class Question(NamedTuple):
    """One question, with what judges its answer."""

    entity: Entity
    relation: str
    form: int
    answerable: str
    answer: str = ""

    @property
    def text(self) -> str:
        """The words of the question."""
        return ask(self.relation, self.entity.name, self.form)


def question_pools(rng: random.Random, world: World, number: int) -> dict[str, list[Question]]:
    """Return what prompts and preferences may ask, by what can answer it."""
    return {
        "memory": asked(facts(world.known), "memory"),
        "documents": asked(facts(world.after_training), "documents"),
        "nothing": unanswerable(rng, world, number, world.after_training),
    }


def asked(known: Sequence[Fact], answerable: str) -> list[Question]:
    """Return the questions on some facts, in all forms that training may use."""
    return [
        Question(f.entity, f.relation, form, answerable, f.value)
        for f in known
        for form in training_forms(f.entity.name, f.relation)
    ]


def invented(rng: random.Random, world: World, number: int) -> list[Question]:
    """Return a question on each of `number` invented entities, answered by passages alone."""
    questions = []
    for _ in range(number):
        entity = world.invent(rng, random_kind(rng))
        relation = rng.choice(list(entity.facts))
        form = rng.choice(training_forms(entity.name, relation))
        answer = entity.facts[relation]
        questions.append(Question(entity, relation, form, "documents", answer))
    return questions


def unanswerable(
    rng: random.Random, world: World, number: int, after: Sequence[Entity]
) -> list[Question]:
    """Return questions on what real entities lack and on as many invented names.

    There are more invented names where real ones are too few for `number` rows of the usual mix.
    """
    real = [*world.known, *after]
    kinds = [random_kind(rng) for _ in range(max(len(real), round(MIX["nothing"] * number)))]
    strange = [Entity(world.new_name(rng, kind), kind, {}) for kind in kinds]
    questions = []
    for entity in real + strange:
        relation = rng.choice(entity.missing).name
        form = rng.choice(training_forms(entity.name, relation))
        questions.append(Question(entity, relation, form, "nothing"))
    return questions


def meta_of(question: Question, ids: dict[str, str]) -> dict[str, Any]:
    """Return what judges an answer; `ids` names the article that is its evidence, if any."""
    evidence = ids.get(question.entity.name) if question.answer else None
    return {
        "answer": question.answer,
        "aliases": [],
        "answerable": question.answerable,
        "value_kind": BY_NAME[question.relation].value_kind,
        "relation": question.relation,
        "entity": question.entity.name,
        "evidence": [evidence] if evidence else [],
    }


def _held_out_pairs(pool: Sequence[Question]) -> set[tuple[str, str]]:
    """Return the (entity, relation) pairs of a pool that are for validation, by their hashes.

    A pair is on the same side in every role. Only in a world so small that one half would be empty
    does the pair nearest to the border change sides.
    """

    def place(pair: tuple[str, str]) -> float:
        digest = hashlib.sha256("/".join(("split", *pair)).encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2.0**64

    pairs = sorted({(q.entity.name, q.relation) for q in pool}, key=place)
    number = sum(place(pair) < VALIDATION_SHARE for pair in pairs)
    return set(pairs[: min(max(1, number), len(pairs) - 1)])


def split_rows(
    rng: random.Random,
    pools: dict[str, list[Question]],
    total: int,
    make: Callable[[int, Question], Any],
) -> Split:
    """Return `total` records that `make` makes of (row number, question), split by pair.

    Both halves have the mix of `MIX`, as near as whole numbers allow.
    """
    num_validation = max(2, round(VALIDATION_SHARE * total))
    held_out = {kind: _held_out_pairs(pool) for kind, pool in pools.items()}
    halves: list[list] = []
    index = 0
    for number, held in ((total - num_validation, False), (num_validation, True)):
        iterators = {
            kind: cycle(
                rng, [q for q in pool if ((q.entity.name, q.relation) in held_out[kind]) == held]
            )
            for kind, pool in pools.items()
        }
        half = []
        for kind in _spread(rng, number):
            half.append(make(index, next(iterators[kind])))
            index += 1
        halves.append(half)
    return Split(*halves)


def _spread(rng: random.Random, number: int) -> list[str]:
    """Return `number` kinds of the mix, in random order."""
    kinds: list[str] = []
    total = 0.0
    for kind, share in MIX.items():
        total += share
        kinds += [kind] * (round(total * number) - len(kinds))
    rng.shuffle(kinds)
    return kinds


def cycle(rng: random.Random, pool: Sequence[T]) -> Iterator[T]:
    """Yield the pool in random order, again and again, each time in a new order."""
    while True:
        yield from rng.sample(pool, len(pool))
