"""What an answer made of the passages it was shown: columns of every evaluation that retrieves.

    citation_precision, citation_recall, cited_support
                        of its [n], as `plumbrule/grounding/citations.py` has them; a row has no
                        precision where the answer cites nothing
    passage_support     share of its content words that stand in any passage shown
    passage_effect_max, passage_effect_mean
                        with eval.leave_one_out: nats by which the answer is less likely without a
                        passage, of the one that matters most and of all
    search_calls, search_malformed, search_unanswered
                        of a policy that searches itself, as PPO's `search/*`

The effects say what the policy really used, whatever it cites: log p(answer | all passages) less
log p(answer | all but one), of the tokens that were sampled, at temperature 1. Where passages are
numbered, the one that is left out leaves its number behind, so that the others keep theirs. They
cost a forward pass for each passage shown.

A row has these columns under `rag` and `search`, those of passages only where one was shown; the
effects are of `rag` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from eval.benchmarks.answers import Answered
from eval.benchmarks.quantity import Quantity
from eval.intervals import Intervals, Metrics, Row, known
from plumbrule.grounding.citations import score_citations, without_citations
from plumbrule.grounding.support import content_words, support

if TYPE_CHECKING:
    from eval.benchmarks.subject import Subject
    from plumbrule.lm.policy import Policy

CITATIONS = ("citation_precision", "citation_recall", "cited_support", "passage_support")
EFFECTS = ("passage_effect_max", "passage_effect_mean")
SEARCHES = ("search_calls", "search_malformed", "search_unanswered")
COLUMNS = (*CITATIONS, *EFFECTS, *SEARCHES)


def retrieval_columns(
    answered: Sequence[Answered], condition: str, subject: Subject
) -> list[dict[str, float]]:
    """Return the columns of each answer, {} where it was shown no passage."""
    if condition == "closed":
        return [{} for _ in answered]
    found = [{**cited(one), **searched(one)} for one in answered]
    if condition == "rag" and subject.config.leave_one_out:
        for columns, effects in zip(found, passage_effects(answered, subject), strict=True):
            if effects:
                columns["passage_effect_max"] = max(effects)
                columns["passage_effect_mean"] = sum(effects) / len(effects)
    return found


def cited(one: Answered) -> dict[str, float]:
    """Return `CITATIONS` of an answer, as far as they can be counted."""
    text, passages = one.episode.response, one.episode.passages
    if not passages:
        return {}
    scores = score_citations(text, passages)
    columns = {
        "citation_precision": scores.precision,
        "citation_recall": scores.recall,
        "cited_support": scores.support,
    }
    plain = without_citations(text)
    if content_words(plain):
        columns["passage_support"] = support(plain, "\n".join(passages))
    return {name: value for name, value in columns.items() if value is not None}


def searched(one: Answered) -> dict[str, float]:
    """Return `SEARCHES` of a policy that may search, else {}."""
    searching = one.episode.searching
    if searching is None:
        return {}
    return {
        "search_calls": float(len(searching.calls)),
        "search_malformed": float(searching.malformed),
        "search_unanswered": float(searching.unanswered),
    }


def passage_effects(answered: Sequence[Answered], subject: Subject) -> list[list[float]]:
    """Return, for each answer, the nats that each of its passages adds; [] without passages."""
    rows, numbers = [], []
    for one in answered:
        passages, answer = one.episode.passages, list(one.row.response)
        numbers.append(len(passages))
        if passages:
            rows.append((list(one.row.prompt), answer))
        for place in range(len(passages)):
            rows.append((prompt_without(subject.policy, one, place), answer))
    nats = iter(subject.response_nats(rows, "passages left out"))
    found = []
    for number in numbers:
        whole = next(nats) if number else 0.0
        found.append([whole - next(nats) for _ in range(number)])
    return found


def prompt_without(policy: Policy, one: Answered, place: int) -> list[int]:
    """Return the prompt's tokens without one of its passages; its number stays."""
    passages = list(one.episode.passages)
    numbered = "{n}" in policy.spec.passage_template
    passages[place : place + 1] = [""] if numbered else []
    return policy.encode(one.episode.prompt.messages, passages)


def retrieval_metrics(rows: Sequence[Row], intervals: Intervals, prefix: str = "") -> Metrics:
    """Return the mean of each column that some row has, under `prefix`."""
    return known({prefix + name: intervals.mean(rows, name) for name in COLUMNS})


def metric_names(prefix: str = "") -> tuple[str, ...]:
    """Return what `retrieval_metrics` may return."""
    return tuple(prefix + name for name in COLUMNS)


def retrieval_quantities(prefix: str) -> list[Quantity]:
    """Return what a comparison pairs."""
    return [Quantity(f"{prefix}{name}_change", name, better=1) for name in CITATIONS] + [
        Quantity(f"{prefix}{name}_change", name, better=-1 if name == "search_malformed" else 0)
        for name in (*EFFECTS, *SEARCHES)
    ]
