"""Adapters as files, on a base that travels with them, and merged into it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from worlds import tiny_models

from plumbrule.cli import verbs
from plumbrule.errors import ArtifactError, ConfigError
from plumbrule.lm import adapters
from plumbrule.lm.adapters import merged, prepare_training, probe, with_adapter
from plumbrule.lm.config import AdapterConfig, ModelConfig
from plumbrule.lm.loading import load_policy, make_policy, save_policy
from plumbrule.store import adapter_files
from plumbrule.store.adapter_files import base_of, read_adapter, rebase_adapters
from plumbrule.store.artifacts import Store
from plumbrule.store.fingerprint import content_digest, hashed_config
from plumbrule.store.manifests import Manifest

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    save_policy(tiny_models.policy(), tmp_path / "base-model")
    return tmp_path / "base-model"


def by_peft(base: Path, folder: Path, kind: type = LoraConfig, **settings: object) -> torch.Tensor:
    """Save an adapter as PEFT alone does; return the logits of the probe."""
    given = {"target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM", **settings}
    if kind is LoraConfig:
        given = {"r": 2, "init_lora_weights": False, **given}
    policy = load_policy(base)
    with adapters.quiet():
        model = get_peft_model(policy.model, kind(**given)).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "modules_to_save" in name:  # a tied output layer, apart from the embedding now
                    weight.mul_(1.2 if "lm_head" in name else 1.1)
        model.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    return probe(model)


def rewrite(folder: Path, **changes: object) -> None:
    """Change the adapter's settings."""
    config = json.loads((folder / SETTINGS).read_text()) | changes
    (folder / SETTINGS).write_text(json.dumps(config))


# What is loaded, saved again and merged


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", {"use_rslora": True, "lora_alpha": 3}),
        ("llama", {"use_dora": True}),
        ("gpt2", {"use_dora": True, "target_modules": ["c_attn"]}),
        ("llama", {"rank_pattern": {"model.layers.0.self_attn.q_proj": 5}}),
        ("llama", {"modules_to_save": ["embed_tokens", "lm_head"]}),
        ("gpt2", {"target_modules": "all-linear", "lora_bias": True}),
    ],
)
def test_an_adapter_is_read_saved_and_merged_as_peft_has_it(tmp_path, kind, settings):
    save_policy(tiny_models.policy(kind), tmp_path / "base")
    expected = by_peft(tmp_path / "base", tmp_path / "given", **settings)
    loaded = load_policy(tmp_path / "given")
    assert torch.equal(probe(loaded.model), expected)
    save_policy(loaded, tmp_path / "own")
    again = load_policy(tmp_path / "own")
    assert torch.equal(probe(again.model), expected)
    whole = merged(again)
    assert not adapters.has_adapter(whole)
    torch.testing.assert_close(probe(whole.model), expected, rtol=1e-4, atol=1e-4)
    assert all(weight.requires_grad for weight in whole.model.parameters())
    save_policy(whole, tmp_path / "whole")
    torch.testing.assert_close(
        probe(load_policy(tmp_path / "whole").model), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"target_modules": ["lm_head", "q_proj"]}, "a tied output layer"),
        ({"lora_bias": True}, "the base layer has no bias"),
    ],
)
def test_what_merging_would_change_is_refused_and_works_as_it_is(base, tmp_path, settings, why):
    expected = by_peft(base, tmp_path / "given", **settings)
    policy = load_policy(tmp_path / "given")
    assert torch.equal(probe(policy.model), expected)
    with pytest.raises(ConfigError, match=rf"must not be merged.*{why}"):
        merged(policy)


def test_a_fresh_adapter_on_a_merged_one_brings_the_merged_base(adapted, base, tmp_path):
    start = load_policy(adapted(base, tmp_path / "old"))
    expected = probe(start.model)
    policy = prepare_training(start, AdapterConfig(rank=3, inherited="merge"), 0, "dpo.adapter")
    save_policy(policy, tmp_path / "new")
    shutil.rmtree(tmp_path / "old")
    found = load_policy(tmp_path / "new")
    torch.testing.assert_close(probe(found.model), expected, rtol=1e-4, atol=1e-4)
    assert not (
        load_file(tmp_path / "new" / "base" / "model.safetensors").keys()
        ^ load_file(base / "model.safetensors").keys()
    )


def test_going_on_trains_the_adapter_and_nothing_else(adapted, base, tmp_path):
    policy = load_policy(adapted(base, tmp_path / "a"))
    assert not any(weight.requires_grad for weight in policy.model.parameters())
    before = probe(policy.model)
    policy = prepare_training(policy, AdapterConfig(), 0, "dpo.adapter")
    trained = [n for n, weight in policy.model.named_parameters() if weight.requires_grad]
    assert len(trained) == 28  # A and B of seven layers in each of two blocks
    assert all("lora_" in name for name in trained)
    assert torch.equal(probe(policy.model), before)
    assert "lora" not in str(list(load_file(tmp_path / "a" / "base" / "model.safetensors")))


def test_peft_does_not_warn_when_adapters_are_made_or_loaded(adapted, base, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_policy(adapted(base, tmp_path / "a"))


# Files that are refused before a weight is read


def cut(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()


def changed(change):
    """Return a function that changes the tensors of an adapter."""

    def apply(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors, next(iter(tensors)))
        save_file(tensors, folder / WEIGHTS)

    return apply


def header(text: bytes):
    return lambda folder: (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text)


def settings(**changes: object):
    return lambda folder: rewrite(folder, **changes)


BROKEN = {
    "pickle": (
        pickled,
        r"must hold adapter_model\.safetensors, but has adapter_model\.bin, a pickle",
    ),
    "gone": (lambda f: (f / WEIGHTS).unlink(), r"must hold adapter_model\.safetensors; save"),
    "cut": (cut, r"must be a whole safetensors file"),
    "no bytes": (lambda f: (f / WEIGHTS).write_bytes(b""), r"must be a whole safetensors file"),
    "pointer": (
        lambda f: (f / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\n"),
        r"Git LFS pointer",
    ),
    "list as header": (header(b"[1]"), r"must be a whole safetensors file"),
    "long header": (
        lambda f: (f / WEIGHTS).write_bytes(struct.pack("<Q", 2**62) + b"{}"),
        r"must be a whole safetensors file",
    ),
    "no tensors": (
        changed(lambda t, name: t.clear()),
        r"weights \(=all of them\) must not be empty",
    ),
    "empty tensor": (changed(lambda t, name: t.update({name: torch.zeros(0, 32)})), "not be empty"),
    "other shape": (
        changed(lambda t, name: t.update({name: torch.zeros(2, 31)})),
        r"has other shapes .*lora_A\.weight is 2x31 for 2x48",
    ),
    "missing": (changed(lambda t, name: t.pop(name)), r"but lacks base_model.*lora_A\.weight"),
    "unexpected": (
        changed(lambda t, name: t.update({"more.lora_A.weight": torch.zeros(2, 2)})),
        r"but has unexpected more\.lora_A\.weight",
    ),
    "rank 0": (settings(r=0), r"rank r \(=0\) must be a whole number, at least 1"),
    "rank -1": (settings(r=-1), r"rank r \(=-1\) must be a whole number"),
    "rank 1.5": (settings(r=1.5), r"rank r \(=1\.5\) must be a whole number"),
    "rank huge": (settings(r=10**12), r"rank r \(=1000000000000\) must fit the weights"),
    "pattern": (settings(rank_pattern={"q_proj": -3}), r"rank q_proj \(=-3\)"),
    "alpha": (settings(lora_alpha=float("nan")), r"lora_alpha \(=nan\) must be a finite number"),
    "huge alpha": (settings(lora_alpha=10**400), r"lora_alpha \(=10+.* must be a finite number"),
    "list of ranks": (settings(rank_pattern=[1]), r"rank_pattern .* must map layers"),
    "offsets": (
        header(b'{"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 4]}}'),
        r"must be a whole safetensors file",
    ),
    "other rank": (settings(r=4), r"has other shapes"),
    "ia3": (settings(peft_type="IA3"), r"peft_type \(=IA3\) must be LORA"),
    "unknown type": (settings(peft_type="MAGIC"), r"peft_type \(=MAGIC\) must be LORA"),
    "classifier": (settings(task_type="SEQ_CLS"), r"task_type \(=SEQ_CLS\) must be CAUSAL_LM"),
    "megatron": (
        settings(megatron_config={"x": 1}, megatron_core="my.code"),
        r"megatron_config .* must not be set",
    ),
    "code": (
        settings(auto_mapping={"base_model_class": "Model", "parent_library": "my_code"}),
        r"auto_mapping .* must name no code",
    ),
    "later setting": (settings(use_the_force=True), r"use_the_force \(=True\) must not be set"),
    "pissa": (settings(init_lora_weights="pissa"), r"init_lora_weights \(=pissa\)"),
    "bias": (settings(bias="all"), r"bias \(=all\) must not be set"),
    "no layer": (settings(target_modules=["nowhere"]), r"must fit its base .*nowhere"),
    "no json": (lambda f: (f / SETTINGS).write_text("{"), r"adapter_config\.json must be JSON"),
    "a list": (lambda f: (f / SETTINGS).write_text("[]"), r"must hold a JSON object"),
    "hub name": (
        settings(base_model_name_or_path="owner/model"),
        r"revision \(=None\) must be the 40-digit hex commit of the base owner/model",
    ),
    "branch": (
        settings(base_model_name_or_path="owner/model", revision="main"),
        r"\(=main\) must be",
    ),
    "no folder": (settings(base_model_name_or_path="/no/such"), r"\(=/no/such\) must be a folder"),
    "no base": (settings(base_model_name_or_path=None), r"must name the adapter's base model"),
}


def never(path, revision):
    raise AssertionError("weights were read")


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_adapter_is_refused_before_weights_are_read(base, tmp_path, kind):
    by_peft(base, tmp_path / "a")
    breaks, why = BROKEN[kind]
    breaks(tmp_path / "a")
    with pytest.raises(ConfigError, match=why) as error:
        adapters.load_adapter(tmp_path / "a", never)
    assert str(tmp_path / "a") in str(error.value)


def test_an_unbroken_one_gets_as_far_as_the_weights(base, tmp_path):
    by_peft(base, tmp_path / "a")
    with pytest.raises(AssertionError, match="weights were read"):
        adapters.load_adapter(tmp_path / "a", never)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (IA3Config, {"feedforward_modules": ["down_proj"]}),
        (PromptTuningConfig, {"num_virtual_tokens": 2, "target_modules": None}),
    ],
)
def test_other_methods_of_peft_are_refused_by_name(base, tmp_path, kind, given):
    given = {name: value for name, value in given.items() if value is not None}
    policy = load_policy(base)
    given |= {} if kind is PromptTuningConfig else {"target_modules": ["q_proj", "down_proj"]}
    get_peft_model(policy.model, kind(task_type="CAUSAL_LM", **given)).save_pretrained(
        tmp_path / "a"
    )
    with pytest.raises(ConfigError, match=r"peft_type \(=(IA3|PROMPT_TUNING)\) must be LORA"):
        read_adapter(tmp_path / "a")


def test_a_rank_beyond_memory_is_refused_before_it_is_taken(base, tmp_path, monkeypatch):
    with pytest.raises(
        ConfigError, match=r"ppo\.adapter\.rank \(=1000000000\) must fit the memory"
    ):
        with_adapter(load_policy(base), AdapterConfig(rank=10**9), 0, "ppo.adapter")
    by_peft(base, tmp_path / "a")
    monkeypatch.setattr(adapters, "available_bytes", lambda: 1000)
    with pytest.raises(ConfigError, match=r"adapter .*a must fit the memory"):
        adapters.load_adapter(tmp_path / "a", never)


def test_a_broken_adapter_is_refused_while_a_config_is_made(base, tmp_path):
    by_peft(base, tmp_path / "a")
    pickled(tmp_path / "a")
    with pytest.raises(ConfigError, match=r"^model\.name_or_path: adapter .* a pickle"):
        ModelConfig(name_or_path=str(tmp_path / "a"))


# The base: where it is, what it counts, how it travels


def test_a_base_is_looked_for_beside_the_adapter_then_here(base, tmp_path, monkeypatch):
    by_peft(base, tmp_path / "a")
    rewrite(tmp_path / "a", base_model_name_or_path="../base-model")
    assert base_of(tmp_path / "a")[0].samefile(base)
    rewrite(tmp_path / "a", base_model_name_or_path="base-model")
    monkeypatch.chdir(tmp_path)
    assert base_of(tmp_path / "a")[0].samefile(base)
    rewrite(tmp_path / "a", base_model_name_or_path="owner/model", revision="a" * 40)
    assert base_of(tmp_path / "a") == ("owner/model", "a" * 40)


def test_the_content_of_the_base_is_content_of_the_adapter(adapted, base, tmp_path):
    by_peft(base, tmp_path / "a")
    config = ModelConfig(name_or_path=str(tmp_path / "a"))
    first = hashed_config(config)["name_or_path"]
    weights = load_file(base / "model.safetensors")
    save_file(
        {n: 1.5 * w for n, w in weights.items()}, base / "model.safetensors", {"format": "pt"}
    )
    content_digest.cache_clear()
    assert hashed_config(config)["name_or_path"] != first
    own = adapted(base, tmp_path / "own")  # its base lies within: moved, it is the same
    held = hashed_config(ModelConfig(name_or_path=str(own)))["name_or_path"]
    shutil.move(own, tmp_path / "moved")
    assert hashed_config(ModelConfig(name_or_path=str(tmp_path / "moved")))["name_or_path"] == held


def test_an_artifacts_base_must_lie_in_it(base, tmp_path):
    by_peft(base, tmp_path / "artifact" / "model")
    assert base_of(tmp_path / "artifact" / "model")[0].samefile(base)
    (tmp_path / "artifact" / "manifest.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"its base .* must lie in the artifact itself"):
        base_of(tmp_path / "artifact" / "model")


def test_a_base_is_linked_from_an_artifact_and_copied_from_elsewhere(adapted, base, tmp_path):
    outside = adapted(base, tmp_path / "outside") / "base" / "model.safetensors"
    assert outside.stat().st_nlink == 1  # someone else's folder, which may be written over
    assert outside.read_bytes() == (base / "model.safetensors").read_bytes()
    artifact = tmp_path / "artifacts" / "sft" / "ab12"
    shutil.copytree(base, artifact / "model")
    (artifact / "manifest.json").write_text("{}")
    own = adapted(artifact / "model", tmp_path / "own") / "base" / "model.safetensors"
    assert own.samefile(artifact / "model" / "model.safetensors")
    again = tmp_path / "artifacts" / "dpo" / "cd34"  # and on, from an adapter's own base
    adapted(artifact / "model", again / "model")
    (again / "manifest.json").write_text("{}")
    save_policy(load_policy(again / "model"), tmp_path / "third")
    assert (tmp_path / "third" / "base" / "model.safetensors").samefile(own)


def test_a_base_that_is_an_adapter_is_refused_with_a_command_that_works(
    adapted, base, tmp_path, monkeypatch
):
    below = adapted(base, tmp_path / "below it")
    by_peft(base, tmp_path / "a")
    rewrite(tmp_path / "a", base_model_name_or_path=str(below))
    with pytest.raises(ConfigError, match="must be a whole model and no adapter") as error:
        load_policy(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    assert paste(str(error.value)) == 0
    rewrite(tmp_path / "a", base_model_name_or_path="merged-policy")
    load_policy(tmp_path / "a")


def test_settled_adapters_name_their_base_where_it_will_lie(adapted, base, tmp_path):
    adapted(base, tmp_path / "attempt" / "model")
    rebase_adapters(tmp_path / "attempt", tmp_path / "final")
    os.replace(tmp_path / "attempt", tmp_path / "final")
    named = json.loads((tmp_path / "final" / "model" / SETTINGS).read_text())
    assert Path(named["base_model_name_or_path"]).samefile(tmp_path / "final" / "model" / "base")


# Merging


def paste(text: str) -> int:
    """Run the command that an error suggests."""
    found = re.search(r"plumbrule merge ('[^']*'|\S+) --to ([\w-]+)", text)
    assert found is not None, text
    return verbs.main(shlex.split(found[0])[1:])


def test_messages_that_say_merge_it_first_give_a_command_that_works(
    adapted, base, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    policy = load_policy(adapted(base, tmp_path / "the adapter"))
    expected = probe(policy.model)
    with pytest.raises(ConfigError, match="merge it first") as error:
        prepare_training(policy, AdapterConfig(rank=2), 0, "ppo.adapter")
    assert paste(str(error.value)) == 0
    whole = load_policy("merged-policy")
    prepare_training(whole, AdapterConfig(rank=2), 0, "ppo.adapter")
    torch.testing.assert_close(probe(whole.model), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match=r"--to \(=merged-policy\) must be a new or an empty"):
        paste(str(error.value))
    assert not list(tmp_path.glob(".merged-policy*"))


def published(store: Store, fingerprint: str, model: Path | None, kind: str = "sft") -> None:
    folder = store.folder(kind, fingerprint)
    folder.mkdir(parents=True)
    if model is not None:
        shutil.copytree(model, folder / "model")
    store.publish(Manifest(node=kind, kind=kind, fingerprint=fingerprint, config={}, inputs={}))


def test_a_published_adapter_names_its_base_where_it_lies(adapted, base, tmp_path):
    store = Store(tmp_path / "store")
    published(store, "a1" * 8, adapted(base, tmp_path / "a"))
    folder = store.folder("sft", "a1" * 8) / "model"
    named = json.loads((folder / SETTINGS).read_text())["base_model_name_or_path"]
    assert Path(named).samefile(folder / "base")
    store.verify("sft", "a1" * 8)


def test_merge_takes_an_artifact_a_run_or_a_folder(adapted, base, tmp_path):
    store = Store(tmp_path / "store")
    published(store, "a1" * 8, adapted(base, tmp_path / "a"))
    published(store, "b2" * 8, base)
    published(store, "c3" * 8, None, kind="data")
    run = store.root / "runs" / "mine" / "today"
    run.mkdir(parents=True)
    nodes = {"sft": "sft/" + "a1" * 8, "plain": "sft/" + "b2" * 8}
    record = {
        n: {"kind": "sft", "state": "built", "artifact": f"artifacts/{where}"}
        for n, where in nodes.items()
    }
    (run / "run.json").write_text(json.dumps({"nodes": record, "overrides": [], "state": "done"}))

    def merge(what: str, *more: str) -> int:
        to = str(tmp_path / "to" / re.sub(r"\W", "-", what))
        return verbs.main(["merge", what, "--to", to, "--store", str(store.root), *more])

    (tmp_path / "to").mkdir()
    for what in ("a1a1", "sft/" + "a1" * 8, "today", str(tmp_path / "a")):
        assert merge(what) == 0
    files = {f.read_bytes() for f in (tmp_path / "to").glob("*/model.safetensors")}
    assert len(files) == 1
    with pytest.raises(ArtifactError, match=r"is a whole model already"):
        merge("b2b2")
    with pytest.raises(ArtifactError, match=r"is a whole model already"):
        merge("today", "--node", "plain")
    with pytest.raises(ArtifactError, match=r"\(=data\) must be a policy"):
        merge("c3c3")
    with pytest.raises(ArtifactError, match=r"nothing is called"):
        merge("nothing")


PLAIN = """
import json, sys, torch
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, whole, moved = sys.argv[1:]
auto = AutoModelForCausalLM.from_pretrained
models = {
    "peft auto": AutoPeftModelForCausalLM.from_pretrained(folder),
    "peft": PeftModel.from_pretrained(auto(folder + "/base"), folder),
    "peft, moved": PeftModel.from_pretrained(auto(moved + "/base"), moved),
    "transformers": auto(folder),
    "merged": auto(whole),
}
AutoTokenizer.from_pretrained(whole)
tokens = torch.arange(8)[None]
print(json.dumps({name: m.eval()(tokens).logits.tolist() for name, m in models.items()}))
"""


def test_plain_transformers_and_peft_load_it_from_any_folder(adapted, base, tmp_path):
    folder = adapted(base, tmp_path / "adapter")
    expected = probe(load_policy(folder).model)
    verbs.main(["merge", str(folder), "--to", str(tmp_path / "whole")])
    shutil.copytree(folder, tmp_path / "moved")
    arguments = [str(folder), str(tmp_path / "whole"), str(tmp_path / "moved")]
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, *arguments],
        cwd="/",
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for logits in json.loads(done.stdout.splitlines()[-1]).values():
        torch.testing.assert_close(torch.tensor(logits), expected, rtol=1e-4, atol=1e-4)


def test_the_same_adapter_has_the_same_files(adapted, base, tmp_path):
    adapted(base, tmp_path / "a")
    policy = load_policy(tmp_path / "a")
    shutil.rmtree(tmp_path / "a" / "base")
    before = {f.name: f.read_bytes() for f in (tmp_path / "a").iterdir() if f.is_file()}
    shutil.rmtree(tmp_path / "a")
    policy.model.config.name_or_path = str(base)
    save_policy(make_policy(policy.model, policy.tokenizer, policy.spec.context), tmp_path / "a")
    after = {f.name: f.read_bytes() for f in (tmp_path / "a").iterdir() if f.is_file()}
    assert before == after
    assert adapter_files.is_adapter_folder(tmp_path / "a")
