"""Log-probs of given responses: in the order of the rows, whatever shares a pass."""

from __future__ import annotations

import pytest
import torch
from worlds.rankings import chat, tiny_policy

from plumbrule.lm.response_logprobs import (
    mean_nll,
    pad_token_rows,
    response_logprobs,
    score_passes,
    sum_rows,
    token_row,
)
from plumbrule.lm.token_rows import TokenRow

ROWS = [TokenRow((5, 6, 7)[: 1 + i % 3], (8, 9, 10, 11)[: 1 + i % 4]) for i in range(7)]


def by_definition(policy, row, temperature=1.0):
    """Return the summed log-probs of a row's response, the row alone, from the model's logits."""
    ids = torch.tensor([[*row.prompt, *row.response]])
    with torch.no_grad():
        logprobs = (policy.model(ids).logits[0].double() / temperature).log_softmax(-1)
    begin = len(row.prompt)
    return sum(float(logprobs[t - 1, ids[0, t]]) for t in range(begin, ids.shape[1]))


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_each_row_gets_the_log_prob_of_its_response(size, temperature):
    policy = tiny_policy()
    found = response_logprobs(policy, ROWS, size, temperature=temperature)
    wanted = [by_definition(policy, row, temperature) for row in ROWS]
    assert found.tolist() == pytest.approx(wanted, rel=1e-5)
    assert len({round(x, 3) for x in wanted}) == len(wanted)  # so that their order is seen
    assert not found.requires_grad


def test_no_rows_have_no_log_probs():
    assert response_logprobs(tiny_policy(), [], 4).tolist() == []


def test_sums_are_taken_in_the_type_that_is_asked_for():
    policy = tiny_policy()
    assert response_logprobs(policy, ROWS, 4).dtype == torch.float32
    assert response_logprobs(policy, ROWS, 4, dtype=torch.float64).dtype == torch.float64


def test_rows_that_are_padded_already_give_the_same_and_a_gradient():
    policy = tiny_policy()
    batch = pad_token_rows(ROWS, policy.pad_id, policy.model.device)
    found = sum_rows(score_passes(policy.model, batch, 3))
    assert found.tolist() == response_logprobs(policy, ROWS, 3).tolist()
    found.sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in policy.model.parameters())


def test_the_mean_is_over_tokens_and_not_over_rows():
    policy = tiny_policy()
    nats = sum(by_definition(policy, row) for row in ROWS)
    wanted = -nats / sum(len(row.response) for row in ROWS)
    for size in (1, 4, 7):
        assert mean_nll(policy, ROWS, size) == pytest.approx(wanted, rel=1e-5)


def test_a_text_becomes_what_the_policy_is_sampled_from_and_ends_with():
    policy = tiny_policy()
    row = token_row(policy, chat("what is it?"), ("tall",), "red")
    assert list(row.prompt) == policy.encode(chat("what is it?"), ("tall",))
    assert row.response[-1] == policy.terminal_id
    cut = token_row(policy, chat("what is it?"), ("tall",), "red", terminal=False)
    assert cut.response == row.response[:-1]
    assert row.num_tokens == cut.num_tokens + 1
