"""Answered examples in front of a question (few-shot prompting): which, and how they are shown.

Examples come from a train split that the user names (`eval.<benchmark>.shots`), never from the rows
that are evaluated: one whose question is asked as well is passed over, and so is a repeat. All
questions of a benchmark are shown the same ones, in the same order: those of the train split with
the lowest digests of (seed, benchmark, id), so the draw depends on no other row and on no order of
the file. Where the train split names subjects (`meta.subject`, as MMLU's), a question is shown
examples of its own.

In a chat an example is a turn of the user and one of the assistant; as plain text
(`eval.choice_prompt=plain`) it stands before the question in the same words. No torch here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from plumbrule.data.records import BenchmarkItem, Message
from plumbrule.errors import DataError

SHOTS = "_shots"
"""How the input of eval ends that holds a benchmark's train split."""
SUBJECT = "subject"
"""Of an item's meta."""


class Shot(NamedTuple):
    """An answered question. passages: shown with it."""

    question: str
    answer: str
    passages: tuple[str, ...] = ()


ExampleOf = Callable[[BenchmarkItem], Shot]


class Shots(NamedTuple):
    """The examples of one benchmark. by_subject: subject -> (id, example) in the order shown; ""
    alone where the train split names none, and beside others for items without one.
    num_passed_over: rows that are evaluated as well.
    """

    by_subject: Mapping[str, Sequence[tuple[str, Shot]]]
    num_passed_over: int = 0

    def of(self, item: BenchmarkItem) -> list[Shot]:
        """Return the examples that an item's question is shown."""
        subject = "" if list(self.by_subject) == [""] else subject_of(item)
        return [example for _, example in self.by_subject[subject]]

    def ids(self) -> list[str] | dict[str, list[str]]:
        """Return the ids of the examples, by subject where there are several sets."""
        found = {s: [id for id, _ in drawn] for s, drawn in self.by_subject.items()}
        return found[""] if list(found) == [""] else found


NONE = Shots({"": ()})
"""A benchmark that is asked without examples."""


def subject_of(item: BenchmarkItem) -> str:
    """Return an item's subject; "" of one that has none."""
    return str(item.meta.get(SUBJECT, ""))


def draw(
    benchmark: str,
    train: Sequence[BenchmarkItem],
    evaluated: Sequence[BenchmarkItem],
    number: int,
    seed: int,
    example_of: ExampleOf,
) -> Shots:
    """Return `number` examples of a train split, of each subject that is evaluated where it names
    subjects.

    Raises: DataError: the train split has fewer that are not evaluated as well, or a row that is no
        item of the benchmark.
    """
    asked = {_plain(example_of(item)) for item in evaluated}
    examples = [(item, example_of(item)) for item in train]
    first = {_plain(example): item.id for item, example in reversed(examples)}
    free = [
        (item, example)
        for item, example in examples
        if _plain(example) not in asked and first[_plain(example)] == item.id  # repeats teach less
    ]
    named = any(subject_of(item) for item, _ in free)
    subjects = dict.fromkeys(subject_of(item) for item in evaluated) if named else {"": None}
    found = {}
    for subject in subjects:
        own = [(i.id, e) for i, e in free if not named or subject_of(i) == subject]
        if len(own) < number:
            of = f" of subject {subject!r}" if named else ""
            raise DataError(
                f"eval.num_shots (={number} examples) must be at most the {len(own)} rows{of} of "
                f"eval.{benchmark}.shots that differ and are not evaluated (of {len(examples)}); "
                "lower it, or name a larger train split."
            )
        found[subject] = sorted(own, key=lambda one: _rank(seed, benchmark, one[0]))[:number]
    return Shots(found, sum(_plain(example) in asked for _, example in examples))


def _plain(example: Shot) -> tuple[str, ...]:
    """Return what makes two rows one question: its words, and the passages beside it."""
    return (" ".join(example.question.split()).casefold(), *example.passages)


def _rank(seed: int, benchmark: str, id: str) -> tuple[bytes, str]:
    text = f"{seed}\n{benchmark}\n{id}"
    return hashlib.blake2b(text.encode(), digest_size=16).digest(), id


def as_turns(
    examples: Sequence[Shot],
    with_passages: Callable[[Sequence[Message], Sequence[str]], Sequence[Message]],
) -> tuple[Message, ...]:
    """Return examples as turns of user and assistant.

    Args: with_passages: puts passages into the last turn of a chat, as the policy is shown them.
    """
    turns: list[Message] = []
    for one in examples:
        turns += with_passages((Message("user", one.question),), one.passages)
        turns.append(Message("assistant", one.answer))
    return tuple(turns)


def as_text(examples: Sequence[Shot]) -> str:
    """Return examples as plain text that the question follows; "" of none."""
    return "".join(f"Q: {one.question}\nA: {one.answer}\n\n" for one in examples)


def facts(shots: Shots, data: str, number: int) -> dict[str, Any]:
    """Return what stands beside each number of a benchmark: its examples.

    Args: data: fingerprint of the train split.
    """
    return {"shots": {"number": number, "ids": shots.ids(), "data": data}}


def notes(name: str, shots: Shots) -> list[str]:
    """Return the sentence on rows of the train split that are evaluated too, or none."""
    if not shots.num_passed_over:
        return []
    return [
        f"{name}: {shots.num_passed_over} rows of the train split are evaluated as well and are "
        "never shown as examples."
    ]
