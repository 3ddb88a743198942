import math

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel
from worlds.rankings import chat, tiny_policy

from plumbrule.data.records import Prompt
from plumbrule.errors import ArtifactError, DataError, TrainingError
from plumbrule.lm.config import ModelConfig
from plumbrule.lm.loading import make_policy, new_model
from plumbrule.protocols import Episode
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from rlhf.reward_model.model import (
    RewardModel,
    RewardScorer,
    load_reward_model,
    open_reward,
    score_rows,
)
from rlhf.reward_model.reward_stats import RewardStats
from rlhf.reward_model.rows import TokenizedAnswer, by_prompt, collate, last_real


@pytest.fixture(scope="module", params=[False, True], ids=["last_token", "surprise"])
def model(request):
    stats = RewardStats(mean=0.25, std=2.0, num_samples=9, uses_token_logprobs=request.param)
    model = RewardModel(tiny_policy(), stats)
    if model.surprise_head is not None:
        draws = torch.Generator().manual_seed(0)
        torch.nn.init.normal_(model.surprise_head.weight, generator=draws)
    return model


def score(model, row, left=0, right=0, pad_id=0):
    tokens = torch.tensor([[pad_id] * left + [*row.tokens] + [pad_id] * right])
    real_mask = torch.tensor([[False] * left + [True] * len(row) + [False] * right])
    response_mask = torch.arange(tokens.shape[1])[None] >= left + row.begin
    with torch.no_grad():
        return model.scores(tokens, real_mask, real_mask & response_mask).item()


def episode(query, response, finished=True, passages=()):
    return Episode(Prompt("p", chat(query)), passages, response, finished)


@pytest.mark.detail(14)
@pytest.mark.parametrize(
    ("real_mask", "last"),
    [
        ([True, True, True], 2),  # full length
        ([False, True, True], 2),  # left-padded
        ([True, True, False], 1),  # right-padded
        ([False, True, False], 1),  # both
        ([True, False, False], 0),  # one token
    ],
)
def test_last_real_token_by_hand(real_mask, last):
    assert last_real(torch.tensor([real_mask])).tolist() == [last]


def test_a_row_without_real_tokens_is_refused():
    with pytest.raises(ValueError, match="at least one real token"):
        last_real(torch.tensor([[True, False], [False, False]]))


@pytest.mark.detail(14)
def test_score_index_where_the_query_holds_the_pad_id(model):
    """A pad id inside the query or at the very end of a row is a token like any other."""
    pad = model.policy.pad_id
    row = TokenizedAnswer((5, pad, pad, 300, 301, pad), 4)
    plain = score(model, row)
    assert score(model, row, left=3, pad_id=pad) == pytest.approx(plain, abs=1e-5)
    assert score(model, row, right=4, pad_id=pad) == pytest.approx(plain, abs=1e-5)
    assert plain != pytest.approx(score(model, TokenizedAnswer(row.tokens[:-1], 4)), abs=1e-4)


@pytest.mark.detail(14)
def test_an_empty_response_is_scored_at_the_end_of_the_query(model):
    query = model.policy.encode(chat("what is it?"))
    row = TokenizedAnswer(tuple(query), len(query))
    with torch.no_grad():
        hidden = model.trunk(input_ids=torch.tensor([query])).last_hidden_state[0, -1]
        wanted = model.head(hidden).item()
    assert score(model, row, right=5) == pytest.approx(wanted, abs=1e-5)
    assert score(model, row, left=5) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.detail(3)
@pytest.mark.parametrize(("left", "right"), [(0, 7), (7, 0), (3, 4)])
def test_padding_does_not_change_a_score(model, left, right):
    row = model.encode(chat("how does it look?"), (), "red round")
    assert score(model, row, left, right) == pytest.approx(score(model, row), abs=1e-5)


@pytest.mark.detail(3)
def test_batch_composition_does_not_change_a_score(model):
    texts = ["red", "red round flat tall small warm cold soft", "good", "bad green"]
    rows = [model.encode(chat("what is it?"), (), text) for text in texts]
    alone = [score(model, row) for row in rows]
    for size in (1, 2, 4):
        assert score_rows(model, rows, size).tolist() == pytest.approx(alone, abs=1e-5)
    assert score_rows(model, rows[::-1], 3).tolist() == pytest.approx(alone[::-1], abs=1e-5)


@pytest.mark.detail(2)
def test_pad_equal_to_end_of_text_gives_identical_scores(model):
    """Filler ids are never looked at: with the terminal id as pad id every bit is the same."""
    rows = [model.encode(chat("what is it?"), (), text) for text in ("red", "red round flat")]
    found = []
    for pad_id in (model.policy.pad_id, model.policy.terminal_id):
        with torch.no_grad():
            found.append(model.scores(*collate(rows, pad_id)))
    assert torch.equal(found[0], found[1])


@pytest.mark.detail(1)
def test_score_changes_when_only_the_query_changes(model):
    scorer = RewardScorer(model, 8)
    asked = [episode("what is it?", "red"), episode("tell me more.", "red")]
    shown = episode("what is it?", "red", passages=("It is red.",))
    scores = scorer.score([*asked, shown])["score"]
    assert len(set(np.round(scores, 4))) == 3


@pytest.mark.detail(33)
def test_head_starts_at_the_recorded_spread():
    policy = tiny_policy()
    shape = ModelConfig(context=64, hidden_size=1024, num_layers=1, num_heads=2)
    wide = make_policy(new_model(shape, policy.tokenizer, 0), policy.tokenizer)
    heads = [RewardModel(wide, seed=seed).head for seed in (0, 0, 1)]
    # 1024 draws: their standard deviation has a relative error of 1 / sqrt(2048) = 2.2 %
    assert heads[0].weight.std().item() == pytest.approx(1 / math.sqrt(1025), rel=0.1)
    assert heads[0].bias.item() == 0.0
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert not torch.equal(heads[0].weight, heads[2].weight)


@pytest.mark.detail(35)
def test_dropout_is_off_in_training_mode():
    tokenizer = tiny_policy().tokenizer
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_positions=64,
        resid_pdrop=0.5,
        attn_pdrop=0.5,
        embd_pdrop=0.5,
    )
    model = RewardModel(make_policy(GPT2LMHeadModel(config), tokenizer)).train()
    row = model.encode(chat("what is it?"), (), "red")
    assert score(model, row) == score(model, row)


@pytest.mark.detail(13)
def test_the_terminal_token_follows_a_finished_answer_only():
    policy = tiny_policy()
    with_terminal = RewardModel(policy)
    without = RewardModel(policy, RewardStats(append_terminal=False))
    rows = [
        m.encode(chat("what is it?"), (), "red", finished)
        for m in (with_terminal, without)
        for finished in (True, False)
    ]
    assert rows[0].tokens == (*rows[1].tokens, policy.terminal_id)
    assert rows[1] == rows[2] == rows[3]


@pytest.mark.detail(41)
def test_bfloat16_trunk_has_a_float32_head():
    policy = tiny_policy()
    exact = RewardModel(policy)
    rough = RewardModel(policy, RewardStats(precision="bfloat16"))
    row = exact.encode(chat("what is it?"), (), "red round")
    assert rough.head.weight.dtype == torch.float32
    # bfloat16 keeps 8 bits, so a score of order 1 is right to about 1 / 100
    assert score(rough, row) == pytest.approx(score(exact, row), abs=3e-2)
    assert score(rough, row) != score(exact, row)
    with torch.autocast("cpu", torch.bfloat16):
        assert score(exact, row) == pytest.approx(score(exact, row), abs=1e-6)


def test_saved_and_loaded_scores_are_the_same(model, tmp_path):
    model.save(tmp_path)
    again = load_reward_model(tmp_path)
    row = model.encode(chat("what is it?"), (), "red")
    assert again.stats == model.stats
    assert again.append_terminal
    weights = again.state_dict()
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(weights[name], w) for name, w in model.state_dict().items())
    # A loaded model's last layer computes the wanted tokens alone: the same up to rounding.
    assert score(again, row) == pytest.approx(score(model, row), abs=1e-6)
    assert not list(tmp_path.rglob("*.bin"))


@pytest.mark.parametrize("name", ["head.safetensors", "reward_stats.json"])
def test_a_folder_that_lacks_a_file_is_refused(model, tmp_path, name):
    model.save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        load_reward_model(tmp_path)


def test_a_damaged_head_is_refused(model, tmp_path):
    model.save(tmp_path)
    (tmp_path / "head.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(ArtifactError, match="must hold a reward model"):
        load_reward_model(tmp_path)


@pytest.mark.detail(20)
def test_open_reward_gives_normalised_scores_in_order(model, tmp_path):
    model.save(tmp_path)
    scorer = open_reward(Artifact.of(tmp_path, "rm"), runtime=RuntimeConfig(device="cpu"))
    texts = ["red", "round flat tall", "red", "bad"]
    scores = scorer.score([episode("what is it?", text) for text in texts])["score"]
    raw = [score(model, model.encode(chat("what is it?"), (), text)) for text in texts]
    assert scores.dtype == np.float64
    assert scores.tolist() == pytest.approx([(r - 0.25) / 2.0 for r in raw], abs=1e-5)
    assert scores[0] == scores[2]


@pytest.mark.detail(34)
def test_the_normalised_head_gives_the_normalised_score(model):
    row = model.encode(chat("what is it?"), (), "red")
    with torch.no_grad():
        hidden = model.trunk(input_ids=torch.tensor([row.tokens])).last_hidden_state[0, -1]
        value = model.normalised_head()(hidden).item()
    said = 0.0 if model.surprise_head is None else score(model, row) - model.head(hidden).item()
    assert value == pytest.approx((score(model, row) - said - 0.25) / 2.0, abs=1e-5)


def test_equal_rows_go_through_the_trunk_once(model):
    seen = []
    handle = model.trunk.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    try:
        score_rows(
            model,
            [
                TokenizedAnswer((5, 6), 1),
                TokenizedAnswer((5, 6), 1),
                TokenizedAnswer((7,), 1),
                TokenizedAnswer((5, 6), 1),
            ],
            16,
        )
    finally:
        handle.remove()
    assert sum(seen) == 3  # tokens of the two different rows


def test_a_response_beyond_the_context_is_cut_and_said():
    model = RewardModel(tiny_policy(context=40))
    long = " ".join(["red"] * 60)
    with pytest.warns(UserWarning, match="1 of 2 responses"):
        scores = RewardScorer(model, 4).score(
            [episode("what is it?", long), episode("what is it?", "red")]
        )["score"]
    row = model.encode(chat("what is it?"), (), long)
    assert scores[0] == pytest.approx(
        score(model, TokenizedAnswer(row.tokens[:40], row.begin)), abs=1e-5
    )


def test_a_prompt_that_fills_the_context_is_refused():
    model = RewardModel(tiny_policy(context=16))
    with pytest.raises(DataError, match="16 tokens"):
        RewardScorer(model, 4).score([episode(" ".join(["red"] * 60), "red")])


def test_scores_that_are_not_numbers_are_refused():
    model = RewardModel(tiny_policy())
    with torch.no_grad():
        model.head.weight.fill_(math.nan)
    with pytest.raises(TrainingError, match="2 of 2"):
        score_rows(model, [TokenizedAnswer((5,), 1), TokenizedAnswer((6,), 1)], 4)


def test_answers_to_one_prompt_are_scored_together_and_alike(model):
    """Each prompt goes through the model once per pass, whatever the order of the rows."""
    rows = [
        TokenizedAnswer((*prompt, *answer), len(prompt))
        for answer in ((20, 2), (8,), (11, 12, 13))
        for prompt in ((5, 9, 40, 7), (60, 61))
    ]
    alone = [score_rows(model, [row], 1).item() for row in rows]
    lists = by_prompt(rows, 4)
    assert sorted(i for one in lists for i in one) == list(range(6))
    assert all(len({rows[i].prompt for i in one}) == 1 for one in lists)
    assert collate([rows[0], rows[2], rows[4], rows[1], rows[3]], 0).shared.tolist() == [
        0, 4, 4, 0, 2
    ]  # fmt: skip
    for most in (1, 2, 4, 6):
        assert max(map(len, by_prompt(rows, most))) <= most
        assert score_rows(model, rows, most).tolist() == pytest.approx(alone, abs=1e-5)
