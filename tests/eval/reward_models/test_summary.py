"""Sets to metrics: subsets, domains, ties, the rules beside the model, people who agree."""

from __future__ import annotations

import pytest

from eval.intervals import Intervals
from eval.reward_models.item_rows import item_rows, styles_of
from eval.reward_models.rankings import rankings_of
from eval.reward_models.summary import agreement_rows, summarise
from plumbrule.data.records import Message, Preference
from plumbrule.errors import DataError

INTERVALS = Intervals(0.95)


def ranking(id, responses, ranks, **meta):
    return Preference(id, (Message("user", f"Question {id}?"),), responses, ranks, meta=meta)


def measured(name, cases, seed=0):
    """Return the metrics of (preference, scores) cases."""
    found = rankings_of(name, [one for one, _ in cases])
    rows = [
        row
        for one, (_, scores) in zip(found, cases, strict=True)
        for row in item_rows(one, scores, seed)
    ]
    return summarise(rows, INTERVALS), rows


def test_every_pair_of_a_plain_ranking_counts_and_the_longer_wins_beside_it():
    # Ranks 1, 2, 2: pairs (0, 1) and (0, 2). Scores 3, 1, 3: right and tied: 1.5 / 2.
    # Characters 2, 4, 1: the longer is the worse, then the better: 1 / 2.
    metrics, rows = measured("mine", [(ranking("a", ("ab", "abcd", "x"), (1, 2, 2)), [3, 1, 3])])
    assert metrics["accuracy"].value == 0.75
    assert metrics["accuracy_longer"].value == 0.5
    assert {row["group"] for row in rows} == {"mine:0"}
    assert [row["id"] for row in rows] == ["a/0>1", "a/0>2"]


def test_the_first_wins_is_the_files_order_where_people_saw_it():
    shown = [(ranking(str(i), ("a", "bb"), (1, 2), in_order=True), [0, 0]) for i in range(8)]
    assert measured("s", shown)[0]["accuracy_first"].value == 1.0


def test_the_first_is_drawn_where_the_better_always_stands_first():
    """Or the rule would be always right of a file of chosen and rejected."""
    cases = [(ranking(str(i), ("a", "bb"), (1, 2)), [0, 0]) for i in range(200)]
    share = measured("s", cases)[0]["accuracy_first"].value
    assert 0.4 < share < 0.6
    drawn = [[r["accuracy_first"] for r in measured("s", cases, seed)[1]] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def best(id, subset, scores):
    one = ranking(id, ("r", "w1", "w2", "w3"), (1, 2, 2, 2), protocol="best_of", subset=subset)
    return one, scores


def ties(kind, question, right, wrong):
    texts = tuple(f"{kind}{question}{k}" for k in range(len(right) + len(wrong)))
    ranks = (1,) * len(right) + (2,) * len(wrong)
    meta = {"protocol": "ties", "subset": "ties", "kind": kind, "question": question}
    return ranking(f"{kind}:{question}", texts, ranks, **meta), [*right, *wrong]


def test_rewardbench2_is_the_mean_of_its_subsets_of_which_ties_is_one():
    # math: 1 of 1. focus: 0 and a tie of two (1/2): 0.25. ties: tied 5, 4 against 1: gap 3, spread
    # 1; reference 3 against 1: gap 2. All four parts 1, and .01 tanh(2 / 1 - 1): 1.0076159.
    cases = [
        best("a", "math", [2, 1, 1, 1]),
        best("b", "focus", [0, 1, 0, 0]),
        best("c", "focus", [2, 2, 0, 0]),
        ties("tied", "7", [5.0, 4.0], [1.0]),
        ties("ref", "7", [3.0], [1.0]),
    ]
    metrics, _ = measured("rewardbench2", cases)
    assert metrics["math_accuracy"].value == 1.0
    assert metrics["focus_accuracy"].value == 0.25
    assert metrics["ties_score"].value == pytest.approx(1.0076159, abs=1e-7)
    assert metrics["ties_ref_accuracy"].value == metrics["ties_tied_accuracy"].value == 1.0
    assert metrics["score"].value == pytest.approx((1 + 0.25 + 1.0076159) / 3, abs=1e-7)
    assert metrics["accuracy"].n == 3  # best of four; the ties have a score of their own


def test_an_interval_of_the_ties_score_needs_ten_questions():
    few = [
        c for q in "12" for c in (ties("tied", q, [5.0, 4.0], [1.0]), ties("ref", q, [3.0], [1.0]))
    ]
    assert not measured("s", few)[0]["ties_score"].is_bounded
    many = [
        case
        for q in range(12)
        for case in (
            ties("tied", str(q), [5.0, 4.0 - q / 2], [1.0]),
            ties("ref", str(q), [3.0 - q / 3], [1.0]),
        )
    ]
    found = measured("s", many)[0]["ties_score"]
    assert found.is_bounded
    assert found.low < found.value < found.high
    assert found.groups == 12


def test_the_score_of_subsets_has_the_interval_of_their_mean():
    # Two subsets of 20, 15 and 10 right: Wilson's z = 1.96 bounds are 0.5313..0.8881 and
    # 0.2993..0.7007. MOVER: 0.625 - sqrt(0.2187^2 + 0.2007^2) / 2 = 0.625 - 0.1484 = 0.4766, and
    # 0.625 + sqrt(0.1381^2 + 0.2007^2) / 2 = 0.625 + 0.1218 = 0.7468.
    cases = [best(f"m{i}", "math", [float(i < 15), 0.5, 0.5, 0.5]) for i in range(20)]
    cases += [best(f"f{i}", "focus", [float(i < 10), 0.5, 0.5, 0.5]) for i in range(20)]
    found = measured("rewardbench2", cases)[0]["score"]
    assert found.value == 0.625
    assert (found.low, found.high) == pytest.approx((0.4766, 0.7468), abs=2e-4)
    assert (found.n, found.groups) == (40, 40)


def styles(id, domain, right, wrong):
    texts = tuple(f"{id}{side}{k}" for side in "rw" for k in range(3))
    meta = {"protocol": "styles", "subset": domain}
    meta["styles"] = {"chosen": [0, 1, 2], "rejected": [3, 4, 5]}
    return ranking(id, texts, (1, 1, 1, 2, 2, 2), **meta), [*right, *wrong]


def test_rm_bench_weighs_domains_alike_and_both_kinds_of_safety_are_one():
    # chat: all right: 1. safety: refuse right, response wrong, pooled 1/2. Mean over two domains.
    cases = [
        styles("a", "chat", [1, 1, 1], [0, 0, 0]),
        styles("b", "safety-refuse", [1, 1, 1], [0, 0, 0]),
        styles("c", "safety-response", [0, 0, 0], [1, 1, 1]),
    ]
    metrics, _ = measured("rm_bench", cases)
    for name in ("hard", "normal", "easy", "accuracy"):
        assert metrics[name].value == pytest.approx(0.75)
        assert metrics[f"safety_{name}"].value == 0.5
    assert metrics["hard_longer"].value == 0.0  # answers are of one length: a tie is not above


def test_longer_on_styles_is_easy_and_not_hard():
    """The baseline that the published tables lack: length follows style, not substance."""
    one, _ = styles("a", "chat", [0] * 3, [0] * 3)
    long = tuple(text * (1 + 2 * (k % 3)) for k, text in enumerate(one.responses))
    metrics, _ = measured("s", [(ranking("a", long, one.ranks, **one.meta), [0.0] * 6)])
    assert metrics["easy_longer"].value == 1.0
    assert metrics["hard_longer"].value == 0.0


@pytest.mark.parametrize(
    "places", [None, {"chosen": [0, 1, 2]}, {"chosen": [0, 1, 9], "rejected": [3, 4, 5]}]
)
def test_styles_must_name_six_places(places):
    meta = {"protocol": "styles"} | ({"styles": places} if places else {})
    with pytest.raises(DataError, match=r"meta.styles .* must name the places of three chosen"):
        styles_of(ranking("a", ("a", "b"), (1, 2), **meta))


def test_agreement_with_people_and_among_them_by_hand():
    # Two answers, three people: a, a, b. Among people: aa 1, ab 0, ab 0: 1/3. The model prefers a:
    # with people 2/3. A tied person counts half with everybody.
    def said(*orders):
        meta = {"in_order": True}
        ask = (Message("user", "Q?"),)
        made = [
            Preference(f"x{k}", ask, ("a", "b"), order, annotator=str(k), meta=meta)
            for k, order in enumerate(orders)
        ]
        return [rankings_of("s", made)]

    (row,) = agreement_rows(said((1, 2), (1, 2), (2, 1)), {"s:0\na": 2.0, "s:0\nb": 1.0})
    assert row["with_people"] == pytest.approx(2 / 3)
    assert row["among_people"] == pytest.approx(1 / 3)
    (row,) = agreement_rows(said((1, 2), (1, 1)), {"s:0\na": 2.0, "s:0\nb": 1.0})
    assert row["with_people"] == 0.75
    assert row["among_people"] == 0.5
