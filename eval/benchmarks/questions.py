"""Closed-book and retrieval-augmented question answering: accuracy, abstention, hallucination.

Each question says where its answer can be found: in the base corpus (`memory`), only in documents
written after the cut-off (`documents`), or nowhere (`nothing`). A greedy answer to each is one of

- *correct*: the one thing that it states is the reference answer;
- *abstained*: it says that it does not know, and states nothing;
- *confident_wrong*: it states something else, without a word of doubt;
- none of these: it says nothing to the point, or both states an answer and denies knowing it.

What a response states is decided by the gold utility's own reading, so the two agree. Accuracy and
hallucination are not two sides of one number, which is the point: a policy that abstains from
everything is never wrong, and one that never abstains may look accurate. Facts after the cut-off
are the centre: closed book, the honest policy abstains; shown the documents, the useful one
answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eval.benchmarks.answers import sample_row
from eval.benchmarks.benchmark import Benchmark, Measured
from eval.benchmarks.quantity import Quantity
from eval.benchmarks.retrieved.columns import (
    metric_names,
    retrieval_columns,
    retrieval_metrics,
    retrieval_quantities,
)
from eval.config import EvalConfig
from eval.intervals import Intervals, Metrics, Row, known
from plumbrule.atlas.gold import terms
from plumbrule.atlas.judgement import judge, normalise_answer
from plumbrule.data.benchmark_items import ItemFormat
from plumbrule.data.records import BenchmarkItem, Message, Prompt
from plumbrule.data.splits import bootstrap_cluster
from plumbrule.errors import DataError
from plumbrule.protocols import Episode

if TYPE_CHECKING:
    from eval.benchmarks.subject import Subject

ANSWERABLE = ("memory", "documents", "nothing")
METRICS = {
    "accuracy": ("documents", "correct"),
    "abstain": ("documents", "abstained"),
    "confident_wrong": ("documents", "confident_wrong"),
    "answer_shown": ("documents", "answer_shown"),
    "known_accuracy": ("memory", "correct"),
    "known_abstain": ("memory", "abstained"),
    "known_confident_wrong": ("memory", "confident_wrong"),
    "abstain_unanswerable": ("nothing", "abstained"),
    "confident_wrong_unanswerable": ("nothing", "confident_wrong"),
}
"""Metric -> (which questions, which column's share)."""
ANSWERS = "answer_"
"""In front of what is measured of an answer beside the passages it was shown."""


def asked(items: Sequence[BenchmarkItem], config: EvalConfig) -> list[Prompt]:
    """Return the questions as chats. Raises: DataError: as `as_prompt`."""
    return [as_prompt(item) for item in items]


def measure(items: Sequence[BenchmarkItem], condition: str, subject: Subject) -> Measured:
    """Return rows with `answerable`, `correct`, `abstained`, `confident_wrong`, `words`,
    `prompt_tokens` (passages included), `answer_tokens` and, with passages, `answer_shown`: the
    reference stands in one of them, and `retrieved/columns.py`'s.

    Raises: DataError: an item without question, answer, or where it can be answered.
    """
    prompts, what = asked(items, subject.config), f"questions {condition}"
    answered, notes = subject.respond(prompts, what, condition=condition, greedy=True)
    episodes = [one.episode for one in answered]
    groups = {item.id: item.group or bootstrap_cluster(item.id, item.meta) for item in items}
    rows = [
        {
            **judged(one.episode, groups[one.episode.prompt.id], condition),
            "prompt_tokens": len(one.row.prompt),
            "answer_tokens": len(one.row.response),
            **columns,
        }
        for one, columns in zip(
            answered, retrieval_columns(answered, condition, subject), strict=True
        )
    ]
    samples = [
        sample_row(
            "questions",
            condition,
            episode,
            answer=episode.prompt.meta["answer"],
            answerable=row["answerable"],
            correct=row["correct"],
        )
        for episode, row in zip(episodes, rows, strict=True)
    ]
    return Measured(rows, samples[: subject.config.num_samples], notes)


def as_prompt(item: BenchmarkItem) -> Prompt:
    """Return the question as a chat of one turn.

    Raises: DataError: it has no text, no answer, or `answerable` is unknown.
    """
    question, meta = str(item.fields.get("question", "")).strip(), item.meta
    if not question or meta.get("answerable") not in ANSWERABLE or "answer" not in meta:
        raise DataError(
            f"question {item.id!r} must have a text, meta.answer and meta.answerable of "
            f"{', '.join(ANSWERABLE)}; repair the row."
        )
    return Prompt(item.id, (Message("user", question),), meta)


def judged(episode: Episode, group: str, condition: str) -> dict[str, Any]:
    """Return the row of one answer."""
    meta = episode.prompt.meta
    row = {
        "id": episode.prompt.id,
        "group": group,
        "condition": condition,
        "answerable": meta["answerable"],
        **outcome(episode),
        "words": len(episode.response.split()),
    }
    if condition != "closed" and meta["answer"]:
        row["answer_shown"] = int(any(holds(text, meta["answer"]) for text in episode.passages))
    return row


def outcome(episode: Episode) -> dict[str, int]:
    """Return which of the three outcomes a response is; at most one of them is 1."""
    prompt = episode.prompt
    said = judge(episode.response, prompt.meta, prompt.messages[-1].content)
    judgement = terms(episode, brief_words=1)
    return {
        "correct": int(judgement["right"]),
        "abstained": int(said.admits and not said.stated),
        "confident_wrong": int(judgement["wrong"] and not said.admits),
    }


def holds(passage: str, answer: str) -> bool:
    """Return whether the answer stands in a passage, as whole words."""
    return f" {normalise_answer(answer)} " in f" {normalise_answer(passage)} "


def summarise(rows: Sequence[Row], intervals: Intervals) -> Metrics:
    """Return the shares of `METRICS` that have any rows."""
    return known(
        {
            name: intervals.share([r for r in rows if r["answerable"] == which], column)
            for name, (which, column) in METRICS.items()
        }
    ) | retrieval_metrics(rows, intervals, ANSWERS)


QUANTITIES = (
    Quantity("accuracy_change", "correct", {"answerable": "documents"}, 1),
    Quantity("abstain_change", "abstained", {"answerable": "documents"}),
    Quantity("confident_wrong_change", "confident_wrong", {"answerable": "documents"}, -1),
    Quantity("known_accuracy_change", "correct", {"answerable": "memory"}, 1),
    Quantity("known_confident_wrong_change", "confident_wrong", {"answerable": "memory"}, -1),
    Quantity("abstain_unanswerable_change", "abstained", {"answerable": "nothing"}, 1),
    *retrieval_quantities(ANSWERS),
)


def headline(metric: str, kind: str, condition: str) -> list[str]:
    """Return `eval/<metric>_<kind>_<condition>` and, of what the policy still knows closed-book of
    the base corpus, `eval/known_accuracy_<kind>`.
    """
    names = [f"eval/{metric}_{kind}_{condition}"]
    if (metric, condition) == ("known_accuracy", "closed"):
        names.append(f"eval/known_accuracy_{kind}")
    return names


BENCHMARK = Benchmark(
    name="questions",
    items=ItemFormat({"question": ["question"]}, ["answer", "answerable"]),
    asked=asked,
    measure=measure,
    summarise=summarise,
    quantities=lambda rows: QUANTITIES,
    metrics=(
        "accuracy",
        "abstain",
        "confident_wrong",
        "answer_shown",
        "known_accuracy",
        "known_abstain",
        "known_confident_wrong",
        "abstain_unanswerable",
        "confident_wrong_unanswerable",
        *metric_names(ANSWERS),
    ),
    headline=headline,
    unit="entities",
    no_shots="it shows what the policy does with a plain question",
    both_conditions=True,
)
