"""Citation precision, recall and support by hand."""

from __future__ import annotations

import pytest

from plumbrule.grounding.citations import claims, score_citations, without_citations
from plumbrule.grounding.support import content_words

BERO = "Bero bakes bread in Mera."
TOLA = "Tola sells fish in Arlen."


@pytest.mark.parametrize(
    ("text", "precision", "recall", "support"),
    [
        ("Bero bakes bread [1].", 1.0, 1.0, 1.0),
        ("Bero bakes bread. [1]", 1.0, 1.0, 1.0),  # behind the end it is the sentence's too
        ("Bero bakes bread.", None, 0.0, 0.0),
        ("Bero bakes bread [2].", 0.0, 0.0, 0.0),
        ("Bero bakes bread [3].", 0.0, 0.0, 0.0),  # no such passage
        ("Bero bakes bread [1][1].", 1.0, 1.0, 1.0),  # once in a sentence
        # passage 2 adds nothing: [1] alone supports it
        ("Bero bakes bread [1][2].", 0.5, 1.0, 1.0),
        # each holds half: each alone supports it (half is enough), and both are needed for all
        ("Bero bakes, Tola sells [1][2].", 1.0, 1.0, 1.0),
        # one of two sentences is supported; words: bero bakes | tola sells, of which two are held
        ("Bero bakes [1]. Tola sells [1].", 0.5, 0.5, 0.5),
        # a third of the words of the sentence stand in passage 1: below a half
        ("Bero eats cheese [1].", 0.0, 0.0, 1 / 3),
        ("Yes [1].", None, None, None),
        ("Yes [7].", 0.0, None, None),
        ("", None, None, None),
    ],
)
def test_by_hand(
    text: str, precision: float | None, recall: float | None, support: float | None
) -> None:
    found = score_citations(text, (BERO, TOLA))
    assert found[:3] == pytest.approx((precision, recall, support))


def test_two_passages_that_only_together_support_a_sentence_are_both_precise() -> None:
    """Six content words, two in each passage, and a threshold of 0.6: alone 1/3, together 2/3."""
    text = "Bero bakes, Tola sells, Nim prays [1][2]."
    found = score_citations(text, ("Bero bakes.", "Tola sells."), threshold=0.6)
    assert (found.precision, found.recall) == (1.0, 1.0)
    assert found.support == pytest.approx(2 / 3)
    assert score_citations(text, ("Bero bakes.", "Sun."), threshold=0.6).precision == 0.0


def test_counts_and_claims() -> None:
    found = score_citations("Bero bakes [1][9]. Tola [2].", (BERO, TOLA))
    assert (found.num_citations, found.num_not_shown) == (3, 1)
    assert [claim.cited for claim in claims("One thing. [2] Two [1] things!")] == [[2], [1]]
    assert without_citations("Bero [1] bakes [12].") == "Bero bakes."
    assert score_citations(f"Bero bakes [{'9' * 40}].", (BERO,)).num_citations == 0  # no number


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # What begins the next line is cited there, and the sentence before keeps its end.
        ("Bero bakes.\n\n[1] Tola sells.", [("bero bakes", []), ("tola sells", [1])]),
        ("Bero bakes.\n[1] Tola sells.", [("bero bakes", []), ("tola sells", [1])]),
        # A line of citations alone belongs to the sentence before it.
        ("Bero bakes.\n[1] [2]\nTola sells.", [("bero bakes", [1, 2]), ("tola sells", [])]),
        ("Bero bakes\n\n[1]", [("bero bakes", [1])]),
        # The numbers of a list are no claims; a number that is all of an answer is one.
        ("1. Bero bakes [1].\n2. Tola sells. [2]", [("bero bakes", [1]), ("tola sells", [2])]),
        ("1. [1] Bero bakes.\n 2) Tola sells.", [("bero bakes", [1]), ("tola sells", [])]),
        ("4. [1]", [("4", [1])]),
        ("Since 12. Tola sells.", [("since 12", []), ("tola sells", [])]),
    ],
)
def test_lines_and_lists(text: str, expected: list[tuple[str, list[int]]]) -> None:
    found = [(" ".join(claim.words), claim.cited) for claim in claims(text)]
    assert found == [(" ".join(content_words(words)), cited) for words, cited in expected]
