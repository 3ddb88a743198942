"""Reading a GGUF: what it holds, and its model and tokenizer through transformers.

A GGUF is llama.cpp's one-file format: metadata, tokenizer and mostly quantised weights. Here its
weights are dequantised; nothing computes with blocks. transformers maps names and shapes
(`gguf_file=`) and leaves out silently what it does not map, so what a file holds is counted against
what the model took. This is the one module that imports the `gguf` package.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers import PreTrainedTokenizerBase as Tokenizer

from plumbrule.errors import ConfigError
from plumbrule.lm.weights import differences
from plumbrule.store.model_files import LFS_POINTER
from plumbrule.store.packaged_models import INSTALL_GGUF
from plumbrule.surroundings import redraws

MAGIC = b"GGUF"
VOCABULARY = "tokenizer.ggml.tokens"
SPECIAL = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
}
"""Special tokens: the tokenizer's attribute -> the field of their id."""
PLAIN_TYPES = ("F32", "F16", "BF16", "F64")
"""Tensor types that hold numbers rather than quantised blocks."""
ROTARY_FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Tensors that change a model's rotary codes, and that transformers does not read."""


class Header(NamedTuple):
    """What a GGUF says of itself. types: tensor type -> tensors. num_values: per tensor name.

    num_tokens: of its vocabulary. special: ids of special tokens by the tokenizer's name.
    """

    architecture: str
    name: str
    license: str
    types: dict[str, int]
    num_values: dict[str, int]
    num_tokens: int
    main_type: str
    """Of most of the weights, such as Q4_1."""
    special: dict[str, int]

    @property
    def is_quantised(self) -> bool:
        """Whether most weights are blocks."""
        return self.main_type not in PLAIN_TYPES


def read_header(path: Path) -> Header:
    """Return what the GGUF at `path` holds; no weight is read.

    Raises: ConfigError: no GGUF, one that is cut short, or no package `gguf`.
    """
    begins = _first_bytes(path)
    if begins.startswith(LFS_POINTER):
        raise ConfigError(
            f"source (={path}) must be a GGUF, but is a Git LFS pointer and not the file; run "
            "git lfs pull there."
        )
    if begins[:4] != MAGIC:
        raise ConfigError(
            f"source (={path}) must be a GGUF, which begins with {MAGIC.decode()!r}, but begins "
            f"with {begins[:4]!r}; give a GGUF or a model's folder."
        )
    try:
        from gguf import GGUFReader
    except ImportError:
        raise ConfigError(
            f"source (={path}) must be read by the package gguf, which is not installed; run "
            f"{INSTALL_GGUF}."
        ) from None
    try:
        reader = GGUFReader(path)
        fields = {name: _text(field) for name, field in reader.fields.items() if _is_text(field)}
        sizes: Counter[str] = Counter()
        for tensor in reader.tensors:
            sizes[tensor.tensor_type.name] += int(tensor.n_elements)
        types = Counter(tensor.tensor_type.name for tensor in reader.tensors)
        num_values = {tensor.name: int(tensor.n_elements) for tensor in reader.tensors}
        num_tokens = len(words.data) if (words := reader.get_field(VOCABULARY)) else 0
        ids = {name: reader.get_field(field) for name, field in SPECIAL.items()}
        special = {name: int(one.parts[one.data[0]][0]) for name, one in ids.items() if one}
        architecture = fields["general.architecture"]
        main_type = sizes.most_common(1)[0][0]
    except (ValueError, LookupError, TypeError, OverflowError, MemoryError) as error:
        raise ConfigError(
            f"source (={path}) must be a whole GGUF, but is cut short or damaged "
            f"(={path.stat().st_size} bytes; {str(error)[:80]}); copy or download it again."
        ) from None
    return Header(
        architecture,
        fields.get("general.name", path.stem),
        fields.get("general.license", ""),
        dict(types.most_common()),
        num_values,
        num_tokens,
        main_type,
        special,
    )


def load_gguf(path: Path, header: Header, dtype: torch.dtype) -> tuple[PreTrainedModel, Tokenizer]:
    """Return a plain model with the GGUF's weights, dequantised, and its tokenizer.

    Raises: ConfigError: an architecture or tensor type that transformers does not read; weights
        that the file lacks, or that the model has no place for.
    """
    _refuse_unread(path, header)
    where: dict[str, Any] = {"gguf_file": path.name, "trust_remote_code": False}
    if hasattr(transformers, "GgufConfig"):  # since 5.20: else blocks may stay as they are
        where["quantization_config"] = transformers.GgufConfig(dequantize=True)
    auto: Any = AutoModelForCausalLM
    try:
        with _bars_on_terminals_only():
            tokenizer = AutoTokenizer.from_pretrained(
                str(path.parent), gguf_file=path.name, trust_remote_code=False
            )
            loaded, found = auto.from_pretrained(
                str(path.parent), dtype=dtype, output_loading_info=True, **where
            )
    except (ValueError, LookupError, NotImplementedError, TypeError, OSError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(
            f"source (={path}) must be of an architecture that transformers "
            f"{transformers.__version__} reads from a GGUF as a causal language model, and "
            f"{header.architecture!r} is not; give its folder with safetensors ({said[0][:160]})."
        ) from error
    wrong = differences(found)
    if not wrong:
        wrong = _left_out(loaded, header)
    if wrong:
        raise ConfigError(
            f"source (={path}) must hold the weights of {type(loaded).__name__}, no more and no "
            f"less, but {' and '.join(wrong)}; give the whole model, of this kind."
        )
    plain = _without_made_up_tokens(tokenizer, header.num_tokens)
    for name, id in header.special.items():  # transformers 5.17 leaves them out
        setattr(plain, name, plain.convert_ids_to_tokens(id))
    return _as_plain(loaded), plain


def _refuse_unread(path: Path, header: Header) -> None:
    """Raise ConfigError for tensors that change a model and that transformers does not read."""
    factors = [name for name in ROTARY_FACTORS if name in header.num_values]
    if factors:
        raise ConfigError(
            f"source (={path}) must not scale its rotary codes by a tensor, but has {factors[0]}, "
            "which transformers does not read: the model would be another one; give its folder "
            "with safetensors."
        )


def _left_out(model: PreTrainedModel, header: Header) -> list[str]:
    """Return in words by how much the file and the model differ in size; [] where they agree."""
    held = sum(header.num_values.values())
    if model.config.get_text_config().tie_word_embeddings:
        held -= header.num_values.get("output.weight", 0)  # a copy of the embeddings
    taken = sum(weight.numel() for weight in model.parameters())
    if held == taken:
        return []
    return [f"holds {held:,} values for the model's {taken:,}"]


def _as_plain(loaded: PreTrainedModel) -> PreTrainedModel:
    """Return the same model without the traces of its origin, which forbid saving it."""
    config = copy.deepcopy(loaded.config)
    for name in ("quantization_config", "_model_name_or_path"):
        if name in vars(config):
            delattr(config, name)
    with torch.device("meta"):
        plain = type(loaded)(config)
    plain.load_state_dict(loaded.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = loaded.generation_config
    return plain


def _first_bytes(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(len(LFS_POINTER))


def _is_text(field: Any) -> bool:
    return [kind.name for kind in field.types] == ["STRING"]


def _text(field: Any) -> str:
    return str(bytes(field.parts[field.data[0]]), encoding="utf-8")


def _without_made_up_tokens(tokenizer: Any, num_tokens: int) -> Tokenizer:
    """Return a tokenizer without the special tokens that transformers adds behind the file's own.

    No row of the embeddings belongs to them.
    """
    made_up = {token for token, place in tokenizer.get_vocab().items() if place >= num_tokens}
    if not made_up:
        return tokenizer
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = [one for one in state["added_tokens"] if one["id"] < num_tokens]
    kept = {n: token for n, token in tokenizer.special_tokens_map.items() if token not in made_up}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(json.dumps(state)),
        chat_template=tokenizer.chat_template,
        **kept,
    )


@contextlib.contextmanager
def _bars_on_terminals_only() -> Iterator[None]:
    """Keep the bar of transformers' reader off a stream on which it can't be redrawn."""
    if redraws(sys.stderr.isatty()):
        yield
        return
    with contextlib.redirect_stderr(io.StringIO()):
        yield
