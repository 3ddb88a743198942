"""Rollouts as the page holds them: deflated, in base64; JSON of the rows, binary of the tokens.

Base64 has no `<`, so no text of a policy can end the element that holds it, and the browser
inflates the tokens of an update only when one of its rollouts is opened (`data.js` reads both).

Tokens of an update, its chosen responses one behind the other, N positions in all, little-endian:
N int32 places in the page's vocabulary (-1: the step after the response), for each column N
float32, N uint8 masks (1: sampled by the policy, 2: a step). Numbers keep 12 bits of their
mantissa, a relative error below 2e-4, so that they deflate to about half.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plumbrule.report.rollouts.files import TOKEN_NUMBERS, Ragged

TOKENIZER = "tokenizer.json"
"""The tokenizer as plain data; no other file of a model's folder is read, and no code of it."""
DIGITS = 5
"""Significant digits of a response's numbers."""
RATIO = "ratio"
"""Column that is made of two: probability before the update over that at sampling."""


class Vocabulary:
    """The tokens that a page shows, each once, in the order in which they are met."""

    def __init__(self, model: Path):
        """Args: model: the policy's folder; without a tokenizer.json ids stand for tokens."""
        self.places: dict[int, int] = {}
        self.tokenizer = _read_tokenizer(model / TOKENIZER)

    @property
    def note(self) -> str:
        """What is to be said where tokens cannot be decoded."""
        return (
            ""
            if self.tokenizer is not None
            else "The policy's tokenizer.json is not there: tokens are shown as ids, and prompts "
            "as far as their data artifact says them."
        )

    def place(self, ids: np.ndarray) -> np.ndarray:
        """Return the place of each id, (n,) int32; ids below 0 stay -1."""
        kinds, inverse = np.unique(ids, return_inverse=True)
        found = [
            self.places.setdefault(i, len(self.places)) if i >= 0 else -1 for i in kinds.tolist()
        ]
        return np.array(found, dtype=np.int32)[inverse] if len(ids) else np.zeros(0, np.int32)

    def texts(self) -> list[str]:
        """Return the text of each token."""
        return [self._text(token_id) for token_id in self.places]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included; "" without a tokenizer."""
        if self.tokenizer is None:
            return ""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    def _text(self, token_id: int) -> str:
        """Return a token as it stands in a text; of bytes that are no text alone, its name."""
        piece = None if self.tokenizer is None else self.tokenizer.id_to_token(token_id)
        if piece is None:
            return f"#{token_id}"
        if "\u2581" in piece:  # SentencePiece's sign of a space, which decoding one token drops
            return str(piece.replace("\u2581", " "))
        text = str(self.tokenizer.decode([token_id], skip_special_tokens=False))
        return f"\u27e8{piece}\u27e9" if "\ufffd" in text or not text else text


def _read_tokenizer(path: Path) -> Any:
    """Return the tokenizer in a file; None: there is none, or none that can be read."""
    if not path.is_file():
        return None
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception:  # the library raises a plain Exception for whatever is wrong with the file
        return None


def pack(content: bytes) -> str:
    """Return bytes deflated, in base64."""
    return base64.b64encode(zlib.compress(content, 6)).decode("ascii")


def pack_json(value: Any) -> str:
    """Return a value's JSON, packed. Numbers in it must be finite."""
    return pack(json.dumps(value, separators=(",", ":"), allow_nan=False).encode("utf-8"))


def rounded(values: Iterable[float]) -> list[float | None]:
    """Return numbers to `DIGITS` significant digits; None for NaN and Inf."""
    return [float(f"{v:.{DIGITS}g}") if math.isfinite(v) else None for v in map(float, values)]


def token_columns(columns: Iterable[str]) -> list[str]:
    """Return the names of the numbers that are packed of each token, in order."""
    there = set(columns)
    names = [name for name in TOKEN_NUMBERS if name in there]
    if {"logprobs", "rollout_logprobs"} <= there:
        names.insert(names.index("logprobs"), RATIO)
    return names


def pack_tokens(
    columns: Mapping[str, Ragged], names: Sequence[str], vocabulary: Vocabulary
) -> tuple[str, list[int]]:
    """Return the tokens of an update's responses, packed, and the positions of each.

    Args: names: what `token_columns` says of the page; a column that is missing here is NaN.
    """
    ids = columns["response"]
    lengths = max((c.lengths for c in columns.values()), key=lambda found: int(found.sum()))
    total = int(lengths.sum())
    places = np.full(total, -1, np.int64)
    begins = np.cumsum(lengths) - lengths
    inside = np.arange(total) - np.repeat(begins, lengths) < np.repeat(ids.lengths, lengths)
    places[inside] = ids.values
    mask = np.where(inside, 1, 0) if "action_mask" not in columns else columns["action_mask"].values
    steps = columns["step_mask"].values if "step_mask" in columns else mask
    parts = [vocabulary.place(places).astype("<i4").tobytes()]
    parts += [_short(_numbers(columns, name, total)).tobytes() for name in names]
    parts += [(mask.astype(np.uint8) + 2 * steps.astype(np.uint8)).tobytes()]
    return pack(b"".join(parts)), lengths.tolist()


def _numbers(columns: Mapping[str, Ragged], name: str, total: int) -> np.ndarray:
    if name == RATIO and {"logprobs", "rollout_logprobs"} <= set(columns):
        gaps = columns["logprobs"].values - columns["rollout_logprobs"].values.astype(np.float64)
        return np.exp(np.clip(gaps, -80.0, 80.0))
    return columns[name].values if name in columns else np.full(total, np.nan)


def _short(values: np.ndarray) -> np.ndarray:
    """Return float32 of which the last 12 bits of the mantissa are 0, rounded to nearest."""
    plain = np.ascontiguousarray(values, dtype="<f4")
    bits = plain.view("<u4")
    short = ((bits + np.uint32(0x800)) & np.uint32(0xFFFFF000)).view("<f4")
    return np.where(np.isfinite(plain), short, np.float32(np.nan)).astype("<f4")
