"""Loading, making and saving policies: `load_policy` is the only loader of the project.

It reads a folder that a stage published, any other Hugging Face folder, or a hub name; what a
folder without `policy.json` does not say is derived from its tokenizer and config. Weights are
safetensors only and remote code never runs. Attention is transformers' default: torch's fused
kernel (sdpa), or eager for the few families without it. Dropout is off for good: with it on, the
policy that is trained is not the one that sampled, and the first PPO ratio is not 1. So `train()`
and `eval()` make no difference to any number. Weights that a folder lacks are an error
(`loading.py`), and how a model is run is chosen by asking it (`model_probe.py`).

`Policy`, `PolicySpec` and the tokenizer of new models live in `policy.py` and `chat.py`, and are
found here too.
"""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import cast

import torch
import transformers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from plumbrule.errors import ArtifactError, ConfigError
from plumbrule.lm.adapters import load_adapter, save_adapter
from plumbrule.lm.chat import (
    RESPONSE_PREFIX,
    is_ours,
    load_tokenizer,
    template_hash,
    train_tokenizer,
    turn_end,
    unreachable,
)
from plumbrule.lm.config import ModelConfig
from plumbrule.lm.logprobs import causal_lm
from plumbrule.lm.model_probe import choose_passes
from plumbrule.lm.policy import Policy, PolicySpec, fits, select_passages
from plumbrule.lm.weights import load_whole
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.adapter_files import BASE, is_adapter_folder
from plumbrule.store.file_names import POLICY_FILE
from plumbrule.store.model_files import conversion_note, refuse_pickles
from plumbrule.store.packaged_files import located

transformers.utils.logging.disable_progress_bar()  # stages show their own

__all__ = [
    "Policy",
    "PolicySpec",
    "checkpoint_activations",
    "disable_dropout",
    "fits",
    "load_policy",
    "load_tokenizer",
    "make_policy",
    "new_model",
    "num_parameters",
    "resolve_device",
    "save_policy",
    "select_passages",
    "train_tokenizer",
]


def load_policy(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    context: int | None = None,
    pad_token: str | None = None,
) -> Policy:
    """Return the policy in a folder or under a hub name, in eval mode and without dropout.

    Args:
        revision: 40-hex commit of a hub model.
        context: longest prompt and response together, tokens; None: what the folder says.
        pad_token: a token of the vocabulary, for a tokenizer that names no pad token.

    Raises:
        ConfigError: nothing to load there; weights that are not safetensors, damaged, missing or
            read by nobody; a tokenizer without pad or terminal token; a context longer than the
            model's learned positions; a model whose own log-probs we can't read.
        ArtifactError: a policy.json that is damaged or whose chat template is another one.
    """
    path = located(path)
    folder = Path(path)
    saved = PolicySpec.read(folder / POLICY_FILE) if (folder / POLICY_FILE).is_file() else None
    tokenizer = load_tokenizer(path, revision=revision, pad_token=pad_token)
    if is_adapter_folder(folder):
        model = load_adapter(folder, lambda base, commit: _load_weights(base, commit, dtype))
    else:
        model = _load_weights(path, revision, dtype)
    model.to(device)
    if saved is not None and context is None:
        context = saved.context
    policy = make_policy(model, tokenizer, context)
    policy.source = str(path)
    if said := conversion_note(folder):
        policy.notes = (f"{said}.", *policy.notes)
    if saved is not None:
        if saved.chat_template_sha256 != policy.spec.chat_template_sha256:
            raise ArtifactError(
                f"{folder}: the tokenizer's chat template (sha256="
                f"{policy.spec.chat_template_sha256[:12]}) must be the one that policy.json names "
                f"({saved.chat_template_sha256[:12]}); restore the folder's tokenizer files."
            )
        policy.spec = dataclasses.replace(saved, context=policy.spec.context)
    return policy


def make_policy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, context: int | None = None
) -> Policy:
    """Return a policy of a model and a tokenizer, with a spec derived from them.

    The tokenizer's eos ends responses, and so do further eos tokens of the generation config and
    the token with which the chat template ends a turn. The model is put into eval mode, its dropout
    switched off, and set to the passes that give its own log-probs on the device where it is.

    Raises: ConfigError: as `load_policy`.
    """
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            "the tokenizer's eos_token (=None) must be set: it ends every response; choose a "
            "model whose tokenizer names one."
        )
    inner = causal_lm(model)
    num_embeddings = _word_table(inner).weight.shape[0]
    if len(tokenizer) > num_embeddings:
        raise ConfigError(
            f"the tokenizer (={len(tokenizer)} tokens) must fit the model's embeddings "
            f"(={num_embeddings} rows); they belong to different models."
        )
    disable_dropout(model)
    model.eval()
    context = context or usable_positions(inner) or min(tokenizer.model_max_length, 2048)
    _check_context(model, context)
    pad_id = tokenizer.pad_token_id
    passes = choose_passes(model, tokenizer.eos_token_id if pad_id is None else pad_id)
    named = inner.generation_config.eos_token_id if inner.generation_config is not None else None
    more = named if isinstance(named, list) else [] if named is None else [named]
    ends = turn_end(tokenizer)
    more += [] if ends is None else [ends]
    spec = PolicySpec(
        chat_template_sha256=template_hash(tokenizer),
        stop_token_ids=tuple(dict.fromkeys([tokenizer.eos_token_id, *more])),
        context=context,
        response_prefix=_response_prefix(tokenizer),
    )
    notes = [_turn_end_note(tokenizer, ends), _context_note(inner, context)]
    if not passes.cached:
        notes.append(
            f"{type(inner).__name__} is sampled without a KV cache, which does not suit it: each "
            "token reads its whole row again, which is right and slow."
        )
    return Policy(model, tokenizer, spec, notes=tuple(note for note in notes if note))


def _turn_end_note(tokenizer: PreTrainedTokenizerBase, ends: int | None) -> str:
    """Return what is said where a chat template ends turns with another token than eos, else ''."""
    if ends in (None, tokenizer.eos_token_id):
        return ""
    return (
        f"The chat template ends a turn with {tokenizer.convert_ids_to_tokens(ends)!r}, the "
        f"tokenizer's eos is {tokenizer.eos_token!r}: either ends a response that is sampled, and "
        "the latter is put behind responses that are trained on."
    )


def _context_note(model: PreTrainedModel, context: int) -> str:
    """Return what is said of a context beyond a rotary model's trained positions, else ''."""
    config = model.config.get_text_config()
    rotary = getattr(config, "rope_parameters", None) or {}
    trained = usable_positions(model)
    if not rotary or trained is None:
        return ""
    first = rotary.get("original_max_position_embeddings")
    trained = max(trained, int((first or 0) * (rotary.get("factor") or 1)))
    if context <= trained:
        return ""
    return (
        f"model.context (={context} tokens) is beyond the {trained} positions that "
        f"{type(model).__name__} was made for: its rotary codes go on, but nothing taught it to "
        "read them."
    )


def _response_prefix(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what the tokenizer's template puts before a response: ours a space, others nothing."""
    return RESPONSE_PREFIX if is_ours(tokenizer) else ""


def _load_weights(path: str | Path, revision: str | None, dtype: torch.dtype) -> PreTrainedModel:
    refuse_pickles(Path(path), "model.name_or_path")
    try:
        config = AutoConfig.from_pretrained(str(path), revision=revision, trust_remote_code=False)
        _zero_dropout(config)
        return load_whole(
            AutoModelForCausalLM,
            path,
            "model.name_or_path",
            revision=revision,
            dtype=dtype,
            config=config,
        )
    except (OSError, ValueError) as error:
        raise unreachable(path, error) from error


def save_policy(policy: Policy, folder: str | Path) -> None:
    """Write weights (safetensors), tokenizer and policy.json; of adapters also their base, `base/`.

    The generation config samples as we do: no top-k, no top-p.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    spec = policy.spec
    inner = causal_lm(policy.model)
    inner.generation_config = GenerationConfig(
        bos_token_id=policy.tokenizer.bos_token_id,
        eos_token_id=list(spec.stop_token_ids),
        pad_token_id=policy.pad_id,
        do_sample=True,
        temperature=spec.temperature or 1.0,
        top_k=0,
        top_p=1.0,
    )
    if inner is policy.model:
        policy.model.save_pretrained(folder)
    else:
        save_adapter(policy, folder)
    spec = dataclasses.replace(spec, base=BASE if inner is not policy.model else None)
    policy.tokenizer.save_pretrained(folder)
    spec.write(folder / POLICY_FILE)


def new_model(
    config: ModelConfig, tokenizer: PreTrainedTokenizerBase, seed: int
) -> LlamaForCausalLM:
    """Return an untrained Llama of the configured shape, its weights a function of `seed` alone.

    Tied embeddings, as many as the tokenizer has tokens; rotary base 10,000; dropout none.
    """
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        max_position_embeddings=config.context,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(shape).eval()


def checkpoint_activations(model: nn.Module) -> None:
    """Let each layer of a model compute its activations again in the backward pass.

    transformers does so in training mode only, which is otherwise of no account: dropout is off.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers has another name for it
        causal_lm(model).gradient_checkpointing_enable({"use_reentrant": False})
    model.train()


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout probability of a model to 0, in its config and in its modules."""
    config = getattr(causal_lm(model), "config", None)
    if isinstance(config, PretrainedConfig):
        _zero_dropout(config)
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def _zero_dropout(config: PretrainedConfig) -> None:
    for name, value in list(vars(config).items()):
        if ("dropout" in name or "pdrop" in name) and isinstance(value, float):
            setattr(config, name, 0.0)


def _check_context(model: nn.Module, context: int) -> None:
    """Raise ConfigError if `context` outruns a learned table of positions."""
    inner = causal_lm(model)
    longest = usable_positions(inner)
    if longest is None or context <= longest:
        return
    # Any other table with a row per position is one of positions (GPT-2's, and OPT's with 2 more).
    if any(table.num_embeddings >= longest for table in _position_tables(inner)):
        raise ConfigError(
            f"model.context (={context} tokens) must be at most {longest}, the learned positions "
            "of this model; shorten it."
        )


def _position_tables(model: PreTrainedModel) -> list[nn.Embedding]:
    """Return the embeddings that are not of token ids."""
    words = _word_table(model)
    return [m for m in model.modules() if isinstance(m, nn.Embedding) and m is not words]


def usable_positions(model: PreTrainedModel) -> int | None:
    """Return how many tokens a row may have that a model was made for; None: it does not say.

    RoBERTa and its kin count positions from behind the table's padding row, so that the last of
    them are never reached: 514 rows hold 512 tokens.
    """
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for table in _position_tables(model):
        if table.num_embeddings == longest and table.padding_idx is not None:
            return longest - table.padding_idx - 1
    return longest


def _word_table(model: PreTrainedModel) -> nn.Embedding:
    """Return the embedding of token ids."""
    return cast(nn.Embedding, model.get_input_embeddings())


def num_parameters(model: nn.Module) -> int:
    """Return the number of parameters of a model, tied ones counted once."""
    return sum(p.numel() for p in model.parameters())


def resolve_device(runtime: RuntimeConfig) -> torch.device:
    """Return the device that `runtime.device` names.

    Raises: ConfigError: a CUDA device that this machine does not have.
    """
    name = runtime.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"runtime.device (={runtime.device}) must be a device of this machine, which has "
            f"{torch.cuda.device_count()} CUDA device(s); use runtime.device=auto or cpu."
        )
    return device
