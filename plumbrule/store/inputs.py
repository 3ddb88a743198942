"""How a stage that gathers reads its inputs: several variations of what the config names once.

The input `policy_rloo` of such a stage, where the node that it names stands for six, comes as
`policy_rloo@seed=0@kl.coef=0.1` and so on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from plumbrule.store.artifacts import Artifact

SIGN = "@"
Variation = tuple[tuple[str, str], ...]
"""(setting, value as text) pairs."""


class Gathered(NamedTuple):
    """One input of a slot. name: what stands behind the slot's name and a `_`; "": nothing."""

    name: str
    variation: dict[str, str]
    artifact: Artifact

    @property
    def seed(self) -> str:
        """The seed as text; "" where the run has one only."""
        return self.variation.get("seed", "")

    @property
    def label(self) -> str:
        """Name and variation without the seed: alike for what differs by the seed only."""
        settings = [f"{k}={v}" for k, v in self.variation.items() if k != "seed"]
        return " ".join([self.name, *settings] if self.name else settings)


def suffix_of(variation: Variation) -> str:
    """Return what a variation adds to a node's or an input's name."""
    return "".join(f"{SIGN}{setting}={value}" for setting, value in variation)


def gathered_inputs(inputs: Mapping[str, Artifact], slot: str) -> list[Gathered]:
    """Return the inputs of a slot, as the config orders them."""
    found = []
    for given, artifact in inputs.items():
        head, *settings = given.split(SIGN)
        if head == slot or head.startswith(f"{slot}_"):
            pairs = [(k, v) for k, _, v in (setting.partition("=") for setting in settings)]
            name = head.removeprefix(slot).removeprefix("_")
            found.append(Gathered(name, dict(pairs), artifact))
    return found
