"""HaluEval: hand-made judgements, the policy as a judge, and the known artefacts."""

from __future__ import annotations

import json

import pytest
from places import SHARED as SHARED_FOLDER
from worlds.evaluation import halueval, small_config, small_policy

from eval.benchmarks.halueval import HallucinationJudgement, asked, judged, measure
from eval.benchmarks.halueval_answers import plain_words
from eval.benchmarks.halueval_prompts import ShortWords, candidates
from eval.benchmarks.halueval_scores import judge_metrics, pairs, rule_metrics, summarise
from eval.benchmarks.subject import Subject
from eval.intervals import Intervals
from plumbrule.data.records import BenchmarkItem
from plumbrule.errors import DataError
from plumbrule.lm.judges.answer_likelihood import log_odds
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.tracking.stage_tracker import NullTracker

INTERVALS = Intervals(confidence=0.95, num_resamples=100, seed=0)
NO = HallucinationJudgement(-1.0, "No", "No")
HALUEVAL = SHARED_FOLDER / "data" / "halueval"


def rows(scores, task="qa"):
    """Rows of pairs: scores [(right, hallucinated), ...]."""
    return [
        {
            "id": f"{i}/{side}",
            "group": f"{i}",
            "condition": "closed",
            "item": f"{i}",
            "task": task,
            "hallucinated": label,
            "score": score,
            "said_yes": int(score > 0),
            "correct": int((score > 0) == bool(label)),
            "words": 2 + 4 * label,
            "too_long": 0,
            "characters": 9 + i * label,
            "verbatim": 1 - label,
        }
        for i, both in enumerate(scores)
        for label, (side, score) in enumerate(zip(("right", "hallucinated"), both, strict=True))
    ]


def test_judge_metrics_by_hand():
    # Right texts score -1, 2, 0.5; hallucinated 3, 1, 0.5. Yes where above 0.
    # Correct: right 1 0 0, hallucinated 1 1 1 -> 4/6. Yes: 5/6.
    # AUROC over 9 pairs: 3 beats all (3); 1 beats -1, 0.5 (2); 0.5 beats -1, ties 0.5 (1.5).
    # Pairs of a row: 3 > -1, 1 < 2, 0.5 = 0.5 -> 1.5/3.
    found = judge_metrics(rows([(-1, 3), (2, 1), (0.5, 0.5)]), INTERVALS)
    values = {name: interval.value for name, interval in found.items()}
    assert values["accuracy"] == pytest.approx(4 / 6)
    assert values["balanced_accuracy"] == pytest.approx((1 / 3 + 1) / 2)
    assert values["auroc"] == pytest.approx(6.5 / 9)
    assert values["pair_accuracy"] == pytest.approx(0.5)
    assert values["said_yes"] == pytest.approx(5 / 6)
    assert found["accuracy"].n == 6
    assert found["pair_accuracy"].n == 3


def test_balanced_accuracy_weighs_labels_not_rows():
    # 8 right texts, all said No (correct); 2 hallucinated, one found: (1 + 0.5) / 2 = 0.75.
    single = rows([(-1, 1), (-1, -1)]) + [r for r in rows([(-1, 1)] * 8) if not r["hallucinated"]]
    found = judge_metrics([{**r, "id": str(i)} for i, r in enumerate(single)], INTERVALS)
    assert found["balanced_accuracy"].value == pytest.approx(0.75)
    assert found["accuracy"].value == pytest.approx(11 / 12)


def test_one_label_has_no_balanced_accuracy_auroc_or_pairs():
    found = judge_metrics([r for r in rows([(-1, 3)]) if r["hallucinated"]], INTERVALS)
    assert set(found) == {"accuracy", "said_yes", "precision", "recall", "f1", "mcc"}


def test_rules_by_hand():
    # Characters: right 9, hallucinated 9, 10, 11 -> longer: a tie and two wins = 2.5/3.
    found = rule_metrics(rows([(0, 0), (0, 0), (0, 0)]), INTERVALS)
    values = {name: interval.value for name, interval in found.items()}
    assert values["rule_longer"] == pytest.approx(2.5 / 3)
    assert values["rule_verbatim"] == 1.0
    assert values["rule_length"] == 1.0  # 2 words against 6
    assert values["rule_always_no"] == 0.5
    assert "rule_length" not in rule_metrics(rows([(0, 0)], "dialogue"), INTERVALS)


def test_verbatim_looks_past_case_punctuation_and_spaces():
    assert plain_words("It was  Arlen, (not Bosk).") == "it was arlen not bosk"
    fields = {"knowledge": "Ada lives in Arlen. So does Bea.", "question": "Where?"}
    item = BenchmarkItem("x", "halueval_qa", {**fields, "right": "ARLEN!", "hallucinated": "Bosk."})
    assert [judged(c, NO, "closed")["verbatim"] for c in candidates([item])] == [1, 0]


def test_summarise_leads_names_with_the_task():
    found = summarise(rows([(0, 1)]) + rows([(1, 0)], "dialogue"), INTERVALS)
    assert found["qa_accuracy"].value == 1.0
    assert found["dialogue_accuracy"].value == 0.0
    assert "dialogue_rule_verbatim" in found


def test_both_sides_of_every_row_are_judged_and_stripped():
    item = BenchmarkItem("x", "halueval_qa", {"right": "a\n", "hallucinated": " b"})
    assert [(c.side, c.text, c.hallucinated) for c in candidates([item])] == [
        ("right", "a", False),
        ("hallucinated", "b", True),
    ]


def subject(policy):
    runtime = RuntimeConfig(device="cpu", micro_batch_size=2)
    return Subject(policy, None, None, small_config(num_samples=3), runtime, NullTracker())


def test_the_policys_own_yes_and_no_are_compared():
    policy = small_policy()
    yes, no = (policy.encode_response(v, terminal=False) for v in ("Yes", "No"))
    measured = measure(halueval(), "closed", subject(policy))
    assert len(measured.items) == 8
    assert [s["response"] for s in measured.samples] == [
        "Yes" if row["said_yes"] else "No" for row in measured.items[:3]
    ]
    candidate = candidates(halueval())[0]
    ask = ShortWords().ask(candidate, candidate.item.fields["knowledge"], chat=True)
    prompt = policy.encode(ask.messages, ask.passages)
    score = log_odds(policy, [prompt], yes, no, max_rows=1, advance=lambda n: None)[0]
    assert measured.items[0]["score"] == pytest.approx(score, abs=1e-5)


def test_a_row_that_does_not_fit_is_left_out_on_both_sides_and_counted():
    long = {"right": "Arlen", "hallucinated": "Bosk " * 200, "question": "?", "knowledge": "k"}
    items = [halueval()[0], BenchmarkItem("long", "halueval_qa", long)]
    measured = measure(items, "closed", subject(small_policy()))
    assert {row["item"] for row in measured.items if "correct" in row} == {"h0"}
    assert [row["too_long"] for row in measured.items] == [0, 0, 1]
    assert summarise(measured.items, INTERVALS)["qa_too_long"].value == 0.5
    assert "1 of 2 items" in measured.notes[1]


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (BenchmarkItem("x", "halueval_poems", {}), "task"),
        (BenchmarkItem("x", "halueval_qa", {"right": "a"}), "hallucinated"),
        (BenchmarkItem("x", "halueval_general", {"response": "a"}), "hallucinated"),
    ],
)
def test_items_of_another_shape_are_named(item, said):
    with pytest.raises(DataError, match=said):
        candidates([item])


@pytest.mark.parametrize(
    ("task", "missing"),
    [
        ("qa", "question"),
        ("qa", "knowledge"),
        ("dialogue", "history"),
        ("summarization", "document"),
        ("general", "query"),
    ],
)
def test_a_field_that_only_the_question_needs_is_named(task, missing):
    fields = dict.fromkeys(("question", "knowledge", "history", "document", "query"), "a")
    fields |= {"right": "a", "hallucinated": "b", "response": "c"}
    del fields[missing]
    item = BenchmarkItem("x", f"halueval_{task}", fields, meta={"hallucinated": True})
    with pytest.raises(DataError, match=rf"item 'x' of halueval_{task} .*field {missing};"):
        asked([item], small_config())


def official_rows(name):
    path = HALUEVAL / name
    if not path.is_file():
        pytest.skip(f"the official file {name} is not at ../shared/data/halueval")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_rules_beat_published_judges_on_the_official_qa_rows():
    # Known of the first 1,000 rows: "more than 4 words" is right for 94.85 % of 2,000 answers, "not
    # verbatim in the knowledge" for 97.55 %, and the hallucinated text is the longer one in 97.3 %
    # of pairs; two ties, which count half here, add 0.1.
    items = [
        BenchmarkItem(
            str(number),
            "halueval_qa",
            {
                "knowledge": row["knowledge"],
                "question": row["question"],
                "right": row["right_answer"],
                "hallucinated": row["hallucinated_answer"],
            },
        )
        for number, row in enumerate(official_rows("qa_data.first1000.json"))
    ]
    scored = [judged(candidate, NO, "closed") for candidate in candidates(items)]
    found = rule_metrics(scored, INTERVALS)
    assert found["rule_length"].value == pytest.approx(0.9485)
    assert found["rule_verbatim"].value == pytest.approx(0.9755)
    assert found["rule_longer"].value == pytest.approx(0.974)
    assert len(pairs(scored, "words")) == 1000


def test_always_no_scores_82_percent_on_the_official_general_rows():
    items = [
        BenchmarkItem(
            str(number),
            "halueval_general",
            {"query": row["user_query"], "response": row["chatgpt_response"]},
            meta={"hallucinated": row["hallucination"] == "yes"},
        )
        for number, row in enumerate(official_rows("general_data.json"))
    ]
    scored = [judged(candidate, NO, "closed") for candidate in candidates(items)]
    assert rule_metrics(scored, INTERVALS)["rule_always_no"].value == pytest.approx(3692 / 4507)
    assert judge_metrics(scored, INTERVALS)["balanced_accuracy"].value == pytest.approx(0.5)
