"""What tests of several packages share."""

from __future__ import annotations

import gc
import os

import plumbrule.machine.openmp  # noqa: F401  before torch is  # isort: skip

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig
from quick_compose import quickly_composed

from plumbrule.cli.composition import composed_config
from plumbrule.machine import garbage
from plumbrule.pipeline.compose import Composed, compose_run
from plumbrule.pipeline.experiment import RunConfig
from plumbrule.pipeline.graph import Node

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
LONG_FILES = (
    "plumbrule/cli/test_main.py",
    "plumbrule/pipeline/test_experiment.py",
    "plumbrule/pipeline/executors/test_executors.py",
    "plumbrule/cli/test_sweeps.py",
    "rlhf/dpo/test_stage.py",
    "test_docs.py",
    "rlhf/ppo/test_shared_trunk.py",
    "plumbrule/lm/test_adapters.py",
    "rlhf/ppo/test_resume.py",
    "rlhf/ppo/test_processes.py",
    "sft/fine_tune/test_stage.py",
    "plumbrule/pipeline/planning/test_recipes.py",
    "test_add_a_stage.py",
    "test_settings_are_read.py",
    "rag/store/test_live.py",
    "rag/test_access.py",
    "rag/search/test_refine_settings.py",
)
"""The longest files. Workers take a file each in turn, so these go first."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the files, and leave out tests that start vLLM unless marks are asked for by name."""
    tests = Path(__file__).parent
    first = {tests / name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: first.get(item.path, len(first)))
    if "vllm" in config.getoption("-m"):
        return
    left_out = [item for item in items if item.get_closest_marker("vllm")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_collection_finish() -> None:
    """Let the garbage collector leave out what was imported, and look through the rest less often.

    A tenth of what tests take, and in those that compose configs more.
    """
    gc.collect()
    garbage.collect_seldom()


@pytest.fixture
def compose_whole() -> Callable[..., Composed]:
    """Compose overrides as the command line does: config, nodes, goals and what is left out."""

    def build(*overrides: str) -> Composed:
        return compose_run(quickly_composed(overrides))

    return build


@pytest.fixture
def composed(compose_whole: Callable[..., Composed]) -> Callable[..., tuple[RunConfig, list[Node]]]:
    """Compose overrides to the config and its nodes, without running anything."""
    return lambda *overrides: compose_whole(*overrides)[:2]


@pytest.fixture
def converted_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put something where each packaged model lies once it is converted, so that it composes."""
    from plumbrule.store import packaged_models

    monkeypatch.setenv(packaged_models.VARIABLE, str(tmp_path / "models"))
    for name in packaged_models.PACKAGED:
        folder = packaged_models.converted_folder(name)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    return tmp_path / "models"


@pytest.fixture
def adapted() -> Callable[[Path, Path], Path]:
    """Write the model in a folder with a low-rank adapter that changes what it says."""

    def build(model: Path, folder: Path) -> Path:
        import torch

        from plumbrule.lm.adapters import with_adapter
        from plumbrule.lm.config import AdapterConfig
        from plumbrule.lm.loading import load_policy, save_policy

        policy = with_adapter(load_policy(model), AdapterConfig(rank=2), 0, "adapter")
        draw = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, weight in policy.model.named_parameters():
                if "lora_B" in name:
                    weight.copy_(0.05 * torch.randn(weight.shape, generator=draw))
        save_policy(policy, folder)
        return folder

    return build


@pytest.fixture(scope="session")
def default() -> DictConfig:
    """The default composition."""
    return composed_config(())
