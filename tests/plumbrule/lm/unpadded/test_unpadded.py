"""Forward passes over real tokens only: the same numbers, and no work on padding."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from worlds import tiny_models

from plumbrule.lm.config import SamplingConfig
from plumbrule.lm.generation import generate
from plumbrule.lm.loading import load_policy, save_policy
from plumbrule.lm.logprobs import hidden_states, logprobs, pad_rows, trunk
from plumbrule.lm.unpadded import attention, passes, wanted_tokens
from plumbrule.lm.unpadded.attention import can_unpad, is_unpadded, set_unpadded
from plumbrule.lm.unpadded.wanted_tokens import follow_wanted, reading_at

PLAIN_CAUSAL = ("llama", "gpt2", "neox", "cohere", "granite")
OTHERS = ("mistral", "gemma2")
ROWS = [[5, 9, 40, 7, 20, 2], [8], [11, 12, 13, 14, 15, 16, 300, 18, 19, 31, 2], [60, 61, 62]]


def batch(side="right"):
    tokens, real = pad_rows(ROWS, 0, side)
    target = real.clone()
    target[torch.arange(len(ROWS)), real.to(torch.uint8).argmax(1)] = False
    return tokens, real, target


def gradients_of(model, side):
    """Return the log-probs of all rows and the gradient of a loss that weighs each differently."""
    tokens, real, target = batch(side)
    found = logprobs(model, tokens, real, target).logprobs[target]
    weights = torch.linspace(-1, 1, len(found), dtype=found.dtype)
    (found * weights).sum().backward()
    parameters = [p for p in model.parameters() if p.requires_grad]
    return found.detach(), [p.grad for p in parameters]


@pytest.mark.parametrize("by_row", [True, False], ids=["by row", "in groups"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", PLAIN_CAUSAL)
def test_log_probs_and_gradients_equal_the_padded_pass(kind, side, by_row, monkeypatch):
    monkeypatch.setattr(attention, "_by_row", lambda device: by_row)
    monkeypatch.setattr(attention, "ALONE_TOKENS", 4)
    plain = tiny_models.model(kind, dtype=torch.float64)
    ours = copy.deepcopy(plain)
    set_unpadded(ours)
    assert is_unpadded(ours)
    assert not is_unpadded(plain)
    expected, wanted = gradients_of(plain, side)
    found, gradients = gradients_of(ours, side)
    # Rotary angles and some softmaxes are float32 in every model.
    assert torch.allclose(found, expected, atol=1e-6)
    for mine, theirs in zip(gradients, wanted, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6 * max(1.0, float(theirs.abs().max())))


@pytest.mark.parametrize("kind", PLAIN_CAUSAL)
def test_only_real_tokens_are_computed(kind):
    model = tiny_models.policy(kind).model
    seen = []
    layer = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))[0]
    layer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((args or tuple(kwargs.values()))[0].shape[:2]),
        with_kwargs=True,
    )
    tokens, real, _ = batch()
    hidden = hidden_states(model, tokens, real)
    assert seen == [(1, sum(map(len, ROWS)))]
    assert hidden.shape[:2] == tokens.shape
    assert (hidden[~real] == 0).all()


PROMPT = [5, 9, 40, 7]
RUNS = [
    [*PROMPT, 20, 2],
    [*PROMPT, 8],
    [*PROMPT, 11, 12, 13],
    [60, 61, 62],
    [60, 61, 9, 9, 9],
    [7, 8, 9],
]
SHARED = [0, 4, 4, 0, 2, 0]
"""First tokens that each row has in common with the first of its run."""


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("shared", [False, True], ids=["rows apart", "rows that share"])
@pytest.mark.parametrize("added", [0, 3])
@pytest.mark.parametrize("kind", PLAIN_CAUSAL)
def test_the_last_layer_computes_wanted_tokens_and_gives_what_it_gives_for_all(
    kind, added, shared, side, monkeypatch
):
    """Hidden states where they are wanted, and gradients of a loss that reads these."""
    monkeypatch.setattr(wanted_tokens, "num_added", lambda number: added)
    model = tiny_models.model(kind, dtype=torch.float64)
    set_unpadded(model)
    tokens, real = pad_rows(RUNS, 0, side)
    begins = real.to(torch.uint8).argmax(1)
    wanted = torch.zeros_like(real)
    wanted[torch.arange(len(RUNS)), begins + torch.tensor([3, 4, 3, 2, 1, 0])] = True
    wanted[0, begins[0] + 5] = True
    layers = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))
    seen = []
    parts = [m for name, m in layers[-1].named_modules() if name == "mlp"]
    found = []
    for follows in (False, True):
        model.zero_grad()
        if follows:
            follow_wanted(trunk(model))
            for part in parts:
                part.register_forward_pre_hook(lambda part, given: seen.append(given[0].shape[1]))
        common = torch.tensor(SHARED) if shared else None
        hidden = hidden_states(model, tokens, real, shared=common, wanted=wanted)
        assert (hidden[~real] == 0).all()
        weights = torch.linspace(0, 99, hidden[wanted].numel(), dtype=hidden.dtype).sin()
        (hidden[wanted].flatten() * weights).sum().backward()
        parameters = [p for p in trunk(model).parameters() if p.requires_grad]
        found.append((hidden[wanted].detach(), [p.grad.clone() for p in parameters]))
    (all_tokens, expected), (hidden, gradients) = found
    # The last token of the prompt is wanted by two rows, and computed once where they share it.
    if "layers" in dict(trunk(model).named_children()):
        assert seen == [7 - shared + added] * len(parts)
    assert torch.allclose(hidden, all_tokens, atol=1e-6)
    for mine, theirs in zip(gradients, expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6 * max(1.0, float(theirs.abs().max())))


@pytest.mark.parametrize("by_row", [True, False], ids=["by row", "in groups"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", PLAIN_CAUSAL)
def test_rows_that_share_their_beginning_equal_rows_apart(kind, side, by_row, monkeypatch):
    """Hidden states and gradients; only tokens that no earlier row of the run has are computed."""
    monkeypatch.setattr(attention, "_by_row", lambda device: by_row)
    monkeypatch.setattr(attention, "ALONE_TOKENS", 4)
    model = tiny_models.model(kind, dtype=torch.float64)
    set_unpadded(model)
    tokens, real = pad_rows(RUNS, 0, side)
    computed = []
    layer = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))[0]
    layer.register_forward_pre_hook(
        lambda module, args, kwargs: computed.append((args or tuple(kwargs.values()))[0].shape[1]),
        with_kwargs=True,
    )
    found = []
    for shared in (None, torch.tensor(SHARED)):
        model.zero_grad()
        hidden = hidden_states(model, tokens, real, shared=shared)
        assert (hidden[~real] == 0).all()
        weights = torch.linspace(0, 99, hidden[real].numel(), dtype=hidden.dtype).sin()
        (hidden[real].flatten() * weights).sum().backward()
        parameters = [p for p in trunk(model).parameters() if p.requires_grad]
        found.append((hidden.detach(), [p.grad.clone() for p in parameters]))
    assert computed == [sum(map(len, RUNS)), sum(map(len, RUNS)) - sum(SHARED)]
    (apart, wanted), (together, gradients) = found
    # Rotary angles, norms and some softmaxes are float32 in every model.
    assert torch.allclose(together, apart, atol=1e-6)
    for mine, theirs in zip(gradients, wanted, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6 * max(1.0, float(theirs.abs().max())))


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_of_attention_are_left_as_they_are(kind):
    model = tiny_models.model(kind)
    before = model.config._attn_implementation
    set_unpadded(model)
    assert not can_unpad(model)
    assert model.config._attn_implementation == before


def test_gradient_checkpointing_computes_the_same():
    plain, ours = (tiny_models.policy("llama").model for _ in range(2))
    ours.gradient_checkpointing_enable({"use_reentrant": False})
    ours.train()
    expected, wanted = gradients_of(plain, "right")
    found, gradients = gradients_of(ours, "right")
    assert torch.equal(found, expected)
    for mine, theirs in zip(gradients, wanted, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


def test_adapters_are_run_too():
    plain = get_peft_model(
        tiny_models.model("llama", dtype=torch.float64),
        LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False),
    )
    ours = copy.deepcopy(plain)
    set_unpadded(ours.get_base_model())
    expected, wanted = gradients_of(plain, "right")
    found, gradients = gradients_of(ours, "right")
    assert torch.allclose(found, expected, atol=1e-6)
    assert len(gradients) == len(wanted) == 4
    for mine, theirs in zip(gradients, wanted, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)  # norms and angles are float32 here too


def test_rows_of_a_group_are_of_like_length():
    layout = attention.make_groups([100, 70, 61, 59, 40, 5, 3, 2], torch.device("cpu"))
    assert [(g.num_rows, g.width) for g in layout] == [(3, 100), (2, 59), (2, 5), (1, 2)]
    assert layout[1].slots.tolist() == [*range(59), *range(59, 99)]
    assert layout[2].slots.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


def test_long_rows_attend_alone_on_a_cpu_and_short_ones_in_groups(monkeypatch):
    monkeypatch.setattr(attention, "ALONE_TOKENS", 4)
    masks = [None, torch.ones(5, 5, dtype=torch.bool).tril(), None]
    layout = attention.make_layout([6, 5, 4, 3], torch.device("cpu"), masks)
    assert [mask is None for mask in layout.alone] == [True, False]
    assert [(g.num_rows, g.width, g.mask) for g in layout.groups] == [(2, 4, None)]


@pytest.mark.parametrize("number", [1, 15, 16, 33, 700, 960, 1025])
def test_the_number_of_tokens_of_a_pass_is_rounded_up_a_little(number):
    """Each new shape costs compiled code; at most one token in sixteen is a dummy."""
    seen = []

    def trunk(**inputs):
        seen.append(inputs["input_ids"].shape)
        assert inputs["position_ids"].shape == inputs["input_ids"].shape
        states = torch.arange(inputs["input_ids"].numel(), dtype=torch.float32)[None, :, None]
        return type("Output", (), {"last_hidden_state": states})

    ids = torch.ones(number, dtype=torch.int64)
    hidden = passes.run(trunk, [], ids, input_ids=ids)
    assert len(hidden) == number
    [(_, computed)] = seen
    assert number <= computed <= number + number / 16
    assert computed % 2 ** max(0, number.bit_length() - 5) == 0


@pytest.mark.parametrize(
    ("number", "read", "computed"), [(100, 33, 34), (66, 65, 66), (33, 33, 33)]
)
def test_the_number_of_tokens_of_the_last_layer_is_rounded_up_as_far_as_there_are_others(
    number, read, computed
):
    wanted = torch.zeros(number, dtype=torch.bool)
    wanted[torch.randperm(number, generator=torch.Generator().manual_seed(0))[:read]] = True
    trunk = tiny_models.policy("llama").model.model
    follow_wanted(trunk)
    seen = []
    trunk.layers[-1].mlp.register_forward_hook(lambda part, given, found: seen.append(given[0]))
    layout = attention.make_layout([number], torch.device("cpu"))
    positions = torch.arange(number)
    with reading_at(trunk, wanted):
        passes.run(trunk, layout, positions, input_ids=torch.ones_like(positions))
    assert [states.shape[1] for states in seen] == [computed]


def test_rows_without_a_token_are_zero():
    model = tiny_models.policy("llama").model
    tokens, real, _ = batch()
    real[1] = False
    hidden = hidden_states(model, tokens, real)
    assert (hidden[1] == 0).all()
    alone = hidden_states(model, tokens[2:3], real[2:3])
    assert torch.allclose(hidden[2], alone[0], atol=1e-6)


def test_attention_is_float32_on_a_cpu_where_bf16_would_be_slow(monkeypatch):
    """Trained, scored and sampled alike, so that the three agree."""
    policy = tiny_models.policy("llama")
    seen = []
    plain = attention.sdpa_attention_forward

    def look(module, query, key, value, *arguments, **settings):
        dtypes = {some.dtype for some in (query, key, value)}
        seen.append((*dtypes, torch.is_autocast_enabled("cpu")))
        return plain(module, query, key, value, *arguments, **settings)

    monkeypatch.setattr(attention, "sdpa_attention_forward", look)
    tokens, real, target = batch()
    exact = logprobs(policy.model, tokens, real, target).logprobs
    with torch.autocast("cpu", torch.bfloat16):
        trained = logprobs(policy.model, tokens, real, target).logprobs
        with torch.no_grad():
            scored = logprobs(policy.model, tokens, real, target).logprobs
        generate(policy, ROWS, sampling=SamplingConfig(max_new_tokens=3), keys=[0, 1, 2, 3])
    assert set(seen) == {(torch.float32, False)}
    assert torch.equal(trained, scored)
    assert 0 < (trained - exact).abs().max() < 0.2


def test_a_model_in_bf16_learns_on_a_cpu():
    policy = tiny_models.policy("llama", dtype=torch.bfloat16)
    tokens, real, target = batch()
    logprobs(policy.model, tokens, real, target).logprobs.sum().backward()
    assert all(p.grad.isfinite().all() for p in policy.model.parameters())


def test_sampling_and_saved_folders_know_nothing_of_it(tmp_path):
    policy = tiny_models.policy("llama")
    save_policy(policy, tmp_path)
    assert attention.NAME not in (tmp_path / "config.json").read_text()
    again = load_policy(tmp_path)
    assert is_unpadded(again.model)
    tokens = torch.tensor([ROWS[2]])
    plain = tiny_models.model("llama")
    found = trunk(again.model)(input_ids=tokens).last_hidden_state
    assert torch.allclose(found, trunk(plain)(input_ids=tokens).last_hidden_state, atol=1e-6)
