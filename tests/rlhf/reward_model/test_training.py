import math

import pytest
import torch
from worlds.rankings import WORDS, chat, tiny_policy
from worlds.trackers import StoppingTracker

from plumbrule.errors import TrainingError
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.tracking.stage_tracker import NullTracker
from rlhf.lr_schedules import cosine, lr_multiplier
from rlhf.reward_model.config import RMConfig
from rlhf.reward_model.model import RewardModel
from rlhf.reward_model.reward_stats import RewardStats
from rlhf.reward_model.training import (
    Ranking,
    RewardLossSettings,
    batch_of,
    micro_batches,
    num_steps,
    pair,
    train,
)


def reward_model(seed: int = 0, uses_token_logprobs: bool = False) -> RewardModel:
    return RewardModel(
        tiny_policy(seed), RewardStats(uses_token_logprobs=uses_token_logprobs), seed=seed
    )


def some_pairs(model: RewardModel, margin: float = 0.0) -> list[Ranking]:
    """Six pairs whose rows have different lengths."""
    rows = [
        model.encode(chat("what is it?"), (), " ".join(WORDS[i : i + 1 + i % 4])) for i in range(7)
    ]
    return [pair(rows[i], rows[i + 1], margin * i) for i in range(6)]


def mean_loss(
    model: RewardModel,
    batch: list[Ranking],
    micro_batch_size: int,
    loss: str = "all_pairs",
    centre: float = 0.0,
    ties: str = "ignore",
) -> float:
    """Accumulate gradients as the loop does and return the loss."""
    model.zero_grad()
    total = 0.0
    config = RMConfig(loss=loss, centring=centre, ties=ties)
    for losses, _ in micro_batches(model, batch, micro_batch_size, RewardLossSettings.of(config)):
        part = losses.sum() / len(batch)
        part.backward()
        total += part.item()
    return total


@pytest.mark.parametrize(("margin", "centre"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.05)])
def test_loss_and_gradients_equal_those_of_trl(tmp_path, margin, centre):
    """TRL's own collator and `compute_loss`, on transformers' classifier with our weights."""
    from datasets import Dataset
    from transformers import LlamaForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    model = reward_model().double()
    batch = some_pairs(model, margin)
    ours = mean_loss(model, batch, 64, centre=centre)

    config = model.policy.model.config
    config.num_labels, config.pad_token_id = 1, model.policy.pad_id
    theirs = LlamaForSequenceClassification(config).double()
    theirs.model.load_state_dict(model.trunk.state_dict())
    theirs.score.weight.data.copy_(model.head.weight.data)
    columns = {
        name: [list(p.rows[place].tokens) for p in batch]
        for place, name in enumerate(("chosen_ids", "rejected_ids"))
    }
    if margin:
        columns["margin"] = [p.margins[0] for p in batch]
    args = RewardConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        center_rewards_coefficient=centre or None,
        report_to=[],
    )
    trainer = RewardTrainer(
        theirs,
        args,
        train_dataset=Dataset.from_dict(columns),
        processing_class=model.policy.tokenizer,
    )
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    inputs = trainer.data_collator(rows)
    loss = trainer.compute_loss(theirs, inputs)
    loss.backward()

    assert ours == pytest.approx(loss.item(), abs=1e-7)  # the margins are float32
    found = dict(model.trunk.named_parameters(prefix="model"))
    found["score.weight"] = model.head.weight
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(found[name].grad, parameter.grad, rtol=0, atol=1e-7)


def test_a_step_does_not_depend_on_micro_batches(tmp_path):
    """Six pairs as 6, as 4 + 2 and one by one; an epsilon of 1 lets Adam see a gradient's scale."""
    config = RMConfig(batch_size=6, num_train_epochs=1.0, learning_rate=0.1, adam_epsilon=1.0)
    found = []
    for rows in (64, 8, 2):
        model, tracker = reward_model(), StoppingTracker()
        runtime = RuntimeConfig(device="cpu", micro_batch_size=rows)
        train(model, some_pairs(model), config, runtime, tmp_path / str(rows), tracker)
        found.append((tracker.rows[1]["rm/train_loss"], [p.detach() for p in model.parameters()]))
    for loss, parameters in found[1:]:
        assert loss == pytest.approx(found[0][0], abs=1e-6)
        for ours, whole in zip(parameters, found[0][1], strict=True):
            torch.testing.assert_close(ours, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4, 5])
def test_gradients_do_not_depend_on_micro_batches(micro_batch_size):
    model = reward_model()
    batch = some_pairs(model)
    whole = mean_loss(model, batch, 64)
    wanted = [p.grad.clone() for p in model.parameters()]
    assert mean_loss(model, batch, micro_batch_size) == pytest.approx(whole, abs=1e-6)
    for parameter, grad in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=0, atol=1e-6)


def some_rankings(model: RewardModel) -> list[Ranking]:
    """Five rankings of two to four answers, one with a tie."""
    made = []
    for i, ranks in enumerate([(2, 1, 3), (1, 2), (3, 1, 2, 2), (2, 3, 1, 4), (1, 1, 2)]):
        answers = [" ".join(WORDS[(i + k) % 10 : (i + k) % 10 + 1 + k]) for k in range(len(ranks))]
        rows = tuple(model.encode(chat("what is it?"), (), answer or "red") for answer in answers)
        order = range(len(ranks))
        pairs = tuple((a, b) for a in order for b in order if ranks[a] < ranks[b])
        ties = tuple((a, b) for a in order for b in order if a < b and ranks[a] == ranks[b])
        made.append(Ranking(rows, ranks, pairs, (0.0,) * len(pairs), ties))
    return made


@pytest.mark.parametrize("uses_token_logprobs", [False, True])
@pytest.mark.parametrize("loss", ["all_pairs", "plackett_luce"])
@pytest.mark.parametrize("micro_batch_size", [1, 4, 7])
def test_rankings_give_one_gradient_for_every_cut(loss, micro_batch_size, uses_token_logprobs):
    model = reward_model(uses_token_logprobs=uses_token_logprobs).double()
    batch = some_rankings(model)
    whole = mean_loss(model, batch, 64, loss)
    wanted = [p.grad.clone() for p in model.parameters()]
    assert mean_loss(model, batch[::-1], micro_batch_size, loss) == pytest.approx(whole, abs=1e-12)
    for parameter, grad in zip(model.parameters(), wanted, strict=True):
        # A Llama norms in float32 whatever its weights are, and how many answers share a prompt,
        # whose gradient is their sum, depends on the cut.
        torch.testing.assert_close(parameter.grad, grad, rtol=0, atol=1e-7)


@pytest.mark.parametrize("centre", [0.0, 0.1])
@pytest.mark.parametrize("micro_batch_size", [1, 4, 7])
def test_ties_give_one_gradient_for_every_cut(micro_batch_size, centre):
    """A group may hold no tie at all, or nothing else."""
    model = reward_model().double()
    rankings = some_rankings(model)
    even = Ranking(rankings[1].rows, (1, 1), (), (), ((0, 1),))
    batch = [*rankings, even]
    whole = mean_loss(model, batch, 64, centre=centre, ties="davidson")
    wanted = [p.grad.clone() for p in model.parameters()]
    assert whole != pytest.approx(mean_loss(model, rankings, 64), abs=1e-3)
    again = mean_loss(model, batch[::-1], micro_batch_size, centre=centre, ties="davidson")
    assert again == pytest.approx(whole, abs=1e-12)
    for parameter, grad in zip(model.parameters(), wanted, strict=True):
        # A Llama norms in float32 whatever its weights are, and how many answers share a prompt,
        # whose gradient is their sum, depends on the cut.
        torch.testing.assert_close(parameter.grad, grad, rtol=0, atol=1e-7)


def test_one_pass_of_a_ranking_equals_its_pairs_apart():
    """The gradient of the mean over C(K, 2) pairs, each answer run once or K - 1 times."""
    model = reward_model().double()
    ranking = some_rankings(model)[3]
    together = mean_loss(model, [ranking], 64)
    wanted = [p.grad.clone() for p in model.parameters()]
    apart = [pair(ranking.rows[i], ranking.rows[j]) for i, j in ranking.pairs]
    assert len(apart) == 6
    assert mean_loss(model, apart, 64) == pytest.approx(together, abs=1e-7)
    for parameter, grad in zip(model.parameters(), wanted, strict=True):
        # A Llama norms in float32 whatever its weights are, and differently padded rows differ so.
        torch.testing.assert_close(parameter.grad, grad, rtol=0, atol=1e-6)


def test_every_epoch_takes_every_pair_once_in_another_order():
    assert num_steps(10, 2.0, 4) == 5
    settings = {"num_train_epochs": 2.0, "batch_size": 4, "seed": 0}
    taken = [i for step in range(5) for i in batch_of(step, 10, **settings)]
    assert sorted(taken[:10]) == sorted(taken[10:]) == list(range(10))
    assert taken[:10] != taken[10:]


def test_half_an_epoch_is_half_of_the_pairs():
    assert num_steps(12, 0.5, 4) == 2
    settings = {"num_train_epochs": 0.5, "batch_size": 4, "seed": 0}
    assert [len(batch_of(step, 12, **settings)) for step in range(2)] == [4, 2]


def test_the_order_belongs_to_the_seed():
    orders = [batch_of(0, 50, num_train_epochs=1.0, batch_size=50, seed=seed) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.detail(37)
def test_learning_rate_by_hand():
    # 10 steps, 20 % warm-up: 1/2, 1, then cosine over 8 steps: 1 at its first, 1/2 at its fifth,
    # (1 + cos(7 pi / 8)) / 2 = 0.038060 at its last
    shares = [lr_multiplier(step, 10, 0.2, cosine) for step in range(10)]
    assert shares[:3] == [0.5, 1.0, 1.0]
    assert shares[6] == pytest.approx(0.5)
    assert shares[9] == pytest.approx(0.038060, abs=1e-6)
    assert lr_multiplier(0, 1, 0.05, cosine) == 1.0


@pytest.mark.detail(36)
def test_the_first_step_is_adams_by_formula(tmp_path):
    """Step 1 of Adam, its moments corrected for bias, is lr * g / (|g| + epsilon)."""
    model = reward_model()
    batch = some_pairs(model)
    mean_loss(model, batch, 64)
    grad, before = model.head.weight.grad.clone(), model.head.weight.detach().clone()
    config = RMConfig(
        batch_size=6,
        num_train_epochs=1.0,
        learning_rate=0.01,
        adam_epsilon=1e-2,
        warmup_share=0.0,
        max_grad_norm=1e9,
    )
    train(model, batch, config, RuntimeConfig(device="cpu"), tmp_path, NullTracker())
    wanted = before - 0.01 * grad / (grad.abs() + 1e-2)
    torch.testing.assert_close(model.head.weight.detach(), wanted, rtol=0, atol=1e-6)


@pytest.mark.detail(40)
def test_gradients_are_clipped(tmp_path):
    """With a limit far below epsilon a step is about lr * g * limit / (norm * epsilon): tiny."""
    model = reward_model()
    before = [p.detach().clone() for p in model.parameters()]
    config = RMConfig(
        batch_size=6, num_train_epochs=1.0, learning_rate=1.0, max_grad_norm=1e-9, adam_epsilon=1e-2
    )
    train(model, some_pairs(model), config, RuntimeConfig(device="cpu"), tmp_path, NullTracker())
    moved = [(p.detach() - b).norm() for p, b in zip(model.parameters(), before, strict=True)]
    # lr * limit / epsilon = 1e-7 in all
    assert math.hypot(*moved) == pytest.approx(1e-7, rel=0.5)


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    model = reward_model()
    with torch.no_grad():
        model.head.weight.fill_(math.nan)
    with pytest.raises(TrainingError, match="step 1"):
        train(
            model,
            some_pairs(model),
            RMConfig(),
            RuntimeConfig(device="cpu"),
            tmp_path,
            NullTracker(),
        )
    assert not list(tmp_path.glob("checkpoint-*"))


def test_gradient_checkpointing_saves_memory_and_changes_no_weight(tmp_path):
    kept, weights = [], []
    for on in (False, True):
        model, size = reward_model(), 0

        def count(tensor):
            nonlocal size
            size += tensor.numel()
            return tensor

        runtime = RuntimeConfig(device="cpu", gradient_checkpointing=on)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            train(model, some_pairs(model), RMConfig(), runtime, tmp_path / str(on), NullTracker())
        kept.append(size)
        weights.append([p.detach() for p in model.parameters()])
    assert kept[1] < 0.7 * kept[0]
    for mine, theirs in zip(*weights, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)  # summed in another order
