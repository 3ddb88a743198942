"""Exact match, F1, BLEU and ROUGE against hand arithmetic and published values."""

from __future__ import annotations

import pytest

from eval.text_metrics import corpus_bleu, rouge, rouge_signature
from plumbrule.grounding.answer_match import exact_match, normalise_answer, word_f1


def test_squads_normalisation():
    assert normalise_answer("  The U.S.  and an Apple!\n") == "us and apple"
    assert normalise_answer("theatre another") == "theatre another"  # articles are whole words


def test_exact_match_is_that_of_any_reference():
    assert exact_match("The Beatles.", ["Queen", "beatles"]) == 1
    assert exact_match("It was the Beatles", ["beatles"]) == 0


def test_f1_by_hand():
    # "in paris france" against "paris": 1 common word; precision 1/3, recall 1: 2/4 = 0.5.
    # Against "france in spring": 2 common of 3 and 3: 2/3. The best reference counts.
    assert word_f1("in Paris, France", ["Paris"]) == pytest.approx(0.5)
    assert word_f1("in Paris, France", ["Paris", "France in spring"]) == pytest.approx(2 / 3)
    assert word_f1("x", ["y"]) == 0.0


def test_f1_counts_a_repeated_word_once_for_each_time_that_the_reference_has_it():
    # "paris paris paris" against "paris": 1 common; precision 1/3, recall 1.
    assert word_f1("paris paris paris", ["paris"]) == pytest.approx(0.5)


def test_texts_without_words_are_alike_only_with_each_other():
    """An answer of articles alone is empty once normalised."""
    assert word_f1("the", ["a"]) == 1.0
    assert word_f1("the", ["paris"]) == 0.0
    assert word_f1("", ["paris"]) == 0.0


def test_bleu_and_rouge_of_a_known_pair():
    score, signature = corpus_bleu(["The cat sat on the mat."], [["The cat is on the mat."]])
    assert score == pytest.approx(48.89, abs=0.005)
    assert signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    found = rouge("The cat sat on the mat.", ["The cat is on the mat."])
    assert found == pytest.approx({"rouge1": 5 / 6, "rouge2": 0.6, "rougeL": 5 / 6})
    assert rouge_signature().startswith("rouge-score ")


def test_the_best_reference_counts_for_rouge_and_all_of_them_for_bleu():
    assert rouge("a b", ["c d", "a b"])["rouge1"] == 1.0
    text, other = "the cat sat on the mat today", "a dog ran in some other park"
    score, _ = corpus_bleu([text, other], [[other, text], [text, other]])
    assert score == pytest.approx(100.0)
