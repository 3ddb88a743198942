"""Format `hh_rlhf`: Anthropic's helpful and harmless pairs (arXiv:2204.05862).

A published set, whose bad rows nobody here can mend: they are left out and counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from plumbrule.data.json_lines import read_rows
from plumbrule.data.readers.registry import Format, SourceRow, register_format
from plumbrule.data.records import Message, Preference
from plumbrule.data.roles import to_role
from plumbrule.data.row_files import stem_of
from plumbrule.data.splits import first_turn
from plumbrule.errors import DataError
from plumbrule.store.source_files import files_under

_TURN = re.compile(r"\n\n(Human|Assistant):")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}


def read_hh_rlhf(path: Path, role: str) -> Iterator[SourceRow]:
    """Yield the rows of Anthropic's helpful and harmless pairs (arXiv:2204.05862).

    Every role reads the same pairs, so a row left out of one is left out of all. Where both train
    and test files are there, the test files are held out, and a training row whose first turn is
    that of a held-out one, letter for letter, is left out; else the stage splits.
    `red-team-attempts` holds no pairs and is passed over.
    Raises: DataError: no files, or a row without the texts chosen and rejected.
    """
    files = _hh_files(path)
    own_split = _holds_out(path)
    starts = set()
    if own_split:
        held_out = [f for f in files if stem_of(f[0]) == "test"]
        pairs = (parse_pair(row, id) for row, id in _hh_rows(held_out))
        starts = {first_turn(pair.messages) for pair in pairs if isinstance(pair, Preference)}
    for file, name in files:
        side = (stem_of(file) == "test") if own_split else None
        for row, id in _hh_rows([(file, name)]):
            pair = parse_pair(row, id)
            if isinstance(pair, str):
                yield SourceRow(None, pair, side)
            elif side is False and first_turn(pair.messages) in starts:
                yield SourceRow(None, "the conversation is also in the held-out file", side)
            else:
                yield SourceRow(to_role(pair, role), held_out=side)


def _holds_out(path: Path) -> bool:
    return {stem_of(file) for file, _ in _hh_files(path)} >= {"train", "test"}


def _hh_files(path: Path) -> list[tuple[Path, str]]:
    """Return (file, name inside `path` without endings) of every file of pairs."""
    if path.is_file():
        return [(path, stem_of(path))]
    files = [
        (file, str(file.relative_to(path).parent / stem_of(file)))
        for file in files_under(path)
        if file.name.endswith((".jsonl", ".jsonl.gz")) and "red-team" not in file.parent.name
    ]
    if not files:
        raise DataError("no *.jsonl.gz or *.jsonl below this folder; check dataset.path.", path)
    return files


def _hh_rows(files: list[tuple[Path, str]]) -> Iterator[tuple[Mapping[str, str], str]]:
    for file, name in files:
        for number, row in read_rows(file):
            if not all(isinstance(row.get(side), str) for side in ("chosen", "rejected")):
                text = json.dumps(row, ensure_ascii=False)
                raise DataError(
                    "a row must hold the texts chosen and rejected.", file, number, text
                )
            yield row, f"{name}:{number}"


def parse_pair(row: Mapping[str, str], id: str) -> Preference | str:
    """Return the preference that two whole dialogues hold, or why they hold none."""
    before, _, chosen = row["chosen"].rpartition("\n\nAssistant:")
    other_before, _, rejected = row["rejected"].rpartition("\n\nAssistant:")
    chosen, rejected = chosen.strip(), rejected.strip()
    if before != other_before:
        return "the dialogues differ before the last answer"
    if not chosen or not rejected:
        return "an answer is empty"
    if chosen == rejected:
        return "the answers are equal"
    opening, *parts = _TURN.split(before)
    speakers, texts = parts[::2], [text.strip() for text in parts[1::2]]
    expected = ["Human", "Assistant"] * (len(speakers) // 2) + ["Human"]
    if opening.strip() or speakers != expected:
        return "the turns don't alternate"
    if not all(texts):
        return "an earlier turn is empty"
    messages = tuple(Message(_SPEAKERS[s], t) for s, t in zip(speakers, texts, strict=True))
    return Preference(id, messages, (chosen, rejected), (1, 2))


ROLES = ("corpus", "demonstrations", "preferences", "prompts")
_EXAMPLE = (
    '{"chosen": "\\n\\nHuman: Hi\\n\\nAssistant: Hello.", '
    '"rejected": "\\n\\nHuman: Hi\\n\\nAssistant: What?"}\n'
)

register_format(
    Format(
        name="hh_rlhf",
        readers={role: partial(read_hh_rlhf, role=role) for role in ROLES},
        columns="chosen and rejected: whole dialogues as text",
        examples={role: {"train.jsonl": _EXAMPLE} for role in ROLES},
        own_split=_holds_out,
        unread_settings=("annotators",),
    )
)
