"""Which of two words a model would say after each of many prompts that begin alike.

The prompts of a judge share a long instruction, and the two sides of one item share the question
too. What all prompts have in common is read once into a KV cache, and what neighbours have in
common beyond it once for them:

    instruction (cached) | question | answer A
                                    | answer B

The own tokens of many prompts stand one behind the other in one row of a forward pass, so there is
no padding; a mask lets each token see the cached prefix, what its run shares, and its own prompt
before it. Tokens of a prompt stand at the positions that they would have alone, so what is computed
is what one pass per prompt computes, up to rounding.

Whether prompts begin alike is seen from their token ids; nobody has to say it. A model with layers
that do not attend to all earlier tokens (sliding windows, recurrent states), or words of different
lengths, are scored prompt by prompt (`plumbrule/lm/judges/answer_likelihood.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from plumbrule.lm.generation.kv_cache import cache_argument, is_recomputed, new_cache
from plumbrule.lm.judges import answer_likelihood
from plumbrule.lm.logprobs import causal_lm, output_logits, trunk
from plumbrule.lm.policy import Policy
from plumbrule.lm.unpadded import attention

PASS_TOKENS = {"cpu": 512}
"""Most tokens of a forward pass by type of device, where a run has not more of its own. The mask
lets all of them meet, so on a CPU long passes cost more attention than they save."""
OTHER_PASS_TOKENS = 4096


class PrefixGroup(NamedTuple):
    """Neighbouring prompts with a common beginning, as token ids behind the cached prefix."""

    places: tuple[int, ...]
    """Of the prompts, among all."""
    shared: tuple[int, ...]
    """What all of them begin with."""
    rest: tuple[tuple[int, ...], ...]
    """What each has behind that; at least one token."""

    @property
    def num_tokens(self) -> int:
        """Return how many tokens are computed."""
        return len(self.shared) + sum(map(len, self.rest))


@torch.inference_mode()
def log_odds(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    one: Sequence[int],
    other: Sequence[int],
    *,
    max_rows: int,
    advance: Callable[[int], None],
    pass_tokens: int | None = None,
) -> np.ndarray:
    """Return log p(one | prompt) - log p(other | prompt), (n,) float64, in nats.

    Args: prompts, one, other: token ids; neighbours should be those that begin alike. max_rows:
        prompts per pass where each is scored alone. advance: is told how many more prompts are
        done. pass_tokens: most tokens of a pass; None: by the device. A pass that does not fit the
        device's memory is done in halves.
    Raises: ConfigError: one word begins the other, or is the same. torch.OutOfMemoryError: a single
        run does not fit the device's memory.
    """
    answer_likelihood.require_apart(one, other)
    if not can_share(policy, one, other) or len(prompts) < 2:
        return answer_likelihood.log_odds(
            policy, prompts, one, other, max_rows=max_rows, advance=advance
        )
    rows = [[*prompt, *one[:-1]] for prompt in prompts]
    common = common_length(rows)
    runs = find_runs(rows, common)
    most = pass_tokens or PASS_TOKENS.get(policy.model.device.type, OTHER_PASS_TOKENS)
    cache = read_prefix(policy, rows[0][:common], max(most, *(run.num_tokens for run in runs)))
    scores = np.zeros(len(prompts))
    for batch in batches(runs, most):
        for part, hidden in states(policy, cache, common, batch):
            logits = output_logits(policy.model, hidden)
            found = logits[:, one[-1]] - logits[:, other[-1]]
            places = [place for run in part for place in run.places]
            scores[places] = found.double().cpu().numpy()
            advance(len(places))
    return scores


def can_share(policy: Policy, one: Sequence[int], other: Sequence[int]) -> bool:
    """Return whether the words differ in their last token only, and the model takes our masks."""
    model = policy.model
    takes = attention.is_unpadded(causal_lm(model)) and not is_recomputed(model)
    return takes and len(one) == len(other) and list(one[:-1]) == list(other[:-1])


def common_length(rows: Sequence[Sequence[int]]) -> int:
    """Return how many first tokens all rows share, each keeping one of its own."""
    low, high = min(map(list, rows)), max(map(list, rows))  # the two that differ first
    return min(_alike(low, high), min(map(len, rows)) - 1)


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the number of tokens before the first in which two rows differ."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def find_runs(rows: Sequence[Sequence[int]], common: int) -> list[PrefixGroup]:
    """Return runs of neighbouring rows; one that shares less with the first than the second does
    begins the next.
    """
    runs: list[PrefixGroup] = []
    begin = 0
    while begin < len(rows):
        end, shared = begin + 1, 0
        while end < len(rows):
            first, row = rows[begin], rows[end]
            alike = min(_alike(first, row), len(row) - 1, len(first) - 1) - common
            if alike < max(1, shared):
                break
            shared = shared or alike  # of the first two; later ones must share as much
            end += 1
        cut = common + shared
        runs.append(
            PrefixGroup(
                tuple(range(begin, end)),
                tuple(rows[begin][common:cut]),
                tuple(tuple(row[cut:]) for row in rows[begin:end]),
            )
        )
        begin = end
    return runs


def batches(runs: Sequence[PrefixGroup], most_tokens: int) -> Iterator[list[PrefixGroup]]:
    """Yield runs, in order, that hold at most so many tokens together; a longer one comes alone."""
    batch: list[PrefixGroup] = []
    tokens = 0
    for run in runs:
        if batch and tokens + run.num_tokens > most_tokens:
            yield batch
            batch, tokens = [], 0
        batch.append(run)
        tokens += run.num_tokens
    if batch:
        yield batch


def read_prefix(policy: Policy, prefix: Sequence[int], room: int) -> DynamicCache:
    """Return a cache that holds the prefix, with room for so many tokens behind it."""
    model = policy.model
    cache = new_cache(causal_lm(model).config, len(prefix) + room)
    if prefix:
        tokens = torch.tensor([list(prefix)], device=model.device)
        whole = trunk(model)
        given: dict[str, Any] = {cache_argument(whole): cache}
        whole(input_ids=tokens, use_cache=True, **given)
    return cache


def states(
    policy: Policy, cache: DynamicCache, common: int, batch: list[PrefixGroup]
) -> Iterator[tuple[list[PrefixGroup], Tensor]]:
    """Yield (runs, hidden states (n, h) at the ends of their prompts); halves where memory ends."""
    try:
        found = read_runs(policy, cache, common, batch)
    except torch.OutOfMemoryError:
        rewind(cache, common)
        if len(batch) == 1:
            raise
        found = None
    if found is not None:
        yield batch, found
        return
    half = len(batch) // 2
    for part in (batch[:half], batch[half:]):
        yield from states(policy, cache, common, part)


def read_runs(
    policy: Policy, cache: DynamicCache, common: int, batch: Sequence[PrefixGroup]
) -> Tensor:
    """Return the last hidden states (n, h) at the ends of the n prompts of a batch, in order."""
    tokens: list[int] = []
    position: list[int] = []
    run_of: list[int] = []
    branch_of: list[int] = []  # of its run, 0 for what is shared
    ends: list[int] = []
    for number, run in enumerate(batch):
        shared = len(run.shared)
        for branch, part in enumerate((run.shared, *run.rest)):
            begin = common + (shared if branch else 0)
            tokens += part
            position += range(begin, begin + len(part))
            run_of += [number] * len(part)
            branch_of += [branch] * len(part)
            if branch:
                ends.append(len(tokens) - 1)
    device = policy.model.device
    mask = visible(
        torch.tensor(run_of, device=device), torch.tensor(branch_of, device=device), common
    )
    whole = trunk(policy.model)
    given: dict[str, Any] = {cache_argument(whole): cache}
    hidden = whole(
        input_ids=torch.tensor([tokens], device=device),
        position_ids=torch.tensor([position], device=device),
        attention_mask=mask[None, None],
        use_cache=True,
        **given,
    ).last_hidden_state[0]
    rewind(cache, common)
    return cast(Tensor, hidden[torch.tensor(ends, device=device)])


def rewind(cache: DynamicCache, length: int) -> None:
    """Let a cache hold its first tokens only; the next ones are written behind them.

    (`crop` takes another sign in other versions of transformers, and nothing before any token.)
    """
    for layer in cast(list[DynamicLayer], cache.layers):
        if layer.keys is not None and layer.values is not None:
            layer.keys, layer.values = layer.keys[:, :, :length], layer.values[:, :, :length]


def visible(run_of: Tensor, branch_of: Tensor, common: int) -> Tensor:
    """Return which of `common` cached tokens and n own ones each own token sees, (n, common + n).

    Args: run_of, branch_of: (n,) int64; branch 0 is seen by all branches of its run.
    """
    number = len(run_of)
    earlier = torch.ones(number, number, dtype=torch.bool, device=run_of.device).tril()
    same_run = run_of[:, None] == run_of
    seen = (branch_of == 0) | (branch_of[:, None] == branch_of)
    return torch.cat([earlier.new_ones(number, common), earlier & same_run & seen], 1)
