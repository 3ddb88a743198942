"""vLLM itself, on this CPU: `make test-vllm`. Each engine takes half a minute to start."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel
from worlds import engine as world
from worlds import ppo

from plumbrule.errors import ConfigError
from plumbrule.lm.adapters import with_adapter
from plumbrule.lm.config import AdapterConfig, SamplingConfig
from plumbrule.lm.generation import Sample
from plumbrule.lm.generation.vllm.engine_script import READ_AT_ONCE
from plumbrule.lm.generation.vllm.vllm_sampler import VLLMSampler
from plumbrule.lm.loading import make_policy
from plumbrule.lm.logprobs import logprobs, pad_rows
from plumbrule.lm.policy import Policy
from plumbrule.runtime_config import RuntimeConfig

pytestmark = pytest.mark.vllm
WARM = SamplingConfig(temperature=0.7, max_new_tokens=12, batch_size=16)


def opened(python: Path, mode: str = "processed_logprobs", **runtime: object) -> VLLMSampler:
    settings = RuntimeConfig(**{"device": "cpu", "sampler_cache_gib": 0.25, **runtime})  # type: ignore[arg-type]
    return VLLMSampler(python, "float32", settings, mode)


@pytest.fixture(scope="module")
def python() -> Path:
    return world.engine_python()


@pytest.fixture(scope="module")
def sampler(python: Path) -> Iterator[VLLMSampler]:
    """One engine of the tied tiny Llama, for the tests that leave it as it is."""
    with opened(python) as sampler:
        yield sampler


@torch.no_grad()
def largest_gap(policy: Policy, prompts: list[list[int]], samples: list[Sample]) -> float:
    """The largest |difference| of the samples' log-probs from the policy's at 0.7."""
    rows = [[*p, *s.tokens] for p, s in zip(prompts, samples, strict=True)]
    tokens, real = pad_rows(rows, policy.pad_id)
    target = real.clone()
    for row, prompt in zip(target, prompts, strict=True):
        row[: len(prompt)] = False
    ours = logprobs(policy.model, tokens, real, target, 0.7).logprobs[target]
    theirs = torch.tensor([value for sample in samples for value in sample.logprobs])
    return float((ours - theirs).abs().max())


def test_log_probs_are_ours_and_samples_end_where_the_policy_says(sampler: VLLMSampler) -> None:
    policy, prompts = world.policy(), world.prompts(48)
    samples = sampler(policy, prompts, sampling=WARM, keys=range(48))
    assert largest_gap(policy, prompts, samples) < 1e-4
    assert {s.finished for s in samples} == {True, False}
    for sample in samples:
        assert sample.finished == (sample.tokens[-1] == policy.terminal_id)
        assert policy.terminal_id not in sample.tokens[:-1]
        assert sample.finished or len(sample.tokens) == WARM.max_new_tokens


def test_samples_follow_the_distribution_that_their_log_probs_say(sampler: VLLMSampler) -> None:
    """First tokens of many copies of one prompt, against the policy's own probabilities."""
    policy, number = world.policy(), 3000
    prompt = world.prompts(3)[2]
    one = SamplingConfig(temperature=0.7, max_new_tokens=1, batch_size=64)
    samples = sampler(policy, [prompt] * number, sampling=one, keys=range(number))
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([prompt])).logits[0, -1]
    expected = number * (logits / 0.7).softmax(-1)
    counts = torch.bincount(torch.tensor([s.tokens[0] for s in samples]), minlength=len(ppo.TOKENS))
    deviations = (counts - expected).abs() / (expected * (1 - expected / number)).sqrt()
    assert float(deviations.max()) < 4.5, (counts, expected)


def test_copies_of_a_prompt_differ_and_a_key_gives_the_same_tokens(sampler: VLLMSampler) -> None:
    policy, prompt = world.policy(), world.prompts(3)[2]
    keys = [2**64 - 1 - i for i in range(12)]  # of the full 64 bits
    first = sampler(policy, [prompt] * 12, sampling=WARM, keys=keys)
    assert len({tuple(s.tokens) for s in first}) > 8
    second = sampler(policy, [prompt] * 12, sampling=WARM, keys=keys)
    assert second == first
    alone = sampler(policy, [prompt] * 3, sampling=WARM, keys=keys[4:7])
    assert [s.tokens for s in alone] == [s.tokens for s in first[4:7]]


def test_more_prompt_tokens_than_a_step_reads(python: Path) -> None:
    """A prompt that no longer fits waits for the next step: generators on a CPU can't wind back."""
    policy = world.policy()
    prompts = [[4 + (i * k + i // 12) % 12 for k in range(1, 56)] for i in range(200)]
    assert sum(map(len, prompts)) > 2 * READ_AT_ONCE
    few = SamplingConfig(temperature=0.7, max_new_tokens=2, batch_size=200)
    with opened(python) as sampler:
        samples = sampler(policy, prompts, sampling=few, keys=range(200))
    assert largest_gap(policy, prompts, samples) < 1e-4


def test_after_a_change_of_weights_the_engine_is_the_new_policy(sampler: VLLMSampler) -> None:
    """Of every weight, the embeddings that are tied to the head included, and the same prompts,
    whose keys and values the prefix cache held.
    """
    before, prompts = world.policy(), world.prompts(16)
    old = sampler(before, prompts, sampling=WARM, keys=range(16))
    for seed in (1, 2):
        after = world.policy(seed)
        new = sampler(after, prompts, sampling=WARM, keys=range(16))
        assert largest_gap(after, prompts, new) < 1e-4
        assert largest_gap(before, prompts, new) > 0.1
    again = sampler(before, prompts, sampling=WARM, keys=range(16))
    assert again == old


def test_a_killed_engine_is_started_again_and_answers_the_same(
    sampler: VLLMSampler, caplog: pytest.LogCaptureFixture
) -> None:
    policy, prompts = world.policy(3), world.prompts(8)
    before = sampler(policy, prompts, sampling=WARM, keys=range(8))
    assert sampler.process is not None
    killed = sampler.process.process.pid
    os.kill(killed, signal.SIGKILL)
    with caplog.at_level(logging.WARNING):
        after = sampler(policy, prompts, sampling=WARM, keys=range(8))
    assert "SIGKILL" in caplog.text
    assert after == before
    assert sampler.process.process.pid != killed


def test_an_untied_policy_with_an_adapter_is_sent_merged(python: Path) -> None:
    policy = with_adapter(world.policy(tied=False), AdapterConfig(rank=4), 0, "adapter")
    draw = torch.Generator().manual_seed(0)
    prompts = world.prompts(16)
    with opened(python) as sampler:
        for scale in (0.1, 0.5):  # as before and after an update
            with torch.no_grad():
                for name, weight in policy.model.named_parameters():
                    if "lora_B" in name:
                        weight.copy_(scale * torch.randn(weight.shape, generator=draw))
            held = {name: w.clone() for name, w in policy.model.state_dict().items()}
            samples = sampler(policy, prompts, sampling=WARM, keys=range(16))
            assert largest_gap(policy, prompts, samples) < 1e-4
            for name, weight in policy.model.state_dict().items():
                assert torch.equal(weight, held[name])


def test_log_probs_of_the_unscaled_distribution_are_refused(python: Path) -> None:
    with (
        opened(python, "raw_logprobs") as sampler,
        pytest.raises(ConfigError, match=r"unscaled distribution, before the temperature"),
    ):
        sampler(world.policy(), world.prompts(3), sampling=WARM, keys=range(3))


@pytest.mark.parametrize("cache", [1e-05, 10_000.0])
def test_a_cache_that_holds_no_row_or_fits_no_memory_is_refused(python: Path, cache: float) -> None:
    with (
        opened(python, sampler_cache_gib=cache) as sampler,
        pytest.raises(ConfigError, match=rf"runtime.sampler_cache_gib .={cache:g} GiB."),
    ):
        sampler(world.policy(), world.prompts(3), sampling=WARM, keys=range(3))


def test_a_family_that_vllm_has_not_is_refused(python: Path) -> None:
    shape = OpenAIGPTConfig(
        vocab_size=len(ppo.TOKENS), n_positions=64, n_embd=64, n_layer=1, n_head=2
    )
    policy = make_policy(OpenAIGPTLMHeadModel(shape), ppo.tokenizer())
    with (
        opened(python) as sampler,
        pytest.raises(ConfigError, match=r"must be own for this OpenAIGPTLMHeadModel"),
    ):
        sampler(policy, world.prompts(3), sampling=WARM, keys=range(3))


def test_heads_of_a_size_without_a_kernel_are_refused(python: Path) -> None:
    with (
        opened(python) as sampler,
        pytest.raises(ConfigError, match=r"must be own for this LlamaForCausalLM.*head_dim=8"),
    ):
        sampler(world.policy(heads=8), world.prompts(3), sampling=WARM, keys=range(3))
