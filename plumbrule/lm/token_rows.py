"""A prompt and one response to it as token ids; imports no torch."""

from __future__ import annotations

from typing import NamedTuple


class TokenRow(NamedTuple):
    """Token ids of a prompt, passages included, and of one response to it."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Return the length of both together."""
        return len(self.prompt) + len(self.response)
