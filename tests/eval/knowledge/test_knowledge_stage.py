"""Stage knowledge on artifacts written by hand: costs, files, refusals."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from eval.knowledge.config import KnowledgeBudgetConfig, KnowledgeConfig, PricesConfig
from eval.knowledge.costs import costs_of
from eval.knowledge.stage import ANSWERS, ARM_COSTS, run
from eval.knowledge.table import arms_of, table
from plumbrule.errors import ConfigError, DataError
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.store.json_files import read_json, write_json
from plumbrule.store.manifests import Manifest
from plumbrule.tracking.stage_tracker import NullTracker

CONFIG = KnowledgeConfig(
    arms=["base", "fine_tuned", "rag"],
    budget=KnowledgeBudgetConfig(training_tokens=1000),
    prices=PricesConfig(source="made up", input_tokens=1.0, training_tokens=1.0),
)
DIGEST = {"sha256": "0" * 64}
WEIGHTS = {"model/model.safetensors": 500, "model/policy.json": 7}


class Store:
    """Artifacts with manifests, in a store."""

    def __init__(self, root: Path):
        self.root, self.number = root, 0

    def add(
        self,
        kind: str,
        inputs: dict[str, Artifact] | None = None,
        seconds: float = 0.0,
        files: dict[str, int] | None = None,
        **metrics: float,
    ) -> Artifact:
        """Publish an artifact; __ in the name of a metric stands for /."""
        self.number += 1
        fingerprint = f"{self.number:016x}"
        folder = self.root / "artifacts" / kind / fingerprint
        folder.mkdir(parents=True)
        links = {slot: artifact.fingerprint for slot, artifact in (inputs or {}).items()}
        named = {name.replace("__", "/"): value for name, value in metrics.items()}
        sizes = {name: {"size": size, **DIGEST} for name, size in (files or {}).items()}
        about = Manifest(
            kind, kind, fingerprint, {}, links, sizes, metrics=named, wall_seconds=seconds
        )
        write_json(folder / "manifest.json", asdict(about))
        return Artifact(folder, kind, kind, fingerprint, named)

    def evaluation(self, inputs: dict[str, Artifact], right: int, condition: str) -> Artifact:
        """Publish answers to 12 questions a side, of which so many after the cut-off are right."""
        seconds = {f"time__item_seconds_questions_{condition}": 0.25}
        artifact = self.add("eval", inputs, **seconds)
        rows = []
        for which in ("documents", "memory", "nothing"):
            for number in range(12):
                correct = int(number < right) if which == "documents" else int(number < 6)
                rows.append(
                    {
                        "id": f"{which}{number}",
                        "group": f"{which}{number}",
                        "condition": condition,
                        "answerable": which,
                        "correct": correct,
                        "abstained": 0,
                        "confident_wrong": 1 - correct,
                        "prompt_tokens": 100 if condition == "rag" else 10,
                        "answer_tokens": 8,
                    }
                )
        settings = {"gold": {"right": 1.0}, "conditions": [condition]}
        about = {"kind": "sft", "fingerprint": "", "settings": settings}
        write_json(artifact.path / "evaluated.json", about)
        return rewrite(artifact, rows)


def rewrite(artifact: Artifact, rows: list[dict[str, Any]]) -> Artifact:
    (artifact.path / "items").mkdir(exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (artifact.path / "items" / "questions.jsonl").write_text(text, encoding="utf-8")
    return artifact


def rows_of(artifact: Artifact) -> list[dict[str, Any]]:
    text = (artifact.path / "items" / "questions.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def made(tmp_path: Path, seed: str = "") -> dict[str, Artifact]:
    """Return the inputs of one seed: three arms, and what timed one new fact."""
    store = Store(tmp_path / f"store{seed}")
    data = store.add("data", seconds=3.0)
    base = store.add("base", seconds=50.0)
    sft = store.add("sft", {"base": base, "demonstrations": data}, 40.0, WEIGHTS)
    new = store.add("data", seconds=5.0)
    tuned = store.add(
        "sft",
        {"base": sft, "demonstrations": new},
        20.0,
        WEIGHTS,
        cost__training_tokens=990.0,
    )
    index = store.add("index", files={"index.faiss": 30, "bm25/x": 12})
    end = f"@seed={seed}" if seed else ""
    return {
        f"arm_base{end}": store.evaluation({"policy": sft}, 1, "closed"),
        f"arm_fine_tuned{end}": store.evaluation({"policy": tuned}, 6, "closed"),
        f"arm_rag{end}": store.evaluation({"policy": sft, "index": index}, 11, "rag"),
        f"learn_fact{end}": store.add(
            "learn_fact", learn_fact__answered=1.0, learn_fact__until_answered_seconds=4.0
        ),
        f"add_fact{end}": store.add("add_fact", add_fact__answered=0.0),
    }


def compare(inputs: dict[str, Artifact], out: Path, config: KnowledgeConfig = CONFIG) -> Any:
    out.mkdir(exist_ok=True)
    return dict(run(config, inputs, RuntimeConfig(), out, NullTracker()))


def test_an_arm_costs_what_its_policy_was_made_from_beyond_the_baselines(tmp_path: Path) -> None:
    found = compare(made(tmp_path), tmp_path / "out")
    assert found["knowledge/accuracy_after_base"] == pytest.approx(1 / 12)
    assert found["knowledge/accuracy_after_rag"] == pytest.approx(11 / 12)
    assert found["knowledge/accuracy_change_after_fine_tuned"] == pytest.approx(5 / 12)
    assert found["knowledge/accuracy_change_before_rag"] == 0
    # the second fine-tuning's 20 s; neither its data's 5 s nor what the baseline was made from
    assert found["knowledge/training_seconds_fine_tuned"] == 20
    assert found["knowledge/training_tokens_fine_tuned"] == 990
    assert found["knowledge/training_seconds_rag"] == found["knowledge/training_seconds_base"] == 0
    assert found["knowledge/policy_bytes_fine_tuned"] == 500
    assert found["knowledge/policy_bytes_rag"] == found["knowledge/index_bytes_base"] == 0
    assert found["knowledge/index_bytes_rag"] == 42
    assert found["knowledge/seconds_per_answer_rag"] == 0.25
    assert found["knowledge/prompt_tokens_rag"] == 100
    assert found["knowledge/fact_seconds_fine_tuned"] == 4
    assert found["knowledge/fact_answered_rag"] == 0
    assert "knowledge/fact_seconds_rag" not in found  # no fact came to be answered
    assert "knowledge/fact_answered_base" not in found
    # 1000 answers of 10 tokens at 1 a million, and 990 tokens over 1e5 answers
    assert found["knowledge/cost_per_1000_fine_tuned"] == pytest.approx(0.01 + 0.00099 * 0.01)


def test_an_encoder_is_no_training_and_no_fact_has_no_share(tmp_path: Path) -> None:
    """PPO's 20 s, without the 70 s of the encoder of its index; no fact was left to learn."""
    store = Store(tmp_path)
    sft = store.add("sft")
    encoder = store.add("encoder", seconds=70.0)
    index = store.add("index", {"encoder": encoder}, 9.0)
    ppo = store.add("ppo", {"policy": sft, "index": index}, 20.0)
    before = store.evaluation({"policy": sft}, 1, "closed")
    after = store.evaluation({"policy": ppo}, 1, "closed")
    costs = costs_of(after, before, "closed", {"learn_fact": store.add("learn_fact")})
    assert costs["training_seconds"] == 20
    assert "fact_answered" not in costs


def test_the_table_is_a_function_of_its_files(tmp_path: Path) -> None:
    out = tmp_path / "out"
    compare(made(tmp_path), out)
    read = [
        [json.loads(line) for line in (out / name).read_text(encoding="utf-8").splitlines()]
        for name in (ANSWERS, ARM_COSTS)
    ]
    assert len(read[0]) == 3 * 36
    again = arms_of(read[0], read[1], CONFIG)
    assert read_json(out / "tables.json") == [table(again, CONFIG)]
    written = read_json(out / "metrics.json")["knowledge"]
    for arm in again:
        assert written[arm.name] == {name: x.as_json() for name, x in arm.numbers().items()}
    assert read_json(out / "intervals.json")["knowledge/accuracy_after_rag"]["groups"] == 12
    assert not [note for note in read_json(out / "notes.json") if "conditions" in note]


def test_seeds_are_answers_to_one_question_and_costs_their_mean(tmp_path: Path) -> None:
    inputs = made(tmp_path, "0") | made(tmp_path, "1")
    faster = inputs["arm_rag@seed=1"]
    seconds = {"time/item_seconds_questions_rag": 0.75}
    inputs["arm_rag@seed=1"] = replace(faster, metrics=seconds)
    found = compare(inputs, tmp_path / "out")
    assert found["knowledge/accuracy_after_rag"] == pytest.approx(11 / 12)
    assert found["knowledge/seconds_per_answer_rag"] == 0.5
    rows = (tmp_path / "out" / ANSWERS).read_text(encoding="utf-8").splitlines()
    assert len(rows) == 6 * 36
    number = read_json(tmp_path / "out" / "intervals.json")["knowledge/accuracy_after_rag"]
    assert (number["n"], number["groups"]) == (24, 12)


def test_an_evaluation_that_was_resumed_has_no_seconds_and_the_report_says_so(
    tmp_path: Path,
) -> None:
    inputs = made(tmp_path)
    inputs["arm_rag"] = replace(inputs["arm_rag"], metrics={})
    found = compare(inputs, tmp_path / "out")
    assert "knowledge/seconds_per_answer_rag" not in found
    assert any("rag: seconds per answer" in n for n in read_json(tmp_path / "out" / "notes.json"))


def test_a_missing_arm_is_refused(tmp_path: Path) -> None:
    inputs = made(tmp_path)
    del inputs["arm_rag"]
    with pytest.raises(DataError, match="inputs must hold arm_rag"):
        compare(inputs, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[:-1], "1 items stand in one evaluation only"),
        (lambda rows: [{**r, "condition": "ab"[i % 2]} for i, r in enumerate(rows)], "condition"),
        (
            lambda rows: [{k: v for k, v in r.items() if k != "prompt_tokens"} for r in rows],
            "every answer must have prompt_tokens",
        ),
        (lambda rows: [], "under one condition (=not none)"),
    ],
)
def test_answers_that_are_not_the_baselines_are_refused(
    tmp_path: Path, change: Any, said: str
) -> None:
    inputs = made(tmp_path)
    rewrite(inputs["arm_rag"], change(rows_of(inputs["arm_rag"])))
    with pytest.raises(DataError) as caught:
        compare(inputs, tmp_path / "out")
    assert said in str(caught.value)


def test_a_question_set_of_one_is_refused(tmp_path: Path) -> None:
    inputs = made(tmp_path)
    for name in ("arm_base", "arm_fine_tuned", "arm_rag"):
        rewrite(inputs[name], rows_of(inputs[name])[:1])
    with pytest.raises(DataError, match=r"on at least 2 entities before the cut-off \(=0\)"):
        compare(inputs, tmp_path / "out")


def test_two_gold_utilities_are_refused(tmp_path: Path) -> None:
    inputs = made(tmp_path)
    about = read_json(inputs["arm_rag"].path / "evaluated.json")
    about["settings"]["gold"]["right"] = 2.0
    write_json(inputs["arm_rag"].path / "evaluated.json", about)
    with pytest.raises(ConfigError, match=r"eval.gold.right \(=1.0 and 2.0\)"):
        compare(inputs, tmp_path / "out")
