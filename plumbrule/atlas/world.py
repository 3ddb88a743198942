"""The world: who and what there is before and after the cut-off date, and what is true of them.

`generate_world` is a pure function of the seed and the two entity counts; sizes of data sets don't
move it. An entity has facts for all relations of its type but one: the one left out is a question
about a well-known subject that nothing answers.

- **Known** entities stand in the encyclopaedia. Their names are ordinary pairs, and the base corpus
  teaches their facts.
- Entities **after** the cut-off stand only in the news. Their names are held-out pairs. Half of
  them (`after_training`) may be asked about in prompts for feedback and PPO, the other half
  (`after_evaluation`) only in evaluation. Values of their facts are known entities, so no article
  of one half mentions the other.
- **Strangers** are held-out pairs of whom nothing was ever written.
- **Invented** entities live in one corpus row or demonstration: ordinary pairs, facts drawn on the
  spot. They teach reading, and not knowing, without giving away any of the above.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from plumbrule.atlas.config import AtlasConfig
from plumbrule.atlas.names import (
    KINDS,
    SHARES,
    Pools,
    all_names,
    counts,
    is_held_out,
    make_pools,
    random_name,
)
from plumbrule.atlas.relations import BY_NAME, BY_SUBJECT, NAME_KINDS, WORDS, Relation

CUT_OFF = "2000-01-01"
"""Last day of the encyclopaedia; every news text is younger."""


class Entity(NamedTuple):
    """A person, place, firm or work; `facts` maps relation to value and leaves one relation out."""

    name: str
    kind: str
    facts: dict[str, str]

    @property
    def missing(self) -> tuple[Relation, ...]:
        """Relations of this type that nothing states of it."""
        return tuple(r for r in BY_SUBJECT[self.kind] if r.name not in self.facts)


class Fact(NamedTuple):
    """One value of one entity."""

    entity: Entity
    relation: str
    value: str


@dataclass(frozen=True)
class World:
    """Everything that is true in Atlas, and the names that nothing is true of."""

    seed: int
    pools: Pools
    known: tuple[Entity, ...]
    after_training: tuple[Entity, ...]
    after_evaluation: tuple[Entity, ...]
    strangers: dict[str, tuple[str, ...]]
    """Type -> held-out names of which nothing is written, in random order."""

    @property
    def after(self) -> tuple[Entity, ...]:
        """Return all entities after the cut-off."""
        return self.after_training + self.after_evaluation

    @cached_property
    def known_names(self) -> dict[str, tuple[str, ...]]:
        """Type -> names of the known entities."""
        return {k: tuple(e.name for e in self.known if e.kind == k) for k in NAME_KINDS}

    @cached_property
    def known_set(self) -> frozenset[str]:
        """Names of all known entities."""
        return frozenset(e.name for e in self.known)

    def values(self, relation: str) -> tuple[str, ...]:
        """Return the values that the relation can have in this world."""
        kind = BY_NAME[relation].value_kind
        return self.known_names[kind] if kind in NAME_KINDS else WORDS[kind]

    def wrong_value(self, rng: random.Random, relation: str, right: str, subject: str = "") -> str:
        """Return a value of the right kind that is neither `right` nor the subject itself."""
        options = [v for v in self.values(relation) if v not in (right, subject)]
        if options:
            return rng.choice(options)
        return self.new_name(rng, BY_NAME[relation].value_kind, (right, subject))

    def new_name(self, rng: random.Random, kind: str, avoid: Iterable[str] = ()) -> str:
        """Return an ordinary pair that names no known entity and is not in `avoid`."""
        avoid = set(avoid)
        while True:
            name = random_name(rng, self.pools, kind)
            if not is_held_out(name) and name not in self.known_set and name not in avoid:
                return name

    def near_name(self, rng: random.Random, name: str, kind: str, avoid: Iterable[str]) -> str:
        """Return a new name that shares one word with `name`: what a careless reader mixes up."""
        avoid = set(avoid)
        one, two = name.split()
        for _ in range(20):
            other_one, other_two = self.new_name(rng, kind, avoid).split()
            near = f"{one} {other_two}" if rng.random() < 0.5 else f"{other_one} {two}"
            if not is_held_out(near) and near not in self.known_set and near not in avoid:
                return near
        return self.new_name(rng, kind, avoid)

    def invent(self, rng: random.Random, kind: str, avoid: Iterable[str] = ()) -> Entity:
        """Return an entity of an ordinary new name with facts drawn on the spot."""
        return self.invent_facts(rng, self.new_name(rng, kind, avoid), kind)

    def invent_facts(
        self, rng: random.Random, name: str, kind: str, must: str | None = None
    ) -> Entity:
        """Return an entity called `name` with facts drawn on the spot, relation `must` included."""
        relations = _all_but_one(rng, kind)
        if must is not None and must not in [r.name for r in relations]:
            relations[0] = BY_NAME[must]
        return Entity(name, kind, {r.name: self.invent_value(rng, r, name) for r in relations})

    def invent_value(self, rng: random.Random, relation: Relation, subject: str) -> str:
        """Return a random value; names are ordinary new pairs."""
        if relation.value_kind in NAME_KINDS:
            return self.new_name(rng, relation.value_kind, (subject,))
        return rng.choice(WORDS[relation.value_kind])


def facts(entities: Iterable[Entity]) -> list[Fact]:
    """Return the facts of some entities, entity by entity."""
    return [Fact(e, relation, value) for e in entities for relation, value in e.facts.items()]


def random_kind(rng: random.Random) -> str:
    """Return a type with the shares of the world."""
    return rng.choices(list(SHARES), list(SHARES.values()))[0]


def generate_world(config: AtlasConfig) -> World:
    """Return the world of `config`: seed and entity counts decide it, nothing else does."""
    seed = config.seed
    pools = make_pools(seed, config.num_known, config.num_after)
    known_names: dict[str, list[str]] = {}
    after_names: dict[str, list[str]] = {}
    strangers: dict[str, tuple[str, ...]] = {}
    known_counts, after_counts = counts(config.num_known), counts(config.num_after)
    for kind in ("person", *KINDS):
        names = all_names(pools, kind)
        random.Random(f"atlas/{seed}/names/{kind}").shuffle(names)
        ordinary = [name for name in names if not is_held_out(name)]
        held_out = [name for name in names if is_held_out(name)]
        known_names[kind] = ordinary[: known_counts[kind]]
        after_names[kind] = held_out[: after_counts[kind]]
        strangers[kind] = tuple(held_out[after_counts[kind] :])
    rng = random.Random(f"atlas/{seed}/facts")
    known = [_entity(rng, n, kind, known_names) for kind in SHARES for n in known_names[kind]]
    after = [_entity(rng, n, kind, known_names) for kind in SHARES for n in after_names[kind]]
    # Taken in turn, so that both halves hold every type that has at least two entities.
    return World(seed, pools, tuple(known), tuple(after[1::2]), tuple(after[::2]), strangers)


def _entity(rng: random.Random, name: str, kind: str, names: dict[str, list[str]]) -> Entity:
    chosen = {}
    for relation in _all_but_one(rng, kind):
        options = names.get(relation.value_kind) or WORDS[relation.value_kind]
        chosen[relation.name] = rng.choice(options)
    return Entity(name, kind, chosen)


def _all_but_one(rng: random.Random, kind: str) -> list[Relation]:
    relations = list(BY_SUBJECT[kind])
    return rng.sample(relations, len(relations) - 1)
