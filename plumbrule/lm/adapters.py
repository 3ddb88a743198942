"""Low-rank adapters on a policy (Hu et al. 2021, arXiv:2106.09685), whichever stage trains them.

A policy may come with an adapter already. Every stage that trains starts from it through
`prepare_training`: it trains that adapter on, or merges it into the weights first, as
`<stage>.adapter.inherited` says. Stages that only read a policy take it as it is.

Saved, an adapter brings its base along, in `base/`. A link to another folder would be smaller, but
holds only until that folder is moved, trained over or removed; and in a store a hard link is a copy
that takes no disk space. What the files must be is checked in `plumbrule/store/adapter_files.py`,
before weights are read.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from plumbrule.errors import ConfigError
from plumbrule.lm.chat import unreachable
from plumbrule.lm.config import AdapterConfig
from plumbrule.lm.logprobs import causal_lm, hidden_states, output_embeddings, output_logits
from plumbrule.lm.policy import Policy
from plumbrule.store.adapter_files import (
    ADAPTER_WEIGHTS,
    BASE,
    AdapterFiles,
    available_bytes,
    base_of,
    copy_base,
    merge_command,
    name_base,
    read_adapter,
)

if TYPE_CHECKING:
    from peft import PeftModel

PROBE_TOKENS = 8
"""Of the row on which a merged model is compared with its adapter."""


def has_adapter(policy: Policy) -> bool:
    """Return whether the policy is an adapter on a base, and not a whole model."""
    return causal_lm(policy.model) is not policy.model


def prepare_training(policy: Policy, config: AdapterConfig, seed: int, setting: str) -> Policy:
    """Return the policy with what is trained of it set free; it answers as before.

    That is its adapter, where it has one that is to be trained on; a fresh adapter, for a rank
    above 0; else all of its weights.

    Args: setting: name of `config`, for errors: `ppo.adapter`.
    Raises: ConfigError: no layer of a name that `config` gives; a fresh adapter on another, or of a
        rank that does not fit the memory; one that can't be merged.
    """
    policy = as_inherited(policy, config)
    if has_adapter(policy):
        if config.rank:
            raise ConfigError(
                f"{setting}.rank (={config.rank}) must be 0 to train the adapter on that the "
                f"policy has; for a fresh one set {setting}.inherited=merge, or merge it first: "
                f"{merge_command(policy.source or 'POLICY')}."
            )
        cast("PeftModel", policy.model).set_adapter("default")
        return policy
    return with_adapter(policy, config, seed, setting) if config.rank else policy


def as_inherited(policy: Policy, config: AdapterConfig) -> Policy:
    """Return the policy, its adapter merged into its weights if `config` says so."""
    return merged(policy) if config.inherited == "merge" else policy


def with_adapter(policy: Policy, config: AdapterConfig, seed: int, setting: str) -> Policy:
    """Return a whole model's policy with fresh adapters, its own weights frozen.

    Args: setting: name of `config`, for errors: `ppo.adapter`.
    Raises: ConfigError: no layer of that name, or a rank that does not fit the memory.
    """
    from peft import LoraConfig, get_peft_model

    check_targets(policy.model, config.targets, setting)
    check_memory(policy.model, config, setting)
    settings = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=0.0,
        target_modules=config.targets[0] if config.targets == ["all-linear"] else config.targets,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        model = get_peft_model(policy.model, settings)
    return dataclasses.replace(policy, model=cast(PreTrainedModel, model))


def merged(policy: Policy) -> Policy:
    """Return the policy as a whole model; one without an adapter as it is.

    The model is changed in place.
    Raises: ConfigError: the merged model would not compute what the adapter does, as where the
        output layer has an adapter and is tied to the embedding.
    """
    if not has_adapter(policy):
        return policy
    before = probe(policy.model)
    try:
        with quiet():
            model = cast(Any, policy.model).merge_and_unload()
    except (ValueError, RuntimeError) as error:  # a bias for a layer that has none
        raise ConfigError(
            f"adapter {policy.source or ''} must not be merged ({error}); train it on as it is "
            "(adapter.inherited=continue)."
        ) from None
    model.config.name_or_path = ""  # no folder holds these weights
    model.requires_grad_(True)
    after = probe(model)
    if not is_same(after, before):
        raise ConfigError(
            f"adapter {policy.source or ''} must not be merged: the whole model differs from it by "
            f"{float((after - before).abs().max()):.3g} in its logits, as where a tied output "
            "layer has an adapter; train it on as it is (adapter.inherited=continue)."
        )
    return dataclasses.replace(policy, model=model, source=None)


def is_same(logits: Tensor, expected: Tensor) -> bool:
    """Return whether two results of `probe` differ by no more than rounding does."""
    return torch.allclose(logits, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@torch.no_grad()
def probe(model: PreTrainedModel) -> Tensor:
    """Return the logits (1, t, v) of a short row of tokens."""
    tokens = torch.arange(PROBE_TOKENS, device=model.device)[None]
    hidden = hidden_states(model, tokens, torch.ones_like(tokens, dtype=torch.bool))
    return output_logits(model, hidden)


def load_adapter(
    folder: Path, load: Callable[[str | Path, str | None], PreTrainedModel]
) -> PreTrainedModel:
    """Return the base of the adapter in `folder`, loaded by `load(path, revision)`, with it around.

    Raises: ConfigError: as `read_adapter` and `base_of`; weights that are not those of such an
        adapter on this base, before any is read.
    """
    from peft import PeftModel

    files = read_adapter(folder)
    base, revision = base_of(folder)
    check_weights(files, base, revision)
    model = load(base, revision)
    with quiet():
        wrapped = PeftModel.from_pretrained(model, str(folder))
    settings = wrapped.peft_config["default"]
    settings.task_type = "CAUSAL_LM"  # or PEFT's loader can't tell the class
    settings.base_model_name_or_path = str(base)  # where PEFT looks when it saves
    return cast(PreTrainedModel, wrapped)


def check_weights(files: AdapterFiles, base: str | Path, revision: str | None) -> None:
    """Raise ConfigError unless the adapter's tensors are those that it would have on `base`.

    A model of the base's shape without any memory (torch's meta device) is given such an adapter.
    """
    from peft import PeftModelForCausalLM, get_peft_model_state_dict
    from peft.config import PeftConfig

    needed = 4 * sum(_numel(shape) for shape in files.shapes.values())
    _check_memory(needed, f"adapter {files.folder}", "give one of a lower rank")
    try:
        shape = AutoConfig.from_pretrained(str(base), revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise unreachable(base, error) from error
    config = PeftConfig.from_pretrained(str(files.folder))
    with torch.device("meta"), quiet():
        model = AutoModelForCausalLM.from_config(shape, trust_remote_code=False)
        try:
            adapted = PeftModelForCausalLM(model, config, low_cpu_mem_usage=True)
        except (ValueError, TypeError, RuntimeError, AttributeError, KeyError) as error:
            raise ConfigError(
                f"adapter {files.folder} must fit its base {base}: {str(error)[:200]}; change "
                "adapter_config.json or name its own base."
            ) from None
        weights = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    found = files.shapes
    # Of an embedding that has an adapter PEFT saves the weight below, too.
    below = {n: w for n, w in adapted.state_dict().items() if n in found and ".base_layer." in n}
    expected = {name: tuple(weight.shape) for name, weight in (weights | below).items()}
    wrong = [
        f"{name} is {'x'.join(map(str, found[name]))} for {'x'.join(map(str, size))}"
        for name, size in expected.items()
        if name in found and found[name] != size
    ]
    faults = {
        "has other shapes": wrong,
        "lacks": sorted(set(expected) - set(found)),
        "has unexpected": sorted(set(found) - set(expected)),
    }
    for what, names in faults.items():
        if names:
            more = f" and {len(names) - 2} more" if len(names) > 2 else ""
            raise ConfigError(
                f"adapter {files.folder}: {ADAPTER_WEIGHTS} must hold the weights that "
                f"adapter_config.json gives its base {base}, but {what} "
                f"{', '.join(names[:2])}{more}; name its own base, or merge it where it was "
                "trained and give the whole model."
            )


def save_adapter(policy: Policy, folder: Path) -> None:
    """Write an adapter, and its base beside it, into `folder`."""
    with quiet():
        policy.model.save_pretrained(folder)
    model = causal_lm(policy.model)
    source, target = Path(model.config.name_or_path or ""), folder / BASE
    if model.config.name_or_path and (source / "config.json").is_file():
        copy_base(source, target)
    else:
        model.save_pretrained(target, state_dict=base_weights(model))
    name_base(folder, target.resolve())
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's model card


def base_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the weights that a model had before adapters were put into it, under their names."""
    plain = {}
    for name, weight in model.state_dict().items():
        parts = name.split(".")
        if not any(part.startswith("lora_") or part == "modules_to_save" for part in parts):
            kept = [part for part in parts if part not in ("base_layer", "original_module")]
            plain[".".join(kept)] = weight
    return plain


def check_targets(model: nn.Module, targets: Sequence[str], setting: str) -> None:
    """Raise ConfigError unless each target ends a linear layer's name, or all are meant."""
    if list(targets) == ["all-linear"]:
        return
    names = sorted({n.rpartition(".")[2] for n, m in model.named_modules() if is_linear(m)})
    lost = [target for target in targets if target.rpartition(".")[2] not in names]
    if lost:
        raise ConfigError(
            f"{setting}.targets (={lost}) must name layers of the model, or be [all-linear] "
            f"alone; it has {', '.join(names)}."
        )


def check_memory(model: PreTrainedModel, config: AdapterConfig, setting: str) -> None:
    """Raise ConfigError unless fresh adapters fit the memory, which they are not given yet."""
    head = output_embeddings(model)
    every = config.targets == ["all-linear"]
    sides = [
        sum(module.weight.shape)
        for name, module in model.named_modules()
        if is_linear(module)
        and (
            module is not head
            if every
            else name.rpartition(".")[2] in {target.rpartition(".")[2] for target in config.targets}
        )
    ]
    _check_memory(4 * config.rank * sum(sides), f"{setting}.rank (={config.rank})", "lower it")


def _check_memory(needed: int, what: str, fix: str) -> None:
    free = available_bytes()
    if free is not None and needed > free:
        raise ConfigError(
            f"{what} must fit the memory: its weights take {needed / 2**30:.3g} GiB and "
            f"{free / 2**30:.3g} GiB are free; {fix}."
        )


def _numel(shape: Sequence[int]) -> int:
    number = 1
    for side in shape:
        number *= side
    return number


def is_linear(module: nn.Module) -> bool:
    """Return whether a module is a matrix product; GPT-2 calls its own Conv1D."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep PEFT from warning of a name that transformers has changed, and of what we check."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", UserWarning)
        yield
