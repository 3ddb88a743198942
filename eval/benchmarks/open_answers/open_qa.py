"""Questions with reference answers: greedy answers against them, as SQuAD, BLEU and ROUGE compare.

`exact_match` and `f1` are SQuAD's, the best reference counting. `contains` is whether a reference
stands in the answer, normalised: a chat policy answers in sentences, which an exact match never is.
`rouge1`, `rouge2` and `rougeL` are mean F-measures, `bleu` is of all answers together and has no
interval. `admits` is the share of answers that say that they do not know. The signatures stand in
the notes.

An item may bring `passages`, which are shown; under `rag` those of the node's index are.

With `eval.num_votes` as many answers are sampled to each question as well, and the commonest by
SQuAD's normalisation is scored (self-consistency, Wang et al. 2022, arXiv:2203.11171, whose answers
are read out of a chain of thought; here the whole answer votes, so it suits short ones):
`vote_exact_match`, `vote_f1`, `vote_contains`; `vote_agreement` is the share of the answers that
are the commonest, `vote_tied` the share of questions of which several are equally common, where the
one that was drawn first counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from eval.benchmarks.answers import sample_row
from eval.benchmarks.benchmark import Benchmark, Measured
from eval.benchmarks.contamination import contamination_notes
from eval.benchmarks.multiple_choice.truthfulqa import question_of
from eval.benchmarks.quantity import Quantity
from eval.benchmarks.retrieved.columns import (
    metric_names,
    retrieval_columns,
    retrieval_metrics,
    retrieval_quantities,
)
from eval.config import EvalConfig
from eval.few_shot import Shot, as_turns
from eval.intervals import Intervals, Metrics, Row, known
from eval.majority import majority
from eval.text_metrics import (
    ROUGES,
    corpus_bleu,
    rouge,
    rouge_signature,
)
from plumbrule.atlas.judgement import ADMISSIONS, holds
from plumbrule.atlas.judgement import normalise_answer as plain_words
from plumbrule.data.benchmark_items import ItemFormat
from plumbrule.data.records import BenchmarkItem, Message, Prompt
from plumbrule.errors import DataError
from plumbrule.grounding.answer_match import contains, exact_match, normalise_answer, word_f1
from plumbrule.protocols import Episode
from plumbrule.statistics.intervals import point
from plumbrule.store.fingerprint import digest

if TYPE_CHECKING:
    from eval.benchmarks.subject import Subject

SHARES = ("exact_match", "contains", "admits")
MEANS = ("f1", *ROUGES, "words")
VOTE_SHARES = ("vote_exact_match", "vote_contains", "vote_tied")
VOTE_MEANS = ("vote_f1", "vote_agreement")


def answers_of(item: BenchmarkItem) -> list[str]:
    """Return an item's reference answers. Raises: DataError: none, or one without text."""
    answers = item.fields.get("answers")
    fits = isinstance(answers, list) and all(isinstance(a, str) and a.strip() for a in answers)
    if not fits or not answers:
        raise DataError(
            f"item {item.id!r}: answers (={answers!r:.80}) must be a list of texts; repair the row."
        )
    return [answer.strip() for answer in answers]


def source_of(item: BenchmarkItem) -> str:
    """Return what an interval counts an item with: its group, else its passages, else itself.

    Questions on one text, as in SQuAD, are answered well or badly together.
    Raises: DataError: as `passages_of`.
    """
    passages = passages_of(item)
    return item.group or (digest("\n".join(passages))[:16] if passages else item.id)


def passages_of(item: BenchmarkItem) -> tuple[str, ...]:
    """Return the passages that an item brings. Raises: DataError: they are no list of texts."""
    passages = item.fields.get("passages", [])
    if not isinstance(passages, list) or not all(isinstance(p, str) for p in passages):
        raise DataError(f"item {item.id!r}: passages (={passages!r:.80}) must be a list of texts.")
    return tuple(passages)


def asked(items: Sequence[BenchmarkItem], config: EvalConfig) -> list[Prompt]:
    """Return the questions as chats. Raises: DataError: as the functions above."""
    for item in items:
        answers_of(item)
        passages_of(item)
    return [Prompt(item.id, (Message("user", question_of(item)),)) for item in items]


def example(item: BenchmarkItem) -> Shot:
    """Return an item with its first reference and its passages. Raises: DataError: as `asked`."""
    return Shot(question_of(item), answers_of(item)[0], passages_of(item))


def measure(items: Sequence[BenchmarkItem], condition: str, subject: Subject) -> Measured:
    """Return a row per item with the columns of `SHARES` and `MEANS`, the response and references.

    Raises: DataError: as `asked`.
    """
    by_id = {item.id: item for item in items}
    prompts = [
        dataclasses.replace(
            prompt, messages=(*as_turns(shots, subject.with_passages), *prompt.messages)
        )
        for prompt, shots in zip(
            asked(items, subject.config), subject.examples("open_qa", items), strict=True
        )
    ]
    own = [passages_of(item) for item in items] if condition == "closed" else None
    answered, notes = subject.respond(
        prompts, f"open_qa {condition}", condition=condition, passages=own, greedy=True
    )
    votes = sampled_votes([one.episode for one in answered], condition, subject)
    rows, samples = [], []
    retrieved = retrieval_columns(answered, condition, subject)
    for episode, columns in zip([one.episode for one in answered], retrieved, strict=True):
        item = by_id[episode.prompt.id]
        references, text = answers_of(item), episode.response
        row = {
            "id": item.id,
            "group": source_of(item),
            "condition": condition,
            "exact_match": exact_match(text, references),
            "f1": word_f1(text, references),
            "contains": contains(text, references),
            "admits": int(holds(plain_words(text), ADMISSIONS)),
            **rouge(text, references),
            "words": len(text.split()),
            "response": text,
            "references": references,
            **columns,
            **vote_columns(votes.get(item.id, []), references),
        }
        rows.append(row)
        samples.append(sample_row("open_qa", condition, episode, f1=row["f1"]))
    if rows:
        _, signature = bleu_of(rows)
        notes.append(f"open_qa: BLEU by sacrebleu, {signature}; ROUGE by {rouge_signature()}.")
    notes += contamination_notes(
        "open_qa", [p.messages[-1].content for p in prompts], subject.policy.source
    )
    return Measured(rows, samples[: subject.config.num_samples], notes)


def sampled_votes(
    episodes: Sequence[Episode], condition: str, subject: Subject
) -> dict[str, list[str]]:
    """Return `eval.num_votes` sampled answers to each question that was answered, by its id, in the
    order in which they are drawn; {} where none are asked for.
    """
    number = subject.config.num_votes
    if number == 0 or not episodes:
        return {}
    prompts = [
        dataclasses.replace(one.prompt, id=f"{one.prompt.id}/vote {k}")
        for one in episodes
        for k in range(number)
    ]
    own = condition != "search"  # there each answer finds its own
    passages = [one.passages for one in episodes for _ in range(number)] if own else None
    sampled, _ = subject.respond(
        prompts, f"open_qa {condition} votes", condition=condition, passages=passages
    )
    texts = [one.episode.response for one in sampled]  # all fit, as the greedy answer did
    return {
        one.prompt.id: texts[place * number : (place + 1) * number]
        for place, one in enumerate(episodes)
    }


def vote_columns(votes: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """Return the columns of the commonest of sampled answers; {} without any."""
    if not votes:
        return {}
    vote = majority([normalise_answer(text) for text in votes])
    text = votes[vote.place]
    return {
        "vote_exact_match": exact_match(text, references),
        "vote_f1": word_f1(text, references),
        "vote_contains": contains(text, references),
        "vote_agreement": vote.share,
        "vote_tied": int(vote.tied),
        "votes": list(votes),
    }


def bleu_of(rows: Sequence[Row]) -> tuple[float, str]:
    """Return BLEU over the rows' responses and its signature."""
    return corpus_bleu([row["response"] for row in rows], [row["references"] for row in rows])


def summarise(rows: Sequence[Row], intervals: Intervals) -> Metrics:
    """Return shares and means with their intervals, and BLEU without one."""
    metrics: dict = {name: intervals.share(rows, name) for name in (*SHARES, *VOTE_SHARES)}
    metrics |= {name: intervals.mean(rows, name) for name in (*MEANS, *VOTE_MEANS)}
    if rows:
        metrics["bleu"] = point(bleu_of(rows)[0], len(rows))
    return known(metrics) | retrieval_metrics(rows, intervals)


def signature(config: EvalConfig) -> str:
    """Return the longest answer and the versions that BLEU and ROUGE are of."""
    bleu = f"bleu:sacrebleu {version('sacrebleu')}"
    votes = ""
    if config.num_votes:
        votes = f"|votes:{config.num_votes} at temperature {config.sampling.temperature:g}"
    return f"tokens:{config.sampling.max_new_tokens}|{bleu}|rouge:{rouge_signature()}{votes}"


def quantities(rows: Sequence[Row]) -> list[Quantity]:
    """Return exact match, F1 and whether a reference stands in the answer."""
    return [
        Quantity(f"open_qa_{name}_change", name, better=1)
        for name in ("exact_match", "f1", "contains", "vote_exact_match", "vote_f1")
    ] + retrieval_quantities("open_qa_")


def headline(metric: str, kind: str, condition: str) -> list[str]:
    """Return `eval/open_qa_<metric>_<kind>_<condition>`."""
    return [f"eval/open_qa_{metric}_{kind}_{condition}"]


BENCHMARK = Benchmark(
    name="open_qa",
    items=ItemFormat({"open_qa": ["question", "answers"]}),
    asked=asked,
    measure=measure,
    summarise=summarise,
    quantities=quantities,
    metrics=(*SHARES, *MEANS, "bleu", *VOTE_SHARES, *VOTE_MEANS, *metric_names()),
    headline=headline,
    both_conditions=True,
    folder=lambda config: config.open_qa.path,
    per_group=lambda config: config.open_qa.per_group,
    unit="questions",
    example=example,
    train_split=lambda config: config.open_qa.shots,
    signature=signature,
)
