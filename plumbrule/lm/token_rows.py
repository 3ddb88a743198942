"""A prompt and one response to it as token ids; imports no torch."""

from __future__ import annotations

from typing import NamedTuple


class TokenRow(NamedTuple):
    """Token ids of a prompt, passages included, and of one response to it."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    action_mask: tuple[bool, ...] | None = None
    """Of the response's tokens, True = one that a policy writes, False = one of an answer to its
    search call, from which nothing is learnt; None: it writes all."""

    @property
    def num_tokens(self) -> int:
        """Return the length of both together."""
        return len(self.prompt) + len(self.response)

    @property
    def num_actions(self) -> int:
        """Return how many tokens of the response the policy writes."""
        return len(self.response) if self.action_mask is None else sum(self.action_mask)
