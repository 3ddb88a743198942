"""Format `nectar`: Nectar's rankings of up to seven answers by GPT-4; rank 1 is the best.

The card of the set had a licence for research only at some revisions: note the one that you take.
Answers that write the user's next turn (`Human:`, `Assistant:`) are left out of their ranking.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from plumbrule.data.readers.published import as_row, holds_out, ranked, register_ranked, split_files
from plumbrule.data.readers.registry import SourceRow
from plumbrule.data.records import Message
from plumbrule.data.row_checks import checked_rows, require_texts
from plumbrule.data.row_files import stem_of
from plumbrule.errors import DataError

_TURN = re.compile(r"\n\n(Human|Assistant):")
_SPEAKER = re.compile(r"\b(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}
DONE = ("nectar: an answer that writes another turn is left out of its ranking",)


def read_nectar(path: Path) -> Iterator[SourceRow]:
    """Yield a ranking per row.

    Raises: DataError: no table, or a row without prompt and answers with rank.
    """
    for file, held_out in split_files(path):
        for number, row in checked_rows(file, _check):
            messages = _messages(row["prompt"])
            if messages is None:
                yield SourceRow(None, "the turns don't alternate", held_out)
                continue
            kept = [a for a in row["answers"] if not _SPEAKER.search(a["answer"])]
            done = DONE if len(kept) < len(row["answers"]) else ()
            texts, ranks = [a["answer"] for a in kept], [-float(a["rank"]) for a in kept]
            found = ranked(f"{stem_of(file)}:{number}", messages, texts, ranks)
            yield as_row(found, held_out, conversions=done)


def _check(row: Mapping[str, Any]) -> None:
    require_texts(row, "prompt")
    answers = row.get("answers")
    fits = isinstance(answers, list) and all(
        isinstance(a, Mapping)
        and isinstance(a.get("answer"), str)
        and type(a.get("rank")) in (int, float)
        for a in answers
    )
    if not fits:
        raise DataError(
            f"answers (={answers!r:.40}) must be objects of answer and rank, 1 the best."
        )


def _messages(prompt: str) -> tuple[Message, ...] | None:
    """Return the turns before `Assistant:` at the end; None: they don't alternate."""
    opening, *parts = _TURN.split(prompt)
    speakers, texts = parts[::2], [text.strip() for text in parts[1::2]]
    if speakers and speakers[-1] == "Assistant" and not texts[-1]:
        speakers, texts = speakers[:-1], texts[:-1]
    expected = ["Human", "Assistant"] * (len(speakers) // 2) + ["Human"]
    if opening.strip() or speakers != expected or not all(texts):
        return None
    return tuple(Message(_ROLES[s], t) for s, t in zip(speakers, texts, strict=True))


register_ranked(
    "nectar",
    read_nectar,
    "prompt (Human: and Assistant: turns), answers: answer and rank (1 best)",
    {
        "train.jsonl": '{"prompt": "\\n\\nHuman: Hi\\n\\nAssistant: ", "answers": [{"answer": '
        '"Hello.", "rank": 1.0}, {"answer": "What?", "rank": 2.0}]}\n'
    },
    own_split=holds_out,
)
