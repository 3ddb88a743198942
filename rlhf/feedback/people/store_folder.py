"""Where questions and judgements lie: `labels/<digest of the questions>/` in the store.

    questions.jsonl            what is asked (`questions.py`)
    people/<annotator>.jsonl   each person's judgements (`judgements.py`)

An artifact's folder says in `labelling.json` which of them it awaits, or was made from.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence
from pathlib import Path

from plumbrule.store.claims import published_path
from plumbrule.store.file_names import LABELLING, QUESTIONS
from plumbrule.store.fingerprint import digest
from plumbrule.store.json_files import write_json
from plumbrule.store.layout import LABELS, store_of, store_root
from rlhf.feedback.people.judgements import AnnotatorJudgements, StaleError, append, read_journal
from rlhf.feedback.people.questions import (
    LabellingQuestion,
    read_questions,
    require_own_ids,
    write_questions,
)


def prepare(questions: Sequence[LabellingQuestion], out: Path) -> Path:
    """Make the folder of `questions` in the store of the artifact `out`; return it.

    Judgements of one of them in another folder are taken over where there is none here:
    more prompts, or other repeats, make a new folder and cost no one their work.
    """
    labels = store_of(out) / LABELS
    folder = labels / digest([q.id for q in questions])
    (folder / "people").mkdir(parents=True, exist_ok=True)
    if not (folder / QUESTIONS).exists():
        write_questions(questions, folder / QUESTIONS)
    asked = {q.id for q in questions}
    for path in sorted(labels.glob("*/people/*.jsonl")):
        mine = folder / "people" / path.name
        known = read_journal(mine)
        for judgement in read_journal(path).values() if path != mine else ():
            if judgement.question in asked - set(known):
                with contextlib.suppress(StaleError):  # judged here this moment
                    append(mine, judgement, seen=0)
    write_json(out / LABELLING, {"labels": f"{LABELS}/{folder.name}"})
    return folder


def command(out: Path) -> str:
    """Return the command that asks the questions of the artifact folder `out`."""
    store = store_of(out)
    words = ["plumbrule", "label", published_path(out).name]
    if Path(store_root()).resolve() != store.resolve():
        words += ["--store", str(store)]
    return shlex.join(words)


def questions_in(folder: Path) -> list[LabellingQuestion]:
    """Return the questions of a labels folder, in asking order.

    Raises: DataError: they are not those that the folder was made for.
    """
    questions = read_questions(folder / QUESTIONS)
    require_own_ids(questions, folder / QUESTIONS)
    return questions


def journal(folder: Path, annotator: str) -> Path:
    """Return an annotator's file; the name must have come from `annotator_name`."""
    return folder / "people" / f"{annotator}.jsonl"


def judgements_in(folder: Path) -> dict[str, AnnotatorJudgements]:
    """Return annotator -> judgements."""
    paths = sorted((folder / "people").glob("*.jsonl"))
    return {path.stem: read_journal(path) for path in paths}
