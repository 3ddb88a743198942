"""Rankings of several annotators: one ranking of theirs, and how far they agree."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plumbrule.data.annotators import krippendorff_alpha, merge
from plumbrule.data.records import Message, Preference, read_records
from plumbrule.data.splits import start_of
from plumbrule.errors import ConfigError, DataError
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.tracking.stage_tracker import NullTracker
from sft.data.config import DataConfig, DatasetConfig
from sft.data.stage import run


def label(annotator, answers, ranks, prompt="Hi", **more):
    """Return the ranking of one annotator; `answers` is a letter for each."""
    chat = (Message("user", prompt),)
    id = f"{prompt}/{answers}/{annotator}"
    return Preference(id, chat, tuple(answers), tuple(ranks), annotator=annotator, **more)


# --- merge -------------------------------------------------------------------------------------

THREE = [
    label("x", "abc", (1, 2, 3), scores=(9.0, 5.0, 1.0), margin=2.0, meta={"source": "s"}),
    label("y", "bac", (1, 2, 3)),
    label("z", "cba", (1, 2, 2)),
]
"""a > b > c; b > a > c; c > a = b."""


def test_borda_by_hand():
    # points (2 for a win, 1 for a tie): x gives a 4, b 2, c 0; y gives a 2, b 4, c 0;
    # z gives a 1, b 1, c 4. Sums a 7, b 7, c 4: a and b tie, c is last.
    # ordered pairs: x ab ac bc, y ba bc ac, z ca cb: 8. The merged ranks order ac and bc alone,
    # which x and y state: 4 of 8.
    (merged,) = merge(THREE)
    assert merged.responses == ("a", "b", "c")
    assert merged.ranks == (1, 1, 2)
    assert merged.confidence == 0.5
    assert merged.scores is None
    assert merged.margin is None
    assert merged.annotator == ""
    assert merged.id == "Hi/abc/x"
    assert merged.meta == {"source": "s", "annotators": ["x", "y", "z"]}


def test_soft_scores_by_hand():
    # x beats, of two others, with a 2, b 1, c 0; y with a 2, b 1, c 0; z with a 2, b and c a half
    # each: a 6, b 2.5, c 0.5 of 6. Of 3 + 3 + 2 ordered pairs all agree.
    ranks = {"x": (1, 2, 3), "y": (1, 2, 3), "z": (1, 2, 2)}
    labels = [label(annotator, "abc", r) for annotator, r in ranks.items()]
    (soft,) = merge(labels, "soft")
    assert soft.ranks == merge(labels)[0].ranks == (1, 2, 3)
    assert soft.scores == pytest.approx((1.0, 5 / 12, 1 / 12), abs=1e-12)
    assert soft.confidence == 1.0
    # 7 of 8 where y has a and b the other way round; points a 2 + 1 + 2, b 1 + 2 + 0.5, c 0.5
    labels[1] = label("y", "bac", (1, 2, 3))
    (soft,) = merge(labels, "soft")
    assert soft.ranks == (1, 2, 3)
    assert soft.scores == pytest.approx((5 / 6, 3.5 / 6, 0.5 / 6), abs=1e-12)
    assert soft.confidence == 7 / 8


def test_of_two_answers_the_majority_decides():
    labels = [label("x", "ab", (1, 2)), label("y", "ab", (2, 1)), label("z", "ba", (1, 2))]
    (merged,) = merge(labels)
    assert merged.ranks == (2, 1)
    assert merged.confidence == pytest.approx(2 / 3)  # y and z against x
    (tied,) = merge(labels[:2])
    assert tied.ranks == (1, 1)
    assert tied.pairs() == []


def test_only_rankings_of_one_item_are_merged():
    labels = [
        label("x", "ab", (1, 2)),
        label("y", "ac", (1, 2)),  # another set of answers
        label("y", "ab", (1, 2), passages=("p",)),  # other passages
        label("y", "ab", (1, 2), prompt="Ho"),  # another prompt
        label("", "ab", (2, 1)),  # nobody's
        label("", "ab", (1, 2)),
        label("y", "ba", (2, 1)),
    ]
    merged = merge(labels)
    assert [p.id for p in merged] == [p.id for p in labels[:6]]
    assert merged[0].meta["annotators"] == ["x", "y"]
    assert merged[1:] == labels[1:6]


def test_one_persons_ranking_stays_but_soft_scores_have_one_scale():
    alone = label("x", "abc", (1, 2, 2), scores=(9.0, 3.0, 3.0), margin=1.0, confidence=0.7)
    assert merge([alone]) == [alone]
    (soft,) = merge([alone], "soft")
    # a beats 2 of 2; b beats none and ties with c: 0.5 of 2
    assert soft.scores == (1.0, 0.25, 0.25)
    assert (soft.confidence, soft.margin) == (0.7, 1.0)


def test_an_annotator_twice_and_another_way_to_merge():
    twice = [label("x", "ab", (1, 2)), label("x", "ba", (1, 2))]
    for judge in (merge, krippendorff_alpha):
        with pytest.raises(DataError, match=r"annotator \(='x'\) must label an item once, not in"):
            judge(twice)
    with pytest.raises(ValueError, match=r"how \(=mean\) must be majority or soft"):
        merge(twice, "mean")


RANKS = st.lists(st.integers(1, 4), min_size=4, max_size=4).map(
    lambda values: tuple(sorted(set(values)).index(v) + 1 for v in values)
)


@settings(deadline=None)  # the first call imports nltk
@given(st.lists(RANKS, min_size=2, max_size=5), st.permutations(range(4)), st.randoms())
def test_order_of_annotators_and_answers_does_not_matter(rankings, order, random):
    labels = [label(f"n{k}", "abcd", ranks) for k, ranks in enumerate(rankings)]
    (merged,) = merge(labels, "soft")
    shuffled = [
        label(p.annotator, "".join("abcd"[i] for i in order), [p.ranks[i] for i in order])
        for p in labels
    ]
    random.shuffle(shuffled)
    (other,) = merge(shuffled, "soft")
    assert dict(zip(other.responses, other.ranks, strict=True)) == dict(
        zip(merged.responses, merged.ranks, strict=True)
    )
    assert other.confidence == merged.confidence
    # each of the 6 pairs of answers shares out one point, of at most 3 for an answer: 6 / 3
    assert sum(merged.scores) == pytest.approx(2.0)
    one, two = krippendorff_alpha(labels), krippendorff_alpha(shuffled)
    assert one == two or one == pytest.approx(two, abs=1e-9)


# --- agreement ---------------------------------------------------------------------------------


def test_alpha_by_hand():
    labels = [
        *(label(n, "ab", (1, 2)) for n in "xy"),  # agree
        label("x", "cd", (1, 2)),  # contradict each other
        label("y", "cd", (2, 1)),
        label("x", "ef", (1, 2)),  # one sees a tie
        label("y", "ef", (1, 1)),
        label("x", "gh", (1, 2)),  # judged by one only: not counted
        label("", "ab", (2, 1)),  # nobody's: not counted
    ]
    # Values of the units ab, ba, cd, dc, ef, fe: (1 1), (-1 -1), (1 -1), (-1 1), (1 0), (-1 0).
    # Observed: squared differences over ordered pairs of values, by 2 - 1: 0 0 8 8 2 2 -> 20 of 12
    # values. Expected: five 1, two 0, five -1: 2 (5*5*4 + 5*2*1 + 5*2*1) = 240 of 12 * 11.
    # alpha = 1 - (20 / 12) / (240 / 132) = 1 - 11 / 12
    assert krippendorff_alpha(labels) == pytest.approx(1 / 12, abs=1e-12)


def test_alpha_from_the_definition():
    """A loop over all pairs of values, written from Krippendorff 2004, ch. 11."""
    ranks = {
        ("p", "abc"): {"x": (1, 2, 3), "y": (1, 3, 2), "z": (2, 1, 2)},
        ("q", "ab"): {"x": (1, 2), "z": (1, 1)},
        ("r", "abcd"): {"x": (4, 3, 2, 1), "y": (3, 3, 2, 1)},
        ("s", "ab"): {"y": (2, 1)},
    }
    labels = [
        label(annotator, answers, r, prompt=prompt)
        for (prompt, answers), by in ranks.items()
        for annotator, r in by.items()
    ]
    units = []
    for by in ranks.values():
        size = len(next(iter(by.values())))
        for i, j in itertools.permutations(range(size), 2):
            if len(by) > 1:
                units.append([(r[j] > r[i]) - (r[j] < r[i]) for r in by.values()])
    values = [value for unit in units for value in unit]
    observed = sum(
        (a - b) ** 2 / (len(unit) - 1) for unit in units for a, b in itertools.permutations(unit, 2)
    ) / len(values)
    expected = sum((a - b) ** 2 for a, b in itertools.permutations(values, 2)) / (
        len(values) * (len(values) - 1)
    )
    assert krippendorff_alpha(labels) == pytest.approx(1 - observed / expected, abs=1e-12)


def test_alpha_of_full_agreement_and_where_it_is_not_defined():
    assert krippendorff_alpha([label(n, "ab", (1, 2)) for n in "xyz"]) == 1.0
    assert krippendorff_alpha([label("x", "ab", (1, 2))]) is None
    assert krippendorff_alpha([label(n, "ab", (1, 1)) for n in "xy"]) is None
    assert krippendorff_alpha([]) is None


# --- the data stage ----------------------------------------------------------------------------


def prepare(tmp_path, rows, **settings):
    """Run the stage on rows; return its records (training, held out), card and notes."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = DatasetConfig(format="jsonl", path=str(path), **settings)
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    run(DataConfig("preferences", dataset), {}, RuntimeConfig(), out, NullTracker())
    records = [read_records(Preference, out / f"{n}.jsonl") for n in ("records", "validation")]
    return records, *(json.loads((out / f"{n}.json").read_text()) for n in ("card", "notes"))


def rankings():
    """Return rows of 40 items: x and y agree on 30 and contradict on 10; z ties 5 more alone."""
    for k in range(40):
        item = {"prompt": f"Question {k}?", "responses": ["good", "bad"]}
        yield {**item, "ranking": [1, 2], "annotator": "x"}
        yield {**item, "ranking": [1, 2] if k < 30 else [2, 1], "annotator": "y"}
    for k in range(40, 45):
        item = {"prompt": f"Question {k}?", "responses": ["good", "bad"]}
        yield {**item, "ranking": [1, 1], "annotator": "z"}
    yield {"prompt": "Question 0?", "responses": ["bad", "good"], "ranking": [2, 1]} | {
        "annotator": "x"  # a repeat of the first row
    }


def test_majority_is_the_stages_default(tmp_path):
    (train, held_out), card, notes = prepare(tmp_path, rankings(), validation_share=0.3)
    assert len(train) + len(held_out) == 30
    assert all(p.ranks == (1, 2) and p.confidence == 1.0 for p in (*train, *held_out))
    assert card["rows_read"] == 86
    assert card["duplicates"] == 1
    # 10 items that x and y tie between them, and 5 that z ties
    assert card["dropped"] == {"no ordered pair: all answers tie": 15}
    # 80 units of 2 values; 20 of them differ by 2: observed 20 * 2 * 4 / 160 = 1, and expected
    # 2 * 80 * 80 * 4 / (160 * 159) = 320 / 159: alpha = 1 - 159 / 320 = 0.503125
    assert card["annotators"] == {
        "items_judged_by_several": 40,
        "krippendorff_alpha": 0.5031,
        "merge": "majority",
        "rows_merged": 40,
    }
    assert card["rows_kept"] + 15 + 1 + 40 == card["rows_read"]
    assert any("40 items judged by several annotators" in n and "0.50" in n for n in notes)


def test_separate_keeps_every_row_and_no_item_leaks(tmp_path):
    (train, held_out), card, notes = prepare(
        tmp_path, rankings(), annotators="separate", validation_share=0.3
    )
    assert len(train) + len(held_out) == 80
    assert {p.annotator for p in train} == {p.annotator for p in held_out} == {"x", "y"}
    assert not {start_of(p) for p in train} & {start_of(p) for p in held_out}
    assert card["annotators"]["rows_merged"] == 0
    assert card["annotators"]["krippendorff_alpha"] == 0.5031
    assert card["dropped"] == {"no ordered pair: all answers tie": 5}
    assert any("kept as separate rows" in note for note in notes)


def test_soft_scores_in_the_stage(tmp_path):
    (train, held_out), card, _ = prepare(tmp_path, rankings(), annotators="soft")
    assert {p.scores for p in (*train, *held_out)} == {(1.0, 0.0)}
    assert card["annotators"]["merge"] == "soft"


def test_a_card_without_several_annotators_tells_of_none(tmp_path):
    rows = [
        {"prompt": f"Question {k}?", "responses": ["a", "b"], "ranking": [1, 2], "annotator": "x"}
        for k in range(30)
    ]
    (train, held_out), card, notes = prepare(tmp_path, rows, validation_share=0.3)
    assert "annotators" not in card
    assert notes == []
    assert {p.annotator for p in (*train, *held_out)} == {"x"}


def test_only_ties_leave_nothing(tmp_path):
    rows = [{"prompt": "Hi", "responses": ["a", "b"], "ranking": [1, 1]}]
    with pytest.raises(DataError, match=r"no row is left .*1 because no ordered pair"):
        prepare(tmp_path, rows)


def test_a_bad_switch():
    with pytest.raises(ConfigError, match=r"dataset.annotators \(=mean\) must be one of majority"):
        DatasetConfig(annotators="mean")
