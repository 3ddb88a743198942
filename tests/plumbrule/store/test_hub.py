"""Data sets of the hub: named by commit, hashed by it, downloaded once and whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from plumbrule.data.readers import brings_own_split, read
from plumbrule.errors import ConfigError, DataError
from plumbrule.store import hub
from plumbrule.store.fingerprint import hashed_config
from sft.data.config import DatasetConfig

COMMIT = "0123456789abcdef" * 2 + "01234567"
PATH = f"hf://datasets/owner/posts@{COMMIT}/data"
ROWS = '{"prompt": "Hi", "completion": "Hello."}\n{"prompt": "Ho", "completion": "Hey."}\n'


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub, and a hub whose only repository is owner/posts."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    root = tmp_path / "datasets--owner--posts" / "snapshots" / COMMIT

    def fetch(name: str, *, repo_type: str, revision: str, allow_patterns: str) -> str:
        assert (name, repo_type, revision) == ("owner/posts", "dataset", COMMIT)
        assert allow_patterns == "data/*"
        (root / "data").mkdir(parents=True)
        (root / "data" / "train-00000-of-00001.jsonl").write_text(ROWS)
        (root / "data" / "validation-00000-of-00001.jsonl").write_text(ROWS)
        return str(root)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    return root


def test_a_data_set_is_downloaded_when_it_is_read_and_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert brings_own_split("jsonl", PATH) is None  # nothing is fetched to know it
    assert not cache.exists()
    rows = list(read("jsonl", "demonstrations", PATH))
    assert [row.held_out for row in rows] == [False, False, True, True]
    assert brings_own_split("jsonl", PATH)
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    assert len(list(read("jsonl", "prompts", PATH))) == 4


def test_half_a_download_is_not_taken_for_the_whole(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache / "data").mkdir(parents=True)
    (cache / "data" / "train-00000-of-00001.jsonl").write_text(ROWS)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match=r"can't be downloaded \(HF_HUB_OFFLINE is set\)"):
        list(read("jsonl", "demonstrations", PATH))


def test_it_is_hashed_by_name_and_commit(cache: Path) -> None:
    hashed = hashed_config(DatasetConfig(format="jsonl", path=PATH))
    list(read("jsonl", "demonstrations", PATH))
    assert hashed_config(DatasetConfig(format="jsonl", path=PATH)) == hashed
    other = PATH.replace("0123", "3210", 1)
    assert hashed_config(DatasetConfig(format="jsonl", path=other)) != hashed


@pytest.mark.parametrize(
    "path",
    [
        "hf://owner/posts",
        "hf:posts",
        f"hf://datasets/owner@{COMMIT}",
        f"hf://datasets/owner/posts@{COMMIT}/../other",
        "hf://datasets/owner/posts",
    ],
)
def test_another_form_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match=r"must be hf://datasets/<owner>/<name>@<commit>"):
        DatasetConfig(format="jsonl", path=path)


def test_a_branch_that_was_not_resolved_is_refused() -> None:
    with pytest.raises(ConfigError, match="must name a commit of 40 hex digits"):
        DatasetConfig(format="jsonl", path="hf://datasets/owner/posts@main")


def test_a_path_is_read_into_its_parts() -> None:
    data = hub.hub_data(PATH)
    assert data == ("owner/posts", COMMIT, "data")
    assert str(data) == PATH
    assert str(data._replace(folder="")) == PATH.removesuffix("/data")


def test_offline_no_size_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub.size_on_hub("owner/model", COMMIT) is None
