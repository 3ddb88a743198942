import math

import numpy as np
import pytest
from worlds.rankings import chat

from plumbrule.data.records import Preference
from rlhf.reward_model.report_card import (
    RULES,
    ScoredRanking,
    order_accuracy,
    report_card,
)


def ranked(i, responses, ranks, raw_scores, **more):
    preference = Preference(f"p{i}", chat(f"question {i}"), tuple(responses), tuple(ranks), **more)
    return ScoredRanking(preference, tuple(raw_scores))


def test_accuracy_loss_and_rules_by_hand():
    # Pairs (better, worse) and their gaps: 0-1: 2, 0-2: -1, 1-2: -3 of the first prompt, 1.5 of the
    # second. Two of four are right. Loss: log(1 + e^-2) = 0.126928, log(1 + e^1) = 1.313262,
    # log(1 + e^3) = 3.048587, log(1 + e^-1.5) = 0.201413; mean 1.172548.
    # "Longer": words 3, 1, 2 and 1, 1: right, right, wrong, a tie counted half: 2.5 / 4.
    card = report_card(
        [
            ranked(0, ["one two three", "one", "two one"], [1, 2, 3], [2.0, 0.0, 3.0]),
            ranked(1, ["yes", "no"], [1, 2], [0.5, -1.0]),
        ]
    )
    assert card["accuracy"]["value"] == 0.5
    assert card["accuracy"]["n"] == 4
    assert card["num_prompts"] == 2
    assert card["loss"]["value"] == pytest.approx(1.172548, abs=1e-6)
    assert card["rules"]["longer"]["value"] == 2.5 / 4
    assert card["rules"]["courteous"]["value"] == 0.5
    assert card["by_margin"] == []


def test_calibration_by_hand():
    # |gap| log 3 is 75 % sure: right, right, wrong, so 2/3 are right and it is off by 1/12. |gap|
    # log 9 is 90 % sure: right, off by 0.1. Weighted: (3 / 12 + 0.1) / 4 = 0.0875.
    gaps = [math.log(3), math.log(3), -math.log(3), math.log(9) + 1e-9]
    rankings = [ranked(i, ["a", "b"], [1, 2], [gap, 0.0]) for i, gap in enumerate(gaps)]
    assert report_card(rankings)["ece"]["value"] == pytest.approx(0.0875, abs=1e-6)


def test_a_sure_and_right_model_is_calibrated():
    rng = np.random.default_rng(0)
    gaps = rng.normal(0, 2, 4000)
    right = rng.random(4000) < 1 / (1 + np.exp(-np.abs(gaps)))
    signed = np.where(right, np.abs(gaps), -np.abs(gaps))
    rankings = [ranked(i, ["a", "b"], [1, 2], [gap, 0.0]) for i, gap in enumerate(signed[:1500])]
    # chance alone leaves about sqrt(0.25 / 300) * 0.8 = 0.023 per bin of 300
    assert report_card(rankings)["ece"]["value"] < 0.06


def test_length_correlation_is_that_of_score_and_words():
    rankings = [
        ranked(i, ["w " * (3 * i + 1), "w " * (3 * i + 2)], [1, 2], [i, i + 0.5]) for i in range(9)
    ]
    card = report_card(rankings)["length_correlation"]
    assert card["value"] == pytest.approx(1.0)
    assert card["n"] == 18


def test_pairs_with_an_answer_that_did_not_fit_are_not_counted():
    ranking = ranked(0, ["a", "b", "c"], [1, 2, 3], [1.0, None, 0.0])
    assert ranking.pairs() == [(0, 2)]
    assert report_card([ranking])["accuracy"]["n"] == 1


def test_margin_bins_are_quarters_in_order():
    rankings = [
        ranked(i, ["a", "b"], [1, 2], [1.0 if i >= 2 else -1.0, 0.0], scores=(float(i), 0.0))
        for i in range(8)
    ]
    bins = report_card(rankings)["by_margin"]
    assert [(b["from"], b["to"]) for b in bins] == [(0.0, 1.0), (2.0, 3.0), (4.0, 5.0), (6.0, 7.0)]
    assert [b["accuracy"]["value"] for b in bins] == [0.0, 1.0, 1.0, 1.0]


def test_noise_free_accuracy_uses_the_true_order():
    # The annotator ranked the second prompt the wrong way round; the model follows the truth.
    rankings = [
        ranked(0, ["a", "b"], [1, 2], [1.0, 0.0], meta={"utilities": [2.0, 1.0]}),
        ranked(1, ["a", "b"], [1, 2], [0.0, 1.0], meta={"utilities": [1.0, 2.0]}),
        ranked(2, ["a", "b"], [1, 2], [0.0, 1.0], meta={"utilities": [1.0, 1.0]}),
    ]
    card = report_card(rankings)
    assert card["accuracy"]["value"] == pytest.approx(1 / 3)
    assert card["noise_free"]["accuracy"]["value"] == 1.0
    assert card["noise_free"]["accuracy"]["n"] == 2


def test_pairs_of_one_prompt_widen_the_interval():
    gaps = np.tile([1.0, 1.0, -1.0, 1.0], 25)
    alone = order_accuracy(gaps, range(100))
    grouped = order_accuracy(np.sort(gaps), np.arange(100) // 10)
    assert grouped.value == alone.value == 0.75
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)


def test_one_prompt_has_no_bounds_and_the_card_says_so():
    ranking = ranked(0, ["a", "b", "c"], [1, 2, 3], [2.0, 1.0, 3.0])
    found = report_card([ranking])["accuracy"]
    assert (found["low"], found["high"], found["n"], found["groups"]) == (None, None, 3, 1)
    assert "too few: 1 group" in found["reason"]


def test_a_cards_numbers_say_how_many_prompts_they_rest_on():
    rankings = [ranked(i, ["a", "b c", "d"], [1, 2, 3], [2.0, 0.5, i / 9]) for i in range(12)]
    card = report_card(rankings)
    for name in ("accuracy", "loss", "ece", "ece_if_calibrated", "ece_debiased"):
        assert (card[name]["n"], card[name]["groups"]) == (36, 12)
    assert card["ece_if_calibrated"]["low"] < card["ece_if_calibrated"]["high"]


@pytest.mark.parametrize(
    ("rule", "text", "holds"),
    [
        ("courteous", "Thank you for asking. It is red.", True),
        ("courteous", "It is red.", False),
        ("says_unknown", "I do not know.", True),
        ("says_unknown", "I'm not sure about that.", True),
        ("says_unknown", "You know it: red.", False),
    ],
)
def test_rules_see_what_they_name(rule, text, holds):
    assert bool(RULES[rule](text)) == holds


def test_no_pair_is_refused():
    with pytest.raises(ValueError, match="at least one scored pair"):
        report_card([ranked(0, ["a", "b"], [1, 1], [1.0, 0.0])])


def test_noise_free_accuracy_by_kind_of_difference_by_hand():
    # Terms of three answers: right and polite; right; wrong. The noisy annotator put 1 before 0.
    terms = {
        "right": [2.0, 2.0, 0.0],
        "wrong": [0.0, 0.0, -1.5],
        "supported": [0.0, 0.0, 0.0],
        "admits": [0.0, 0.0, 0.0],
        "brief": [0.5, 0.5, 0.5],
        "polite": [0.5, 0.0, 0.0],
    }
    utilities = [3.0, 2.5, -1.0]
    ranking = ranked(
        0,
        ["Thank you for asking. Arlen.", "Arlen.", "In Bosk."],
        [2, 1, 3],
        [1.0, 2.0, 1.5],
        meta={"terms": terms, "utilities": utilities},
    )
    found = report_card([ranking])["noise_free"]
    # By utility 0 > 1 > 2. Scores order 0-1 wrongly, 0-2 wrongly, 1-2 rightly.
    assert found["accuracy"]["value"] == pytest.approx(1 / 3)
    assert {k: (v["value"], v["n"]) for k, v in found["by_difference"].items()} == {
        "right_wrong": (0.5, 2),
        "polite": (0.0, 1),
    }
    # Courteous: 0-1 and 0-2 right, 1-2 a tie: 2.5 / 3. Longer: right, right, wrong (1 word, 2).
    assert found["best_rule"]["rule"] == "courteous"
    assert found["best_rule"]["value"] == pytest.approx(2.5 / 3)


def test_a_rule_turned_round_counts_as_a_rule():
    meta = {"terms": {}, "utilities": [1.0, 0.0]}
    rankings = [
        ranked(i, ["short", "long and wordy"], [1, 2], [1.0, 0.0], meta=meta) for i in range(3)
    ]
    best = report_card(rankings)["noise_free"]["best_rule"]
    assert (best["rule"], best["value"]) == ("not longer", 1.0)


def test_a_taste_for_length_that_the_model_learned_is_found():
    # Scores are 2 * utility + 0.6 * words / 10, so at equal utility ten words are worth 0.3.
    rng = np.random.default_rng(0)
    rankings = []
    for i in range(40):
        utilities, words = rng.normal(size=3), rng.integers(1, 30, 3)
        responses = [" ".join(["w"] * n) + f" {k}" for k, n in enumerate(words)]
        scores = 2 * utilities + 0.06 * (words + 1)
        ranks = list(np.argsort(np.argsort(-utilities)) + 1)
        rankings.append(ranked(i, responses, ranks, scores, meta={"utilities": list(utilities)}))
    taste = report_card(rankings)["learned_length_taste"]
    assert taste["value"] == pytest.approx(0.3, abs=1e-9)


def test_reliability_by_hand():
    """Sure to 75 %, 75 % and 90 %: two bins, of which the first is right once."""
    gaps = [math.log(3), -math.log(3), math.log(9) + 1e-9]
    rankings = [ranked(i, ["a", "b"], [1, 2], [gap, 0.0]) for i, gap in enumerate(gaps)]
    low, high = report_card(rankings)["reliability"]
    assert (low["low"], low["high"], low["n"], low["share"]) == (0.7, 0.8, 2, 0.5)
    assert low["sureness"] == pytest.approx(0.75)
    assert (high["low"], high["n"], high["share"]) == (0.9, 1, 1.0)
    assert high["sureness"] == pytest.approx(0.9)


def of_length(i, words, utility, score):
    """Two answers, of which the second has the given words, utility and score."""
    texts = ["one", " ".join(["word"] * words)]
    return ranked(i, texts, [1, 2], [0.0, score], meta={"utilities": [0.0, utility]})


def test_length_given_utility_is_the_partial_correlation():
    """Scores that follow the utility, which follows length: nothing is left for length itself."""
    rng = np.random.default_rng(0)
    words = rng.integers(2, 60, 300)
    utility = words / 10 + rng.normal(0, 1, 300)
    follows = [
        of_length(i, int(w), u, u) for i, (w, u) in enumerate(zip(words, utility, strict=True))
    ]
    card = report_card(follows)
    assert card["length_correlation"]["value"] > 0.8
    assert card["utility_correlation"]["value"] == pytest.approx(1.0)
    assert card["length_correlation_given_utility"]["value"] is None  # 0 / 0: score is utility
    noisy = utility + rng.normal(0, 1, 300)
    follows = [
        of_length(i, int(w), u, s)
        for i, (w, u, s) in enumerate(zip(words, utility, noisy, strict=True))
    ]
    found = report_card(follows)["length_correlation_given_utility"]
    assert found["low"] < 0.1 < report_card(follows)["length_correlation"]["low"]
    likes = [
        of_length(i, int(w), u, u + w) for i, (w, u) in enumerate(zip(words, utility, strict=True))
    ]
    assert report_card(likes)["length_correlation_given_utility"]["low"] > 0.5


def test_without_utilities_there_is_no_correlation_with_them():
    card = report_card([ranked(i, ["a", "b c"], [1, 2], [1.0, 0.0]) for i in range(3)])
    assert "utility_correlation" not in card
    assert "length_correlation_given_utility" not in card
