"""A node's config is the same in the process that builds it as it was planned."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from eval.benchmarks.registry import BENCHMARKS
from plumbrule.pipeline.executors.typed_config import typed_config
from plumbrule.pipeline.experiment import as_json
from sft.data.config import DataConfig, DatasetConfig


def plain(config: object) -> dict:
    return json.loads(json.dumps(as_json(config)))


@pytest.mark.parametrize(
    "experiment", ["quickstart", "rag_or_finetune", "overoptimisation", "search_calls"]
)
def test_every_node_of_an_experiment_comes_out_as_it_was_planned(
    composed: Callable, experiment: str
) -> None:
    _, nodes = composed(f"experiment={experiment}")
    for node in nodes:
        assert typed_config(node.kind, plain(node.config), node.name) == node.config, node.name


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_every_benchmarks_items_do(name: str) -> None:
    config = DataConfig(name, DatasetConfig("jsonl", "rows.jsonl"), items=BENCHMARKS[name].items)
    assert typed_config("data", plain(config), name) == config
