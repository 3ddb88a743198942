"""A row that goes on from its cache says what it says when its whole conversation is read anew."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from worlds import tiny_models

from plumbrule.lm.config import SamplingConfig, SearchConfig
from plumbrule.lm.generation import continued_rows, generate, kv_cache, search_turns
from plumbrule.lm.generation.continued_rows import RowCache, continue_rows
from plumbrule.lm.generation.search_turns import SearchedSample, Searcher
from plumbrule.lm.randomness import row_key
from plumbrule.protocols import Passage

RNG = np.random.default_rng(5)
PROMPTS = [[1, *RNG.integers(6, tiny_models.VOCAB, n).tolist()] for n in (3, 6, 1, 5, 3, 2, 6, 4)]
SEARCH = SearchConfig(max_turns=3, open="e", close="t", budget_tokens=14, template=" ({passages})")


class Lengths:
    """Finds passages of different lengths."""

    def search(self, queries, k):
        texts = ["rain"[: 1 + len(query) % 4] for query in queries]
        return [[Passage(text, text, 1.0, "d", 0, 4)] for text in texts]


def answered(kind: str, temperature: float) -> list[SearchedSample]:
    return Searcher(Lengths(), SEARCH).answer(
        tiny_models.policy(kind),
        PROMPTS * 2,
        sampling=SamplingConfig(temperature, max_new_tokens=24, batch_size=8),
        keys=[row_key("continued", i) for i in range(2 * len(PROMPTS))],
    )


@pytest.fixture
def read_tokens(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of every reading of more than a token a row, padding and all."""
    sizes: list[int] = []
    whole = kv_cache.read

    def counting(model, cache, tokens, *rest):
        if tokens.shape[1] > 1:
            sizes.append(tokens.numel())
        return whole(model, cache, tokens, *rest)

    for module in (kv_cache, continued_rows):
        monkeypatch.setattr(module, "read", counting)
    return sizes


@pytest.mark.parametrize(
    ("kind", "temperature"), [("llama", 1.0), ("gpt2", 1.0), ("neox", 1.0), ("neox", 0.0)]
)
def test_a_conversation_is_read_once_and_comes_out_the_same(
    kind: str, temperature: float, monkeypatch: pytest.MonkeyPatch, read_tokens: list[int]
) -> None:
    """Rotary and learned positions; the same tokens, log-probs to rounding."""
    tiny_models.policy(kind)  # is probed, which reads too
    read_tokens.clear()
    found = answered(kind, temperature)
    once = sum(read_tokens)
    read_tokens.clear()
    monkeypatch.setattr(search_turns, "generate", without_caches)
    anew = answered(kind, temperature)
    assert sum(len(row.searching.calls) for row in found) >= 2
    for row, same in zip(found, anew, strict=True):
        assert row.sample.tokens == same.sample.tokens
        assert row.action_mask == same.action_mask
        assert row.searching == same.searching
        assert np.allclose(row.sample.logprobs, same.sample.logprobs, rtol=0, atol=2e-4)
    assert once < (1.0 if temperature == 0 else 0.85) * sum(read_tokens)


def without_caches(*args, caches, **settings):
    return generate(*args, **settings)


def test_layers_that_keep_no_columns_are_read_anew() -> None:
    """Sliding windows: nothing is kept, and rows come out as without."""
    assert any(row.searching.calls for row in answered("mistral", 1.0))
    cache = kv_cache.new_cache(tiny_models.model("mistral").config, 8)
    kept = RowCache()
    kept.keep(cache, 0, 0, 1)
    assert kept.num_tokens == 0


@pytest.mark.parametrize(
    ("read", "more"),
    [
        ((9, 4, 6), (3, 1, 5)),  # padding is in front, or tokens that are read again
        ((9, 4, 6), (2, 12, 2)),  # a row whose rest is longer than what others have in all
        ((2, 1, 1), (20, 1, 1)),  # nothing is taken of any but one
    ],
)
@torch.inference_mode()
def test_states_are_those_of_a_first_reading(read: tuple[int, ...], more: tuple[int, ...]) -> None:
    model = tiny_models.model("llama")
    rows = [
        RNG.integers(6, tiny_models.VOCAB, a + b).tolist() for a, b in zip(read, more, strict=True)
    ]
    begun = kv_cache.read_rows(model, [row[:n] for row, n in zip(rows, read, strict=True)], 0, 4)
    assert begun.cache is not None
    caches = [RowCache() for _ in rows]
    for place, cache in enumerate(caches):
        cache.keep(begun.cache, place, *begun.columns_of(place))
    assert [cache.num_tokens for cache in caches] == list(read)
    went_on = continue_rows(model, rows, caches, 0, 4)
    anew = kv_cache.read_rows(model, rows, 0, 4)
    for step in range(3):
        assert torch.allclose(went_on.hidden, anew.hidden, atol=1e-5)
        picked = torch.tensor([7, 8, 9]) + step
        for grown in (went_on, anew):
            grown.step(picked)
