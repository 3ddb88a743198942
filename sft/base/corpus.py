"""The base stage's texts: read, checked and turned into tokens with weights.

A row of a corpus is `{"text": "..."}`, or `{"segments": [["...", weight], ...]}` where some parts
of the text deserve more of the loss than others: the answer to a question rather than the passages
before it. The text is tokenised as a whole, so its tokens are those that the policy will see later,
and a token has the weight of the segment in which its last character stands.

Text may spell out the tokenizer's special tokens, so that a corpus can hold chats.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from plumbrule.data.json_lines import read_rows
from plumbrule.errors import DataError
from plumbrule.lm.chat import SPECIAL_TOKENS
from sft.base.packing import Encoded

CHUNK = 4096
"""Texts given to the tokenizer at a time, so that memory stays bounded."""


class CorpusText(NamedTuple):
    """One document. ends: where each of s segments ends, in characters. weights: theirs, >= 0.

    kind: what sort of text it is, if the corpus says; held-out texts are measured by kind.
    """

    text: str
    ends: tuple[int, ...]
    weights: tuple[float, ...]
    kind: str = ""


def read_corpus(path: Path) -> list[CorpusText]:
    """Return the texts of a corpus file in order.

    Raises: DataError: a row holds neither text nor segments, holds no characters, or has a weight
    that is not a number of at least 0; with file and row.
    """
    texts = []
    for number, row in read_rows(path):
        text = _text(row)
        if text is None:
            raise DataError(
                'a corpus row must be {"text": "..."} or {"segments": [["...", weight], ...]} with '
                "some text and no negative weight; mend or remove it.",
                path,
                number,
                json.dumps(row),
            )
        texts.append(text)
    return texts


def _text(row: dict[str, Any]) -> CorpusText | None:
    """Return the row's text, or None for a row that breaks the format."""
    segments = row.get("segments", [[row.get("text"), 1.0]])
    if not isinstance(segments, list):
        return None
    parts, ends, weights, at = [], [], [], 0
    for segment in segments:
        if not isinstance(segment, list) or len(segment) != 2:
            return None
        part, weight = segment
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not isinstance(part, str) or not number or not 0 <= weight < float("inf"):
            return None
        at += len(part)
        parts.append(part)
        ends.append(at)
        weights.append(float(weight))
    kind = row.get("kind", "")
    return CorpusText("".join(parts), tuple(ends), tuple(weights), str(kind)) if at else None


def plain_parts(texts: Sequence[CorpusText]) -> Iterator[str]:
    """Yield what stands between special tokens: a tokenizer must not learn their spelling."""
    special = re.compile("|".join(re.escape(token) for token in SPECIAL_TOKENS))
    for text in texts:
        yield from special.split(text.text)


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[CorpusText]) -> list[Encoded]:
    """Return each text's tokens and weights, between a beginning and an end token.

    The end token has the weight of the text's last segment. A text that spells these tokens out
    itself does not get them twice.
    """
    encoded = []
    for at in range(0, len(texts), CHUNK):
        chunk = texts[at : at + CHUNK]
        whole = tokenizer(
            [text.text for text in chunk],
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        for text, ids, offsets in zip(
            chunk, whole["input_ids"], whole["offset_mapping"], strict=True
        ):
            encoded.append(
                _weigh(text, ids, offsets, tokenizer.bos_token_id, tokenizer.eos_token_id)
            )
    return encoded


def _weigh(
    text: CorpusText, ids: list[int], offsets: list[tuple[int, int]], bos: int, eos: int
) -> Encoded:
    """Return the tokens between `bos` and `eos`, each with its segment's weight."""
    last_character = np.array([end for _, end in offsets], np.int64) - 1
    segment = np.searchsorted(np.array(text.ends), last_character, side="right")
    weights = np.array(text.weights, np.float32)[np.minimum(segment, len(text.weights) - 1)]
    tokens = np.array(ids, np.int32)
    if not len(ids) or ids[0] != bos:
        tokens, weights = np.insert(tokens, 0, bos), np.insert(weights, 0, 0.0)
    if ids[-1:] != [eos]:
        tokens, weights = np.append(tokens, eos), np.append(weights, text.weights[-1])
    return Encoded(tokens.astype(np.int32), weights.astype(np.float32))
