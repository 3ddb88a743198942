"""Sizes of models from files and from conf/model, and the memory that a plan reckons from them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from omegaconf import OmegaConf
from worlds.ppo import tokenizer

from plumbrule.cli.composition import CONF
from plumbrule.lm.config import ModelConfig, ShapeConfig
from plumbrule.lm.loading import checkpoint_activations, make_policy
from plumbrule.lm.logprobs import logprobs
from plumbrule.lm.sizes.memory_plan import BatchShape, kept_bytes, ppo_memory, training_memory
from plumbrule.lm.sizes.shapes import Shape, shape_in, shape_of
from plumbrule.store.packaged_files import located
from rlhf.ppo.measures.memory import _kept
from rlhf.ppo.rollout.evaluation import compute_precision

FAMILIES = {
    "gpt2": transformers.GPT2Config,
    "pythia": transformers.GPTNeoXConfig,
    "smollm2": transformers.LlamaConfig,
    "llama3": transformers.LlamaConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
    "olmo2": transformers.Olmo2Config,
    "gemma3": transformers.Gemma3TextConfig,
}
UNTIED = ("pythia", "olmo2")
FACTOR = 1.6
"""Between the formula and what autograd keeps, of small models of six families."""
HUB = sorted(
    path.stem
    for path in (CONF / "model").glob("*.yaml")
    if OmegaConf.load(path).get("shape") is not None
)


@pytest.mark.parametrize("name", HUB)
def test_the_sizes_in_a_models_file_make_its_number_of_parameters(name: str) -> None:
    """Given to transformers' class of its family, they make as many weights as the file says."""
    told = ShapeConfig(**OmegaConf.load(CONF / "model" / f"{name}.yaml").shape)
    family = name.split("_")[0]
    sizes = {
        "hidden_size": told.hidden_size,
        "num_hidden_layers": told.layers,
        "num_attention_heads": told.heads,
        "vocab_size": told.vocab_size,
        "tie_word_embeddings": family not in UNTIED,
    }
    if family != "gpt2":
        sizes["intermediate_size"] = told.intermediate_size
    if family not in ("gpt2", "pythia"):
        sizes |= {"num_key_value_heads": told.kv_heads}
    if family in ("qwen3", "gemma3", "llama3"):
        sizes |= {"head_dim": told.head_size}
    else:
        assert told.head_size == told.hidden_size // told.heads
    config = FAMILIES[family](**sizes)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    assert sum(p.numel() for p in model.parameters()) == told.parameters


def test_a_folder_is_counted_by_its_own_files() -> None:
    from plumbrule.lm.loading import load_policy

    folder = Path(located("plumbrule/atlas-base"))
    shape = shape_in(folder)
    assert shape is not None
    model = load_policy(folder).model
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert (shape.layers, shape.hidden_size, shape.heads) == (4, 192, 4)


def test_a_folder_without_weights_or_with_damaged_ones_tells_nothing(tmp_path: Path) -> None:
    assert shape_in(tmp_path) is None
    (tmp_path / "config.json").write_text('{"num_hidden_layers": 2, "hidden_size": 8}')
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 8)
    assert shape_in(tmp_path) is None
    (tmp_path / "config.json").write_text("[")
    assert shape_in(tmp_path) is None


def test_a_model_from_scratch_is_counted_as_the_base_stage_makes_it() -> None:
    shape = shape_of(ModelConfig(), None)
    assert shape is not None
    config = transformers.LlamaConfig(
        vocab_size=2048,
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=352,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    assert shape.parameters == sum(p.numel() for p in model.parameters())


def small(family: str) -> tuple[transformers.PretrainedConfig, Shape]:
    """A model of a family, 192 wide and 4 layers deep, and its sizes."""
    tokens = {"vocab_size": 64, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
    if family == "gpt2":
        config = FAMILIES[family](n_embd=192, n_layer=4, n_head=6, n_positions=256, **tokens)
        return config, Shape(1, 4, 192, 768, 6, 6, 32, 64, gated=False)
    widened = 768 if family in ("pythia", "olmo2") else 576
    sizes = {"hidden_size": 192, "num_hidden_layers": 4, "intermediate_size": widened}
    heads = {"num_attention_heads": 6, "max_position_embeddings": 256}
    keys = 6
    if family not in ("pythia", "olmo2"):
        keys, heads["num_key_value_heads"] = 2, 2
    config = FAMILIES[family](**sizes, **heads, **tokens)
    size = getattr(config, "head_dim", None) or 32
    return config, Shape(1, 4, 192, widened, 6, keys, size, 64, gated=family != "pythia")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["gpt2", "pythia", "llama3", "qwen3", "olmo2", "gemma3"])
def test_the_formula_is_near_what_autograd_keeps(family: str, precision: str) -> None:
    config, shape = small(family)
    torch.manual_seed(0)
    policy = make_policy(transformers.AutoModelForCausalLM.from_config(config), tokenizer())
    tokens = torch.randint(2, 16, (8, 64))
    real = torch.ones_like(tokens, dtype=torch.bool)
    targets = real.clone()
    targets[:, :40] = False

    def measured() -> float:
        policy.model.train()
        with compute_precision(precision, torch.device("cpu")):
            kept = _kept(
                lambda: logprobs(policy.model, tokens, real, targets).logprobs.sum(), policy.model
            )
        return kept / tokens.numel()

    whole = measured()
    assert whole / FACTOR < kept_bytes(shape, precision, False) < FACTOR * whole
    checkpoint_activations(policy.model)
    one_layer = whole / 4
    few = measured()
    assert few < kept_bytes(shape, precision, True) < FACTOR * (few + one_layer)


LLAMA = Shape(1_000_000, 4, 64, 128, 4, 2, 16, 256)


def test_weights_of_training_by_hand() -> None:
    """Weight, gradient and two moments: 16 bytes; with bfloat16 2 more; adapters: 4 and theirs."""
    rows = BatchShape(1, 1)
    assert training_memory(LLAMA, rows, "float32").weights == 16e6
    assert training_memory(LLAMA, rows, "bfloat16").weights == 18e6
    # a layer: 2 (64 + 64) + 2 (64 + 32) of attention, 3 (64 + 128) of the rest, for each rank
    adapters = 2 * 4 * (256 + 192 + 576)
    assert LLAMA.adapter_parameters(2) == adapters
    assert training_memory(LLAMA, rows, "float32", rank=2).weights == 4e6 + 16 * adapters


def test_weights_of_ppo_by_hand() -> None:
    rows = BatchShape(1, 1)

    def weights(**changes: object) -> float:
        return ppo_memory(LLAMA, rows, rows, "float32", **changes).weights

    assert weights() == 16e6 + 4e6 + 16e6 + 4e6  # policy, reference, value model, reward model
    assert weights(value_trunk="policy") == 24e6
    assert weights(value_trunk="", num_reward_models=3) == 16e6 + 4e6 + 12e6
    assert weights(averaged=True) == 44e6
    assert weights(processes=4) == 36e6 / 4 + 4e6
    # one layer of four: a quarter learns, is copied for the reference and for the value model
    assert weights(unfrozen_layers=1, value_trunk="branch") == 4e6 + 3e6 + 1e6 + 4e6 + 4e6
    adapters = LLAMA.adapter_parameters(1)
    assert weights(rank=1, value_trunk="policy") == 4e6 + 16 * adapters + 4e6


def test_the_larger_of_sampling_and_learning_counts() -> None:
    few, many = BatchShape(1, 8), BatchShape(4096, 64)
    learning = ppo_memory(LLAMA, many, few, "float32").work
    sampling = ppo_memory(LLAMA, few, many, "float32").work
    assert sampling == 4096 * 64 * 2 * 4 * 32 * 4
    assert learning > sampling
