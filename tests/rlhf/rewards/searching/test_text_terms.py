"""Rewards for answers, searches and citations, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from plumbrule.data.records import Message, Prompt
from plumbrule.errors import DataError
from plumbrule.protocols import Episode, SearchCall, Searching
from rlhf.rewards.config import RewardConfig, RewardTermConfig
from rlhf.rewards.functions import FUNCTIONS, check_prompts
from rlhf.rewards.searching.text_terms import gains, redundancies

BERO, TOLA, NIM = "Bero bakes bread in Mera.", "Tola sells fish.", "Nim prays."


def episode(
    response: str = "Mera",
    searches: list[list[str]] | None = None,
    shown: tuple[str, ...] = (),
    finished: bool = True,
    malformed: int = 0,
    unanswered: int = 0,
    **meta: Any,
) -> Episode:
    meta = meta or {"answer": "Mera", "aliases": ["the town of Mera"]}
    searching, passages = None, shown
    if searches is not None:
        calls = tuple(SearchCall(f"q{i}", tuple(texts)) for i, texts in enumerate(searches))
        searching = Searching(("",) * (len(calls) + 1), calls, malformed, unanswered)
        passages = (*shown, *(text for call in calls for text in call.passages))
    prompt = Prompt("p", (Message("user", "where does Bero bake?"),), meta)
    return Episode(prompt, passages, response, finished, searching)


def value(name: str, given: Episode) -> float:
    """The same from a batch as alone."""
    one, other = FUNCTIONS[name]([given, given])
    assert one == other
    return one


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("exact_match", episode("The Mera [1]."), 1.0),
        ("exact_match", episode("town of Mera"), 1.0),
        ("exact_match", episode("It is in Mera."), 0.0),
        ("exact_match", episode("four", answers=["4", "four"]), 1.0),
        ("search_format", episode(), 1.0),
        ("search_format", episode(searches=[[BERO]]), 1.0),
        ("search_format", episode(searches=[[BERO]], malformed=1), 0.0),
        ("search_format", episode(searches=[[BERO]], unanswered=1), 0.0),
        ("search_format", episode(searches=[[BERO]], finished=False), 0.0),
        ("citation_precision", episode("Bero bakes [1], Tola [2].", [[BERO, NIM]]), 0.5),
        ("citation_recall", episode("Bero bakes [1]. Tola sells.", [[BERO]]), 0.5),
        ("cited_support", episode("Bero bakes [1]. Tola sells.", [[BERO]]), 0.5),
        ("citation_precision", episode("Mera", [[BERO]]), 0.0),
    ],
)
def test_by_hand(name: str, given: Episode, expected: float) -> None:
    assert value(name, given) == pytest.approx(expected)


def test_gain_by_whether_the_answer_was_found() -> None:
    """The second search finds it, the third has nothing to add; a passage of the prompt counts."""
    assert gains(episode(searches=[[TOLA], [NIM, BERO], [BERO]])) == [0.0, 1.0, 0.0]
    assert gains(episode(searches=[[BERO]], shown=(BERO,))) == [0.0]
    assert gains(episode(searches=[[], [BERO]])) == [0.0, 1.0]
    assert gains(episode(searches=None)) == []
    assert value("information_gain", episode(searches=[[TOLA], [BERO]])) == 1.0


def test_gain_towards_gold_passages_by_hand() -> None:
    """Texts `fish`, `fish sun` and the gold passages `fish` and `moon`.

    Documents with fish: 3 of 4, sun and moon 1 each. idf = ln(5 / (1 + df)) + 1: fish 1.2231, sun
    1.9163. cos(fish sun, fish) = 1.2231 / sqrt(1.2231^2 + 1.9163^2) = 0.5380. The search that shows
    `fish sun` adds 0.5380 / 2, the next, with `fish`, the rest to 1 / 2; moon is never found.
    """
    found = gains(episode(searches=[["fish sun"], ["fish"]], gold_passages=["fish", "moon"]))
    assert found == pytest.approx([0.5380 / 2, (1 - 0.5380) / 2], abs=1e-4)
    assert sum(found) <= 1
    assert gains(episode(searches=[["the"]], gold_passages=["of"])) == [0.0]


def test_redundancy_by_hand() -> None:
    assert redundancies(episode(searches=[[BERO, TOLA], [BERO, NIM], []])) == [0.0, 0.5, 0.0]
    assert redundancies(episode(searches=[[BERO]], shown=(BERO,))) == [1.0]
    assert value("search_redundancy", episode(searches=[[BERO], [BERO], [BERO]])) == 2.0


def test_a_prompt_without_an_answer_is_named() -> None:
    with pytest.raises(DataError, match=r"prompt 'p': meta.answer \(=None\) must be a text"):
        FUNCTIONS["exact_match"]([episode(topic="bread")])
    with pytest.raises(DataError, match=r"meta.answer \(=3\) must be a text"):
        FUNCTIONS["information_gain"]([episode(answer=3, searches=[[BERO]])])


@pytest.mark.parametrize(
    "meta",
    [
        {"answers": "Mera"},
        {"answer": "Mera", "aliases": "Old Town"},
        {"answer": "Mera", "aliases": None},
        {"answer": "Mera", "answers": None},
        {"answer": "Mera", "answers": []},
        {"answers": ["The", "Mera"]},
    ],
)
def test_an_answer_is_a_text_or_a_list_and_never_read_letter_by_letter(meta: Any) -> None:
    assert value("exact_match", episode("Mera", **meta)) == 1.0
    assert value("exact_match", episode("M", **meta)) == 0.0
    assert value("exact_match", episode("", **meta)) == 0.0  # "The" is nothing, normalised
    assert gains(episode(searches=[["M and O"], [BERO]], **meta)) == [0.0, 1.0]


def test_one_gold_passage_may_be_a_text() -> None:
    one = gains(episode(searches=[["fish sun"], ["fish"]], gold_passages="fish"))
    assert one == gains(episode(searches=[["fish sun"], ["fish"]], gold_passages=["fish"]))
    assert sum(one) == pytest.approx(1.0)
    nothing = episode(searches=[[BERO]], gold_passages=None, answer="Mera")
    assert gains(nothing) == [1.0]


@pytest.mark.parametrize(
    ("name", "meta", "message"),
    [
        (
            "exact_match",
            {"answers": {"a": 1}},
            r"meta.answers \(={'a': 1}\) must be a text or a list",
        ),
        ("exact_match", {"answers": ["a", 4]}, r"meta.answers \(=\['a', 4\]\) must be a text or"),
        ("exact_match", {"answer": "a", "aliases": 4}, r"meta.aliases \(=4\) must be a text or"),
        ("exact_match", {"answers": ["The"]}, r"with a word that is no article"),
        (
            "information_gain",
            {"gold_passages": [{"text": "a"}]},
            r"meta.gold_passages .* must be a",
        ),
        ("information_gain", {"topic": "bread"}, r"meta.answer \(=None\) must be a text"),
    ],
)
def test_prompts_are_checked_before_any_is_answered(name: str, meta: Any, message: str) -> None:
    good, bad = episode().prompt, episode(**meta).prompt
    check_prompts([name, "length"], [good])
    check_prompts(["length"], [bad])
    with pytest.raises(DataError, match=f"prompt 'p': .*{message}"):
        check_prompts([name], [good, bad])


def test_where_nothing_can_answer_admitting_it_is_right() -> None:
    assert value("exact_match", episode("I do not know.", answer="")) == 1.0
    assert value("exact_match", episode("Mera", answer="")) == 0.0
    assert value("information_gain", episode(answer="", searches=[[BERO], [TOLA]])) == 0.0


def test_they_are_terms_of_a_reward() -> None:
    names = ("exact_match", "search_format", "information_gain", "search_redundancy")
    names += ("citation_precision", "citation_recall", "cited_support")
    reward = RewardConfig([RewardTermConfig(name) for name in names])
    assert set(reward.weights) == set(names)
    assert all(term.source for term in reward.terms)  # each by its own code
    assert len({term.source for term in reward.terms}) == len(names)
