"""`tokens`: every so many tokens of a tokenizer, with an overlap counted in tokens.

For a policy or an encoder whose limit is in tokens. The tokenizer is the `tokenizer.json` of a
local folder, read by the library `tokenizers`; no model and no special tokens. A cut falls between
two tokens that share no character: where a character is several tokens, before all of them. A long
text is tokenized in blocks that end at a blank, so 10 MB on one line need no more memory than any.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plumbrule.data.records import Document
from plumbrule.errors import ConfigError
from rag.chunking.config import TOKENIZER
from rag.chunking.cutting import Chunker, Cutting, Span

BLOCK = 100_000
"""Characters that are tokenized together."""


def tokens(cutting: Cutting) -> Chunker:
    """Return the chunker of a tokenizer.

    Raises: ConfigError: its file can't be read.
    """
    tokenizer = open_tokenizer(str(cutting.chunker.tokenizer))
    size, overlap = cutting.chunker.tokens, cutting.chunker.overlap_tokens

    def cut(document: Document) -> list[Span]:
        return token_spans(document.text, offsets_of(tokenizer, document.text), size, overlap)

    return cut


def open_tokenizer(folder: str) -> Any:
    """Return the tokenizer of a folder, without truncation or padding."""
    from tokenizers import Tokenizer

    path = Path(folder) / TOKENIZER
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower class
        raise ConfigError(
            f"rag.chunker.tokenizer (={folder}) must hold a {TOKENIZER} that can be read "
            f"({error!s:.80}); give a model's folder."
        ) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def offsets_of(tokenizer: Any, text: str) -> list[Span]:
    """Return the (start, end) characters of a text's tokens, those that hold none left out."""
    found: list[Span] = []
    start = 0
    while start < len(text):
        end = min(start + BLOCK, len(text))
        if end < len(text):
            blank = max(text.rfind(" ", start + 1, end), text.rfind("\n", start + 1, end))
            end = blank if blank > start else end
        encoded = tokenizer.encode(text[start:end], add_special_tokens=False)
        found += [(start + a, start + b) for a, b in encoded.offsets if b > a]
        start = end
    return found


def token_spans(text: str, offsets: list[Span], size: int, overlap: int) -> list[Span]:
    """Return the spans of chunks of at most `size` tokens, without blanks at their ends.

    A character of more than `size` tokens makes a chunk that is larger.
    """
    # units: tokens that share characters belong together
    units: list[tuple[int, int, int]] = []  # start, end, number of tokens
    for a, b in offsets:
        if units and a < units[-1][1]:
            start, end, number = units[-1]
            units[-1] = (start, max(end, b), number + 1)
        else:
            units.append((a, b, 1))
    found: list[Span] = []
    first = last = 0  # the chunk is units[first:last]
    while last < len(units):
        fresh, held = last, sum(number for _, _, number in units[first:last])
        while last < len(units) and (last == fresh or held + units[last][2] <= size):
            held += units[last][2]
            last += 1
        span = trimmed(text, units[first][0], units[last - 1][1])
        if span is not None:
            found.append(span)
        first, kept = last, 0
        while first > 0 and kept + units[first - 1][2] <= overlap:
            first -= 1
            kept += units[first][2]
    return found


def trimmed(text: str, start: int, end: int) -> Span | None:
    """Return a span without blanks at its ends; None: it is blank."""
    inside = text[start:end]
    left = len(inside) - len(inside.lstrip())
    if left == len(inside):
        return None
    return start + left, start + len(inside.rstrip())
