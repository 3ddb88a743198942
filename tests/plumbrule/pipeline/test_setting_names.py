"""Unknown settings are refused wherever they come from, and the one that was meant is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from plumbrule.cli.composition import CONF, VERSION_BASE, register
from plumbrule.errors import ConfigError
from plumbrule.pipeline.compose import from_hydra
from plumbrule.pipeline.experiment import RunConfig
from plumbrule.pipeline.setting_names import SYNONYMS, meant, settings_of

KNOWN = settings_of(RunConfig)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["+sft.batchsize=4"], "sft.batchsize must be a known key; did you mean sft.batch_size?"),
        (["++ppo.learningrate=1"], "did you mean ppo.learning_rate?"),
        (["+ppo.lr=1"], "did you mean ppo.learning_rate?"),
        (["+nodes.ppo.set={kl: {cof: 1}}"], "nodes.ppo.set.kl.cof must be a known key"),
        (["+nodes.rm.set={lr: 1}"], "did you mean nodes.rm.set.learning_rate?"),
        (["+nodes.ppo.each={kl.cof: [1]}"], "nodes.ppo.each.kl.cof must be a known key"),
        (["+sft.lr=1", "+rm.epochs=2"], "2 keys must be known ones: sft.lr"),
        (["+mine=1"], "mine must be a known key"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(
    composed: Callable, overrides: list[str], says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        composed(*overrides)
    assert says in str(caught.value)


def test_a_file_of_ones_own_is_read_as_strictly(tmp_path: Path) -> None:
    """Through `--config-dir`, which is a search path of Hydra's."""
    (tmp_path / "experiment").mkdir()
    file = tmp_path / "experiment" / "mine.yaml"
    text = "# @package _global_\nsft: {batch_size: 4}\nnodes: {sft: {set: {batchsize: 4}}}\n"

    def build() -> object:
        register()
        GlobalHydra.instance().clear()
        path = f"hydra.searchpath=[file://{tmp_path}]"
        with initialize_config_dir(str(CONF), **VERSION_BASE):
            return from_hydra(compose("config", overrides=["experiment=mine", path]))[0]

    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"nodes\.sft\.set\.batchsize.*set\.batch_size"):
        build()
    file.write_text(text.replace("batchsize", "seed"), encoding="utf-8")
    config = build()
    assert isinstance(config, RunConfig)
    assert config.sft.batch_size == 4


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ("ppo.lr", "ppo.learning_rate"),
        ("ppo.kl_coef", "ppo.kl.coef"),
        ("ppo.num_epochs", "ppo.num_ppo_epochs"),
        ("sft.num_epochs", "sft.num_train_epochs"),
        ("ppo.per_device_train_batch_size", "runtime.micro_batch_size"),
        ("ppo.response_length", "ppo.sampling.max_new_tokens"),
        ("ppo.temperature", "ppo.sampling.temperature"),
        ("rm.lora_r", "rm.adapter.rank"),
        ("ppo.gae_lambda", "ppo.lam"),
        ("ppo.clip_range", "ppo.cliprange"),
        ("reward_model_path", "nodes.ppo.inputs.rm"),
        ("ppo.kl.coeff", "ppo.kl.coef"),
        ("ppo.coef", "ppo.kl.coef"),
        ("sft.batchsize", "sft.batch_size"),
        ("PPO.Learning_Rate", "ppo.learning_rate"),
    ],
)
def test_the_fields_names_and_slips_lead_to_ours(given: str, ours: str) -> None:
    assert meant(given, [*KNOWN, "nodes.ppo.inputs.rm"])[0] == ours


def test_every_synonym_leads_to_a_setting() -> None:
    inputs = {"nodes.ppo.inputs.policy", "nodes.ppo.inputs.rm"}
    for word, tails in SYNONYMS.items():
        for tail in tails:
            ends = any(name == tail or name.endswith(f".{tail}") for name in KNOWN)
            assert ends or tail in inputs, f"{word} -> {tail}"
