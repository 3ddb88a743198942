"""transformers' continuous batching as a sampler: whose log-probs, whose weights, whose draws."""

from __future__ import annotations

import pytest
import torch
from worlds import engine as world

from plumbrule.errors import ConfigError
from plumbrule.lm.adapters import with_adapter
from plumbrule.lm.config import AdapterConfig, SamplingConfig
from plumbrule.lm.generation import Sample, transformers_sampler
from plumbrule.lm.generation.transformers_sampler import (
    TransformersSampler,
    require_engine,
    sharing_copy,
)
from plumbrule.lm.logprobs import causal_lm, logprobs, pad_rows
from plumbrule.lm.policy import Policy

WARM = SamplingConfig(temperature=0.7, max_new_tokens=12, batch_size=8)
SAMPLER = TransformersSampler("float32")


@pytest.fixture
def engine() -> None:
    """Skip where this transformers is too old for the sampler."""
    try:
        require_engine()
    except ConfigError as error:
        pytest.skip(str(error))


class OlderConfig:
    """The settings of continuous batching that transformers 5.17 has."""

    def __init__(self, block_size: int = 256, num_blocks: int | None = None):
        self.block_size, self.num_blocks = block_size, num_blocks


def test_an_older_transformers_is_refused_by_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers_sampler, "ContinuousBatchingConfig", OlderConfig)
    with pytest.raises(ConfigError, match=r"has no page_size, return_logprobs, seed; .*=own"):
        require_engine()


@torch.no_grad()
def largest_gap(policy: Policy, prompts: list[list[int]], samples: list[Sample]) -> float:
    """The largest |difference| of the samples' log-probs from the policy's at 0.7."""
    tokens, real = pad_rows(
        [[*p, *s.tokens] for p, s in zip(prompts, samples, strict=True)], policy.pad_id
    )
    target = real.clone()
    for row, prompt in zip(target, prompts, strict=True):
        row[: len(prompt)] = False
    ours = logprobs(policy.model, tokens, real, target, 0.7).logprobs[target]
    theirs = torch.tensor([value for sample in samples for value in sample.logprobs])
    return float((ours - theirs).abs().max())


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("adapter", [False, True])
def test_log_probs_are_ours_and_samples_end_where_the_policy_says(adapter: bool) -> None:
    policy, prompts = world.policy(), world.prompts(24)
    if adapter:
        policy = with_adapter(policy, AdapterConfig(rank=4), 0, "adapter")
        for name, weight in policy.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.3)
    state = torch.get_rng_state()
    samples = SAMPLER(policy, prompts, sampling=WARM, keys=range(24))
    assert torch.equal(torch.get_rng_state(), state)
    assert largest_gap(policy, prompts, samples) < 1e-4
    assert {s.finished for s in samples} == {True, False}
    for sample in samples:
        assert sample.finished == (sample.tokens[-1] == policy.terminal_id)
        assert sample.finished or len(sample.tokens) == WARM.max_new_tokens


@pytest.mark.usefixtures("engine")
def test_a_batch_has_one_answer_and_copies_of_a_prompt_differ() -> None:
    policy, prompt = world.policy(), world.prompts(3)[2]
    first, second, other = (
        SAMPLER(policy, [prompt] * 20, sampling=WARM, keys=range(start, start + 20))
        for start in (0, 0, 20)
    )
    assert first == second
    assert first != other
    assert len({tuple(s.tokens) for s in first}) > 12


@pytest.mark.usefixtures("engine")
def test_it_reads_the_policys_own_weights_and_leaves_the_policy_as_it_is() -> None:
    policy, prompts = world.policy(), world.prompts(8)
    lm = causal_lm(policy.model)
    attention = lm.config._attn_implementation
    policy.model.train()
    SAMPLER(policy, prompts, sampling=WARM, keys=range(8))
    assert policy.model.training
    assert lm.config._attn_implementation == attention
    with torch.no_grad():
        for weight in lm.parameters():
            weight.mul_(-1.2)
    samples = SAMPLER(policy, prompts, sampling=WARM, keys=range(8))
    assert largest_gap(policy, prompts, samples) < 1e-4
    copied = sharing_copy(policy, "float32")
    assert [w.data_ptr() for w in copied.parameters()] == [w.data_ptr() for w in lm.parameters()]
    assert sharing_copy(policy, "bfloat16").dtype == torch.bfloat16
    assert lm.dtype == torch.float32


def test_bad_requests_are_refused() -> None:
    policy = world.policy()
    assert SAMPLER(policy, [], sampling=WARM, keys=[]) == []
    with pytest.raises(ValueError, match="keys"):
        SAMPLER(policy, world.prompts(2), sampling=WARM, keys=[0])
    with pytest.raises(ConfigError, match="must fit the context"):
        SAMPLER(policy, [[4] * 61], sampling=WARM, keys=[0])
