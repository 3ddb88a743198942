"""The table of arms: shares, paired differences, prices, and that the files alone make it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from eval.knowledge.config import KnowledgeBudgetConfig, KnowledgeConfig, PricesConfig
from eval.knowledge.costs import mean_costs, price, weight_bytes
from eval.knowledge.table import arms_of, metrics_of, notes, num_differences, table
from plumbrule.errors import ConfigError, DataError
from plumbrule.statistics import paired_interval, share_interval
from plumbrule.store.manifests import Manifest

PRICES = PricesConfig(
    source="a list of 2026",
    input_tokens=2.0,
    output_tokens=10.0,
    training_tokens=5.0,
    gigabyte_month=0.5,
    num_answers=1000,
    months=3,
)
CONFIG = KnowledgeConfig(
    arms=["base", "rag"], budget=KnowledgeBudgetConfig(context_tokens=160), prices=PRICES
)
RIGHT = {"base": [0, 0, 0, 1, 0, 0, 0, 0] * 3, "rag": [1, 1, 1, 1, 0, 1, 1, 0] * 3}


def answers() -> list[dict[str, Any]]:
    """Return 24 questions a side: of base 3 are right, and of rag 18 after the cut-off."""
    rows = []
    for arm, right in RIGHT.items():
        for side in ("after", "before", "unanswerable"):
            for number in range(24):
                correct = right[number] if side == "after" else int(number < 12)
                rows.append(
                    {
                        "arm": arm,
                        "id": f"{side}-{number}",
                        "group": f"{side}-{number}",
                        "side": side,
                        "condition": "closed" if arm == "base" else "rag",
                        "correct": correct,
                        "abstained": 0,
                        "confident_wrong": 1 - correct,
                        "prompt_tokens": 20 if arm == "base" else 120,
                        "answer_tokens": 10,
                    }
                )
    return rows


def costs() -> list[dict[str, Any]]:
    nothing = {
        "training_seconds": 0.0,
        "training_tokens": 0.0,
        "generated_tokens": 0.0,
        "policy_bytes": 0.0,
        "index_bytes": 0.0,
    }
    rag = {**nothing, "index_bytes": 4e9, "seconds_per_answer": 0.5}
    return [{"arm": "base", **nothing}, {"arm": "rag", **rag}]


def test_shares_and_differences_are_those_of_the_rows() -> None:
    base, rag = arms_of(answers(), costs(), CONFIG)
    assert base.shares["accuracy_after"].value == 1 / 8
    assert rag.shares["accuracy_after"].value == 6 / 8
    assert rag.shares["accuracy_before"].value == base.shares["accuracy_before"].value == 0.5
    assert rag.changes["accuracy_change_after"].value == 5 / 8
    assert rag.changes["confident_wrong_change_after"].value == -5 / 8
    assert rag.changes["accuracy_change_before"].value == 0
    assert base.changes == {}


def test_each_share_has_its_own_interval_and_differences_share_one_confidence() -> None:
    base, rag = arms_of(answers(), costs(), CONFIG)
    groups = [f"after-{i}" for i in range(24)]
    own = share_interval(RIGHT["rag"], groups, confidence=0.95)
    assert (rag.shares["accuracy_after"].low, rag.shares["accuracy_after"].high) == own[1:3]
    # one arm beside the baseline, five quantities: each difference at 1 - .05 / 5
    assert num_differences(CONFIG, {"after", "before", "unanswerable"}) == 5
    together = paired_interval(RIGHT["base"], RIGHT["rag"], groups, confidence=0.99)
    change = rag.changes["accuracy_change_after"]
    assert (change.low, change.high) == pytest.approx(together[1:3])
    alone = paired_interval(RIGHT["base"], RIGHT["rag"], groups, confidence=0.95)
    assert change.low < alone.low
    assert change.high > alone.high
    assert "5 hold together with confidence 0.95" in notes([base, rag], 1, CONFIG)[0]


def test_the_cost_of_a_thousand_answers_by_hand() -> None:
    # an answer: 120 x 2 / 1e6 + 10 x 10 / 1e6 = 0.00034; index: 4 GB x 0.5 x 3 months = 6, over
    # 1000 answers 0.006; so 1000 answers cost 0.34 + 6
    _, rag = arms_of(answers(), costs(), CONFIG)
    assert rag.costs["cost_per_1000"] == pytest.approx(6.34)
    trained = {**rag.costs, "index_bytes": 0.0, "training_tokens": 2e6, "generated_tokens": 1e6}
    # training: 2 x 5 + 1 x 10 = 20 over 1000 answers
    assert price(trained, PRICES) == pytest.approx(0.34 + 20)


def test_the_prices_stand_beside_the_table() -> None:
    said = " ".join(notes(arms_of(answers(), costs(), CONFIG), 1, CONFIG))
    assert "Prices (a list of 2026): 2 USD per million prompt tokens, 10 per million" in said
    assert "1,000 answers in 3 months" in said
    assert "base: seconds per answer are not known" in said
    assert "One seed" in said
    assert "One seed" not in " ".join(notes(arms_of(answers(), costs(), CONFIG), 3, CONFIG))


def test_the_table_has_a_column_for_each_arm_and_a_star_where_zero_is_out() -> None:
    shown = table(arms_of(answers(), costs(), CONFIG), CONFIG)
    assert shown["columns"] == ["", "base", "rag"]
    rows = {row[0]: row[1:] for row in shown["rows"]}
    assert rows["accuracy, after the cut-off (24 answers, 24 entities)"][0].startswith("0.125 [")
    change = shown["rows"][1]
    assert change[:2] == ["  less that of base", "-"]
    assert change[2].startswith("+0.625 [")
    assert change[2].endswith("] *")
    assert shown["rows"][3][2].startswith("+0.000 [")
    assert shown["rows"][3][2].endswith("]")
    assert rows["cost of 1,000 answers, USD"] == ["0.1400", "6.3400"]
    assert rows["seconds per answer"] == ["-", "0.5000"]
    assert all(len(row) == 3 for row in shown["rows"])


def test_metrics_name_quantity_side_and_arm() -> None:
    found = metrics_of(arms_of(answers(), costs(), CONFIG))
    assert found["knowledge/accuracy_after_rag"].value == 0.75
    assert found["knowledge/accuracy_change_after_rag"].value == 0.625
    assert found["knowledge/cost_per_1000_rag"].value == pytest.approx(6.34)
    assert math.isnan(found["knowledge/cost_per_1000_rag"].low)


def test_an_arm_that_answered_other_questions_is_refused() -> None:
    rows = answers()
    rows[100]["id"] = "another"
    with pytest.raises(DataError, match="arm rag must have answered the 72 questions of base"):
        arms_of(rows, costs(), CONFIG)


def test_what_is_not_known_of_every_seed_is_not_known() -> None:
    assert mean_costs([{"a": 1.0, "b": 2.0}, {"a": 3.0}]) == {"a": 2.0}


def test_an_adapter_is_stored_alone_and_tokenizers_are_no_weights() -> None:
    def manifest(*names: str) -> Manifest:
        files = {name: {"size": 10 ** (i + 1)} for i, name in enumerate(names)}
        return Manifest("sft", "sft", "0" * 16, {}, {}, files=files)

    assert weight_bytes(manifest("model/model.safetensors", "model/tokenizer.json")) == 10
    shards = ("model/model-00001-of-00002.safetensors", "model/model-00002-of-00002.safetensors")
    assert weight_bytes(manifest(*shards)) == 110
    adapted = ("model/adapter_model.safetensors", "model/base/model.safetensors")
    assert weight_bytes(manifest(*adapted)) == 10


@pytest.mark.parametrize("name", ["input_tokens", "output_tokens", "training_tokens"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_a_price_that_is_none_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"knowledge.prices.{name} \(=.* USD\) must be at least"):
        PricesConfig(**{name: value})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_answers": 0.0}, "knowledge.prices.num_answers"),
        ({"gigabyte_month": -1.0}, "knowledge.prices.gigabyte_month"),
        ({"months": math.nan}, "knowledge.prices.months"),
    ],
)
def test_other_prices_that_are_none_are_refused(settings: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        PricesConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"arms": ["base", "base"]}, "knowledge.arms"),
        ({"arms": ["base"]}, "knowledge.baseline"),
        ({"baseline": "other"}, r"knowledge.baseline \(=other\)"),
        ({"arms": []}, "knowledge.baseline"),
    ],
)
def test_arms_without_a_baseline_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        KnowledgeConfig(**settings)


def test_rows_of_several_seeds_count_by_entity() -> None:
    rows = [{**row, "id": f"{seed}/{row['id']}"} for seed in (0, 1) for row in answers()]
    rows.sort(key=lambda row: row["arm"])
    one, two = (arms_of(some, costs(), CONFIG)[1] for some in (answers(), rows))
    assert two.shares["accuracy_after"].n == 48
    assert two.shares["accuracy_after"].groups == 24
    assert two.changes["accuracy_change_after"].value == one.changes["accuracy_change_after"].value


def test_files_are_read_back_to_the_same_table(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("answers.jsonl", "arms.jsonl")]
    for path, rows in zip(paths, (answers(), costs()), strict=True):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    read = [[json.loads(line) for line in path.read_text().splitlines()] for path in paths]
    again = table(arms_of(read[0], read[1], CONFIG), CONFIG)
    assert again == table(arms_of(answers(), costs(), CONFIG), CONFIG)
