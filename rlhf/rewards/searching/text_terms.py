"""Reward functions for a policy that searches, cites and answers questions that have an answer.

    exact_match         the answer is a reference answer (SQuAD's normalisation)
    search_format       every marker is part of a call that was answered, and the response ended
    information_gain    how much nearer each search came to what is sought
    search_redundancy   passages that searches showed again; for a weight below 0
    citation_precision, citation_recall, cited_support
                        of the answer's [n] (`plumbrule/grounding/citations.py`)

What is sought comes from the prompt's `meta`: `answer` (and `aliases`) or `answers`, and for
`information_gain` perhaps `gold_passages`, each a text or a list of texts (`sought.py`).

The gain of a search and its redundancy follow StepSearch (Wang et al. 2025, arXiv:2505.15107); its
formulas are unverified here: compare them with the paper before quoting a number as its. With
c_i(t) the largest similarity of gold passage i to a passage that search t showed, and m_i(t) the
largest so far, the gain of search t is the mean over i of max(c_i(t) - m_i(t - 1), 0). Its
redundancy is the share of its passages that were shown before. Two terms here, so that each has its
weight, `{name: information_gain, weight: 0.3}` and `{name: search_redundancy, weight: -0.3}`.
Deviations: both are summed over the searches and paid with the score, at the end of the response;
passages of the prompt count as shown before the first
search; without gold passages the similarity is 1 where a passage holds a reference answer, else 0;
inverse document frequencies are those of the episode's own texts, so a number depends on its
episode alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from plumbrule.atlas.judgement import ADMISSIONS, holds, normalise_answer
from plumbrule.grounding.answer_match import contains
from plumbrule.grounding.answer_match import exact_match as matches
from plumbrule.grounding.citations import score_citations, without_citations
from plumbrule.grounding.support import content_words
from rlhf.rewards.functions import register
from rlhf.rewards.searching.sought import check_answer, check_sought, gold_passages, references

if TYPE_CHECKING:
    from plumbrule.protocols import Episode

HASHED_BY_NAME = True
"""As in `rlhf/rewards/functions.py`."""


@register("exact_match", check=check_answer)
def exact_match(episodes: Sequence[Episode]) -> list[float]:
    """Return 1 for an answer that is a reference answer, normalised, its citations aside; else 0.

    Where nothing can answer (`meta.answer` is ""), 1 for a response that says it does not know.
    Raises: DataError: a prompt's meta has no answer.
    """
    found = []
    for e in episodes:
        sought = references(e.prompt)
        admits = holds(normalise_answer(e.response), ADMISSIONS)
        matched = matches(without_citations(e.response), sought) if sought else admits
        found.append(float(matched))
    return found


@register("search_format")
def search_format(episodes: Sequence[Episode]) -> list[float]:
    """Return 1 for a response that ended, each of whose markers is part of an answered call."""
    return [float(e.finished and (e.searching is None or _is_well_formed(e))) for e in episodes]


@register("information_gain", check=check_sought)
def information_gain(episodes: Sequence[Episode]) -> list[float]:
    """Return the sum over each response's searches of what they added, in [0, 1].

    0 where nothing can answer. Raises: DataError: a prompt's meta has neither gold passages nor an
    answer.
    """
    return [sum(gains(e)) for e in episodes]


@register("search_redundancy")
def search_redundancy(episodes: Sequence[Episode]) -> list[float]:
    """Return the sum over each response's searches of the share shown before, 0 or more."""
    return [sum(redundancies(e)) for e in episodes]


@register("citation_precision")
def citation_precision(episodes: Sequence[Episode]) -> list[float]:
    """Return the share of each answer's citations that hold, in [0, 1]; 0 for none."""
    return [score_citations(e.response, e.passages).precision or 0.0 for e in episodes]


@register("citation_recall")
def citation_recall(episodes: Sequence[Episode]) -> list[float]:
    """Return the share of each answer's sentences that what they cite supports; 0 for none."""
    return [score_citations(e.response, e.passages).recall or 0.0 for e in episodes]


@register("cited_support")
def cited_support(episodes: Sequence[Episode]) -> list[float]:
    """Return the share of each answer's content words that what they cite holds; 0 for none."""
    return [score_citations(e.response, e.passages).support or 0.0 for e in episodes]


def gains(episode: Episode) -> list[float]:
    """Return the gain of each search of a response, in order.

    Raises: DataError: as `references`, where the prompt has no gold passages.
    """
    before, searches = _shown(episode)
    similar = _similarities(episode, [*before, *(text for one in searches for text in one)])
    best = similar[: len(before)].max(0) if before else np.zeros(similar.shape[1])
    found, place = [], len(before)
    for one in searches:
        here = similar[place : place + len(one)].max(0) if one else np.zeros_like(best)
        place += len(one)
        found.append(float(np.maximum(here - best, 0.0).mean()))
        best = np.maximum(best, here)
    return found


def redundancies(episode: Episode) -> list[float]:
    """Return the share of each search's passages that were shown before, in order."""
    before, searches = _shown(episode)
    seen, found = set(before), []
    for one in searches:
        found.append(sum(text in seen for text in one) / max(1, len(one)))
        seen |= set(one)
    return found


def _shown(episode: Episode) -> tuple[list[str], list[tuple[str, ...]]]:
    """Return the passages of the prompt, and those of each search."""
    searches = [call.passages for call in episode.searching.calls] if episode.searching else []
    number = len(episode.passages) - sum(map(len, searches))
    return list(episode.passages[:number]), searches


def _similarities(episode: Episode, texts: Sequence[str]) -> np.ndarray:
    """Return the similarity of each text to each thing sought, (texts, sought) in [0, 1]."""
    gold = gold_passages(episode.prompt)
    if not gold:
        answers = references(episode.prompt)
        held = [float(contains(text, answers)) for text in texts]
        return np.array(held).reshape(-1, 1)
    from sklearn.feature_extraction.text import TfidfVectorizer  # a config loads none

    both = [*texts, *gold]
    if not any(map(content_words, both)):
        return np.zeros((len(texts), len(gold)))
    rows = TfidfVectorizer(analyzer=content_words).fit_transform(both).toarray()
    return np.clip(rows[: len(texts)] @ rows[len(texts) :].T, 0.0, 1.0)


def _is_well_formed(episode: Episode) -> bool:
    searching = episode.searching
    return searching is not None and not searching.malformed and not searching.unanswered
