"""What counts as a call in a turn, and at which token it ends."""

from __future__ import annotations

from dataclasses import replace

import pytest
from worlds import ppo as world
from worlds import tiny_models

from plumbrule.errors import ConfigError
from plumbrule.lm.config import SearchConfig
from plumbrule.lm.search_calls.calls import (
    CallEnd,
    count_calls,
    count_malformed,
    first_call,
)

SEARCH = SearchConfig(max_turns=3)


@pytest.mark.parametrize(
    ("text", "query", "malformed", "calls"),
    [
        ("I ask <search> who is Ada </search> now", "who is Ada", 0, 1),
        ("<search>a</search><search>b</search>", "a", 0, 2),
        ("<search> a <search> b </search>", "b", 1, 1),  # the first marker has no end
        ("</search> <search> b </search>", "b", 1, 1),  # an end that nothing began
        ("<search> a", None, 1, 0),
        ("a </search>", None, 1, 0),
        ("<search>  </search>", "", 1, 1),
        ("plain", None, 0, 0),
        ("<search> </search", None, 1, 0),
        ("", None, 0, 0),
    ],
)
def test_calls_and_what_only_looks_like_one(
    text: str, query: str | None, malformed: int, calls: int
) -> None:
    found = first_call(text, SEARCH)
    assert (None if found is None else found.query) == query
    assert count_malformed(text, SEARCH) == malformed
    assert count_calls(text, SEARCH) == calls
    if found is not None:
        assert text[: found.end].endswith(SEARCH.close)


def test_a_call_ends_at_the_token_that_completes_the_marker_however_it_is_cut() -> None:
    """The same letters as one-byte tokens, and as the tokenizer's own: both end at the last."""
    tokenizer = tiny_models.tokenizer()
    end = CallEnd(tokenizer, SEARCH, [tokenizer.eos_token_id])
    text = "so <search> the river </search>"
    own = tokenizer(text, add_special_tokens=False).input_ids
    letters = [i for letter in text for i in tokenizer(letter, add_special_tokens=False).input_ids]
    assert own != letters
    for tokens in (own, letters):
        assert tokens[-1] in end.token_ids
        ends = [end.ends(tokens[: i + 1]) for i in range(len(tokens))]
        assert ends == [False] * (len(tokens) - 1) + [True]
    assert not end.ends([*own[:-1], tokenizer.eos_token_id])  # a stop token's text counts nothing


def test_markers_that_are_special_tokens_are_seen() -> None:
    tokenizer = tiny_models.train_tokenizer(tiny_models.TEXTS, 320)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<search>", "</search>"]})
    tokens = tokenizer("<search> the river </search>", add_special_tokens=False).input_ids
    assert tokens[-1] == tokenizer.convert_tokens_to_ids("</search>")
    end = CallEnd(tokenizer, SEARCH, [tokenizer.eos_token_id])
    assert tokens[-1] in end.token_ids
    assert end.ends(tokens)


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"max_turns": 0}, r"search.max_turns \(=0 turns\) must be at least 1"),
        ({"num_passages": 0}, "search.num_passages"),
        ({"budget_tokens": 0}, "search.budget_tokens"),
        ({"cache_megabytes": -1}, "search.cache_megabytes"),
        ({"method": "sparse"}, "search.method"),
        ({"open": " "}, "search.open.* must be printable ASCII"),
        # With a byte-level BPE no token holds a blank, but one that stands for it.
        ({"close": "</search> "}, "search.close.* without blanks at its ends"),
        ({"open": " <search>"}, "search.open.* without blanks at its ends"),
        ({"close": "\u27e9"}, "search.close.* must be printable ASCII"),
        ({"open": "ask", "close": "asked"}, "search.close.* must not hold search.open"),
        ({"template": "no room"}, "search.template.* must hold {passages} once"),
    ],
)
def test_settings_that_can_not_work_are_refused(changes: dict[str, object], refused: str) -> None:
    with pytest.raises(ConfigError, match=refused):
        SearchConfig(**changes)  # type: ignore[arg-type]


def test_a_marker_that_could_never_end_a_call_is_refused() -> None:
    policy = tiny_models.policy()
    stops = policy.spec.stop_token_ids
    eos = policy.tokenizer.eos_token
    for name, changes in (("close", {"close": f"end{eos}"}), ("open", {"open": eos})):
        with pytest.raises(ConfigError, match=rf"search.{name} .* must hold no stop token"):
            CallEnd(policy.tokenizer, replace(SEARCH, **changes), stops)
    words = world.tokenizer()  # of whole words, none of which has a Z
    with pytest.raises(
        ConfigError, match=r"search.close \(=Z\) must end with a letter that a token"
    ):
        CallEnd(words, replace(SEARCH, close="Z"), [])
