"""The support measure by hand, the labelled files with their quirks, and the scores of spans."""

from __future__ import annotations

import json

import numpy as np
import pytest

from eval.intervals import Intervals
from eval.support.config import SupportEvalConfig, check_files
from eval.support.labelled import evidence_of, labels_of, read_faithdial, read_ragtruth
from eval.support.scores import characters, f1, item_row, summarise
from eval.support.stage import run
from plumbrule.errors import ConfigError, DataError
from plumbrule.grounding.support import (
    by_sentence,
    content_words,
    sentences,
    support,
    unsupported_spans,
)
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.stage_kind import PlacedNode
from plumbrule.tracking.stage_tracker import NullTracker

EVIDENCE = "Ada Lovelace wrote the first program in 1843."


def test_support_by_hand():
    # content words: ada, wrote, progra, paris; three of four stand in the evidence.
    assert content_words("Ada wrote the program in Paris") == ["ada", "wrote", "progra", "paris"]
    assert support("Ada wrote the program in Paris", EVIDENCE) == 0.75
    assert support("She did.", EVIDENCE) == 1.0  # nothing is claimed


def test_words_of_one_stem_support_each_other_and_numbers_of_one_beginning_do_not():
    assert support("programs", EVIDENCE) == 1.0
    assert support("18431999", "184319") == 0.0


def test_sentences_have_their_places():
    text = "Ada wrote. She died in 1852!\n\nBea did 3.5 of it"
    assert [text[a:b] for a, b in sentences(text)] == [
        "Ada wrote.",
        "She died in 1852!",
        "Bea did 3.5 of it",
    ]


def test_unsupported_sentences_are_the_spans():
    text = "Ada wrote a program. Bea painted walls. Yes."
    (span,) = unsupported_spans(text, EVIDENCE, 0.5)
    assert text[slice(*span)] == "Bea painted walls."
    assert [one.support for one in by_sentence(text, EVIDENCE)] == [1.0, 0.0, None]


def test_characters_that_two_spans_cover_count_once():
    assert characters([(0, 3), (2, 4)]) == {0, 1, 2, 3}


def test_span_scores_by_hand():
    # Predicted 10 characters, marked 6, shared 4: precision 0.4, recall 2/3, F1 8/16 = 0.5.
    one = np.array([4.0, 0.0]), np.array([7.0, 3.0]), np.array([6.0, 0.0])
    assert f1(*one) == 0.5
    assert f1(np.zeros(2), np.zeros(2), np.zeros(2)) == 0.0


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("entailmentt", {"entailment"}),
        ("hallucinated", {"hallucination"}),
        ("entailment. uncooperative", {"entailment", "uncooperative"}),
        ("Hallucination, Generic", {"hallucination", "generic"}),
        ("", set()),
        ("nan", set()),
    ],
)
def test_faithdials_labels_are_several_and_misspelt(text, labels):
    assert labels_of(text) == labels


def csv_of(path, header, *rows):
    lines = [",".join(header), *(",".join(f'"{cell}"' for cell in row) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_faithdial_gold_and_a_models_file(tmp_path):
    gold = ("evidence", "history", "response", "BEGIN", "VRM")
    csv_of(
        tmp_path / "gold.csv",
        gold,
        (EVIDENCE, "h", "Ada wrote it.", "entailment", "v"),
        (EVIDENCE, "h", "Bea wrote it.", "hallucination. entailment", "v"),
        (EVIDENCE, "h", "Sure!", "generic", "v"),
        (EVIDENCE, "h", "No label.", "", "v"),
    )
    model = ("knowledge", "history", "dialoGPT", "begin_label", "vrm_label")
    csv_of(tmp_path / "model.csv", model, (EVIDENCE, "h", "Bea.", "hallucinated", "v"))
    read = read_faithdial(tmp_path)
    assert [(one.part, one.hallucinated) for one in read.responses] == [
        ("gold", False),
        ("gold", True),
        ("model", True),
    ]
    assert read.responses[2].response == "Bea."
    assert dict(read.dropped) == {
        "neither entailment alone nor hallucination": 1,
        "no label": 1,
    }


def test_faithdial_without_a_response_column_is_named(tmp_path):
    path = csv_of(tmp_path / "x.csv", ("knowledge", "a", "b"), ("k", "1", "2"))
    with pytest.raises(DataError, match=r"x.csv, row 1: a row must hold evidence"):
        read_faithdial(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no \*.csv is here"):
        read_faithdial(tmp_path / "empty")


def ragtruth(folder, *responses):
    source = {"source_id": "7", "task_type": "Summary", "source_info": EVIDENCE}
    (folder / "source_info.jsonl").write_text(json.dumps(source) + "\n")
    text = "Ada wrote a program. Bea painted walls."
    row = {"id": "1", "source_id": "7", "response": text, "quality": "good", "labels": []}
    lines = [json.dumps(row | change) + "\n" for change in responses]
    (folder / "response.jsonl").write_text("".join(lines))
    return folder


SPAN = {"start": 21, "end": 24, "text": "Bea", "label_type": "Evident Conflict"}


def test_ragtruth_keeps_good_responses_and_their_spans(tmp_path):
    folder = ragtruth(tmp_path, {}, {"labels": [SPAN]}, {"quality": "truncated"})
    read = read_ragtruth(folder)
    assert [one.hallucinated for one in read.responses] == [False, True]
    assert read.responses[1].spans == ((21, 24),)
    assert read.responses[1].group == "7"
    assert dict(read.dropped) == {"quality truncated": 1}
    row = item_row(read.responses[1], "ragtruth", 0.5)
    assert (row["marked_chars"], row["predicted_chars"], row["shared_chars"]) == (3, 18, 3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"source_id": "8"}, "source_id .* must be in source_info.jsonl"),
        (
            {"labels": [{"start": 0, "end": 999}]},
            "labels .* whose start and end lie in the response",
        ),
        ({"labels": [{"start": 4, "end": 4}]}, "labels .* whose start and end lie in the response"),
        ({"labels": "none"}, "labels .* must be objects"),
        ({"response": None}, "response .* must be text"),
    ],
)
def test_a_bad_row_of_ragtruth_is_named(tmp_path, change, says):
    with pytest.raises(DataError, match=f"response.jsonl, row 2: {says}"):
        read_ragtruth(ragtruth(tmp_path, {}, change))


def test_ragtruth_needs_both_files(tmp_path):
    with pytest.raises(DataError, match=r"response.jsonl must be here"):
        read_ragtruth(tmp_path)


def test_evidence_of_any_source():
    assert evidence_of({"question": "Q?", "passages": ["a", "b"]}) == "question: Q?\npassages: a\nb"
    assert evidence_of({"stars": 4}) == "stars: 4"


def test_metrics_by_hand():
    # 2 hallucinated of 4; predicted are one of them and one other: precision, recall, F1 1/2.
    # Always: 2 x 2 / (4 + 2). Missing support .9 .2 against .5 .1: .9 beats both, .2 beats .1: 3/4.
    rows = [
        {"id": str(k), "group": "", "hallucinated": h, "predicted": p, "unsupported": u, "words": k}
        for k, (h, p, u) in enumerate([(1, 1, 0.9), (1, 0, 0.2), (0, 1, 0.5), (0, 0, 0.1)])
    ]
    found = {name: x.value for name, x in summarise(rows, Intervals(0.95)).items()}
    assert found["precision"] == found["recall"] == found["f1"] == 0.5
    assert found["f1_always"] == pytest.approx(2 / 3)
    assert found["auroc"] == 0.75
    assert found["auroc_longer"] == 0.0
    assert "span_f1" not in found


def test_the_stage_writes_each_part(tmp_path):
    folder = ragtruth(tmp_path, {}, {"id": "2", "labels": [SPAN]}, {"quality": "truncated"})
    out = tmp_path / "out"
    out.mkdir()
    config = SupportEvalConfig(ragtruth=str(folder))
    flat = run(config, {}, RuntimeConfig(), out, NullTracker())
    assert flat["eval_support/ragtruth_recall"] == 1.0
    # 2 x 3 / (36 predicted + 3 marked): both responses have the sentence that is not supported.
    assert flat["eval_support/ragtruth_span_f1"] == pytest.approx(6 / 39)
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics["ragtruth"]) == {"all", "Summary"}
    (note,) = json.loads((out / "notes.json").read_text())
    assert note == "ragtruth: 1 responses left out: quality truncated."


def test_a_node_without_files_and_bad_settings_are_refused():
    node = PlacedNode("eval_support", "eval_support", {}, SupportEvalConfig())
    with pytest.raises(ConfigError, match="must name labelled responses"):
        check_files(node, RuntimeConfig())
    with pytest.raises(ConfigError, match=r"eval_support.threshold"):
        SupportEvalConfig(threshold=2.0)
