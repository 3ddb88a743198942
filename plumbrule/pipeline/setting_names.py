"""Names of settings: which there are, and which one was meant by a name that is none.

Hydra refuses an unknown key only where nothing forces it in: `+sft.batchsize=4`, the `set` of a
node and a file may all add one to a typed config. So the composed config is searched for what no
dataclass has, whatever it came from. A name that TRL, transformers or the papers use for a setting
of ours is answered with ours.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, get_origin, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf

SYNONYMS: dict[str, tuple[str, ...]] = {
    "lr": ("learning_rate",),
    "actor_learning_rate": ("learning_rate",),
    "critic_learning_rate": ("value_learning_rate",),
    "value_lr": ("value_learning_rate",),
    "epochs": ("num_train_epochs", "num_ppo_epochs"),
    "num_epochs": ("num_train_epochs", "num_ppo_epochs"),
    "ppo_epochs": ("num_ppo_epochs",),
    "noptepochs": ("num_ppo_epochs",),
    "update_epochs": ("num_ppo_epochs",),
    "num_iterations": ("num_ppo_epochs",),
    "nminibatches": ("num_mini_batches",),
    "num_minibatches": ("num_mini_batches",),
    "mini_batch_size": ("num_mini_batches",),
    "per_device_train_batch_size": ("runtime.micro_batch_size", "batch_size"),
    "per_device_eval_batch_size": ("runtime.micro_batch_size",),
    "micro_batch_size": ("runtime.micro_batch_size",),
    "local_rollout_forward_batch_size": ("runtime.micro_batch_size",),
    "gradient_accumulation_steps": ("runtime.micro_batch_size", "batch_size"),
    "gradient_checkpointing": ("runtime.gradient_checkpointing",),
    "rollout_batch_size": ("batch_size",),
    "train_batch_size": ("batch_size",),
    "bs": ("batch_size",),
    "kl_coef": ("kl.coef",),
    "init_kl_coef": ("kl.coef",),
    "kl_coeff": ("kl.coef",),
    "kl_beta": ("kl.coef",),
    "beta": ("kl.coef",),
    "kl_estimator": ("kl.estimator",),
    "kl_target": ("kl.target",),
    "target_kl": ("kl.target", "early_stop.step_kl"),
    "adap_kl_ctrl": ("kl.target",),
    "kl_horizon": ("kl.horizon",),
    "clip_range": ("cliprange",),
    "clip_eps": ("cliprange",),
    "clip_coef": ("cliprange",),
    "epsilon": ("cliprange", "adam_epsilon"),
    "clip_ratio": ("cliprange",),
    "clip_range_vf": ("cliprange_value",),
    "cliprange_vf": ("cliprange_value",),
    "value_coef": ("vf_coef",),
    "vf_coeff": ("vf_coef",),
    "value_loss_coef": ("vf_coef",),
    "gae_lambda": ("lam",),
    "lambda": ("lam",),
    "discount": ("gamma",),
    "num_generations": ("samples_per_prompt", "num_responses"),
    "rloo_k": ("samples_per_prompt",),
    "group_size": ("samples_per_prompt",),
    "response_length": ("sampling.max_new_tokens",),
    "max_completion_length": ("sampling.max_new_tokens",),
    "max_new_tokens": ("sampling.max_new_tokens",),
    "temperature": ("sampling.temperature",),
    "max_length": ("model.context", "max_tokens"),
    "max_seq_length": ("model.context",),
    "max_prompt_length": ("model.context",),
    "adv_estimator": ("advantage",),
    "advantage_estimator": ("advantage",),
    "whiten_advantage": ("whiten_advantages",),
    "cliprange_reward": ("score_clip",),
    "reward_clip": ("score_clip",),
    "clip_reward": ("score_clip",),
    "max_steps": ("total_episodes", "steps"),
    "num_steps": ("total_episodes", "steps"),
    "total_timesteps": ("total_episodes",),
    "episodes": ("total_episodes",),
    "warmup_ratio": ("warmup_share",),
    "warmup_steps": ("warmup_share",),
    "clip_grad": ("max_grad_norm",),
    "grad_clip": ("max_grad_norm",),
    "bf16": ("precision",),
    "fp16": ("precision",),
    "dtype": ("precision",),
    "torch_dtype": ("precision",),
    "lora_r": ("adapter.rank",),
    "r": ("adapter.rank",),
    "lora_rank": ("adapter.rank",),
    "lora_alpha": ("adapter.alpha",),
    "lora_target_modules": ("adapter.targets",),
    "target_modules": ("adapter.targets",),
    "num_layers_unfrozen": ("unfrozen_layers",),
    "ptx_coef": ("ptx.coef",),
    "loss_type": ("loss",),
    "center_rewards_coefficient": ("centring",),
    "save_steps": ("save_every",),
    "model_name_or_path": ("model.name_or_path",),
    "sft_model_path": ("nodes.ppo.inputs.policy",),
    "reward_model_path": ("nodes.ppo.inputs.rm",),
    "dataset_name": ("dataset.path",),
    "output_dir": ("run.store",),
    "run_name": ("run.name",),
    "exp_name": ("run.name",),
    "report_to": ("tracking.name",),
    "device": ("runtime.device",),
}
"""A last word of TRL, OpenRLHF, cleanrl, trlX or the papers -> what it is here, in the same section
or in the section that is named."""


@lru_cache(maxsize=256)
def settings_of(schema: type, prefix: str = "") -> tuple[str, ...]:
    """Return the dotted names of all settings of a dataclass and of those inside it."""
    hints = get_type_hints(schema)
    found: list[str] = []
    for field in dataclasses.fields(schema):
        found.append(prefix + field.name)
        if get_origin(hints[field.name]) is dict:
            continue  # its keys are names of a user's, as in nodes.<name> and data.<role>
        for kind in (hints[field.name], *getattr(hints[field.name], "__args__", ())):
            if dataclasses.is_dataclass(kind):
                found += settings_of(kind, f"{prefix}{field.name}.")  # type: ignore[arg-type]
    return tuple(found)


def unknown_settings(cfg: Any, prefix: str = "") -> list[str]:
    """Return the dotted keys of a composed config that its dataclasses do not have."""
    if isinstance(cfg, ListConfig):
        nodes = [cfg._get_node(i) for i in range(len(cfg))] if not cfg._is_none() else []
        places = [(f"{prefix[:-1]}[{i}].", one) for i, one in enumerate(nodes)]
        return [key for place, one in places for key in unknown_settings(one, place)]
    if not isinstance(cfg, DictConfig) or cfg._is_none() or cfg._is_missing():
        return []
    if cfg._is_interpolation():
        return []
    kind = OmegaConf.get_type(cfg)
    known = None
    if kind is not None and dataclasses.is_dataclass(kind):
        known = {field.name for field in dataclasses.fields(kind)}
    found = []
    for key in cfg:
        name = f"{prefix}{key!s}"
        if known is not None and key not in known:
            found.append(name)
        else:
            found += unknown_settings(cfg._get_node(key), f"{name}.")
    return found


def meant(given: str, known: Iterable[str]) -> list[str]:
    """Return the settings that were probably meant by an unknown name, the likeliest first.

    What the field calls a setting goes before what is spelt alike; names of the same section go
    before those of others.
    """
    names = [name for name in known if name != given]
    section, _, last = given.lower().rpartition(".")
    owners = [section.rsplit(".", n)[0] for n in range(section.count(".") + 1)] if section else []
    found = [] if section else [name for name in names if name.endswith(f".{last}")]
    for tail in SYNONYMS.get(last, ()):
        found += [n for n in (*(f"{owner}.{tail}" for owner in owners), tail) if n in names]
        if not section:
            found += [name for name in names if name.endswith(f".{tail}")]
    if found:
        return list(dict.fromkeys(found))
    inside = [name for name in names if section and name.startswith(section.split(".")[0] + ".")]
    for candidates in (inside, names):
        same_end = [name for name in candidates if name.rpartition(".")[2] == last]
        if same_end:
            return sorted(same_end, key=lambda name: (-_shared(name, given), name.count(".")))
        plain = {_plain(name): name for name in reversed(candidates)}
        close = difflib.get_close_matches(_plain(given), list(plain), n=1, cutoff=0.7)
        if close:
            return [plain[close[0]]]
    return []


def _shared(one: str, other: str) -> int:
    """Return how many words two dotted names have in common."""
    return len(set(one.split(".")) & set(other.split(".")))


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def hint(given: str, known: Iterable[str], otherwise: str) -> str:
    """Return `did you mean a?`, with more names where one word stands for several settings, or
    `otherwise` where nothing is near.
    """
    if role := re.fullmatch(r"data\.([a-z]+)\.(\w+)", given):
        return (
            f"add dataset@data.{role[1]}=jsonl (or another of conf/dataset), which gives role "
            f"{role[1]} a data set with settings of its own."
        )
    found = meant(given, known)
    several = given.rpartition(".")[2].lower() in SYNONYMS or "." not in given
    found = found[: 3 if several else 1]
    return f"did you mean {' or '.join(found)}?" if found else otherwise


def unknown_message(unknown: list[str], known: Iterable[str], otherwise: str) -> str:
    """Return one line about all unknown keys."""
    names = list(known)
    parts = [f"{key} ({hint(key, names, otherwise)})" for key in unknown]
    if len(unknown) == 1:
        return f"{unknown[0]} must be a known key; {hint(unknown[0], names, otherwise)}"
    return f"{len(unknown)} keys must be known ones: {', '.join(parts)}"


def flat(value: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of nested mappings."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield f"{prefix}{name!s}"
            yield from flat(inner, f"{prefix}{name!s}.")
