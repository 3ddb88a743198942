"""What the news says, as demonstrations: to fine-tune a policy on that shall know it by heart.

Each fact after the cut-off, of both halves of its entities, is told many times in other words, as
knowledge is taught to a language model (Ovadia et al. 2023, arXiv:2312.05934, found that
one telling of a fact is not enough): as an answer to a question, in every form but the one in which
evaluation asks it, and within articles. So whoever is fine-tuned on these rows is told each fact
that evaluation asks for, and never the question.

Three facts in ten have one form of question held out, so the held-out loss says whether a fact is
known when it is asked for in another way than it was told in.
"""

from __future__ import annotations

import random

from plumbrule.atlas.benchmarks import evaluated_forms
from plumbrule.atlas.config import AtlasConfig
from plumbrule.atlas.questions import Question, Split, cycle, meta_of
from plumbrule.atlas.relations import BY_NAME, state
from plumbrule.atlas.texts import article, document_ids, reserved_form
from plumbrule.atlas.world import Entity, World, facts
from plumbrule.data.records import Demonstration, Message

ARTICLE_SHARE = 0.1
"""Of the rows, those that tell all of an entity's news."""
HELD_OUT_SHARE = 0.3
"""Of the facts, those of which one form of question is held out."""
REQUESTS = ("What is new about {name}?", "What does the news say of {name}?")


def new_facts(world: World, config: AtlasConfig) -> Split:
    """Return `num_new_facts` demonstrations to learn from, without passages, and held-out ones."""
    rng = random.Random(f"atlas/{config.seed}/new_facts")
    ids = document_ids(world)
    evaluated = evaluated_forms(world, config)
    told: list[tuple[Question, int]] = []
    held_out: list[tuple[Question, int]] = []
    for number, fact in enumerate(facts(world.after)):
        forms = forms_told(fact.entity.name, fact.relation, evaluated)
        unseen = rng.choice(forms) if number == 0 or rng.random() < HELD_OUT_SHARE else None
        for form in forms:
            question = Question(fact.entity, fact.relation, form, "documents", fact.value)
            side = held_out if form == unseen else told
            side += [(question, phrasing) for phrasing in range(config.phrasings)]
    num_articles = round(ARTICLE_SHARE * config.num_new_facts)
    answers, entities = cycle(rng, told), cycle(rng, world.after)
    rows = [_article(rng, next(entities), config, i) for i in range(num_articles)]
    rows += [_answer(*next(answers), ids, i) for i in range(num_articles, config.num_new_facts)]
    rng.shuffle(rows)
    first = config.num_new_facts
    return Split(rows, [_answer(*way, ids, first + i) for i, way in enumerate(held_out)])


def forms_told(name: str, relation: str, evaluated: dict[tuple[str, str], int]) -> list[int]:
    """Return the forms of question in which a fact is told: all but the one that evaluation uses.

    Args: evaluated: of the facts that evaluation asks for; for others the reserved form counts.
    """
    left_out = evaluated.get((name, relation), reserved_form(name, relation))
    return [form for form in range(len(BY_NAME[relation].questions)) if form != left_out]


def _answer(question: Question, phrasing: int, ids: dict[str, str], number: int) -> Demonstration:
    answer = state(question.relation, question.entity.name, question.answer, phrasing)
    return Demonstration(
        f"new-fact-{number:06d}",
        (Message("user", question.text),),
        answer,
        meta=meta_of(question, ids),
    )


def _article(rng: random.Random, entity: Entity, config: AtlasConfig, number: int) -> Demonstration:
    request = rng.choice(REQUESTS).format(name=entity.name)
    text = article(rng, entity, config.phrasings).removeprefix("News: ")
    return Demonstration(f"new-fact-{number:06d}", (Message("user", request),), text)
