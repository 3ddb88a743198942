"""Where the time goes: parts that add up, useful work counted by hand, a table in the report."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from worlds import ppo as world

from plumbrule.lm.config import AdapterConfig
from plumbrule.lm.cost_metrics import num_weights
from plumbrule.store.metric_rows import read_metrics
from plumbrule.timing import Stopwatch, timed
from plumbrule.tracking.stage_tracker import FileTracker
from rlhf.ppo import models as ppo_models
from rlhf.ppo import stage as ppo
from rlhf.ppo.measures import throughput
from rlhf.ppo.measures.throughput import (
    TokenFlops,
    flops_of,
    num_actions,
    num_trained,
    time_table,
    work_per_token,
)


def test_parts_inside_a_part_are_timed_too_and_nobody_else_is() -> None:
    with timed("before"):
        pass
    watch = Stopwatch()
    with watch("outer"):
        with timed("inner"):
            time.sleep(0.02)
        with timed("inner"):
            time.sleep(0.01)
    with timed("after"):
        pass
    assert set(watch.seconds) == {"outer", "inner"}
    assert 0.03 <= watch.seconds["inner"] <= watch.seconds["outer"] <= watch.total()


def test_a_part_that_fails_is_timed_and_left() -> None:
    watch = Stopwatch()
    with pytest.raises(ValueError), watch("outer"), timed("inner"):
        raise ValueError
    assert set(watch.seconds) == {"outer", "inner"}
    with timed("after"):
        pass
    assert set(watch.seconds) == {"outer", "inner"}


def test_weights_are_matrices_that_are_no_tables() -> None:
    model = world.tiny_policy(layers=3).model
    per_layer = 4 * 16 * 16 + 3 * 16 * 32
    assert num_weights(model) == num_weights(model.model) == 3 * per_layer
    untied = world.tiny_policy(layers=3, tied=False).model
    assert num_weights(untied) == 3 * per_layer + 16 * len(world.TOKENS)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, TokenFlops(6, 6, 6, 6, 6, 0, (18 + 18) * 2)),
        ({"value_trunk": "policy"}, TokenFlops(6, 6, 6, 6, 0, 0, 18 * 2)),
        ({"unfrozen_layers": 1}, TokenFlops(6, 6, 2, 2, 6, 4, (6 + 18) * 2)),
        (
            {"unfrozen_layers": 1, "value_trunk": "branch"},
            TokenFlops(6, 6, 2, 2, 2, 4, (6 + 6) * 2),
        ),
    ],
)
def test_useful_work_of_a_token(tmp_path: Path, changes, expected) -> None:
    """In units of a layer's weights; two epochs."""
    inputs = world.build(tmp_path, layers=3)
    config = world.config(**changes)
    actors = ppo_models.load_actors(config, inputs, torch.device("cpu"))
    value_model = ppo_models.make_value_model(config, actors, inputs)
    learner = world.make_learner(actors.policy, value_model, config, actors.reader)
    layer = 4 * 16 * 16 + 3 * 16 * 32
    found = work_per_token(actors, learner, config.num_ppo_epochs)
    assert found == tuple(layer * n for n in expected)
    teacher = world.tiny_policy(layers=5)
    taught = work_per_token(actors, learner, config.num_ppo_epochs, teacher)
    assert taught == found._replace(teacher=layer * 2 * 5)


def test_adapters_leave_out_the_gradient_of_the_weights(tmp_path: Path) -> None:
    inputs = world.build(tmp_path, layers=3)
    config = world.config(adapter=AdapterConfig(rank=1), advantage="rloo", samples_per_prompt=2)
    actors = ppo_models.load_actors(config, inputs, torch.device("cpu"))
    learner = world.make_learner(actors.policy, None, config, actors.reader)
    adapted = 3 * (4 * 16 * 16 + 3 * 16 * 32 + (4 * (16 + 16) + 3 * (16 + 32)))
    assert work_per_token(actors, learner, config.num_ppo_epochs).update == 4 * adapted * 2


def test_the_table_by_hand() -> None:
    row = {
        "val/prompt_length_tokens": 10.0,
        "val/response_length_tokens": 5.0,
        "time/prefill_seconds": 1.0,
        "time/decode_seconds": 2.0,
        "time/policy_seconds": 1.0,
        "time/update_seconds": 4.0,
        "time/episodes_per_second": 16 / 10.0,
    }
    work = TokenFlops(prefill=2, decode=2, policy=2, ref=2, value=2, frozen_layers=0, update=24)
    table = time_table([row, row], work, 16, rate=1000.0)
    assert table is not None
    assert [cells[0].split(":")[0] for cells in table["rows"]] == [
        "prefill",
        "decode",
        "policy",
        "update",
        "all",
    ]
    by_part = {cells[0].split(":")[0]: cells[1:] for cells in table["rows"]}
    assert by_part["prefill"] == ["1", "10%", "160", "0.32"]
    assert by_part["decode"] == ["2", "20%", "40", "0.08"]
    assert by_part["policy"] == ["1", "10%", "240", "0.48"]
    assert by_part["update"] == ["4", "40%", "60", "1.44"]
    assert by_part["all"] == ["10", "100%", "24", "0.67"]  # (320 + 160 + 480 + 5760) / 10 / 1000


def test_answers_to_search_calls_are_read_and_not_sampled() -> None:
    """A response of 5 sampled tokens and 3 of an answer, and the retrieval that found it."""
    row = {
        "val/prompt_length_tokens": 10.0,
        "val/response_length_tokens": 5.0,
        "search/result_tokens": 3.0,
        "time/retrieve_seconds": 0.25,
        "time/prefill_seconds": 1.0,
        "time/decode_seconds": 1.0,
        "time/update_seconds": 2.0,
        "time/episodes_per_second": 16 / 5,
    }
    work = TokenFlops(prefill=2, decode=3, policy=2, ref=2, value=2, frozen_layers=1, update=24)
    one = 2 * (10 + 3) + 3 * 5 + (2 + 2 + 2 + 1 + 24) * (10 + 3 + 5)
    assert flops_of([row], work, 16) == 16 * one
    assert num_actions([row], 16) == 16 * 5  # generated tokens: what the policy wrote
    table = time_table([row], work, 16, rate=1000.0)
    assert table is not None
    by_part = {cells[0].split(":")[0]: cells[1:] for cells in table["rows"]}
    assert by_part["retrieve"] == ["0.25", "5%", "832", ""]
    assert by_part["prefill"][2] == "208"  # 16 * 13 in 1 s
    assert by_part["decode"][2] == "80"
    assert by_part["update"][2] == "144"  # 16 * 18 in 2 s


def test_the_useful_work_of_a_run_by_hand() -> None:
    row = {
        "val/prompt_length_tokens": 10.0,
        "val/response_length_tokens": 5.0,
        "time/update_seconds": 4.0,
    }
    work = TokenFlops(prefill=2, decode=3, policy=2, ref=2, value=2, frozen_layers=1, update=24)
    one = 2 * 10 + 3 * 5 + (2 + 2 + 2 + 1 + 24) * 15
    assert flops_of([row, row], work, 16) == 2 * 16 * one
    assert flops_of([row], work, 16, samples_per_prompt=2) == 16 * (one - 2 * 10 / 2)
    assert num_actions([row, row], 16) == 2 * 16 * 5
    # Prompt and response are trained on in each of 3 epochs, and the answer to a search with them.
    assert num_trained([row, row], 16, 3) == 2 * 16 * 15 * 3
    assert num_trained([row | {"search/result_tokens": 4.0}], 16, 1) == 16 * 19
    # A teacher reads what is trained on.
    assert flops_of([row], work._replace(teacher=7), 16) == 16 * (one + 7 * 15)
    # What was sampled and not trained on was read and decoded, and nothing else.
    more = row | {"rollout/prompt_tokens_left_out": 40.0, "rollout/response_tokens_left_out": 7.0}
    assert flops_of([more], work, 16, samples_per_prompt=2) == pytest.approx(
        16 * (one - 2 * 10 / 2) + 2 * 40 / 2 + 3 * 7
    )
    assert num_actions([row, more], 16) == 2 * 16 * 5 + 7
    seconds = {"time/decode_seconds": 1.0, "time/episodes_per_second": 16 / 4.0}
    table = time_table([more | seconds], work, 16, rate=1000.0)
    assert table is not None
    assert table["rows"][0][3] == "87"  # 16 * 5 + 7 tokens decoded in a second


def test_a_run_leaves_its_table_for_the_report(tmp_path: Path) -> None:
    inputs = world.build(tmp_path, layers=3)
    out = tmp_path / "out"
    out.mkdir()
    config = world.config(unfrozen_layers=1, value_trunk="branch", total_episodes=32)
    metrics = ppo.run(config, inputs, world.runtime(), out, FileTracker(out))
    [table] = json.loads((out / "tables.json").read_text())
    parts = [cells[0].split(":")[0] for cells in table["rows"]]
    assert parts == [
        *(part for part in throughput.PARTS if part not in ("teacher", "retrieve")),
        "all",
    ]
    for row in read_metrics(out):
        outer = row["time/generate_seconds"]
        assert 0 < row["time/prefill_seconds"] + row["time/decode_seconds"] <= outer
        inner = sum(row[f"time/{part}_seconds"] for part in ("policy", "ref", "value"))
        assert 0 < inner <= row["time/forward_seconds"]
        assert row["val/prompt_length_tokens"] > 0
    assert metrics["cost/generated_tokens"] == num_actions(read_metrics(out), config.batch_size)
    trained = num_trained(read_metrics(out), config.batch_size, config.num_ppo_epochs)
    assert metrics["cost/training_tokens"] == trained > metrics["cost/generated_tokens"]
    assert metrics["cost/training_flops"] > 0
