"""Format `tldr`: comparisons of summaries from OpenAI's summarize-from-feedback (arXiv:2009.01325).

Several workers may judge one pair: each is an annotator, and `dataset.annotators` merges them. A
row's `split` is kept: train trains, valid1 and valid2 are held out. Rows of the CNN/DM batches have
an `article` in place of a post and a subreddit; both are read. A worker's second word on a pair is
left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from plumbrule.data.readers.published import as_row, named_rows, ranked, register_ranked
from plumbrule.data.readers.registry import SourceRow
from plumbrule.data.records import Message
from plumbrule.data.row_checks import require_one_of, require_texts
from plumbrule.errors import DataError

SPLITS = ("train", "valid1", "valid2")
AGAIN = "the worker judged this pair before"


def read_tldr(path: Path) -> Iterator[SourceRow]:
    """Yield a pair per row and worker.

    Raises: DataError: no table, or a row without info, two summaries, choice, worker and split.
    """
    judged: set[Any] = set()
    for row, id in named_rows(path, _check):
        held_out = row["split"] != "train"
        texts = [summary["text"].strip() for summary in row["summaries"]]
        prompt = _prompt(row["info"])
        key = (prompt, frozenset(texts), row["worker"])
        if key in judged:
            yield SourceRow(None, AGAIN, held_out)
            continue
        judged.add(key)
        values = [float(place == row["choice"]) for place in (0, 1)]
        messages = (Message("user", prompt),)
        yield as_row(ranked(id, messages, texts, values, annotator=row["worker"]), held_out)


def _check(row: Mapping[str, Any]) -> None:
    info, summaries = row.get("info"), row.get("summaries")
    if not isinstance(info, Mapping) or not _text(info):
        raise DataError(f"info (={info!r:.40}) must hold a post or an article.")
    fits = isinstance(summaries, list) and len(summaries) == 2
    if not fits or not all(
        isinstance(s, Mapping) and isinstance(s.get("text"), str) for s in summaries
    ):
        raise DataError(f"summaries (={summaries!r:.40}) must be two objects with text.")
    require_one_of(row, "choice", 0, 1)
    require_one_of(row, "split", *SPLITS)
    require_texts(row, "worker")


def _text(info: Mapping[str, Any]) -> str:
    return next((str(info[n]).strip() for n in ("post", "article") if info.get(n)), "")


def _prompt(info: Mapping[str, Any]) -> str:
    """Return a post under its subreddit and title, or an article under its title."""
    lines = [
        f"{name.upper()}: {prefix}{info[name]}"
        for name, prefix in (("subreddit", "r/"), ("title", ""))
        if info.get(name)
    ]
    kind = "POST" if info.get("post") else "ARTICLE"
    return "\n\n".join([*lines, f"{kind}: {_text(info)}", "TL;DR:"])


register_ranked(
    "tldr",
    read_tldr,
    "info (post or article, title, subreddit), summaries (two), choice, worker, split",
    {
        "batch3.json": '{"info": {"post": "It rained.", "title": "Rain", "subreddit": "news"}, '
        '"summaries": [{"text": " Rain."}, {"text": " Sun."}], "choice": 0, "worker": "w", '
        '"split": "train"}\n'
    },
)
