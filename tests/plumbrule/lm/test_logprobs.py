"""The one log-softmax: against a float64 loop, and invariant to everything that is not a token."""

import math

import pytest
import torch
from peft import IA3Config, LoraConfig, PromptTuningConfig, get_peft_model
from worlds import tiny_models

from plumbrule.errors import ConfigError
from plumbrule.lm import logprobs as scoring
from plumbrule.lm.logprobs import buckets, hidden_states, logprobs, pad_rows, positions

KINDS = ("llama", "gpt2", "neox", "mistral", "gemma2", "cohere", "granite")
QUERIES = [[5, 9, 40, 7], [8], [11, 12, 13, 14, 15, 16, 300, 18, 19]]
RESPONSES = [[20, 2], [30, 31, 32, 33, 2], [50]]


def loop_reference(model, query, response, temperature):
    """Return log-probs and entropies of a response, one unpadded forward per token, in float64.

    p(v) = exp(z_v / T) / sum_w exp(z_w / T), z the whole model's own logits at the last position.
    """
    found, spreads = [], []
    for t, token in enumerate(response):
        ids = torch.tensor([query + response[:t]])
        with torch.no_grad():
            z = model(input_ids=ids).logits[0, -1].double().tolist()
        weights = [math.exp(v / temperature) for v in z]
        total = sum(weights)
        found.append(math.log(weights[token] / total))
        spreads.append(-sum(w / total * math.log(w / total) for w in weights if w > 0))
    return found, spreads


def batch(query_side="left", pad_id=0, extra_left=0, extra_right=0):
    """Return tokens, real_mask, target_mask with queries padded on one side, responses right."""
    if query_side == "right":
        rows = [q + r for q, r in zip(QUERIES, RESPONSES, strict=True)]
        tokens, real = pad_rows(rows, pad_id)
        target = torch.zeros_like(real)
        for i, (q, r) in enumerate(zip(QUERIES, RESPONSES, strict=True)):
            target[i, len(q) : len(q) + len(r)] = True
    else:
        left, left_mask = pad_rows(QUERIES, pad_id, side="left")
        right, right_mask = pad_rows(RESPONSES, pad_id)
        tokens, real = torch.cat([left, right], 1), torch.cat([left_mask, right_mask], 1)
        target = torch.cat([torch.zeros_like(left_mask), right_mask], 1)
    widths = (extra_left, extra_right)
    tokens = torch.nn.functional.pad(tokens, widths, value=pad_id)
    return tokens, *(torch.nn.functional.pad(m, widths, value=False) for m in (real, target))


@pytest.mark.detail(41)
@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_a_float64_loop_for_every_family(kind, temperature):
    # Gemma 2 has no fused attention, and transformers' eager one overflows on float64 padding.
    dtype, tolerance = (torch.float32, 5e-5) if kind == "gemma2" else (torch.float64, 2e-6)
    model = tiny_models.model(kind, dtype=dtype)
    tokens, real, target = batch()
    scores = logprobs(model, tokens, real, target, temperature, entropy=True)
    for i, (query, response) in enumerate(zip(QUERIES, RESPONSES, strict=True)):
        expected, spreads = loop_reference(model, query, response, temperature)
        assert scores.logprobs[i][target[i]].tolist() == pytest.approx(expected, abs=tolerance)
        assert scores.entropy[i][target[i]].tolist() == pytest.approx(spreads, abs=tolerance)
    assert (scores.logprobs[~target] == 0).all()
    assert (scores.entropy[~target] == 0).all()


@pytest.mark.detail(2, 3, 4)
@pytest.mark.parametrize("kind", ["llama", "gpt2", "neox", "mistral"])
def test_padding_is_never_seen(kind):
    model = tiny_models.model(kind)
    tokens, real, target = batch()
    expected = logprobs(model, tokens, real, target).logprobs[target]
    for side in ("left", "right"):
        for pad_id in (0, 2, 77):
            for left, right in ((0, 0), (5, 0), (0, 7), (3, 4)):
                t, r, m = batch(side, pad_id, left, right)
                found = logprobs(model, t, r, m).logprobs[m]
                torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.detail(2, 26)
def test_the_embedding_of_padding_never_reaches_a_score_or_a_gradient():
    # A pad embedding a million times too large would show in any score that saw it. (With NaN
    # there, attention itself computes 0 * NaN; no finite embedding can do that.)
    results = []
    for size in (1.0, 1e6):
        model = tiny_models.model("gpt2")
        with torch.no_grad():
            model.get_input_embeddings().weight[3] = size
        model.get_output_embeddings().weight = torch.nn.Parameter(
            tiny_models.model("gpt2").get_output_embeddings().weight.detach().clone()
        )
        tokens, real, target = batch(pad_id=3, extra_left=2, extra_right=2)
        found = logprobs(model, tokens, real, target).logprobs
        found.sum().backward()
        gradient = model.get_input_embeddings().weight.grad
        assert (gradient[3] == 0).all()
        results.append((found.detach(), gradient))
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)


def test_batch_composition_does_not_matter():
    model = tiny_models.model()
    tokens, real, target = batch()
    whole = logprobs(model, tokens, real, target).logprobs
    for i in range(3):
        part = slice(i, i + 1)
        alone = logprobs(model, tokens[part], real[part], target[part]).logprobs
        torch.testing.assert_close(alone, whole[part], atol=1e-5, rtol=0)
    order = torch.tensor([2, 0, 1])
    shuffled = logprobs(model, tokens[order], real[order], target[order]).logprobs
    torch.testing.assert_close(shuffled, whole[order], atol=1e-5, rtol=0)


def test_entropy_of_a_known_distribution():
    # A head of zeros gives a uniform distribution: H = ln 320 and log p = -ln 320 at every T.
    model = tiny_models.model("neox")
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    tokens, real, target = batch()
    for temperature in (0.3, 1.0, 2.0):
        scores = logprobs(model, tokens, real, target, temperature, entropy=True)
        assert scores.logprobs[target].tolist() == pytest.approx([-math.log(320)] * 8, abs=1e-5)
        assert scores.entropy[target].tolist() == pytest.approx([math.log(320)] * 8, abs=1e-5)


def test_entropy_survives_a_token_of_probability_zero():
    # Llama ties its embeddings; logits of -inf come from models that forbid tokens.
    model = tiny_models.model("neox")
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda m, i, out: out.index_fill(-1, torch.tensor([4]), -torch.inf))
    tokens, real, target = batch()
    scores = logprobs(model, tokens, real, target, entropy=True)
    assert scores.entropy.isfinite().all()
    assert (scores.entropy[target] > 0).all()


@pytest.mark.detail(41)
def test_slices_change_neither_value_nor_gradient(monkeypatch):
    results = []
    for most in (2**25, 2 * tiny_models.VOCAB):  # all 8 targets at once; two at a time
        monkeypatch.setattr(scoring, "_SLICE_LOGITS", most)
        model = tiny_models.model()
        scores = logprobs(model, *batch(), entropy=True)
        scores.logprobs.sum().backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        results.append((scores.logprobs.detach(), scores.entropy, gradients))
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)


def test_slices_are_not_kept_for_the_backward_pass(monkeypatch):
    def logits_kept():
        sizes = [0]
        keep = torch.autograd.graph.saved_tensors_hooks(
            lambda x: sizes.append(x.numel() if x.shape[-1:] == (tiny_models.VOCAB,) else 0) or x,
            lambda x: x,
        )
        with keep:
            logprobs(tiny_models.model(), *batch())
        return sum(sizes)

    assert logits_kept() >= 8 * tiny_models.VOCAB  # at least once all logits of the 8 targets
    monkeypatch.setattr(scoring, "_SLICE_LOGITS", 2 * tiny_models.VOCAB)
    assert logits_kept() == 0


def test_gradient_equals_finite_differences():
    model = tiny_models.model("gpt2", dtype=torch.float64)  # Llama's norm is float32 inside
    data = batch()
    weight = model.transformer.h[0].attn.c_attn.weight
    logprobs(model, *data, 0.7).logprobs.sum().backward()
    step = 1e-6
    for place in ((0, 0), (3, 50), (31, 95)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[place] += sign * step
                values.append(logprobs(model, *data, 0.7).logprobs.sum().item())
                weight[place] -= sign * step
        slope = (values[0] - values[1]) / (2 * step)
        assert weight.grad[place].item() == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_only_target_positions_reach_the_head():
    model = tiny_models.model()
    seen = []
    model.lm_head.register_forward_hook(lambda m, i, out: seen.append(tuple(out.shape)))
    logprobs(model, *batch(extra_left=3))
    assert seen == [(8, tiny_models.VOCAB)]


@pytest.mark.detail(41)
def test_a_bfloat16_model_gives_float32_numbers_that_sum_to_one():
    model = tiny_models.model().to(torch.bfloat16)
    tokens = torch.arange(tiny_models.VOCAB)[:, None]
    tokens = torch.cat([torch.full_like(tokens, 9), tokens], 1)  # every token after token 9
    target = torch.tensor([[False, True]]).expand(tiny_models.VOCAB, 2)
    scores = logprobs(model, tokens, torch.ones_like(target), target)
    assert scores.logprobs.dtype == torch.float32
    assert scores.logprobs[:, 1].exp().sum().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.detail(35)
@pytest.mark.parametrize(
    "adapter",
    [
        LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False),
        IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    ],
    ids=["lora", "ia3"],
)
def test_an_adapter_is_part_of_the_model(adapter):
    wrapped = get_peft_model(tiny_models.model(), adapter).eval()
    with torch.no_grad():
        for name, p in wrapped.named_parameters():
            if "ia3" in name:
                p.fill_(0.7)
    data = batch()
    scores = logprobs(wrapped, *data).logprobs
    expected, _ = loop_reference(wrapped, QUERIES[0], RESPONSES[0], 1.0)
    assert scores[0][data[2][0]].tolist() == pytest.approx(expected, abs=1e-5)
    plain = logprobs(tiny_models.model(), *data).logprobs
    assert (scores - plain).abs().max() > 0.01
    with wrapped.disable_adapter():
        torch.testing.assert_close(logprobs(wrapped, *data).logprobs, plain)
    scores.sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in wrapped.parameters())


def test_virtual_tokens_are_refused():
    prompted = get_peft_model(
        tiny_models.model(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    )
    with pytest.raises(ConfigError, match=r"PROMPT_TUNING.*LoRA"):
        logprobs(prompted, *batch())


def test_hidden_states_of_a_model_and_of_its_trunk_agree():
    model = tiny_models.model("gpt2")
    tokens, real, _ = batch()
    hidden = hidden_states(model, tokens, real)
    assert hidden.shape == (*tokens.shape, 32)
    torch.testing.assert_close(hidden_states(model.transformer, tokens, real), hidden)
    wider = hidden_states(model, *(batch(extra_left=4)[:2]))
    torch.testing.assert_close(wider[:, 4:][real], hidden[real], atol=1e-5, rtol=1e-5)


def test_bad_masks_and_temperatures():
    model = tiny_models.model()
    tokens, real, target = batch()
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match=r"temperature .* must be above 0"):
            logprobs(model, tokens, real, target, temperature)
    first = torch.zeros_like(target)
    first[2, 0] = True  # the first token of the longest row has nothing before it
    with pytest.raises(ValueError, match="target_mask"):
        logprobs(model, tokens, real, first)
    padded = torch.zeros_like(target)
    padded[1, 8] = True  # row 1 is one token, after eight columns of padding
    with pytest.raises(ValueError, match="target_mask"):
        logprobs(model, tokens, real, padded)
    none = logprobs(model, tokens, real, torch.zeros_like(target), entropy=True)
    assert none.logprobs.shape == none.entropy.shape == tokens.shape
    assert (none.logprobs == 0).all()


@pytest.mark.detail(4)
def test_positions_count_real_tokens():
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 0, 0, 0]], dtype=torch.bool)
    assert positions(mask).tolist() == [[0, 0, 0, 1, 2], [0, 1, 1, 1, 1]]


@pytest.mark.detail(2)
def test_pad_rows_reads_lengths_not_ids():
    tokens, mask = pad_rows([[7, 7], [1, 2, 7], []], pad_id=7, side="left")
    assert tokens.tolist() == [[7, 7, 7], [1, 2, 7], [7, 7, 7]]
    assert mask.tolist() == [[False, True, True], [True] * 3, [False] * 3]
    tokens, mask = pad_rows([[7, 7], [1, 2, 7]], pad_id=0)
    assert tokens.tolist() == [[7, 7, 0], [1, 2, 7]]
    assert mask.tolist() == [[True, True, False], [True] * 3]
    assert tokens.dtype == torch.int64
    assert mask.dtype == torch.bool
    assert pad_rows([], 0)[0].shape == (0, 0)
    with pytest.raises(ValueError, match="side"):
        pad_rows([[1]], 0, side="middle")


def test_buckets_hold_every_row_once_and_keep_their_limits():
    lengths = [3, 9, 1, 9, 4, 30, 2, 9]
    assert buckets(lengths, 3) == [[5, 1, 3], [7, 4, 0], [6, 2]]
    for max_rows, max_tokens in ((3, None), (4, 20), (4, 16), (1, 5), (8, 1000)):
        lists = buckets(lengths, max_rows, max_tokens)
        assert sorted(i for rows in lists for i in rows) == list(range(8))
        for rows in lists:
            assert len(rows) <= max_rows
            if max_tokens is not None and len(rows) > 1:
                assert len(rows) * max(lengths[i] for i in rows) <= max_tokens
    assert buckets([], 4) == []
