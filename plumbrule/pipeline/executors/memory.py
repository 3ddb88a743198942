"""Room in this machine's memory for nodes that are built side by side."""

from __future__ import annotations

import contextlib
from pathlib import Path

from plumbrule.lm.sizes.shapes import shape_of
from plumbrule.pipeline.executors.merged_graph import Job, Key, Member
from plumbrule.pipeline.planning.needs import memory_needs, model_folder

GIB = 2**30
OTHERS_GIB = 1.0
"""Of a node whose memory nothing tells: a process with torch and a small model."""


class Room:
    """Which nodes fit into memory together.

    Args: each_gib: what a node takes; None: what its plan reckons.
    """

    def __init__(self, each_gib: float | None, system: Path = Path("/")):
        self.each_gib, self._system = each_gib, system
        self._taken: dict[Key, float] = {}
        self._at_first = available_bytes(system)

    def take(self, job: Job, owner: Member) -> bool:
        """Take room for a node if there is some beside those that run; one alone always has it."""
        wanted = self.needed(job, owner)
        there = self._at_first
        fits = there is None or wanted + sum(self._taken.values()) <= there
        if self._taken and not fits:
            return False
        self._taken[job.key] = wanted
        return True

    def give_back(self, job: Job) -> None:
        """Give a node's room back."""
        self._taken.pop(job.key, None)

    def needed(self, job: Job, owner: Member) -> float:
        """Return the bytes that a node may take."""
        if self.each_gib is not None:
            return self.each_gib * GIB
        model = owner.config.model
        shape = shape_of(model, model_folder(model))
        if shape is None:
            return OTHERS_GIB * GIB
        needs = memory_needs(owner.config, [job.planned], shape)
        return max([OTHERS_GIB * GIB, *(need.memory.total for need in needs)])


def available_bytes(system: Path = Path("/")) -> float | None:
    """Return the memory that is free here: of the machine, and below the limit of the cgroup; None
    where the system does not tell.
    """
    limits: list[float] = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = (system / "proc" / "meminfo").read_text(encoding="utf-8")
        line = next(line for line in text.splitlines() if line.startswith("MemAvailable"))
        limits.append(float(line.split()[1]) * 1024)
    with contextlib.suppress(OSError, ValueError):
        folder = system / "sys" / "fs" / "cgroup"
        most = float((folder / "memory.max").read_text(encoding="utf-8"))
        limits.append(most - float((folder / "memory.current").read_text(encoding="utf-8")))
    return min(limits, default=None)
