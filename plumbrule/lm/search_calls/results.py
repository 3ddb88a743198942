"""The answer to a search call as tokens: encoded once, piece by piece, and never again.

The pieces are the template before the passages, each passage as a line `[n] text`, and the template
behind them. Pieces are encoded apart and their tokens are joined, so a passage costs the same
tokens wherever it stands and a budget can be kept without encoding anything twice. What a passage
says is text: a special token spelt out in it is encoded letter by letter, so no document can end a
turn. The end of the template is never cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from plumbrule.errors import ConfigError
from plumbrule.lm.chat import encode_text
from plumbrule.lm.config import SearchConfig


class Results(NamedTuple):
    """The answer to a call."""

    passages: tuple[str, ...]
    """That fit, in order."""
    tokens: list[int]


class ResultWriter:
    """Writes answers in a tokenizer's tokens.

    Raises: ConfigError: the template alone is longer than the budget.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, search: SearchConfig):
        self._tokenizer, self._budget = tokenizer, search.budget_tokens
        before, _, behind = search.template.partition("{passages}")
        self._before, self._behind = encode_text(tokenizer, before), encode_text(tokenizer, behind)
        least = len(self._before) + len(self._behind)
        if least > self._budget:
            raise ConfigError(
                f"search.budget_tokens (={self._budget} tokens) must hold search.template, which "
                f"takes {least} without a passage; raise it or shorten the template."
            )

    def write(self, passages: Sequence[str], first_number: int) -> Results:
        """Return the answer with the passages that fit, each whole.

        One that does not fit is left out, and a shorter one behind it may still stand.

        Args: first_number: of the first passage; the others follow.
        """
        left = self._budget - len(self._before) - len(self._behind)
        shown: list[str] = []
        tokens = list(self._before)
        for passage in passages:
            line = encode_text(self._tokenizer, f"[{first_number + len(shown)}] {passage}\n")
            if len(line) <= left:
                shown.append(passage)
                tokens += line
                left -= len(line)
        return Results(tuple(shown), [*tokens, *self._behind])
