"""The inputs of a stage: artifacts by slot.

`Inputs` is a mapping, and made of any. It reads the families of names (`store/input_names.py`) and
opens artifacts on the runtime's device.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple, cast

from plumbrule.protocols import PassageIndex, Retriever, Scorer
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.store.input_names import SIGN, is_of_slot

LONGEST_NUMBER = 20
"""Digits of a number in the name of an input; longer ones are sorted as text."""


class GatheredInput(NamedTuple):
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


class Inputs(Mapping[str, Artifact]):
    """The artifacts that a stage is given, by the names of its inputs."""

    def __init__(self, artifacts: Mapping[str, Artifact]):
        self._artifacts = artifacts

    def __getitem__(self, name: str) -> Artifact:
        """Return the input of that name. Raises: KeyError: there is none."""
        return self._artifacts[name]

    def __iter__(self) -> Iterator[str]:
        """Yield the names, as the config orders them."""
        return iter(self._artifacts)

    def __len__(self) -> int:
        """Return the number of inputs."""
        return len(self._artifacts)

    def many(self, slot: str) -> dict[str, Artifact]:
        """Return the inputs of a slot that takes many (`rm`, `rm_1`, ...), sorted by name, numbers
        in it by their value.
        """
        return {name: self[name] for name in sorted(self, key=_by_number) if is_of_slot(name, slot)}

    def variations(self, slot: str) -> list[GatheredInput]:
        """Return the inputs of a slot that gathers, as the config orders them."""
        found = []
        for given, artifact in self.items():
            if is_of_slot(given, slot):
                head, *settings = given.split(SIGN)
                pairs = [(k, v) for k, _, v in (setting.partition("=") for setting in settings)]
                name = head.removeprefix(slot).removeprefix("_")
                found.append(GatheredInput(name, dict(pairs), artifact))
        return found

    def retriever(self, slot: str, method: str, runtime: RuntimeConfig) -> Retriever | None:
        """Return the index of a slot, searched by `method`; None where the slot is empty.

        Args: runtime: its device is where a neural encoder computes.
        """
        if slot not in self:
            return None
        return cast(PassageIndex, self[slot].open(runtime)).retriever(method)

    def scorer(self, slot: str, runtime: RuntimeConfig) -> Scorer | None:
        """Return the reward or reward model of a slot; None where the slot is empty."""
        return cast(Scorer, self[slot].open(runtime)) if slot in self else None


def _by_number(name: str) -> str:
    """Return a key that sorts `rm_2` before `rm_10`."""
    return re.sub(r"\d+", lambda digits: digits.group().zfill(LONGEST_NUMBER), name)
