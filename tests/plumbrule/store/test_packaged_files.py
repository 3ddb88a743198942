"""The shipped base model: found by name, whole, small, and honest about where it came from."""

import json

import pytest

from plumbrule.atlas.config import AtlasConfig
from plumbrule.errors import ConfigError
from plumbrule.lm.config import ModelConfig
from plumbrule.store import packaged_files as shipped
from plumbrule.store.fingerprint import hashed_config
from plumbrule.store.packaged_files import SHIPPED, located, shipped_world

NAME = "plumbrule/atlas-base"


def test_a_name_stands_for_the_folder_and_other_names_for_themselves():
    assert located(NAME) == SHIPPED[NAME] / "model"
    assert located("gpt2") == "gpt2"
    assert located("/some/folder") == "/some/folder"


def test_it_is_hashed_by_its_content(tmp_path, monkeypatch):
    def digest(folder, weights, manifest):
        (tmp_path / folder / "model").mkdir(parents=True)
        (tmp_path / folder / "model" / "weights").write_text(weights)
        (tmp_path / folder / "manifest.json").write_text(manifest)
        monkeypatch.setitem(shipped.SHIPPED, NAME, tmp_path / folder)
        return hashed_config(ModelConfig(name_or_path=NAME))

    first = digest("first", "one", "{}")
    assert digest("reworded", "one", "a better word") == first  # bookkeeping changes no number
    assert digest("trained", "two", "{}") != first


def test_it_was_taught_the_default_world():
    taught, world = shipped_world(NAME), AtlasConfig()
    assert taught == {name: getattr(world, name) for name in taught}
    assert set(taught) == {"seed", "num_known", "num_after", "phrasings", "sentiment_gap"}
    assert shipped_world(str(SHIPPED[NAME] / "model")) == taught
    assert shipped_world("gpt2") == {}


def test_a_missing_or_damaged_one_is_named(tmp_path, monkeypatch):
    folder = tmp_path / "base"
    monkeypatch.setitem(shipped.SHIPPED, NAME, folder)
    with pytest.raises(ConfigError, match=r"must be in .*restore it, or rebuild it"):
        ModelConfig(name_or_path=NAME)
    (folder / "model").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"manifest\.json must say in which world"):
        shipped_world(NAME)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"manifest\.json must say in which world"):
        shipped_world(NAME)


def test_its_files_are_small_and_its_manifest_tells_how_it_was_made():
    folder = SHIPPED[NAME]
    assert (folder / "model" / "model.safetensors").stat().st_size <= 10_000_000
    assert not list(folder.rglob("*.bin")) + list(folder.rglob("*.pt"))
    manifest = json.loads((folder / "manifest.json").read_text())
    for key in ("config", "corpus", "metrics", "exam", "versions", "hardware", "wall_seconds"):
        assert manifest[key], key
    assert "base/read_accuracy" in manifest["metrics"]
    config = json.loads((folder / "model" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    curve = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    assert len(curve) > 10
