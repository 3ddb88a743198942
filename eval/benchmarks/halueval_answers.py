"""HaluEval's generative side: the policy answers the rows itself, and its answers are judged.

Off by default (`eval.halueval.generate`). An answer is sampled at `eval.sampling`, shown the same
knowledge as the judge. Two things are measured of it, neither of which is a human label: `support`,
the share of its content words that stand in the item's source or query (the lexical measure that
stage `eval_support` holds to people's labels), and what the policy itself says of it, asked as
of any candidate. Of QA, `holds_right` says whether the reference answer stands in it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eval.benchmarks.answers import sample_row
from eval.benchmarks.halueval_prompts import QUERY, SOURCE, Candidate, text_of
from plumbrule.data.records import BenchmarkItem, Message, Prompt
from plumbrule.grounding.support import content_words, support

if TYPE_CHECKING:
    from eval.benchmarks.subject import Subject


def plain_words(text: str) -> str:
    """Return text in lower case, without punctuation, single-spaced."""
    return " ".join(re.sub(r"[^\w\s]", "", text.lower()).split())


def holds(text: str, part: str) -> bool:
    """Return whether a part stands in a text as whole words; an empty one never does."""
    wanted = plain_words(part)
    return bool(wanted) and f" {wanted} " in f" {plain_words(text)} "


def lexical_support(answer: str, sources: Sequence[str]) -> float | None:
    """Return the share of the answer's content words that stand in a source; None without any."""
    return support(answer, "\n".join(sources)) if content_words(answer) else None


def question_of(item: BenchmarkItem) -> str:
    """Return what the policy is asked to answer. Raises: DataError: the item lacks a field."""
    text = text_of(item, QUERY[item.task])
    return f"{text}\nSum up the text." if item.task == "halueval_summarization" else text


def answer_items(
    items: Sequence[BenchmarkItem], knowledge: Sequence[str | None], subject: Subject
) -> tuple[list[tuple[Candidate, dict[str, Any]]], list[dict[str, Any]], list[str]]:
    """Return (the answer as a candidate, its row) for each item that fits; samples; notes.

    Args: knowledge: of each item, what is shown beside the question.
    """
    prompts = [Prompt(item.id, (Message("user", question_of(item)),)) for item in items]
    shown = [
        (known,) if known and item.task != "halueval_summarization" else ()
        for item, known in zip(items, knowledge, strict=True)
    ]
    answered, notes = subject.respond(prompts, "halueval answers", passages=shown)
    by_id = {item.id: item for item in items}
    found, samples = [], []
    for episode in (one.episode for one in answered):
        item = by_id[episode.prompt.id]
        source = SOURCE[item.task]
        sources = [text_of(item, source), text_of(item, QUERY[item.task])] if source else []
        answer = episode.response
        row: dict[str, Any] = {
            "id": f"{item.id}/answered",
            "group": item.group or item.id,
            "condition": "closed",
            "item": item.id,
            "task": item.task.removeprefix("halueval_"),
            "support": lexical_support(answer, sources) if sources else None,
            "empty": int(not answer.strip()),
        }
        if item.task == "halueval_qa":
            row["holds_right"] = int(holds(answer, text_of(item, "right")))
        found.append((Candidate(item, "answered", answer, False), row))
        samples.append(sample_row("halueval answers", "closed", episode, support=row["support"]))
    return found, samples, notes
