"""The hashing encoder: its weights by hand, its vectors' properties, its file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from rag.index.hash_encoder import HashingEncoder, fold, weights_of

TEXTS = ["red apples grow", "red cherries grow well", "blue whales swim", "café Zoë 漢字漢字"]


def test_weights_by_hand() -> None:
    # n = 3: df 3 -> ln(4/4) + 1 = 1; df 1 -> ln(4/2) + 1; df 0 -> 0, not ln(4) + 1.
    weights = weights_of(np.array([3, 1, 0]), 3)
    assert weights == pytest.approx([1.0, 1.0 + math.log(2.0), 0.0])


def test_fold_by_hand() -> None:
    # Buckets 1 and 5 share dimension 1 of 4; counts 1 and -2 weigh 3 * 1 and -2 * (1 + ln 2).
    counts = csr_matrix((np.array([1.0, -2.0, 1.0]), np.array([1, 5, 2]), np.array([0, 3])))
    weights = np.array([0.0, 3.0, 1.0, 0.0, 0.0, 2.0])
    expected = np.array([0.0, 3.0 - 2.0 * (1 + math.log(2.0)), 1.0, 0.0])
    assert fold(counts, weights, 4)[0] == pytest.approx(expected / np.linalg.norm(expected))


def test_features_that_cancelled_count_as_nothing() -> None:
    counts = csr_matrix((np.array([0.0, 1.0]), np.array([0, 1]), np.array([0, 2])))
    assert fold(counts, np.array([1.0, 1.0]), 2)[0].tolist() == [0.0, 1.0]


def test_vectors_are_unit_or_zero_float32() -> None:
    encoder = HashingEncoder.fit(TEXTS, 65)  # odd: the halves differ by one
    vectors = encoder.encode_passages([*TEXTS, "", "of the"])
    assert (vectors.shape, vectors.dtype, encoder.dimensions) == ((6, 65), np.float32, 65)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1, 1, 0, 0], abs=1e-6)


def test_same_spelling_is_nearer_and_unknown_words_change_nothing() -> None:
    encoder = HashingEncoder.fit(TEXTS, 2048)
    apple, cherry, whale, _ = encoder.encode_passages(TEXTS)
    (query,) = encoder.encode_queries(["an apple that grew"])
    assert query @ apple > 0.3 > max(query @ cherry, query @ whale)
    with_unknown = encoder.encode_queries(["red apples grow", "red apples grow zzxqj"])
    # "zzxqj" is in no passage; the pair "grow zzxqj" neither.
    assert with_unknown[0].tolist() == with_unknown[1].tolist()


def test_a_row_does_not_depend_on_its_batch() -> None:
    encoder = HashingEncoder.fit(TEXTS, 128)
    together = encoder.encode_passages(TEXTS * 20)
    for i, text in enumerate(TEXTS):
        assert encoder.encode_passages([text])[0].tolist() == together[i + 40].tolist()


def test_frequencies_count_passages_and_survive_a_file(tmp_path: Path) -> None:
    encoder = HashingEncoder.fit(["red red red", "red blue"], 32)
    once = HashingEncoder.fit(["red", "red blue"], 32)  # pairs of words aside, as frequent
    assert encoder.encode_queries(["blue"]).tolist() == once.encode_queries(["blue"]).tolist()
    encoder.save(tmp_path)
    again = HashingEncoder.load(tmp_path)
    assert again.dimensions == 32
    assert np.array_equal(again.encode_queries(TEXTS), encoder.encode_queries(TEXTS))
