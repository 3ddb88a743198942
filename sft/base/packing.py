"""Documents packed into rows of one length, and which rows make up which batch.

A row holds several whole documents and, where none is left that fits, padding. Documents in a row
never see each other: `documents` numbers them, and the base stage attends only where the numbers
agree and counts positions from each document's start. So a packed row gives the same losses as its
documents one by one, and packing only saves work. Best-fit-decreasing packing leaves next to no
padding (Ding et al. 2024, arXiv:2404.10830).

A document longer than a row is cut into pieces that overlap by one token: a piece's first token is
context only, so each token of the document is still predicted exactly once.

Which rows belong to a step is a pure function of (seed, step). A resumed run needs no record of
where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from plumbrule.lm.randomness import generator

PADDING = -1
"""The document number of positions that hold no token."""


class Encoded(NamedTuple):
    """One document's tokens (t,) int32, and each token's weight in the loss (t,) float32."""

    tokens: np.ndarray
    weights: np.ndarray


class Packed(NamedTuple):
    """Rows of tokens.

    tokens: (n, t) int32. weights: (n, t) float32, 0 where a token is not to be predicted: the
    first of a document or piece, and padding. documents: (n, t) int32, numbered from 0 in each
    row, `PADDING` for padding. num_split: documents longer than a row.
    """

    tokens: np.ndarray
    weights: np.ndarray
    documents: np.ndarray
    num_split: int


def pack(
    documents: Sequence[Encoded], row_tokens: int, pad_id: int, window: int | None = None
) -> Packed:
    """Return the documents packed best-fit-decreasing into rows of `row_tokens`.

    Documents with fewer than two tokens predict nothing and are left out. With a window, that many
    pieces in a row are packed together, and their rows come in a random order before those of the
    next window: as near to the order of the documents as rows of equal difficulty allow.
    """
    pieces = [piece for document in documents for piece in _cut(document, row_tokens)]
    num_split = sum(len(document.tokens) > row_tokens for document in documents)
    lengths = [len(piece.tokens) for piece in pieces]
    rows: list[list[int]] = []
    for start in range(0, len(pieces), window or max(1, len(pieces))):
        some = lengths[start : start + window] if window else lengths
        found = [[start + index for index in held] for held in best_fit(some, row_tokens)]
        if window:
            found = [found[i] for i in generator("rows of a window", start).permutation(len(found))]
        rows += found
    tokens = np.full((len(rows), row_tokens), pad_id, np.int32)
    weights = np.zeros((len(rows), row_tokens), np.float32)
    numbers = np.full((len(rows), row_tokens), PADDING, np.int32)
    for row, held in enumerate(rows):
        at = 0
        for number, index in enumerate(held):
            piece = pieces[index]
            end = at + len(piece.tokens)
            tokens[row, at:end] = piece.tokens
            weights[row, at + 1 : end] = piece.weights[1:]
            numbers[row, at:end] = number
            at = end
    return Packed(tokens, weights, numbers, num_split)


def _cut(document: Encoded, row_tokens: int) -> list[Encoded]:
    """Return pieces of at most `row_tokens`, each beginning with the last token before it."""
    starts = range(0, len(document.tokens) - 1, row_tokens - 1)
    return [Encoded(*(part[at : at + row_tokens] for part in document)) for at in starts]


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Return bins of indices whose lengths add up to at most `capacity`.

    Longest first, each into the fullest bin that still has space for it; equal lengths in their
    order. Every length must lie in [1, capacity]. Which bin is fullest is found in one step: bit r
    of `free` is set while some bin has space for exactly r, so the lowest bit at or above a length
    names the bin, and the whole takes O(n log n).
    """
    bins: list[list[int]] = []
    bins_with: list[list[int]] = [[] for _ in range(capacity + 1)]
    free = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        fitting = free >> length
        if fitting:
            space = length + (fitting & -fitting).bit_length() - 1
            chosen = bins_with[space].pop()
            if not bins_with[space]:
                free &= ~(1 << space)
        else:
            space, chosen = capacity, len(bins)
            bins.append([])
        bins[chosen].append(index)
        left = space - length
        bins_with[left].append(chosen)
        free |= 1 << left
    return bins


def batch(
    seed: int, step: int, num_rows: int, rows_per_batch: int, in_order: bool = False
) -> np.ndarray:
    """Return the rows (rows_per_batch,) int64 of step `step`, counted from 0.

    Rows are drawn without replacement, epoch by epoch, each in an order of its own, but for the
    first if `in_order`; a batch may reach over the end of an epoch.
    """
    draws = np.arange(step * rows_per_batch, (step + 1) * rows_per_batch)
    epochs, places = np.divmod(draws, num_rows)
    return np.array(
        [_order(seed, int(e), num_rows, in_order)[p] for e, p in zip(epochs, places, strict=True)]
    )


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, num_rows: int, in_order: bool) -> np.ndarray:
    if in_order and epoch == 0:
        return np.arange(num_rows)
    return generator("base rows", seed, epoch).permutation(num_rows)
