"""The one sampler: responses whose tokens depend on their own key and on nothing else.

What was decided. A token is picked by inverse CDF in float64 with one uniform number per (key,
token index), so batch size, neighbours, order, processes and restarts change no response beyond
float rounding. Nothing is truncated (no top-k, no top-p): a truncated distribution has no KL. The
log-prob of each token is read off at the moment it is sampled, at the sampling temperature; logits
are never stored.

What makes it quick. Prompts of like length share a batch; equal prompts in a batch (K samples of
one prompt) are read once and their cache is repeated; only the last position gets logits; rows
that have ended leave the batch, cache and all, as soon as fewer than `_KEEP` of the rows live, so
each row is copied a bounded number of times. With limits of their own they leave also where the
context of one is full, since a model with learned positions has none behind it.

Prompts are padded on the left, so that the next token of every row falls into the same column;
masks and positions come from lengths, and the pad id never matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from plumbrule.errors import ConfigError, TrainingError
from plumbrule.lm.config import SamplingConfig
from plumbrule.lm.generation import continuous_batching
from plumbrule.lm.generation.continued_rows import RowCache, continue_rows
from plumbrule.lm.generation.kv_cache import GrowingRows, is_read_anew, read_rows
from plumbrule.lm.generation.token_sampling import pick
from plumbrule.lm.logprobs import buckets, output_logits
from plumbrule.lm.policy import Policy
from plumbrule.lm.randomness import uniforms
from plumbrule.protocols import ProgressLine
from plumbrule.timing import timed

_KEEP = 0.75
"""Share of live rows below which ended rows leave the batch."""


class Sample(NamedTuple):
    """One response: its tokens (terminal token included if sampled), their log-probs in nats.

    finished: it ended with a stop token, not at max_new_tokens.
    """

    tokens: list[int]
    logprobs: list[float]
    finished: bool


class Until(Protocol):
    """Where a response ends besides at a stop token; it is then not `finished`."""

    @property
    def token_ids(self) -> Sequence[int]:
        """Return the only tokens behind which it can end."""

    def ends(self, tokens: Sequence[int]) -> bool:
        """Return whether a response of these tokens ends with the last of them."""


def generate(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    *,
    sampling: SamplingConfig,
    keys: Sequence[int],
    progress: ProgressLine | None = None,
    until: Until | None = None,
    limits: Sequence[int] | None = None,
    caches: Sequence[RowCache] | None = None,
) -> list[Sample]:
    """Return one sample per prompt, in the order of the prompts.

    Temperature 0 takes the likeliest token (the first of equals) and gives log-probs at
    temperature 1.

    Args:
        prompts: token ids, as `policy.encode` gives them.
        keys: one 64-bit key per prompt (`randomness.row_key`); equal keys and prompts give equal
            responses.
        progress: advanced by the number of responses as batches end.
        until: where a response ends too; None: at stop tokens alone. With it, or with limits,
            accelerators decode in batches, without the slots of continuous batching.
        limits: tokens of each response, at most, each in [1, max_new_tokens]; None:
            max_new_tokens.
        caches: one per prompt. A prompt that begins with what one holds is read from there on; it
            is left with what was read of a response that ended as `until` says, else empty. None:
            nothing is kept.

    Raises: ConfigError: a prompt is empty, or too long for the policy's context with
        `max_new_tokens`. ValueError: keys and prompts differ in number. TrainingError: the policy
        gives NaN.
    """
    if len(keys) != len(prompts):
        raise ValueError(f"keys (={len(keys)}) must number as many as prompts (={len(prompts)}).")
    most = [sampling.max_new_tokens] * len(prompts) if limits is None else list(limits)
    check_lengths(policy, prompts, most)
    if not prompts:
        return []
    plain = until is None and limits is None
    if is_read_anew(policy.model):
        caches = None
    samples: list[Sample | None] = [None] * len(prompts)
    was_training = policy.model.training
    policy.model.eval()  # in training mode, gradient checkpointing would switch the cache off
    try:
        on_slots = policy.model.device.type == "cuda" and continuous_batching.can_decode(policy)
        if plain and on_slots:
            return decode_in_slots(policy, prompts, sampling, keys, progress)
        for batch in buckets([len(prompt) for prompt in prompts], sampling.batch_size):
            chosen = np.array([keys[i] for i in batch], dtype=np.uint64)
            rows, own = [prompts[i] for i in batch], [most[i] for i in batch]
            kept = None if caches is None else [caches[i] for i in batch]
            decoded = _decode(policy, rows, sampling, chosen, own, until, kept)
            for i, sample in zip(batch, decoded, strict=True):
                samples[i] = sample
            if progress is not None:
                progress.advance(len(batch))
    finally:
        policy.model.train(was_training)
    return [sample for sample in samples if sample is not None]


def check_lengths(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    limits: int | Sequence[int],
    named: str = "",
) -> None:
    """Raise ConfigError unless every prompt holds a token and fits with its response.

    Args: limits: tokens of a response, at most, or of each. named: the settings that make them,
    with their values; "": sampling.max_new_tokens.
    """
    most = [limits] * len(prompts) if isinstance(limits, int) else limits
    for i, (prompt, limit) in enumerate(zip(prompts, most, strict=True)):
        if not prompt:
            raise ConfigError(f"prompt {i} (=0 tokens) must hold a token; check its chat template.")
        if len(prompt) + limit > policy.spec.context:
            response = named or f"sampling.max_new_tokens (={limit} tokens)"
            raise ConfigError(
                f"prompt {i} (={len(prompt)} tokens) with {response} must fit the context "
                f"(={policy.spec.context} tokens); shorten {'one' if named else 'either'}, show "
                "fewer passages, or raise model.context."
            )


@torch.inference_mode()
def _decode(
    policy: Policy,
    prompts: list[Sequence[int]],
    sampling: SamplingConfig,
    keys: np.ndarray,
    limits: Sequence[int],
    until: Until | None,
    caches: Sequence[RowCache] | None,
) -> list[Sample]:
    """Return one sample per prompt of a batch, in order."""
    model, limit = policy.model, max(limits)
    device = model.device
    full = {policy.spec.context - len(prompt) for prompt in prompts}  # tokens that fill a context
    stops = torch.tensor(policy.spec.stop_token_ids, device=device)
    draws = torch.from_numpy(uniforms(keys[:, None], np.arange(limit)[None, :])).to(device)

    num_rows = len(prompts)
    tokens = torch.zeros(num_rows, limit, dtype=torch.int64, device=device)
    logprobs = torch.zeros(num_rows, limit, dtype=torch.float32, device=device)
    lengths = torch.zeros(num_rows, dtype=torch.int64, device=device)
    ended = torch.zeros(num_rows, dtype=torch.bool, device=device)
    left = torch.zeros_like(ended)  # at their limit, or where `until` says
    most = torch.tensor(limits, device=device)
    ends = torch.tensor([] if until is None else list(until.token_ids), device=device)

    # 1 Read each different prompt once, then give every row its own copy of the cache; or go on
    # where an earlier turn ended.
    with timed("prefill"):
        if caches is not None and all(cache.num_tokens for cache in caches):
            growing: GrowingRows = continue_rows(model, prompts, caches, policy.pad_id, limit)
        else:
            growing = read_rows(model, prompts, policy.pad_id, limit)
    for cache in caches or ():
        cache.layers = ()
    rows = torch.arange(num_rows, device=device)  # which sample each row of the batch is

    with timed("decode"):
        for t in range(limit):
            # 2 Pick token t of every row in the batch.
            logits = output_logits(model, growing.hidden)
            picked, found = pick(logits, sampling.temperature, draws[rows, t])
            tokens[rows, t], logprobs[rows, t] = picked, found
            gone = (ended | left)[rows]  # rows that ended earlier: what they pick is not read
            lengths[rows] = torch.where(gone, lengths[rows], t + 1)
            ended[rows] |= ~gone & torch.isin(picked, stops)
            left[rows] |= most[rows] <= t + 1
            if until is not None:
                for place in (~gone & torch.isin(picked, ends)).nonzero()[:, 0].tolist():
                    row = int(rows[place])
                    if until.ends(tokens[row, : t + 1].tolist()):
                        left[row] = True
                        if caches is not None and growing.cache is not None:
                            caches[row].keep(growing.cache, place, *growing.columns_of(place))
            # 3 Rows that have ended leave, once they are many or one has no position left.
            live = ~(ended | left)[rows]
            num_live = int(live.sum())  # the one wait for the device per token
            if num_live == 0 or t + 1 == limit:
                break
            if num_live < _KEEP * len(rows) or (t + 1 in full and num_live < len(rows)):
                kept = places_kept(live, num_live)
                rows, picked = rows[kept], picked[kept]
                growing.keep(kept)
            # 4 Read the picked tokens.
            growing.step(picked)

    return _samples(tokens, logprobs, lengths, ended)


def places_kept(live: Tensor, number: int) -> Tensor:
    """Return the places (number,) int64 of live rows so that as few as can be have to move.

    Those among the first `number` stay; others take the places of rows that have ended.
    Args: live: (b,) bool.
    """
    places = torch.arange(number, device=live.device)
    holes = (~live[:number]).nonzero()[:, 0]
    places[holes] = live[number:].nonzero()[:, 0] + number
    return places


@torch.inference_mode()
def decode_in_slots(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingConfig,
    keys: Sequence[int],
    progress: ProgressLine | None = None,
) -> list[Sample]:
    """Return what `generate` does, by continuous batching in `sampling.batch_size` slots."""
    given = np.array(keys, dtype=np.uint64)[:, None]
    draws = torch.from_numpy(uniforms(given, np.arange(sampling.max_new_tokens)[None, :]))
    decoder = continuous_batching.Decoder(
        policy, prompts, draws.to(policy.model.device), sampling.temperature, sampling.batch_size
    )
    decoder.run(progress)
    found = (decoder.tokens, decoder.logprobs, decoder.lengths, decoder.finished)
    return _samples(*(some[: len(prompts)] for some in found))


def _samples(tokens: Tensor, logprobs: Tensor, lengths: Tensor, finished: Tensor) -> list[Sample]:
    """Return the first tokens (b, l) of each row, their log-probs (b, l), and whether it ended.

    Raises: TrainingError: a log-prob is NaN.
    """
    if logprobs.isnan().any():
        raise TrainingError(
            "the policy's log-probs must be numbers; its weights or logits are NaN."
        )
    return [
        Sample(row[:length], scores[:length], end)
        for row, scores, length, end in zip(
            tokens.tolist(), logprobs.tolist(), lengths.tolist(), finished.tolist(), strict=True
        )
    ]
