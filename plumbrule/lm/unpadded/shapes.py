"""Few shapes: libraries compile and keep code for each number of tokens that they meet."""

from __future__ import annotations

ROUNDED_BITS = 4
"""Leading bits that a rounded number has beside its first; the others are 0."""


def num_added(number: int) -> int:
    """Return what is added to a number of tokens to round it up, less than a sixteenth of it."""
    return -number % max(1, 2 ** (number.bit_length() - 1 - ROUNDED_BITS))
