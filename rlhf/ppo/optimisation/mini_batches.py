"""Which rows of a rollout belong to which optimizer step, a function of (seed, update, epoch)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from plumbrule.lm.randomness import generator


class OptimizerStep(NamedTuple):
    """Which optimizer step of a run; epoch and mini_batch count from 1."""

    update: int
    epoch: int
    mini_batch: int

    def __str__(self) -> str:
        return f"update {self.update}, epoch {self.epoch}, mini-batch {self.mini_batch}"


def mini_batches(
    num_rows: int, update: int, *, seed: int, num_ppo_epochs: int, num_mini_batches: int
) -> Iterator[tuple[OptimizerStep, list[int]]]:
    """Yield the rows of each optimizer step: all of them once an epoch, in an order of its own."""
    for epoch in range(num_ppo_epochs):
        order = generator("ppo order", seed, update, epoch).permutation(num_rows)
        for number, rows in enumerate(order.reshape(num_mini_batches, -1)):
            yield OptimizerStep(update, epoch + 1, number + 1), rows.tolist()
