"""What is wrong with a model is said by the plan, all of it at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from plumbrule.errors import ConfigError
from plumbrule.pipeline.model_checks import check_models
from plumbrule.pipeline.plan import make_plan
from plumbrule.store.artifacts import Store

TOKENIZER = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>"}


def write(folder: Path, **files: object) -> Path:
    """Write a model's folder without what `files` gives as None."""
    whole = {
        "config.json": {"model_type": "gpt2", "n_positions": 256},
        "tokenizer_config.json": {**TOKENIZER, "pad_token": "<pad>"},
        "tokenizer.json": {},
        "model.safetensors": "",
    }
    folder.mkdir()
    for name, content in {**whole, **files}.items():
        if content is not None:
            (folder / name).write_text(json.dumps(content) if content != "" else "")
    return folder


@pytest.fixture
def check(composed: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    monkeypatch.setattr("plumbrule.store.model_files.model_damage", lambda folder: None)

    def build(*overrides: str) -> list[str]:
        _, nodes = composed("run.only=base", *overrides)
        return check_models(make_plan(nodes, Store(tmp_path / "store")))

    return build


def test_a_whole_model_passes_and_a_context_beyond_rotary_codes_is_told(
    check: Callable, tmp_path: Path
) -> None:
    fine = write(tmp_path / "fine")
    assert check(f"model.name_or_path={fine}", "model.context=256") == []
    rotary = {"model_type": "llama", "max_position_embeddings": 64}
    llama = write(tmp_path / "llama", **{"config.json": rotary})
    (told,) = check(f"model.name_or_path={llama}", "model.context=256")
    assert "model.context (=256 tokens) is beyond the 64 positions" in told
    assert check() == []  # the shipped model


def test_all_that_is_wrong_with_a_model_is_one_message(check: Callable, tmp_path: Path) -> None:
    files = {"tokenizer_config.json": TOKENIZER, "model.safetensors": None}
    bad = write(tmp_path / "bad", **files)
    with pytest.raises(ConfigError, match="3 things are wrong with models") as caught:
        check(f"model.name_or_path={bad}", "model.context=512")
    for says in (
        "must hold *.safetensors, but has no weights",
        "has no pad token; add 'model.pad_token=\"<eos>\"'",
        "model.context (=512 tokens) must be at most 256, the learned positions",
    ):
        assert says in str(caught.value)
    with pytest.raises(ConfigError, match="2 things are wrong"):
        check(f"model.name_or_path={bad}", "model.context=512", "model.pad_token=x")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (dict.fromkeys(("config.json", "tokenizer_config.json", "tokenizer.json")), "config.json"),
        (dict.fromkeys(("tokenizer_config.json", "tokenizer.json")), "must hold a tokenizer"),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused(
    check: Callable, tmp_path: Path, files: dict[str, None], says: str
) -> None:
    folder = write(tmp_path / "model", **files)
    with pytest.raises(ConfigError, match=says):
        check(f"model.name_or_path={folder}", "model.context=256")


def test_an_empty_folder_and_a_name_that_is_not_cached_offline_are_refused(
    check: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="is empty; check the path"):
        check(f"model.name_or_path={tmp_path / 'empty'}")
    commit = "0" * 40
    hub = ["model.name_or_path=nobody/nothing", f"model.revision={commit}"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match=f"hf download nobody/nothing --revision {commit}"):
        check(*hub)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    assert check(*hub) == []
