"""Names of Atlas: two made-up words each, and which pairs no training text ever shows.

A person is a first and a last name; a place, firm or work is a root and one of eight kinds ("Hill",
"Steel", "Waltz"). A model sees every *word* in training, in many pairs, but one **pair** in five is
held out: what it can do with such a pair it must read, since it can't have been learnt. The rule
hangs on the name alone (a hash of it), so every part of the generator agrees on it without a list.

Fresh names are the exception: their words are made up on the spot and stand in no pool, and for
them the rule holds word by word. Of a fresh pair nothing else is ever told, so nothing leaks.

Pools grow with the world, so that names stay far from used up: at most about a third of the
held-out pairs of a type become entities after the cut-off.
"""

from __future__ import annotations

import hashlib
import math
import random
from functools import lru_cache
from typing import NamedTuple

from plumbrule.atlas.relations import RELATIONS, WORDS

HELD_OUT_ONE_IN = 5
"""One name pair in this many is held out from every training text."""

KINDS = {
    "place": ("Hill", "Ford", "Bay", "Dale", "Moor", "Haven", "Cross", "Falls"),
    "firm": ("Steel", "Foods", "Motors", "Press", "Mills", "Tools", "Freight", "Bank"),
    "work": ("Waltz", "Saga", "Elegy", "Ballad", "Chronicle", "Hymn", "Fable", "Rhapsody"),
}
"""Second words of names that are not a person's."""

SHARES = {"person": 0.45, "place": 0.2, "firm": 0.2, "work": 0.15}
"""Of each type among the entities of a world."""

_ONSETS = (*"bdfghjklmnprstvz", "br", "dr", "fl", "gl", "kr", "pl", "sk", "tr")
_VOWELS = "aeiou"
_ENDS = {
    "first": ("na", "ro", "li", "mus", "vek", "dra", "sha", "tin", "lo", "ric"),
    "last": ("sten", "vik", "lund", "marr", "dow", "kov", "bree", "tash", "nell", "gard"),
    "place": ("mond", "ster", "wold", "thorp", "quay", "minster", "gar", "bury"),
    "firm": ("tron", "dex", "vora", "plex", "nix", "lor", "gen", "zan"),
    "work": ("ssa", "ndel", "phra", "lune", "thea", "mir", "vane", "rion"),
}
"""Endings tell the pools apart, so that no word is both a first name and, say, a firm."""


class Pools(NamedTuple):
    """The words that names are made of."""

    first: tuple[str, ...]
    last: tuple[str, ...]
    place: tuple[str, ...]
    firm: tuple[str, ...]
    work: tuple[str, ...]


def counts(total: int) -> dict[str, int]:
    """Return how many of `total` entities are of each type: at least one, summing to `total`."""
    number = {kind: max(1, int(total * share)) for kind, share in SHARES.items()}
    number["person"] += total - sum(number.values())
    return number


def is_held_out(name: str) -> bool:
    """Return whether this pair of words is kept out of every training text."""
    return hashlib.sha256(name.encode()).digest()[0] % HELD_OUT_ONE_IN == 0


def make_pools(seed: int, num_known: int, num_after: int) -> Pools:
    """Return the name words of a world: distinct over all pools, none of them English in Atlas."""
    known, after = counts(num_known), counts(num_after)
    needed = {kind: known[kind] + 3 * HELD_OUT_ONE_IN * after[kind] for kind in SHARES}
    people = max(64, math.ceil(math.sqrt(2 * needed["person"])))
    sizes = {"first": people, "last": people}
    for kind, seconds in KINDS.items():
        sizes[kind] = max(40, math.ceil(needed[kind] / len(seconds)))
    taken = set(_english())
    return Pools(**{pool: _words(seed, pool, size, taken) for pool, size in sizes.items()})


def fresh_name(rng: random.Random, pools: Pools, kind: str, held_out: bool = False) -> str:
    """Return a name of a type whose made-up words are in no pool.

    held_out: of words that no training text shows either, chosen by the same rule as pairs.
    """
    known = _pool_words(pools)

    def word(pool: str) -> str:
        while True:
            made = _made_up(rng, pool, rng.choice((1, 2)))
            if (
                made not in known
                and is_held_out(made) == held_out
                and made.lower() not in _english()
            ):
                return made

    if kind == "person":
        return f"{word('first')} {word('last')}"
    return f"{word(kind)} {rng.choice(KINDS[kind])}"


@lru_cache(maxsize=8)
def _pool_words(pools: Pools) -> frozenset[str]:
    return frozenset(word for pool in pools for word in pool)


def _made_up(rng: random.Random, pool: str, syllables: int) -> str:
    stem = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(syllables))
    return (stem + rng.choice(_ENDS[pool])).capitalize()


def _words(seed: int, pool: str, number: int, taken: set[str]) -> tuple[str, ...]:
    """Return `number` new capitalised words with the endings of `pool`; adds them to `taken`."""
    rng = random.Random(f"atlas/{seed}/pool/{pool}")
    words: list[str] = []
    tries = 0
    while len(words) < number:
        # One syllable and an ending gives about a thousand words; long pools need a second one.
        syllables = 1 if tries < 2 * number and number < 400 else 2
        word = _made_up(rng, pool, syllables)
        tries += 1
        if word.lower() not in taken:
            taken.add(word.lower())
            words.append(word)
    return tuple(words)


@lru_cache(maxsize=1)
def _english() -> frozenset[str]:
    texts = [s for r in RELATIONS for s in r.statements + r.questions]
    texts += [" ".join(words) for words in WORDS.values()]
    texts += [" ".join(seconds) for seconds in KINDS.values()]
    return frozenset(word.strip(".,?").lower() for text in texts for word in text.split())


def all_names(pools: Pools, kind: str) -> list[str]:
    """Return every name of a type, in a fixed order."""
    if kind == "person":
        return [f"{first} {last}" for first in pools.first for last in pools.last]
    return [f"{root} {second}" for root in getattr(pools, kind) for second in KINDS[kind]]


def random_name(rng: random.Random, pools: Pools, kind: str) -> str:
    """Return a random name of a type, held out or not."""
    if kind == "person":
        return f"{rng.choice(pools.first)} {rng.choice(pools.last)}"
    return f"{rng.choice(getattr(pools, kind))} {rng.choice(KINDS[kind])}"
