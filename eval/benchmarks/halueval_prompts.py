"""What a judge of HaluEval is shown, and how its words are read.

Two sets of words. `ShortWords` are a question of ours, for a small model that is shown the item's
knowledge as a passage. `OfficialWords` are the instruction files and system messages of the paper's
repository, read byte for byte from a folder that the user names; a model that was made for chats
gets them through its template, a base model as plain text that ends where the judgement begins. The
official judge is not shown the item's knowledge; a line `#Knowledge#:` of ours before the question
shows it where the setting asks for it. The general task has no official judge, so it is asked in
our words in any case.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from eval.config import HaluEvalConfig
from plumbrule.data.records import BenchmarkItem, Message
from plumbrule.errors import ConfigError, DataError
from plumbrule.lm.randomness import generator

SOURCE = {
    "halueval_qa": "knowledge",
    "halueval_dialogue": "knowledge",
    "halueval_summarization": "document",
    "halueval_general": None,
}
"""Task -> the field whose text the candidate should be faithful to."""
QUERY = {
    "halueval_qa": "question",
    "halueval_dialogue": "history",
    "halueval_summarization": "document",
    "halueval_general": "query",
}
"""Task -> what the candidate answers, continues or sums up."""
OFFICIAL_LINES = {
    "halueval_qa": ("#Question#: ", "#Answer#: "),
    "halueval_dialogue": ("#Dialogue History#: ", "#Response#: "),
    "halueval_summarization": ("#Document#: ", "#Summary#: "),
}
"""Task -> what stands before its query and before the candidate, in the official script."""
SYSTEM_MESSAGES = "system_messages.json"
YES, NO, FAILED = "Yes", "No", "failed"


class Candidate(NamedTuple):
    """One text to judge: of which item, which side of it, and the truth."""

    item: BenchmarkItem
    side: str
    text: str
    hallucinated: bool


class Ask(NamedTuple):
    """A judge's prompt: a chat and passages for the retrieval template; or plain text, if any."""

    messages: tuple[Message, ...]
    passages: tuple[str, ...] = ()
    plain: str | None = None


class Words(Protocol):
    """How a judge is asked."""

    name: str

    def ask(self, candidate: Candidate, knowledge: str | None, chat: bool) -> Ask:
        """Return what the judge is shown. Args: chat: whether through a chat template.

        Raises: DataError: the item lacks a field of its task.
        """
        ...


def text_of(item: BenchmarkItem, field: str) -> str:
    """Return a field of an item as text. Raises: DataError: the item lacks it."""
    if field not in item.fields:
        raise DataError(
            f"item {item.id!r} of {item.task} must have the field {field}; add it, or remove the "
            "item."
        )
    return str(item.fields[field])


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


def one_side(both: Sequence[Candidate], seed: int) -> list[Candidate]:
    """Return one side of each row, drawn with even chances from (seed, item id) alone.

    As the official script, which draws without a seed: `random() > 0.5` shows the hallucinated one.
    """
    kept = []
    for one in both:
        shown = {True: "hallucinated", False: "right"}
        drawn = generator("halueval side", seed, one.item.id).random() > 0.5
        if one.side in ("response", shown[bool(drawn)]):
            kept.append(one)
    return kept


class ShortWords:
    """The short question, with the knowledge as a passage where there is any."""

    name = "short"

    def ask(self, candidate: Candidate, knowledge: str | None, chat: bool) -> Ask:
        """Return the question as a chat of one turn, or as plain text behind the knowledge."""
        turn = short_turn(candidate)
        if chat:
            return Ask((Message("user", turn),), (knowledge,) if knowledge else ())
        return Ask((), (), "\n".join([*([knowledge] if knowledge else []), turn]))


def short_turn(candidate: Candidate) -> str:
    """Return the short question about a candidate.

    Raises: DataError: the item lacks a field of its task.
    """
    item, text = candidate.item, candidate.text
    match item.task:
        case "halueval_qa":
            question = text_of(item, "question")
            return f"Question: {question}\nAnswer: {text}\nIs it false? Yes or No."
        case "halueval_dialogue":
            return f"{text_of(item, 'history')}\nReply: {text}\nIs it false? Yes or No."
        case "halueval_summarization":
            return f"Summary: {text}\nDoes the summary say what the text does not? Yes or No."
        case _:
            query = text_of(item, "query")
            return f"{query}\nReply: {text}\nDoes the reply state falsehoods? Yes or No."


@dataclass(frozen=True)
class OfficialWords:
    """The instructions and system messages of the paper's repository, by task."""

    instructions: Mapping[str, str]
    systems: Mapping[str, str]
    name = "official"

    def ask(self, candidate: Candidate, knowledge: str | None, chat: bool) -> Ask:
        """Return the official prompt; of the general task, the short question.

        Raises: ConfigError: the folder has no instruction or system message for the task.
            DataError: the item lacks a field of its task.
        """
        item = candidate.item
        if item.task not in OFFICIAL_LINES:
            return ShortWords().ask(candidate, knowledge, chat)
        task = item.task.removeprefix("halueval_")
        for what, given in (("instruction", self.instructions), ("system message", self.systems)):
            if task not in given:
                raise ConfigError(
                    f"eval.halueval.instructions must name a folder with the {what} of task "
                    f"{task}, which the data hold; add it, or leave the task out."
                )
        of_query, of_text = OFFICIAL_LINES[item.task]
        lines = [f"{of_query}{text_of(item, QUERY[item.task])}", f"{of_text}{candidate.text}"]
        if knowledge and item.task != "halueval_summarization":
            lines.insert(0, f"#Knowledge#: {knowledge}")
        body = "\n".join([*lines, "#Your Judgement#:"])
        text = f"{self.instructions[task]}\n\n{body}"
        if chat:
            return Ask((Message("system", self.systems[task]), Message("user", text + " ")))
        return Ask((), (), text)


def read_words(config: HaluEvalConfig) -> Words:
    """Return the words that the settings choose.

    Raises: ConfigError: no instruction in the folder, or a file that can't be read.
    """
    if config.instructions is None:
        return ShortWords()
    folder = Path(config.instructions)
    if (folder / "evaluation").is_dir():
        folder = folder / "evaluation"
    files = {
        task.removeprefix("halueval_"): folder
        / task.removeprefix("halueval_")
        / f"{task.removeprefix('halueval_')}_evaluation_instruction.txt"
        for task in OFFICIAL_LINES
    }
    found = {task: path for task, path in files.items() if path.is_file()}
    systems = folder / SYSTEM_MESSAGES
    try:
        if not found or not systems.is_file():
            lacking = SYSTEM_MESSAGES if found else next(iter(files.values())).relative_to(folder)
            raise ValueError(f"it has no {lacking}")
        instructions = {task: path.read_bytes().decode("utf-8") for task, path in found.items()}
        messages = json.loads(systems.read_bytes().decode("utf-8"))
        if not isinstance(messages, dict) or not all(isinstance(m, str) for m in messages.values()):
            raise ValueError(f"{SYSTEM_MESSAGES} is no object of texts")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"eval.halueval.instructions (={config.instructions}) must be a folder with "
            f"<task>/<task>_evaluation_instruction.txt and {SYSTEM_MESSAGES}, an object of task to "
            f"text ({error}); take the folder evaluation/ of the official repository and write "
            "the system messages of its evaluate.py into that file."
        ) from None
    return OfficialWords(instructions, messages)


def read_verdict(text: str) -> str:
    """Return Yes, No, or `failed` for a text that holds both words or neither.

    The official parser: full stops are removed and the words searched as they are written, so that
    "Not" says No and "yes" says nothing.
    """
    text = text.replace(".", "")
    yes, no = YES in text, NO in text
    return FAILED if yes == no else YES if yes else NO
