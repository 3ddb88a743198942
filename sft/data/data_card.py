"""The data card: what a reader of a report must know of the data, counted.

Lengths are in words split at white space, since no tokenizer is known yet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plumbrule.data.records import BenchmarkItem, Demonstration, Document, Preference, Prompt
from plumbrule.data.splits import corpus_text
from sft.data.config import DataConfig
from sft.data.selection import (
    Collected,
    Item,
    LookAlikes,
    count_groups,
    held_out_look_alikes,
    prompt_of,
)


def card(
    config: DataConfig, kept: Collected, train: Sequence[Item], validation: Sequence[Item]
) -> dict[str, Any]:
    """Return the data card of one node, but for the hash of what was written.

    Of a path only the last part is told, so that no record holds a machine's folders.
    """
    dataset, items = config.dataset, [*train, *validation]
    split = "of the source" if kept.own_split else "by conversation start"
    facts: dict[str, Any] = {
        "role": config.role,
        "format": dataset.format,
        "source": None if dataset.path is None else Path(dataset.path).name,
        "rows_read": kept.rows_read,
        "limited_to_max_rows": kept.limited,
        "dropped": dict(kept.dropped.most_common()),
        "duplicates": kept.duplicates,
        "rows_kept": len(items),
        "split": split if config.is_split else "none",
        **({} if config.fold is None else {"fold": config.fold, "folds": config.folds}),
        "rows": len(train),
        "validation_rows": len(validation),
        "length_words": lengths(items),
    }
    if kept.conversions:
        facts["conversions"] = dict(kept.conversions.most_common())
    if kept.unread:
        facts["not_read"] = dict(kept.unread.most_common())
    for name, found in (
        ("look_alikes", kept.look_alikes),
        ("held_out_look_alikes", held_out_look_alikes(train, validation)),
    ):
        if found.number:
            facts[name] = {"rows": found.number, "example": example_of(found)}
    if config.items is not None:
        facts["groups"] = count_groups(items, config.items.group)
    if pairs := [item for item in items if isinstance(item, Preference)]:
        facts["better_is_longer"] = better_is_longer(pairs)
        if against := against_ranks(pairs):
            facts["against_ranks"] = against
    if kept.num_judged_by_several:
        facts["annotators"] = {
            "items_judged_by_several": kept.num_judged_by_several,
            "krippendorff_alpha": None if kept.alpha is None else round(kept.alpha, 4),
            "merge": dataset.annotators,
            "rows_merged": kept.merged,
        }
    return facts


def texts_of(item: Item) -> Mapping[str, Sequence[str]]:
    """Return the texts of a record by the part they play."""
    match item:
        case Prompt():
            return {"prompt": [" ".join(m.content for m in item.messages)]}
        case Demonstration() | Preference():
            answers = item.responses if isinstance(item, Preference) else (item.response,)
            prompt = " ".join(m.content for m in item.messages)
            passages = item.passages
            texts = {"prompt": [prompt], "response": answers}
            if isinstance(item, Demonstration) and item.searches:
                passages = (*passages, *(p for s in item.searches for p in s.passages))
                texts["query"] = [search.query for search in item.searches]
            return {**texts, "passage": passages}
        case Document():
            return {"text": [item.text]}
        case BenchmarkItem():
            return {name: [text] for name, text in item.fields.items() if isinstance(text, str)}
        case _:
            return {"text": [corpus_text(item)]}


def lengths(items: Sequence[Item]) -> dict[str, dict[str, float]]:
    """Return count, total, least, median, mean, 95th percentile and most words of each part."""
    words: dict[str, list[int]] = {}
    for item in items:
        for part, texts in texts_of(item).items():
            words.setdefault(part, []).extend(len(text.split()) for text in texts)
    return {part: _summary(np.array(counts)) for part, counts in words.items() if counts}


def _summary(counts: np.ndarray) -> dict[str, float]:
    return {
        "texts": int(counts.size),
        "total": int(counts.sum()),
        "min": int(counts.min()),
        "median": float(np.median(counts)),
        "mean": round(float(counts.mean()), 2),
        "p95": float(np.percentile(counts, 95)),
        "max": int(counts.max()),
    }


def better_is_longer(preferences: Sequence[Preference]) -> dict[str, float]:
    """Return in what share of ranked pairs the better answer has more words, of those that differ.

    Far from a half, a reward model can earn accuracy by counting words.
    """
    longer = shorter = 0
    for preference in preferences:
        words = [len(response.split()) for response in preference.responses]
        for better, worse in preference.pairs():
            longer += words[better] > words[worse]
            shorter += words[better] < words[worse]
    differ = longer + shorter
    return {"pairs_that_differ": differ, "share": round(longer / differ, 4) if differ else 0.5}


def against_ranks(preferences: Sequence[Preference]) -> dict[str, int]:
    """Return how many rankings their own numbers contradict, by kind; {} where none.

    scores_contrary: a worse answer has the higher score. scores_level: of two answers that are
    ranked apart, both have the same score, and none is contrary. negative_margin: rank 1 is said to
    be worse than rank 2. The ranks are used as they stand.
    """
    found = {"scores_contrary": 0, "scores_level": 0, "negative_margin": 0}
    for preference in preferences:
        found["negative_margin"] += preference.margin is not None and preference.margin < 0
        scores = preference.scores
        if scores is not None:
            gaps = [scores[better] - scores[worse] for better, worse in preference.pairs()]
            found["scores_contrary"] += min(gaps, default=1) < 0
            found["scores_level"] += min(gaps, default=1) == 0
    return {name: number for name, number in found.items() if number}


def example_of(found: LookAlikes) -> list[str]:
    """Return `<id>: <text>` of two rows that look alike, from shortly before they first differ."""
    assert found.example is not None  # the caller has counted some
    texts = [_whole_text(item) for item in found.example]
    pairs = enumerate(zip(*texts, strict=False))
    start = next((i for i, (a, b) in pairs if a != b), min(map(len, texts)))
    ids = [getattr(item, "id", "") for item in found.example]
    return [
        f"{id}: {text[max(0, start - 20) : start + 60]}"
        for id, text in zip(ids, texts, strict=True)
    ]


def _whole_text(item: Item) -> str:
    parts = texts_of(item)
    parts = {"prompt": [text for _, text in prompt_of(item)], **parts}
    return " | ".join(text for texts in parts.values() for text in texts)


def notes(config: DataConfig, facts: Mapping[str, Any]) -> list[str]:
    """Return the sentences that a report must show of this data, plainly."""
    role, read = config.role, facts["rows_read"]
    told = [
        f"{role}: {number} of {read} rows left out: {why}."
        for why, number in facts["dropped"].items()
    ]
    if facts["duplicates"]:
        told.append(f"{role}: {facts['duplicates']} of {read} rows repeated another; removed.")
    told += [
        f"{role}: {name} holds something in {number} of {read} rows and is not read."
        for name, number in facts.get("not_read", {}).items()
    ]
    told += [
        f"{role}: {number} of {read} rows read as {how}."
        for how, number in facts.get("conversions", {}).items()
    ]
    if alike := facts.get("look_alikes"):
        told.append(
            f"{role}: {alike['rows']} of {read} rows differ from another in case, spacing or "
            f"Unicode form alone; kept. Such as {_both(alike)}."
        )
    if alike := facts.get("held_out_look_alikes"):
        told.append(
            f"{role}: {alike['rows']} training prompts differ from a held-out one in case, spacing "
            f"or Unicode form alone; kept. Such as {_both(alike)}."
        )
    for kind, number in facts.get("against_ranks", {}).items():
        told.append(
            f"{role}: {number} of {facts['rows_kept']} rankings {AGAINST[kind]}; the ranks count."
        )
    if several := facts.get("annotators"):
        alpha, how = several["krippendorff_alpha"], several["merge"]
        agree = "not defined" if alpha is None else f"{alpha:.2f}"
        told.append(
            f"{role}: {several['items_judged_by_several']} items judged by several annotators "
            f"(Krippendorff's alpha {agree}); "
            + ("kept as separate rows." if how == "separate" else f"merged by {how}.")
        )
    if facts["limited_to_max_rows"]:
        told.append(f"{role}: only the first {config.dataset.max_rows} rows were used (max_rows).")
    if config.per_group is not None:
        usable = read - sum(facts["dropped"].values())
        told.append(
            f"{role}: {facts['rows']} of {usable} rows used, at most {config.per_group} per group, "
            "spread evenly."
        )
    if (
        config.items is not None
        and not config.items.counted_by
        and config.dataset.format != "atlas"
    ):
        absent = [task for task in config.items.tasks if task not in facts["groups"]]
        if absent:
            told.append(f"{role}: no row of task(s) {', '.join(absent)}; they are not measured.")
    return told


AGAINST = {
    "scores_contrary": "have a higher score on a worse answer",
    "scores_level": "have the same score on a better and a worse answer",
    "negative_margin": "have a negative margin",
}
"""What a note says of each kind of `against_ranks`."""


def _both(alike: Mapping[str, Any]) -> str:
    return " beside ".join(repr(text) for text in alike["example"])


def sample(item: Item) -> dict[str, Any]:
    """Return a row as the report shows it: id, prompt, passages, response, and a ranking's rest."""
    match item:
        case Prompt() | Demonstration() | Preference():
            shown: dict[str, Any] = {
                "id": item.id,
                "prompt": "\n".join(f"{m.role}: {m.content}" for m in item.messages),
            }
            if isinstance(item, Demonstration):
                shown |= {"passages": list(item.passages), "response": item.response}
                if item.searches:
                    shown["searches"] = [dataclasses.asdict(search) for search in item.searches]
            if isinstance(item, Preference):
                shown |= {
                    "passages": list(item.passages),
                    "response": item.responses[item.ranks.index(1)],
                    "responses": list(item.responses),
                    "ranks": list(item.ranks),
                }
            return shown
        case Document():
            return {"id": item.id, "prompt": item.title, "response": item.text}
        case BenchmarkItem():
            return {"id": item.id} | {k: v for k, v in item.fields.items() if k != "id"}
        case _:
            return {"id": "", "prompt": "", "response": corpus_text(item)}
