"""The part of a reward that reads how likely the model finds each token of the response."""

import json

import numpy as np
import pytest
import torch
from worlds.rankings import WORDS, chat, saved_policy, tiny_policy

from plumbrule.data.records import Preference, write_records
from plumbrule.errors import ArtifactError
from plumbrule.lm.loading import load_policy
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.tracking.stage_tracker import NullTracker
from rlhf.reward_model import stage as rm
from rlhf.reward_model.config import RMConfig
from rlhf.reward_model.model import RewardModel, load_reward_model
from rlhf.reward_model.reward_stats import RewardStats
from rlhf.reward_model.rows import TokenizedAnswer, collate

READS = RewardStats(uses_token_logprobs=True)


def drawn(uses_token_logprobs=True):
    """A float64 model whose second head has weights."""
    model = RewardModel(
        tiny_policy(), RewardStats(uses_token_logprobs=uses_token_logprobs)
    ).double()
    if model.surprise_head is not None:
        draws = torch.Generator().manual_seed(3)
        torch.nn.init.normal_(model.surprise_head.weight, generator=draws)
    return model


def test_the_score_is_the_formula_of_a_plain_forward_pass():
    model = drawn()
    row = model.encode(chat("what is it?"), (), "red round")
    with torch.no_grad():
        lm = model.policy.model
        made = lm(input_ids=torch.tensor([row.tokens]), output_hidden_states=True)
        hidden = made.hidden_states[-1][0]
        chances = made.logits[0].double().softmax(-1)
        wanted = model.head(hidden[-1]).item()
        for place in range(row.begin, len(row)):
            gate = model.surprise_head(hidden[place - 1]).item()
            wanted += gate * (1 - chances[place - 1, row.tokens[place]].item())
        # A Llama norms in float32 whatever its weights are.
        assert model.scores(*collate([row], 0)).item() == pytest.approx(wanted, abs=1e-6)


def test_at_first_a_surprise_costs_one():
    model = RewardModel(tiny_policy(), READS).double()
    row = model.encode(chat("what is it?"), (), "red round")
    plain = RewardModel(model.policy, RewardStats()).double()
    with torch.no_grad():
        cost = (plain.scores(*collate([row], 0)) - model.scores(*collate([row], 0))).item()
    # an untrained model gives each of the tokens a chance of about 1 / vocabulary
    assert cost == pytest.approx(len(row) - row.begin, rel=0.01)


def test_the_prompt_is_no_part_of_the_sum():
    model = drawn()
    row = model.encode(chat("what is it?"), (), "red round")
    with torch.no_grad():
        whole = model.scores(*collate([row], 0)).item()
        none = model.scores(*collate([TokenizedAnswer(row.tokens, len(row))], 0)).item()
        later = model.scores(*collate([TokenizedAnswer(row.tokens, row.begin + 1)], 0)).item()
        plain = model.head(model.trunk(torch.tensor([row.tokens])).last_hidden_state[0, -1])
    assert none == pytest.approx(plain.item(), abs=1e-6)
    assert len({round(x, 4) for x in (whole, none, later)}) == 3


def test_the_output_layer_learns_from_it():
    """Embeddings of tokens that are nowhere read get a gradient through the softmax alone."""
    model = drawn()
    row = model.encode(chat("what is it?"), (), "red round")
    unread = next(i for i in range(300, 400) if i not in row.tokens)
    model.scores(*collate([row], 0)).sum().backward()
    weight = model.trunk.get_input_embeddings().weight
    assert weight.grad[unread].abs().max() > 0
    assert model.surprise_head.weight.grad.abs().max() > 0


def test_saved_and_loaded(tmp_path):
    model = RewardModel(tiny_policy(), READS)
    torch.nn.init.normal_(model.surprise_head.weight)
    row = model.encode(chat("what is it?"), (), "red")
    model.save(tmp_path)
    again = load_reward_model(tmp_path)
    assert again.stats.uses_token_logprobs
    with torch.no_grad():
        assert torch.equal(model.scores(*collate([row], 0)), again.scores(*collate([row], 0)))


def test_a_file_without_the_second_head_is_refused(tmp_path):
    RewardModel(tiny_policy(), RewardStats()).save(tmp_path)
    stats = json.loads((tmp_path / "reward_stats.json").read_text("utf-8"))
    stats["uses_token_logprobs"] = True
    (tmp_path / "reward_stats.json").write_text(json.dumps(stats), "utf-8")
    with pytest.raises(ArtifactError, match="surprise"):
        load_reward_model(tmp_path)


def likelier_first(policy, i: int, rng: np.random.Generator) -> Preference:
    """Of eight answers of three words, what the policy finds likeliest and least likely."""
    texts = [" ".join(rng.permutation(WORDS)[:3].tolist()) for _ in range(8)]
    model = RewardModel(policy, READS)
    rows = [model.encode(chat(f"what is it? {i}"), (), text) for text in texts]
    tokens, real_mask, *_ = collate(rows, policy.pad_id)
    with torch.no_grad():
        logits = policy.model(input_ids=tokens, attention_mask=real_mask.long()).logits
    chances = logits.softmax(-1)
    sums = [
        sum(chances[k, t - 1, row.tokens[t]].item() for t in range(row.begin, len(row)))
        for k, row in enumerate(rows)
    ]
    ends = (texts[int(np.argmax(sums))], texts[int(np.argmin(sums))])
    return Preference(f"p{i}", chat(f"what is it? {i}"), ends, (1, 2))


def test_what_the_model_itself_finds_likely_can_be_preferred(tmp_path):
    """A taste that two layers' last token hardly holds, read off the output layer."""
    folder = saved_policy(tmp_path / "policy")
    policy = load_policy(folder / "model")
    with torch.no_grad():  # sharper, so that words differ in likelihood
        policy.model.get_input_embeddings().weight.mul_(10)
    policy.model.save_pretrained(folder / "model")
    rng = np.random.default_rng(0)
    rows = [likelier_first(policy, i, rng) for i in range(260)]
    (tmp_path / "data").mkdir()
    write_records(rows[:60], tmp_path / "data" / "records.jsonl")
    write_records(rows[60:], tmp_path / "data" / "validation.jsonl")
    inputs = {
        "policy": Artifact.of(folder, "sft"),
        "preferences": Artifact.of(tmp_path / "data", "data"),
    }
    found = {}
    for reads in (False, True):
        out = tmp_path / str(reads)
        out.mkdir()
        config = RMConfig(batch_size=10, num_train_epochs=1.0, uses_token_logprobs=reads)
        metrics = rm.run(config, inputs, RuntimeConfig(device="cpu"), out, NullTracker())
        found[reads] = metrics["rm/accuracy"]
    # .86 and .65, each +- .04
    assert found[True] > found[False] + 0.1
