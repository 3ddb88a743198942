"""HaluEval (Li et al. 2023, arXiv:2305.11747): can the policy tell a hallucinated text from a right
one?

A judge reads a text and says Yes (it states something false) or No. Two protocols:

- `two_sided`, the default. **Both** sides of every row are judged, by probability: how much
  likelier Yes is than No after the prompt, with no generation, so that there is no unparsable
  answer. What prompts have in common is read once
  (`plumbrule/lm/generation/shared_prefixes.py`).
- `official`, as the paper's script does it: its instruction files and system messages, one side of
  each row, a greedy answer, its parser, and a judgement that says neither or both counts as wrong.
  Its accuracy is over all rows, so one that does not fit the context is a failed judgement too.
  The script draws the side without a seed; here the draw follows from (seed, item id), and the seed
  is in `evaluated.json`. The standard error of that draw alone is 0.5 points at 10,000 rows.

The released texts can be told apart without reading them: right answers of the QA task are short
and stand in the knowledge, hallucinated ones are sentences. So rules that know nothing of truth are
scored on the same rows and printed beside the judge. A score below its rules shows that the judge
has not found even these; a score near them shows nothing about hallucination. Texts are stripped,
since all official right summaries end with a line break.

Words, knowledge and form are settings (`eval.halueval`). The short words, the default, are ours and
their numbers can't be compared with published ones; neither can those of `two_sided`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from eval.benchmarks.answers import left_out
from eval.benchmarks.benchmark import Benchmark, Measured
from eval.benchmarks.halueval_answers import answer_items, plain_words
from eval.benchmarks.halueval_prompts import (
    FAILED,
    NO,
    QUERY,
    SOURCE,
    YES,
    Ask,
    Candidate,
    candidates,
    one_side,
    read_verdict,
    read_words,
    text_of,
)
from eval.benchmarks.halueval_scores import headline, quantities, summarise
from eval.config import EvalConfig
from plumbrule.data.benchmark_items import ItemFormat
from plumbrule.data.records import BenchmarkItem, Prompt

if TYPE_CHECKING:
    from eval.benchmarks.subject import Subject


class HallucinationJudgement(NamedTuple):
    """What a judge makes of a text.

    score: log p(Yes) - log p(No), nats; None where its word was sampled. verdict: Yes, No or
    `failed`. said: its answer.
    """

    score: float | None
    verdict: str
    said: str


def shown_texts(items: Sequence[BenchmarkItem], config: EvalConfig) -> list[Candidate]:
    """Return the texts that the protocol judges. Raises: DataError: as `candidates`."""
    both = candidates(items)
    return one_side(both, config.seed) if config.halueval.protocol == "official" else both


def asked(items: Sequence[BenchmarkItem], config: EvalConfig) -> list[Prompt]:
    """Return what the judge is asked of each text; nothing where it is asked in plain text.

    Raises: DataError: as `candidates`, or a field that the words need is missing. ConfigError: the
        official words can't be read.
    """
    words = read_words(config.halueval)
    found = []
    for one in shown_texts(items, config):
        source = SOURCE[one.item.task]
        if source is not None and config.halueval.shows_knowledge:
            text_of(one.item, source)
        ask = words.ask(one, None, chat=config.halueval.form != "completion")
        if ask.messages:
            found.append(Prompt(f"{one.item.id}/{one.side}", ask.messages))
    return found


def measure(items: Sequence[BenchmarkItem], condition: str, subject: Subject) -> Measured:
    """Return one row per judged text: `task`, `hallucinated` (truth), `said_yes`, `correct`, and
    what the artefact rules look at: `words`, `characters`, `verbatim`; `score`, log p(Yes) -
    log p(No) in nats, where both sides are judged, `failed` and `verdict` where one word is
    sampled. A row of the data that does not fit is `too_long`: no side of it is judged, and under
    the official protocol it is failed, and so wrong.

    Raises: DataError: as `candidates`. ConfigError: no chat template where one is needed.
    """
    config = subject.config.halueval
    words = read_words(config)
    texts = shown_texts(items, subject.config)
    knowledge = dict(zip([i.id for i in items], knowledge_of(items, subject), strict=True))
    chat = subject.asks_in_chat(config.form, plain=words.name == "official")
    asks = [words.ask(text, knowledge[text.item.id], chat) for text in texts]
    prompts = [encoded(ask, subject) for ask in asks]
    most = subject.policy.spec.context - room(subject, chat)
    # A row is judged on both sides or not at all: pairs need both, and a side that is left out for
    # its length would tilt the comparison towards short texts.
    too_long = {c.item.id for c, p in zip(texts, prompts, strict=True) if len(p) > most}
    kept = [i for i, candidate in enumerate(texts) if candidate.item.id not in too_long]
    tasks = [texts[i].item.task for i in kept]
    ids = [f"{texts[i].item.id}/{texts[i].side}" for i in kept]
    said = judge([prompts[i] for i in kept], tasks, ids, chat, condition, subject)
    rows = [judged(texts[i], one, condition) for i, one in zip(kept, said, strict=True)]
    if config.protocol == "official":
        rows += [unread(one, condition) for one in texts if one.item.id in too_long]
    else:
        rows += [unfit(item, condition) for item in items if item.id in too_long]
    samples = [
        sample(asks[i], row, one, condition)
        for i, row, one in zip(kept[: subject.config.num_samples], rows, said, strict=False)
    ]
    notes = notes_of(subject.config, words.name, chat, texts)
    lost = left_out("halueval", len(too_long), len(items), most)
    if config.protocol == "official":
        told = "they count as failed, since the official accuracy is over all rows"
        lost = [note.replace("they are left out whole", told) for note in lost]
    notes += lost
    if config.generate:
        more, shown, lacking = answers(items, knowledge, words, chat, subject)
        rows, samples, notes = rows + more, samples + shown, notes + lacking
    return Measured(rows, samples, notes)


def knowledge_of(items: Sequence[BenchmarkItem], subject: Subject) -> list[str | None]:
    """Return what a judge is shown beside each item: its own source, retrieved passages, nothing.

    A summary is always judged beside its document. Official words have that in their prompt.
    """
    chosen = subject.config.halueval.chosen_knowledge
    found: list[str | None] = []
    passages: list[tuple[str, ...]] = [()] * len(items)
    if chosen == "retrieved":
        queries = [text_of(item, QUERY[item.task]) for item in items]
        passages = subject.retrieve(queries)
    for item, retrieved in zip(items, passages, strict=True):
        source = SOURCE[item.task]
        if item.task == "halueval_summarization" or (source and chosen == "given"):
            found.append(text_of(item, source or "").strip())
        else:
            found.append("\n".join(retrieved) or None)
    return found


def encoded(ask: Ask, subject: Subject) -> list[int]:
    """Return the token ids of what a judge is asked."""
    if ask.plain is not None:
        return subject.encode_plain(ask.plain)
    return subject.policy.encode(ask.messages, ask.passages)


def room(subject: Subject, chat: bool) -> int:
    """Return how many tokens the judge's word may take."""
    config = subject.config.halueval
    if config.protocol == "official":
        return config.max_new_tokens
    return max(len(subject.encode_word(word, chat)) for word in (YES, NO))


def judge(
    prompts: Sequence[list[int]],
    tasks: Sequence[str],
    ids: Sequence[str],
    chat: bool,
    condition: str,
    subject: Subject,
) -> list[HallucinationJudgement]:
    """Return what the policy says of each text, by the protocol of the settings."""
    what, config = f"halueval {condition}", subject.config.halueval
    if config.protocol == "official":
        texts = subject.say(prompts, ids, what, config.max_new_tokens)
        return [HallucinationJudgement(None, read_verdict(text), text) for text in texts]
    yes, no = (subject.encode_word(word, chat) for word in (YES, NO))
    scores = subject.log_odds(prompts, yes, no, what, families=tasks)
    words = [YES if score > 0 else NO for score in scores]
    return [HallucinationJudgement(s, word, word) for s, word in zip(scores, words, strict=True)]


def judged(
    candidate: Candidate, judgement: HallucinationJudgement, condition: str
) -> dict[str, Any]:
    """Return the row of a candidate."""
    item, text, verdict = candidate.item, candidate.text, judgement.verdict
    knowledge = text_of(item, SOURCE[item.task] or "query")
    right = YES if candidate.hallucinated else NO
    row = {
        "id": f"{item.id}/{candidate.side}",
        "group": item.group or item.id,
        "condition": condition,
        "item": item.id,
        "task": item.task.removeprefix("halueval_"),
        "hallucinated": int(candidate.hallucinated),
        "said_yes": int(verdict == YES),
        "correct": int(verdict == right),
        "too_long": 0,
        "words": len(text.split()),
        "characters": len(text),
        "verbatim": int(plain_words(text) in plain_words(knowledge)),
    }
    if judgement.score is not None:
        return {**row, "score": judgement.score}
    return {**row, "failed": int(verdict == FAILED), "verdict": verdict}


def unread(candidate: Candidate, condition: str) -> dict[str, Any]:
    """Return the row of a candidate that does not fit the context and whose protocol counts all."""
    row = judged(candidate, HallucinationJudgement(None, FAILED, ""), condition)
    return {**row, "too_long": 1}


def unfit(item: BenchmarkItem, condition: str) -> dict[str, Any]:
    """Return the row of an item that does not fit the context."""
    return {
        "id": item.id,
        "group": item.group or item.id,
        "condition": condition,
        "item": item.id,
        "task": item.task.removeprefix("halueval_"),
        "too_long": 1,
    }


def answers(
    items: Sequence[BenchmarkItem],
    knowledge: dict[str, str | None],
    words: Any,
    chat: bool,
    subject: Subject,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    """Return rows, samples and notes of the policy's own answers, judged as any candidate is."""
    found, samples, notes = answer_items(items, [knowledge[i.id] for i in items], subject)
    asks = [words.ask(text, knowledge[text.item.id], chat) for text, _ in found]
    prompts = [encoded(ask, subject) for ask in asks]
    most = subject.policy.spec.context - room(subject, chat)
    kept = [
        i for i, prompt in enumerate(prompts) if len(prompt) <= most and not found[i][1]["empty"]
    ]
    tasks = [found[i][0].item.task for i in kept]
    ids = [found[i][1]["id"] for i in kept]
    said = judge([prompts[i] for i in kept], tasks, ids, chat, "own answers", subject)
    for i, one in zip(kept, said, strict=True):
        found[i][1]["judged_false"] = int(one.verdict == YES)
    return [row for _, row in found], samples[: subject.config.num_samples], notes


def sample(
    ask: Ask, row: dict[str, Any], said: HallucinationJudgement, condition: str
) -> dict[str, Any]:
    """Return the row of `samples.jsonl` that shows a judgement."""
    shown = {
        "id": row["id"],
        "benchmark": "halueval",
        "condition": condition,
        "prompt": ask.messages[-1].content if ask.messages else ask.plain,
        "passages": list(ask.passages),
        "response": said.said,
    }
    if said.score is not None:
        shown["score"] = said.score
    return {**shown, "correct": row["correct"]}


def notes_of(config: EvalConfig, words: str, chat: bool, texts: Sequence[Candidate]) -> list[str]:
    """Return the sentences that say how the judge was asked."""
    protocol, knowledge = config.halueval.protocol, config.halueval.chosen_knowledge
    if words == "short":
        return ["halueval: judged by a short question in our words, not the official instructions."]
    notes = [
        f"halueval: official instructions, protocol `{protocol}`, asked "
        f"{'through the chat template' if chat else 'as plain text'}, knowledge {knowledge}."
    ]
    if any(text.item.task == "halueval_general" for text in texts):
        notes.append("halueval: the general task has no official judge; it is asked in our words.")
    return notes if protocol == "two_sided" else [*notes, seed_note(config)]


def seed_note(config: EvalConfig) -> str:
    """Return the note on which side of a row was shown."""
    return f"halueval: one side of each row was judged, drawn with seed {config.seed}."


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
        "*_answer_*",
        "*_balanced_accuracy",
        "*_pair_accuracy",
        "*_accuracy",
        "*_precision",
        "*_recall",
        "*_f1",
        "*_mcc",
        "*_auroc",
        "*_said_yes",
        "*_failure_rate",
        "*_too_long",
    ),
    headline=headline,
    folder=lambda config: config.halueval.path,
    per_group=lambda config: config.halueval.per_task,
    unit="rows",
    no_shots="its protocol fixes the prompt; the official instructions hold examples of their own",
    signature=lambda config: (
        f"protocol:{config.halueval.protocol}"
        f"|words:{'short' if config.halueval.instructions is None else 'official'}"
        f"|knowledge:{config.halueval.chosen_knowledge}|form:{config.halueval.form}"
    ),
)
