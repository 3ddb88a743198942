"""Continuous batching over a static KV cache: every step has the same shapes and addresses.

On an accelerator a small model's step is launched more slowly than it is computed. A CUDA graph
launches all of it at once, but replays fixed addresses only, which a cache that shrinks as rows
end does not have. So here a batch is a number of slots. Each has its part of the cache and its own
write position; a row that ends is followed by the next prompt in its slot, and nothing moves. All
that a step reads and writes (tokens, positions, draws, results) are tensors made once.

Rows attend over the full capacity at every step, behind a mask, so on a CPU, where a launch costs
nothing, the shrinking batch of `sampler.py` is faster. What is picked is the same: a response
depends on its key and its prompt.

The graph is captured anew for each call: it holds the addresses of weights as they were cast for
this call, and autocast keeps its copies for as long as its context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from plumbrule.lm.generation.kv_cache import cache_argument, is_recomputed, prefill
from plumbrule.lm.generation.token_sampling import pick
from plumbrule.lm.logprobs import causal_lm, output_logits, trunk
from plumbrule.lm.policy import Policy
from plumbrule.lm.unpadded.attention import is_unpadded, kept_dtype
from plumbrule.protocols import ProgressLine
from plumbrule.timing import timed

CHECK_EVERY = 8
"""Steps between two looks at which rows have ended, each of which waits for the device."""
WARM_UP = 3
"""Steps before a capture, in which libraries set themselves up."""
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""What configs of models with experts call their number."""
REFILL_SHARE = 0.25
"""Share of the slots that is free before prompts are read: reading a few at a time is slow."""


class SlotLayer(DynamicLayer):
    """Keys and values (slots, heads, capacity, size) of one layer, at fixed addresses."""

    is_initialized: bool

    def __init__(self, positions: Tensor, capacity: int):
        super().__init__()
        self.positions, self.capacity = positions, capacity

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write one token per slot at the slot's own position; return all keys and values."""
        buffers = self.buffers(key_states, value_states)
        where = self.positions[:, None, None, None]
        for kept, new in zip(buffers, (key_states, value_states), strict=True):
            index = where.expand(-1, new.shape[1], 1, new.shape[3])
            kept.scatter_(2, index, new.to(kept.dtype))
        return buffers

    def buffers(self, *like: Tensor) -> tuple[Tensor, Tensor]:
        """Return where keys and values are kept, made of the heads, sizes and kind of `like`."""
        if not self.is_initialized:
            self.dtype, self.device = kept_dtype(like[1]), like[0].device
            slots, capacity = len(self.positions), self.capacity
            self.keys, self.values = (
                some.new_zeros(slots, some.shape[1], capacity, some.shape[3], dtype=self.dtype)
                for some in like
            )
            self.is_initialized = True
        return cast(Tensor, self.keys), cast(Tensor, self.values)

    def fill(self, slots: Tensor, keys: Tensor, values: Tensor, columns: Tensor) -> None:
        """Begin slots (n,) with the columns (n, l) of keys and values (n, heads, width, size)."""
        width = columns.shape[1]
        for kept, given in zip(self.buffers(keys, values), (keys, values), strict=True):
            where = columns[:, None, :, None].expand(-1, given.shape[1], -1, given.shape[3])
            kept[slots, :, :width] = given.gather(2, where).to(kept.dtype)


@contextmanager
def _any_order() -> Iterator[None]:
    """Let writes whose places all differ be made in any order; deterministic mode sorts them."""
    strict, warns = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warns)


class Pending(NamedTuple):
    """A row that is not in a slot yet."""

    row: int
    tokens: Sequence[int]


class Decoder:
    """The slots of one call and the step that all of them take together."""

    def __init__(
        self,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        draws: Tensor,
        temperature: float,
        num_slots: int,
    ):
        self.policy, self.prompts, self.draws = policy, prompts, draws
        self.temperature = temperature
        device, limit = draws.device, draws.shape[1]
        self.limit = limit
        self.num_slots = min(num_slots, len(prompts))
        self.capacity = max(map(len, prompts)) + limit
        self.stops = torch.tensor(policy.spec.stop_token_ids, device=device)

        def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(*shape, dtype=dtype, device=device)

        # What each slot is at; a slot without a row has ended.
        self.rows = zeros(self.num_slots)
        self.picked = zeros(self.num_slots)
        self.positions = zeros(self.num_slots)  # where `picked` is going to be written
        self.counts = zeros(self.num_slots)  # tokens of the response, `picked` included
        self.ended = torch.ones(self.num_slots, dtype=torch.bool, device=device)
        # The result of each row; one more row, which nobody reads, is for slots that have ended.
        self.tokens = zeros(len(prompts) + 1, limit)
        self.logprobs = zeros(len(prompts) + 1, limit, dtype=torch.float32)
        self.lengths = zeros(len(prompts) + 1)
        self.finished = zeros(len(prompts) + 1, dtype=torch.bool)

        self.columns = torch.arange(self.capacity, device=device)
        config = causal_lm(policy.model).config
        self.cache = DynamicCache(config=config)
        self.layers = [SlotLayer(self.positions, self.capacity) for _ in self.cache.layers]
        self.cache.layers = list(self.layers)

    def step(self) -> None:
        """Read the picked token of every slot and pick the next one.

        Slots write into places of their own, and those that have ended where nobody reads.
        """
        with _any_order():
            self._step()

    def _step(self) -> None:
        mask = self.columns[None, :] <= self.positions[:, None]
        whole = trunk(self.policy.model)
        hidden = whole(
            input_ids=self.picked[:, None],
            attention_mask=mask[:, None, None, :],
            position_ids=self.positions[:, None],
            use_cache=True,
            **{cache_argument(whole): self.cache},
        ).last_hidden_state[:, -1]
        self.take(hidden, torch.arange(self.num_slots, device=hidden.device))
        self.positions.add_(1).clamp_(max=self.capacity - 1)

    def take(self, hidden: Tensor, slots: Tensor) -> None:
        """Pick the next token of some slots (n,) from the hidden states (n, h) before it."""
        rows, counts = self.rows[slots], self.counts[slots].clamp(max=self.limit - 1)
        logits = output_logits(self.policy.model, hidden)
        picked, found = pick(logits, self.temperature, self.draws[rows, counts])
        live = ~self.ended[slots]
        into = torch.where(live, rows, len(self.prompts))
        self.tokens[into, counts] = picked
        self.logprobs[into, counts] = found
        self.lengths[into] = counts + 1
        stopped = (picked[:, None] == self.stops).any(1)
        self.finished[into] = stopped
        self.ended[slots] = ~live | stopped | (counts + 1 >= self.limit)
        self.picked[slots] = picked
        self.counts[slots] = counts + 1

    def begin(self, some: list[Pending], slots: Tensor) -> None:
        """Read prompts into free slots (n,), and pick the first token of each."""
        with timed("prefill"):
            hidden, cache, real_mask = prefill(
                self.policy.model, [w.tokens for w in some], self.policy.pad_id, 0
            )
            lengths = real_mask.sum(1)
            width = real_mask.shape[1]
            # Prompts are padded on the left; in a slot they begin at 0. What lies behind a shorter
            # prompt is a copy of its last token, which the mask hides until it is written over.
            inside = torch.arange(int(lengths.max()), device=hidden.device)[None, :]
            columns = ((width - lengths)[:, None] + inside).clamp(max=width - 1)
            for layer, read in zip(self.layers, cache.layers, strict=True):
                states = cast(DynamicLayer, read)
                layer.fill(slots, cast(Tensor, states.keys), cast(Tensor, states.values), columns)
            self.rows[slots] = torch.tensor([w.row for w in some], device=hidden.device)
            self.positions[slots] = lengths
            self.counts[slots] = 0
            self.ended[slots] = False
            self.take(hidden, slots)

    def run(self, progress: ProgressLine | None = None) -> None:
        """Answer all prompts, the longest first, so that those read together are of like length."""
        order = sorted(range(len(self.prompts)), key=lambda row: -len(self.prompts[row]))
        waiting = [Pending(row, self.prompts[row]) for row in order]
        replay: Callable[[], None] | None = None
        done = 0
        while True:
            free = self.ended.nonzero()[:, 0]  # waits for the device
            answered = len(self.prompts) - len(waiting) - (self.num_slots - len(free))
            if progress is not None:
                progress.advance(answered - done)
            done = answered
            if waiting and (len(free) >= REFILL_SHARE * self.num_slots):
                some, waiting = waiting[: len(free)], waiting[len(free) :]
                self.begin(some, free[: len(some)])
                continue
            if len(free) == self.num_slots:
                return
            with timed("decode"):
                replay = replay or self.captured()
                for _ in range(CHECK_EVERY):
                    replay()

    def captured(self) -> Callable[[], None]:
        """Return what takes a step: a CUDA graph's replay, elsewhere `step` itself.

        Steps that only warm up are steps like any other.
        """
        if self.draws.device.type != "cuda":
            return self.step
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self.step()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()  # is recorded, not taken
        return graph.replay


def can_decode(policy: Policy) -> bool:
    """Return whether slots hold the policy's cache, and a graph its step.

    All its layers attend to all earlier tokens, and nothing in them waits for the device (rotary
    tables that grow with the text, experts).
    """
    lm = causal_lm(policy.model)
    if is_recomputed(lm):
        return False
    config = lm.config.get_text_config()
    rotary = getattr(config, "rope_parameters", None) or {}
    experts = any(getattr(config, name, None) for name in EXPERTS)
    return is_unpadded(lm) and rotary.get("rope_type", "default") != "dynamic" and not experts
