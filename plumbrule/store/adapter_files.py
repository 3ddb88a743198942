"""The files of a low-rank adapter, judged before any weight is read; imports no torch.

An adapter folder is PEFT's: `adapter_config.json` and `adapter_model.safetensors`, and with them
the tokenizer and, in ours, `policy.json`. It means nothing without its base, so the folders that
are written here hold it in `base/` and stand alone: a store may be moved or copied in part, and an
artifact that the base came from may go. Inside a store the files of the base are hard links, which
take no room.

LoRA (Hu et al. 2021, arXiv:2106.09685) is what is read, plain, rank-stabilised (Kalajdzievski 2023,
arXiv:2312.03732) or weight-decomposed (DoRA, Liu et al. 2024, arXiv:2402.09353). Whatever else PEFT
knows is refused by name: another method changes other numbers than the ones that are trained, saved
and merged here.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from sys import float_info
from typing import Any

from plumbrule.errors import ConfigError
from plumbrule.store.file_names import POLICY_FILE
from plumbrule.store.json_files import read_json
from plumbrule.store.layout import is_artifact_folder
from plumbrule.store.manifests import MANIFEST
from plumbrule.store.model_files import LFS_POINTER, PICKLES
from plumbrule.store.packaged_files import located

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE = "base"
"""The folder of the base model inside an adapter's folder."""
READ_FIELDS = {
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_bias",
    "lora_dropout",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "target_modules",
    "task_type",
    "use_dora",
    "use_rslora",
}
"""Fields of an adapter_config.json that may be set."""
UNSET = (None, False, "none", "megatron.core")
"""What any other field may hold, beside empty lists and mappings: PEFT's defaults."""
PLAIN_STARTS = (True, False, "gaussian", "orthogonal", None)
"""Of `init_lora_weights`: the others change the base's weights too."""


@dataclass(frozen=True)
class AdapterFiles:
    """What the files of an adapter say of themselves."""

    folder: Path
    config: Mapping[str, Any]
    """`adapter_config.json`."""
    shapes: Mapping[str, tuple[int, ...]]
    """Name -> shape of each tensor in the weights."""


def is_adapter_folder(path: str | Path) -> bool:
    """Return whether a folder holds an adapter."""
    return (Path(path) / ADAPTER_CONFIG).is_file()


def read_adapter(folder: Path) -> AdapterFiles:
    """Return what the adapter in `folder` says of itself; no tensor is read.

    Raises: ConfigError: no safetensors, or damaged ones; a method other than LoRA, a setting of it
        that is not read here, one that names code, or a rank that no layer can have.
    """
    config = _read_config(folder)
    _check_method(folder, config)
    shapes = read_header(folder / ADAPTER_WEIGHTS, f"adapter {folder}")
    if not shapes or any(0 in shape for shape in shapes.values()):
        empty = next((name for name, shape in shapes.items() if 0 in shape), "all of them")
        raise ConfigError(
            f"adapter {folder}: weights (={empty}) must not be empty; save the adapter again."
        )
    _check_ranks(folder, config, shapes)
    return AdapterFiles(folder, config, shapes)


def base_of(folder: Path) -> tuple[str | Path, str | None]:
    """Return the base model of the adapter in `folder`: a folder that is there, or a hub name and
    its commit.

    A name is looked for beside the adapter first, then where PEFT looks: in the working directory.

    Raises: ConfigError: no base is named; a hub name without a commit; a base that is an adapter
        itself, or that lies outside an artifact that is to stand alone.
    """
    config = _read_config(folder)
    own = _own_base(folder)
    name = own if own is not None else config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise _refused(folder, "base_model_name_or_path", name, "name the adapter's base model")
    found = located(name)
    places = [folder / name] if own is not None else [folder / name, Path(found)]
    base = next((place for place in places if place.is_dir()), None)
    if base is not None:
        if (folder.parent / MANIFEST).is_file() and not _lies_in(base, folder):
            raise ConfigError(
                f"adapter {folder}: its base (={name}) must lie in the artifact itself; remove the "
                "artifact's folder to build it again."
            )
        if is_adapter_folder(base):
            raise ConfigError(
                f"adapter {folder}: its base (={base}) must be a whole model and no adapter; "
                f"{merge_command(base)}, and name what that writes as the base."
            )
        return base, None
    revision = config.get("revision")
    plain = own is None and len(name.split("/")) <= 2 and name[0] not in "/.~-"
    if not plain:
        raise _refused(folder, "base_model_name_or_path", name, "be a folder that is there")
    if (
        not isinstance(revision, str)
        or len(revision) != 40
        or set(revision) - set("0123456789abcdef")
    ):
        raise _refused(
            folder,
            "revision",
            revision,
            f"be the 40-digit hex commit of the base {name}, which is no folder here",
        )
    return name, revision


def merge_command(folder: str | Path) -> str:
    """Return the command that makes a whole model of the adapter in `folder`."""
    return shlex.join(["plumbrule", "merge", str(folder), "--to", "merged-policy"])


def read_header(path: Path, what: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors that a safetensors file holds; none of them is read.

    Args: what: begins the errors.
    Raises: ConfigError: no such file; a pickle, a Git LFS pointer or a damaged file in its place.
    """
    if not path.is_file():
        pickled = sorted(f.name for f in path.parent.glob("*") if f.suffix in PICKLES)
        if pickled:
            raise ConfigError(
                f"{what} must hold {path.name}, but has {pickled[0]}, a pickle that could run "
                "code; convert it where you trust it: load it with peft and save_pretrained it."
            )
        raise ConfigError(f"{what} must hold {path.name}; save the adapter again.")
    from safetensors import SafetensorError, safe_open

    with open(path, "rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise ConfigError(
                f"{what}: {path.name} must be weights and no Git LFS pointer; run git lfs pull."
            )
    try:
        with safe_open(path, framework="numpy") as tensors:
            names = list(tensors.keys())
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in names}
    except (SafetensorError, OSError) as error:
        raise ConfigError(
            f"{what}: {path.name} must be a whole safetensors file ({str(error)[:120]}); copy it "
            "again."
        ) from None


def rebase_adapters(folder: Path, final: Path) -> None:
    """Let adapters under `folder` name their bases where these lie once it is moved to `final`.

    PEFT takes a path as it stands, seen from the working directory, so only a whole path will do.
    """
    for path in folder.rglob(ADAPTER_CONFIG):
        if (path.parent / BASE).is_dir():
            name_base(path.parent, final / path.parent.relative_to(folder) / BASE)


def name_base(folder: Path, base: Path) -> None:
    """Make the adapter in `folder` name `base`, its lists in one order whatever the process."""
    path = folder / ADAPTER_CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"base_model_name_or_path": str(base), "revision": None}
    for field in ("target_modules", "modules_to_save", "exclude_modules"):
        if isinstance(config.get(field), list):
            config[field] = sorted(config[field])
    path.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / ADAPTER_CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} must be JSON ({error}); save the adapter again.") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{path} must hold a JSON object; save the adapter again.")
    return config


def _own_base(folder: Path) -> str | None:
    """Return the base that the folder's `policy.json` names, seen from the folder, if one does."""
    try:
        base = read_json(folder / POLICY_FILE).get("base")
    except (OSError, ValueError, AttributeError):
        return None
    return base if isinstance(base, str) and base else None


def _lies_in(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _check_method(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise ConfigError unless the adapter is LoRA with settings that are read here."""
    kind = config.get("peft_type")
    if kind != "LORA":
        raise _refused(folder, "peft_type", kind, "be LORA")
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        raise _refused(folder, "task_type", config["task_type"], "be CAUSAL_LM, as a policy is")
    for name, value in config.items():
        unset = value in UNSET if isinstance(value, (str, bool, type(None))) else value in ({}, [])
        if name not in READ_FIELDS and not unset:
            raise _refused(folder, name, value, "not be set: that is not plain LoRA")
    start = config.get("init_lora_weights")
    if not (start is None or isinstance(start, bool) or start in PLAIN_STARTS):
        raise _refused(
            folder,
            "init_lora_weights",
            start,
            "be true, false, gaussian or orthogonal (others change the base as well; PEFT's "
            "save_pretrained converts with path_initial_model_for_weight_conversion)",
        )
    for name, alpha in {
        "lora_alpha": config.get("lora_alpha", 8),
        **_mapping(folder, config, "alpha_pattern"),
    }.items():
        number = isinstance(alpha, (int, float)) and not isinstance(alpha, bool)
        if not number or abs(alpha) > float_info.max or not isfinite(alpha):
            raise _refused(folder, name, alpha, "be a finite number")
    mapping = config.get("auto_mapping")
    library = mapping.get("parent_library", "") if isinstance(mapping, dict) else ""
    known = isinstance(library, str) and library.split(".")[0] in ("", "transformers", "peft")
    if not known or not isinstance(mapping, (dict, type(None))):
        raise _refused(folder, "auto_mapping", mapping, "name no code of other libraries")


def _check_ranks(
    folder: Path, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise ConfigError for a rank that is no count, or of which the weights can't have enough."""
    pattern = _mapping(folder, config, "rank_pattern")
    longest = max(max(shape, default=1) for shape in shapes.values())
    for name, rank in {"r": config.get("r"), **pattern}.items():
        if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            raise _refused(folder, f"rank {name}", rank, "be a whole number, at least 1")
        if rank > longest:
            raise _refused(
                folder, f"rank {name}", rank, f"fit the weights, whose longest side is {longest}"
            )


def _mapping(folder: Path, config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a setting that is given by layer. Raises: ConfigError: it is no mapping."""
    found = config.get(name) or {}
    if not isinstance(found, dict):
        raise _refused(folder, name, found, "map layers to numbers")
    return found


def _refused(folder: Path, field: str, value: Any, rule: str) -> ConfigError:
    return ConfigError(
        f"adapter {folder}: {field} (={str(value)[:80]}) must {rule}; change {ADAPTER_CONFIG}, or "
        "merge the adapter where it was trained and give the whole model."
    )


def available_bytes() -> int | None:
    """Return the memory of this machine that is to be had, bytes; None: not known."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(found[0]) if found else None


def copy_base(source: Path, target: Path) -> None:
    """Put the model of the folder `source` into `target`: hard links to files that a published
    artifact holds, which nobody changes, copies of others.
    """
    published = any(is_artifact_folder(folder) for folder in (source.parent, source.parent.parent))
    target.mkdir(parents=True, exist_ok=True)
    names = ("config.json", "generation_config.json", "model.safetensors.index.json")
    files = [p for p in sorted(source.iterdir()) if p.suffix == ".safetensors" or p.name in names]
    for file in files:
        new = target / file.name
        new.unlink(missing_ok=True)
        try:
            if not published:
                raise OSError
            os.link(file.resolve(), new)
        except OSError:  # not an artifact, another file system, or one without links
            shutil.copyfile(file, new)
