"""The one log-softmax of the project: what a model thinks of tokens that are given.

Sampling, SFT, reward models, PPO and evaluation all read log-probs, and the ratio of PPO is right
only if they agree. So there is one function, `logprobs`, and three rules. Masks are data: they are
built from lengths (`pad_rows`) and never from `ids != pad`, so a pad id may be any token, also the
terminal one. Positions count real tokens, so it does not matter on which side or how far a row is
padded. The same temperature divides the logits everywhere (N Implementation Details of RLHF with
PPO, policy training 1).

The vocabulary is by far the widest dimension, so the head sees only the hidden states from which
a target is predicted, in slices of `_SLICE_LOGITS` numbers, of whose log-softmax the targets' are
gathered: no (b, l, v) tensor ever exists. Slices of a long batch are computed again in
the backward pass rather than kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from plumbrule.errors import ConfigError
from plumbrule.lm.unpadded import attention, passes

if TYPE_CHECKING:
    from peft import PeftModel

_SLICE_LOGITS = 2**25
"""Most logits held at once: 128 MiB in float32."""


class TokenScores(NamedTuple):
    """What `logprobs` returns, both (b, l) float32 in nats and 0 where no target is.

    entropy is that of the whole next-token distribution; None unless asked for.
    """

    logprobs: Tensor
    entropy: Tensor | None


def logprobs(
    model: nn.Module,
    tokens: Tensor,
    real_mask: Tensor,
    target_mask: Tensor,
    temperature: float = 1.0,
    entropy: bool = False,
    hidden: Tensor | None = None,
    entropy_gradient: bool = False,
) -> TokenScores:
    """Return log p(tokens[i, t] | real tokens of row i before t) wherever `target_mask` is True.

    Differentiable. Float32 whatever the model's precision (float64 for a float64 model).

    Args:
        tokens: (b, l) int64; slots that are not real may hold any id of the vocabulary.
        real_mask: (b, l) bool, True = a token of the row; one unbroken run per row.
        target_mask: (b, l) bool, True = score this token.
        temperature: divides the logits, above 0.
        entropy: whether to compute entropies too.
        hidden: (b, l, h), the last hidden states where they are known already.
        entropy_gradient: whether entropies are differentiable too.

    Raises: ConfigError: temperature is not above 0. ValueError: a target is padding, or the first
        token of its row.
    """
    if not temperature > 0:
        raise ConfigError(
            f"temperature (={temperature}) must be above 0 in log-probs; use 1 for greedy samples."
        )
    if (target_mask[:, :1].any() | (target_mask[:, 1:] & ~real_mask[:, :-1]).any()).item():
        raise ValueError("target_mask must be True only where a real token stands before it.")
    rows, columns = target_mask.nonzero(as_tuple=True)
    blank = tokens.new_zeros(tokens.shape, dtype=torch.float32)
    if not len(rows):
        return TokenScores(blank, blank if entropy else None)
    # Attention is causal, so nothing after the last target and nothing in columns that are padding
    # in every row can matter: they are not computed.
    first, last = 0, int(columns.max())
    if hidden is None:
        first = _first_column(real_mask)
        hidden = hidden_states(
            model,
            tokens[:, first:last],
            real_mask[:, first:last],
            wanted=target_mask[:, first + 1 : last + 1],
        )
    inputs = hidden[rows, columns - 1 - first]
    wanted = tokens[rows, columns]

    head = output_embeddings(model)
    num_rows = max(1, _SLICE_LOGITS // head.weight.shape[0])
    score = partial(_score, entropy=entropy, entropy_gradient=entropy_gradient)
    slices = []
    for start in range(0, len(wanted), num_rows):
        part = slice(start, start + num_rows)
        if len(wanted) > num_rows and torch.is_grad_enabled():
            slices.append(
                checkpoint(
                    score, model, inputs[part], wanted[part], temperature, use_reentrant=False
                )
            )
        else:
            slices.append(score(model, inputs[part], wanted[part], temperature))
    found = torch.cat([s[0] for s in slices])
    index = (rows, columns)
    scored = torch.zeros_like(blank, dtype=found.dtype).index_put(index, found)
    if not entropy:
        return TokenScores(scored, None)
    entropies = torch.cat([s[1] for s in slices])
    return TokenScores(
        scored, torch.zeros_like(blank, dtype=entropies.dtype).index_put(index, entropies)
    )


def _score(
    model: nn.Module,
    inputs: Tensor,
    wanted: Tensor,
    temperature: float,
    *,
    entropy: bool,
    entropy_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Return log-probs (n,) of `wanted` (n,) and entropies (n,) after hidden states (n, h)."""
    logits = output_logits(model, inputs)
    if temperature != 1.0:
        logits = logits / temperature
    every = logits.log_softmax(-1)
    found = every.gather(-1, wanted[:, None])[:, 0]
    if not entropy:
        return found, found.detach()
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        # A token of probability 0 has an infinite nll, and 0 * inf is NaN, as its gradient is.
        nll = torch.where(every > -torch.inf, -every, 0.0)
        entropies = (nll.neg().exp() * nll).sum(-1)
    return found, entropies


def hidden_states(
    model: nn.Module,
    tokens: Tensor,
    real_mask: Tensor,
    frozen_states: Tensor | None = None,
    shared: Tensor | None = None,
    wanted: Tensor | None = None,
) -> Tensor:
    """Return the last hidden states (b, l, h) of the trunk; slots that are not real hold anything.

    A model that runs unpadded (`plumbrule/lm/unpadded`) computes the real tokens only.

    Args: model: a causal language model or a bare trunk, PEFT-wrapped or not. tokens: (b, l) int64.
        real_mask: (b, l) bool. frozen_states: (n, h), hidden states at the n real tokens, row by
        row, of frozen lower layers that `model` then lacks; for models that run unpadded. shared:
        (b,) int64, how many first tokens a row has in common with the last row before it that
        shares none; a model that runs unpadded computes them once. wanted: (b, l) bool, True = it
        is read, so that others may hold anything; None: all real ones are.
    """
    if attention.is_unpadded(causal_lm(model)):
        return passes.hidden_states(trunk(model), tokens, real_mask, frozen_states, shared, wanted)
    assert frozen_states is None
    return _padded_states(trunk(model), tokens, real_mask)


def _padded_states(trunk: nn.Module, tokens: Tensor, real_mask: Tensor) -> Tensor:
    """Return the last hidden states (b, l, h) of a causal trunk, its rows padded on the right.

    Nothing that stands behind a token can matter to it, so no mask is needed, and each row stands
    where the model's own positions count it, whatever they begin with.
    """
    first = real_mask.to(torch.uint8).argmax(1, keepdim=True)
    columns = torch.arange(tokens.shape[1], device=tokens.device)
    width = int(real_mask.sum(1).max())
    shifted = tokens.gather(1, (columns[:width] + first).clamp(max=tokens.shape[1] - 1))
    hidden = trunk(input_ids=shifted, use_cache=False).last_hidden_state
    back = (columns - first).clamp(0, width - 1)
    return hidden.gather(1, back[:, :, None].expand(-1, -1, hidden.shape[-1]))


def positions(real_mask: Tensor) -> Tensor:
    """Return position ids (b, l) int64 that count real tokens from 0; padding holds a valid one."""
    return (real_mask.long().cumsum(-1) - 1).clamp(min=0)


def causal_lm(model: nn.Module) -> PreTrainedModel:
    """Return the transformers model inside `model`, with the adapters injected into it.

    Raises: ConfigError: the adapter prepends virtual tokens, which lie outside that model.
    """
    if not type(model).__module__.startswith("peft."):
        return cast(PreTrainedModel, model)
    wrapper = cast("PeftModel", model)
    if wrapper.active_peft_config.is_prompt_learning:
        raise ConfigError(
            f"adapter (={wrapper.active_peft_config.peft_type}) must live inside the model's "
            "layers; use LoRA or IA3."
        )
    return cast(PreTrainedModel, wrapper.get_base_model())


def trunk(model: nn.Module) -> nn.Module:
    """Return the part of `model` that ends in hidden states."""
    return cast(nn.Module, causal_lm(model).base_model)


def output_embeddings(model: nn.Module) -> nn.Linear:
    """Return the layer that turns hidden states into logits."""
    return cast(nn.Linear, causal_lm(model).get_output_embeddings())


def hidden_width(model: nn.Module) -> int:
    """Return the size of the last hidden states; OPT-350m's are narrower than its layers."""
    return int(output_embeddings(model).weight.shape[-1])


def output_logits(model: nn.Module, hidden: Tensor) -> Tensor:
    """Return logits (..., v) of hidden states (..., h), at least float32.

    Scales and caps that some families apply after the head (Cohere, Falcon H1, Granite, Gemma 2,
    RecurrentGemma) are applied; `model_probe.py` refuses a family with anything else there.
    """
    head = output_embeddings(model)
    if torch.promote_types(hidden.dtype, head.weight.dtype) != head.weight.dtype:
        hidden = hidden.to(head.weight.dtype)  # Mamba's residuals are float32 in narrower models
    logits = head(hidden)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    config = causal_lm(model).config
    for name in ("logit_scale", "lm_head_multiplier"):
        if scale := getattr(config, name, None):
            logits = logits * scale
    if divisor := getattr(config, "logits_scaling", None):
        logits = logits / divisor
    for name in ("final_logit_softcapping", "logits_soft_cap"):
        if cap := getattr(config, name, None):
            logits = torch.tanh(logits / cap) * cap
    return logits


def next_logprobs(model: nn.Module, hidden: Tensor, tokens: Sequence[int]) -> Tensor:
    """Return log p of each of `tokens` as the next one after hidden states (n, h): (n, k) nats."""
    logits = output_logits(model, hidden)
    return logits[:, list(tokens)] - logits.logsumexp(-1, keepdim=True)


def _first_column(real_mask: Tensor) -> int:
    """Return the first column in which some row is real."""
    return int(real_mask.any(0).to(torch.uint8).argmax())


def pad_rows(
    rows: Sequence[Sequence[int]], pad_id: int, side: str = "right"
) -> tuple[Tensor, Tensor]:
    """Return rows as one (b, l) int64 tensor, and the bool mask of what is real, from the lengths.

    Args: side: where the padding goes, "left" or "right".
    Raises: ValueError: another side.
    """
    if side not in ("left", "right"):
        raise ValueError(f"side (={side!r}) must be left or right.")
    lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
    width = int(lengths.max(initial=0))
    columns = np.arange(width)[None, :]
    limit = lengths[:, None]
    mask = columns >= width - limit if side == "left" else columns < limit
    tokens = np.full((len(rows), width), pad_id, dtype=np.int64)
    tokens[mask] = [token for row in rows for token in row]
    return torch.from_numpy(tokens), torch.from_numpy(mask)


def buckets(
    lengths: Sequence[int], max_rows: int, max_tokens: int | None = None
) -> list[list[int]]:
    """Return lists of row indices, longest rows first, so that rows of one list pad little.

    A list holds at most `max_rows` rows, and at most `max_tokens` tokens once padded to its longest
    (a single longer row still gets a list of its own). Equal lengths keep their order.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    lists: list[list[int]] = []
    capacity = 0
    for i in order:
        if not lists or len(lists[-1]) >= capacity:
            lists.append([])
            fit = max_rows if max_tokens is None else max_tokens // max(1, lengths[i])
            capacity = max(1, min(max_rows, fit))
        lists[-1].append(i)
    return lists
