"""What an update will take, measured on one micro-batch before the first one."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from worlds import ppo as world

from plumbrule.lm.config import AdapterConfig
from plumbrule.lm.generation.continuous_batching import Decoder
from plumbrule.lm.sizes.memory_plan import BatchShape, ppo_memory
from plumbrule.lm.sizes.shapes import shape_in
from plumbrule.tracking.stage_tracker import FileTracker
from rlhf.ppo import models as ppo_models
from rlhf.ppo import stage as ppo
from rlhf.ppo.measures.memory import PROBE_TOKENS, Estimate, estimate_memory, free_memory
from rlhf.ppo.optimisation.learner import trainable


def expected_of(tmp_path: Path, layers: int = 3, rows: int = 8, **changes: object):
    inputs = world.build(tmp_path, layers=layers)
    config = world.config(**changes)
    actors = ppo_models.load_actors(config, inputs, torch.device("cpu"))
    value_model = ppo_models.make_value_model(config, actors, inputs)
    learner = world.make_learner(actors.policy, value_model, config, actors.reader)
    queries = [actors.policy.encode(prompt.messages) for prompt in world.prompts()]
    before = [p.clone() for m in learner.models.values() for p in m.parameters()]
    state = torch.get_rng_state()
    found = estimate_memory(
        actors,
        learner,
        queries,
        config.sampling,
        micro_batch_size=rows,
        num_ppo_epochs=config.num_ppo_epochs,
        precision=config.precision,
        averaged=config.ema_decay is not None,
    )
    assert torch.equal(torch.get_rng_state(), state)
    after = [p for m in learner.models.values() for p in m.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert all(p.grad is None for p in after)
    return found, actors, learner


def test_nothing_is_changed_and_every_weight_is_counted_once(tmp_path: Path) -> None:
    """Policy, reference and value model; gradient and two moments of the first and the last."""
    found, _, learner = expected_of(tmp_path)
    of_policy, of_value = (
        sum(p.numel() for p in trainable(model)) for model in learner.models.values()
    )
    least = 4 * (4 * of_policy + of_policy + 4 * of_value)
    assert found.held_bytes == 4 * (2 * of_policy + of_value)
    kept = found.memory_bytes - least
    # Eight rows of four to eleven tokens, three layers, at least the inputs of each matrix.
    assert 8 * 4 * 3 * (4 * 16 + 3 * 32) * 4 < kept < 10 * least
    assert found.seconds > 0


def test_what_is_shared_or_frozen_takes_less(tmp_path: Path) -> None:
    plain = expected_of(tmp_path / "a")[0].memory_bytes
    shared = expected_of(tmp_path / "b", unfrozen_layers=1, value_trunk="branch")[0].memory_bytes
    adapter = AdapterConfig(rank=1)
    lora = expected_of(tmp_path / "c", adapter=adapter, value_trunk="policy")[0].memory_bytes
    rows = expected_of(tmp_path / "d", rows=2)[0].memory_bytes
    assert shared < 0.6 * plain
    assert lora < 0.6 * plain
    assert rows < plain


def test_a_run_says_it_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = world.build(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    ppo.run(world.config(total_episodes=16), inputs, world.runtime(), out, FileTracker(out))
    said = capsys.readouterr().err
    assert "GiB an update, reward aside" in said.splitlines()[0]
    assert "prompts of " in said.splitlines()[1]
    assert said.splitlines()[1].split("; ")[1].startswith("none longer than ")


def test_too_little_memory_is_said_with_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held already is not needed again."""
    monkeypatch.setattr("rlhf.ppo.measures.memory.free_memory", lambda device: 2**30)
    device = torch.device("cpu")
    fits, held, does_not, broke = (
        ppo.describe_estimate(expected, device)
        for expected in (
            Estimate(2**30, 0, 1.0),
            Estimate(2**32, 2**32 - 2**30, 1.0),
            Estimate(2**32, 2**30, 1.0),
            Estimate(2**29, 0, 0.0, fits=False),
        )
    )
    assert fits == "ppo  at most about 1 s and 1 GiB an update, reward aside"
    assert held == "ppo  at most about 1 s and 4 GiB an update, reward aside"
    assert "and 2 GiB are there: lower runtime.micro_batch_size" in does_not
    assert broke.startswith("ppo  4 rows do not fit beside 0.5 GiB of weights")


def test_a_probe_that_runs_out_of_memory_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr("rlhf.ppo.measures.memory._sample", full)
    found, _, _ = expected_of(tmp_path)
    assert not found.fits
    assert found.memory_bytes > found.held_bytes > 0


def test_free_memory_of_this_machine_is_known() -> None:
    assert free_memory(torch.device("cpu")) > 2**20


def test_the_probe_keeps_no_memory(tmp_path: Path) -> None:
    """Activations of a probe that is over once stayed for the whole run, in graphs without end."""

    def alive() -> int:
        gc.collect()
        tensors = (some for some in gc.get_objects() if isinstance(some, torch.Tensor))
        return sum({t.untyped_storage().data_ptr(): t.nbytes for t in tensors}.values())

    _, actors, learner = expected_of(tmp_path)
    queries = [actors.policy.encode(prompt.messages) for prompt in world.prompts()]
    before = alive()
    estimate_memory(actors, learner, queries, world.config().sampling, micro_batch_size=8)
    assert alive() == before


def test_the_slots_take_a_step_for_every_token_of_the_probe() -> None:
    """They go on in rounds, so two lengths within a round would take the same time."""
    policy, steps = world.tiny_policy(), []
    prompts = [policy.encode(prompt.messages) for prompt in world.prompts()]
    for length in PROBE_TOKENS:
        decoder = Decoder(policy, prompts, torch.rand(12, length, dtype=torch.float64), 1.0, 12)
        decoder.stops = torch.tensor([-1])
        step, taken = decoder.step, []
        decoder.step = lambda step=step, taken=taken: taken.append(step())  # type: ignore[method-assign]
        decoder.run()
        steps.append(len(taken))
    assert steps == [length - 1 for length in PROBE_TOKENS]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"value_trunk": "policy"},
        {"unfrozen_layers": 2, "value_trunk": "branch"},
        {"adapter": AdapterConfig(rank=1), "value_trunk": "policy"},
        {"ema_decay": 0.9},
    ],
    ids=["plain", "head", "branch", "adapter", "average"],
)
def test_the_plans_formula_is_near_what_is_measured(tmp_path: Path, changes: dict) -> None:
    """Within a factor of 1.6: the formula knows no queries shorter than the longest."""
    found, actors, _ = expected_of(tmp_path, layers=4, **changes)
    config = world.config(**changes)
    shape = shape_in(world.build(tmp_path / "again", layers=4)["policy"].file("model"))
    assert shape is not None
    longest = max(len(actors.policy.encode(p.messages)) for p in world.prompts())
    tokens = longest + config.sampling.max_new_tokens
    sampled = BatchShape(min(len(world.prompts()), config.sampling.batch_size), tokens)
    planned = ppo_memory(
        shape,
        BatchShape(8, tokens),
        sampled,
        "float32",
        rank=config.adapter.rank,
        unfrozen_layers=config.unfrozen_layers,
        value_trunk=config.value_trunk,
        num_reward_models=0,
        averaged=config.ema_decay is not None,
    )
    assert found.memory_bytes / 1.6 < planned.total < 1.6 * found.memory_bytes
