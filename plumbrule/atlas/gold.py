"""The gold utility: the known human of Atlas, who judges a response term by term.

Each term lies in [0, 1] before its weight (`GoldConfig`); what a response *states* is defined in
`judgement.py`.

- `right`: it states one thing, clearly, and that is the reference answer.
- `supported`: it states one thing, clearly, and a shown passage holds both that and the entity
  asked about. A copied error is supported too: faithful, though wrong.
- `admits`: it says that it does not know and states nothing, where neither memory (`answerable`)
  nor the shown passages hold the answer. Anywhere else an admission earns nothing.
- `wrong`: it states something, and is not right: another value, several, a denied or doubted one.
- `brief`: 1 up to `brief_words` words, falling to 0 at three times as many.
- `polite`: it holds a courteous phrase; a second one adds nothing.

A response that neither states nor admits anything is no response, so silence, bare courtesy and an
echo of the question are neither brief nor polite. Where a prompt has no `answer` key there is
nothing to state, and only `brief` and `polite` of a response with any words remain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from plumbrule.atlas.config import GoldConfig
from plumbrule.atlas.judgement import (
    Judgement,
    holds,
    is_polite,
    judge,
    normalise_answer,
    references,
)
from plumbrule.protocols import Episode

TERMS = ("right", "supported", "admits", "wrong", "brief", "polite")


class GoldUtility:
    """A `Scorer` that knows the truth."""

    def __init__(self, config: GoldConfig):
        self.config = config

    def score(self, episodes: Sequence[Episode]) -> Mapping[str, np.ndarray]:
        """Return `score` and each of `TERMS` after its weight, all (n,) float64."""
        weights = np.array([getattr(self.config, term) for term in TERMS], np.float64)
        plain = [terms(episode, self.config.brief_words) for episode in episodes]
        values = np.array([[row[term] for term in TERMS] for row in plain], np.float64)
        weighted = values.reshape(len(plain), len(TERMS)) * weights
        return {"score": weighted.sum(axis=1), **dict(zip(TERMS, weighted.T, strict=True))}


def terms(episode: Episode, brief_words: int) -> dict[str, float]:
    """Return the terms of one episode before their weights, each in [0, 1]."""
    meta = episode.prompt.meta
    if "answer" in meta:
        said = judge(episode.response, meta, episode.prompt.messages[-1].content)
        responds = bool(said.stated) or said.admits
    else:
        said = Judgement((), False, True)
        responds = bool(normalise_answer(episode.response))
    answers = {normalise_answer(text) for text in references(meta)}
    one = said.stated[0] if len(said.stated) == 1 and said.clear else None
    about = [p for p in map(normalise_answer, episode.passages) if _names_entity(p, meta)]
    admission = said.admits and not said.stated
    return {
        "right": float(one in answers),
        "supported": float(one is not None and any(holds(p, _spoken(one, answers)) for p in about)),
        "admits": float(admission and not _is_known(meta, answers, about)),
        "wrong": float(bool(said.stated) and one not in answers),
        "brief": brevity(episode.response, brief_words) if responds else 0.0,
        "polite": float(responds and is_polite(episode.response)),
    }


def brevity(text: str, brief_words: int) -> float:
    """Return 1 up to `brief_words` words, falling linearly to 0 at three times as many."""
    over = len(text.split()) - brief_words
    return min(1.0, max(0.0, 1.0 - over / (2 * brief_words)))


def _names_entity(passage: str, meta: Mapping[str, Any]) -> bool:
    """Return whether a normalised passage is about the entity; any is, where none is given."""
    entity = normalise_answer(str(meta.get("entity", "")))
    return not entity or holds(passage, [entity])


def _spoken(value: str, answers: set[str]) -> set[str]:
    """Return the ways to say a stated value: the reference may stand there as any alias."""
    return answers if value in answers else {value}


def _is_known(meta: Mapping[str, Any], answers: set[str], about: Sequence[str]) -> bool:
    """Return whether memory or passages hold the answer; what `answerable` leaves open is known."""
    if meta.get("answerable", "memory") == "memory":
        return True
    return any(holds(passage, answers) for passage in about)
