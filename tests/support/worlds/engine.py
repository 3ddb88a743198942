"""A policy that vLLM's kernels take (heads of 32), and the engine's Python where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from plumbrule.errors import ConfigError
from plumbrule.lm.loading import Policy, make_policy
from plumbrule.machine.vllm_environment import vllm_python
from plumbrule.runtime_config import RuntimeConfig
from worlds import ppo as world

WIDTH, HEADS = 64, 2


def engine_python() -> Path:
    """Return the Python of vLLM's environment; skip the test where there is none."""
    try:
        return vllm_python(RuntimeConfig())
    except ConfigError as error:
        pytest.skip(str(error))


def policy(seed: int = 0, spread: float = 0.3, tied: bool = True, heads: int = HEADS) -> Policy:
    """A tiny Llama over the words of `worlds.ppo`; `spread` makes tokens less alike."""
    torch.manual_seed(seed)
    shape = LlamaConfig(
        vocab_size=len(world.TOKENS),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        max_position_embeddings=64,
        initializer_range=spread,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        attn_implementation="sdpa",
    )
    return make_policy(LlamaForCausalLM(shape), world.tokenizer())


def prompts(number: int) -> list[list[int]]:
    """Rows of 2 to 9 words."""
    return [[4 + (i * k) % 12 for k in range(1, 3 + i % 8)] for i in range(number)]
