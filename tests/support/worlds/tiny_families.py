"""Tiny random models of many families: what each needs beside the usual sizes."""

from __future__ import annotations

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

from plumbrule.lm.weights import EAGER, caps_scores
from worlds import tiny_models

IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZE = {
    "vocab_size": tiny_models.VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    **IDS,
}
GPT = {"vocab_size": tiny_models.VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, **IDS}
BART = {
    "vocab_size": tiny_models.VOCAB,
    "d_model": 32,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 48,
    "encoder_layers": 1,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "init_std": 0.2,
    **IDS,
}
GROUPED = {**SIZE, "num_key_value_heads": 2}
HEADS = {**GROUPED, "head_dim": 8}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
MLA = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
}
MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8}
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
MIXED = ["linear_attention", "full_attention"]
WINDOW = {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}

FAMILIES = {
    # Every layer attends to all earlier tokens.
    "Llama": GROUPED,
    "Qwen2": GROUPED,
    "Qwen3": HEADS,
    "Olmo": {**SIZE, "clip_qkv": 0.5},
    "Olmo2": SIZE,
    "Mistral v0.3": {**HEADS, "sliding_window": None},
    "Phi": SIZE,
    "Glm4": HEADS,
    "SmolLM3": GROUPED,
    "Gemma": HEADS,
    "Cohere": {**GROUPED, "logit_scale": 0.25},
    "Granite": {**GROUPED, "logits_scaling": 4.0, "residual_multiplier": 0.5},
    "GPT2": {**GPT, "n_positions": 64, "initializer_range": 0.3},
    "GPTNeoX": SIZE,
    "OPT": {**SIZE, "ffn_dim": 48, "init_std": 0.2, "word_embed_proj_dim": 16,
            "do_layer_norm_before": False},
    "MiniCPM3": {**SIZE, **MLA, "dim_model_base": 8},
    "DeepseekV3": {**SIZE, **MLA, **EXPERTS, "n_routed_experts": 4, "n_group": 1, "topk_group": 1,
                   "first_k_dense_replace": 1, "num_key_value_heads": 4},
    "Qwen3Moe": {**HEADS, **EXPERTS, "num_experts": 4},
    # Windows, capped scores, sinks, positions of their own, or no attention interface.
    "Mistral": {**HEADS, "sliding_window": 6},
    "Gemma2": {**HEADS, "sliding_window": 6, "query_pre_attn_scalar": 8,
               "attn_logit_softcapping": 1.0, "final_logit_softcapping": 1.5},
    "Gemma3Text": {**HEADS, **WINDOW},
    "Qwen2 sliding": {**GROUPED, "use_sliding_window": True, **WINDOW},
    "Olmo3": {**SIZE, **WINDOW},
    "Cohere2": {**GROUPED, **WINDOW},
    "GptOss": {**HEADS, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 6},
    "Phi3": {**GROUPED, "sliding_window": None},
    "Nemotron": GROUPED,
    "Bloom": {"vocab_size": tiny_models.VOCAB, "hidden_size": 32, "n_layer": 2, "n_head": 4,
              "initializer_range": 0.2, **IDS},
    "Mpt": {"vocab_size": tiny_models.VOCAB, "d_model": 32, "n_layers": 2, "n_heads": 4,
            "max_seq_len": 64, "initializer_range": 0.2, **IDS},
    "Falcon rotary": {**SIZE, "ffn_hidden_size": 48},
    "Falcon ALiBi": {**SIZE, "ffn_hidden_size": 48, "alibi": True, "parallel_attn": False},
    "Falcon grouped": {**SIZE, "ffn_hidden_size": 48, "new_decoder_architecture": True,
                       "num_kv_heads": 2},
    "GPTJ": {**GPT, "n_positions": 64, "rotary_dim": 4, "initializer_range": 0.3},
    "XGLM": {"vocab_size": tiny_models.VOCAB, "d_model": 32, "ffn_dim": 48, "num_layers": 2,
             "attention_heads": 4, "max_position_embeddings": 64, "init_std": 0.2, **IDS},
    "BioGpt": SIZE,
    # Positions count padding, or there is no cache at all.
    "Bart": BART,
    "OpenAIGPT": {**GPT, "n_positions": 64, "initializer_range": 0.3},
    # A state instead of attention, or beside it.
    "Mamba": {**SIZE, "state_size": 8},
    "Mamba2": {**SIZE, "num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 8,
               "chunk_size": 8},
    "FalconMamba": {**SIZE, "state_size": 8},
    "Rwkv": {"vocab_size": tiny_models.VOCAB, "hidden_size": 32, "attention_hidden_size": 32,
             "num_hidden_layers": 2, "context_length": 64, **IDS},
    "RecurrentGemma": {**SIZE, "lru_width": 32, "attention_window_size": 6,
                       "block_types": ["recurrent", "attention"], "w_init_variance_scale": 1.0},
    "Jamba": {**GROUPED, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2,
              "expert_layer_offset": 1, "num_experts": 4, "mamba_d_state": 8, "mamba_dt_rank": 4,
              "use_mamba_kernels": False},
    "Zamba": {**SIZE, "num_key_value_heads": 4, "num_hidden_layers": 4,
              "layers_block_type": ["mamba", "hybrid"] * 2, "n_mamba_heads": 2,
              "mamba_d_state": 8, "mamba_dt_rank": 4, "use_mamba_kernels": False},
    "Zamba2": {**SIZE, "layers_block_type": ["mamba", "hybrid"], "mamba_ngroups": 1,
               "n_mamba_heads": 8, "mamba_headdim": 8, "mamba_d_state": 8, "chunk_size": 8,
               "num_mem_blocks": 1, "adapter_rank": 4},
    "Bamba": {**GROUPED, **MAMBA2, "attn_layer_indices": [1], "mamba_chunk_size": 8},
    "GraniteMoeHybrid": {**GROUPED, **MAMBA2, "layer_types": ["mamba", "attention"],
                         "num_local_experts": 4, "num_experts_per_tok": 2,
                         "shared_intermediate_size": 32, "mamba_chunk_size": 8},
    "NemotronH": {**HEADS, "layers_block_type": ["mamba", "attention", "mlp"],
                  "num_hidden_layers": 3, "mamba_num_heads": 8, "mamba_head_dim": 8,
                  "n_groups": 1, "ssm_state_size": 8, "chunk_size": 8},
    "FalconH1": {**HEADS, **MAMBA2, "mamba_d_ssm": 64, "mamba_chunk_size": 8,
                 "lm_head_multiplier": 0.5, "embedding_multiplier": 2.0},
    "Qwen3Next": {**HEADS, **EXPERTS, **LINEAR, "num_experts": 4, "layer_types": MIXED,
                  "shared_expert_intermediate_size": 32},
    "OlmoHybrid": {**GROUPED, **LINEAR, "layer_types": MIXED},
    "Lfm2": {**GROUPED, "layer_types": ["conv", "full_attention"]},
    "MiniMax": {**HEADS, "layer_types": MIXED, "num_local_experts": 4, "num_experts_per_tok": 2,
                "block_size": 8},
    # Not to be used.
    "ModernBertDecoder": {**SIZE, "local_attention": 16, "global_attn_every_n_layers": 2},
    "Bert": {**SIZE, "is_decoder": True},
    "Roberta": {**SIZE, "is_decoder": True},
    "CpmAnt": {"vocab_size": tiny_models.VOCAB, "hidden_size": 32, "num_attention_heads": 4,
               "dim_head": 8, "dim_ff": 48, "num_hidden_layers": 2, "prompt_types": 4,
               "prompt_length": 4, "segment_types": 4, **IDS},
}  # fmt: skip
"""Class prefix, and what tells several rows of it apart -> settings. Adding a family is a line."""


def model(family: str, dtype: torch.dtype = torch.float32, **changes: object) -> PreTrainedModel:
    """Return a random model of a family, the same each time."""
    config = getattr(transformers, f"{family.split()[0]}Config")(**{**FAMILIES[family], **changes})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        form = {"attn_implementation": EAGER} if caps_scores(config) else {}
        made = AutoModelForCausalLM.from_config(config, **form).to(dtype)
    return made.eval()
