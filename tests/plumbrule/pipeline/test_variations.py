"""`each` and `run.seeds`: which nodes one node of the config stands for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from plumbrule.errors import ConfigError, GraphError
from plumbrule.inputs import Inputs
from plumbrule.pipeline.stages import STAGES
from plumbrule.store.artifacts import Artifact

STUDY = "+nodes.study={kind: overoptimisation, inputs: {ppo_kl: ppo, ppo_other: other}}"
OTHER = "+nodes.other={kind: ppo, inputs: {policy: sft, rm: rm, prompts: prompts, index: index}}"
GOLD = "reward.terms=[{name: rm}, {name: gold, weight: 0}]"
EACH = "+nodes.ppo.each={kl.coef: [0.1, 0.2]}"


def names(composed: Callable, *overrides: str) -> dict[str, list[str]]:
    """Return the planned nodes' names by the name that they have in the config."""
    _, nodes = composed(*overrides)
    found: dict[str, list[str]] = {}
    for node in nodes:
        found.setdefault(node.name.split("@")[0], []).append(node.name)
    return found


def test_each_value_is_a_node_and_so_is_every_user_of_it(composed: Callable) -> None:
    found = names(composed, EACH)
    assert found["ppo"] == ["ppo@kl.coef=0.1", "ppo@kl.coef=0.2"]
    assert found["eval"] == ["eval@kl.coef=0.1", "eval@kl.coef=0.2"]
    assert found["compare"] == ["compare@kl.coef=0.1", "compare@kl.coef=0.2"]
    assert found["eval_sft"] == ["eval_sft"]
    nodes = {node.name: node for node in composed(EACH)[1]}
    assert nodes["ppo@kl.coef=0.2"].config.kl.coef == 0.2
    assert nodes["ppo@kl.coef=0.2"].config.kl.estimator == "k1"
    assert nodes["eval@kl.coef=0.1"].inputs["policy"] == "ppo@kl.coef=0.1"
    assert nodes["compare@kl.coef=0.1"].inputs == {
        "baseline": "eval_sft",
        "policy": "eval@kl.coef=0.1",
    }


def test_several_settings_are_combined_each_with_each(composed: Callable) -> None:
    both = "+nodes.ppo.each={kl.coef: [0.1, 0.2], advantage: [rloo, grpo]}"
    found = names(composed, both, "ppo.samples_per_prompt=2")
    assert len(found["ppo"]) == len(set(found["ppo"])) == 4
    assert "ppo@kl.coef=0.1@advantage=grpo" in found["ppo"]


def test_a_users_own_setting_multiplies_what_it_inherits(composed: Callable) -> None:
    found = names(composed, "+nodes.rm.each={num_rankings: [20, 40]}", EACH, "run.goals=[ppo]")
    assert sorted(found["ppo"]) == [
        "ppo@num_rankings=20@kl.coef=0.1",
        "ppo@num_rankings=20@kl.coef=0.2",
        "ppo@num_rankings=40@kl.coef=0.1",
        "ppo@num_rankings=40@kl.coef=0.2",
    ]


def test_what_two_inputs_vary_alike_goes_together(composed: Callable) -> None:
    """A reward model varied by its rankings reaches PPO and its evaluation: as one axis."""
    _, nodes = composed("+nodes.rm.each={num_rankings: [20, 40]}", "run.goals=[eval]")
    by_name = {node.name: node for node in nodes}
    assert [name for name in by_name if name.startswith("eval@")] == [
        "eval@num_rankings=20",
        "eval@num_rankings=40",
    ]
    node = by_name["eval@num_rankings=40"]
    assert node.inputs["policy"] == "ppo@num_rankings=40"
    assert node.inputs["rm"] == "rm@num_rankings=40"


def test_settings_of_one_name_of_two_nodes_are_two_axes(composed: Callable) -> None:
    rates = "+nodes.{}.each={{learning_rate: [1e-4, 3e-4]}}"
    found = names(composed, rates.format("sft"), rates.format("rm"), "run.goals=[ppo]")
    assert len(found["ppo"]) == 4
    assert "ppo@sft.learning_rate=0.0001@rm.learning_rate=0.0003" in found["ppo"]
    assert found["sft"] == ["sft@sft.learning_rate=0.0001", "sft@sft.learning_rate=0.0003"]


def test_a_gathering_stage_that_varies_gathers_all_each_time(composed: Callable) -> None:
    study = "+nodes.s={kind: summary, inputs: {run: ppo}, each: {confidence: [0.9, 0.95]}}"
    _, nodes = composed(study, EACH, "summary.metrics=[objective/kl]", "run.goals=[s]")
    studies = [node for node in nodes if node.kind == "summary"]
    assert [len(node.inputs) for node in studies] == [2, 2]


def test_seeds_compose_what_each_seed_alone_would(composed: Callable) -> None:
    _, nodes = composed("run.seeds=[3, 5]", "run.goals=[eval]")
    _, alone = composed("seed=5", "run.goals=[eval]")
    by_name = {node.name: node for node in nodes}
    for node in alone:
        twin = by_name.get(f"{node.name}@seed=5", by_name.get(node.name))
        assert twin is not None
        assert (twin.kind, twin.config) == (node.kind, node.config)


def test_what_no_seed_reaches_stays_one_node(composed: Callable) -> None:
    found = names(composed, "run.seeds=[0, 1]")
    assert found["prompts"] == ["prompts"]
    assert found["index"] == ["index"]
    assert found["base"] == ["base"]
    assert found["sft"] == ["sft@seed=0", "sft@seed=1"]
    assert found["compare"] == ["compare@seed=0", "compare@seed=1"]


def test_a_gathering_stage_gets_every_variation_once(composed: Callable) -> None:
    _, nodes = composed(STUDY, OTHER, EACH, GOLD, "run.seeds=[0, 1]", "run.goals=[study]")
    study = [node for node in nodes if node.kind == "overoptimisation"]
    assert len(study) == 1
    assert study[0].inputs == {
        "ppo_kl@seed=0@kl.coef=0.1": "ppo@seed=0@kl.coef=0.1",
        "ppo_kl@seed=0@kl.coef=0.2": "ppo@seed=0@kl.coef=0.2",
        "ppo_kl@seed=1@kl.coef=0.1": "ppo@seed=1@kl.coef=0.1",
        "ppo_kl@seed=1@kl.coef=0.2": "ppo@seed=1@kl.coef=0.2",
        "ppo_other@seed=0": "other@seed=0",
        "ppo_other@seed=1": "other@seed=1",
    }


def test_a_stage_reads_what_was_gathered(tmp_path: Path) -> None:
    artifact = Artifact(tmp_path, "ppo", "ppo", "0" * 16, {})
    inputs = {
        "ppo_kl@seed=0@kl.coef=0.1": artifact,
        "ppo": artifact,
        "best_of_n@x=a=b": artifact,
        "ppology": artifact,
    }
    one, bare = Inputs(inputs).variations("ppo")
    assert (one.name, one.seed, one.label) == ("kl", "0", "kl kl.coef=0.1")
    assert (bare.name, bare.seed, bare.label) == ("", "", "")
    assert Inputs(inputs).variations("best_of_n")[0].variation == {"x": "a=b"}


def test_members_of_an_ensemble_vary_with_it(composed: Callable) -> None:
    _, nodes = composed(
        "+nodes.rm.each={num_rankings: [20, 40]}", "rm.ensemble=2", "run.goals=[ppo]"
    )
    by_name = {node.name: node for node in nodes}
    assert by_name["ppo@num_rankings=20"].inputs["rm_1"] == "rm_1@num_rankings=20"
    assert by_name["rm_1@num_rankings=20"].config.seed == 1


def test_a_goal_is_all_that_it_stands_for(composed: Callable) -> None:
    assert len(names(composed, EACH, "run.only=ppo")["ppo"]) == 2


@pytest.mark.parametrize(
    ("overrides", "error", "said"),
    [
        (["+nodes.ppo.each={kl.coef: []}"], GraphError, "nodes.ppo.each.kl.coef (=[])"),
        (["+nodes.ppo.each={kl.coef: [1, 1]}"], GraphError, "names each value once"),
        (["+nodes.ppo.each={kl.coef: 1}"], GraphError, "must be a list"),
        (["+nodes.ppo.each={seed: [1, 2]}"], GraphError, "run.seeds"),
        (["+nodes.ppo.each={lr: [1, 2]}"], ConfigError, "nodes.ppo.each.learning_rate?"),
        (["+nodes.ppo.each={kl.coeff: [1, 2]}"], ConfigError, "coeff"),
        (["+nodes.ppo.each={kl.coef: [-1]}"], ConfigError, "ppo.kl.coef"),
        (["+nodes.ppo.each=3"], GraphError, "must be a mapping"),
        (["+nodes.prompts.each={max_rows: [4]}"], ConfigError, "nodes.prompts.set"),
        (["+nodes.ppo.each={kl.coef: [1, 1.0]}"], GraphError, "must give each value once"),
        (["+nodes.ppo.each={3: [1, 2]}"], ConfigError, "nodes.ppo.each.3 must be a known key"),
        (["+nodes.rm.each={ensemble: [1, 3]}"], GraphError, "nodes.rm.each (=ensemble)"),
        (["run.seeds=[1, 1]"], ConfigError, "run.seeds"),
    ],
)
def test_bad_variations_stop_before_a_model_loads(
    composed: Callable, overrides: list[str], error: type[Exception], said: str
) -> None:
    with pytest.raises(error) as caught:
        composed(*overrides)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["experiment=compare_methods", "nodes.of_dpo.inputs.reference=null"], "reference"),
        (
            ["experiment=overoptimisation", "reward.terms=[{name: rm}]"],
            "add {name: gold, weight: 0}",
        ),
        (
            ["experiment=overoptimisation", "+nodes.many.set.labeller=person"],
            "not ranked by person",
        ),
    ],
)
def test_what_a_study_can_not_read_is_known_before_it_trains(
    composed: Callable, overrides: list[str], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        composed(*overrides)
    assert said in str(caught.value)


def test_all_inputs_of_a_stage_gather_or_none_does() -> None:
    for kind, stage in STAGES.items():
        assert len({slot.gathers for slot in stage.slots.values()}) <= 1, kind
