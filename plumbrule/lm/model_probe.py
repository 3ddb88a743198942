"""One probe of every model at load: are the log-probs we read the model's own?

Four things are not as in the model's own forward pass: rows run unpadded (`plumbrule/lm/unpadded`),
logits are made from hidden states (`output_logits`), rows share a batch, and sampling goes through
a left-padded KV cache. A family may break any of them without an error: it drops our layout and
attends to other rows, applies something behind its output layer, offsets its positions, or keeps a
state that no KV cache holds. A list of such families would be out of date with the next release.

So each model is asked. The reference is its own forward pass on one plain row, without padding,
positions or cache. Six short passes are compared with it, in the dtype and on the device in use:

1. Its own pass on the beginning of the row: a model that attends to later tokens is refused.
2. Rows padded on the right, through our output layer: a model whose logits are made in another way
   is refused by name.
3. Unpadded rows: where they differ, the model runs padded.
4. Prompts of two lengths, two of them equal, read into a cache and continued by two tokens: where
   that differs or fails, `generation` reads the whole row again for each token.
5. Two rows read in part into a cache and read on by several tokens, as between the turns of a
   policy that searches: where that differs, each turn reads its whole row again.
6. Unpadded rows of which only the last token's hidden state is wanted: where it is the model's own,
   the last layer computes wanted tokens only (`wanted_tokens.reading_at`).

A verdict is remembered for equal models (class, config, dtype, device and a sample of the weights).
The probe draws no random number and leaves the model as it was; one that changes its own weights
when it runs is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from plumbrule.errors import ConfigError
from plumbrule.lm.generation import kv_cache
from plumbrule.lm.generation.continued_rows import RowCache, continue_rows
from plumbrule.lm.logprobs import causal_lm, hidden_states, output_logits, pad_rows, trunk
from plumbrule.lm.unpadded import attention, wanted_tokens

LONG, SHORT = 9, 5
"""Tokens of the two rows."""
CONTINUED = 2
"""Tokens that are read one by one behind each prompt."""
EXACT, ROUNDED = 2e-3, 0.1
"""Largest difference from the model's own logits, as a share of their standard deviation: at every
token in float32 and float64, at half of the tokens in narrower dtypes, where experts may flip."""


class Passes(NamedTuple):
    """Which of our passes give the model's own logits."""

    unpadded: bool
    """Rows one behind the other; else padded on the right."""
    cached: bool
    """A left-padded KV cache; else each new token reads its whole row again."""
    continued: bool
    """Several tokens behind such a cache; else each turn reads its whole row again."""
    wanted: bool
    """The last layer at wanted tokens only; else at all."""


_verdicts: dict[str, Passes] = {}


def choose_passes(model: PreTrainedModel, pad_id: int) -> Passes:
    """Set `model` to the passes that give its own logits, and return them.

    Args: model: in eval mode, on its device, PEFT-wrapped or not, not sharded.
    Raises: ConfigError: its logits are not its output layer's on its hidden states, it attends to
        later tokens, it changes its own weights, or it does not run on a row of tokens.
    """
    lm = causal_lm(model)
    if attention.is_unpadded(lm):
        lm.set_attn_implementation(attention.PLAIN)
    key = _content(model)
    found = _verdicts.get(key)
    if found is None:
        devices = [] if lm.device.type == "cpu" else [lm.device]
        with torch.random.fork_rng(devices), torch.no_grad():
            found = _probe(model, pad_id)
        if _content(model) != key:
            raise _refused(lm, "must not change its own weights or config when it runs")
        _verdicts[key] = found
    if found.unpadded:
        attention.set_unpadded(lm)
    (wanted_tokens.follow_wanted if found.wanted else wanted_tokens.ignore_wanted)(trunk(model))
    kv_cache.set_recomputed(lm, not found.cached)
    kv_cache.set_read_anew(lm, not found.continued)
    return found


def _probe(model: PreTrainedModel, pad_id: int) -> Passes:
    lm = causal_lm(model)
    rows = _rows(lm, pad_id)
    try:
        own = [_own_logits(lm, row) for row in rows]
        begun = _own_logits(lm, rows[0][:SHORT])
    except Exception as error:  # whatever a family raises here means that it can't be used
        raise _refused(
            lm, f"must run on a plain row of tokens, but says: {_first_line(error)}"
        ) from None
    if not all(logits.isfinite().any(-1).all() for logits in own):
        return Passes(
            attention.can_unpad(lm), True, True, False
        )  # NaN weights: sampling and training say so
    if not _agree([begun], [own[0][:SHORT]], lm.dtype):
        raise _refused(lm, "must not attend to later tokens")
    try:
        padded = _scored(model, rows, pad_id)
    except Exception as error:
        raise _refused(lm, f"must end in hidden states, but says: {_first_line(error)}") from None
    if not _agree(padded, own, lm.dtype):
        raise _refused(
            lm,
            "must make its logits of its last hidden states by its output layer (and the scales "
            "and caps of its config) alone, but applies something else behind its trunk",
        )
    return Passes(
        unpadded=_holds(lambda: _agree(_unpadded(model, rows, pad_id), own, lm.dtype)),
        cached=_holds(lambda: _cache_agrees(model, rows, own, pad_id)),
        continued=_holds(lambda: _continues(model, rows, own, pad_id)),
        wanted=_holds(lambda: _wanted_agree(model, rows, own, pad_id)),
    )


def _holds(check: Callable[[], bool]) -> bool:
    """Return whether a check holds; one that fails with any error does not."""
    try:
        return check()
    except torch.OutOfMemoryError:
        raise
    except Exception:  # a family's own code, which this pass does not suit
        return False


def _rows(lm: PreTrainedModel, pad_id: int) -> list[list[int]]:
    """Return two rows of different tokens, spread over the vocabulary, without the pad id."""
    vocab = cast(nn.Embedding, lm.get_input_embeddings()).weight.shape[0]
    step = max(1, vocab // (LONG + SHORT + 1))
    ids = [i for i in range(vocab - 1, -1, -step) if i != pad_id] or [0]
    ids = (ids * (LONG + SHORT))[: LONG + SHORT]
    return [ids[:LONG], ids[LONG:]]


def _own_logits(lm: PreTrainedModel, row: list[int]) -> Tensor:
    """Return the model's own logits (l, v) of one row."""
    tokens = torch.tensor([row], device=lm.device)
    return lm(input_ids=tokens, use_cache=False).logits[0].float()


def _scored(model: nn.Module, rows: list[list[int]], pad_id: int) -> list[Tensor]:
    """Return logits (l, v) of each row, read as `logprobs` reads a padded batch."""
    tokens, real_mask = (x.to(causal_lm(model).device) for x in pad_rows(rows, pad_id))
    logits = output_logits(model, hidden_states(model, tokens, real_mask))
    return [logits[i, : len(row)] for i, row in enumerate(rows)]


def _unpadded(model: nn.Module, rows: list[list[int]], pad_id: int) -> list[Tensor]:
    """Return the same of an unpadded pass, in a model that is left as it was."""
    lm = causal_lm(model)
    if not attention.can_unpad(lm):
        raise ValueError("not all layers attend to all earlier tokens")
    attention.set_unpadded(lm)
    try:
        return _scored(model, rows, pad_id)
    finally:
        lm.set_attn_implementation(attention.PLAIN)


def _wanted_agree(model: nn.Module, rows: list[list[int]], own: list[Tensor], pad_id: int) -> bool:
    """Return whether the last logits of each row are the model's own where these alone are wanted,
    read unpadded and into a cache that is read on; the model is left as it was.
    """
    lm = causal_lm(model)
    if not attention.can_unpad(lm):
        return False
    wanted_tokens.follow_wanted(trunk(model))
    attention.set_unpadded(lm)
    try:
        tokens, real_mask = (x.to(lm.device) for x in pad_rows(rows, pad_id))
        ends = real_mask & (real_mask.cumsum(1) == real_mask.sum(1, keepdim=True))
        scored = hidden_states(model, tokens, real_mask, wanted=ends)[ends]
        found = (scored, kv_cache.cached_rows(model, rows, pad_id, 0).hidden)
        continued = _cache_agrees(model, rows, own, pad_id)
    finally:
        lm.set_attn_implementation(attention.PLAIN)
        wanted_tokens.ignore_wanted(trunk(model))
    last = [logits[-1:] for logits in own]
    return continued and all(
        _agree(list(output_logits(model, hidden)[:, None]), last, lm.dtype) for hidden in found
    )


def _cache_agrees(model: nn.Module, rows: list[list[int]], own: list[Tensor], pad_id: int) -> bool:
    """Return whether prompts of several lengths, two of them equal, are continued as the model's
    own pass has it, before and after a row has left the batch.
    """
    order = [0, 1, 0]
    growing = kv_cache.cached_rows(model, [rows[i][:-CONTINUED] for i in order], pad_id, CONTINUED)
    for left in range(CONTINUED, -1, -1):  # tokens of each row that are not read yet
        found = list(output_logits(model, growing.hidden)[:, None])
        wanted = [own[i][-left - 1][None] for i in order]
        if not _agree(found, wanted, causal_lm(model).dtype):
            return False
        if left == 1:
            order = order[1:]
            growing.keep(torch.tensor([1, 2], device=growing.hidden.device))
        if left:
            picked = torch.tensor([rows[i][-left] for i in order], device=growing.hidden.device)
            growing.step(picked)
    return True


def _continues(model: nn.Module, rows: list[list[int]], own: list[Tensor], pad_id: int) -> bool:
    """Return whether rows that were read in part are read on as the model's own pass has it: one
    has more to read than the other, which reads some of its tokens again.
    """
    begun = kv_cache.cached_rows(model, [row[: SHORT - 1] for row in rows], pad_id, 0)
    caches = [RowCache() for _ in rows]
    for place, cache in enumerate(caches):
        cache.keep(begun.cache, place, *begun.columns_of(place))
    if not all(cache.num_tokens for cache in caches):
        return False
    growing = continue_rows(model, rows, caches, pad_id, 0)
    found = list(output_logits(model, growing.hidden)[:, None])
    return _agree(found, [logits[-1:] for logits in own], causal_lm(model).dtype)


def _agree(found: list[Tensor], own: list[Tensor], dtype: torch.dtype) -> bool:
    """Return whether logits (l, v) of each row are the model's own up to a shift and rounding."""
    errors = torch.cat([_errors(a.float(), b) for a, b in zip(found, own, strict=True)])
    if dtype in (torch.float32, torch.float64):
        return bool(errors.max() < EXACT)
    return bool(errors.kthvalue(len(errors) // 2 + 1).values < ROUNDED)  # of two, the worse


def _errors(found: Tensor, own: Tensor) -> Tensor:
    """Return the largest difference (l,) of log-probs at each token, as a share of their spread."""
    real = own.isfinite()
    if not torch.equal(real, found.isfinite()):
        return torch.full(own.shape[:1], torch.inf)
    (own_centred, spread), (found_centred, _) = (_centred(x, real) for x in (own, found))
    return (found_centred - own_centred).abs().amax(-1) / spread.clamp(min=1e-6)


def _centred(logits: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits (l, v) less their mean over the finite ones, and their deviation (l,)."""
    kept = torch.where(real, logits, 0.0)
    number = real.sum(-1, keepdim=True)
    centred = torch.where(real, kept - kept.sum(-1, keepdim=True) / number, 0.0)
    return centred, (centred.square().sum(-1) / number[:, 0]).sqrt()


def _content(model: PreTrainedModel) -> str:
    """Return what a verdict is remembered by."""
    lm = causal_lm(model)
    config = lm.config.to_dict()
    sample = torch.stack([p.detach().flatten()[p.numel() // 2].float() for p in lm.parameters()])
    shown = [type(model).__name__, type(lm).__name__, str(lm.dtype), str(lm.device)]
    return json.dumps([*shown, config, sample.tolist()], default=str)


def _refused(lm: PreTrainedModel, rule: str) -> ConfigError:
    return ConfigError(f"model (={type(lm).__name__}) {rule}; use a model of another family.")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
