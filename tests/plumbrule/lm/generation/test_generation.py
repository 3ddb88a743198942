"""The sampler: against transformers' greedy decoding, its distribution, its independence."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats
from worlds import tiny_models

from plumbrule.errors import ConfigError, TrainingError
from plumbrule.lm.config import SamplingConfig
from plumbrule.lm.generation import generate
from plumbrule.lm.generation.continuous_batching import Decoder, can_decode
from plumbrule.lm.generation.kv_cache import (
    PreallocatedLayer,
    is_recomputed,
    new_cache,
    set_recomputed,
)
from plumbrule.lm.generation.sampler import decode_in_slots
from plumbrule.lm.generation.token_sampling import pick
from plumbrule.lm.logprobs import logprobs, pad_rows
from plumbrule.lm.randomness import row_key
from plumbrule.machine import environment as machine
from plumbrule.runtime_config import RuntimeConfig

RNG = np.random.default_rng(7)
PROMPTS = [
    [1, *RNG.integers(6, tiny_models.VOCAB, n).tolist()] for n in (3, 11, 1, 7, 20, 7, 2, 14)
]
KEYS = [row_key("sample", 0, i) for i in range(len(PROMPTS))]


def sampling(**changes):
    return SamplingConfig(**({"max_new_tokens": 16, "batch_size": 8} | changes))


def ends_early(policy, prompts=PROMPTS, share=0.3):
    """Make the terminal token likely, so that rows end at different lengths; return the policy.

    It raises the terminal token's logit after the head until about `share` of samples end a step.
    """
    terminal = policy.terminal_id

    def lift(module, inputs, logits):
        others = logits.index_fill(-1, torch.tensor([terminal]), -torch.inf).logsumexp(-1)
        lifted = logits.clone()
        lifted[..., terminal] = others + float(np.log(share / (1 - share)))
        return lifted

    policy.model.get_output_embeddings().register_forward_hook(lift)
    return policy


@pytest.mark.detail(2, 3, 4)
@pytest.mark.parametrize("pad", ["<|pad|>", "<|eos|>"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox", "mistral"])
def test_greedy_equals_transformers_one_prompt_at_a_time(kind, pad):
    policy = tiny_models.policy(kind)
    assert not is_recomputed(policy.model)  # as the probe of a new model marks one whose cache errs
    policy.pad_id = policy.tokenizer.convert_tokens_to_ids(pad)
    # A stop token that greedy responses do meet: their commonest token at any later place.
    free = generate(policy, PROMPTS, sampling=sampling(temperature=0.0), keys=KEYS)
    later = [token for sample in free for token in sample.tokens[2:]]
    stop = max(set(later), key=later.count)
    policy.spec = dataclasses.replace(policy.spec, stop_token_ids=(stop,))
    samples = generate(policy, PROMPTS, sampling=sampling(temperature=0.0), keys=KEYS)
    assert len({len(sample.tokens) for sample in samples}) > 1  # rows do end at different times
    for prompt, sample in zip(PROMPTS, samples, strict=True):
        expected = policy.model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=16,
            eos_token_id=stop,
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        assert sample.tokens == expected
        assert sample.finished == (expected[-1] == stop)


@pytest.mark.detail(8, 10)
@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral", "gemma2"])
def test_logprobs_equal_those_of_scoring(kind, temperature):
    policy = tiny_models.policy(kind)
    if kind in ("gpt2", "llama"):
        ends_early(policy)
    samples = generate(policy, PROMPTS, sampling=sampling(temperature=temperature), keys=KEYS)
    rows = [p + s.tokens for p, s in zip(PROMPTS, samples, strict=True)]
    tokens, real = pad_rows(rows, 0)
    target = torch.zeros_like(real)
    for i, (prompt, sample) in enumerate(zip(PROMPTS, samples, strict=True)):
        target[i, len(prompt) : len(prompt) + len(sample.tokens)] = True
        assert len(sample.logprobs) == len(sample.tokens)
    with torch.no_grad():
        scores = logprobs(policy.model, tokens, real, target, temperature or 1.0).logprobs
    sampled = torch.tensor([value for sample in samples for value in sample.logprobs])
    torch.testing.assert_close(sampled, scores[target], atol=1e-5, rtol=0)


@pytest.mark.detail(9)
@pytest.mark.parametrize("size", [1, 3, 5, 40])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox"])
def test_slots_give_what_the_shrinking_batch_gives(kind, size):
    """Also where rows end at different times and others take their slots, and prompts repeat."""
    policy = tiny_models.policy(kind, dtype=torch.float64)
    assert can_decode(policy)
    prompts = [*PROMPTS, PROMPTS[1]] if size == 1 else [*PROMPTS * 2, *[PROMPTS[1]] * 4]
    keys = [row_key("slots", i) for i in range(len(prompts))]
    for temperature in (0.0, 1.0):
        if temperature:
            ends_early(policy, share=0.15)
        given = sampling(batch_size=size, temperature=temperature)
        expected = generate(policy, prompts, sampling=given, keys=keys)
        if temperature:
            assert len({len(sample.tokens) for sample in expected}) > 4
        found = decode_in_slots(policy, prompts, given, keys)
        assert [s.tokens for s in found] == [s.tokens for s in expected]
        assert [s.finished for s in found] == [s.finished for s in expected]
        for a, b in zip(found, expected, strict=True):
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)


def test_slots_stay_where_they_are():
    """A graph replays addresses: no step may make a tensor anew that the next one reads."""
    policy = ends_early(tiny_models.policy(), share=0.15)
    draws = torch.rand(len(PROMPTS), 16, dtype=torch.float64)
    decoder = Decoder(policy, PROMPTS, draws, 1.0, 3)
    seen = set()
    step = decoder.step

    def watched():
        step()
        kept = [x for x in vars(decoder).values() if isinstance(x, torch.Tensor)]
        for layer in decoder.cache.layers:
            kept += [layer.keys, layer.values]
        seen.add(tuple(x.data_ptr() for x in kept))

    decoder.step = watched
    decoder.run()
    assert len(seen) == 1
    assert int(decoder.lengths[:-1].min()) >= 1


def test_what_waits_for_the_device_or_does_not_see_all_tokens_is_not_put_into_slots():
    assert not can_decode(tiny_models.policy("mistral"))
    assert not can_decode(tiny_models.policy("gemma2"))
    policy = tiny_models.policy("llama")
    assert can_decode(policy)
    policy.model.config.rope_parameters["rope_type"] = "dynamic"
    assert not can_decode(policy)
    policy.model.config.rope_parameters["rope_type"] = "default"
    policy.model.config.moe_num_experts = 4
    assert not can_decode(policy)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: a graph is captured there")
@pytest.mark.gpu
@pytest.mark.parametrize("autocast", [False, True])
def test_a_captured_graph_gives_what_steps_give(autocast, monkeypatch):
    """With the kernels that a stage has, and where weights are cast for this call alone."""
    machine.prepare(RuntimeConfig(device="cuda"))
    policy = ends_early(tiny_models.policy("llama"), share=0.15)
    policy.model.to("cuda")
    keys = [row_key("graph", i) for i in range(len(PROMPTS))]
    found = []
    for captured in (Decoder.captured, lambda decoder: decoder.step):
        monkeypatch.setattr(Decoder, "captured", captured)
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            found.append(generate(policy, PROMPTS, sampling=sampling(batch_size=3), keys=keys))
    assert [s.tokens for s in found[0]] == [s.tokens for s in found[1]]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral"])
def test_tokens_depend_on_the_key_alone(kind):
    policy = ends_early(tiny_models.policy(kind, dtype=torch.float64), share=0.15)
    prompts, keys = PROMPTS * 3, [row_key("k", i) for i in range(24)]
    whole = generate(policy, prompts, sampling=sampling(batch_size=24), keys=keys)
    assert len({len(sample.tokens) for sample in whole}) > 4
    for size in (1, 5, 8):
        again = generate(policy, prompts, sampling=sampling(batch_size=size), keys=keys)
        assert [s.tokens for s in again] == [s.tokens for s in whole]
        assert [s.finished for s in again] == [s.finished for s in whole]
        for a, b in zip(again, whole, strict=True):
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)
    order = np.random.default_rng(0).permutation(24)
    shuffled = generate(
        policy, [prompts[i] for i in order], sampling=sampling(), keys=[keys[i] for i in order]
    )
    assert [s.tokens for s in shuffled] == [whole[i].tokens for i in order]


def test_samples_of_one_prompt_differ_by_key_and_share_the_prompt():
    policy = tiny_models.policy()
    keys = [row_key("k", i) for i in range(8)]
    read = []
    policy.model.model.embed_tokens.register_forward_hook(
        lambda m, inputs, out: read.append(tuple(inputs[0].shape))
    )
    samples = generate(policy, [PROMPTS[1]] * 8, sampling=sampling(), keys=keys)
    assert read[0] == (1, len(PROMPTS[1]))  # read once, then one token for each of eight
    assert read[1] == (8, 1)
    assert len({tuple(s.tokens) for s in samples}) == 8
    alone = [generate(policy, [PROMPTS[1]], sampling=sampling(), keys=[k])[0] for k in keys]
    assert [s.tokens for s in samples] == [s.tokens for s in alone]
    twice = generate(policy, [PROMPTS[1]] * 2, sampling=sampling(), keys=[5, 5])
    assert twice[0].tokens == twice[1].tokens


def test_copies_of_several_prompts_in_one_batch_each_read_their_own():
    """Four prompts, three copies of each, turned about; equal ones are read once and copied."""
    policy = tiny_models.policy(dtype=torch.float64)
    assert not is_recomputed(policy.model)  # as the probe of a new model marks one whose cache errs
    prompts = [PROMPTS[i % 4] for i in range(12)]
    keys = [row_key("copies", i) for i in range(12)]
    together = generate(policy, prompts, sampling=sampling(batch_size=12), keys=keys)
    alone = [
        generate(policy, [prompt], sampling=sampling(), keys=[key])[0]
        for prompt, key in zip(prompts, keys, strict=True)
    ]
    assert [s.tokens for s in together] == [s.tokens for s in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


def test_a_longer_limit_only_continues_a_response():
    policy = ends_early(tiny_models.policy(), share=0.1)
    short = generate(policy, PROMPTS, sampling=sampling(max_new_tokens=5), keys=KEYS)
    long = generate(policy, PROMPTS, sampling=sampling(max_new_tokens=20), keys=KEYS)
    assert [s.tokens for s in short] == [s.tokens[:5] for s in long]


def chi_square_p(counts, probabilities):
    """Return the p-value of a chi-square test; cells expected below 5 are pooled into one."""
    expected = probabilities * counts.sum()
    rare = expected < 5
    observed = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum())
    keep = wanted > 0
    return stats.chisquare(observed[keep], wanted[keep] * observed.sum() / wanted.sum()).pvalue


@pytest.mark.detail(7)
@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.6])
def test_the_next_token_follows_the_whole_softmax(temperature):
    policy = tiny_models.policy()
    prompt, num = PROMPTS[3], 40_000
    keys = [row_key("chi", i) for i in range(num)]
    samples = generate(
        policy,
        [prompt] * num,
        sampling=sampling(max_new_tokens=1, batch_size=num, temperature=temperature),
        keys=keys,
    )
    counts = np.bincount([s.tokens[0] for s in samples], minlength=tiny_models.VOCAB)
    with torch.no_grad():
        logits = policy.model(torch.tensor([prompt])).logits[0, -1].double().numpy()
    probabilities = np.exp(logits / temperature)
    probabilities /= probabilities.sum()
    assert chi_square_p(counts, probabilities) > 1e-3
    # The tail beyond the likeliest 50, where transformers' old default top_k would sample nothing.
    tail = np.argsort(-probabilities)[50:]
    share, seen = probabilities[tail].sum(), counts[tail].sum() / num
    assert share > 0.001
    assert abs(seen - share) < 4 * np.sqrt(share * (1 - share) / num)


@pytest.mark.detail(7)
def test_later_tokens_follow_the_softmax_too():
    # The second token given the first, over a cache whose rows were repeated.
    policy = tiny_models.policy("gpt2")
    prompt, num = PROMPTS[0], 20_000
    keys = [row_key("second", i) for i in range(num)]
    samples = generate(
        policy, [prompt] * num, sampling=sampling(max_new_tokens=2, batch_size=num), keys=keys
    )
    firsts = [s.tokens[0] for s in samples if len(s.tokens) == 2]
    first = max(set(firsts), key=firsts.count)
    seconds = [s.tokens[1] for s in samples if s.tokens[0] == first]
    with torch.no_grad():
        logits = policy.model(torch.tensor([[*prompt, first]])).logits[0, -1].double()
    counts = np.bincount(seconds, minlength=tiny_models.VOCAB)
    assert chi_square_p(counts, logits.softmax(-1).numpy()) > 1e-3


def test_pick_by_hand():
    # p = 0, 1/4, 1/4, 1/2, 0: draws fall into [0, .25), [.25, .5), [.5, 1) of tokens 1, 2, 3.
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, np.log(2.0), -torch.inf]]).float()
    draws = torch.tensor([0.0, 0.2499, 0.2501, 0.4999, 0.5001, 1 - 2**-53], dtype=torch.float64)
    picked, found = pick(logits.expand(6, 5), 1.0, draws)
    assert picked.tolist() == [1, 1, 2, 2, 3, 3]
    assert found.tolist() == pytest.approx(np.log([0.25] * 4 + [0.5] * 2), abs=1e-6)
    # At T = 0.5 odds are squared: 1/6, 1/6, 4/6.
    picked, found = pick(logits.expand(2, 5), 0.5, torch.tensor([0.32, 0.34]).double())
    assert picked.tolist() == [2, 3]
    assert found.tolist() == pytest.approx(np.log([1 / 6, 4 / 6]), abs=1e-6)
    # At T = 0 the likeliest token, its log-prob at T = 1; the first of equals.
    picked, found = pick(logits, 0.0, torch.tensor([0.1]).double())
    assert (picked.item(), found.item()) == (3, pytest.approx(np.log(0.5), abs=1e-6))
    assert pick(torch.zeros(1, 5), 0.0, torch.zeros(1))[0].item() == 0


@pytest.mark.parametrize("level", [0.0, -3.0, -50.0, -1000.0, 1000.0])
@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_a_picked_tokens_log_prob_does_not_depend_on_the_logits_level(level, temperature):
    """Also where all logits are negative, as those of many heads are."""
    logits = torch.tensor([[-0.5, -1.5, -2.5, -0.1]], dtype=torch.float64)
    expected = (logits / (temperature or 1.0)).log_softmax(-1)[0]
    for draw in (0.05, 0.4, 0.9):
        picked, found = pick(logits + level, temperature, torch.tensor([draw]).double())
        assert found.item() == pytest.approx(expected[picked].item(), abs=1e-6)


@pytest.mark.detail(11)
def test_responses_end_with_the_first_stop_token():
    policy = ends_early(tiny_models.policy(), share=0.4)
    prompts, keys = PROMPTS * 6, [row_key("end", i) for i in range(48)]
    samples = generate(policy, prompts, sampling=sampling(max_new_tokens=4), keys=keys)
    lengths = {len(s.tokens) for s in samples}
    assert lengths == {1, 2, 3, 4}
    for s in samples:
        assert s.finished == (s.tokens[-1] == 2)
        assert 2 not in s.tokens[:-1]
    assert any(s.finished and len(s.tokens) == 4 for s in samples)
    assert any(not s.finished for s in samples)


def test_any_stop_token_ends_a_response():
    policy = tiny_models.policy()
    free = generate(policy, PROMPTS, sampling=sampling(), keys=KEYS)
    second = free[0].tokens[4]
    policy.spec = dataclasses.replace(policy.spec, stop_token_ids=(2, second))
    sample = generate(policy, PROMPTS, sampling=sampling(), keys=KEYS)[0]
    assert sample.tokens == free[0].tokens[: free[0].tokens.index(second) + 1]
    assert sample.finished


@pytest.mark.parametrize(("kind", "autocast"), [("llama", False), ("gemma2", True)])
def test_half_precision_samples_on_a_cpu(kind, autocast):
    """With our attention and with transformers' own: a bf16 model, or bf16 compute on float32."""
    policy = tiny_models.policy(kind, dtype=torch.float32 if autocast else torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        samples = generate(
            policy, [[5, 9, 40], [7]], sampling=SamplingConfig(max_new_tokens=4), keys=[0, 1]
        )
    assert all(np.isfinite(sample.logprobs).all() for sample in samples)


@pytest.mark.detail(42)
def test_training_mode_and_gradient_checkpointing_do_not_matter():
    policy = tiny_models.policy()
    expected = generate(policy, PROMPTS, sampling=sampling(), keys=KEYS)
    policy.model.train()
    policy.model.gradient_checkpointing_enable()
    assert generate(policy, PROMPTS, sampling=sampling(), keys=KEYS) == expected
    assert policy.model.training
    # What was cached under inference mode must not poison a later backward pass.
    tokens, real = pad_rows(PROMPTS, 0)
    target = real.clone()
    target[:, 0] = False
    logprobs(policy.model, tokens, real, target).logprobs.sum().backward()


def test_progress_counts_responses():
    class Counter:
        done = 0

        def advance(self, n=1):
            self.done += n

    counter = Counter()
    generate(
        tiny_models.policy(), PROMPTS, sampling=sampling(batch_size=3), keys=KEYS, progress=counter
    )
    assert counter.done == len(PROMPTS)


def test_what_cannot_be_sampled():
    policy = tiny_models.policy()
    assert generate(policy, [], sampling=sampling(), keys=[]) == []
    with pytest.raises(ConfigError, match=r"prompt 0 \(=60 tokens\).*=16 tokens\).*\(=64 tokens\)"):
        generate(policy, [[5] * 60], sampling=sampling(), keys=[1])
    generate(policy, [[5] * 48], sampling=sampling(), keys=[1])  # exactly the context
    with pytest.raises(ConfigError, match=r"prompt 1 .*must hold a token"):
        generate(policy, [[5], []], sampling=sampling(), keys=[1, 2])
    with pytest.raises(ValueError, match="keys"):
        generate(policy, [[5]], sampling=sampling(), keys=[1, 2])
    policy.model.model.norm.weight.data.fill_(float("nan"))
    for temperature in (0.0, 1.0):
        with pytest.raises(TrainingError, match="NaN"):
            generate(policy, PROMPTS, sampling=sampling(temperature=temperature), keys=KEYS)


@pytest.mark.parametrize("kept", [[2, 0, 2], [2, 1]], ids=["copied", "moved in place"])
def test_a_preallocated_layer_holds_what_concatenation_would(kept):
    layer = PreallocatedLayer(capacity=9, unpadded=False)
    steps = [torch.randn(3, 2, n, 4) for n in (5, 1, 1)]
    for step in steps[:2]:
        keys, values = layer.update(step, step + 1)
    layer.batch_select_indices(torch.tensor(kept))
    last = steps[2][: len(kept)]
    keys, values = layer.update(last, last + 1)
    expected = torch.cat([torch.cat(steps[:2], 2)[kept], last], 2)
    assert torch.equal(keys, expected)
    assert torch.equal(values, expected + 1)
    assert layer.get_seq_length() == 7
    kinds = [
        type(layer).__name__ for layer in new_cache(tiny_models.model("gemma2").config, 9).layers
    ]
    assert kinds == ["DynamicSlidingWindowLayer", "PreallocatedLayer"]


@pytest.mark.parametrize("recomputed", [False, True])
def test_a_row_at_its_limit_is_not_read_behind_the_context(recomputed):
    """One long row among seven short ones, which go on: below `_KEEP`, it stayed in the batch and
    was read at positions that a model with learned ones does not have (an IndexError).
    """
    policy = tiny_models.policy("gpt2")
    set_recomputed(policy.model, recomputed)
    context = policy.spec.context
    prompts = [[9] * (context - 2)] + [[10 + i] * (context - 6) for i in range(7)]
    keys = [row_key("limits", i) for i in range(8)]
    limits = [2] + [6] * 7
    together = generate(policy, prompts, sampling=sampling(), keys=keys, limits=limits)
    alone = [
        generate(policy, [prompt], sampling=sampling(), keys=[key], limits=[limit])[0]
        for prompt, key, limit in zip(prompts, keys, limits, strict=True)
    ]
    assert [one.tokens for one in together] == [one.tokens for one in alone]
    assert [len(one.tokens) for one in together].count(
        6
    ) >= 6  # so `_KEEP` alone keeps the long row
