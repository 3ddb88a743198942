"""Classification: macro means by hand, and against scikit-learn's."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support
from worlds.evaluation import small_config, small_policy

from eval.benchmarks.multiple_choice.classification import (
    BENCHMARK,
    asked,
    macro,
    measure,
    summarise,
)
from eval.benchmarks.subject import Subject
from eval.intervals import Intervals
from plumbrule.data.readers import read
from plumbrule.data.records import BenchmarkItem
from plumbrule.errors import DataError
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.tracking.stage_tracker import NullTracker


def rows_of(pairs):
    return [
        {"id": str(k), "group": "", "label": a, "predicted": b, "correct": int(a == b)}
        for k, (a, b) in enumerate(pairs)
    ]


def test_metrics_by_hand():
    # a: 3 texts, 2 found, 1 called b. b: 1 text, found. c: 2 texts, both called a.
    # Precision a 2/4, b 1/2, c 0. Recall 2/3, 1, 0. F1 4/7, 2/3, 0. Accuracy 3/6, majority 3/6.
    pairs = ["aa", "aa", "ab", "bb", "ca", "ca"]
    found = {name: x.value for name, x in summarise(rows_of(pairs), Intervals(0.95)).items()}
    assert found["macro_precision"] == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)
    assert found["macro_recall"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert found["macro_f1"] == pytest.approx((4 / 7 + 2 / 3 + 0) / 3)
    assert found["accuracy"] == found["majority"] == 0.5
    assert found["c_as_a"] == 1.0
    assert found["a_as_b"] == pytest.approx(1 / 3)
    assert all(BENCHMARK.declares(name) for name in found)


def test_macro_means_are_scikit_learns():
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 4, 60), rng.integers(0, 3, 60)  # label 3 is never predicted
    theirs = precision_recall_fscore_support(true, predicted, average="macro", zero_division=0)[:3]
    ours = [macro(name, true, predicted) for name in ("precision", "recall", "f1")]
    assert ours == pytest.approx(theirs)


def item(number, label):
    fields = {"question": f"Where was {number} born?", "label": label}
    return BenchmarkItem(str(number), "classification", fields)


def test_a_policy_chooses_one_of_the_files_labels():
    items = [item(k, ("Arlen", "Bosk")[k % 2]) for k in range(6)]
    runtime = RuntimeConfig(device="cpu", micro_batch_size=4)
    subject = Subject(small_policy(), None, None, small_config(), runtime, NullTracker())
    measured = measure(items, "closed", subject)
    assert {row["predicted"] for row in measured.items} <= {"Arlen", "Bosk"}
    assert [row["label"] for row in measured.items] == ["Arlen", "Bosk"] * 3


def test_one_label_is_no_choice():
    with pytest.raises(DataError, match=r"labels \(=Arlen\) must be at least two"):
        asked([item(0, "Arlen"), item(1, "Arlen ")], small_config())


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"text": "A film.", "label": 1}, r"label \(=1\) must be a word"),
        ({"text": " ", "label": "a"}, "a row must hold the text text"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, says):
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=f"t.jsonl, row 1: {says}"):
        list(read("classification", "classification", path, BENCHMARK.items))
