"""Families of models: log-probs and samples are the model's own, or the model is refused."""

import dataclasses

import numpy as np
import pytest
import torch
from worlds import tiny_families, tiny_models
from worlds.tiny_families import FAMILIES

from plumbrule.errors import ConfigError
from plumbrule.lm.config import SamplingConfig
from plumbrule.lm.generation import generate, kv_cache
from plumbrule.lm.generation.kv_cache import is_recomputed
from plumbrule.lm.loading import make_policy
from plumbrule.lm.logprobs import hidden_states, logprobs, pad_rows
from plumbrule.lm.model_probe import choose_passes
from plumbrule.lm.unpadded.attention import is_unpadded

REFUSED = {
    "ModernBertDecoder": "applies something else behind its trunk",
    "Bert": "applies something else behind its trunk",
    "Roberta": "applies something else behind its trunk",
    "CpmAnt": "must not attend to later tokens",
}
UNPADDED = set(list(FAMILIES)[: list(FAMILIES).index("Mistral")]) | {"Phi3"}
RECOMPUTED = {"Bart", "OpenAIGPT", "Rwkv", "RecurrentGemma", "MiniMax"}
ROWS = [[5, 9, 40, 7, 20, 2, 33], [8, 301], [11, 12, 13, 14, 15, 16, 300, 18, 19, 31, 2], [60, 61]]
PROMPTS = [ROWS[0], ROWS[2], ROWS[0], ROWS[1]]
STEPS = {"NemotronH": 2e-3, "Zamba2": 2e-3}
"""Nats that the samples of a family may be off: where these two read a token by its own, they leave
out the least time step (`time_step_min`) that they have where they read a whole row."""
NO_FLOAT64 = {"DeepseekV3", "Qwen3Moe", "GptOss", "XGLM", "Jamba", "GraniteMoeHybrid", "Qwen3Next",
              "MiniMax"}  # fmt: skip
"""Transformers' own code has no float64 for these (grouped matrix products of experts)."""
UNSHIFTED = {"Bart"}
"""Families whose own loss does not shift the labels by a token."""
FAST = ("Llama", "OPT", "Nemotron", "Gemma2", "Granite", "Bart", "Mamba", "Mamba2", "FalconMamba",
        "Rwkv", "Jamba", "Qwen3Next", "RecurrentGemma")  # fmt: skip
"""Each kind once; the others are slow tests."""


def own_logprobs(model, row):
    """Return the model's own log-probs (l - 1,) of a row's tokens, from one plain forward pass."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row]), use_cache=False).logits[0].double()
    return logits.log_softmax(-1)[:-1].gather(-1, torch.tensor(row)[1:, None])[:, 0]


def families(names=FAMILIES):
    return [
        pytest.param(name, marks=[] if name in FAST else pytest.mark.slow)
        for name in names
        if name not in REFUSED
    ]


@pytest.mark.parametrize("family", families())
def test_log_probs_and_samples_are_the_models_own(family):
    own = tiny_families.model(family)
    policy = make_policy(tiny_families.model(family), tiny_models.tokenizer())
    assert is_unpadded(policy.model) == (family in UNPADDED)
    assert is_recomputed(policy.model) == (family in RECOMPUTED)
    for side in ("left", "right"):
        tokens, real = pad_rows(ROWS, 0, side)
        target = real.clone()
        target[torch.arange(len(ROWS)), real.to(torch.uint8).argmax(1)] = False
        found = logprobs(policy.model, tokens, real, target).logprobs
        for i, row in enumerate(ROWS):
            assert torch.allclose(found[i][target[i]].double(), own_logprobs(own, row), atol=2e-4)
    # Two equal prompts, others longer and shorter; rows end at different tokens and leave.
    sampling = SamplingConfig(max_new_tokens=8)
    policy.spec = dataclasses.replace(policy.spec, stop_token_ids=tuple(range(80)))
    samples = generate(policy, PROMPTS, sampling=sampling, keys=[3, 4, 3, 5])
    assert samples[0].tokens == samples[2].tokens
    for prompt, sample in zip(PROMPTS, samples, strict=True):
        wanted = own_logprobs(own, [*prompt, *sample.tokens])[len(prompt) - 1 :]
        assert np.allclose(sample.logprobs, wanted, atol=STEPS.get(family, 2e-4))


def own_gradients(model, rows, unshifted):
    """Return the gradients of transformers' own loss, a mean over all predicted tokens."""
    count = sum(len(row) - 1 for row in rows)
    for row in rows:
        tokens = torch.tensor([row])
        labels = torch.cat([tokens[:, 1:], torch.tensor([[-100]])], 1) if unshifted else tokens
        loss = model(input_ids=tokens, labels=labels, use_cache=False).loss
        (loss * (len(row) - 1) / count).backward()
    return gradients(model)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def layouts(model):
    """Yield the passes that a model can train in: packed where it runs unpadded, and padded."""
    if is_unpadded(model):
        yield "packed"
        model.set_attn_implementation("sdpa")
    yield "padded"


@pytest.mark.parametrize("family", families())
def test_a_gradient_step_is_transformers_own(family):
    """To 1e-5 of the largest gradient, in float64 but for transformers' own float32 norms."""
    dtype = torch.float32 if family in NO_FLOAT64 else torch.float64
    own = tiny_families.model(family, dtype)
    wanted = own_gradients(own, ROWS, family in UNSHIFTED)
    largest = max(float(gradient.abs().max()) for gradient in wanted.values())
    policy = make_policy(tiny_families.model(family, dtype), tiny_models.tokenizer())
    for layout in layouts(policy.model):
        for side in ("left", "right"):
            tokens, real = pad_rows(ROWS, 0, side)
            target = real.clone()
            target[torch.arange(len(ROWS)), real.to(torch.uint8).argmax(1)] = False
            policy.model.zero_grad()
            found = logprobs(policy.model, tokens, real, target).logprobs
            (-found.sum() / target.sum()).backward()
            for i, row in enumerate(ROWS):
                mine, theirs = found[i][target[i]].detach().double(), own_logprobs(own, row)
                assert torch.allclose(mine, theirs, rtol=0, atol=1e-5), (layout, side)
            taken = gradients(policy.model)
            assert taken.keys() == wanted.keys()
            for name, gradient in wanted.items():
                gap = float((taken[name] - gradient).abs().max())
                assert gap <= 1e-5 * largest, (layout, side, name, gap / largest)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f in UNPADDED])
def test_rows_that_share_a_prompt_train_as_rows_of_their_own(family):
    """Answers to one prompt, whose tokens are computed once: packed as PPO packs them."""
    rows = [ROWS[2], [*ROWS[2][:6], 70, 71], [*ROWS[2][:6], 90], ROWS[0]]
    dtype = torch.float32 if family in NO_FLOAT64 else torch.float64
    own = tiny_families.model(family, dtype)
    policy = make_policy(tiny_families.model(family, dtype), tiny_models.tokenizer())
    tokens, real = pad_rows(rows, 0)
    shared = torch.tensor([0, 6, 6, 0])
    hidden = hidden_states(policy.model, tokens, real, shared=shared)
    target = real.clone()
    target[:, 0] = False
    found = logprobs(policy.model, tokens, real, target, hidden=hidden).logprobs
    (-found.sum() / target.sum()).backward()
    wanted = own_gradients(own, rows, False)
    largest = max(float(gradient.abs().max()) for gradient in wanted.values())
    for i, row in enumerate(rows):
        mine, theirs = found[i][target[i]].detach().double(), own_logprobs(own, row)
        assert torch.allclose(mine, theirs, rtol=0, atol=1e-5)
    for name, gradient in gradients(policy.model).items():
        assert float((gradient - wanted[name]).abs().max()) <= 1e-5 * largest, name


@pytest.mark.parametrize("family", families())
def test_samples_are_the_models_own_to_five_digits_in_float64(family):
    if family in NO_FLOAT64 | STEPS.keys():
        pytest.skip(f"{family} has no float64, or leaves out its least time step")
    own = tiny_families.model(family, torch.float64)
    policy = make_policy(tiny_families.model(family, torch.float64), tiny_models.tokenizer())
    samples = generate(
        policy, PROMPTS, sampling=SamplingConfig(max_new_tokens=8), keys=[3, 4, 3, 5]
    )
    for prompt, sample in zip(PROMPTS, samples, strict=True):
        wanted = own_logprobs(own, [*prompt, *sample.tokens])[len(prompt) - 1 :]
        assert np.allclose(sample.logprobs, wanted, rtol=0, atol=1e-5)


def test_windows_and_caps_of_the_rows_above_do_something():
    """Or a pass that ignores them would be as good."""
    row = torch.tensor([ROWS[2]])
    for family, plain in {
        "Gemma2": {"attn_logit_softcapping": None},
        "Mistral": {"sliding_window": None},
        "Gemma3Text": {"sliding_window": 64},
        "Qwen2 sliding": {"layer_types": ["full_attention"] * 2},
        "Olmo3": {"sliding_window": 64},
        "Olmo": {"clip_qkv": None},
        "Falcon ALiBi": {"alibi": False},
    }.items():
        with torch.no_grad():
            logits = [m(row, use_cache=False).logits for m in (
                tiny_families.model(family), tiny_families.model(family, **plain))]  # fmt: skip
        assert (logits[0] - logits[1])[0, -1].abs().max() > 1e-3, family


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_whose_log_probs_are_not_to_be_had_is_refused_by_name(family):
    with pytest.raises(ConfigError, match=f"model .={family}.*{REFUSED[family]}"):
        make_policy(tiny_families.model(family), tiny_models.tokenizer())


@pytest.mark.parametrize(
    ("family", "passes"),
    [("Llama", (True, True, True, True)), ("Nemotron", (False, True, True, False)),
     ("Mamba", (False, True, False, False)), ("Rwkv", (False, False, False, False)),
     ("Qwen3Moe", (True, True, True, True))],
)  # fmt: skip
def test_bfloat16_is_judged_alike(family, passes):
    model = tiny_families.model(family, torch.bfloat16)
    assert choose_passes(model, 0) == passes


def test_an_unknown_head_and_a_look_ahead_are_refused(monkeypatch):
    model = tiny_models.model("llama", seed=9)  # no other test's, whose verdict is remembered
    plain = type(model).forward

    def scaled(self, *arguments, **settings):
        found = plain(self, *arguments, **settings)
        found.logits = found.logits * 1.05
        return found

    monkeypatch.setattr(type(model), "forward", scaled)
    with pytest.raises(ConfigError, match=r"LlamaForCausalLM.*behind its trunk"):
        choose_passes(model, 0)
    monkeypatch.undo()
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    with pytest.raises(ConfigError, match=r"LlamaForCausalLM.*later tokens"):
        choose_passes(model, 0)


def test_a_cache_that_mixes_rows_is_not_used(monkeypatch):
    model = tiny_models.model("llama", seed=3)
    select = kv_cache.PreallocatedLayer.batch_select_indices
    monkeypatch.setattr(
        kv_cache.PreallocatedLayer,
        "batch_select_indices",
        lambda self, rows: select(self, rows.flip(0)),
    )
    assert choose_passes(model, 0) == (True, False, True, False)


def test_a_model_that_changes_its_weights_is_refused():
    """RWKV halves weights of deep layers when it is first run, and would be saved so."""
    with pytest.raises(ConfigError, match=r"RwkvForCausalLM.*must not change its own weights"):
        choose_passes(tiny_families.model("Rwkv", rescale_every=1), 0)


def test_the_probe_leaves_no_trace_and_is_remembered():
    model = tiny_models.model("llama", seed=4)
    before = {name: p.clone() for name, p in model.named_parameters()}
    state = torch.random.get_rng_state()
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    choose_passes(model, 0)
    assert calls
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None
        assert parameter.requires_grad
    calls.clear()
    choose_passes(model, 0)
    assert not calls
    assert is_unpadded(model)
    twin = tiny_models.model("llama", seed=4)  # the same weights: asked for both
    twin.register_forward_pre_hook(lambda *_: calls.append(1))
    choose_passes(twin, 0)
    assert not calls
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)  # other content is asked again
    choose_passes(model, 0)
    assert calls


def test_nan_weights_are_left_to_sampling():
    model = tiny_models.model("llama", seed=5)
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    assert choose_passes(model, 0) == (True, True, True, False)
