"""The inputs of a stage: families of slots, variations, and what they are opened as."""

from __future__ import annotations

from pathlib import Path

import pytest
from worlds.articles import build

from plumbrule.inputs import Inputs
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.store.input_names import is_of_slot
from rag import retriever


def inputs(*names: str) -> Inputs:
    return Inputs({name: Artifact.of(Path(name), "any") for name in names})


def test_inputs_are_a_mapping() -> None:
    given = inputs("policy", "rm")
    assert given["policy"].path == Path("policy")
    assert given.get("index") is None
    assert ("rm" in given, list(given), len(given)) == (True, ["policy", "rm"], 2)
    with pytest.raises(KeyError):
        given["index"]


def test_a_slot_that_takes_many_has_numbered_and_named_ones_and_no_neighbours() -> None:
    given = inputs("rm_warm", "rm_1", "policy", "rmx", "rm", "reward")
    assert list(given.many("rm")) == ["rm", "rm_1", "rm_warm"]
    assert given.many("ood") == {}
    assert not is_of_slot("rmx", "rm")


def test_numbered_inputs_are_sorted_by_their_number() -> None:
    names = ["rm", *(f"rm_{i}" for i in range(1, 12)), "rm_1_warm", "rm_warm"]
    assert list(inputs(*sorted(names)).many("rm")) == [
        *("rm", "rm_1", "rm_1_warm"),
        *(f"rm_{i}" for i in range(2, 12)),
        "rm_warm",
    ]


def test_variations_keep_the_order_of_the_config_and_know_their_settings() -> None:
    given = inputs("run_b@seed=1@kl.coef=0.1", "run@x=a=b", "run_b", "policy@seed=1")
    first, bare, last = given.variations("run")
    assert (first.name, first.seed, first.label) == ("b", "1", "b kl.coef=0.1")
    assert (bare.name, bare.variation) == ("", {"x": "a=b"})
    assert (last.name, last.variation) == ("b", {})


def test_a_slot_without_an_input_opens_as_nothing() -> None:
    given, runtime = inputs("policy"), RuntimeConfig(device="cpu")
    assert given.retriever("index", "bm25", runtime) is None
    assert given.scorer("rm", runtime) is None


def test_the_encoder_of_an_index_computes_on_the_device_of_the_runtime(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    devices = []
    load = retriever.load_encoder

    def loaded(kind, folder, device, precision):
        devices.append(device)
        return load(kind, folder, "cpu", precision)

    monkeypatch.setattr(retriever, "load_encoder", loaded)
    given = Inputs({"index": build(tmp_path)})
    found = given.retriever("index", "dense", RuntimeConfig(device="cuda:1"))
    assert found is not None
    assert found.search(["Where was Ada Quill born?"], 1)[0][0].document == "doc-0"
    assert devices[-1] == "cuda:1"
