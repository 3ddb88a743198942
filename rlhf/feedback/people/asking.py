"""Whose judgements the feedback stage goes on with: people's, or those in a file.

Only the judgements of those who have judged every question count: so what somebody tried out on
three questions changes no ranking.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from plumbrule.errors import DataError, NeedsInput
from rlhf.feedback.people import store_folder
from rlhf.feedback.people.judgements import AnnotatorJudgements, check_file, finished, read_file
from rlhf.feedback.people.questions import LabellingQuestion


def of_people(
    questions: Sequence[LabellingQuestion], annotators: int, out: Path
) -> dict[str, AnnotatorJudgements]:
    """Return annotator -> judgements from the store that the artifact folder `out` lies in.

    The questions are written there first.
    Raises: NeedsInput: fewer than `annotators` people have judged all; it holds the command to run.
    """
    labels = store_folder.prepare(questions, out)
    said = store_folder.judgements_in(labels)
    done = finished(said, questions)
    if len(done) < annotators:
        so_far = ", ".join(f"{name} {len(own)}" for name, own in sorted(said.items()))
        people = "1 person" if annotators == 1 else f"{annotators} people"
        raise NeedsInput(
            labels,
            f"{people} must judge {len(questions)} questions (so far: {so_far or 'nobody'}); "
            f"run `{store_folder.command(out)}`.",
        )
    return {name: said[name] for name in done}


def of_file(
    questions: Sequence[LabellingQuestion], annotators: int, path: Path
) -> dict[str, AnnotatorJudgements]:
    """Return annotator -> judgements of the file at `path`.

    Raises: DataError: a row that breaks a rule or fits no question, with its number, or fewer than
    `annotators` judged all.
    """
    said = read_file(path)
    check_file(path, {q.id: q for q in questions})
    done = finished(said, questions)
    if len(done) < annotators:
        missing = {n: [q.id for q in questions if q.id not in own] for n, own in said.items()}
        so_far = [f"{n} lacks {len(ids)}, as {ids[0]}" for n, ids in missing.items() if ids]
        raise DataError(
            f"{annotators} annotator(s) must judge all {len(questions)} questions, those asked "
            f"twice included ({'; '.join(so_far) or 'nobody lacks any'}); complete the file, or "
            "lower feedback.annotators or feedback.repeats.",
            path,
        )
    return {name: said[name] for name in done}
