"""Which of a few words a model would rather say next: its verdict, without generating any text.

A verdict that is sampled may be something else than any of the words. Their log-probs after the
same prompt can always be read, and say how sure the model is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from plumbrule.errors import ConfigError
from plumbrule.lm.logprobs import (
    buckets,
    hidden_states,
    next_logprobs,
    output_logits,
    pad_rows,
)
from plumbrule.lm.policy import Policy
from plumbrule.lm.response_logprobs import response_logprobs
from plumbrule.lm.token_rows import TokenRow


@torch.inference_mode()
def log_odds(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    one: Sequence[int],
    other: Sequence[int],
    *,
    max_rows: int,
    advance: Callable[[int], None],
) -> np.ndarray:
    """Return log p(one | prompt) - log p(other | prompt), (n,) float64, in nats.

    Whole words count, of however many tokens. Where they differ in their last token only, as in
    tokenizers that have both words, both are read off one forward pass.

    Args: prompts, one, other: token ids. max_rows: prompts per batch, of like length. advance: is
        told how many more prompts are done.
    Raises: ConfigError: one word begins the other, or is the same.
    """
    require_apart(one, other)
    one_pass = len(one) == len(other) and one[:-1] == other[:-1]
    scores = np.zeros(len(prompts))
    for batch in buckets([len(prompt) for prompt in prompts], max_rows):
        asked = [prompts[i] for i in batch]
        score = _last_token_odds if one_pass else _whole_odds
        scores[batch] = score(policy, asked, one, other).double().cpu().numpy()
        advance(len(batch))
    return scores


@torch.inference_mode()
def word_logprobs(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    words: Sequence[Sequence[int]],
    *,
    max_rows: int,
) -> np.ndarray:
    """Return log p(word | prompt), (n, k) float64, in nats.

    Words of one token each are all read off one forward pass.

    Args: prompts, words: token ids. max_rows: prompts per batch, of like length.
    Raises: ConfigError: one word begins another, or is the same.
    """
    for one, other in combinations(words, 2):
        require_apart(one, other)
    found = np.zeros((len(prompts), len(words)))
    for batch in buckets([len(prompt) for prompt in prompts], max_rows):
        asked = [prompts[i] for i in batch]
        if all(len(word) == 1 for word in words):
            last = _last_hidden(policy, asked)
            nats = next_logprobs(policy.model, last, [word[0] for word in words])
        else:
            nats = torch.stack([_whole_logprobs(policy, asked, word) for word in words], dim=1)
        found[batch] = nats.double().cpu().numpy()
    return found


def require_apart(one: Sequence[int], other: Sequence[int]) -> None:
    """Raise ConfigError if one word's tokens begin the other's: who says the longer says both."""
    shorter = min(len(one), len(other))
    if list(one[:shorter]) == list(other[:shorter]):
        raise ConfigError(
            f"verdicts (=tokens {list(one)} and {list(other)}) must differ, and neither may begin "
            "the other; choose other words."
        )


def _last_token_odds(
    policy: Policy, prompts: Sequence[Sequence[int]], one: Sequence[int], other: Sequence[int]
) -> Tensor:
    """Return the log-odds (b,) of words that differ in their last token only.

    The softmax's denominator is the same for both, so they are a difference of two logits.
    """
    last = _last_hidden(policy, [[*prompt, *one[:-1]] for prompt in prompts])
    logits = output_logits(policy.model, last)
    return logits[:, one[-1]] - logits[:, other[-1]]


def _last_hidden(policy: Policy, rows: Sequence[Sequence[int]]) -> Tensor:
    """Return the hidden states (b, h) at the last token of each row."""
    device = policy.model.device
    tokens, real_mask = (x.to(device) for x in pad_rows(rows, policy.pad_id))
    hidden = hidden_states(policy.model, tokens, real_mask)
    return hidden[torch.arange(len(rows), device=device), real_mask.sum(1) - 1]


def _whole_odds(
    policy: Policy, prompts: Sequence[Sequence[int]], one: Sequence[int], other: Sequence[int]
) -> Tensor:
    """Return the log-odds (b,) of any two words: the difference of their summed log-probs."""
    return _whole_logprobs(policy, prompts, one) - _whole_logprobs(policy, prompts, other)


def _whole_logprobs(
    policy: Policy, prompts: Sequence[Sequence[int]], word: Sequence[int]
) -> Tensor:
    """Return log p(word | prompt), (b,) nats, of a word of any length."""
    rows = [TokenRow(tuple(prompt), tuple(word)) for prompt in prompts]
    return response_logprobs(policy, rows, len(prompts))
