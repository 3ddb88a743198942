"""Which rows of a source are kept: duplicates go, limits hold, splits never leak.

What is the same is decided by the exact text. Rows that are the same only once case, spacing and
Unicode form are evened out (`TRUE` and `true`, `10²` and `102`) are kept, and one such pair is
shown, since only a reader can tell whether they mean the same.

Pure functions over records; `sft/data/stage.py` reads, writes and counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any, NamedTuple

from plumbrule.data.annotators import judged_by_several, krippendorff_alpha, merge
from plumbrule.data.readers import SourceRow
from plumbrule.data.records import (
    BenchmarkItem,
    Demonstration,
    Document,
    Preference,
    Prompt,
    Record,
)
from plumbrule.data.splits import (
    corpus_text,
    exact,
    fold_of,
    in_held_out_share,
    normalise,
    prompt_of,
    start_of,
)
from plumbrule.errors import DataError

Item = Record | dict[str, Any]


@dataclass
class LookAlikes:
    """Rows that differ from an earlier one in case, spacing or Unicode form alone.

    number: of such rows. example: the first of them after the one that it looks like.
    """

    number: int = 0
    example: tuple[Item, Item] | None = None

    def add(self, earlier: Item, later: Item) -> None:
        """Count one more."""
        self.number += 1
        self.example = self.example or (earlier, later)


@dataclass
class Collected:
    """Rows that were kept, and what became of the others.

    own_split: the source brings its own held-out rows, which then are `validation`. limited:
    `max_rows` cut it short. merged: rankings that went into that of another annotator of the same
    item. num_judged_by_several: such items, and alpha: how far their annotators agree. unread:
    column or field -> rows in which it holds something that no record keeps. conversions: what was
    done to make records -> rows. look_alikes: among the kept rows of one side.
    """

    train: list[Item] = field(default_factory=list)
    validation: list[Item] = field(default_factory=list)
    rows_read: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    limited: bool = False
    own_split: bool = False
    merged: int = 0
    num_judged_by_several: int = 0
    alpha: float | None = None
    unread: Counter[str] = field(default_factory=Counter)
    conversions: Counter[str] = field(default_factory=Counter)
    look_alikes: LookAlikes = field(default_factory=LookAlikes)


def collect(rows: Iterable[SourceRow], max_rows: int | None, unique: bool) -> Collected:
    """Return the rows to keep: the first `max_rows` good ones, without repeats if `unique`.

    Where the source brings its own split, the limit and the search for repeats hold for each side
    on its own; a repeat across sides is a leak. Otherwise reading stops at the limit.
    """
    kept = Collected()
    seen: set[tuple[bool, Any]] = set()
    spelled: dict[tuple[bool, Any], Item] = {}
    for row in rows:
        side = kept.validation if row.held_out else kept.train
        if max_rows is not None and len(side) >= max_rows:
            kept.limited = True
            if row.held_out is None:
                break
            continue
        kept.rows_read += 1
        kept.own_split |= row.held_out is not None
        if row.record is None:
            kept.dropped[row.dropped] += 1
            continue
        kept.unread.update(row.unread)
        kept.conversions.update(row.conversions)
        if unique:
            key = (bool(row.held_out), identity(row.record))
            if key in seen:
                kept.duplicates += 1
                continue
            seen.add(key)
            alike = (bool(row.held_out), identity(row.record, normalise))
            earlier = spelled.setdefault(alike, row.record)
            if earlier is not row.record:
                kept.look_alikes.add(earlier, row.record)
        side.append(row.record)
    return kept


def merge_rankings(kept: Collected, how: str, ties: str = "drop") -> Collected:
    """Return `kept` with one ranking per item, as `how` says, and ties settled as `ties` says.

    how: majority, soft or separate (`plumbrule/data/annotators.py`). Rows that are no preferences
    stay as they are. Each side of a source's own split is settled on its own. An item whose answers
    all tie, perhaps only once its annotators are merged, orders no pair: `settle_ties` says what
    becomes of it, and it is counted.

    Raises: DataError: an annotator ranks an item twice.
    """
    if not any(isinstance(item, Preference) for item in (*kept.train, *kept.validation)):
        return kept
    dropped, conversions, merged = Counter(kept.dropped), Counter(kept.conversions), 0
    sides: list[list[Item]] = []
    several: list[list[Preference]] = []
    for side in (kept.train, kept.validation):
        rankings = [item for item in side if isinstance(item, Preference)]
        several += judged_by_several(rankings)
        settled = rankings if how == "separate" else merge(rankings, how)
        merged += len(rankings) - len(settled)
        sides.append(settle_ties(settled, ties, dropped, conversions))
    return replace(
        kept,
        train=sides[0],
        validation=sides[1],
        dropped=dropped,
        conversions=conversions,
        merged=merged,
        num_judged_by_several=len(several),
        alpha=krippendorff_alpha([ranking for labels in several for ranking in labels]),
    )


TIED = "no ordered pair: all answers tie"
TIES = {
    "drop": TIED,
    "half": "a tie, as a ranking in each order",
    "keep": "a tie, kept as it is",
}
"""What may become of a ranking in which all answers tie -> what the data card calls it."""


def settle_ties(
    rankings: Sequence[Preference], ties: str, dropped: Counter[str], conversions: Counter[str]
) -> list[Item]:
    """Return the rankings with those that order no pair left out, kept or halved, and count them.

    half: two rankings, in the given order and in its reverse, so that each answer wins once against
    every other. keep: as they are, for losses that read ties (`rm.ties`).
    """
    found: list[Item] = []
    for one in rankings:
        if len(set(one.ranks)) > 1:
            found.append(one)
            continue
        (dropped if ties == "drop" else conversions)[TIES[ties]] += 1
        if ties == "keep":
            found.append(one)
        elif ties == "half":
            order = tuple(range(1, len(one.ranks) + 1))
            found.append(replace(one, ranks=order))
            found.append(replace(one, id=f"{one.id}/reversed", ranks=order[::-1]))
    return found


def identity(item: Item, spelling: Callable[[str], str] = exact) -> tuple[Any, ...]:
    """Return what two records share that are the same: all texts, and the ranking.

    Ids, meta, scores and margins don't count; who ranked does, since a second annotator's word is
    new information. spelling: `exact`, or `normalise` for records that only look alike.
    """
    match item:
        case Prompt():
            return (prompt_of(item, spelling),)
        case Demonstration():
            passages = tuple(map(spelling, item.passages))
            searches = tuple(
                (spelling(s.before), spelling(s.query), *map(spelling, s.passages))
                for s in item.searches
            )
            return prompt_of(item, spelling), passages, spelling(item.response), searches
        case Preference():
            passages = tuple(map(spelling, item.passages))
            responses = map(spelling, item.responses)
            ranking = tuple(sorted(zip(responses, item.ranks, strict=True)))
            return prompt_of(item, spelling), passages, ranking, item.annotator
        case Document():
            return spelling(item.title), spelling(item.text)
        case BenchmarkItem():
            return (item.task, item.id)
        case _:
            return (spelling(corpus_text(item)),)


def held_out_look_alikes(train: Sequence[Item], held_out: Sequence[Item]) -> LookAlikes:
    """Return the training rows whose prompt looks like a held-out one without being it."""
    held = {prompt_of(item, normalise): item for item in held_out}
    found = LookAlikes()
    for item in train:
        if (other := held.get(prompt_of(item, normalise))) is not None:
            found.add(other, item)
    return found


class Fold(NamedTuple):
    """Which of how many folds is held out, from 0."""

    number: int
    folds: int


def divide(
    kept: Collected, share: float, seed: int, fold: Fold | None = None
) -> tuple[list[Item], list[Item]]:
    """Return (training, held-out) items: the source's own split, or one by conversation start.

    Args: fold: what is held out in place of a share.
    Raises: DataError: a side that should hold rows holds none, or a fold of a source that brings
    its own split.
    """
    if kept.own_split and fold is not None:
        raise DataError(
            f"folds (={fold.folds}) must be left out where a source brings its own held-out rows; "
            "give the rows that are to be cut into folds as one file."
        )
    if kept.own_split:
        return kept.train, kept.validation
    train: list[Item] = []
    held_out: list[Item] = []
    for item in kept.train:
        start = start_of(item)
        if fold is not None:
            is_held = fold_of(start, fold.folds, seed) == fold.number
        else:
            is_held = in_held_out_share(start, share, seed)
        (held_out if is_held else train).append(item)
    if not train or ((share > 0 or fold is not None) and not held_out):
        side = "training" if not train else "held-out"
        starts = {start_of(item) for item in kept.train}
        if len(starts) == 1:
            raise DataError(
                f"all {len(kept.train)} rows begin with the same user turn and are one "
                "conversation to the split, which keeps a conversation on one side; give a folder "
                "with a train and a validation file, or pass dataset.validation_share=0 where no "
                "stage measures on held-out rows.",
                text=min(starts),
            )
        by, what = f"dataset.validation_share={share}", "share"
        if fold is not None:
            by, what = f"fold={fold.number} of folds={fold.folds}", "folds"
        raise DataError(
            f"the split ({by}, split_seed={seed}) of "
            f"{len(kept.train)} rows in {len(starts)} conversations leaves none in the {side} "
            f"part; change {what} or seed, or bring more prompts."
        )
    return train, held_out


def check_split(train: Sequence[Item], held_out: Sequence[Item]) -> None:
    """Raise DataError if a prompt is on both sides, or an id is given twice."""
    held_prompts = {prompt_of(item) for item in held_out}
    leaks = {prompt for item in train if (prompt := prompt_of(item)) in held_prompts}
    if leaks:
        raise DataError(
            f"{len(leaks)} prompt(s) of the held-out part must not be in the training part; take "
            "them out of one of the files.",
            text=" | ".join(text for _, text in min(leaks)),
        )
    ids = Counter(item.id for item in (*train, *held_out) if not isinstance(item, dict))
    if ids and (worst := ids.most_common(1)[0])[1] > 1:
        raise DataError(
            f"id (={worst[0]!r}, {worst[1]} rows) must belong to one row; number the rows anew or "
            "leave ids out."
        )


def take_evenly(
    items: Sequence[Item], per_group: int | None, group_of: Callable[[BenchmarkItem], str]
) -> list[Item]:
    """Return at most `per_group` items of each group, in order, spread over its units; None: all.

    A group is what `group_of` names, such as a task of HaluEval, and a unit what `item.group` does:
    an entity of BOLD, a row of HaluEval. Every unit gives its first item, then every unit its
    second; the round that doesn't fit is thinned evenly. Nothing here is left to chance.
    """
    units: dict[str, dict[str, list[int]]] = {}
    for place, item in enumerate(items):
        if per_group is None or not isinstance(item, BenchmarkItem):
            return list(items)
        group = units.setdefault(group_of(item), {})
        group.setdefault(item.group or item.id, []).append(place)
    chosen: list[int] = []
    for group in units.values():
        left = per_group or 0
        for cells in zip_longest(*group.values()):
            places = [place for place in cells if place is not None]
            taken = min(left, len(places))
            chosen += [places[i * len(places) // taken] for i in range(taken)]
            left -= taken
    return [items[place] for place in sorted(chosen)]


def count_groups(
    items: Sequence[Item], group_of: Callable[[BenchmarkItem], str]
) -> Mapping[str, int]:
    """Return how many benchmark items each group has."""
    return dict(Counter(group_of(i) for i in items if isinstance(i, BenchmarkItem)))
