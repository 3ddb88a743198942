r"""A data format of your own: questions and answers in a text file, `Q: ` and `A: ` line by line.

Fine-tune a model on such a file:
    plumbrule --plugin docs/examples/reader.py experiment=own run.only=sft \
        dataset.format=qa dataset.path=<file> model=<folder>

`python docs/examples/reader.py` reads two questions.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from plumbrule.data.readers import SourceRow, register
from plumbrule.data.records import Demonstration, Message
from plumbrule.data.roles import to_role
from plumbrule.errors import DataError


def read_questions(path: Path) -> Iterator[SourceRow]:
    """Yield a demonstration for each question that has an answer, and a reason for each other one.

    The data stage counts the reasons in the data card. Raises: DataError: a line that is neither.
    """
    question = ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("Q: "):
            if question:
                yield SourceRow(None, dropped="question without an answer")
            question = line.removeprefix("Q: ")
        elif line.startswith("A: ") and question:
            chat = (Message("user", question),)
            yield SourceRow(Demonstration(f"line {number}", chat, line.removeprefix("A: ")))
            question = ""
        elif line.strip():
            raise DataError("a line must begin with Q: or answer one with A:.", path, number, line)
    if question:
        yield SourceRow(None, dropped="question without an answer")


def read_role(path: Path, role: str) -> Iterator[SourceRow]:
    """Yield what a role needs of each question: a prompt needs no answer, corpus is the chat."""
    for row in read_questions(path):
        record = row.record
        yield (
            row._replace(record=to_role(record, role)) if isinstance(record, Demonstration) else row
        )


for role in ("demonstrations", "prompts", "corpus"):
    register("qa", role, partial(read_role, role=role))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "questions.txt"
        file.write_text("Q: Who wrote it?\nA: Ada.\nQ: And when?\n", encoding="utf-8")
        for row in read_questions(file):
            print(row.record or row.dropped)
