"""Composition and its checks: every YAML composes, and bad input stops before a model loads."""

from __future__ import annotations

import ast
import ctypes
import dataclasses
import importlib.metadata
import itertools
import json
import math
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plumbrule.cli.explain import unreadable_word
from plumbrule.cli.main import CONF, explain
from plumbrule.config import require_sound
from plumbrule.errors import ConfigError, GraphError, PlumbruleError
from plumbrule.machine import accelerators
from plumbrule.machine.accelerators import require_device
from plumbrule.pipeline.experiment import DEFAULT_IS_SCHEMA, GROUPS, RunConfig, RunSection
from plumbrule.pipeline.graph import NodeConfig, order
from plumbrule.pipeline.stages import SECTIONS, STAGES
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.fingerprint import hashed_config

ROOT = CONF.parent
APART = ("executor", "model", "reward", "runtime")
"""Groups that have nothing to do with each other: files of each are composed together."""
GROUP_FILES = sorted(
    (path.parent.name, path.stem)
    for path in CONF.glob("*/*.yaml")
    if path.parent.name in GROUPS
    and not (path.parent.name == "model" and OmegaConf.load(path).get("shape"))
)
"""Less the models of the hub: planning/test_recipes.py composes each into a plan."""
TOGETHER = list(
    itertools.zip_longest(*([f for f in GROUP_FILES if f[0] == group] for group in APART))
)
EXPERIMENTS = sorted(p.stem for p in (CONF / "experiment").glob("*.yaml"))
NEEDS = {
    "hh_rlhf": ["dataset.path=.", "eval.halueval.path=.", "eval.bold.path=."],
    "smollm2": ["dataset.path=.", "eval.halueval.path=.", "eval.bold.path=."],
    "evaluate": ["model.name_or_path=plumbrule/atlas-base"],
    "own": ["dataset.path=nowhere.jsonl", "model.name_or_path=plumbrule/atlas-base"],
    "tldr": ["dataset.path=nowhere.jsonl", "data.preferences.path=nowhere.jsonl"],
}


@pytest.mark.parametrize(
    "files", [*TOGETHER, *([file] for file in GROUP_FILES if file[0] not in APART)], ids=str
)
def test_every_group_file_composes(
    composed: Callable, converted_models: Path, files: list[tuple[str, str] | None]
) -> None:
    chosen = dict(file for file in files if file is not None)
    overrides = [f"{group}={name}" for group, name in chosen.items()]
    if chosen.get("tracking") in ("tensorboard", "trackio"):
        pytest.importorskip(chosen["tracking"])
    if chosen.get("dataset", "atlas") != "atlas":
        overrides += ["dataset.path=nowhere", "run.goals=[sft]"]
    if chosen.get("model") == "given":
        overrides += ["model.name_or_path=plumbrule/atlas-base"]
    config, _ = composed(*overrides)
    for group in chosen:
        assert isinstance(getattr(config, group), GROUPS[group])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes(composed: Callable, converted_models: Path, name: str) -> None:
    config, nodes = composed(f"experiment={name}", *NEEDS.get(name, []))
    assert nodes
    assert config.run.name == name


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONF / "debug").glob("*.yaml")))
def test_every_debug_file_composes(composed: Callable, name: str) -> None:
    assert composed(f"debug={name}")[1]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_says_its_command_hardware_minutes_and_memory(name: str) -> None:
    header = (CONF / "experiment" / f"{name}.yaml").read_text(encoding="utf-8").split("run:")[0]
    for word in ("Command:", "Hardware:", "Minutes:", "Memory:"):
        assert word in header


def test_a_group_without_files_has_a_default_choice(composed: Callable) -> None:
    config, _ = composed(*(f"{group}=default" for group in DEFAULT_IS_SCHEMA))
    for group in DEFAULT_IS_SCHEMA:
        assert isinstance(getattr(config, group), GROUPS[group])


def test_what_stages_declare_is_told_once() -> None:
    assert set(SECTIONS) <= {f.name for f in dataclasses.fields(RunConfig)}
    names = [stage.name for stage in STAGES.values()]
    assert len(set(names)) == len(names) > 0
    for stage in STAGES.values():
        kinds = {kind for slot in stage.slots.values() for kind in slot.kinds}
        assert kinds <= set(STAGES), stage.name
        assert set(stage.needs_one_of) <= set(stage.slots), stage.name


def test_no_yaml_names_code() -> None:
    for path in CONF.rglob("*.yaml"):
        assert "_target_" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["ppo.kl.coef=-1"], r"ppo\.kl\.coef \(=-1\.0 per nat\) must be at least 0"),
        (["ppo.batch_size=10"], r"ppo\.batch_size \(=10 episodes\) must divide by .*\(=4\)"),
        (["ppo.sampling.temperature=0"], "must be above 0"),
        (["feedback.sampling.max_new_tokens=600"], "must leave room for a prompt"),
        (["model.context=64", "base.sequence_tokens=64", "base.batch_tokens=64"], "leave room"),
        (["model=micro", "base.sequence_tokens=1024", "base.batch_tokens=1024"], "must fit model"),
        (["dataset=hh_rlhf"], "must name a file or folder of format hh_rlhf"),
        (["atlas.seed=1"], r"atlas\.seed \(=1\) must be 0 with model\.name_or_path=plumbrule"),
        (["base.start=lucky"], "must be one of induction, random"),
        (["base.order=sorted"], "must be one of file, shuffled"),
        (["base.measure_every=0"], r"base\.measure_every \(=0 steps\) must be at least 1"),
        (["feedback.num_held_out=0"], r"feedback\.num_held_out \(=0 prompts\) must be at least"),
        (["atlas.num_reading=1"], r"atlas\.num_reading \(=1 rows\) must lie in"),
        (["model.name_or_path=gpt2"], r"model\.revision \(=None\) must be a 40-digit hex commit"),
        (["model.name_or_path=./nope"], "must be a folder that exists or a hub name"),
        (["run.goals=[]"], "must name at least one node"),
        (["run.only=evl"], r"run\.only \(=evl\) must name a node; did you mean eval"),
        (
            ["dataset@data.corpus=jsonl", "data.corpus.path=x"],
            "must be read by a planned node",
        ),
        (
            ["nodes.sft.inputs.base=null", "model=micro"],
            "must name a model where sft has no base input",
        ),
        (["model.name_or_path=gpt2", "model.revision=main"], "40-digit hex"),
        (["model.hidden_size=100"], "must divide by"),
        (["nodes.sft.inputs.base=ppo"], "must not form a cycle.*sft -> ppo -> sft"),
        (["nodes.eval.inputs.policy=nowhere"], "must name a node"),
        (
            ["nodes.eval.inputs.policy=prompts"],
            "must be of kind base or sft or dpo or ppo",
        ),
        (["nodes.sft.inputs.demonstrations=null"], "sft can't run without it"),
        (["run.goals=[evl]"], "did you mean eval"),
        (["+nodes.new.kind=rmm", "run.goals=[new]"], "must be a stage kind; did you mean rm"),
        (["+nodes.sft.inputs.bse=base"], "must be an input of sft; did you mean base"),
        (["+nodes.sft.set.learning_rat=1"], r"did you mean nodes\.sft\.set\.learning_rate"),
        (["+nodes.sft.set.learning_rate=-1"], r"sft\.learning_rate \(=-1\.0\) must lie in"),
        (["+nodes.sft.set.seed=many"], "could not be converted"),
        (["+nodes.sft.inptus.x=y"], "did you mean inputs"),
        (["nodes.ppo.inputs.rm=null"], "not hold rm where node ppo has no rm input"),
        (["nodes.ppo.inputs.index=null", "ppo.retrieval.share=0.5"], "must be 0 without an index"),
        (["reward.terms=[{name: rmm}]"], "must be one of citation.*; the nearest is rm"),
        (["reward.terms=[{name: mine}]"], "load the file that registers it: --plugin <file>"),
        (["run.goals=[comparee]"], "did you mean compare?"),
        (["run.name=a/b"], "plain folder name"),
        (["gold.brief_words=0"], "at least 1"),
        (["atlas.num_known=2"], "must lie in"),
    ],
)
def test_bad_settings_stop_before_a_model_loads(
    composed: Callable, overrides: list[str], says: str
) -> None:
    with pytest.raises((ConfigError, GraphError), match=says):
        composed(*overrides)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("ppo.kl.coeff=1", "ppo.kl.coeff must be a known key; did you mean ppo.kl.coef?"),
        ("nodes.eval.inputs.polcy=sft", "did you mean nodes.eval.inputs.policy?"),
        ("learning_rate=1", "learning_rate must be a known key; did you mean"),
        ("ppo.kl.coef=much", "ppo.kl.coef (=much) must be a number"),
        ("seed=1.5", "seed (=1.5) must be a whole number"),
        ("model=giant", "model (=giant) must be one of atlas, atlas_scratch"),
        ("experiment=quickstat", "did you mean experiment=quickstart?"),
        ("debug=fats", "did you mean debug=fast?"),
        ("tracking=wandbb", "did you mean tracking=wandb?"),
        ("dataset@data.prompts=jsnl", "did you mean dataset@data.prompts=jsonl?"),
        ("dataset=/a/b.jsonl", "a file is dataset=jsonl dataset.path=/a/b.jsonl"),
        ("experimnt=own", "did you mean experiment?"),
        ("run.seeds=3", "run.seeds (=3) must be a list; write 'run.seeds=[3]'"),
        ("data.path=x", "did you mean dataset.path?"),
        ("data.preferences.path=x", "add dataset@data.preferences=jsonl"),
        ("beta=1", "did you mean dpo.beta or ppo.kl.coef?"),
    ],
)
def test_bad_overrides_are_explained_in_one_line(
    composed: Callable, override: str, says: str
) -> None:
    with pytest.raises((HydraException, OmegaConfBaseException)) as caught:
        composed(override)
    line = explain(caught.value, [override])
    assert says in line
    assert "\n" not in line


def test_a_missing_path_is_named(composed: Callable) -> None:
    from plumbrule.pipeline.plan import make_plan
    from plumbrule.store.artifacts import Store

    _, nodes = composed("dataset=jsonl", "dataset.path=/nowhere", "run.goals=[sft]")
    with pytest.raises(PlumbruleError, match=r"demonstrations: path \(=/nowhere\) must exist"):
        make_plan(nodes, Store("."))


def test_only_builds_what_one_node_needs(composed: Callable) -> None:
    _, nodes = composed("run.only=sft")
    assert [n.name for n in nodes] == ["base", "demonstrations", "sft"]


def test_a_model_that_is_named_needs_no_corpus_and_one_from_scratch_does(
    composed: Callable,
) -> None:
    _, named = composed("model=gpt2", "run.only=base")
    _, scratch = composed("model=micro", "run.only=base")
    assert [n.name for n in named] == ["base"]
    assert [n.name for n in scratch] == ["corpus", "base"]


def test_dpo_needs_rankings_and_no_reward_model(composed: Callable) -> None:
    _, nodes = composed("run.only=dpo", "seed=3", "dpo.beta=0.5")
    by_name = {node.name: node for node in nodes}
    assert by_name["dpo"].inputs == {"policy": "sft", "preferences": "feedback"}
    assert (by_name["dpo"].config.seed, by_name["dpo"].config.beta) == (3, 0.5)
    assert "rm" not in by_name
    _, nodes = composed("run.goals=[compare_dpo]")
    assert [node.name for node in nodes if node.kind == "eval"] == ["eval_sft", "eval_dpo"]
    # its policy is one like any other, and rounds of feedback have a slot each
    assert composed(
        "run.only=again",
        "+nodes.again={kind: dpo, inputs: "
        "{policy: dpo, preferences: feedback, preferences_1: preferences}}",
    )[1]


def test_without_retrieval_no_index_is_built(composed: Callable) -> None:
    _, nodes = composed("run.only=ppo", "ppo.retrieval.share=0", "feedback.retrieval.share=0")
    assert "index" not in {n.name for n in nodes}


def test_the_shipped_model_is_free_where_the_data_are_not_atlas(composed: Callable) -> None:
    config, _ = composed("dataset=hh_rlhf", "dataset.path=.", "atlas.seed=1", "run.goals=[sft]")
    assert config.model.name_or_path == "plumbrule/atlas-base"


def test_experiments_can_add_nodes_from_the_command_line(composed: Callable) -> None:
    _, nodes = composed(
        "+nodes.rm_1={kind: rm, inputs: {policy: sft, preferences: feedback}, set: {seed: 7}}",
        "+nodes.ppo.inputs.rm_1=rm_1",
    )
    by_name = {n.name: n for n in nodes}
    assert by_name["rm_1"].config.seed == 7
    assert by_name["rm"].config.seed == 0
    assert by_name["ppo"].inputs["rm_1"] == "rm_1"


def test_seed_reaches_stages_and_leaves_the_base_model_alone(composed: Callable) -> None:
    _, nodes = composed("seed=5")
    seeds = {n.name: getattr(n.config, "seed", None) for n in nodes}
    assert seeds["ppo"] == seeds["sft"] == seeds["rm"] == seeds["feedback"] == 5
    assert seeds["base"] == 0


def test_a_role_can_have_a_data_set_of_its_own(composed: Callable) -> None:
    _, nodes = composed("dataset@data.demonstrations=jsonl", "data.demonstrations.path=mine.jsonl")
    by_name = {n.name: n.config.dataset for n in nodes if n.kind == "data"}
    assert by_name["demonstrations"].path == "mine.jsonl"
    assert by_name["prompts"].format == "atlas"


def test_more_questions_do_not_train_a_new_base(composed: Callable) -> None:
    def fingerprints(*overrides: str) -> dict[str, str]:
        from plumbrule.pipeline.plan import make_plan
        from plumbrule.store.artifacts import Store

        plan = make_plan(composed(*overrides)[1], Store("."))
        return {p.node.name: p.fingerprint for p in plan}

    one, two = fingerprints(), fingerprints("atlas.num_questions=100", "sft.save_every=7")
    assert {n for n in one if one[n] != two[n]} == {"questions", "eval", "eval_sft", "compare"}


@pytest.mark.parametrize(
    ("node", "says"),
    [
        ("{kind: rmm}", "must be a stage kind; did you mean rm"),
        ("{kind: rm, inputs: {prefs: feedback}}", "must be an input of rm"),
    ],
)
def test_an_added_node_is_checked_also_where_no_goal_needs_it(
    composed: Callable, node: str, says: str
) -> None:
    with pytest.raises(GraphError, match=says):
        composed(f"+nodes.rm_1={node}")


def test_order_gives_inputs_before_users() -> None:
    nodes = {
        "d": NodeConfig("data"),
        "b": NodeConfig("base", {"corpus": "d"}),
        "s": NodeConfig("sft", {"base": "b", "demonstrations": "d"}),
    }
    assert order(nodes, ["s"]) == ["d", "b", "s"]
    assert order(nodes, ["b"]) == ["d", "b"]


def test_every_kind_names_functions_that_exist() -> None:
    """The strings of the stage table are checked by parsing, so that no typo waits for a user."""
    for kind, stage in STAGES.items():
        for entry in filter(None, (stage.run, stage.opener)):
            module, name = entry.split(":")
            path = Path(ROOT, *module.split(".")).with_suffix(".py")
            tree = ast.parse(path.read_text(encoding="utf-8"))
            functions = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
            assert name in functions, f"{kind}: {entry}"


def test_the_whole_config_is_typed(composed: Callable) -> None:
    config, _ = composed()
    assert isinstance(config, RunConfig)
    assert config.ppo.reward.gold == config.gold


def test_an_ensemble_is_ordinary_nodes_that_differ_by_their_seeds(composed: Callable) -> None:
    _, nodes = composed("rm.ensemble=3", "reward.ensemble.rule=worst", "seed=4")
    by_name = {node.name: node for node in nodes}
    assert [by_name[name].config.seed for name in ("rm", "rm_1", "rm_2")] == [4, 5, 6]
    assert by_name["ppo"].inputs["rm_2"] == "rm_2"
    assert {by_name[name].inputs["policy"] for name in ("rm", "rm_1", "rm_2")} == {"sft"}
    assert by_name["eval"].inputs["rm"] == "rm"
    assert "rm_1" not in by_name["eval"].inputs


def test_an_ensemble_from_the_base_makes_policies_of_their_own(composed: Callable) -> None:
    _, nodes = composed("experiment=rehearsal", "rm.ensemble=2", "rm.ensemble_from=base")
    by_name = {node.name: node for node in nodes}
    assert by_name["rm_1"].inputs == {"policy": "sft_1", "preferences": "feedback"}
    assert by_name["sft_1"].inputs["base"] == "base_1"
    assert by_name["base_1"].config.seed == by_name["base"].config.seed + 1
    assert by_name["sft_1"].config.seed == by_name["sft"].config.seed + 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rm.ensemble=2", "rm.ensemble_from=base"], "ensemble_from.*must be head"),
        (["reward.ensemble.rule=worst"], "reward.ensemble.rule .=worst. must be mean"),
        (
            [
                "rm.ensemble=2",
                "+nodes.rm_1={kind: rm, inputs: {policy: sft, preferences: feedback}}",
            ],
            "nodes.rm_1 must be left",
        ),
        (["rm.ensemble=0"], "rm.ensemble .=0"),
        (["reward.terms=[{name: shouting}]"], "reward.terms.name .=shouting. must be one of"),
        (["reward.terms=[{name: http}]"], "reward.http.url"),
        (["reward=gold", "ppo.require_rm.accuracy=0.7"], "ppo.require_rm .=set. must be left out"),
        (
            [
                "reward.terms=[{name: http}]",
                "reward.http.url=http://h/",
                "reward.http.version=1",
                "reward.http.token_env=NOT_SET_ANYWHERE",
            ],
            "reward.http.token_env .=NOT_SET_ANYWHERE",
        ),
        (
            [
                "experiment=rehearsal",
                "rm.ensemble=2",
                "rm.ensemble_from=base",
                "reward.ensemble.rule=weights",
            ],
            "start from several policies",
        ),
    ],
)
def test_bad_ensembles_and_terms_stop_before_a_model_loads(
    composed: Callable, overrides: list[str], message: str
) -> None:
    with pytest.raises(PlumbruleError, match=message):
        composed(*overrides)


BY_RM = (
    "+nodes.labels={kind: feedback, inputs: {policy: sft, prompts: prompts, index: index, "
    "rm: rm}, set: {labeller: rm}}"
)


def test_a_feedback_node_reads_what_its_labeller_needs(composed: Callable) -> None:
    _, nodes = composed(BY_RM, "run.only=labels", "rm.ensemble=2", "gold.brief=7")
    by_name = {node.name: node for node in nodes}
    assert by_name["labels"].inputs["rm_1"] == "rm_1"
    assert by_name["labels"].config.reward.gold.brief == 7
    assert by_name["labels"].config.reward.weights == {"rm": 1.0}
    terms = "feedback.reward.terms=[{name: length}]"
    _, nodes = composed(BY_RM, "run.only=labels", terms, "reward=gold")
    assert [n.name for n in nodes if n.kind in ("rm", "feedback")] == ["labels"]
    assert nodes[-1].config.reward.weights == {"length": 1.0}
    judge = ("nodes.feedback.inputs.judge=sft", "run.only=feedback")
    assert "judge" not in composed(*judge)[1][-1].inputs
    assert composed(*judge, "feedback.labeller=judge")[1][-1].inputs["judge"] == "sft"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["feedback.labeller=rm"], r"feedback\.reward\.terms .*rm where node feedback has no rm"),
        (
            [BY_RM, "run.only=labels", "feedback.reward.ensemble.rule=worst"],
            r"feedback\.reward\.ensemble\.rule \(=worst\) must be mean",
        ),
        (["feedback.labeller=rm", "nodes.feedback.inputs.rm=rm"], "must not form a cycle"),
        (["nodes.feedback.inputs.rm=sft"], "must be of kind rm, not sft"),
        (["feedback.labeller=judge"], r"feedback\.judge\.name_or_path \(=None\).*inputs.judge=sft"),
        (
            [
                "feedback.labeller=judge",
                "nodes.feedback.inputs.judge=sft",
                "feedback.judge.name_or_path=plumbrule/atlas-base",
            ],
            r"if and only if node feedback has no judge input \(=sft\); take one",
        ),
        (["feedback.judge.name_or_path=gpt2"], r"feedback\.judge\.revision"),
        (["feedback.judge.words=[A]"], r"feedback\.judge\.words"),
        (["feedback.flipped=0.6"], r"feedback\.flipped \(=0.6\)"),
        (["feedback.labeller=person", "feedback.flipped=0.1"], r"feedback\.flipped"),
    ],
)
def test_bad_labellers_stop_before_a_model_loads(
    composed: Callable, overrides: list[str], message: str
) -> None:
    with pytest.raises(PlumbruleError, match=message):
        composed(*overrides)


def test_members_of_one_ensemble_are_those_of_another(composed: Callable) -> None:
    """The number of members is no part of what a member is."""
    few, many = (
        {node.name: node for node in composed(f"rm.ensemble={number}")[1]} for number in (2, 3)
    )
    assert hashed_config(few["rm_1"].config) == hashed_config(many["rm_1"].config)


@pytest.mark.parametrize(
    "name", ["a\nb", "a\0b", "x" * 300, "ü" * 60, "", ".a", "-a", "a/b", "a b"]
)
def test_a_runs_name_is_that_of_a_folder(name: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.name") as caught:
        RunSection(name=name)
    assert "\n" not in str(caught.value)
    assert RunSection(name="überall-1.2_x").name


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("ppo.kl.coef=inf", "ppo.kl.coef"),
        ("+nodes.ppo.set={kl:{coef:inf}}", "nodes.ppo.set.kl.coef"),
        ("+reward.terms=[{name:rm,weight:-inf}]", "reward.terms.rm.weight"),
        ("seed=99999999999999999999", "seed"),
        ('run.notes=["a\0b"]', r"run.notes\[0\]"),
    ],
)
def test_what_no_setting_can_be_is_refused_while_composing(
    composed: Callable, override: str, key: str
) -> None:
    with pytest.raises((ConfigError, HydraException, OmegaConfBaseException)) as caught:
        composed(override)
    assert re.search(rf"{key} \(=", str(caught.value)), caught.value


def test_every_infinite_setting_is_refused_wherever_it_stands() -> None:
    @dataclasses.dataclass
    class Inner:
        free: float = math.inf

    @dataclasses.dataclass
    class Outer:
        inner: Inner = dataclasses.field(default_factory=Inner)

    with pytest.raises(ConfigError, match=r"inner\.free \(=inf\) must be finite"):
        require_sound(Outer())
    require_sound({"a": [1.5, None, True, "ü"]})


@pytest.mark.parametrize(
    "path", ["/tmp/a=b", "~/a", "/tmp/#a", "/tmp/ü", "/tmp/a[1]", "/tmp/(a", '/t/"a"=']
)
def test_a_path_that_hydra_reads_as_grammar_says_how_to_write_it(path: str) -> None:
    line = explain(HydraException("..."), ["run.dry=true", f"dataset.path={path}"])
    assert line.startswith(f"dataset.path (={path}) must be quoted twice")
    (word,) = shlex.split(line.split("write ")[1])
    parsed = OverridesParser.create().parse_override(word)
    assert not parsed.is_sweep_override()
    assert parsed.value() == str(Path(path).expanduser())


@pytest.mark.parametrize("value", ["0.02,0.1", "choice(1,2)", "range(1,3)"])
def test_several_values_without_m_say_how_to_sweep(value: str) -> None:
    line = explain(HydraException("..."), [f"ppo.kl.coef={value}"])
    assert "add -m for a sweep: plumbrule -m " in line
    assert shlex.split(line)[-1] == f"ppo.kl.coef={value}"


def test_a_path_with_a_comma_is_a_sweep_or_one_text() -> None:
    line = explain(HydraException("..."), ["dataset.path=a,b"])
    assert "add -m for a sweep" in line
    (word,) = shlex.split(line.split("write ")[1])
    assert OverridesParser.create().parse_override(word).value() == "a,b"


def test_a_path_with_blanks_needs_no_more_than_the_shells_quotes() -> None:
    assert unreadable_word(["dataset.path=/tmp/a b"]) is None


def test_a_device_that_is_not_there_is_refused_in_the_plan(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigError, match=r"runtime.device \(=cuda:x\) must be auto"):
        RuntimeConfig(device="cuda:x")
    monkeypatch.setattr(accelerators, "num_accelerators", lambda: 1)
    require_device(RuntimeConfig(device="cuda"))
    require_device(RuntimeConfig(device="auto"))
    require_device(RuntimeConfig(device="cpu", processes=8))
    for settings, needed in (({"device": "cuda:1"}, 2), ({"device": "cuda", "processes": 4}, 4)):
        with pytest.raises(ConfigError, match=rf"has 1 of the {needed} that are needed.*auto"):
            require_device(RuntimeConfig(**settings))


@pytest.mark.parametrize(
    ("visible", "number"), [("0", 1), ("0,1", 2), ("1,7,0", 1), ("-1", 0), ("", 0), ("GPU-a", 1)]
)
def test_devices_that_are_hidden_do_not_count(
    visible: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the two that the driver knows."""

    class Driver:
        nvmlInit_v2 = nvmlShutdown = staticmethod(lambda: 0)

        @staticmethod
        def nvmlDeviceGetCount_v2(place: ctypes.c_uint) -> int:
            place.value = 2
            return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver)
    monkeypatch.setattr(ctypes, "byref", lambda number: number)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.11")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert accelerators.num_accelerators() == number


def test_the_count_is_that_of_torch() -> None:
    import torch

    assert accelerators.num_accelerators() == torch.cuda.device_count()


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    (tmp_path / "own").mkdir()
    row = {"prompt": "Hi", "chosen": "a", "rejected": "b"}
    (tmp_path / "own" / "train.jsonl").write_text(json.dumps(row))
    return tmp_path / "own"


def test_all_that_is_refused_is_said_at_once(composed: Callable) -> None:
    names = ("ppo.gamma", "ppo.kl.coef", "gold.right", "ppo.cliprange", "model.hidden_size")
    with pytest.raises(ConfigError) as refused:
        composed(*(f"{name}=-{1e9 if name == 'gold.right' else 1}" for name in names))
    said = str(refused.value)
    assert re.match(r"\d settings must change: \(1\) ", said)
    for name in names:
        assert f") {name} (=" in said


@pytest.mark.parametrize("setting", ["ppo.gamma=7", "model.num_heads=0"])
def test_what_is_refused_alone_is_said_alone(composed: Callable, setting: str) -> None:
    name = setting.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"^{re.escape(name)} \(=[^;]*; change it\.$"):
        composed(setting)  # a later check divides by the number of heads


@pytest.mark.parametrize("goal", ["rm", "eval_sft"])
def test_a_stage_that_measures_needs_rows_that_are_held_out(
    composed: Callable, pairs: Path, goal: str
) -> None:
    given = [
        *("dataset=jsonl", f"dataset.path={pairs}", "dataset.validation_share=0"),
        *(f"run.goals=[{goal}]", "nodes.rm.inputs.preferences=preferences", "model=gpt2"),
        *(
            f"nodes.eval_sft.inputs.{slot}=null"
            for slot in ("questions", "halueval", "bold", "rm", "reward")
        ),
        *("nodes.eval_sft.inputs.index=null", "nodes.sft.inputs.base=null"),
    ]
    says = rf"dataset.validation_share \(=0\) must be above 0 where node {goal} measures.*"
    with pytest.raises(ConfigError, match=says + "train and a validation file"):
        composed(*given)
    (pairs / "validation.jsonl").write_text((pairs / "train.jsonl").read_text())
    composed(*given)
