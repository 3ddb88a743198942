"""Stage learn_fact on the shipped base model: a fact is learned, and what can't be is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from worlds.atlas_facts import data, shipped_policy
from worlds.stages import run_stage

from plumbrule.errors import ConfigError, DataError
from plumbrule.lm.judges.known_answers import answer_fact, until_answered
from plumbrule.store.artifacts import Artifact
from plumbrule.store.metric_rows import read_metrics
from plumbrule.tracking.stage_tracker import FileTracker
from sft.learn_fact import stage
from sft.learn_fact.config import LearnFactConfig
from sft.learn_fact.stage import run


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("inputs")
    return {
        "policy": shipped_policy(folder / "policy"),
        "demonstrations": data(folder / "new_facts", "new_facts"),
        "questions": data(folder / "questions", "questions"),
    }


def rows_of(out: Path) -> list[dict]:
    text = (out / "items" / "facts.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_a_fact_is_trained_until_it_is_answered_and_again_with_the_same_steps(
    inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    config = LearnFactConfig(num_facts=2)
    found = run_stage(run, config, inputs, out, tracker=FileTracker(out))
    rows = rows_of(out)
    assert found["learn_fact/answered"] == 1.0
    assert found["learn_fact/facts"] == len(rows) == 2
    assert found["learn_fact/until_answered_seconds"] > 0
    assert found["learn_fact/steps"] == sum(row["steps"] for row in rows) / 2
    logged = [row["time/fact_seconds"] for row in read_metrics(out)]
    assert found["learn_fact/until_answered_seconds"] == pytest.approx(sum(logged) / 2)
    for row in rows:
        assert 1 <= row["steps"] <= config.max_steps  # the base model never heard of it
        assert row["training_tokens"] > row["steps"] * row["demonstrations"]
    again = tmp_path / "again"
    run_stage(run, config, inputs, again)
    assert rows_of(again) == rows


def test_a_fact_that_is_not_learned_has_no_seconds(
    inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    config = LearnFactConfig(num_facts=1, max_steps=1, learning_rate=0.0)
    found = run_stage(run, config, inputs, tmp_path)
    assert found["learn_fact/answered"] == 0.0
    assert "learn_fact/until_answered_seconds" not in found
    assert rows_of(tmp_path)[0]["answered"] is False


def test_a_fact_that_is_answered_already_is_passed_over(
    inputs: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def knows_the_first(policy, prompt, *rest):
        asked.append(prompt.id)
        found = answer_fact(policy, prompt, *rest)
        return found._replace(is_right=True) if prompt.id == asked[0] else found

    monkeypatch.setattr(stage, "answer_fact", knows_the_first)
    found = run_stage(run, LearnFactConfig(num_facts=1), inputs, tmp_path)
    assert found["learn_fact/facts"] == 1
    assert rows_of(tmp_path)[0]["id"] == asked[1] != asked[0]


def test_where_every_fact_is_known_no_share_is_told() -> None:
    assert until_answered("learn_fact", []) == {"learn_fact/facts": 0.0}
    assert until_answered("learn_fact", [None])["learn_fact/answered"] == 0.0


def test_demonstrations_of_other_facts_are_refused(
    inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    other = inputs | {"demonstrations": data(tmp_path / "other", "demonstrations")}
    with pytest.raises(DataError, match="demonstrations must tell a fact that a question asks for"):
        run_stage(run, LearnFactConfig(), other, tmp_path / "out")


def test_questions_without_new_facts_are_refused(
    inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    path = inputs["questions"].path / "records.jsonl"
    old = [row for row in path.read_text().splitlines() if '"memory"' in row]
    (tmp_path / "records.jsonl").write_text("\n".join(old) + "\n", encoding="utf-8")
    given = inputs | {"questions": Artifact.of(tmp_path, "data")}
    with pytest.raises(DataError, match="must hold one on a fact after the cut-off"):
        run_stage(run, LearnFactConfig(), given, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_facts", 0), ("max_steps", 0), ("learning_rate", -1.0), ("max_new_tokens", 0)],
)
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"learn_fact.{name}"):
        LearnFactConfig(**{name: value})
