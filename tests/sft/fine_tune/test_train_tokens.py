"""A budget of tokens: two trainings on different data see equally many."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from worlds.stages import run_stage, weights
from worlds.towns import MODEL, base, demonstration, demonstrations

from plumbrule.errors import ConfigError, DataError
from plumbrule.lm.hf_trainer import order
from plumbrule.lm.token_rows import TokenRow
from sft.fine_tune.config import ROWS_KEY, SFTConfig
from sft.fine_tune.stage import run, with_epochs

CONFIG = SFTConfig(model=MODEL, batch_size=4, learning_rate=1e-2, num_samples=0, max_new_tokens=8)
ROWS = [TokenRow((1,) * (3 + i), (2, 3)) for i in range(6)]  # 5, 6, ..., 10 tokens: 45 in all


def seen(config: SFTConfig) -> list[int]:
    places = order(len(ROWS), config.num_train_epochs, config.seed, ROWS_KEY)
    return [ROWS[place].num_tokens for place in places]


@pytest.mark.parametrize("tokens", [10, 44, 45, 46, 90, 100, 1000])
def test_rows_are_seen_as_long_as_they_keep_within_the_budget(tokens: int) -> None:
    config = dataclasses.replace(CONFIG, train_tokens=tokens)
    found = seen(with_epochs(config, ROWS, Path("rows.jsonl")))
    assert sum(found) <= tokens
    following = seen(dataclasses.replace(config, num_train_epochs=1 + tokens // 45))
    assert found == following[: len(found)]
    assert sum(following[: len(found) + 1]) > tokens


def test_without_a_budget_epochs_count() -> None:
    assert with_epochs(CONFIG, ROWS, Path("rows.jsonl")) is CONFIG


def test_a_budget_below_the_first_row_is_refused() -> None:
    config = dataclasses.replace(CONFIG, train_tokens=4)
    with pytest.raises(DataError, match=r"sft.train_tokens \(=4 tokens\) must hold the first row"):
        with_epochs(config, ROWS, Path("rows.jsonl"))
    with pytest.raises(ConfigError, match=r"sft.train_tokens \(=0 tokens\)"):
        SFTConfig(train_tokens=0)


def test_the_stage_keeps_to_it_and_says_what_it_trained_on(tmp_path: Path) -> None:
    rows = [demonstration(n) for n in range(12)]
    data = demonstrations(tmp_path / "data", rows[:10], rows[10:])
    inputs = {"base": base(tmp_path / "base"), "demonstrations": data}
    config = dataclasses.replace(CONFIG, train_tokens=300)
    metrics = run_stage(run, config, inputs, tmp_path / "some")
    trained = metrics["cost/training_tokens"]
    assert 300 - 40 < trained <= 300  # no row is longer than 40
    twice = run_stage(run, dataclasses.replace(config, train_tokens=600), inputs, tmp_path / "more")
    assert 560 < twice["cost/training_tokens"] <= 600
    assert twice["cost/training_flops"] / metrics["cost/training_flops"] == pytest.approx(
        twice["cost/training_tokens"] / trained
    )
    assert weights(tmp_path / "some") != weights(tmp_path / "more")
