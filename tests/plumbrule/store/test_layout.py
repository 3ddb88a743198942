"""The store's layout, seen from an artifact's folder and from the store."""

from __future__ import annotations

from pathlib import Path

from plumbrule.store.artifacts import Store
from plumbrule.store.layout import artifact_folder, artifacts_of, store_of, store_root
from plumbrule.store.manifests import Manifest


def test_the_root_is_the_one_given_or_the_variables_or_the_working_directory(
    monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PLUMBRULE_STORE", "named")
    assert store_root("given") == "given"
    assert store_root() == "named"
    monkeypatch.delenv("PLUMBRULE_STORE")
    monkeypatch.chdir(tmp_path)
    assert store_root() == str(tmp_path)


def test_an_attempt_lies_in_the_store_of_its_artifact(tmp_path: Path) -> None:
    folder = artifact_folder(tmp_path, "sft", "abc")
    attempt = folder.with_name("abc.build") / "attempt-1"
    assert (store_of(folder), artifacts_of(folder)) == (tmp_path, tmp_path / "artifacts")
    assert store_of(attempt) == tmp_path


def test_an_artifact_is_found_by_its_fingerprint_whatever_its_kind(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = artifact_folder(store.root, "rm", "abc")
    folder.mkdir(parents=True)
    assert store.find("abc") is None  # not published yet
    store.publish(Manifest("rm", "rm", "abc", {}, {}))
    assert store.find("abc") == folder
    assert store.find("def") is None
