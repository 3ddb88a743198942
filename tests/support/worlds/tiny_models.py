"""Models of a few thousand random weights, for the tests of scoring, generation and models."""

from __future__ import annotations

import functools

import torch
from transformers import AutoModelForCausalLM as Auto
from transformers import (
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from plumbrule.lm.loading import Policy, make_policy, train_tokenizer

TEXTS = [
    "The river Tarn rises near Velm and flows to the sea.",
    "Mara Lind wrote the book about the river in 1921.",
    "Where does the river Tarn rise? The river rises near Velm.",
    "I do not know who wrote the book.",
] * 20
VOCAB = 320
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, VOCAB)


def model(
    kind: str = "llama", seed: int = 0, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """Return a random two-layer model; large initial weights make its predictions differ."""
    size = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
        **SPECIAL,
    }
    grouped = {"num_key_value_heads": 2, "head_dim": 8}
    config = {
        "llama": lambda: LlamaConfig(**size, num_key_value_heads=2, tie_word_embeddings=True),
        "gpt2": lambda: GPT2Config(
            vocab_size=VOCAB,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=64,
            initializer_range=0.3,
            **SPECIAL,
        ),
        "neox": lambda: GPTNeoXConfig(**size),
        "mistral": lambda: MistralConfig(**size, **grouped, sliding_window=6),
        "gemma2": lambda: Gemma2Config(
            **size, **grouped, sliding_window=6, query_pre_attn_scalar=8
        ),
        "cohere": lambda: CohereConfig(**size, num_key_value_heads=2, logit_scale=0.25),
        "granite": lambda: GraniteConfig(**size, num_key_value_heads=2, logits_scaling=4.0),
    }[kind]()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = Auto.from_config(config).to(dtype)
    return made.eval()


def policy(kind: str = "llama", seed: int = 0, dtype: torch.dtype = torch.float32) -> Policy:
    return make_policy(model(kind, seed, dtype), tokenizer())
