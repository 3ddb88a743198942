"""Methods compared: halves, choice, budget, costs, best-of-n beside them."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.comparisons.config import BudgetConfig, MethodsConfig
from eval.comparisons.costs import lineage, total
from eval.comparisons.methods import half_of, run
from plumbrule.errors import ArtifactError, ConfigError, DataError
from plumbrule.lm.cost_metrics import cost_metrics
from plumbrule.report import plots
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.store.json_files import write_json
from plumbrule.store.manifests import Manifest
from plumbrule.tracking.stage_tracker import FileTracker

IDS = [f"p{i}" for i in range(40)]
TEST = [name for name in IDS if half_of(name) == "test"]
SETTINGS = {"gold": {"right": 1.0}, "seed": 0}


class World:
    """A store in which artifacts with manifests are written by hand."""

    def __init__(self, root: Path):
        self.root = root
        self.number = 0

    def add(self, kind: str, inputs: dict[str, Artifact] | None = None, **costs: float) -> Artifact:
        """Publish an artifact with these inputs and costs."""
        self.number += 1
        fingerprint = f"{self.number:016x}"
        folder = self.root / "artifacts" / kind / fingerprint
        folder.mkdir(parents=True)
        links = {slot: artifact.fingerprint for slot, artifact in (inputs or {}).items()}
        metrics = cost_metrics(**costs)
        about = Manifest(kind, kind, fingerprint, {}, links, metrics=metrics)
        write_json(folder / "manifest.json", asdict(about))
        return Artifact(folder, kind, kind, fingerprint, metrics)

    def evaluation(self, policy: Artifact, gold: dict[str, float], kl: float, **also) -> Artifact:
        """Publish an evaluation of a policy whose prompts have these gold scores."""
        start = also.pop("reference", policy)
        artifact = self.add("eval", {"policy": policy, "reference": start, **also})
        about = {"kind": policy.kind, "fingerprint": policy.fingerprint, "settings": SETTINGS}
        write_json(artifact.path / "evaluated.json", about)
        rows = [
            {"id": name, "group": name, "condition": "closed", "gold": value, "kl": kl}
            for name, value in gold.items()
        ]
        return self.rewrite(artifact, rows)

    def rewrite(self, artifact: Artifact, rows: list[dict[str, Any]]) -> Artifact:
        """Write the item rows of an evaluation."""
        (artifact.path / "items").mkdir(exist_ok=True)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (artifact.path / "items" / "prompts.jsonl").write_text(text, encoding="utf-8")
        return artifact


def scores(on_validation: float, on_test: float) -> dict[str, float]:
    """Return gold per prompt: an offset of its own, and a gain that depends on its half."""
    gains = {"validation": on_validation, "test": on_test}
    return {name: i / 10 + gains[half_of(name)] for i, name in enumerate(IDS)}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def inputs(world: World) -> dict[str, Artifact]:
    """Two seeds of a method with two settings, one of another method, and baselines."""
    found: dict[str, Artifact] = {}
    for seed, shift in (("0", 0.0), ("1", 0.2)):
        sft = world.add("sft", training_flops=1e6)
        feedback = world.add("feedback", {"policy": sft}, labels=50, generated_tokens=500)
        rm = world.add("rm", {"policy": sft, "preferences": feedback}, training_flops=3e6)
        found[f"baseline@seed={seed}"] = world.evaluation(sft, scores(0, 0), 0.0, rm=rm)
        for coef, gain, kl in (("0.1", (1.0, 0.6), 4.0), ("0.4", (0.5, 0.9), 2.0)):
            ppo = world.add(
                "ppo", {"policy": sft, "rm": rm}, training_flops=5e6, generated_tokens=2000
            )
            gold = scores(*(g + shift for g in gain))
            slot = f"policy_ppo@seed={seed}@kl.coef={coef}"
            found[slot] = world.evaluation(ppo, gold, kl, rm=rm, reference=sft)
        dpo = world.add("dpo", {"policy": sft, "preferences": feedback}, training_flops=2e6)
        found[f"policy_dpo@seed={seed}"] = world.evaluation(
            dpo, scores(0.3, 0.3), 1.0, rm=rm, reference=sft
        )
    return found


def compare(inputs: dict[str, Artifact], out: Path, **settings: Any) -> dict[str, float]:
    out.mkdir(exist_ok=True)
    config = MethodsConfig(**settings)
    return dict(run(config, inputs, RuntimeConfig(), out, FileTracker(out)))


def rows_of(out: Path) -> dict[tuple[str, str], dict[str, Any]]:
    return {(r["method"], r["setting"]): r for r in json.loads((out / "methods.json").read_text())}


def test_the_validation_half_chooses_and_the_test_half_reports(inputs, tmp_path) -> None:
    """kl.coef 0.1 is better where settings are chosen and worse where they are reported."""
    metrics = compare(inputs, tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert [key for key, row in rows.items() if row["chosen"]] == [
        ("ppo", "kl.coef=0.1"),
        ("dpo", ""),
    ]
    assert rows["ppo", "kl.coef=0.1"]["validation_gold_gain"]["value"] == pytest.approx(1.1)
    assert metrics["methods/gold_gain_ppo"] == pytest.approx(0.7)
    assert metrics["methods/kl_ppo"] == pytest.approx(4.0)
    assert metrics["methods/gold_gain_dpo"] == pytest.approx(0.3)


def test_intervals_are_students_over_seeds(inputs, tmp_path) -> None:
    metrics = compare(inputs, tmp_path / "out")
    # gains .6 and .8: standard error .1, t of 1 degree of freedom 12.7062
    assert metrics["methods/gold_gain_ppo_high"] - 0.7 == pytest.approx(1.27062, rel=1e-4)


def test_costs_are_the_policys_own_beyond_the_start(inputs, tmp_path) -> None:
    """DPO's evaluation reads a reward model for its proxy, which is no cost of DPO."""
    metrics = compare(inputs, tmp_path / "out")
    assert metrics["methods/training_flops_ppo"] == 5e6 + 3e6
    assert metrics["methods/generated_tokens_ppo"] == 2000 + 500
    assert metrics["methods/labels_ppo"] == 50
    assert metrics["methods/training_flops_dpo"] == 2e6
    assert metrics["methods/generated_tokens_dpo"] == 500


def test_a_trial_over_the_budget_is_shown_and_not_chosen(inputs, tmp_path) -> None:
    budget = BudgetConfig(training_flops=4e6)
    metrics = compare(inputs, tmp_path / "out", budget=budget)
    assert "methods/gold_gain_ppo" not in metrics
    assert "methods/gold_gain_dpo" in metrics
    rows = rows_of(tmp_path / "out")
    assert rows["ppo", "kl.coef=0.1"]["beyond_budget"] == ["training_flops"]
    (table, *_) = json.loads((tmp_path / "out" / "tables.json").read_text())
    assert [row[1] for row in table["rows"]] == ["over training_flops"] * 2 + ["chosen"]
    notes = json.loads((tmp_path / "out" / "notes.json").read_text())
    assert "Every trial is over the budget: ppo." in notes
    assert "The budget: training_flops 4e+06." in notes


def test_unequal_numbers_of_trials_are_noted(inputs, tmp_path) -> None:
    compare(inputs, tmp_path / "out")
    notes = json.loads((tmp_path / "out" / "notes.json").read_text())
    assert notes == ["Methods were tuned over different numbers of trials: ppo 2, dpo 1."]


def test_one_seed_has_an_interval_over_prompts(inputs, tmp_path, world) -> None:
    sft = world.add("sft")
    spread = {name: (1.0 if i % 2 else -1.0) for i, name in enumerate(IDS)}
    found = {
        "baseline": world.evaluation(sft, dict.fromkeys(IDS, 0.0), 0.0),
        "policy_ppo": world.evaluation(
            world.add("ppo", {"policy": sft}), spread, 1.0, reference=sft
        ),
    }
    metrics = compare(found, tmp_path / "out")
    wide = metrics["methods/gold_gain_ppo_high"] - metrics["methods/gold_gain_ppo_low"]
    own = np.array([spread[name] for name in TEST])
    assert wide == pytest.approx(2 * 1.96 * own.std() / math.sqrt(len(TEST)), rel=0.25)
    assert any("One seed" in n for n in json.loads((tmp_path / "out" / "notes.json").read_text()))


def test_best_of_n_stands_beside_them_at_its_bound(inputs, tmp_path, world) -> None:
    for seed in ("0", "1"):
        best = world.add("best_of_n")
        rows = [
            {"id": n, "group": n, "n": [1, 4], "reward": [0, 1], "utility": [1.0, 1.5]} for n in IDS
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (best.path / "prompts.jsonl").write_text(text, encoding="utf-8")
        inputs[f"best_of_n@seed={seed}"] = best
    compare(inputs, tmp_path / "out")
    one, four = json.loads((tmp_path / "out" / "best_of_n.json").read_text())
    assert (one["n"], one["kl_bound"], one["gold_gain"]["value"]) == (1, 0.0, 0.0)
    assert four["kl_bound"] == pytest.approx(math.log(4) - 0.75)
    assert four["gold_gain"]["value"] == 0.5
    (figure,) = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert [name for _, name in plots.legend(figure)] == ["ppo", "dpo", "best of n (KL at most)"]
    gains = [row["test_gold_gain"] for row in rows_of(tmp_path / "out").values()]
    bounded = [gain for gain in gains if gain["low"] is not None]
    assert {gain.get("reason") for gain in gains} == {None, "no spread: all seeds gave the same"}
    assert plots.plot(figure).count("whisker") == len(bounded) == 2


def test_another_set_of_prompts_is_refused(inputs, tmp_path, world) -> None:
    short = dict(list(scores(0, 0).items())[:-1])
    other = world.evaluation(world.add("ppo"), short, 1.0)
    with pytest.raises(DataError, match="its baseline's prompts"):
        compare({**inputs, "policy_other@seed=0": other}, tmp_path / "out")


def test_an_evaluation_without_kl_says_how_to_get_it(inputs, tmp_path, world) -> None:
    artifact = inputs["policy_dpo@seed=0"]
    rows = [{"id": n, "group": n, "condition": "closed", "gold": 1.0} for n in IDS]
    world.rewrite(artifact, rows)
    with pytest.raises(DataError, match="as its input reference"):
        compare(inputs, tmp_path / "out")


def test_a_seed_without_a_baseline_is_refused(inputs, tmp_path) -> None:
    del inputs["baseline@seed=1"]
    with pytest.raises(DataError, match=r"one baseline for seed=1 kl\.coef=0\.1, not 0"):
        compare(inputs, tmp_path / "out")


def test_each_variation_has_the_baseline_of_its_own(world, tmp_path) -> None:
    """Two starts, of which one is better by 5: each policy gains 1 over its own."""
    found: dict[str, Artifact] = {}
    for rate, level in (("a", 0.0), ("b", 5.0)):
        sft = world.add("sft", training_flops=100)
        found[f"baseline@rate={rate}"] = world.evaluation(sft, scores(level, level), 0.0)
        ppo = world.add("ppo", {"policy": sft}, training_flops=1)
        gold = scores(level + 1, level + 1)
        found[f"policy_ppo@rate={rate}"] = world.evaluation(ppo, gold, 1.0, reference=sft)
    compare(found, tmp_path / "out")
    for row in rows_of(tmp_path / "out").values():
        assert row["test_gold_gain"]["value"] == pytest.approx(1.0)
        assert row["training_flops"] == 1


def test_another_start_or_another_gold_is_refused(inputs, world, tmp_path) -> None:
    other = world.evaluation(world.add("ppo"), scores(1, 1), 1.0, reference=world.add("sft"))
    with pytest.raises(DataError, match="must be the policy of its baseline"):
        compare({**inputs, "policy_other@seed=0": other}, tmp_path / "out")
    about = json.loads(inputs["policy_dpo@seed=0"].file("evaluated.json").read_text())
    about["settings"] = {**SETTINGS, "gold": {"right": 3.0}}
    write_json(inputs["policy_dpo@seed=0"].path / "evaluated.json", about)
    with pytest.raises(ConfigError, match=r"eval\.gold\.right"):
        compare(inputs, tmp_path / "out")


def test_conditions_of_one_prompt_are_drawn_together(world, tmp_path) -> None:
    """Every row twice, under two conditions: the interval stays as wide."""
    sft = world.add("sft")
    spread = {name: float(i % 5) for i, name in enumerate(IDS)}
    found = {
        "baseline": world.evaluation(sft, dict.fromkeys(IDS, 0.0), 0.0),
        "policy_ppo": world.evaluation(
            world.add("ppo", {"policy": sft}), spread, 1.0, reference=sft
        ),
    }
    once = compare(found, tmp_path / "once")
    for artifact in found.values():
        path = artifact.path / "items" / "prompts.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        world.rewrite(artifact, [*rows, *({**row, "condition": "rag"} for row in rows)])
    twice = compare(found, tmp_path / "twice")
    for end in ("", "_low", "_high"):
        name = f"methods/gold_gain_ppo{end}"
        assert twice[name] == pytest.approx(once[name])


def test_too_few_prompts_are_refused(world, tmp_path) -> None:
    sft = world.add("sft")
    few = dict.fromkeys(TEST, 1.0)
    found = {
        "baseline": world.evaluation(sft, few, 0.0),
        "policy_ppo": world.evaluation(world.add("ppo"), few, 1.0, reference=sft),
    }
    with pytest.raises(DataError, match="the validation half must have prompts of two groups"):
        compare(found, tmp_path / "out")


def test_halves_are_about_equal_and_of_the_prompt_alone() -> None:
    many = [half_of(f"prompt-{i}") for i in range(2000)]
    assert 900 < many.count("test") < 1100
    assert (half_of("p0"), half_of("p2")) == (
        "validation",
        "test",
    )  # pinned: a study can be extended


def test_a_lineage_counts_each_part_once_and_names_what_is_gone(world) -> None:
    root = world.add("sft", training_flops=1)
    one, other = (world.add("rm", {"policy": root}, training_flops=10) for _ in range(2))
    top = world.add("ppo", {"policy": root, "rm": one, "rm_1": other}, training_flops=100)
    assert total(top)["training_flops"] == 121
    assert total(top, without=[root.fingerprint])["training_flops"] == 120
    assert total(top, "rm")["training_flops"] == 11
    answers = world.add("feedback", {"policy": root}, labels=7, generated_tokens=9)
    chosen = world.add("reject", {"samples": answers, "rm": one})
    nothing = {"training_tokens": 0, "labels": 0}
    assert total(chosen) == {"generated_tokens": 9, "training_flops": 11, **nothing}
    learned = world.add("rm", {"policy": root, "preferences": answers}, labels=7)
    few = world.add("rm", {"policy": root, "preferences": answers}, labels=2)
    assert total(world.add("ppo", {"rm": learned, "rm_1": few}))["labels"] == 7
    assert total(world.add("ppo", {"rm": few}))["labels"] == 2
    both = world.add("rm", {"preferences": answers, "preferences_1": other}, labels=99)
    assert total(both)["labels"] == 7
    (root.path / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="no longer holds"):
        lineage(top)
    with pytest.raises(ValueError, match="tokens_generated"):
        cost_metrics(tokens_generated=1)


def test_the_shipped_budget_admits_the_rankings_that_all_methods_learn_from(composed) -> None:
    config, _ = composed("experiment=compare_methods")
    assert config.methods.budget.labels >= config.feedback.num_prompts


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("methods.budget.labels=0", "methods.budget.labels"),
        ("methods.confidence=2", "methods.confidence"),
    ],
)
def test_bad_settings_stop_before_anything_is_built(composed, override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        composed(override)
    assert said in str(caught.value)
