"""Responses in turns: token in, token out, one mask, the same whatever the batch.

A random model over 320 tokens writes letters at random, so the markers are two letters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from worlds import tiny_models

from plumbrule.errors import ConfigError
from plumbrule.lm import chat
from plumbrule.lm.config import SamplingConfig, SearchConfig
from plumbrule.lm.generation import generate, search_turns
from plumbrule.lm.generation.search_turns import SearchedSample, Searcher
from plumbrule.lm.logprobs import logprobs, pad_rows
from plumbrule.lm.randomness import row_key
from plumbrule.protocols import Passage

RNG = np.random.default_rng(3)
PROMPTS = [[1, *RNG.integers(6, tiny_models.VOCAB, n).tolist()] for n in (3, 6, 1, 5, 3, 2, 6, 4)]
KEYS = [row_key("searches", i) for i in range(len(PROMPTS))]
SEARCH = SearchConfig(max_turns=3, open="e", close="t", budget_tokens=14, template=" ({passages})")
SAMPLING = SamplingConfig(max_new_tokens=24, batch_size=8)


class Echo:
    """Finds the query's first word; notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.asked.append(list(queries))
        return [[Passage(q, q[:4], 1.0, "d", 0, 4)] for q in queries]


def answered(
    search: SearchConfig = SEARCH,
    sampling: SamplingConfig = SAMPLING,
    places: Sequence[int] = range(len(PROMPTS)),
) -> list[SearchedSample]:
    return Searcher(Echo(), search).answer(
        tiny_models.policy(),
        [PROMPTS[i] for i in places],
        sampling=sampling,
        keys=[KEYS[i] for i in places],
    )


@pytest.fixture(scope="module")
def found() -> list[SearchedSample]:
    rows = answered()
    assert sum(len(row.searching.calls) for row in rows) >= 5
    assert max(len(row.searching.turns) for row in rows) == 3
    return rows


@pytest.mark.detail(65)
def test_sampled_tokens_have_the_log_probs_of_the_very_context_they_stand_in(
    found: list[SearchedSample],
) -> None:
    """One pass over each whole row gives what the sampler saw, turn by turn: no token between was
    decoded and encoded anew, dropped or moved. Answers have no log-prob.
    """
    policy = tiny_models.policy()
    for prompt, row in zip(PROMPTS, found, strict=True):
        tokens, real = pad_rows([[*prompt, *row.sample.tokens]], policy.pad_id)
        target = torch.tensor([[False] * len(prompt) + row.action_mask])
        with torch.no_grad():
            whole = logprobs(policy.model, tokens, real, target).logprobs[0, len(prompt) :]
        mask = torch.tensor(row.action_mask)
        sampled = torch.tensor(row.sample.logprobs)
        assert torch.allclose(whole[mask], sampled[mask], rtol=0, atol=1e-4)
        assert not sampled[~mask].any()


@pytest.mark.detail(65)
def test_search_r1_encodes_anew_what_it_sampled(
    found: list[SearchedSample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rollouts decode a turn, cut it at the tag and encode the text (`_postprocess_responses`).

    Here the tokens that the sampler gave stand in the response, though the text has other ones; all
    that is ever encoded are the template and the passages.
    """
    given: list[list[int]] = []
    encoded: list[str] = []

    def recording(*args: object, **settings: object) -> object:
        samples = generate(*args, **settings)  # type: ignore[arg-type]
        given.extend(sample.tokens for sample in samples)
        return samples

    def encode(tokenizer: object, text: str) -> list[int]:
        encoded.append(text)
        return chat.encode_text(tokenizer, text)  # type: ignore[arg-type]

    monkeypatch.setattr(search_turns, "generate", recording)
    monkeypatch.setattr("plumbrule.lm.search_calls.results.encode_text", encode)
    rows = answered()
    assert rows == found
    passages = {text for row in rows for call in row.searching.calls for text in call.passages}
    assert passages
    assert {line for line in encoded if not line.startswith("[")} == {" (", ")"}
    assert len(encoded) == 2 + sum(bool(c.query) for row in rows for c in row.searching.calls)
    tokenizer, others = tiny_models.tokenizer(), 0
    for row in rows:
        mine = [t for t, own in zip(row.sample.tokens, row.action_mask, strict=True) if own]
        again = tokenizer(tokenizer.decode(mine), add_special_tokens=False).input_ids
        others += again != mine
    assert others == len(rows)  # so encoding anew would have trained on tokens nobody sampled
    assert sum(map(len, given)) == sum(sum(row.action_mask) for row in rows)


@pytest.mark.detail(65)
def test_search_r1_makes_its_mask_of_ids(found: list[SearchedSample]) -> None:
    """Its mask is `ids != pad`. Here answers are False whatever ids stand in them, and a pad token
    that the policy sampled is True.
    """
    policy = tiny_models.policy()
    for row in found:
        mask, tokens = row.action_mask, row.sample.tokens
        assert len(mask) == len(tokens)
        foreign = [t for t, own in zip(tokens, mask, strict=True) if not own]
        assert bool(foreign) == bool(row.searching.calls)
        assert policy.pad_id not in foreign
        assert mask[-1]
    both = [set[int](), set[int]()]
    for row in found:
        for token, own in zip(row.sample.tokens, row.action_mask, strict=True):
            both[own].add(token)
    assert both[0] & both[1]  # so no rule over ids can tell them apart


@pytest.mark.detail(65)
def test_the_batch_and_its_order_change_no_response(found: list[SearchedSample]) -> None:
    small = answered(sampling=replace(SAMPLING, batch_size=2))
    alone = [answered(places=[i])[0] for i in range(3)]
    back = answered(places=range(len(PROMPTS) - 1, -1, -1))[::-1]
    for other in (small, alone, back):
        for row, same in zip(other, found, strict=False):
            assert row.sample.tokens == same.sample.tokens
            assert row.action_mask == same.action_mask
            assert row.searching == same.searching


@pytest.mark.detail(65)
def test_without_a_call_a_response_is_what_it_would_have_been() -> None:
    """A marker that is never written: the same tokens and log-probs as without searching."""
    rows = answered(replace(SEARCH, open="@@", close="##"))
    plain = generate(tiny_models.policy(), PROMPTS, sampling=SAMPLING, keys=KEYS)
    assert [row.sample for row in rows] == plain
    assert all(all(row.action_mask) and len(row.searching.turns) == 1 for row in rows)
    assert [row.last_turn for row in rows] == [sample.tokens for sample in plain]


@pytest.mark.detail(65)
def test_turns_tokens_and_budgets_are_bounded(found: list[SearchedSample]) -> None:
    for row in found:
        sampled = sum(row.action_mask)
        assert sampled <= SAMPLING.max_new_tokens
        calls = row.searching.calls
        assert len(calls) <= SEARCH.max_turns - 1
        assert len(row.searching.turns) == len(calls) + 1
        assert len(row.sample.tokens) - sampled <= len(calls) * SEARCH.budget_tokens
        for turn, call in zip(row.searching.turns, calls, strict=False):
            assert turn.rpartition(SEARCH.open)[2] or turn.endswith(tuple("et"))
            assert call.query == call.query.strip()
        if not row.sample.finished:
            assert sampled == SAMPLING.max_new_tokens
    # A response that was at its limit when it called: nothing comes behind the call.
    short = answered(sampling=replace(SAMPLING, max_new_tokens=3))
    assert all(row.action_mask[-1] for row in short)
    assert all(sum(row.action_mask) <= 3 for row in short)


def test_calls_of_a_batch_are_one_question_each() -> None:
    """Three turns: two batches of distinct queries; rows of one prompt and key ask once, also where
    they are not in one batch.
    """
    for size, most in ((16, 2), (8, 4)):
        source = Echo()
        Searcher(source, SEARCH).answer(
            tiny_models.policy(),
            PROMPTS * 2,
            sampling=replace(SAMPLING, batch_size=size),
            keys=KEYS * 2,
        )
        assert 2 <= len(source.asked) <= most
        asked = [query for some in source.asked for query in some]
        assert len(set(asked)) == len(asked)


def test_an_empty_query_is_not_asked() -> None:
    source = Echo()
    rows = Searcher(source, replace(SEARCH, close="r")).answer(
        tiny_models.policy(),
        PROMPTS * 6,
        sampling=SAMPLING,
        keys=[row_key("many", i) for i in range(6 * len(PROMPTS))],
    )
    empty = [c for row in rows for c in row.searching.calls if not c.query]
    assert empty
    assert all(call.passages == () for call in empty)
    assert all("" not in asked for asked in source.asked)
    for row in rows:
        assert row.searching.malformed >= sum(not call.query for call in row.searching.calls)


def test_numbers_go_on_behind_the_passages_of_the_prompt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numbers: list[int] = []
    write = search_turns.ResultWriter.write

    def noting(self: object, passages: Sequence[str], first_number: int) -> object:
        numbers.append(first_number)
        return write(self, passages, first_number)  # type: ignore[arg-type]

    monkeypatch.setattr(search_turns.ResultWriter, "write", noting)
    Searcher(Echo(), SEARCH).answer(
        tiny_models.policy(),
        PROMPTS * 4,
        sampling=SAMPLING,
        keys=[row_key("numbers", i) for i in range(4 * len(PROMPTS))],
        num_shown=[5] * (4 * len(PROMPTS)),
    )
    assert min(numbers) == 6
    assert max(numbers) == 7  # the second call of a row, whose first showed a passage


def test_a_prompt_without_room_for_the_answers_is_refused() -> None:
    context = tiny_models.policy().spec.context
    room = replace(SAMPLING, max_new_tokens=context - 2 * SEARCH.budget_tokens - 3)
    with pytest.raises(ConfigError, match=r"must fit the context") as refused:
        answered(sampling=room)
    told = str(refused.value)
    assert f"sampling.max_new_tokens (={room.max_new_tokens} tokens)" in told  # as it was set
    assert "search.max_turns (=3 turns)" in told
    assert "search.budget_tokens (=14 tokens)" in told
