"""Where a policy's text calls a search, and what in it only looks like a call.

A call is the opening marker, a query and the closing marker, in one turn. It is looked for in the
decoded text of the turn, since a tokenizer may cut the markers in many ways and join them with what
stands around them; the tokens themselves stay as they were sampled. Both markers are ASCII, so the
last letter of the closing one lies in one token: only behind a token with that letter is the text
decoded (`CallEnd`).

    <search> who founded Ashmill </search>      one call
    <search> a <search> b </search>             a call for "b"; the first marker is malformed
    </search>, or <search> without its end      malformed
    <search> </search>                          a call without a query: it ends the turn, is
                                                answered with no passages, and is malformed
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

from transformers import PreTrainedTokenizerBase

from plumbrule.errors import ConfigError
from plumbrule.lm.config import SearchConfig


class FoundCall(NamedTuple):
    """The first call in a text."""

    query: str
    """Without blanks around it."""
    end: int
    """Behind its closing marker, in characters."""


def first_call(text: str, search: SearchConfig) -> FoundCall | None:
    """Return the first call in a text; None where there is none."""
    begun = text.find(search.open)
    if begun < 0:
        return None
    end = text.find(search.close, begun + len(search.open))
    if end < 0:
        return None
    begin = text.rfind(search.open, 0, end) + len(search.open)
    return FoundCall(text[begin:end].strip(), end + len(search.close))


def count_malformed(turn: str, search: SearchConfig) -> int:
    """Return the markers in a turn that are no part of a call, and its calls without a query.

    Markers behind the turn's first call count by the same rule.
    """
    malformed, rest = 0, turn
    while (call := first_call(rest, search)) is not None:
        inside = rest[: call.end]
        malformed += inside.count(search.open) + inside.count(search.close) - 2 + (not call.query)
        rest = rest[call.end :]
    return malformed + rest.count(search.open) + rest.count(search.close)


def count_calls(turn: str, search: SearchConfig) -> int:
    """Return the calls in a turn."""
    number, rest = 0, turn
    while (call := first_call(rest, search)) is not None:
        number, rest = number + 1, rest[call.end :]
    return number


class CallEnd:
    """Says at which token a turn ends, for the sampler (`Until`).

    token_ids: tokens that hold the closing marker's last letter, the only ones that can end a call.

    Raises: ConfigError: there is none, or a marker is encoded with a stop token: no call would end.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, search: SearchConfig, stop_ids: Sequence[int]
    ):
        self._tokenizer, self._search, self._stop_ids = tokenizer, search, frozenset(stop_ids)
        last = search.close[-1]
        vocabulary = tokenizer.get_vocab()
        self.token_ids = sorted(i for token, i in vocabulary.items() if last in token)
        if not self.token_ids:
            raise ConfigError(
                f"search.close (={search.close}) must end with a letter that a token of the "
                f"policy's tokenizer holds (={last!r} is in none); choose another marker."
            )
        for name in ("open", "close"):
            marker = getattr(search, name)
            stops = self._stop_ids.intersection(
                tokenizer(marker, add_special_tokens=False).input_ids
            )
            if stops:
                told = ", ".join(map(str, tokenizer.convert_ids_to_tokens(sorted(stops))))
                raise ConfigError(
                    f"search.{name} (={marker}) must hold no stop token of the policy (={told}), "
                    "which would end the response before the call; choose another marker."
                )

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of a turn, special tokens spelt out, stop tokens left out."""
        kept = [i for i in tokens if i not in self._stop_ids]
        decoded = self._tokenizer.decode(
            kept, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return cast(str, decoded)

    def ends(self, tokens: Sequence[int]) -> bool:
        """Return whether a turn of these tokens holds a call."""
        return first_call(self.text(tokens), self._search) is not None
