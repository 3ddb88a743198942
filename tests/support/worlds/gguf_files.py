"""GGUF files of tiny Llamas, as llama.cpp's converter writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from worlds import tiny_families, tiny_models

NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def llama() -> PreTrainedModel:
    """Return a tiny Llama with an output layer of its own, whose rows are whole blocks of 32."""
    return tiny_families.model("Llama", intermediate_size=64)


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    *,
    kind: str = "F32",
    architecture: str = "llama",
    without: Sequence[str] = (),
    extra: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Write a GGUF and return its weights, dequantised, by their names in the model.

    Args: kind: of matrices; vectors are F32. without, extra: GGUF names of tensors.
    """
    import gguf

    config, tokenizer = model.config, tiny_models.tokenizer()
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("Tiny")
    writer.add_license("mit")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    writer.add_token_list(words)
    control = set(tokenizer.all_special_tokens)
    writer.add_token_types([3 if word in control else 1 for word in words])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(str(tokenizer.chat_template))
    block = gguf.GGMLQuantizationType[kind]
    held = {}
    for name, weight in model.state_dict().items():
        short, array = _gguf_name(name), weight.float().numpy()
        if short in without:
            continue
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
        rotated = next((n for part, n in heads.items() if f"{part}." in short), None)
        own = block if array.ndim == 2 else gguf.GGMLQuantizationType.F32
        written = _interleaved(array, rotated) if rotated else array
        blocks = gguf.quants.quantize(np.ascontiguousarray(written), own)
        writer.add_tensor(short, blocks, raw_dtype=own)
        back = gguf.quants.dequantize(blocks, own)
        held[name] = _apart(back, rotated) if rotated else back
    for name, array in (extra or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


def _gguf_name(name: str) -> str:
    body, kind = name.rsplit(".", 1)
    if body in OUTER:
        return f"{OUTER[body]}.{kind}"
    _, _, layer, part = body.split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.{kind}"


def _interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Return rows (heads * d, i) so that the two halves of a head's rotary pairs alternate."""
    halves = weight.reshape(heads, 2, len(weight) // heads // 2, -1)
    return halves.swapaxes(1, 2).reshape(weight.shape)


def _apart(weight: np.ndarray, heads: int) -> np.ndarray:
    """Undo `_interleaved`."""
    pairs = weight.reshape(heads, len(weight) // heads // 2, 2, -1)
    return pairs.swapaxes(1, 2).reshape(weight.shape)
