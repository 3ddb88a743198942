"""A model of a live store that is as simple as can be, and random changes for both."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from plumbrule.data.records import Document
from rag.chunks import Chunk, chunks_of

if TYPE_CHECKING:
    from rag.store.live import LiveStore

WORDS = ("Rome", "Cairo", "Lima", "Oslo", "baker", "glazier", "lived", "walked", "sang.", "Then.")
PRINCIPALS = ("ann", "bob", "cyd")
RULES = (["*"], ["ann"], ["ann", "bob"], [])


@dataclass(frozen=True)
class Change:
    """One change: add, update or delete."""

    what: str
    documents: tuple[Document, ...] = ()
    ids: tuple[str, ...] = ()

    def apply(self, store: LiveStore) -> int:
        """Make the change and return the number of its commit."""
        if self.what == "delete":
            return store.delete(self.ids).number
        return (store.add if self.what == "add" else store.update)(self.documents).number


@dataclass
class Model:
    """What lives: documents in the order in which they got their numbers."""

    documents: dict[str, Document] = field(default_factory=dict)

    def apply(self, change: Change) -> None:
        """Make the change."""
        for id in change.ids or [d.id for d in change.documents]:
            self.documents.pop(id, None)
        self.documents.update({d.id: d for d in change.documents})

    def readable(self, principal: str, chunk_words: int) -> list[Chunk]:
        """Return the chunks that a principal may find, by number."""
        return [
            chunk
            for document in self.documents.values()
            for chunk in chunks_of(document, chunk_words, 0)
            if {principal, "*"} & set(chunk.readers)
        ]


def random_change(draw: random.Random, model: Model) -> Change:
    """Return a change that the model allows."""
    here = sorted(model.documents)
    what = draw.choice(["add", "add", "update", "delete"]) if here else "add"
    what = "delete" if len(here) > 30 else what
    if what == "add":
        new = [f"d{n}" for n in range(40) if f"d{n}" not in model.documents]
        ids = draw.sample(new, min(len(new), draw.randint(1, 6)))
    else:
        ids = draw.sample(here, min(len(here), draw.randint(1, 3)))
    if what == "delete":
        return Change(what, ids=tuple(ids))
    return Change(what, tuple(random_document(draw, id) for id in ids))


def model_at(number: int) -> Model:
    """Return what must live at a commit, where each change follows from the number before it."""
    model = Model()
    for done in range(number):
        change = random_change(random.Random(f"change {done}"), model)
        model.apply(change)
    return model


def random_document(draw: random.Random, id: str) -> Document:
    """Return a document of one to four chunks, perhaps with a rule."""
    words = draw.choices(WORDS, k=draw.randint(1, 18))
    rule = draw.choice(RULES)
    ruled = {"readers": rule} if draw.random() < 0.9 else {}
    return Document(id, " ".join(words), meta={**ruled, "words": len(words)})
