"""Weights are read whole or not at all: `load_whole` for every model that a stage opens.

transformers draws at random whatever a checkpoint lacks, says so in a log line and goes on; the
draw follows no seed, so a model of that kind is another one each time. Here a missing weight is an
error that names it, and so is one that nobody reads: a checkpoint that holds more than its model is
a checkpoint of another model (a classifier's head, a second tower, another prefix). What is fine:

- an output layer that the config ties to the embeddings (transformers calls it not missing);
- buffers that older versions saved and that a model computes from its config: rotary frequencies,
  position numbers, the triangle of a causal mask (`BUFFERS`);
- what the caller names as spare, since the part that is used does not read it.

Damaged files are named before any of this (`plumbrule/store/model_files.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from plumbrule.errors import ConfigError
from plumbrule.store.model_files import require_undamaged

BUFFERS = r"(^|\.)(rotary_emb\.)?inv_freq$|(^|\.)position_ids$|\.(attn|attention)\.(masked_)?bias$"
"""Extra names that hold no weight: a model computes them from its config."""
POOLER = r"(^|\.)pooler\."
"""A layer over the first token that BERT's kin save whether or not anything reads it."""
HEADS = r"^(cls|lm_head|vocab_\w+|predictions|mlm|generator_\w+|classifier|score|qa_outputs)\."
"""Output layers of other tasks, which an encoder of texts does not have."""
EAGER = "eager"
"""transformers' name for attention that is written out."""
NUM_NAMED = 5
"""Weights that an error names; the others it counts."""


def load_whole(
    auto: Any,
    path: str | Path,
    setting: str,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    config: PretrainedConfig | None = None,
    spare: str | None = None,
) -> PreTrainedModel:
    """Return the model in a folder or under a hub name, each of its weights read from there.

    Args:
        auto: one of transformers' auto classes, or a model class.
        setting: that names the model, for errors: `model.name_or_path`.
        config: as it is to be used; None: the folder's.
        spare: pattern of names that the checkpoint may hold beside the model's.

    Raises: ConfigError: a weight is missing, of another shape, or read by nobody; a damaged file.
        OSError, ValueError: nothing that transformers can load.
    """
    require_undamaged(path, setting)
    where: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    config = config or AutoConfig.from_pretrained(str(path), **where)
    claimed = ", ".join(config.architectures or [])
    if caps_scores(config):
        where["attn_implementation"] = EAGER
    try:
        model, found = auto.from_pretrained(
            str(path),
            config=config,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are named below
            **where,
        )
    except SafetensorError as error:
        raise ConfigError(
            f"{setting} (={path}) must hold readable safetensors ({error})."
        ) from None
    wrong = differences(found, spare)
    if wrong:
        raise ConfigError(
            f"{setting} (={path}{f', a {claimed}' if claimed else ''}) must hold the weights of "
            f"{type(model).__name__}, no more and no less, but {' and '.join(wrong)}; what is "
            "missing would be made up at random: give the whole model, of this kind."
        )
    return model


def caps_scores(config: PretrainedConfig) -> bool:
    """Return whether attention scores are capped, as in Gemma 2, which only the eager form does.

    transformers 5.17 drops the cap in silence elsewhere; newer ones choose the form themselves.
    """
    return getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None


def differences(found: dict[str, Any], spare: str | None = None) -> list[str]:
    """Return what a checkpoint lacks and what it holds beside, in words."""
    mismatched = [f"{name} {list(has)} for {list(wants)}" for name, has, wants in _shapes(found)]
    allowed = re.compile(f"{BUFFERS}|{spare}" if spare else BUFFERS)
    extra = [name for name in found["unexpected_keys"] if not allowed.search(name)]
    names = {
        "lacks": found["missing_keys"],
        "has as another shape": mismatched,
        "also holds": extra,
    }
    return [f"{verb} {_listed(some)}" for verb, some in names.items() if some]


def _shapes(found: dict[str, Any]) -> Iterable[tuple[str, Sequence[int], Sequence[int]]]:
    return sorted(found["mismatched_keys"])


def _listed(names: Iterable[str]) -> str:
    first = sorted(names)
    more = len(first) - NUM_NAMED
    return ", ".join(first[:NUM_NAMED]) + (f" and {more} more" if more > 0 else "")


def require_whole_encoder(model: PreTrainedModel, folder: Path) -> None:
    """Check that an encoder in `folder`, as another library has loaded it, was read whole.

    A pooler that the folder lacks is set to 0: nothing reads it, and it is saved with the others.
    Raises: ValueError: weights are missing, of another shape, or read by nobody.
    """
    kind: Any = type(model)
    _, found = kind.from_pretrained(
        str(folder),
        config=model.config,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    poolers = {name for name in found["missing_keys"] if re.search(POOLER, name)}
    with torch.no_grad():
        for name in poolers:
            model.get_parameter(name).zero_()
    wrong = differences(
        {**found, "missing_keys": found["missing_keys"] - poolers}, f"{HEADS}|{POOLER}"
    )
    if wrong:
        raise ValueError(f"{type(model).__name__} {' and '.join(wrong)}")
