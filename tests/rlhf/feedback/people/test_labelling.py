"""People as labellers without the page: questions, judgements on disk, merging and the stage."""

from __future__ import annotations

import json
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
from worlds.rankings import chat
from worlds.stages import CPU, run_stage, small_feedback

from plumbrule.data.json_lines import read_rows
from plumbrule.data.records import Preference, read_records
from plumbrule.errors import ConfigError, DataError, NeedsInput
from plumbrule.store.artifacts import Artifact
from plumbrule.tracking.stage_tracker import NullTracker
from rlhf.feedback import sampling
from rlhf.feedback import stage as feedback
from rlhf.feedback.people import store_folder
from rlhf.feedback.people.judgements import (
    AnnotatorJudgement,
    StaleError,
    annotator_name,
    append,
    check_file,
    finished,
    from_row,
    read_file,
    read_journal,
    to_row,
    write_file,
)
from rlhf.feedback.people.questions import (
    LabellingQuestion,
    in_asking_order,
    question_of,
    read_questions,
    shown_order,
    write_questions,
)
from rlhf.feedback.people.verdicts import verdicts
from rlhf.feedback.rankings import count_alike
from rlhf.reward_model import stage as rm
from rlhf.reward_model.config import RMConfig


def questions(number: int, answers=("a", "b", "c")) -> list[LabellingQuestion]:
    return [question_of(chat(f"what is {i}?"), (), answers) for i in range(number)]


def said(name: str, **ranks) -> dict[str, AnnotatorJudgement]:
    return {q: AnnotatorJudgement(q, name, r) for q, r in ranks.items()}


# Questions


def test_a_question_is_known_by_what_is_read():
    one = question_of(chat("what?"), (), ("a", "b"))
    assert one == question_of(chat("what?"), (), ["a", "b"])
    others = [
        question_of(chat("who?"), (), ("a", "b")),
        question_of(chat("what?"), ("a passage",), ("a", "b")),
        question_of(chat("what?"), (), ("b", "a")),
    ]
    assert len({one.id, *(q.id for q in others)}) == 4


def test_a_share_is_asked_again_at_the_end():
    asked = in_asking_order(questions(10), 0.15)  # 1.5 of 10, rounded up
    assert [q.id for q in asked[:10]] == sorted(q.id for q in asked[:10])
    assert [q.repeats for q in asked[10:]] == [asked[0].id, asked[1].id]
    assert asked[10]._replace(id=asked[0].id, repeats=None) == asked[0]
    assert len(in_asking_order(questions(10), 0.0)) == 10
    assert len(in_asking_order(questions(30), 0.1)) == 33  # 0.1 * 30 is a little above 3


def test_the_same_question_of_two_prompts_is_asked_once():
    assert len(in_asking_order([*questions(3), *questions(2)], 0.0)) == 3


@pytest.mark.parametrize("number", [2, 3, 4])
def test_answers_come_in_an_order_of_their_own_each_time(number):
    asked = in_asking_order(questions(40, tuple("abcd"[:number])), 1.0)
    by_id = {q.id: shown_order(q, "anna") for q in asked}
    assert all(sorted(order) == list(range(number)) for order in by_id.values())
    for question in asked[40:]:
        assert by_id[question.id] != by_id[question.repeats]
    # of 40 fair draws, each answer comes first in 40 / K +- 4 deviations
    firsts = [by_id[q.id][0] for q in asked[:40]]
    for k in range(number):
        expected, share = 40 / number, 1 / number
        assert firsts.count(k) == pytest.approx(expected, abs=4 * (expected * (1 - share)) ** 0.5)
    assert any(shown_order(q, "ben") != by_id[q.id] for q in asked)


def test_questions_read_back_as_they_were_written(tmp_path):
    asked = in_asking_order([question_of(chat("ä\n?"), ("p",), ("x", "y"))], 1.0)
    write_questions(asked, tmp_path / "questions.jsonl")
    assert read_questions(tmp_path / "questions.jsonl") == asked


# Judgements on disk


def test_a_changed_mind_is_a_new_row_and_the_last_one_counts(tmp_path):
    path = tmp_path / "anna.jsonl"
    append(path, AnnotatorJudgement("q", "anna", (1, 2)), seen=0)
    append(path, AnnotatorJudgement("r", "anna", None, "odd"), seen=0)
    append(path, AnnotatorJudgement("q", "anna", (2, 1)), seen=1)
    assert len(path.read_text().splitlines()) == 3
    now = read_journal(path)
    assert now["q"] == AnnotatorJudgement("q", "anna", (2, 1), revision=2)
    assert now["r"] == AnnotatorJudgement("r", "anna", None, "odd", revision=1)


def test_a_bit_that_flips_in_a_journal_is_found(tmp_path):
    path = tmp_path / "anna.jsonl"
    append(path, AnnotatorJudgement("q", "anna", (1, 2), "grün", at="M-"), seen=0)
    append(path, AnnotatorJudgement("r", "anna", (2, 1), "odd"), seen=0)
    whole, first = path.read_bytes(), path.read_bytes().index(b"\n") + 1
    for place in range(0, len(whole) * 8 - 8, 3):  # bits, but for the last line's end
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"anna.jsonl.*row {1 if place // 8 < first else 2}"):
            read_journal(path)
    edited = json.loads(whole.splitlines()[0]) | {"ranks": [2, 1]}
    path.write_text(json.dumps(edited) + "\n")
    with pytest.raises(DataError, match="take digest out to keep it as it stands"):
        read_journal(path)
    del edited["digest"]
    path.write_text(json.dumps(edited) + "\n")
    assert read_journal(path)["q"].ranks == (2, 1)


def test_a_stale_judgement_is_refused_and_leaves_the_file_alone(tmp_path):
    path = tmp_path / "anna.jsonl"
    append(path, AnnotatorJudgement("q", "anna", (1, 2)), seen=0)
    before = path.read_bytes()
    for seen in (0, 2):
        with pytest.raises(StaleError):
            append(path, AnnotatorJudgement("q", "anna", (2, 1)), seen=seen)
    assert path.read_bytes() == before


def test_of_many_writers_at_once_one_wins_and_the_others_know(tmp_path):
    path, won, lost = tmp_path / "anna.jsonl", [], []
    names = [str(i) for i in range(30)]
    together = threading.Barrier(6)
    earlier = json.dumps(to_row(AnnotatorJudgement("earlier", "anna", None)))
    path.write_text(f"{earlier}\n" * 300)  # takes a while to read, and so to be overtaken

    def write(k: int) -> None:
        for question in names:
            together.wait()
            try:
                append(path, AnnotatorJudgement(question, "anna", None, str(k)), seen=0)
                won.append((question, str(k)))
            except StaleError:
                lost.append((question, str(k)))

    threads = [threading.Thread(target=write, args=(k,)) for k in range(6)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that threads meet between reading and writing
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert sorted(q for q, _ in won) == sorted(names)
    assert len(lost) == 5 * 30
    kept = {(q, j.comment) for q, j in read_journal(path).items() if q != "earlier"}
    assert kept == set(won)


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_last_row_is_dropped_and_the_next_one_is_whole(tmp_path, cut):
    path = tmp_path / "anna.jsonl"
    append(path, AnnotatorJudgement("q", "anna", (1, 2)), seen=0)
    append(path, AnnotatorJudgement("r", "anna", (1, 2)), seen=0)
    path.write_bytes(path.read_bytes()[:-cut])
    there = set(read_journal(path))
    assert there == ({"q", "r"} if cut == 1 else {"q"})  # only the line's end is missing: whole
    append(path, AnnotatorJudgement("s", "anna", (2, 1)), seen=0)
    assert set(read_journal(path)) == there | {"s"}
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_damaged_row_elsewhere_is_an_error_with_its_place(tmp_path):
    path = tmp_path / "anna.jsonl"
    for question in "qrs":
        append(path, AnnotatorJudgement(question, "anna", (1, 2)), seen=0)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:20], lines[2]]) + "\n")
    with pytest.raises(DataError, match=r"anna\.jsonl, row 2: not valid JSON"):
        read_journal(path)


def test_names_are_plain_words():
    assert annotator_name(" Anna-2 ") == "anna-2"
    for bad in ("", "..", "../anna", "a/b", "a\\b", "a.b", "anna b", "ä", "-a", "a" * 41, "a\0"):
        with pytest.raises(DataError, match="plain word"):
            annotator_name(bad)


# A file from elsewhere


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"question": "q"}, "needs ranks"),
        ({"ranks": [1, 2]}, "needs question"),
        ({"question": "q", "ranks": [1, 3]}, "no hole"),
        ({"question": "q", "ranks": [2, 2]}, "no hole"),
        ({"question": "q", "ranks": "ab"}, "list of whole numbers"),
        ({"question": "q", "ranks": [True, 2]}, "list of whole numbers"),
        ({"question": 7, "ranks": [1, 2]}, "a question's id"),
        ({"question": "q", "ranks": [1, 2], "annotator": "../x"}, "plain word"),
        ({"question": "q", "ranks": [1, 2], "rank": 1}, r"unknown field\(s\) \['rank'\]"),
        ({"question": "p", "ranks": [1, 2]}, "judged once"),
    ],
)
def test_a_wrong_row_is_named_with_file_and_row(tmp_path, row, says):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"question": "p", "ranks": [1, 2]}\n\n' + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=rf"labels\.jsonl, row 3: .*{says}"):
        read_file(path)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"question": "other", "ranks": [1, 2]}, "one of the 1 that were asked"),
        ({"question": "q", "ranks": [1, 2, 3]}, r"as many as the question's answers \(=2\)"),
        ({"question": "q", "ranks": []}, "as many as"),
    ],
)
def test_a_row_that_fits_no_question_is_named(tmp_path, row, says):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"question": "q", "ranks": [1, 2]}\n' + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=rf"labels\.jsonl, row 2: .*{says}"):
        check_file(path, {"q": LabellingQuestion("q", chat("?"), (), ("a", "b"))})


def test_a_journal_may_be_given_as_a_file(tmp_path):
    path = tmp_path / "anna.jsonl"
    append(path, AnnotatorJudgement("q", "anna", (1, 2)), seen=0)
    append(path, AnnotatorJudgement("q", "anna", (2, 1)), seen=1)
    assert read_file(path) == {"anna": read_journal(path)}


def test_judgements_read_back_as_they_were_written(tmp_path):
    both = [
        AnnotatorJudgement("q", "anna", (1, 1)),
        AnnotatorJudgement("q", "ben", None, 'a "word"', 3, "now"),
    ]
    write_file(both, tmp_path / "labels.jsonl")
    assert read_file(tmp_path / "labels.jsonl") == {"anna": {"q": both[0]}, "ben": {"q": both[1]}}
    assert [from_row(to_row(j)) for j in both] == both


# Merging


def test_alike_pairs_by_hand():
    # pairs of ranks (1, 2, 2) and (1, 2, 3): 0-1 and 0-2 alike; 1-2 is a tie in one of them
    assert count_alike((1, 2, 2), (1, 2, 3)) == (2, 3)
    assert count_alike((1, 1), (1, 1)) == (1, 1)
    assert count_alike((1, 2), (2, 1)) == (0, 1)


def test_rankings_are_merged_and_people_measured():
    q, r, s = questions(3)
    again = q._replace(id="again", repeats=q.id)
    people = {
        "anna": said("anna", **{q.id: (1, 2, 3), r.id: None, s.id: None, "again": (1, 3, 2)}),
        "ben": said("ben", **{q.id: (1, 2, 3), r.id: (2, 1, 1), s.id: None, "again": (1, 2, 3)}),
    }
    made = verdicts([q, r, s, again], people)
    assert set(made.rankings) == {q.id, r.id}
    assert made.rankings[q.id].ranks == (1, 2, 3)
    assert made.rankings[q.id].meta["annotators"] == ["anna", "ben"]
    assert made.rankings[r.id].annotator == "ben"
    assert made.metrics == {
        "feedback/annotators": 2.0,
        "feedback/cant_say": 3.0,  # what is asked again is not counted
        "feedback/alpha": 1.0,  # of q alone: only ben ranked r
        "feedback/self_agreement": 5 / 6,  # anna turned one pair of three round
    }


def test_one_person_has_no_alpha():
    (q,) = questions(1)
    made = verdicts([q], {"anna": said("anna", **{q.id: (1, 2, 2)})})
    assert made.metrics == {"feedback/annotators": 1.0, "feedback/cant_say": 0.0}
    assert made.rankings[q.id].annotator == "anna"


def test_who_has_finished():
    asked = questions(2)
    half = said("ben", **{asked[0].id: None})
    assert finished({"anna": said("anna", **{q.id: None for q in asked}), "ben": half}, asked) == [
        "anna"
    ]


# The stage


small = partial(small_feedback, labeller="person", repeats=0.2)
build = partial(run_stage, feedback.run)


def wait(config, given, out: Path) -> NeedsInput:
    with pytest.raises(NeedsInput) as wanted:
        build(config, given, out)
    return wanted.value


def by_length(question: LabellingQuestion) -> tuple[int, ...]:
    """Rank the shorter answer higher; answers of one length tie."""
    lengths = [len(a) for a in question.answers]
    return tuple(sorted(set(lengths)).index(n) + 1 for n in lengths)


def judge_all(labels: Path, name: str, rank=by_length) -> None:
    for question in store_folder.questions_in(labels):
        judgement = AnnotatorJudgement(question.id, name, rank(question))
        append(store_folder.journal(labels, name), judgement, seen=0)


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "artifacts" / "feedback" / "f1"


def test_the_stage_waits_for_a_person_and_then_goes_on(given, out, tmp_path, monkeypatch):
    wanted = wait(small(), given, out)
    assert f"`plumbrule label f1 --store {tmp_path}`" in str(wanted)
    assert "1 person must judge" in str(wanted)
    assert wanted.path.parent == tmp_path / "labels"
    asked = store_folder.questions_in(wanted.path)
    judge_all(wanted.path, "anna")
    monkeypatch.setattr(sampling, "sample_chunk", None)  # nothing is sampled again
    metrics = build(small(), given, out)
    rankings = [
        *read_records(Preference, out / "records.jsonl"),
        *read_records(Preference, out / "validation.jsonl"),
    ]
    assert metrics["feedback/prompts"] == len(rankings)
    assert metrics["feedback/self_agreement"] == 1.0
    assert metrics["feedback/annotators"] == 1.0
    assert not {"feedback/utility", "feedback/agreement", "feedback/alpha"} & set(metrics)
    by_id = {q.id: q for q in asked}
    for ranking in rankings:
        question = by_id[ranking.meta["question_id"]]
        assert ranking.messages == question.messages
        assert ranking.responses == question.answers
        assert ranking.ranks == by_length(question)
        assert ranking.annotator == "anna"
        assert ranking.scores is None
        assert len(ranking.finished) == len(ranking.responses)
        assert ranking.meta["answer"] == "red"
        assert ranking.utilities is None
    samples = [row for _, row in read_rows(out / "samples.jsonl")]
    assert len(samples) == 3 * 14
    assert {row["utility"] for row in samples} == {None}
    assert read_questions(out / "questions.jsonl") == asked
    assert read_file(out / "labels.jsonl") == store_folder.judgements_in(wanted.path)


def test_a_reward_model_learns_from_people_s_rankings(given, out):
    config = small(annotators=2, repeats=0.0)
    labels = wait(config, given, out).path
    for name in ("anna", "ben"):
        judge_all(labels, name)
    build(config, given, out)
    source = Artifact.of(out, "feedback")
    trained = out.with_name("rm")
    trained.mkdir()
    settings = RMConfig(num_train_epochs=1.0, batch_size=5, num_calibration_prompts=8)
    inputs = {"policy": given["policy"], "preferences": source}
    metrics = rm.run(settings, inputs, CPU, trained, NullTracker())
    rankings = read_records(Preference, out / "records.jsonl")
    assert metrics["rm/pairs"] == sum(len(p.pairs()) for p in rankings)
    card = json.loads((trained / "report_card.json").read_text())
    assert card["labels"] == {}  # no utilities, so nothing is known of the labels' noise
    assert "noise_free" not in card
    assert "learned_length_taste" not in card


def test_a_killed_server_s_half_finished_work_is_waited_for(given, out):
    wanted = wait(small(), given, out)
    asked = store_folder.questions_in(wanted.path)
    for question in asked[:3]:
        append(
            store_folder.journal(wanted.path, "ben"),
            AnnotatorJudgement(question.id, "ben", None),
            seen=0,
        )
    assert "so far: ben 3" in str(wait(small(), given, out))


def test_as_many_people_as_wanted_must_finish_and_are_merged(given, out):
    config = small(annotators=2, repeats=0.0)
    labels = wait(config, given, out).path
    judge_all(labels, "anna")
    assert "2 people must judge" in str(wait(config, given, out))
    judge_all(labels, "ben", lambda q: tuple(max(by_length(q)) + 1 - r for r in by_length(q)))
    first = store_folder.questions_in(labels)[0]
    append(
        store_folder.journal(labels, "cleo"),
        AnnotatorJudgement(first.id, "cleo", (1, 2, 3)),
        seen=0,
    )
    metrics = build(config, given, out)
    assert metrics["feedback/annotators"] == 2.0  # cleo did not finish
    assert metrics["feedback/tie_rate"] == 1.0  # the two contradict each other everywhere
    assert metrics["feedback/alpha"] < 0
    assert {row["annotator"] for _, row in read_rows(out / "labels.jsonl")} == {"anna", "ben"}


def test_what_no_one_can_say_is_left_out_and_counted(given, out):
    config = small(repeats=0.0)
    labels = wait(config, given, out).path
    asked = store_folder.questions_in(labels)
    unsaid = {q.id for q in asked[:2]}
    judge_all(labels, "anna", lambda q: None if q.id in unsaid else by_length(q))
    metrics = build(config, given, out)
    assert metrics["feedback/cant_say"] == 2.0
    assert metrics["feedback/prompts_cant_say"] == 2.0
    assert metrics["feedback/prompts"] + 2 + metrics["feedback/prompts_all_equal"] == 14
    said_so = json.loads((out / "notes.json").read_text())
    assert any(line.startswith("2 prompts were not ranked: no annotator") for line in said_so)


def test_labels_survive_another_fingerprint_and_other_questions(given, out):
    labels = wait(small(num_prompts=4, repeats=0.0), given, out).path
    judge_all(labels, "anna")
    build(small(num_prompts=4, repeats=0.0, noise=0.5), given, out.with_name("f2"))
    # more prompts: another folder, which takes over what was said of the questions that are in both
    more = wait(small(repeats=0.0), given, out.with_name("f3"))
    assert more.path != labels
    assert f"so far: anna {len(store_folder.questions_in(labels))}" in str(more)
    old, new = (read_journal(store_folder.journal(p, "anna")) for p in (labels, more.path))
    assert old == new
    # and what was said here stays where the other folder has something else
    (known, judgement), *_ = new.items()
    changed = judgement._replace(ranks=None)
    append(store_folder.journal(labels, "anna"), changed, seen=1)
    wait(small(repeats=0.0), given, out.with_name("f3"))
    assert read_journal(store_folder.journal(more.path, "anna"))[known] == judgement


def test_a_file_stands_in_for_people(given, out):
    labels = wait(small(), given, out).path
    judge_all(labels, "anna")
    metrics = build(small(), given, out)
    config = small(labeller="file", labels=str(out / "labels.jsonl"))
    again = out.with_name("f2")
    assert build(config, given, again) == metrics
    for name in ("records.jsonl", "validation.jsonl", "samples.jsonl", "labels.jsonl"):
        assert (again / name).read_text() == (out / name).read_text()


def test_an_incomplete_file_is_an_error_that_says_what_is_missing(given, out, tmp_path):
    labels = wait(small(), given, out).path
    judge_all(labels, "anna")
    rows = (labels / "people" / "anna.jsonl").read_text().splitlines()
    short = tmp_path / "short.jsonl"
    short.write_text("\n".join(rows[:-1]))
    missing = json.loads(rows[-1])["question"]
    config = small(labeller="file", labels=str(short))
    with pytest.raises(DataError, match=f"short.jsonl: .*anna lacks 1, as {missing}"):
        build(config, given, out)


def test_a_malformed_file_is_refused_before_a_model_loads(given, out, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"question": "q", "ranks": [1, 3]}\n')
    nothing = {**given, "policy": Artifact.of(tmp_path, "sft")}
    with pytest.raises(DataError, match=r"bad\.jsonl, row 1: .*no hole"):
        build(small(labeller="file", labels=str(bad)), nothing, out)


def test_nothing_but_cant_say_is_an_error(given, out):
    labels = wait(small(), given, out).path
    judge_all(labels, "anna", lambda q: None)
    with pytest.raises(DataError, match="can't say"):
        build(small(), given, out)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"labeller": "file"}, r"feedback\.labels \(=None\) must name a file"),
        ({"labels": "x.jsonl"}, r"feedback\.labels \(=x\.jsonl\) must name a file if and only if"),
        ({"annotators": 0}, r"feedback\.annotators \(=0 people\)"),
        ({"repeats": 1.5}, r"feedback\.repeats \(=1\.5\)"),
        ({"labeller": "crowd"}, r"feedback\.labeller \(=crowd\)"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, says):
    with pytest.raises(ConfigError, match=says):
        small(**settings)
