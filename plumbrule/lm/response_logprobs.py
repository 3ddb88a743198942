"""Log-probs of given responses: rows of token ids, and the one way to score their responses.

A row is the prompt that the policy would be sampled from and a response, with its terminal token
where it ended by itself. Fine-tuning, DPO, PPO-ptx, the KL of a benchmark and a judge's verdict all
ask how likely a policy finds a row's response, and differ in what they make of it:

- `response_logprobs` returns one number per row, without a gradient;
- `score_batches` and `token_logprobs` return the log-prob of each token, with one;
- `score_passes` does so for rows that a trainer's collator has padded.

Rows of like length share a pass, so that little of it is padding. The passes of a set of rows
depend on their lengths and on the number of rows per pass alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from plumbrule.data.records import Message
from plumbrule.lm.logprobs import buckets, causal_lm, logprobs, pad_rows
from plumbrule.lm.policy import Policy
from plumbrule.lm.token_rows import TokenRow
from plumbrule.lm.unpadded import attention

PADDED_ROWS = 8
"""Most rows per pass of a model that computes padding, where the caller has no other number."""


class PaddedRows(NamedTuple):
    """Rows as tensors (b, l): token ids int64, and what is real and what is response, bool.

    Tokens of a response that its policy does not write are no response here.
    """

    tokens: Tensor
    real_mask: Tensor
    response_mask: Tensor


def token_row(
    policy: Policy,
    messages: Sequence[Message],
    passages: Sequence[str],
    response: str,
    terminal: bool = True,
) -> TokenRow:
    """Return the row of a text. Args: terminal: whether the response ended by itself.

    Raises: DataError: the chat template refuses the chat.
    """
    prompt = policy.encode(messages, passages)
    return TokenRow(tuple(prompt), tuple(policy.encode_response(response, terminal)))


def pad_token_rows(rows: Sequence[TokenRow], pad_id: int, device: torch.device) -> PaddedRows:
    """Return the rows padded on the right to the longest, in their order."""
    tokens, real_mask = pad_rows([[*row.prompt, *row.response] for row in rows], pad_id)
    begins = torch.tensor([[len(row.prompt)] for row in rows])
    response_mask = real_mask & (torch.arange(tokens.shape[1]) >= begins)
    for place, row in enumerate(rows):
        if row.action_mask is not None:
            response_mask[place, len(row.prompt) : row.num_tokens] = torch.tensor(row.action_mask)
    return PaddedRows(tokens.to(device), real_mask.to(device), response_mask.to(device))


def token_logprobs(policy: Policy, rows: Sequence[TokenRow], temperature: float = 1.0) -> Tensor:
    """Return the log-probs (b, l) of the response tokens in one pass, nats, 0 elsewhere.

    Differentiable. Args: temperature: divides the logits.
    """
    batch = pad_token_rows(rows, policy.pad_id, policy.model.device)
    return logprobs(policy.model, *batch, temperature=temperature).logprobs


def score_batches(
    policy: Policy,
    rows: Sequence[TokenRow],
    rows_per_pass: int,
    *,
    temperature: float = 1.0,
    precision: str = "float32",
) -> Iterator[tuple[list[int], Tensor]]:
    """Yield (places in `rows`, `token_logprobs` of these), the longest rows first.

    Args: precision: bfloat16 computes under autocast.
    """
    for places in buckets([row.num_tokens for row in rows], rows_per_pass):
        device_type = policy.model.device.type
        with torch.autocast(device_type, torch.bfloat16, enabled=precision == "bfloat16"):
            found = token_logprobs(policy, [rows[i] for i in places], temperature)
        yield places, found


def score_passes(
    model: nn.Module, batch: PaddedRows, rows_per_pass: int, *, precision: str = "float32"
) -> Iterator[tuple[list[int], Tensor]]:
    """Yield (places in the batch, log-probs (n, w) of their response tokens), the longest first.

    Differentiable. As `score_batches`, for rows that are padded on the right already.
    """
    lengths = batch.real_mask.sum(1).tolist()
    for places in buckets(lengths, rows_per_pass):
        cut = (torch.tensor(places, device=batch.tokens.device), slice(lengths[places[0]]))
        with torch.autocast(
            batch.tokens.device.type, torch.bfloat16, enabled=precision == "bfloat16"
        ):
            scores = logprobs(
                model, batch.tokens[cut], batch.real_mask[cut], batch.response_mask[cut]
            )
        yield places, scores.logprobs


def sum_rows(
    passes: Iterable[tuple[list[int], Tensor]], dtype: torch.dtype | None = None
) -> Tensor:
    """Return the sum of each row's log-probs (n,), in the order of the rows.

    Args: dtype: what is summed in and returned; None: that of the log-probs.
    """
    order: list[int] = []
    found: list[Tensor] = []
    for places, nats in passes:
        order += places
        found.append(nats.sum(1) if dtype is None else nats.to(dtype).sum(1))
    if not found:
        return torch.zeros(0, dtype=dtype)
    return torch.cat(found)[torch.tensor(order, device=found[0].device).argsort()]


@torch.no_grad()
def response_logprobs(
    policy: Policy,
    rows: Sequence[TokenRow],
    micro_batch_size: int,
    *,
    temperature: float = 1.0,
    precision: str = "float32",
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return log p(response | prompt) of each row (n,), nats, without a gradient.

    Args: micro_batch_size: rows per pass. temperature: divides the logits. precision: bfloat16
        computes under autocast. dtype: as in `sum_rows`.
    """
    passes = score_batches(
        policy, rows, micro_batch_size, temperature=temperature, precision=precision
    )
    return sum_rows(passes, dtype)


@torch.no_grad()
def mean_nll(policy: Policy, rows: Sequence[TokenRow], micro_batch_size: int) -> float:
    """Return the mean negative log-likelihood of all response tokens, nats per token.

    The mean is over tokens, not over batches or rows, so it does not depend on how they are dealt
    out. Terminal tokens count. `rows` must hold a response token.
    """
    nats = 0.0
    for _, found in score_batches(policy, rows, micro_batch_size):
        nats -= found.double().sum().item()
    return nats / sum(row.num_actions for row in rows)


def efficient_rows(model: nn.Module, most: int) -> int:
    """Return how many of `most` rows to pass together: all where the model computes no padding."""
    return most if attention.is_unpadded(causal_lm(model)) else min(most, PADDED_ROWS)
