"""Format `shp`: Stanford Human Preferences (arXiv:2110.08420), pairs of comments to a post.

A post has many rows, and a popular one would outweigh hundreds of others. All comments of a post
become one ranking by their votes, at most `MOST_COMMENTS` of them, in the order of the file. The
set leaves out pairs whose better comment was written first, since it was seen by more people; a
ranking has such pairs again where their comments occur in other rows. `labels` must say what the
votes say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from plumbrule.data.readers.published import as_row, holds_out, ranked, register_ranked, split_files
from plumbrule.data.readers.registry import SourceRow
from plumbrule.data.records import Message
from plumbrule.data.row_checks import checked_rows, require_number, require_one_of, require_texts
from plumbrule.errors import DataError

MOST_COMMENTS = 6
DONE = ("shp: the comments of a post are one ranking by votes",)


def read_shp(path: Path) -> Iterator[SourceRow]:
    """Yield a ranking per post; rows of a post must stand in one file.

    Raises: DataError: no table, or a row without post_id, history, comments, scores and labels.
    """
    for file, held_out in split_files(path):
        posts: dict[str, tuple[str, dict[str, float]]] = {}
        for _, row in checked_rows(file, _check):
            _, comments = posts.setdefault(row["post_id"], (row["history"], {}))
            for side in "AB":
                text = row[f"human_ref_{side}"].strip()
                if text in comments or len(comments) < MOST_COMMENTS:
                    comments.setdefault(text, float(row[f"score_{side}"]))
        for id, (history, comments) in posts.items():
            messages = (Message("user", history.strip()),)
            found = ranked(id, messages, list(comments), list(comments.values()))
            yield as_row(found, held_out, conversions=DONE)


def _check(row: Mapping[str, Any]) -> None:
    require_texts(row, "post_id", "history", "human_ref_A", "human_ref_B")
    require_number(row, "score_A")
    require_number(row, "score_B")
    require_one_of(row, "labels", 0, 1)
    if row["score_A"] != row["score_B"] and (row["score_A"] > row["score_B"]) != row["labels"]:
        raise DataError(
            f"labels (={row['labels']}) must be 1 where score_A (={row['score_A']}) is above "
            f"score_B (={row['score_B']}), else 0."
        )


register_ranked(
    "shp",
    read_shp,
    "post_id, history, human_ref_A, human_ref_B, score_A, score_B, labels (1: A is better)",
    {
        "train.json": '{"post_id": "p", "history": "Why?", "human_ref_A": "So.", '
        '"human_ref_B": "No.", "score_A": 9, "score_B": 2, "labels": 1}\n'
    },
    own_split=holds_out,
)
