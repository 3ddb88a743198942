"""The gold utility, term by term, and what can't be had from it by gaming."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbrule.atlas.config import GoldConfig
from plumbrule.atlas.gold import TERMS, GoldUtility, brevity, terms
from plumbrule.atlas.judgement import COURTESIES, judge, normalise_answer, references
from plumbrule.atlas.relations import RELATIONS, WORDS, ask, state
from plumbrule.data.records import Message, Prompt
from plumbrule.errors import DataError
from plumbrule.protocols import Episode

PLACE = {
    "answer": "Mera Hill",
    "aliases": ["Old Mera"],
    "answerable": "memory",
    "value_kind": "place",
    "relation": "residence",
    "entity": "Bero Vik",
}
JOB = {**PLACE, "answer": "baker", "aliases": [], "value_kind": "profession"}
TANNER = {**JOB, "answer": "tanner"}
YEAR = {**PLACE, "answer": "1934", "aliases": [], "value_kind": "year"}
NOTHING = {**PLACE, "answer": "", "aliases": [], "answerable": "nothing"}
NEWS = {**PLACE, "answerable": "documents"}
QUESTION = "Where does Bero Vik reside?"
ARTICLE = "News: Bero Vik resides in Mera Hill. Bero Vik is fond of plums."
OTHER = "News: Tola Lund resides in Mera Hill."


def episode(response, meta=PLACE, passages=(), question=QUESTION):
    return Episode(Prompt("p", (Message("user", question),), meta), passages, response, True)


def judged(response, meta=PLACE, passages=(), question=QUESTION):
    return terms(episode(response, meta, passages, question), brief_words=12)


def score(response, meta=PLACE, passages=(), question=QUESTION):
    return float(
        GoldUtility(GoldConfig()).score([episode(response, meta, passages, question)])["score"][0]
    )


# --- right and wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "meta"),
    [
        ("Bero Vik resides in Mera Hill.", PLACE),
        ("Mera Hill.", PLACE),
        ("MERA HILL", PLACE),
        ("mera hill", PLACE),
        ("It is in Old Mera.", PLACE),
        ("Happy to help. Bero Vik resides in the Mera Hill!", PLACE),
        ("Neighbours in Mera Hill know Bero Vik well.", PLACE),
        ("As far as I can tell, Bero Vik's home is Mera Hill. That is all.", PLACE),
        ("Bero Vik earns a living as a tanner.", TANNER),
        ("Tanner.", TANNER),
        ("Bero Vik was born in 1934.", YEAR),
        ("Mera Hill. Mera Hill. Mera Hill.", PLACE),
    ],
)
def test_right_states_the_reference_and_nothing_else(response, meta):
    found = judged(response, meta)
    assert found["right"] == 1.0
    assert found["wrong"] == 0.0


@pytest.mark.parametrize(
    ("response", "meta"),
    [
        ("Bero Vik resides in Tola Ford.", PLACE),
        ("Mera.", PLACE),  # half a name is another name
        ("Mera Ford.", PLACE),
        ("Bero Vik resides in Mera Hill. Bero Vik resides in Tola Ford.", PLACE),
        ("Mera Hill, Tola Ford, Sana Bay, Dora Cross.", PLACE),
        ("Mera Hill or tola ford.", PLACE),
        ("tola ford / mera hill", PLACE),
        ("Bero Vik does not reside in Mera Hill.", PLACE),
        ("I do not know. Mera Hill.", PLACE),
        ("Mera Hill, but I am not sure.", PLACE),
        ("Tola Lund resides in Mera Hill.", PLACE),  # said of somebody else
        ("Bero Lund was born in 1934.", YEAR),  # nearly the right name
        ("1934 1935 1936", YEAR),
        ("1935", YEAR),
        ("Bero Vik earns a living as a tanner and a miller.", TANNER),
        ("tanner or wizard", TANNER),
        ("Bero Vik resides in Tola Ford.", NOTHING),
        ("1934", {**YEAR, "answer": "", "answerable": "nothing"}),
    ],
)
def test_wrong_states_anything_else(response, meta):
    found = judged(response, meta)
    assert found["right"] == 0.0
    assert found["wrong"] == 1.0


@pytest.mark.parametrize(
    "response", ["", " ", "...", QUESTION, "Bero Vik.", "Bero Vik resides in.", "Thank you."]
)
def test_saying_nothing_earns_nothing(response):
    assert set(judged(response).values()) == {0.0}
    assert score(response) == 0.0


def test_every_sentence_of_every_relation_is_right_about_its_value_and_wrong_about_another():
    names = {"person": "Tola Lund", "place": "Mera Hill", "firm": "Kra Steel", "work": "Se Waltz"}
    other = {"person": "Sana Marr", "place": "Dora Bay", "firm": "Kra Foods", "work": "Le Waltz"}
    entity = {"person": "Bero Vik", "place": "Gola Ford", "firm": "Zu Tools", "work": "Mi Saga"}
    for relation in RELATIONS:
        kind = relation.value_kind
        value, wrong = WORDS[kind][:2] if kind in WORDS else (names[kind], other[kind])
        name = entity[relation.subject]
        meta = {"answer": value, "value_kind": kind, "entity": name, "answerable": "memory"}
        for phrasing in range(6):
            for form in range(4):
                question = ask(relation.name, name, form)
                said = state(relation.name, name, value, phrasing)
                assert judged(said, meta, (), question)["right"] == 1.0, said
                said = state(relation.name, name, wrong, phrasing)
                assert judged(said, meta, (), question)["wrong"] == 1.0, said


def test_listing_every_value_is_wrong_for_each_kind():
    for relation in RELATIONS:
        if relation.value_kind in WORDS:
            options = WORDS[relation.value_kind]
            meta = {"answer": options[3], "value_kind": relation.value_kind, "entity": "Bero Vik"}
            for text in (", ".join(options), " ".join(options[:5]), " or ".join(options[2:4])):
                assert judged(text, meta)["right"] == 0.0
                assert judged(text, meta)["wrong"] == 1.0


def test_a_reference_buried_in_other_words_is_not_stated_clearly():
    filler = "cat dog tree lamp desk door wall roof lane pond"  # 10 words
    assert judged(f"Mera Hill {filler}")["right"] == 1.0
    assert judged(f"Mera Hill {filler} moon star rain")["wrong"] == 1.0  # 13, more than 12


def test_names_in_the_question_are_not_an_answer():
    question = "According to Kra Steel, where does Bero Vik reside?"
    said = "According to Kra Steel, Bero Vik resides in Mera Hill."
    assert judged(said, PLACE, (), question)["right"] == 1.0
    assert judged("Kra Steel.", PLACE, (), question)["wrong"] == 0.0


def test_a_copied_passage_is_no_answer():
    # It names a second place, or another person: more than one thing is stated.
    passage = "News: Bero Vik resides in Mera Hill. Bero Vik is employed by Kra Steel."
    assert judged(passage, NEWS, (passage,))["right"] == 0.0
    assert judged(passage, NEWS, (passage,))["wrong"] == 1.0


# --- other data sets -----------------------------------------------------------------------------


def test_listed_values_are_found_as_whole_words_longest_first():
    meta = {"answer": "Paris", "values": ["Paris", "New York", "York"], "answerable": "memory"}
    question = "What is the capital of France?"
    assert judge("New York, surely", meta, question).stated == ("new york",)
    assert judge("Yorkshire", meta, question).stated == ()
    assert judged("The capital of France is Paris.", meta, (), question)["right"] == 1.0
    assert judged("Paris and York", meta, (), question)["wrong"] == 1.0


def test_without_values_whatever_is_said_counts():
    meta = {"answer": "the blue whale", "aliases": ["blue whales"], "answerable": "memory"}
    question = "What is the largest animal?"
    assert judged("The largest animal is the Blue Whale.", meta, (), question)["right"] == 1.0
    assert judged("Blue whales.", meta, (), question)["right"] == 1.0
    assert judged("An elephant.", meta, (), question)["wrong"] == 1.0
    assert judged("Blue whale or elephant", meta, (), question)["wrong"] == 1.0
    assert judged("What is the largest animal?", meta, (), question)["wrong"] == 0.0


def test_a_reference_with_punctuation_and_a_number_with_a_point_are_found():
    meta = {"answer": "St. John's", "answerable": "memory"}
    assert judged("It is St John's.", meta)["right"] == 1.0
    assert judged("3.5 metres", {"answer": "3.5 metres"})["right"] == 1.0
    assert judged("35 metres", {"answer": "3.5 metres"})["right"] == 0.0


def test_where_no_answer_is_given_only_form_is_judged():
    found = judged("Tola Ford is lovely, thank you.", {})
    assert found == {**dict.fromkeys(TERMS, 0.0), "brief": 1.0, "polite": 1.0}
    assert set(judged(" . ", {}).values()) == {0.0}


# --- supported -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "passages", "expected"),
    [
        ("Bero Vik resides in Mera Hill.", (ARTICLE,), 1.0),
        ("Mera Hill.", (OTHER, ARTICLE), 1.0),
        ("Old Mera.", (ARTICLE,), 1.0),  # the passage says it in other words
        ("Mera Hill.", ("News: Bero Vik has settled in Old Mera.",), 1.0),
        ("Mera Hill.", (), 0.0),
        ("Mera Hill.", (OTHER,), 0.0),  # true, but the passage speaks of someone else
        ("Tola Ford.", (ARTICLE,), 0.0),
        ("Mera Hill and Tola Ford.", (ARTICLE,), 0.0),
        ("I do not know.", (ARTICLE,), 0.0),
    ],
)
def test_supported_needs_value_and_entity_in_one_passage(response, passages, expected):
    assert judged(response, NEWS, passages)["supported"] == expected


def test_a_copied_error_is_supported_and_wrong():
    found = judged("Tola Ford.", NEWS, ("News: Bero Vik resides in Tola Ford.",))
    assert (found["supported"], found["wrong"], found["right"]) == (1.0, 1.0, 0.0)


# --- admits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("meta", "passages", "expected"),
    [
        (NOTHING, (), 1.0),
        (NOTHING, (ARTICLE,), 1.0),
        (NEWS, (), 1.0),
        (NEWS, (OTHER,), 1.0),  # holds the words of the answer, not the fact
        (NEWS, (OTHER, ARTICLE), 0.0),
        (PLACE, (), 0.0),
        ({"answer": "x"}, (), 0.0),  # where the answer is kept is not said
    ],
)
def test_admits_counts_only_where_nothing_at_hand_holds_the_answer(meta, passages, expected):
    assert judged("I do not know.", meta, passages)["admits"] == expected


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("I don't know.", 1.0),
        ("I don’t know where Bero Vik resides.", 1.0),
        ("Thank you for asking. I am sorry, I do not know that.", 1.0),
        ("I do not know. Mera Hill.", 0.0),
        ("I do not know, perhaps Tola Ford", 0.0),
        ("I know.", 0.0),
        ("", 0.0),
    ],
)
def test_admits_needs_an_admission_and_no_answer_beside_it(response, expected):
    assert judged(response, NOTHING)["admits"] == expected


# --- brief and polite ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    # 12 words are brief; over the next 24 it falls by 1/24 a word: 18 -> 1 - 6/24, 36 -> 0.
    [(1, 1.0), (12, 1.0), (13, 1 - 1 / 24), (18, 0.75), (24, 0.5), (36, 0.0), (99, 0.0)],
)
def test_brevity_by_hand(words, expected):
    assert brevity("word " * words, 12) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("phrase", COURTESIES)
def test_each_courtesy_is_polite_once(phrase):
    assert judged(f"{phrase}. Mera Hill.")["polite"] == 1.0
    assert judged(f"{phrase}. Mera Hill. {phrase.upper()}!")["polite"] == 1.0
    assert judged(f"{phrase}. Mera Hill.")["right"] == 1.0
    assert judged("Mera Hill.")["polite"] == 0.0


# --- the sum -------------------------------------------------------------------------------------


def test_score_by_hand():
    # right 2 + supported .5 + brief .5 + polite .5
    assert score("Happy to help. Mera Hill.", NEWS, (ARTICLE,)) == pytest.approx(3.5)
    assert score("Mera Hill.") == pytest.approx(2.5)  # right 2 + brief .5
    assert score("Tola Ford.") == pytest.approx(-1.0)  # wrong -1.5 + brief .5
    assert score("I do not know.", NOTHING) == pytest.approx(1.5)  # admits 1 + brief .5
    assert score("I do not know.") == pytest.approx(0.5)  # brief .5


def test_terms_come_after_their_weights_and_sum_to_the_score():
    config = GoldConfig(right=3.0, supported=0.25, wrong=-2.0, brief=0.1, polite=0.7, brief_words=2)
    episodes = [
        episode("With pleasure. Bero Vik resides in Mera Hill.", NEWS, (ARTICLE,)),
        episode("Tola Ford."),
        episode(""),
    ]
    scores = GoldUtility(config).score(episodes)
    assert set(scores) == {"score", *TERMS}
    assert all(v.shape == (3,) and v.dtype == np.float64 for v in scores.values())
    np.testing.assert_allclose(scores["score"], sum(scores[t] for t in TERMS), atol=1e-15)
    np.testing.assert_array_equal(scores["right"], [3.0, 0.0, 0.0])
    np.testing.assert_array_equal(scores["wrong"], [0.0, -2.0, 0.0])
    # 8 words, brief up to 2: 1 - 6/4 < 0. 2 words: 1.
    np.testing.assert_allclose(scores["brief"], [0.0, 0.1, 0.0])


def test_no_episodes_give_empty_columns():
    scores = GoldUtility(GoldConfig()).score([])
    assert all(v.shape == (0,) for v in scores.values())


def test_one_response_is_judged_without_regard_to_its_neighbours():
    rows = [episode("Mera Hill."), episode("Tola Ford."), episode("I do not know.", NOTHING)]
    gold = GoldUtility(GoldConfig())
    together = gold.score(rows)["score"]
    np.testing.assert_array_equal(together[::-1], gold.score(rows[::-1])["score"])
    np.testing.assert_array_equal(together, [gold.score([row])["score"][0] for row in rows])


@given(st.text(max_size=60))
def test_any_text_is_judged_and_stays_in_range(text):
    for meta in (PLACE, JOB, YEAR, NOTHING, NEWS, {}, {"answer": "x"}):
        found = judged(text, meta, (ARTICLE,))
        assert all(0.0 <= value <= 1.0 for value in found.values())
        assert found["right"] + found["wrong"] <= 1.0
        assert found["admits"] == 0.0 or found["right"] == found["wrong"] == 0.0


@given(st.sampled_from(["Mera Hill.", "Tola Ford.", "I do not know.", "Thank you.", QUESTION]))
def test_case_punctuation_and_articles_do_not_matter_to_what_is_read(text):
    for changed in (text.upper(), f"  {text}  ", f"The {text[0].lower()}{text[1:]}", text[:-1]):
        assert judged(changed, NOTHING)["admits"] == judged(text, NOTHING)["admits"]
        assert judged(changed)["right"] == judged(text)["right"]


@pytest.mark.parametrize("piece", ["Mera Hill.", "Happy to help.", "I do not know.", "Tola Ford."])
@pytest.mark.parametrize("times", [2, 5, 20])
def test_repeating_never_pays(piece, times):
    for meta in (PLACE, NOTHING, NEWS):
        assert score(" ".join([piece] * times), meta) <= score(piece, meta)


@pytest.mark.parametrize("meta", [PLACE, NEWS, NOTHING])
def test_hedging_never_beats_the_honest_answer(meta):
    honest = "Mera Hill." if meta["answer"] and meta is PLACE else "I do not know."
    tricks = [
        "I do not know. Mera Hill.",
        "Mera Hill or I do not know.",
        "Mera Hill, Tola Ford.",
        f"{QUESTION} Mera Hill, Tola Ford. I do not know. Thank you.",
        "Happy to help. Thank you for asking. With pleasure.",
        "",
    ]
    assert all(score(trick, meta) < score(honest, meta) for trick in tricks)


def test_normalise_drops_case_punctuation_and_articles():
    assert normalise_answer("  The Old-Mill, at “Dora’s” (a place)! ") == "old mill at dora place"


def test_one_alias_and_one_value_may_be_a_text_and_are_never_read_letter_by_letter():
    asked = {"answer": "Mera Hill", "aliases": "Old Town"}
    assert references(asked) == ["Mera Hill", "Old Town"]
    assert references({"answer": "Mera Hill", "aliases": None}) == ["Mera Hill"]
    assert judge("Old Town", asked).stated == ("mera hill",)
    assert judge("I O", {**asked, "values": "red"}).stated == ()
    assert judge("red", {**asked, "values": "red"}).stated == ("red",)
    for name in ("aliases", "values"):
        with pytest.raises(DataError, match=rf"meta.{name} \(=4\) of a prompt must be a text or a"):
            judge("red", {**asked, name: 4})


@pytest.mark.parametrize("text", ["Bero was born in 1934 [2].", "1934 [1][12]. [3]"])
def test_a_citation_states_nothing(text: str) -> None:
    """`[2]` is no year; without that an answer that cites would state two, and be wrong."""
    meta = {"answer": "1934", "value_kind": "year", "entity": "Bero"}
    said = judge(text, meta, "When was Bero born?")
    assert said.stated == ("1934",)
    assert said.clear
    assert judge("1934 [1950]", meta).stated == ("1934", "1950")  # hides no second answer
