"""HaluEval (Li et al. 2023, arXiv:2305.11747): can the policy tell a hallucinated text from a right
one?

A judge reads a text and says Yes (it states something false) or No. Here it says so by probability:
how much likelier Yes is than No after the prompt, one forward pass and no generation, so there is
no unparsable answer. Unlike the official script, which shows one side of each row, drawn without
a seed, **both** sides of every row are judged, and intervals count rows.

The released texts can be told apart without reading them: right answers of the QA task are short
and stand in the knowledge, hallucinated ones are sentences. So rules that know nothing of truth are
scored on the same rows and printed beside the judge. A score below its rules shows that the judge
has not found even these; a score near them shows nothing about hallucination. Texts are stripped,
since all official right summaries end with a line break.

A `Protocol` is a prompt builder with its two verdicts; `SHORT`, in words for a small model that is
shown the knowledge, is the only one so far. Its numbers can't be compared with published ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from eval.benchmarks.answers import left_out
from eval.benchmarks.benchmark import Benchmark, Measured
from eval.benchmarks.quantity import Quantity
from eval.config import EvalConfig
from eval.intervals import Intervals, Metrics, Row, known
from plumbrule.data.benchmark_items import ItemFormat
from plumbrule.data.records import BenchmarkItem, Message, Prompt
from plumbrule.errors import DataError

if TYPE_CHECKING:
    from eval.benchmarks.subject import Subject

LONG_WORDS = 4
"""Words above which the rule for the QA task calls an answer hallucinated."""
SOURCE = {
    "halueval_qa": "knowledge",
    "halueval_dialogue": "knowledge",
    "halueval_summarization": "document",
    "halueval_general": None,
}
"""Task -> the field whose text the candidate should be faithful to."""


class Candidate(NamedTuple):
    """One text to judge: of which item, which side of it, and the truth."""

    item: BenchmarkItem
    side: str
    text: str
    hallucinated: bool


class Ask(NamedTuple):
    """A judge's prompt: the user turn, and passages for the policy's retrieval template."""

    turn: str
    passages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Protocol:
    """How a judge is asked, and the two words that it may say.

    yes: the verdict that the candidate is hallucinated.
    """

    name: str
    ask: Callable[[Candidate], Ask]
    yes: str = "Yes"
    no: str = "No"


def text_of(item: BenchmarkItem, field: str) -> str:
    """Return a field of an item as text. Raises: DataError: the item lacks it."""
    if field not in item.fields:
        raise DataError(
            f"item {item.id!r} of {item.task} must have the field {field}; add it, or remove the "
            "item."
        )
    return str(item.fields[field])


def ask_short(candidate: Candidate) -> Ask:
    """Return the short question, with the item's knowledge as a passage where it has any.

    Raises: DataError: the item lacks a field of its task.
    """
    item, text = candidate.item, candidate.text
    match item.task:
        case "halueval_qa":
            question = text_of(item, "question")
            turn = f"Question: {question}\nAnswer: {text}\nIs it false? Yes or No."
        case "halueval_dialogue":
            turn = f"{text_of(item, 'history')}\nReply: {text}\nIs it false? Yes or No."
        case "halueval_summarization":
            turn = f"Summary: {text}\nDoes the summary say what the text does not? Yes or No."
        case _:
            query = text_of(item, "query")
            turn = f"{query}\nReply: {text}\nDoes the reply state falsehoods? Yes or No."
    source = SOURCE[item.task]
    return Ask(turn, (text_of(item, source).strip(),) if source else ())


SHORT = Protocol("short", ask_short)


def candidates(items: Sequence[BenchmarkItem]) -> list[Candidate]:
    """Return both sides of every row; of the general task, which has one text a row, that one.

    Raises: DataError: an unknown task, or a missing field.
    """
    found = []
    for item in items:
        if item.task not in SOURCE:
            raise DataError(
                f"item {item.id!r}: task (={item.task!r}) must be one of {', '.join(SOURCE)}."
            )
        if item.task == "halueval_general":
            if "hallucinated" not in item.meta:
                raise DataError(
                    f"item {item.id!r} of {item.task} must say in its meta whether it is "
                    "hallucinated; add it, or remove the item."
                )
            label = bool(item.meta["hallucinated"])
            found.append(Candidate(item, "response", text_of(item, "response").strip(), label))
            continue
        for side, label in (("right", False), ("hallucinated", True)):
            found.append(Candidate(item, side, text_of(item, side).strip(), label))
    return found


def asked(items: Sequence[BenchmarkItem], config: EvalConfig) -> list[Prompt]:
    """Return what the judge is asked of each text.

    Raises: DataError: as `candidates` and `ask_short`.
    """
    return [
        Prompt(f"{one.item.id}/{one.side}", (Message("user", SHORT.ask(one).turn),))
        for one in candidates(items)
    ]


def measure(items: Sequence[BenchmarkItem], condition: str, subject: Subject) -> Measured:
    """Return one row per judged text: `task`, `hallucinated` (truth), `score`, `said_yes`,
    `correct`, and what the artefact rules look at: `words`, `characters`, `verbatim`.

    `score` is log p(Yes) - log p(No) in nats.

    Raises: DataError: as `candidates`.
    """
    policy, protocol = subject.policy, SHORT
    texts = candidates(items)
    yes, no = (policy.encode_response(v, terminal=False) for v in (protocol.yes, protocol.no))
    asks = [protocol.ask(candidate) for candidate in texts]
    prompts = [policy.encode((Message("user", ask.turn),), ask.passages) for ask in asks]
    most = policy.spec.context - max(len(yes), len(no))
    # A row is judged on both sides or not at all: pairs need both, and a side that is left out for
    # its length would tilt the comparison towards short texts.
    too_long = {c.item.id for c, p in zip(texts, prompts, strict=True) if len(p) > most}
    kept = [i for i, candidate in enumerate(texts) if candidate.item.id not in too_long]
    scores = subject.log_odds([prompts[i] for i in kept], yes, no, f"halueval {condition}")
    rows = [judged(texts[i], score, condition) for i, score in zip(kept, scores, strict=True)]
    samples = [
        {
            "id": row["id"],
            "benchmark": "halueval",
            "condition": condition,
            "prompt": asks[i].turn,
            "passages": list(asks[i].passages),
            "response": protocol.yes if row["said_yes"] else protocol.no,
            "score": row["score"],
            "correct": row["correct"],
        }
        for i, row in zip(kept[: subject.config.num_samples], rows, strict=False)
    ]
    notes = [f"halueval: judged by protocol `{protocol.name}`, not the official instructions."]
    return Measured(rows, samples, notes + left_out("halueval", len(too_long), len(items), most))


def judged(candidate: Candidate, score: float, condition: str) -> dict[str, Any]:
    """Return the row of a candidate whose log-odds of Yes are `score`."""
    item, text = candidate.item, candidate.text
    source = SOURCE[item.task]
    knowledge = text_of(item, source or "query")
    return {
        "id": f"{item.id}/{candidate.side}",
        "group": item.group or item.id,
        "condition": condition,
        "item": item.id,
        "task": item.task.removeprefix("halueval_"),
        "hallucinated": int(candidate.hallucinated),
        "score": score,
        "said_yes": int(score > 0),
        "correct": int((score > 0) == candidate.hallucinated),
        "words": len(text.split()),
        "characters": len(text),
        "verbatim": int(plain_words(text) in plain_words(knowledge)),
    }


def plain_words(text: str) -> str:
    """Return text in lower case, without punctuation, single-spaced."""
    return " ".join(re.sub(r"[^\w\s]", "", text.lower()).split())


def summarise(rows: Sequence[Row], intervals: Intervals) -> Metrics:
    """Return the judge's scores and the rules' beside them, each name led by its task."""
    metrics: dict = {}
    for task in {row["task"]: None for row in rows}:
        own = [row for row in rows if row["task"] == task]
        scored = {**judge_metrics(own, intervals), **rule_metrics(own, intervals)}
        metrics |= {f"{task}_{name}": interval for name, interval in scored.items()}
    return metrics


def judge_metrics(rows: Sequence[Row], intervals: Intervals) -> Metrics:
    """Return accuracy, balanced accuracy, AUROC and pair accuracy of one task, and how often the
    judge says Yes; positive means hallucinated, ties of a pair count half.

    Accuracy is stratified by the true label: the two sides of a row pull against each other (who
    always says Yes is right on exactly one), which makes it surer than as many independent texts.
    """
    return known(
        {
            "accuracy": intervals.label_share(rows, "correct", "hallucinated"),
            "balanced_accuracy": intervals.label_share(
                rows, "correct", "hallucinated", balanced=True
            ),
            "auroc": intervals.auroc(rows, "score", "hallucinated"),
            "pair_accuracy": intervals.share(pairs(rows, "score"), "ordered"),
            "said_yes": intervals.share(rows, "said_yes"),
        }
    )


def rule_metrics(rows: Sequence[Row], intervals: Intervals) -> Metrics:
    """Return what rules score that read no meaning.

    rule_longer: of a pair, the longer text (characters) is the hallucinated one. rule_verbatim: a
    text that does not stand in its source is hallucinated. rule_length: one of more than four words
    is (QA only). rule_always_no: nothing is.
    """
    ruled = [
        {
            **row,
            "rule_verbatim": int((not row["verbatim"]) == bool(row["hallucinated"])),
            "rule_length": int((row["words"] > LONG_WORDS) == bool(row["hallucinated"])),
            "rule_always_no": int(not row["hallucinated"]),
        }
        for row in rows
    ]
    names = ["rule_verbatim", "rule_always_no"]
    if all(row["task"] == "qa" for row in rows):
        names.append("rule_length")
    metrics = {name: intervals.label_share(ruled, name, "hallucinated") for name in names}
    metrics["rule_longer"] = intervals.share(pairs(rows, "characters"), "ordered")
    return known(metrics)


def pairs(rows: Sequence[Row], column: str) -> list[dict[str, Any]]:
    """Return a row per item with both sides: `ordered` is 1 where the hallucinated side is higher
    in `column`, 0.5 where they tie.
    """
    sides: dict[str, dict[int, Row]] = {}
    for row in rows:
        sides.setdefault(row["item"], {})[row["hallucinated"]] = row
    ordered = []
    for item, both in sides.items():
        if len(both) == 2:
            right, wrong = both[0][column], both[1][column]
            value = 0.5 if right == wrong else float(wrong > right)
            ordered.append({"id": item, "group": both[0]["group"], "ordered": value})
    return ordered


def quantities(rows: Sequence[Row]) -> list[Quantity]:
    """Return the judge's accuracy in each task."""
    tasks = dict.fromkeys(row["task"] for row in rows)
    return [Quantity(f"halueval_{t}_accuracy_change", "correct", {"task": t}, 1) for t in tasks]


def headline(metric: str, kind: str, condition: str) -> list[str]:
    """Return `eval/halueval_<task>_<metric>_<kind>` of the judge's scores."""
    return [] if "_rule_" in metric else [f"eval/halueval_{metric}_{kind}"]


BENCHMARK = Benchmark(
    name="halueval",
    items=ItemFormat(
        {
            "halueval_qa": ["knowledge", "question", "right", "hallucinated"],
            "halueval_dialogue": ["knowledge", "history", "right", "hallucinated"],
            "halueval_summarization": ["document", "right", "hallucinated"],
            "halueval_general": ["query", "response"],
        }
    ),
    asked=asked,
    measure=measure,
    summarise=summarise,
    quantities=quantities,
    metrics=(
        "*_rule_*",
        "*_balanced_accuracy",
        "*_pair_accuracy",
        "*_accuracy",
        "*_auroc",
        "*_said_yes",
    ),
    headline=headline,
    folder=lambda config: config.halueval.path,
    per_group=lambda config: config.halueval.per_task,
)
