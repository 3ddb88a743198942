"""Files of conf/model and conf/recipe, which recipe a model brings, what the plan says of them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from plumbrule.cli.composition import CONF, composed_config
from plumbrule.cli.plan_page import print_plan
from plumbrule.errors import ConfigError
from plumbrule.lm.config import ModelConfig
from plumbrule.pipeline.compose import Composed
from plumbrule.pipeline.model_checks import check_models
from plumbrule.pipeline.plan import make_plan
from plumbrule.pipeline.planning import needs, revisions
from plumbrule.pipeline.planning.needs import describe_needs, memory_needs
from plumbrule.pipeline.planning.recipes import (
    RecipeConfig,
    advise,
    recipe_of_model,
    recipe_of_size,
    recipes,
)
from plumbrule.store import hub
from plumbrule.store.artifacts import Store
from plumbrule.store.fingerprint import hashed_config

MODELS = sorted(p.stem for p in (CONF / "model").glob("*.yaml"))
HUB_MODELS = [
    name for name in MODELS if OmegaConf.load(CONF / "model" / f"{name}.yaml").get("shape")
]
RECIPES = sorted(p.stem for p in (CONF / "recipe").glob("*.yaml"))


@pytest.fixture
def tldr(tmp_path: Path, compose_whole: Callable) -> Callable[..., Composed]:
    """Compose experiment=tldr with small data in files."""
    rows = [{"prompt": f"post {i} TL;DR:", "completion": f" tale {i}"} for i in range(40)]
    pairs = [{"prompt": f"tale {i}", "chosen": f"a {i}", "rejected": f"b {i}"} for i in range(40)]
    for name, table in (("posts", rows), ("pairs", pairs)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, table)))
    paths = [
        f"dataset.path={tmp_path}/posts.jsonl",
        f"data.preferences.path={tmp_path}/pairs.jsonl",
    ]
    return lambda *overrides: compose_whole("experiment=tldr", *paths, *overrides)


def in_bfloat16(config: object, device: str) -> object:
    """Resolve precision: auto as an accelerator does."""
    if getattr(config, "precision", None) != "auto":
        return config
    return dataclasses.replace(config, precision="bfloat16")  # type: ignore[type-var]


def lines_of(composed: Composed, tmp_path: Path) -> list[str]:
    plan = make_plan(composed.nodes, Store(tmp_path))
    return describe_needs(composed.config, plan, CONF)


@pytest.mark.parametrize("name", HUB_MODELS)
def test_a_hub_model_composes_into_a_plan_that_its_recipe_suits(
    tldr: Callable, tmp_path: Path, name: str
) -> None:
    composed = tldr(f"model={name}")
    model, recipe = composed.config.model, composed.config.recipe
    assert hub.is_commit(model.revision)
    assert recipe.suits(model.shape.parameters)
    lines = lines_of(composed, tmp_path)
    assert lines[0].startswith(f"recipe: {recipe.name}, for a model of")
    assert lines[1].startswith(f"downloads from huggingface.co: model {model.name_or_path} at ")
    assert f"({model.shape.download_gb:.2g} GB)" in lines[1]


def fitted() -> Iterator[object]:
    """Yield each model with each recipe that suits it.

    In the fast run a model has its own recipe, and a recipe for a smaller device its largest model.
    """
    sizes = {n: OmegaConf.load(CONF / "model" / f"{n}.yaml").shape.parameters for n in HUB_MODELS}
    for recipe in recipes(CONF):
        suited = [name for name in HUB_MODELS if recipe.suits(sizes[name])]
        for name in suited:
            fast = recipe.name == recipe_of_model(name, CONF) or name == max(suited, key=sizes.get)
            yield pytest.param(name, recipe, marks=[] if fast else [pytest.mark.slow])


FITTED = list(fitted())


def test_every_model_of_the_hub_has_a_recipe() -> None:
    assert {case.values[0] for case in FITTED} == set(HUB_MODELS)


@pytest.mark.parametrize(("name", "recipe"), FITTED, ids=lambda v: getattr(v, "name", v))
def test_training_fits_the_device_that_the_recipe_names(
    tldr: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, recipe: RecipeConfig
) -> None:
    """The posts and summaries of TL;DR, in bfloat16, which such devices have."""
    monkeypatch.setattr("plumbrule.pipeline.compose.resolved", in_bfloat16)
    assert recipe.device_gb is not None
    own = recipe.name == recipe_of_model(name, CONF)
    composed = tldr(f"model={name}", *([] if own else [f"recipe={recipe.name}"]))
    assert composed.config.recipe.name == recipe.name
    shape = needs.shape_of(composed.config.model, None)
    assert shape is not None
    plan = make_plan(composed.nodes, Store(tmp_path))
    found = {need.kind: need.memory for need in memory_needs(composed.config, plan, shape)}
    assert set(found) == {"sft", "rm", "ppo"}
    for kind, memory in found.items():
        assert memory.total < 0.95e9 * recipe.device_gb, kind


@pytest.mark.parametrize("name", [name for name in MODELS if name not in HUB_MODELS])
def test_a_model_without_a_known_size_brings_no_recipe(name: str) -> None:
    assert recipe_of_model(name, CONF) == "tiny"


def test_no_fingerprint_of_the_shipped_model_knows_of_recipes(compose_whole: Callable) -> None:
    """Neither the default recipe nor the sizes of a model are hashed."""
    plain = compose_whole().nodes
    named = compose_whole("recipe=tiny", "model.shape.parameters=null").nodes
    assert [hashed_config(a.config) for a in plain] == [hashed_config(b.config) for b in named]
    sft = next(node.config for node in plain if node.kind == "sft")
    assert "shape" not in hashed_config(sft.model)


def test_a_recipe_stands_behind_the_experiment_and_before_the_command(tldr: Callable) -> None:
    config = tldr("model=pythia_1b").config
    assert config.ppo.learning_rate == 3e-6
    assert config.ppo.sampling.temperature == 0.7  # the experiment's, which no recipe sets
    assert tldr("model=pythia_1b", "ppo.learning_rate=1e-7").config.ppo.learning_rate == 1e-7
    assert tldr("model=pythia_1b", "recipe=1b_24gb").config.ppo.adapter.rank == 32
    assert tldr("model=pythia_1b", "runtime=gpu1").config.runtime.micro_batch_size == 16


def test_the_shipped_model_with_a_recipe_for_1b_is_warned_of(
    tldr: Callable, tmp_path: Path
) -> None:
    lines = lines_of(tldr("model=atlas", "recipe=1b_80gb"), tmp_path)
    assert lines[0].startswith("warning: recipe 1b_80gb is for models of 800M to 1.6B parameters")
    assert lines[0].endswith("add recipe=tiny")


def test_a_hub_model_with_the_tiny_recipe_is_told_its_own(tldr: Callable, tmp_path: Path) -> None:
    lines = lines_of(tldr("model=pythia_1b", "recipe=tiny"), tmp_path)
    assert lines[0].startswith("warning: recipe tiny is for models of up to 20M parameters")
    assert lines[0].endswith("add recipe=1b_80gb")


def test_a_hub_model_without_a_file_is_counted_by_the_hub(
    tldr: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["model=given", "model.name_or_path=owner/model", f"model.revision={'a' * 40}"]
    composed = tldr(*words)
    assert lines_of(composed, tmp_path) == [
        "downloads from huggingface.co: model owner/model at aaaaaaaa (size not known)"
    ]
    monkeypatch.setattr(needs, "parameters_on_hub", lambda name, revision: 3_000_000_000)
    assert lines_of(composed, tmp_path)[0].endswith(
        "and this one has 3B: its learning rates and "
        "batch sizes are wrong for it; add recipe=3b_80gb"
    )


def test_a_size_for_which_there_is_no_recipe_is_said() -> None:
    advice = advise(RecipeConfig(), 3e7, CONF)
    assert advice is not None
    assert advice.warns
    assert "no file of conf/recipe is for this size" in advice.text
    assert advise(RecipeConfig(), None, CONF) is None
    assert advise(RecipeConfig(), 2e6, CONF) is None


def test_recipes_cover_sizes_without_gaps_from_50m_to_4b() -> None:
    sizes = [5e7 * 1.05**step for step in range(91)]
    assert all(recipe_of_size(size, CONF) for size in sizes if size <= 4.5e9)
    assert {recipe.name for recipe in recipes(CONF)} == set(RECIPES)


def test_a_smaller_device_is_given_the_recipe_for_it() -> None:
    assert recipe_of_size(1e9, CONF) == "1b_80gb"
    assert recipe_of_size(1e9, CONF, 48) == "1b_40gb"
    assert recipe_of_size(1e9, CONF, 25) == "1b_24gb"
    assert recipe_of_size(1e9, CONF, 12) is None


def test_too_little_memory_names_the_recipe_that_fits(
    tldr: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(needs, "device_bytes", lambda device: 24 * 2**30)
    lines = lines_of(tldr("model=pythia_1b"), tmp_path)
    assert "this machine has 24 GiB, less than that: add recipe=1b_24gb, or lower" in lines[-1]
    monkeypatch.setattr(needs, "device_bytes", lambda device: 2**40)
    assert not lines_of(tldr("model=pythia_1b"), tmp_path)[-1].startswith("warning")
    monkeypatch.setattr(needs, "device_bytes", lambda device: None)
    lines = lines_of(tldr("model=pythia_1b", "runtime.micro_batch_size=512"), tmp_path)
    assert lines[-1].startswith("warning: recipe 1b_80gb is for 74.5 GiB, less than that")


def test_what_is_cached_or_small_needs_no_line(tldr: Callable, tmp_path: Path) -> None:
    assert lines_of(tldr("model=atlas"), tmp_path) == []
    plan = make_plan(tldr("model=pythia_1b").nodes, Store(tmp_path))
    cached = [planned for planned in plan if planned.state == "cached"]
    assert describe_needs(tldr("model=pythia_1b").config, cached, CONF) == []


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("recipe=1b", "recipe (=1b) must be one of 100m_16gb, 1b_24gb"),
        ("recipe.most_parameters=0.5", "must be at least 1"),
        ("recipe.least_parameters=3e9", "must be at most recipe.most_parameters"),
        ("recipe.device_gb=0", "recipe.device_gb (=0.0 GB) must be at least 1"),
        ("model.shape.layers=0", "model.shape.layers (=0) must be at least 1"),
        ("model.shape.download_gb=-1", "model.shape.download_gb (=-1.0 GB) must be at least 0"),
    ],
)
def test_bad_values_are_refused(tldr: Callable, setting: str, said: str) -> None:
    from hydra.errors import HydraException

    from plumbrule.cli.explain import explain

    with pytest.raises((ConfigError, HydraException)) as raised:
        tldr("model=pythia_1b", setting)
    error = raised.value
    assert said in (str(error) if isinstance(error, ConfigError) else explain(error, [setting]))


def test_a_name_without_a_revision_says_how_to_get_one() -> None:
    with pytest.raises(ConfigError) as raised:
        ModelConfig(name_or_path="owner/model")
    said = str(raised.value)
    assert "copy it from https://huggingface.co/owner/model/commits/main" in said
    assert "add model.revision=main, which the plan resolves to its commit and records" in said


def test_a_branch_becomes_the_commit_that_is_hashed_and_shown(
    tldr: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    commit = "7" * 40
    monkeypatch.setattr(revisions, "commit_of", lambda name, revision, kind: commit)
    composed = tldr("model=pythia_1b", "model.revision=main")
    same = tldr("model=pythia_1b", f"model.revision={commit}")
    assert composed.config.model.revision == commit
    assert [hashed_config(n.config) for n in composed.nodes] == [
        hashed_config(n.config) for n in same.nodes
    ]
    assert same.resolved == []
    print_plan(composed, make_plan(composed.nodes, Store(tmp_path)), {}, {})
    assert f"to keep it, add model.revision={commit}" in capsys.readouterr().out


def test_a_branch_offline_is_what_the_cache_says_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    hub.commit_of.cache_clear()
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set"):
        hub.commit_of("owner/model", "main")
    refs = tmp_path / "models--owner--model" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("a" * 40)
    assert hub.commit_of("owner/model", "main") == "a" * 40


def test_a_revision_that_nothing_resolves_is_an_error_before_the_plan(
    tldr: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match=r"^model\.revision: revision \(=v9\) of EleutherAI"):
        tldr("model=pythia_1b", "model.revision=v9")
    path = "data.preferences.path=hf://datasets/owner/pairs@{}/data"
    with pytest.raises(ConfigError) as raised:
        tldr("model=pythia_1b", f'data.preferences.path="{path.format("v9").partition("=")[2]}"')
    assert f"Write {path.format('<40 digits>')}, or" in str(raised.value)


def test_a_dry_plan_offline_says_what_must_be_known_and_fetched_first(
    compose_whole: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """`plumbrule experiment=tldr model=pythia_1b run.dry=true` on a machine that has nothing."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    hub.commit_of.cache_clear()
    words = ("experiment=tldr", "model=pythia_1b")
    with pytest.raises(ConfigError, match=r"^data\.preferences\.path: revision \(=main\)"):
        compose_whole(*words)
    composed = compose_whole(*words, "run.dry=true")
    [said] = composed.resolved
    assert said.startswith("data.preferences.path: revision (=main) of trl-lib/tldr-preference")
    assert "fingerprints below that depend on it are not those that it will have" in said
    plan = make_plan(composed.nodes, Store(tmp_path / "store"))
    with pytest.raises(ConfigError, match="must be in Hugging Face's cache while HF_HUB_OFFLINE"):
        check_models(plan)
    lines = [*check_models(plan, dry=True), *describe_needs(composed.config, plan, CONF)]
    assert "hf download EleutherAI/pythia-1b-deduped --revision 7199d8fc" in lines[0]
    [fetched] = [line for line in lines if line.startswith("downloads from huggingface.co")]
    assert "model EleutherAI/pythia-1b-deduped at 7199d8fc (2.1 GB)" in fetched
    assert "trl-lib/tldr-preference at a commit that is not known here" in fetched
    assert any(line.startswith("memory, GiB, for ") for line in lines)
    print_plan(composed, plan, {}, {}, lines)
    assert "plan of tldr: 11 nodes" in capsys.readouterr().out


def test_the_word_recipe_is_a_group_of_the_config() -> None:
    cfg = composed_config(["model=qwen3_4b"])
    assert cfg.recipe.name == "3b_80gb"
    assert composed_config(["model=qwen3_4b", "recipe=tiny"]).recipe.name == "tiny"


def test_a_model_file_of_ones_own_leaves_the_experiments_values(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    text = "defaults: [schema, _self_]\nname_or_path: a/b\nshape: {parameters: 1000000000}\n"
    (tmp_path / "model" / "mine.yaml").write_text(text, encoding="utf-8")
    cfg = composed_config(["model=mine", f"hydra.searchpath=[file://{tmp_path}]"])
    assert cfg.recipe.name == "tiny"
    assert cfg.sft.learning_rate == composed_config([]).sft.learning_rate
