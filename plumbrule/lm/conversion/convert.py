"""`convert`: a GGUF, or a folder with safetensors, written as a plain Hugging Face folder.

What the folder was made from stands in it twice: for people in `README.md`, for the plan and the
report in `conversion.json` (`plumbrule/store/model_files.py`). All of it is written under another
name, read back and compared, and renamed into place (`written_whole`): a conversion that is
interrupted leaves nothing under the name that was asked for.
"""

from __future__ import annotations

import hashlib
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
import xxhash
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from plumbrule.errors import ConfigError
from plumbrule.lm.conversion.gguf import load_gguf, read_header
from plumbrule.lm.weights import load_whole
from plumbrule.store.adapter_files import (
    available_bytes,
    is_adapter_folder,
    merge_command,
)
from plumbrule.store.attempts import written_whole
from plumbrule.store.checkpoints import mode_of_new_files, set_mode
from plumbrule.store.content_digests import SLOW, digests
from plumbrule.store.file_names import POLICY_FILE
from plumbrule.store.json_files import write_json
from plumbrule.store.model_files import (
    CONVERSION,
    conversion_facts,
    conversion_note,
    refuse_pickles,
)
from plumbrule.store.packaged_models import PACKAGED

transformers.utils.logging.disable_progress_bar()  # `say` tells each step

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
"""Name of --dtype -> type of the weights that are written."""
LIBRARIES_BYTES = 2**29
"""Memory of torch and transformers themselves, about."""
COPIES = 2
"""Of all weights, that are in memory at once at the most: the file's and the model's."""

CARD = """\
---
library_name: transformers
{license}---

# {title}

{told}

Written by `plumbrule convert`; `conversion.json` holds the same for programs.

| | |
| --- | --- |
{rows}
"""


class SourceModel(NamedTuple):
    """A model that was read. told: what it is and what was done to it, as one clause."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    title: str
    told: str
    license: str
    facts: dict[str, str]


def convert(source: Path, target: Path, dtype: str, say: Callable[[str], None]) -> None:
    """Write the model in `source` to the folder `target`, all of it or nothing.

    A folder that already holds this conversion is left as it is.

    Args: dtype: of DTYPES. say: is told each step.
    Raises: ConfigError: something else is in `target`, or another process writes it; a source that
        is damaged, no model, without all its weights or with more, or too large for the memory.
    """
    began = time.monotonic()
    source, target = source.expanduser().absolute(), target.expanduser().absolute()
    sha256 = _sha256(source)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        if _holds(target, sha256, dtype):
            say(f"{target} holds this conversion already")
            return
        raise ConfigError(f"out (={target}) must be a new or an empty folder; name another.")
    with written_whole(target, "out") as partial:
        _write(source, partial, dtype, sha256, say)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    say(f"done in {time.monotonic() - began:.1f} s, peak memory {peak:.2f} GiB: {target}")


def _write(source: Path, folder: Path, dtype: str, sha256: str, say: Callable[[str], None]) -> None:
    """Write the model in `source` to `folder`, read it back and compare each weight.

    Raises: ConfigError: as `convert`.
    """
    read = _read_gguf if source.is_file() else _read_folder
    found = read(source, dtype, sha256, say)
    weights = _weight_digests(found.model, source)
    num_values = sum(weight.numel() for weight in found.model.parameters())
    say(f"writing {num_values:,} weights in {dtype}")
    found.model.save_pretrained(folder)
    found.tokenizer.save_pretrained(folder)
    if (source / POLICY_FILE).is_file():
        shutil.copyfile(source / POLICY_FILE, folder / POLICY_FILE)
    _describe(found, folder, sha256, dtype)
    for file in folder.glob("*.safetensors"):
        set_mode(file, mode_of_new_files(folder))
    del found
    say("reading it back")
    again = load_whole(AutoModelForCausalLM, folder, "out", dtype=DTYPES[dtype])
    if _weight_digests(again, folder) != weights:
        raise ConfigError(
            f"source (={source}) must not be converted: its kind of model does not read back what "
            "it writes; use it as it is."
        )


def _read_gguf(path: Path, dtype: str, sha256: str, say: Callable[[str], None]) -> SourceModel:
    """Return the model in a GGUF, dequantised."""
    say(f"reading {path.name} ({path.stat().st_size / 1e6:,.0f} MB)")
    header = read_header(path)
    _require_room(sum(header.num_values.values()), dtype, path, say)
    model, tokenizer = load_gguf(path, header, DTYPES[dtype])
    known = next((model for model in PACKAGED.values() if model.sha256 == sha256), None)
    title = known.title if known else header.name
    done = "dequantised from" if header.is_quantised else "converted from a GGUF in"
    more = f"; {known.told}" if known else ""
    types = ", ".join(f"{name} ({count} tensors)" for name, count in header.types.items())
    return SourceModel(
        model,
        tokenizer,
        title,
        f"{title}, {done} {header.main_type}{more}",
        header.license,
        {"source": path.name, "architecture": header.architecture, "tensor types": types},
    )


def _read_folder(path: Path, dtype: str, sha256: str, say: Callable[[str], None]) -> SourceModel:
    """Return the model in a folder with safetensors."""
    refuse_pickles(path, "source")
    if is_adapter_folder(path):
        raise ConfigError(
            f"source (={path}) must be a whole model and no adapter; {merge_command(path)}."
        )
    ggufs = sorted(file.name for file in path.glob("*.gguf"))
    if ggufs and not any(path.glob("*.safetensors")):
        raise ConfigError(
            f"source (={path}) must hold safetensors, but has {ggufs[0]}; give that file itself."
        )
    weights = list(path.glob("*.safetensors"))
    say(f"reading {path} ({sum(file.stat().st_size for file in weights) / 1e6:,.0f} MB)")
    try:
        config = AutoConfig.from_pretrained(str(path), trust_remote_code=False)
        model = load_whole(AutoModelForCausalLM, path, "source", dtype=DTYPES[dtype], config=config)
        tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    except (OSError, ValueError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(
            f"source (={path}) must be the folder of a causal language model with config.json, "
            f"*.safetensors and tokenizer files ({said[0][:160]}); check the path."
        ) from error
    before = str(config.dtype).removeprefix("torch.")
    rounded = before != dtype and dtype == "bfloat16"
    told = conversion_note(path) or path.name
    told += f", rounded from {before}" if rounded else ""
    license = str(conversion_facts(path).get("license", ""))
    return SourceModel(model, tokenizer, path.name, told, license, {"source": path.name})


def _sha256(source: Path) -> str:
    """Return the sha256 of a file, or of the list of a folder's safetensors with theirs.

    Raises: ConfigError: nothing is there.
    """
    if source.is_file():
        return digests(source, SLOW)[SLOW]
    if not source.is_dir():
        raise ConfigError(
            f"source (={source}) must be a GGUF, the folder of a model, or one of "
            f"{', '.join(model.word for model in PACKAGED.values())}; check the path."
        )
    listed = "".join(
        f"{digests(file, SLOW)[SLOW]}  {file.name}\n"
        for file in sorted(source.glob("*.safetensors"))
    )
    return hashlib.sha256(listed.encode()).hexdigest()


def _holds(target: Path, sha256: str, dtype: str) -> bool:
    """Return whether a folder is what the conversion of that source would write."""
    facts = conversion_facts(target)
    return (facts.get("sha256"), facts.get("dtype")) == (sha256, dtype)


def _require_room(num_values: int, dtype: str, path: Path, say: Callable[[str], None]) -> None:
    """Tell how much memory the conversion takes. Raises: ConfigError: there is less."""
    needed = LIBRARIES_BYTES + COPIES * num_values * DTYPES[dtype].itemsize
    free = available_bytes()
    say(f"{num_values:,} values, about {needed / 2**30:.2g} GiB of memory")
    if free is not None and needed > free:
        raise ConfigError(
            f"source (={path}) must fit the memory: {needed / 2**30:.3g} GiB of which "
            f"{free / 2**30:.3g} GiB are free; use --dtype bfloat16, or a machine with more."
        )


def _weight_digests(model: PreTrainedModel, where: Path) -> dict[str, str]:
    """Return the digest of each weight. Raises: ConfigError: one is not finite."""
    found = {}
    for name, weight in model.state_dict().items():
        if weight.is_floating_point() and not bool(weight.isfinite().all()):
            raise ConfigError(
                f"source (={where}) must hold finite weights, but {name} has NaN or Inf; it is "
                "damaged, or too large for the dtype: copy it again, or use --dtype float32."
            )
        array = weight.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        found[name] = xxhash.xxh3_128_hexdigest(array)
    return found


def _describe(found: SourceModel, folder: Path, sha256: str, dtype: str) -> None:
    """Write README.md and conversion.json."""
    facts = {
        **found.facts,
        "sha256": sha256,
        "dtype": dtype,
        "license": found.license,
    }
    write_json(folder / CONVERSION, {"note": found.told, **facts})
    rows = "\n".join(f"| {name} | {value or 'not named'} |" for name, value in facts.items())
    license = f"license: {found.license}\n" if found.license else ""
    card = CARD.format(license=license, title=found.title, told=f"{found.told}.", rows=rows)
    (folder / "README.md").write_text(card, encoding="utf-8")
