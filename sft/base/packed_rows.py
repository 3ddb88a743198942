"""Packed rows through the model: each token is predicted from its own document alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaForCausalLM

from sft.base.packing import Packed


class MicroBatch(NamedTuple):
    """Rows on the device. All (b, t): tokens int64, weights float32, documents int32."""

    tokens: Tensor
    weights: Tensor
    documents: Tensor


def to_tensors(
    rows: Packed, chosen: np.ndarray, micro_batch_size: int, device: torch.device
) -> Iterator[MicroBatch]:
    """Yield the chosen rows, `micro_batch_size` at a time."""
    for at in range(0, len(chosen), micro_batch_size):
        some = chosen[at : at + micro_batch_size]
        yield MicroBatch(
            torch.from_numpy(rows.tokens[some]).to(device, torch.int64),
            torch.from_numpy(rows.weights[some]).to(device),
            torch.from_numpy(rows.documents[some]).to(device),
        )


def token_nll(model: LlamaForCausalLM, tokens: Tensor, documents: Tensor, wanted: Tensor) -> Tensor:
    """Return the negative log-likelihood (n,) float32 of the n tokens where `wanted` is True.

    Arguments and order as in `token_logits`.
    """
    logits = token_logits(model, tokens, documents, wanted)
    return F.cross_entropy(logits.float(), tokens[:, 1:][wanted[:, 1:]], reduction="none")


def token_logits(
    model: LlamaForCausalLM, tokens: Tensor, documents: Tensor, wanted: Tensor
) -> Tensor:
    """Return the logits (n, v) that predict the n tokens where `wanted` is True.

    Each token is predicted from the earlier tokens of its own document. Column 0 is never wanted.
    Padding, numbered as one more document, sees itself, so no row of attention is empty.

    Args: tokens, documents: (b, t) integers. wanted: (b, t) bool. Order of the result: row-major.
    """
    attention, positions = block_diagonal(documents)
    if model.config._attn_implementation == "eager":  # it adds the mask to the scores
        attention = torch.zeros(attention.shape, device=attention.device).masked_fill(
            ~attention, torch.finfo(torch.float32).min
        )
    hidden = model.model(
        input_ids=tokens, attention_mask=attention, position_ids=positions, use_cache=False
    ).last_hidden_state
    return model.lm_head(hidden[:, :-1][wanted[:, 1:]])


def block_diagonal(documents: Tensor) -> tuple[Tensor, Tensor]:
    """Return what keeps documents apart: attention (b, 1, t, t) bool and positions (b, t) int64.

    attention[i, 0, q, k] is True where token q sees token k: same document, k <= q. positions count
    from 0 at each document's first token. Documents must be contiguous.
    """
    length = documents.shape[1]
    place = torch.arange(length, device=documents.device)
    same = documents[:, None, :, None] == documents[:, None, None, :]
    attention = same & (place[:, None] >= place[None, :])
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    started = torch.where(begins, place, 0).cummax(dim=1).values
    return attention, place - started
