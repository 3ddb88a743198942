"""How much memory training will take, reckoned from a model's sizes before anything is loaded.

`rlhf/ppo/measures/memory.py` measures the same on the first rollout; this says it while planning,
for a model that may not even be here. All rows are taken to be as long as the context, so it is an
upper estimate for shorter ones; what libraries and the allocator keep for themselves comes on top.

Per trained weight: itself, its gradient and Adam's two moments in float32, and under autocast a
copy in bfloat16. Per token of a micro-batch and layer, what the backward pass keeps of a
transformer block (Korthikanti et al. 2022, arXiv:2205.05198, section 4, recounted for rotary
attention, RMS norms and a gated feed-forward network without dropout). Against what autograd keeps
of small models of six families: within a factor of 1.6 (`tests/plumbrule/lm/sizes/test_shapes.py`).
"""

from __future__ import annotations

from typing import NamedTuple

from plumbrule.lm.sizes.shapes import Shape

FLOAT = 4
"""Bytes."""
AUTOCAST = 3
"""Bytes of a number under autocast to bfloat16, on average: some are kept in float32 beside it."""
TRAINED = 4 * FLOAT
"""Bytes per trained weight: itself, gradient and two moments."""
HEAD_BYTES = 3 * 2**27
"""Most that the output layer holds at a time: slices of logits, `plumbrule/lm/logprobs.py`."""
GIB = 2**30


class Memory(NamedTuple):
    """Of a stage, bytes. weights: with gradients, moments and copies; work: of a micro-batch."""

    weights: float
    work: float

    @property
    def total(self) -> float:
        """Return both."""
        return self.weights + self.work


class BatchShape(NamedTuple):
    """What goes through a model at a time. number: rows. tokens: of the longest of them."""

    number: int
    tokens: int


def kept_bytes(shape: Shape, precision: str, checkpointing: bool) -> float:
    """Return what a backward pass keeps per token of a micro-batch, the output layer aside.

    Args: precision: float32 or bfloat16. checkpointing: one activation a layer is kept, and those
    of one layer at a time are computed again.
    """
    size = AUTOCAST if precision == "bfloat16" else FLOAT
    h, i = shape.hidden_size, shape.intermediate_size
    norms = 4 * h * FLOAT  # two, each with its input and its result, in float32 either way
    inputs = 2 * h * size  # of the matrices behind them
    attention = 4 * (shape.query_size + shape.key_size) * size  # q, k, v, rotated, and the result
    feed_forward = (4 if shape.gated else 2) * i * size
    layer = norms + inputs + attention + feed_forward
    if checkpointing:
        return (shape.layers + 2) * h * FLOAT + layer
    return shape.layers * layer


def training_memory(
    shape: Shape, rows: BatchShape, precision: str, *, rank: int = 0, checkpointing: bool = False
) -> Memory:
    """Return what sft, rm or dpo take: one model, all weights of which learn, or adapters."""
    work = rows.number * rows.tokens * kept_bytes(shape, precision, checkpointing)
    return Memory(trained_bytes(shape, precision, rank), work + _head(shape, rows))


def trained_bytes(shape: Shape, precision: str, rank: int = 0, share: float = 1.0) -> float:
    """Return the bytes of a model of which adapters of `rank`, or a share of the weights, learn."""
    learnt = shape.adapter_parameters(rank) if rank else share * shape.parameters
    copy = 2 * learnt if precision == "bfloat16" else 0
    frozen = shape.parameters if rank else (1 - share) * shape.parameters
    return TRAINED * learnt + copy + FLOAT * frozen


def ppo_memory(
    shape: Shape,
    rows: BatchShape,
    sampled: BatchShape,
    precision: str,
    *,
    rank: int = 0,
    unfrozen_layers: int | None = None,
    value_trunk: str = "own",
    num_reward_models: int = 1,
    averaged: bool = False,
    checkpointing: bool = False,
    processes: int = 1,
) -> Memory:
    """Return what an update of PPO takes: policy, reference, value model and reward models.

    Args: sampled: responses decoded together, prompts included. value_trunk: own, branch or policy;
    "" without a value model. averaged: an average of the policy's weights is kept. processes: over
    which the weights of policy, reference and value model are spread.
    """
    share = 1.0 if unfrozen_layers is None else min(1.0, unfrozen_layers / shape.layers)
    held = trained_bytes(shape, precision, rank, share)
    if not rank:
        held += FLOAT * share * shape.parameters  # the reference; frozen layers are shared
    if value_trunk == "own":
        held += trained_bytes(shape, precision)
    elif value_trunk == "branch":
        held += TRAINED * share * shape.parameters
    if averaged:
        held += FLOAT * (shape.adapter_parameters(rank) if rank else share * shape.parameters)
    held = held / processes + FLOAT * num_reward_models * shape.parameters
    kept = share * kept_bytes(shape, precision, checkpointing)
    learning = rows.number * rows.tokens * kept + _head(shape, rows)
    return Memory(held, max(learning, cache_bytes(shape, sampled)))


def cache_bytes(shape: Shape, sampled: BatchShape) -> float:
    """Return the bytes of the sampler's keys and values."""
    return sampled.number * sampled.tokens * 2 * shape.layers * shape.key_size * FLOAT


def _head(shape: Shape, rows: BatchShape) -> float:
    return min(HEAD_BYTES, 3 * FLOAT * rows.number * rows.tokens * shape.vocab_size)
