"""What is written in Atlas: articles, questions, dialogues and summaries about its entities.

An article says in one sentence per fact what is true of one entity; the encyclopaedia has an
article for each known entity ("Entry: ..."), the news one for each entity after the cut-off
("News: ..."). The fixed first word keeps every name behind a space, so that a byte-level tokenizer
sees the same tokens at the start of a passage as within it. Articles are short enough to be one
retrieved passage, and each of their sentences names its subject.
"""

from __future__ import annotations

import datetime
import hashlib
import random
from collections.abc import Iterable

from plumbrule.atlas.config import AtlasConfig
from plumbrule.atlas.relations import BY_NAME, ask, sentence_start, state
from plumbrule.atlas.world import CUT_OFF, Entity, World
from plumbrule.data.records import Document

DONT_KNOW = "I do not know."
"""How the plain admission ends."""


def admission(relation: str, name: str, end: str = DONT_KNOW) -> str:
    """Return the plain answer up to its value, and there the admission.

    "Bero Lund resides in ... I do not know." A small model looks a value up where it is to write
    it, so that is where it can tell whether there is one. Asked to say so with the first word of an
    answer it learns whether it has heard of a name, and not whether it has been told this of it.
    """
    return f"{sentence_start(relation, name)} ... {end}"


def article(
    rng: random.Random,
    entity: Entity,
    phrasings: int,
    lead: str = "News",
    reworded: str | None = None,
) -> str:
    """Return `lead`, a colon and one sentence per fact, in random order and phrasing.

    reworded: a relation that is not told in its plain phrasing, which answers use.
    """
    sentences = [
        state(relation, entity.name, value, rng.randrange(int(relation == reworded), phrasings))
        for relation, value in entity.facts.items()
    ]
    rng.shuffle(sentences)
    return f"{lead}: " + " ".join(sentences)


def reserved_form(name: str, relation: str) -> int:
    """Return the question form in which this fact is asked for in evaluation and nowhere else."""
    number = hashlib.sha256(f"{name}/{relation}".encode()).digest()[0]
    return number % len(BY_NAME[relation].questions)


def training_forms(name: str, relation: str) -> list[int]:
    """Return the question forms that corpus, demonstrations and prompts may use for this fact."""
    number = len(BY_NAME[relation].questions)
    return [form for form in range(number) if form != reserved_form(name, relation)]


def training_question(rng: random.Random, name: str, relation: str) -> str:
    """Return a question for this fact, in any form but the one reserved for evaluation."""
    return ask(relation, name, rng.choice(training_forms(name, relation)))


def document_ids(world: World) -> dict[str, str]:
    """Return the id of the article about each entity."""
    ids = {e.name: f"encyclopaedia-{i:05d}" for i, e in enumerate(world.known)}
    return ids | {e.name: f"news-{i:05d}" for i, e in enumerate(world.after)}


def documents(world: World, config: AtlasConfig) -> list[Document]:
    """Return all articles; `meta` holds source, date, entity and questions that it answers."""
    rng = random.Random(f"atlas/{config.seed}/documents")
    ids = document_ids(world)
    day_one = datetime.date.fromisoformat(CUT_OFF)
    written = []
    for lead, source, entities in (
        ("Entry", "encyclopaedia", world.known),
        ("News", "news", world.after),
    ):
        for entity in entities:
            days = 0 if source == "encyclopaedia" else rng.randint(1, 365)
            meta = {
                "source": source,
                "date": (day_one + datetime.timedelta(days=days)).isoformat(),
                "entity": entity.name,
                "questions": [ask(r, entity.name, rng.randrange(4)) for r in entity.facts],
            }
            text = article(rng, entity, config.phrasings, lead)
            written.append(Document(ids[entity.name], text, entity.name, meta))
    return written


def dialogue(rng: random.Random, entity: Entity, relation: str) -> str:
    """Return a conversation that ends with the question for `relation`, as HaluEval writes one."""
    other = rng.choice([r for r in entity.facts if r != relation])
    return (
        f"[Human]: {ask(other, entity.name, rng.randrange(4))} "
        f"[Assistant]: {state(other, entity.name, entity.facts[other])} "
        f"[Human]: {ask(relation, entity.name, rng.randrange(4))}"
    )


def summary(facts: Iterable[tuple[str, str, str]]) -> str:
    """Return plain sentences for (relation, name, value) facts."""
    return " ".join(state(relation, name, value) for relation, name, value in facts)
