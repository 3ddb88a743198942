"""TRL's trainer as it is used here: loss, gradients, masks, steps."""

import copy
import math

import numpy as np
import pytest
import torch
from worlds.rankings import ranking, tiny_policy
from worlds.stages import small_dpo as small
from worlds.trackers import StoppingTracker

from plumbrule.errors import TrainingError
from plumbrule.lm.adapters import with_adapter
from plumbrule.lm.config import AdapterConfig
from rlhf.dpo import trainer as dpo_trainer
from rlhf.dpo.pairs import answer_logprobs, encode_split, examples_of

CPU = torch.device("cpu")
LOSSES = [("sigmoid", 0.0), ("sigmoid", 0.2), ("robust", 0.2), ("hinge", 0.0), ("ipo", 0.0)]


def moved_policy():
    """Return a policy whose predictions differ between answers."""
    policy = tiny_policy()
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(3.0)
    return policy


def split_of(policy, number=5):
    rng = np.random.default_rng(0)
    return encode_split(policy, [ranking(i, rng) for i in range(number)], 96, "all", 0)


def pairs_for(policy, number=5, reference=None):
    """Return pairs; the reference's log-probs are off by what depends on the answer's length."""
    split = split_of(policy, number)
    answers = split.paired()
    known = dict(zip(answers, answer_logprobs(policy, list(answers.values()), 8), strict=True))
    if reference == "exact":
        return examples_of(split, known)
    off = {place: 0.5 * len(split.answers[place[0]][place[1]].response) - 2 for place in known}
    return examples_of(split, {place: known[place] + off[place] for place in known})


def trainer_of(policy, examples, config, tmp_path, rows=64):
    return dpo_trainer.make_trainer(
        policy,
        dpo_trainer.dataset(examples, range(len(examples))),
        dpo_trainer.arguments(config, 1, rows, CPU, tmp_path),
    )


def gradients(policy):
    return [p.grad.clone() for p in policy.model.parameters() if p.grad is not None]


def assert_alike(found, wanted):
    """Rounding only: 1e-5 of the largest number of all."""
    largest = max(float(x.abs().max()) for x in wanted)
    for mine, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-5 * largest)


def loss_and_gradients(trainer, policy, batches, count):
    policy.model.zero_grad()
    total = 0.0
    for batch in batches:
        loss = trainer.compute_loss(policy.model, batch, num_items_in_batch=count)
        loss.backward()
        total += loss.item()
    return total, gradients(policy)


@pytest.mark.parametrize(("loss", "smoothing"), LOSSES)
def test_loss_and_gradient_are_those_of_trl(tmp_path, loss, smoothing):
    policy = moved_policy()
    examples = pairs_for(policy)
    trainer = trainer_of(
        policy, examples, small(loss=loss, label_smoothing=smoothing, beta=0.3), tmp_path
    )
    batch = trainer.data_collator(list(trainer.train_dataset))
    ours = loss_and_gradients(trainer, policy, [batch], len(examples))
    if (loss, smoothing) == ("sigmoid", 0.2):  # TRL has no cDPO, but what sums to it
        trainer.loss_types, trainer.loss_weights = ["sigmoid", "robust"], [1.6, -0.6]
    policy.model.zero_grad()
    theirs = dpo_trainer.trl.DPOTrainer.compute_loss(trainer, policy.model, batch)
    theirs.backward()
    assert ours[0] == pytest.approx(theirs.item(), rel=1e-5)
    assert_alike(ours[1], gradients(policy))


@pytest.mark.parametrize(("loss", "smoothing"), LOSSES)
def test_loss_and_gradient_are_those_of_float64_by_hand(tmp_path, loss, smoothing):
    policy = moved_policy()
    examples = pairs_for(policy, 3)
    config = small(loss=loss, label_smoothing=smoothing, beta=0.3)
    trainer = trainer_of(policy, examples, config, tmp_path)
    batch = trainer.data_collator(list(trainer.train_dataset))
    found = loss_and_gradients(trainer, policy, [batch], len(examples))

    model = tiny_policy().model.double()
    model.load_state_dict(policy.model.state_dict())
    total = 0.0
    for example in examples:
        ratios = []
        for response, ref in (
            (example.chosen, example.ref_chosen),
            (example.rejected, example.ref_rejected),
        ):
            logits = model(input_ids=torch.tensor([[*example.prompt, *response]])).logits[0]
            nats = torch.log(torch.softmax(logits, -1))
            places = range(len(example.prompt), len(example.prompt) + len(response))
            said = zip(places, response, strict=True)
            ratios.append(sum(nats[t - 1, token] for t, token in said) - ref)
        margin = 0.3 * (ratios[0] - ratios[1])
        right, wrong = torch.log(1 + torch.exp(-margin)), torch.log(1 + torch.exp(margin))
        per_token = ratios[0] / len(example.chosen) - ratios[1] / len(example.rejected)
        total = total + {
            "sigmoid": (1 - smoothing) * right + smoothing * wrong,
            "robust": ((1 - smoothing) * right - smoothing * wrong) / (1 - 2 * smoothing),
            "hinge": (1 - margin).clamp(min=0),
            "ipo": (per_token - 1 / 0.6) ** 2,
        }[loss] / len(examples)
    total.backward()
    assert found[0] == pytest.approx(total.item(), rel=1e-5)
    wanted = [p.grad for p in model.parameters() if p.grad is not None]
    assert_alike([mine.double() for mine in found[1]], wanted)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_gradient_does_not_depend_on_the_micro_batch(tmp_path, size):
    policy = moved_policy()
    examples = pairs_for(policy, 3)[:7]
    trainer = trainer_of(policy, examples, small(loss="ipo"), tmp_path)
    rows = list(trainer.train_dataset)
    whole = loss_and_gradients(trainer, policy, [trainer.data_collator(rows)], 7)
    parts = [trainer.data_collator(rows[i : i + size]) for i in range(0, 7, size)]
    dealt = loss_and_gradients(trainer, policy, parts, 7)
    assert dealt[0] == pytest.approx(whole[0], rel=1e-6)
    assert_alike(dealt[1], whole[1])


def test_a_model_that_pads_gives_the_same(tmp_path):
    """Its 20 rows go through it 8 at a time, the longest first."""
    policy = moved_policy()
    examples = pairs_for(policy, 4)[:10]
    trainer = trainer_of(policy, examples, small(), tmp_path)
    batch = trainer.data_collator(list(trainer.train_dataset))
    found = loss_and_gradients(trainer, policy, [batch], 10)
    policy.model.set_attn_implementation("sdpa")
    padded = loss_and_gradients(trainer, policy, [batch], 10)
    assert padded[0] == pytest.approx(found[0], rel=1e-5)
    assert_alike(padded[1], found[1])


def trained(tmp_path, rows, policy=None, **settings):
    """Train on 10 pairs, 4 a step, and return what was logged and the weights."""
    policy = policy or moved_policy()
    tracker = StoppingTracker()
    dpo_trainer.train(
        policy,
        pairs_for(policy, 4, "exact")[:10],
        small(num_train_epochs=1.5, **settings),
        micro_batch_size=rows,
        device=CPU,
        saves=tmp_path / f"saves-{rows}",
        tracker=tracker,
    )
    return tracker.rows, [p.detach().clone() for p in policy.model.parameters()]


def test_every_step_is_the_mean_of_its_pairs_however_they_are_dealt_out(tmp_path):
    """15 pairs, 4 a step: the last step has 3, which pairs of 2 deal out as 2 and 1."""
    whole, weights = trained(tmp_path, 8)
    assert sorted(whole) == [1, 2, 3, 4]
    for rows in (1, 2, 4, 5):
        logged, others = trained(tmp_path, rows)
        for step, row in whole.items():
            assert logged[step] == pytest.approx(row, rel=1e-4, abs=1e-5), (rows, step)
        assert_alike(others, weights)


def test_the_first_step_starts_from_the_reference_itself(tmp_path):
    logged, _ = trained(tmp_path, 8)
    assert logged[1]["dpo/train_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert logged[1]["dpo/train_rewards_chosen"] == pytest.approx(0.0, abs=1e-5)
    assert logged[1]["dpo/train_rewards_rejected"] == pytest.approx(0.0, abs=1e-5)
    assert logged[4]["dpo/train_accuracy"] > 0.5
    assert set(logged[1]) == {
        "dpo/train_loss",
        "dpo/grad_norm",
        "dpo/learning_rate",
        "dpo/train_accuracy",
        "dpo/train_rewards_chosen",
        "dpo/train_rewards_rejected",
    }


def test_a_pad_token_equal_to_the_terminal_token_changes_nothing(tmp_path):
    policy = moved_policy()
    examples = pairs_for(policy)
    trainer = trainer_of(policy, examples, small(), tmp_path)
    plain = loss_and_gradients(
        trainer, policy, [trainer.data_collator(list(trainer.train_dataset))], len(examples)
    )
    policy.tokenizer.pad_token = policy.tokenizer.eos_token  # as in GPT-2, Llama and others
    policy.pad_id = policy.terminal_id
    trainer = trainer_of(policy, examples, small(), tmp_path)
    batch = trainer.data_collator(list(trainer.train_dataset))
    found = loss_and_gradients(trainer, policy, [batch], len(examples))
    assert found[0] == plain[0]
    assert all(torch.equal(a, b) for a, b in zip(found[1], plain[1], strict=True))
    for i, example in enumerate(examples):
        for row, response in ((i, example.chosen), (len(examples) + i, example.rejected)):
            scored = batch["completion_mask"][row].bool()
            assert batch["input_ids"][row][scored].tolist() == list(response)
            assert response[-1] == policy.terminal_id  # which is learned, though it pads too


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    policy = moved_policy()
    examples = pairs_for(policy)
    with torch.no_grad():
        policy.model.get_input_embeddings().weight[5:].fill_(math.nan)
    with pytest.raises(
        TrainingError, match=r"dpo: loss nan .* at step 1 must be finite.*dpo\.lear"
    ):
        dpo_trainer.train(
            policy,
            examples,
            small(),
            micro_batch_size=8,
            device=CPU,
            saves=tmp_path / "saves",
            tracker=StoppingTracker(),
        )


@pytest.mark.parametrize("loaded", [False, True])
def test_an_adapter_alone_learns_and_no_copy_of_it_stays(tmp_path, loaded):
    policy = with_adapter(moved_policy(), AdapterConfig(rank=2), 0, "dpo.adapter")
    if loaded:  # to be read only, PEFT remembers; its own log-probs are the reference
        policy.model.peft_config["default"].inference_mode = True
        with torch.no_grad():
            for name, weight in policy.model.named_parameters():
                if "lora_B" in name:
                    weight.fill_(0.05)
    start = copy.deepcopy(policy.model.state_dict())
    logged, _ = trained(tmp_path, 8, policy, learning_rate=1e-2)
    assert list(policy.model.peft_config) == ["default"]
    assert policy.model.active_adapters == ["default"]
    trained_ones = {name for name, p in policy.model.named_parameters() if p.requires_grad}
    assert trained_ones == {name for name in start if "lora" in name}
    after = policy.model.state_dict()
    changed = {name for name in start if not torch.equal(start[name], after[name])}
    assert changed
    assert all("lora" in name for name in changed)
    assert set(after) == set(start)
    assert logged[1]["dpo/train_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert logged[4]["dpo/train_loss"] < math.log(2)
