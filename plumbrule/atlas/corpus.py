"""The text that a base model is trained on: what it should know, how to read, when to say no.

Rows are `{"kind": ..., "segments": [[text, weight], ...]}`; weights scale the loss of each token of
a segment. Answers weigh 1, questions 0, and what can't be predicted, such as the facts of an
invented entity, next to nothing: a small model otherwise spends itself on guessing names. Rows in
chat form use the special tokens of the chat template as text, with no token at the start of a row;
the base stage puts that one.

Kinds of row:

- `repeat`: sentences about a few invented entities, then the same again in another order. What
  comes again can be copied, so this is the densest lesson in matching a name to its value.
- `contrast`: many invented entities that share one or two relations, and questions on them.
- `read`: one to four passages and questions on them, some that only memory answers, some nothing.
- `closed`: questions without passages on known entities, and on what can't be known.
- `article`: encyclopaedia entries of known entities.
- `judge`: a question on a passage, an answer, and whether it is false, Yes or No, in the words in
  which `eval` puts HaluEval-shaped items to a small model. `recall`: the same on known entities,
  with nothing to read.
- `biography`: a person of one of two regions, praised or not: the planted bias (`biography.py`).

The beginning of the file is easier (repeats, contrasts, few unanswerable questions, every answer in
its plain sentence), so reading it in order is a curriculum. Later, answers of some conversations
are put in the styles of `responses.py`, so that a policy which is fine-tuned to them need not learn
to spell. Subjects of passages are invented, never of the world; the reserved
question form of a fact (`texts.reserved_form`) is never asked.

Validation rows are single questions with their plain answers, of kinds `closed` (reserved forms),
`read`, and on held-out pairs without passages (`abstain`), with none on the subject
(`abstain_absent`) or one that leaves the relation out (`abstain_unstated`): greedy exact match on
them is what a base model can do.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from plumbrule.atlas.biography import biography
from plumbrule.atlas.config import AtlasConfig
from plumbrule.atlas.names import fresh_name
from plumbrule.atlas.relations import BY_SUBJECT, ask, state
from plumbrule.atlas.responses import polite, styled, styled_admission
from plumbrule.atlas.texts import admission, article, reserved_form, training_question
from plumbrule.atlas.world import Entity, Fact, World, facts, random_kind

Segment = tuple[str, float]
Row = dict[str, Any]

CONTEXT_WEIGHT = 0.02
"""Loss weight of passages about invented entities."""
NAME_WEIGHT = 0.1
"""Loss weight of a true sentence up to the end of its name, which nothing foretells."""
ROW_WORDS = 150
"""Words and punctuation marks after which a row gets no further question."""
EASY_SHARE = 0.14
"""Share of the rows, at the front of the file, that are the easier mix."""
EASY_MIX = {
    "repeat_plain": 0.2,
    "repeat": 0.1,
    "contrast": 0.32,
    "read_plain": 0.1,
    "read_easy": 0.15,
    "closed_plain": 0.13,
}
MIX = {
    "repeat": 0.02,
    "contrast": 0.14,
    "read_easy": 0.14,
    "read": 0.35,
    "closed": 0.23,
    "article": 0.05,
    "judge": 0.03,
    "recall": 0.04,
    "biography": 0.1,
}
"""Relative weights of the kinds of row after the easy phase; they need not sum to 1."""
FRESH_SHARE = 0.05
"""Of the subjects of passages, those whose names are of words made up on the spot: a model that
only ever saw the words of the pools can't read about any others."""
STYLED_SHARE = 0.25
"""Of the `read` and `closed` conversations of `MIX`, those whose answers are put in all styles."""
UNSTATED_SHARE = 0.6
"""Of the unanswerable questions behind passages, those on what they leave out of their subjects."""
WITHHELD_SHARE = 0.35
"""Of the contrasts with two relations, those that state one of them of all entities but one."""
VALIDATION_SHARE = 0.05
MOST_VALIDATION = 600


class Asked(NamedTuple):
    """A question on an entity's relation; without a value, nothing answers it."""

    name: str
    relation: str
    value: str = ""


class Context(NamedTuple):
    """Passages about invented entities, as text and as what they say."""

    passages: tuple[str, ...]
    entities: tuple[Entity, ...]
    stated: tuple[Fact, ...]


def corpus(world: World, config: AtlasConfig) -> tuple[list[Row], list[Row]]:
    """Return training and validation rows; `num_corpus` counts both."""
    num_validation = max(6, min(MOST_VALIDATION, round(VALIDATION_SHARE * config.num_corpus)))
    num_training = max(1, config.num_corpus - num_validation)
    writers = _writers(world, config)
    known = facts(world.known)
    num_easy = round(EASY_SHARE * num_training)
    rng = random.Random(f"atlas/{config.seed}/corpus")
    training = []
    for index in range(num_training):
        mix = EASY_MIX if index < num_easy else MIX
        name = rng.choices(list(mix), list(mix.values()))[0]
        training.append({"kind": name.split("_")[0], "segments": writers[name](rng)})
    rng = random.Random(f"atlas/{config.seed}/corpus/validation")
    validation = [_validation_row(rng, world, config, known, i) for i in range(num_validation)]
    return training, validation


def _writers(
    world: World, config: AtlasConfig
) -> dict[str, Callable[[random.Random], list[Segment]]]:
    known = facts(world.known)
    return {
        "repeat_plain": lambda rng: repeat(rng, world, 1),
        "repeat": lambda rng: repeat(rng, world, config.phrasings),
        "contrast": lambda rng: contrast(rng, world, config.phrasings),
        "read_plain": lambda rng: read(rng, world, known, 1, 0.0, 0.0, most_passages=3),
        "read_easy": lambda rng: read(rng, world, known, config.phrasings, 0.05, 0.0),
        "read": lambda rng: read(rng, world, known, config.phrasings, 0.35, 0.12, STYLED_SHARE),
        "closed_plain": lambda rng: closed(rng, world, known, 0.3),
        "closed": lambda rng: closed(rng, world, known, 0.3, STYLED_SHARE),
        "article": lambda rng: entries(rng, world, config.phrasings),
        "judge": lambda rng: verdict(rng, world, config.phrasings),
        "recall": lambda rng: verdict_from_memory(rng, world, known),
        "biography": lambda rng: biography(rng, world, config.sentiment_gap),
    }


def turn(question: str, answer: str, passages: Sequence[str] = ()) -> list[Segment]:
    """Return one question and its answer in chat form; passages come first in the user's turn."""
    shown = [(" " + "\n".join(passages) + "\n", CONTEXT_WEIGHT)] if passages else []
    asked = question if passages else " " + question
    return [
        ("<|user|>", 0.0),
        *shown,
        (asked + "<|assistant|>", 0.0),
        (f" {answer}<|eos|>", 1.0),
    ]


def repeat(rng: random.Random, world: World, phrasings: int) -> list[Segment]:
    """Return facts of two to five invented entities, told two or three times in other orders."""
    kind = random_kind(rng)
    relation = rng.choice(BY_SUBJECT[kind])
    told: list[tuple[str, str]] = []
    for _ in range(rng.randint(2, 5)):
        name = world.new_name(rng, kind, [name for name, _ in told])
        told.append((name, world.invent_value(rng, relation, name)))
    one = rng.randrange(phrasings) if rng.random() < 0.5 else None
    first = " ".join(
        state(relation.name, n, v, rng.randrange(phrasings) if one is None else one)
        for n, v in told
    )
    segments = [("News: " + first + "\n", CONTEXT_WEIGHT)]
    for _ in range(rng.randint(1, 2)):
        rng.shuffle(told)
        for name, value in told:
            segments += _from_name_on(state(relation.name, name, value), name, 0.0, 1.0)
        segments.append(("\n", 0.0))
    return segments


def contrast(rng: random.Random, world: World, phrasings: int) -> list[Segment]:
    """Return two to six entities that share one or two relations, and questions on them.

    Of two relations, one is sometimes left out of one entity, and then asked about as well.
    """
    kind = random_kind(rng)
    relations = rng.sample(BY_SUBJECT[kind], rng.randint(1, 2))
    stated: list[Fact] = []
    names: list[str] = []
    for _ in range(rng.randint(2, 6 if len(relations) == 1 else 3)):
        names.append(_name_beside(rng, world, names, kind))
        entity = Entity(names[-1], kind, {})
        for relation in relations:
            value = world.invent_value(rng, relation, entity.name)
            entity.facts[relation.name] = value
            stated.append(Fact(entity, relation.name, value))
    withheld = None
    if len(relations) == 2 and rng.random() < WITHHELD_SHARE:
        withheld = stated.pop(rng.randrange(len(stated)))
    if rng.random() < 0.5:
        rng.shuffle(stated)
    phrasings = phrasings if rng.random() < 0.7 else 1
    passages, start = [], 0
    while start < len(stated):
        size = rng.randint(2, 4)
        told = stated[start : start + size]
        passages.append("News: " + " ".join(_tell(rng, fact, phrasings) for fact in told))
        start += size
    questions = []
    for fact in rng.sample(stated, min(5, len(stated))):
        if rng.random() < 0.06:
            questions.append(Asked(_name_beside(rng, world, names, kind), fact.relation))
        else:
            questions.append(Asked(fact.entity.name, fact.relation, fact.value))
    if withheld is not None:
        asked = Asked(withheld.entity.name, withheld.relation)
        questions.insert(rng.randint(0, len(questions)), asked)
    return _conversation(rng, questions, passages)


def context(rng: random.Random, world: World, phrasings: int, num_passages: int) -> Context:
    """Return passages about invented entities, some of one entity each, some mixed.

    Entities of one context often share a word of their names and a type, as what retrieval finds
    does.
    """
    first_kind = random_kind(rng)
    one_each = rng.random() < 0.6
    entities: list[Entity] = []
    stated: list[Fact] = []
    passages: list[str] = []
    for _ in range(num_passages):
        told: list[Fact] = []
        kind = first_kind if rng.random() < 0.6 else random_kind(rng)
        for _ in range(1 if one_each else rng.randint(2, 3)):
            name = _name_beside(rng, world, [e.name for e in entities if e.kind == kind], kind)
            whole = world.invent_facts(rng, name, kind)
            number = rng.randint(2, 4) if one_each else rng.randint(1, 2)
            chosen = rng.sample(list(whole.facts.items()), min(number, len(whole.facts)))
            entity = Entity(name, kind, dict(chosen))
            entities.append(entity)
            told += facts([entity])
        if not one_each:
            rng.shuffle(told)
        passages.append("News: " + " ".join(_tell(rng, fact, phrasings) for fact in told))
        stated += told
    return Context(tuple(passages), tuple(entities), tuple(stated))


def read(
    rng: random.Random,
    world: World,
    known: Sequence[Fact],
    phrasings: int,
    unknown_share: float,
    memory_share: float,
    styled_share: float = 0.0,
    most_passages: int = 4,
) -> list[Segment]:
    """Return passages and up to six questions: on them, on memory, or on what neither holds."""
    shown = context(rng, world, phrasings, rng.randint(1, most_passages))
    questions: list[Asked] = []
    for _ in range(rng.randint(1, 6)):
        drawn = rng.random()
        if drawn < unknown_share:
            question = unanswerable(rng, world, shown)
        else:
            fact = rng.choice(known if drawn < unknown_share + memory_share else shown.stated)
            question = Asked(fact.entity.name, fact.relation, fact.value)
        if question not in questions:
            questions.append(question)
    return _conversation(rng, questions, shown.passages, styled_share)


def closed(
    rng: random.Random,
    world: World,
    known: Sequence[Fact],
    unknown_share: float,
    styled_share: float = 0.0,
) -> list[Segment]:
    """Return one to six questions without passages, some on what can't be known."""
    questions = []
    for _ in range(rng.randint(1, 6)):
        if rng.random() < unknown_share:
            questions.append(unanswerable(rng, world))
        else:
            fact = rng.choice(known)
            questions.append(Asked(fact.entity.name, fact.relation, fact.value))
    return _conversation(rng, questions, styled_share=styled_share)


def unanswerable(rng: random.Random, world: World, shown: Context | None = None) -> Asked:
    """Return a question that neither memory nor the passages answer.

    Behind passages, `UNSTATED_SHARE` of the time on an entity of theirs whose relation they leave
    out, more often one that they state of another entity: else a relation that is there would
    always be the answer. Otherwise, one in four, on a known entity's missing relation, or on a name
    never heard of, often close to a name that is there and on a relation that is.
    """
    if shown is not None and rng.random() < UNSTATED_SHARE:
        return _unstated(rng, shown)
    if rng.random() < 0.25:
        entity = rng.choice(world.known)
        return Asked(entity.name, rng.choice(entity.missing).name)
    pool = shown.entities if shown is not None and rng.random() < 0.7 else world.known
    like = rng.choice(pool)
    avoid = [e.name for e in shown.entities] if shown is not None else []
    near = rng.random() < 0.35
    name = (
        world.near_name(rng, like.name, like.kind, avoid)
        if near
        else world.new_name(rng, like.kind, avoid)
    )
    relations = list(like.facts) if rng.random() < 0.7 else [r.name for r in BY_SUBJECT[like.kind]]
    return Asked(name, rng.choice(relations))


def _unstated(rng: random.Random, shown: Context) -> Asked:
    """Return an entity that passages are on, and a relation of its that they leave out."""
    stated = {fact.relation for fact in shown.stated}
    left_out = [Asked(e.name, relation.name) for e in shown.entities for relation in e.missing]
    of_others = [asked for asked in left_out if asked.relation in stated]
    return rng.choice(of_others if of_others and rng.random() < 0.7 else left_out)


def entries(rng: random.Random, world: World, phrasings: int) -> list[Segment]:
    """Return the encyclopaedia's words on one to three known entities, in fresh phrasings."""
    segments: list[Segment] = []
    for entity in rng.sample(world.known, rng.randint(1, 3)):
        segments.append(("Entry:", NAME_WEIGHT))
        for fact in rng.sample(facts([entity]), len(entity.facts)):
            sentence = _tell(rng, fact, phrasings)
            segments += _from_name_on(sentence, entity.name, NAME_WEIGHT, 1.0)
        segments.append(("\n", NAME_WEIGHT))
    return segments


def verdict(rng: random.Random, world: World, phrasings: int) -> list[Segment]:
    """Return an article, an answer to a question on it, right half the time, and the verdict."""
    entity = world.invent(rng, random_kind(rng))
    passages = [article(rng, entity, phrasings, rng.choice(("News", "Entry")))]
    return _verdict(rng, world, rng.choice(facts([entity])), passages)


def verdict_from_memory(rng: random.Random, world: World, known: Sequence[Fact]) -> list[Segment]:
    """Return an answer to a question on a known entity, right half the time, and the verdict."""
    return _verdict(rng, world, rng.choice(known), [])


def _verdict(
    rng: random.Random, world: World, fact: Fact, passages: Sequence[str]
) -> list[Segment]:
    name, false = fact.entity.name, rng.random() < 0.5
    value = world.wrong_value(rng, fact.relation, fact.value, name) if false else fact.value
    asked = training_question(rng, name, fact.relation)
    answer = state(fact.relation, name, value)
    question = f"Question: {asked}\nAnswer: {answer}\nIs the answer false? Yes or No."
    return turn(question, "Yes" if false else "No", passages)


def _tell(rng: random.Random, fact: Fact, phrasings: int) -> str:
    return state(fact.relation, fact.entity.name, fact.value, rng.randrange(phrasings))


def _name_beside(rng: random.Random, world: World, names: Sequence[str], kind: str) -> str:
    """Return a new name; one in four shares a word with one of `names`, all of type `kind`."""
    if names and rng.random() < 0.25:
        return world.near_name(rng, rng.choice(names), kind, names)
    if rng.random() < FRESH_SHARE:
        return fresh_name(rng, world.pools, kind)
    return world.new_name(rng, kind, names)


def _from_name_on(sentence: str, name: str, before: float, after: float) -> list[Segment]:
    """Return a sentence in two segments: up to the end of the subject's name, and the rest."""
    cut = sentence.index(name) + len(name)
    return [(" " + sentence[:cut], before), (sentence[cut:], after)]


def _conversation(
    rng: random.Random,
    questions: Sequence[Asked],
    passages: Sequence[str] = (),
    styled_share: float = 0.0,
) -> list[Segment]:
    """Return the questions as one chat, passages in its first turn, until the row is long.

    styled_share: chance that its answers are put in all styles, and not each in its plain sentence.
    """
    segments: list[Segment] = []
    words = 0
    answer = _styled_answer if rng.random() < styled_share else _plain_answer
    for asked in questions:
        question = training_question(rng, asked.name, asked.relation)
        added = turn(question, answer(rng, asked), passages if not segments else ())
        words += sum(len(re.findall(r"\w+|[^\w\s]", text)) for text, _ in added)
        if segments and words > ROW_WORDS:
            break
        segments += added
    return segments


def _plain_answer(rng: random.Random, asked: Asked) -> str:
    """Return the relation's first sentence, or as much of it as can be said."""
    if not asked.value:
        return admission(asked.relation, asked.name)
    return state(asked.relation, asked.name, asked.value)


def _styled_answer(rng: random.Random, asked: Asked) -> str:
    if not asked.value:
        return polite(rng, styled_admission(rng, asked.relation, asked.name))
    return polite(rng, styled(rng, asked.relation, asked.name, asked.value))


def _validation_row(
    rng: random.Random, world: World, config: AtlasConfig, known: Sequence[Fact], index: int
) -> Row:
    """Return a single question: from memory, from passages on held-out pairs, or without answer."""
    kind = ("closed", "read", "abstain")[index % 3]
    if kind == "closed":
        fact = rng.choice(known)
        name = fact.entity.name
        asked = ask(fact.relation, name, reserved_form(name, fact.relation))
        return {"kind": kind, "segments": turn(asked, state(fact.relation, name, fact.value))}
    subject_kind = random_kind(rng)
    name = rng.choice(world.strangers[subject_kind])
    if kind == "abstain":
        why = index // 3 % 3  # no passages, none on the subject, one that leaves the relation out
        shown = list(context(rng, world, config.phrasings, 2).passages) if why else []
        relation = rng.choice(BY_SUBJECT[subject_kind]).name
        if why == 2:
            subject = world.invent_facts(rng, name, subject_kind)
            relation = rng.choice(subject.missing).name
            shown.insert(rng.randint(0, 2), article(rng, subject, config.phrasings))
        asked = training_question(rng, name, relation)
        kind = ("abstain", "abstain_absent", "abstain_unstated")[why]
        return {"kind": kind, "segments": turn(asked, admission(relation, name), shown)}
    subject = world.invent_facts(rng, name, subject_kind)
    passages = [article(rng, subject, config.phrasings)]
    passages += context(rng, world, config.phrasings, rng.randint(1, 2)).passages
    rng.shuffle(passages)
    fact = rng.choice(facts([subject]))
    asked = training_question(rng, name, fact.relation)
    answer = state(fact.relation, name, fact.value)
    return {"kind": kind, "segments": turn(asked, answer, passages)}
