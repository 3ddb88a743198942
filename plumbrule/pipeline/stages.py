"""The kinds of stages, each as its config module declares it (`plumbrule/stage_kind.py`).

To add a kind, add its folder to `sft`, `rlhf`, `rag` or `eval`: its `config.py` is found, and its
section of the config, its group of files, its inputs and its headline metrics follow.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

import eval.comparisons.config
import eval.config
import rag.config
import rlhf.best_of_n.config
import rlhf.dpo.config
import rlhf.feedback.config
import rlhf.ppo.config
import rlhf.reward_model.config
import rlhf.rewards.config
import rlhf.studies.config
import sft.base.config
import sft.data.config
import sft.fine_tune.config
from eval.benchmarks.registry import BENCHMARKS
from eval.few_shot import SHOTS
from plumbrule.stage_kind import MEASURED, POLICIES, Slot, StageKind

NAMED: tuple[ModuleType, ...] = (
    sft.data.config,
    sft.base.config,
    sft.fine_tune.config,
    rlhf.feedback.config,
    rlhf.reward_model.config,
    rag.config,
    rlhf.rewards.config,
    rlhf.dpo.config,
    rlhf.ppo.config,
    rlhf.best_of_n.config,
    rlhf.studies.config,
    eval.comparisons.config,
    eval.config,
)
"""In the order in which a finished run prints headline metrics."""


def _further_modules() -> Iterator[ModuleType]:
    """Yield the other `config.py` of the stages' folders, by name; some declare no stage."""
    for package in (sft, rlhf, rag, eval):
        for file in sorted(Path(package.__path__[0]).glob("*/config.py")):
            module = importlib.import_module(f"{package.__name__}.{file.parent.name}.config")
            if module not in NAMED:
                yield module


CONFIG_MODULES = (*NAMED, *_further_modules())


def _declared() -> Iterator[StageKind]:
    for module in CONFIG_MODULES:
        yield from (value for value in vars(module).values() if isinstance(value, StageKind))


def train_splits() -> list[str]:
    """Return the slots of eval that take a benchmark's train split, for `eval.num_shots`."""
    return [f"{name}{SHOTS}" for name, one in BENCHMARKS.items() if one.example is not None]


class WithBenchmarks(Mapping[str, Slot]):
    """Slots of eval: its own, and the records of each benchmark, which plug-ins may add to."""

    def __init__(self, own: Mapping[str, Slot]):
        self.own = own
        self.whole = Slot(("data",), required=False)
        self.split = Slot(("data",), required=False, held_out=True)

    def __getitem__(self, name: str) -> Slot:
        """Return the slot of a name."""
        if name in train_splits():
            return self.whole
        if name not in BENCHMARKS:
            return self.own[name]
        return self.whole if BENCHMARKS[name].items is not None else self.split

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        yield from (*self.own, *BENCHMARKS, *train_splits())

    def __len__(self) -> int:
        """Return the number of slots."""
        return len(self.own) + len(BENCHMARKS) + len(train_splits())


def _with_kinds_named(stage: StageKind, kinds: dict[tuple[str, ...], tuple[str, ...]]) -> StageKind:
    """Return a declaration whose slots name kinds where they stood for all that do something."""
    slots = {
        name: dataclasses.replace(slot, kinds=kinds.get(slot.kinds, slot.kinds))
        for name, slot in stage.slots.items()
    }
    return dataclasses.replace(stage, slots=slots)


POLICY_KINDS = tuple(stage.name for stage in _declared() if stage.makes_policy)
_KINDS: dict[tuple[str, ...], tuple[str, ...]] = {
    POLICIES: POLICY_KINDS,
    MEASURED: tuple(s.name for s in _declared() if s.measured),
}
STAGES = {stage.name: _with_kinds_named(stage, _KINDS) for stage in _declared()}
"""Kind -> what its config module declares."""
STAGES["eval"] = dataclasses.replace(
    STAGES["eval"], slots=WithBenchmarks(STAGES["eval"].slots), needs_one_of=BENCHMARKS
)
SECTIONS: dict[str, type] = {
    stage.section or stage.name: stage.config
    for stage in STAGES.values()
    if stage.section is not None
}
"""Section of the config -> its schema."""
LINKS = {s.section or s.name: dict(s.links) for s in STAGES.values() if s.links}
"""Section -> settings that follow another part of the config, which YAML cannot say of a typed
node."""


def section_of(kind: str) -> str:
    """Return the section of the config that a kind of stage reads; its name where there is none."""
    return (STAGES[kind].section if kind in STAGES else None) or kind


def answers_prompts(kind: str) -> bool:
    """Return whether a kind of stage samples a policy's responses to prompts, maybe with passages.

    Its config has `sampling` and `retrieval`.
    """
    return {"prompts", "index"} <= set(STAGES[kind].slots)


def slot_of(kind: str, name: str) -> Slot | None:
    """Return the slot of a stage kind that an input's name fills, or None."""
    slots = STAGES[kind].slots
    if name in slots:
        return slots[name]
    family = slots.get(name.rpartition("_")[0])
    if family is not None and (family.many or family.gathers):
        return family
    return next((s for n, s in slots.items() if s.gathers and name.startswith(f"{n}_")), None)
