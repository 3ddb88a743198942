"""How a stage declares itself: one `StageKind` at the end of its config module.

    STAGE = StageKind(
        "dpo",
        DPOConfig,
        "rlhf.dpo.stage:run",
        {"policy": Slot(POLICIES), "preferences": Slot(("data", "feedback"), many=True)},
        links={"seed": "${seed}"},
        makes_policy=True,
    )

`plumbrule/pipeline/stages.py` lists the modules; all that the pipeline knows of a kind follows from
its declaration. A declaration computes nothing, so an edit of it or of this module rebuilds nothing
(`plumbrule/store/computing_code.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

POLICIES = ("<policies>",)
"""Of a slot: every kind that `makes_policy`."""
MEASURED = ("<measured>",)
"""Of a slot: every kind that is `measured`."""


@dataclass(frozen=True)
class Slot:
    """An input of a stage: which kinds may fill it.

    many: `rm` also takes `rm_1`, `rm_2`, ...
    gathers: many, and all variations of each (`plumbrule/pipeline/variations.py`). Of a stage, all
    inputs gather or none does.
    """

    kinds: tuple[str, ...]
    required: bool = True
    many: bool = False
    gathers: bool = False
    held_out: bool = False
    """Whether the stage measures on held-out rows of it and can't do without."""
    compares_gold: bool = False
    """Whether the stage needs the gold utility, and the KL to the start, of all that fills it."""
    read_if: Callable[[Any], bool] = lambda config: True
    """Whether a stage with this config reads it; an input that is not read is not built."""


@dataclass(frozen=True)
class PlacedNode:
    """A node among those that it is made from, as the checks of its stage see it."""

    name: str
    kind: str
    inputs: Mapping[str, PlacedNode]
    """Input -> the node that fills it."""
    config: Any = None
    """None: it is not built here."""
    given: Path | None = None
    """Folder of the artifact that it stands for; None: it is built here."""


@dataclass(frozen=True)
class StageKind:
    """What the pipeline knows of a kind of stage."""

    name: str
    config: type
    run: str
    """`module:function`, imported only when the stage is built."""
    slots: Mapping[str, Slot] = field(default_factory=dict)
    section: str | None = ""
    """Its section of the config and its group of files; "": called as the kind; None: it has
    none."""
    links: Mapping[str, str] = field(default_factory=dict)
    """Setting -> the part of the config that it follows unless it is given a value of its own."""
    makes_policy: bool = False
    measured: bool = False
    """Whether `summary` may gather its metrics."""
    headline: Sequence[str] = ()
    """Metrics that a finished run prints, in order. {policy} stands for each kind that makes a
    policy; at the end, * for whatever follows, of which the bounds are left out."""
    opener: str | None = None
    """`module:function` that opens its artifact for stages of other packages."""
    parallel: bool = False
    """Whether it can be split over processes."""
    preview: str | None = None
    """`module:function` that counts what it will make, while planning; imports no torch."""
    prepares_data: bool = False
    """Whether its config has a `role`, whose records it makes, and the `dataset` that it reads."""
    held_out_like: str | None = None
    """The slot whose held-out rows its own follow; None: it holds out what its config says."""
    shows_passages: Callable[[Any], bool] = lambda config: config.retrieval.share > 0
    """Of a config with `retrieval`: whether prompts are shown passages."""
    result_tokens: Callable[[Any], int] = lambda config: 0
    """Of a config with `retrieval`: tokens of the answers to search calls that its policy makes in
    an episode, at most, beside the passages of its prompt."""
    passages_optional: bool = False
    """Whether a node without an index leaves passages away by itself."""
    lacks_gold: Callable[[PlacedNode], tuple[str, str] | None] = lambda node: None
    """Of a node: what it must do before a slot that `compares_gold` can take it, and the fix; None:
    nothing."""
    check: str | None = None
    """`module:function` that is called with each node to be built and the RuntimeConfig, and raises
    ConfigError for settings that don't fit the node's inputs; imports no torch."""
    recompute: str | None = None
    """`module:function` that is called with an artifact, its inputs as far as they are there, and
    an empty folder, into which it writes again the numbers that item rows give of the artifact's
    files; it returns those of its headline metrics. None: no number of it is made of rows alone."""
    needs_one_of: Collection[str] = ()
    """Optional slots of which at least one must be filled."""
    reward: Callable[[Any], Any] = lambda config: None
    """Of a config: the RewardConfig that the stage scores responses with; None: it uses none."""
    model: Callable[[Any, Collection[str]], Any] = lambda config, inputs: None
    """Of a config and the names of the node's inputs: the ModelConfig that it starts from; None:
    it starts from an input, or has no model."""
    precision: Callable[[Any], tuple[str, str] | None] = lambda config: None
    """Of a config: the setting that says in which precision the stage computes, and its value;
    None: it has none, or does not use it."""


def own_precision(config: Any) -> tuple[str, str]:
    """Return the setting `precision` of a config, by its name, and its value."""
    return "precision", config.precision
