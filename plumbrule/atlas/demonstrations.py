"""Rows with responses: demonstrations to imitate, and preferences made by rule.

Responses vary in length, phrasing and courtesy on purpose (`responses.py`), and where nothing holds
the answer, half of the demonstrations admit it and half guess: feedback and PPO need a spread to
choose from. Demonstrations read about invented entities, so no held-out name is in them.

Those that search (`atlas.search_share`) ask for what memory does not hold: by the question, by the
name, or by name and relation, a spread again. One in five of those whose answer documents hold
finds only other passages at first and searches once more.
"""

from __future__ import annotations

import random

from plumbrule.atlas.config import AtlasConfig, GoldConfig
from plumbrule.atlas.corpus import context
from plumbrule.atlas.gold import GoldUtility
from plumbrule.atlas.questions import (
    Question,
    Split,
    asked,
    invented,
    meta_of,
    question_pools,
    split_rows,
    unanswerable,
)
from plumbrule.atlas.responses import polite, styled, styled_admission
from plumbrule.atlas.texts import article, document_ids
from plumbrule.atlas.world import World, facts
from plumbrule.data.records import (
    DemonstratedSearch,
    Demonstration,
    Message,
    Preference,
    Prompt,
)
from plumbrule.protocols import Episode

ADMIT_SHARE = 0.5
"""Of unanswerable demonstrations, those that admit not knowing; the rest guess."""
PASSAGES_SHARE = 0.4
"""Of demonstrations that need no passages, those that are shown some all the same."""
SECOND_SEARCH_SHARE = 0.2
"""Of demonstrations that search for what documents hold, those that search twice."""
NUM_RESPONSES = 4
"""Answers per preference."""


def demonstrations(world: World, config: AtlasConfig) -> Split:
    """Return demonstrations, training and validation."""
    rng = random.Random(f"atlas/{config.seed}/demonstrations")
    pools = {
        "memory": asked(facts(world.known), "memory"),
        "documents": invented(rng, world, config.num_demonstrations),
        "nothing": unanswerable(rng, world, config.num_demonstrations, after=()),
    }
    return split_rows(
        rng,
        pools,
        config.num_demonstrations,
        lambda index, question: _demonstration(rng, world, config, index, question),
    )


def _demonstration(
    rng: random.Random, world: World, config: AtlasConfig, index: int, question: Question
) -> Demonstration:
    """Return a right answer, or, where nothing holds one, an admission or a guess."""
    memory_answers = question.answerable == "memory"
    if config.search_share and not memory_answers and rng.random() < config.search_share:
        return _searching_demonstration(rng, world, config, index, question)
    passages: tuple[str, ...] = ()
    if question.answerable == "documents" or rng.random() < PASSAGES_SHARE:
        passages = _passages_beside(rng, world, config, question)
    if question.answer:
        response = styled(rng, question.relation, question.entity.name, question.answer)
    elif rng.random() < ADMIT_SHARE:
        response = styled_admission(rng, question.relation, question.entity.name)
    else:
        guess = world.wrong_value(rng, question.relation, "", question.entity.name)
        response = styled(rng, question.relation, question.entity.name, guess)
    return Demonstration(
        f"demonstration-{index:06d}",
        (Message("user", question.text),),
        polite(rng, response),
        passages,
        meta_of(question, {}),
    )


def _searching_demonstration(
    rng: random.Random, world: World, config: AtlasConfig, index: int, question: Question
) -> Demonstration:
    """Return a demonstration whose passages answer its own calls.

    Its answer cites the passage that it stands on. One without an answer admits that, or guesses.
    """
    relation, name = question.relation, question.entity.name
    queries = [question.text, name, f"{name} {relation}"]
    rng.shuffle(queries)
    found = [_passages_beside(rng, world, config, question)]
    if question.answer and rng.random() < SECOND_SEARCH_SHARE:
        found.insert(0, context(rng, world, config.phrasings, 1).passages[:2])
    searches = tuple(
        DemonstratedSearch(query, tuple(some)) for query, some in zip(queries, found, strict=False)
    )
    shown = [passage for some in found for passage in some]
    if question.answer:
        cited = 1 + [name in p and question.answer in p for p in shown].index(True)
        response = styled(rng, relation, name, question.answer, cited)
    elif rng.random() < ADMIT_SHARE:
        response = styled_admission(rng, relation, name)
    else:
        guess = world.wrong_value(rng, relation, "", name)
        response = styled(rng, relation, name, guess)
    return Demonstration(
        f"demonstration-{index:06d}",
        (Message("user", question.text),),
        polite(rng, response),
        meta=meta_of(question, {}),
        searches=searches,
    )


def _passages_beside(
    rng: random.Random, world: World, config: AtlasConfig, question: Question
) -> tuple[str, ...]:
    """Return one to three passages such as retrieval would find, in random order.

    The subject's own article is among them if documents hold the answer, and half the time if it
    has one at all; so is, more often than not, one on a namesake that answers the same question.
    """
    subject = question.entity
    passages: list[str] = []
    if question.answerable == "documents" or (subject.facts and rng.random() < 0.5):
        lead = "Entry" if subject.name in world.known_set else "News"
        passages.append(article(rng, subject, config.phrasings, lead))
    if rng.random() < 0.6 or not passages:
        name = world.near_name(rng, subject.name, subject.kind, [subject.name])
        namesake = world.invent_facts(rng, name, subject.kind, must=question.relation)
        passages.append(article(rng, namesake, config.phrasings))
    if rng.random() < 0.6:
        passages += context(rng, world, config.phrasings, 1).passages
    rng.shuffle(passages)
    return tuple(passages)


def preferences(world: World, config: AtlasConfig) -> Split:
    """Return prompts with answers that the gold utility at its default weights has ranked."""
    rng = random.Random(f"atlas/{config.seed}/preferences")
    gold = GoldUtility(GoldConfig())
    ids = document_ids(world)
    pools = question_pools(rng, world, config.num_preferences)
    return split_rows(
        rng,
        pools,
        config.num_preferences,
        lambda index, question: _preference(rng, world, config, gold, ids, index, question),
    )


def _preference(
    rng: random.Random,
    world: World,
    config: AtlasConfig,
    gold: GoldUtility,
    ids: dict[str, str],
    index: int,
    question: Question,
) -> Preference:
    passages: tuple[str, ...] = ()
    if rng.random() < 0.5:
        passages = _passages_beside(rng, world, config, question)
    responses = _candidates(rng, world, question)
    messages = (Message("user", question.text),)
    meta = meta_of(question, ids)
    prompt = Prompt(f"preference-{index:06d}", messages, meta)
    episodes = [Episode(prompt, passages, response, finished=True) for response in responses]
    scores = [float(score) for score in gold.score(episodes)["score"]]
    order = sorted(set(scores), reverse=True)
    return Preference(
        prompt.id,
        messages,
        tuple(responses),
        tuple(order.index(score) + 1 for score in scores),
        passages,
        tuple(scores),
        annotator="gold",
        meta=meta,
    )


def _candidates(rng: random.Random, world: World, question: Question) -> list[str]:
    """Return different answers in random order: the right one if any, a wrong one, an admission."""
    name, relation = question.entity.name, question.relation
    responses: list[str] = []
    while len(responses) < NUM_RESPONSES:
        wrong = world.wrong_value(rng, relation, question.answer, name)
        wanted = len(responses) if len(responses) < 3 else rng.randrange(3)
        if wanted == 2:
            response = styled_admission(rng, relation, name)
        else:
            value = question.answer if wanted == 0 and question.answer else wrong
            response = styled(rng, relation, name, value)
        response = polite(rng, response)
        if response not in responses:
            responses.append(response)
    rng.shuffle(responses)
    return responses
