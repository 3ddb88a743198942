"""What a paper claims, and the sweeps by which its claims are tested: one file of conf/paper each.

A paper has two scales. `laptop` tests its claims as directions, orderings and functional forms on
the generated world, with small models; `full` takes the paper's own models and data, and compares
with its numbers. They have claims of their own, so no number of one stands beside one of the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

SCALES = ("laptop", "full")
STATUSES = {
    "verified": "looked up where it says",
    "unverified": "from memory, and not found yet where it says",
    "ours": "chosen here",
}
"""How well a source is known -> what that means."""
RUN_NAME = "paper_"
"""How `run.name` of a paper's runs begins; the paper's name follows."""


@dataclass(frozen=True)
class PaperSource:
    """Where something is from. where: table, figure, equation, section or file. status: of
    `STATUSES`.
    """

    where: str
    status: str


@dataclass(frozen=True)
class Setting:
    """A setting that a scale changes: an override's key and value, and where the value is from."""

    key: str
    value: str
    source: PaperSource

    @property
    def override(self) -> str:
        """The word of a command."""
        return f"{self.key}={self.value}"


@dataclass(frozen=True)
class DataNeed:
    """Data that a user must have: the setting of its path, and what it is."""

    setting: str
    what: str


@dataclass(frozen=True)
class PaperClaim:
    """One claim. tolerance: how far a value may lie on the wrong side of a comparison, or from
    equality. explanation: what is known of why it fails or stays near; "" where nothing is said.
    """

    text: str
    expression: str
    tolerance: float
    source: PaperSource
    explanation: str = ""


@dataclass(frozen=True)
class PaperScale:
    """One scale of a paper. arms: name -> words of a sweep beside seed. unavailable: why there is
    no such scale, "" where there is.
    """

    name: str
    experiment: str = ""
    settings: Sequence[Setting] = ()
    seeds: Sequence[int] = ()
    arms: Mapping[str, Sequence[str]] = field(default_factory=dict)
    needs: Sequence[DataNeed] = ()
    definitions: Mapping[str, str] = field(default_factory=dict)
    claims: Sequence[PaperClaim] = ()
    unavailable: str = ""


@dataclass(frozen=True)
class Paper:
    """A paper. summary: what of it is tested here, and what is not."""

    name: str
    title: str
    citation: str
    summary: str
    scales: Mapping[str, PaperScale]

    @property
    def run_name(self) -> str:
        """What `run.name` of its runs is."""
        return f"{RUN_NAME}{self.name}"
