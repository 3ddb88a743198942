"""HaluEval's official protocol, its words and parser, other knowledge, and the policy's answers."""

from __future__ import annotations

import dataclasses
import json

import pytest
from places import SHARED
from worlds.evaluation import FirstDocument, halueval, small_config, small_policy

from eval.benchmarks.halueval import HallucinationJudgement, asked, judged, measure
from eval.benchmarks.halueval_answers import holds, lexical_support
from eval.benchmarks.halueval_prompts import (
    Candidate,
    candidates,
    one_side,
    read_verdict,
    read_words,
)
from eval.benchmarks.halueval_scores import judge_metrics, summarise
from eval.benchmarks.subject import Subject, has_own_template
from eval.config import HaluEvalConfig
from eval.intervals import Intervals
from plumbrule.data.records import BenchmarkItem, Message
from plumbrule.errors import ConfigError, DataError
from plumbrule.lm.chat import PLAIN_TEMPLATE
from plumbrule.lm.generation import shared_prefixes
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.tracking.stage_tracker import NullTracker

INTERVALS = Intervals(confidence=0.95, num_resamples=100, seed=0)
OFFICIAL = SHARED / "data" / "halueval" / "evaluation"
TASKS = ("qa", "dialogue", "summarization")
FIELDS = {"knowledge": "K.", "question": "Q?", "history": "H", "document": "D", "query": "U"}
SIDES = {"right": "a", "hallucinated": "b", "response": "c"}


@pytest.fixture
def instructions(tmp_path):
    """A folder of the shape of the official one."""
    folder = tmp_path / "halueval" / "evaluation"
    for task in TASKS:
        (folder / task).mkdir(parents=True)
        file = folder / task / f"{task}_evaluation_instruction.txt"
        file.write_bytes(f'Judge {task}.\r\nMUST be \\"Yes\\"".'.encode())
    systems = {task: f"You judge {task}." for task in TASKS}
    (folder / "system_messages.json").write_text(json.dumps(systems))
    return folder


def subject(config=None, *, retriever=None, chats=True, context=None, **changes):
    policy = small_policy()
    if context:
        policy.spec = dataclasses.replace(policy.spec, context=context)
    settings = small_config(halueval=config or HaluEvalConfig(), **changes)
    runtime = RuntimeConfig(device="cpu", micro_batch_size=2)
    return Subject(policy, retriever, None, settings, runtime, NullTracker(), chats=chats)


def candidate(task, text="a"):
    item = BenchmarkItem("x", f"halueval_{task}", {**FIELDS, **SIDES}, meta={"hallucinated": True})
    return Candidate(item, "right", text, False)


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ("Yes", "Yes"),
        ("No.", "No"),
        ("Yes, the answer does", "Yes"),
        ("Not at all", "No"),  # a substring, as it is written
        ("N.o", "No"),  # full stops are removed first
        ("yes", "failed"),
        ("", "failed"),
        ("Yes or No", "failed"),
        ("I can't tell", "failed"),
    ],
)
def test_the_official_parser(said, verdict):
    assert read_verdict(said) == verdict


def test_official_words_keep_the_files_bytes(instructions):
    words = read_words(HaluEvalConfig(instructions=str(instructions)))
    chat, plain = (words.ask(candidate("qa"), None, chat=c) for c in (True, False))
    text = 'Judge qa.\r\nMUST be \\"Yes\\"".\n\n#Question#: Q?\n#Answer#: a\n#Your Judgement#:'
    assert chat.messages == (Message("system", "You judge qa."), Message("user", text + " "))
    assert plain.plain == text
    assert plain.messages == ()
    above = read_words(HaluEvalConfig(instructions=str(instructions.parent)))
    assert above.ask(candidate("qa"), None, chat=True) == chat


@pytest.mark.parametrize(
    ("task", "lines"),
    [
        ("qa", "#Knowledge#: K.\n#Question#: Q?\n#Answer#: a"),
        ("dialogue", "#Knowledge#: K.\n#Dialogue History#: H\n#Response#: a"),
        ("summarization", "#Document#: D\n#Summary#: a"),
    ],
)
def test_official_words_with_knowledge(instructions, task, lines):
    words = read_words(HaluEvalConfig(instructions=str(instructions)))
    ask = words.ask(candidate(task), "K.", chat=False)
    assert ask.plain.partition("\n\n")[2] == f"{lines}\n#Your Judgement#:"


def test_the_general_task_is_asked_in_our_words(instructions):
    words = read_words(HaluEvalConfig(instructions=str(instructions)))
    assert words.ask(candidate("general"), None, chat=True).messages[0].content.startswith("U\n")


def test_the_official_files_are_read_as_they_are():
    if not OFFICIAL.is_dir():
        pytest.skip("the official files are not at ../shared/data/halueval/evaluation")
    words = read_words(HaluEvalConfig(instructions=str(OFFICIAL)))
    ask = words.ask(candidate("qa"), None, chat=True)
    assert "huallucination" in ask.messages[0].content
    path = OFFICIAL / "qa" / "qa_evaluation_instruction.txt"
    assert ask.messages[1].content.encode().startswith(path.read_bytes())
    assert ask.messages[1].content.endswith(
        '\\"Yes\\" or \\"No\\"".\n\n#Question#: Q?\n#Answer#: a\n#Your Judgement#: '
    )


@pytest.mark.parametrize("lacking", ["system_messages.json", "instructions", "json", "entry"])
def test_a_folder_without_the_official_files_is_refused(instructions, lacking):
    systems = instructions / "system_messages.json"
    if lacking == "system_messages.json":
        systems.unlink()
    elif lacking == "instructions":
        for task in TASKS:
            (instructions / task / f"{task}_evaluation_instruction.txt").unlink()
    else:
        systems.write_text({"json": "{", "entry": '{"qa": 3}'}[lacking])
    with pytest.raises(ConfigError, match=r"eval.halueval.instructions \(=.*must be a folder"):
        read_words(HaluEvalConfig(instructions=str(instructions)))


def test_a_task_without_its_instruction_is_named(instructions):
    (instructions / "qa" / "qa_evaluation_instruction.txt").unlink()
    config = small_config(halueval=HaluEvalConfig(instructions=str(instructions)))
    with pytest.raises(ConfigError, match="the instruction of task qa"):
        asked(halueval()[:1], config)


def test_one_side_of_each_row_follows_from_seed_and_id():
    items = [BenchmarkItem(str(i), "halueval_qa", {**FIELDS, **SIDES}) for i in range(400)]
    drawn = one_side(candidates(items), 0)
    assert [one.item.id for one in drawn] == [item.id for item in items]
    assert 160 < sum(one.hallucinated for one in drawn) < 240  # 200, standard deviation 10
    alone = one_side(candidates(items[7:8]), 0)
    assert alone[0].side == drawn[7].side
    other = [one.side for one in one_side(candidates(items), 1)]
    assert other != [one.side for one in drawn]
    general = one_side(candidates(halueval()[3:]), 0)
    assert len(general) == 2


def test_the_official_protocol_counts_failures_as_wrong(instructions):
    config = HaluEvalConfig(protocol="official", instructions=str(instructions), max_new_tokens=4)
    measured = measure(halueval(), "closed", subject(config, context=400, num_samples=3))
    rows = measured.items
    assert len(rows) == 5  # one side of three rows, two general texts
    for row in rows:
        assert row["failed"] == int(row["verdict"] == "failed")
        assert row["correct"] == int(row["verdict"] == ("Yes" if row["hallucinated"] else "No"))
        assert "score" not in row
    assert all(row["failed"] for row in rows)  # random weights say neither word
    found = summarise(rows, INTERVALS)
    assert found["general_failure_rate"].value == 1.0
    assert found["general_accuracy"].value == 0.0
    assert "general_auroc" not in found
    assert "drawn with seed 0" in " ".join(measured.notes)
    assert "through the chat template" in measured.notes[0]
    assert "general task has no official judge" in measured.notes[1]


@pytest.mark.parametrize(
    ("hallucinated", "verdict", "correct"),
    [(True, "Yes", 1), (True, "failed", 0), (False, "failed", 0), (False, "No", 1)],
)
def test_a_failed_judgement_is_neither_yes_nor_right(hallucinated, verdict, correct):
    one = candidate("qa")._replace(hallucinated=hallucinated)
    row = judged(one, HallucinationJudgement(None, verdict, verdict), "closed")
    assert (row["correct"], row["said_yes"], row["failed"]) == (
        correct,
        int(verdict == "Yes"),
        int(verdict == "failed"),
    )


def test_scores_of_yes_by_hand():
    # 20 texts. Hallucinated: 6 Yes, 3 No, 1 failed. Right: 2 Yes, 7 No, 1 failed.
    said = {1: ["Yes"] * 6 + ["No"] * 3 + ["failed"], 0: ["Yes"] * 2 + ["No"] * 7 + ["failed"]}
    rows = [
        {
            **judged(
                candidate("qa")._replace(hallucinated=bool(truth)),
                HallucinationJudgement(None, v, v),
                "c",
            ),
            "id": f"{truth}{i}",
            "group": f"{truth}{i}",
        }
        for truth, verdicts in said.items()
        for i, v in enumerate(verdicts)
    ]
    found = {name: one.value for name, one in judge_metrics(rows, INTERVALS).items()}
    assert found["accuracy"] == pytest.approx(13 / 20)
    assert found["precision"] == pytest.approx(6 / 8)
    assert found["recall"] == pytest.approx(6 / 10)
    assert found["f1"] == pytest.approx(2 * 6 / (8 + 10))
    assert found["failure_rate"] == pytest.approx(2 / 20)
    # failures as the wrong word: tp 6, fn 4, fp 3, tn 7
    assert found["mcc"] == pytest.approx((6 * 7 - 3 * 4) / (9 * 10 * 11 * 10) ** 0.5)
    bounds = judge_metrics(rows, INTERVALS)
    assert -1 <= bounds["mcc"].low < bounds["mcc"].value < bounds["mcc"].high <= 1


def test_an_official_row_that_is_too_long_counts_as_wrong(instructions):
    config = HaluEvalConfig(protocol="official", instructions=str(instructions), max_new_tokens=4)
    long = {"right": "Arlen", "hallucinated": "Bosk", "question": "? " * 400, "knowledge": "k"}
    items = [halueval()[0], BenchmarkItem("long", "halueval_qa", long)]
    measured = measure(items, "closed", subject(config))
    (short, lost) = measured.items
    assert (short["too_long"], lost["too_long"]) == (0, 1)
    assert (lost["correct"], lost["failed"], lost["said_yes"]) == (0, 1, 0)
    found = summarise(measured.items, INTERVALS)
    assert found["qa_accuracy"].n == 2
    assert found["qa_accuracy"].value == short["correct"] / 2
    assert found["qa_too_long"].value == 0.5
    assert found["qa_rule_always_no"].n == 2  # the rules are scored on the same rows
    assert any(
        "count as failed, since the official accuracy is over all rows" in n for n in measured.notes
    )


def test_base_models_get_official_words_as_plain_text(instructions):
    config = HaluEvalConfig(instructions=str(instructions))
    measured = measure(halueval()[:1], "closed", subject(config, chats=False, context=300))
    assert "as plain text" in measured.notes[0]
    assert measured.samples[0]["prompt"].endswith("#Your Judgement#:")
    short = measure(halueval()[:1], "closed", subject(chats=False))
    assert not short.samples[0]["prompt"].endswith("#Your Judgement#:")


def test_plain_text_and_its_words_are_scored_as_one_text(instructions):
    config = HaluEvalConfig(instructions=str(instructions), form="completion")
    asker = subject(config, context=300)
    measured = measure(halueval()[:1], "closed", asker)
    tokenizer, prompt = asker.policy.tokenizer, measured.samples[0]["prompt"]
    ids = [tokenizer.bos_token_id, *tokenizer.encode(prompt, add_special_tokens=False)]
    words = [tokenizer.encode(word, add_special_tokens=False) for word in (" Yes", " No")]
    odds = asker.log_odds([ids], *words, "test")
    assert measured.items[0]["score"] == pytest.approx(odds[0], abs=1e-5)
    assert asked(halueval(), asker.config) == []  # no chat


def test_a_chat_template_is_needed_for_the_chat_form(instructions):
    config = HaluEvalConfig(instructions=str(instructions), form="chat")
    asker = subject(config, chats=False)
    asker.policy.tokenizer.chat_template = PLAIN_TEMPLATE
    with pytest.raises(ConfigError, match=r"eval.halueval.form \(=chat\) must be completion"):
        measure(halueval()[:1], "closed", asker)


def test_a_tokenizer_without_a_template_is_known():
    tokenizer = small_policy().tokenizer
    assert has_own_template(tokenizer)
    tokenizer.chat_template = "{{ bos_token }}" + PLAIN_TEMPLATE
    assert not has_own_template(tokenizer)


def test_knowledge_given_hidden_and_retrieved():
    shown = {}
    for knowledge in ("given", "hidden", "retrieved"):
        asker = subject(HaluEvalConfig(knowledge=knowledge), retriever=FirstDocument())
        shown[knowledge] = measure(halueval()[:3], "closed", asker)
    passages = {name: [s["passages"] for s in one.samples][:2] for name, one in shown.items()}
    assert passages["given"] == [["Ada was born in Arlen."]] * 2
    assert passages["hidden"] == [[]] * 2
    assert passages["retrieved"] == [["Ada was born in Arlen."]] * 2
    scores = {n: [row["score"] for row in one.items] for n, one in shown.items()}
    assert scores["hidden"][0] != pytest.approx(scores["given"][0], abs=1e-6)
    assert scores["retrieved"][0] == pytest.approx(scores["given"][0], abs=1e-5)
    # a summary is judged beside its document in any case
    assert scores["hidden"][4] == pytest.approx(scores["given"][4], abs=1e-5)


def test_retrieved_passages_keep_within_their_budget():
    asker = subject(retriever=FirstDocument())
    assert asker.retrieve(["Ada?", "nobody"]) == [("Ada was born in Arlen.",), ()]
    asker.config.retrieval.budget_tokens = 3
    assert asker.retrieve(["Ada?"]) == [()]


def test_knowledge_that_nothing_retrieves_is_refused():
    with pytest.raises(ConfigError, match="needs an index"):
        measure(halueval()[:1], "closed", subject(HaluEvalConfig(knowledge="retrieved")))


def test_the_instruction_is_read_once_and_a_rows_prefix_once_for_both_sides(
    instructions, monkeypatch
):
    prefixes, computed = [], []
    read_prefix, read_runs = shared_prefixes.read_prefix, shared_prefixes.read_runs

    def prefix(policy, tokens, room):
        prefixes.append(len(tokens))
        return read_prefix(policy, tokens, room)

    def runs(policy, cache, common, batch):
        computed.extend(len(run.places) for run in batch)
        return read_runs(policy, cache, common, batch)

    ids = {"Yes": [30], "No": [31]}  # this small vocabulary has no token for Yes
    monkeypatch.setattr(Subject, "encode_word", lambda self, word, chat: ids[word])
    monkeypatch.setattr(shared_prefixes, "read_prefix", prefix)
    monkeypatch.setattr(shared_prefixes, "read_runs", runs)
    fields = halueval()[0].fields
    items = [
        BenchmarkItem(str(i), "halueval_qa", {**fields, "question": f"Where was {name} born?"})
        for i, name in enumerate(("Ada", "Bea", "Cid"))
    ]
    measure(items, "closed", subject(HaluEvalConfig(instructions=str(instructions)), context=300))
    assert len(prefixes) == 1
    assert prefixes[0] > len("Judge qa.") // 2
    assert computed == [2, 2, 2]


def test_the_policys_own_answers_are_judged():
    config = HaluEvalConfig(generate=True)
    measured = measure(halueval(), "closed", subject(config, num_samples=9))
    own = [row for row in measured.items if "support" in row]
    assert len(own) == 5
    assert [row["support"] is None for row in own][3:] == [True, True]  # general has no source
    assert all(("judged_false" in row) == (not row["empty"]) for row in own)
    found = summarise(measured.items, INTERVALS)
    assert found["qa_answer_support"].n == 1
    assert 0 <= found["qa_answer_support"].value <= 1
    assert found["general_answer_empty"].n == 2
    assert "general_answer_support" not in found
    assert found["qa_accuracy"].n == 2  # answers are not among the judged texts


def test_an_empty_answer_is_counted_and_not_judged(monkeypatch):
    asker = subject(HaluEvalConfig(generate=True))
    monkeypatch.setattr(type(asker.policy), "decode", lambda self, ids: "")
    own = [row for row in measure(halueval(), "closed", asker).items if "support" in row]
    assert {row["empty"] for row in own} == {1}
    assert all("judged_false" not in row and row["support"] is None for row in own)


def test_support_by_hand():
    # content words: born, arlen, 1921 ("was", "in" are short) -> 2 of 3 in the source
    assert lexical_support("Born in Bosk, 1921", ["She was born in 1921."]) == pytest.approx(2 / 3)
    assert lexical_support("It is so", ["x"]) is None
    assert holds("It was Arlen.", "arlen")
    assert not holds("Arlenia", "Arlen")
    assert not holds("Arlen", "")


def test_knowledge_that_the_words_show_must_be_there(instructions):
    fields = {"question": "Q?", **SIDES}
    item = BenchmarkItem("x", "halueval_qa", fields)
    asked([item], small_config(halueval=HaluEvalConfig(instructions=str(instructions))))
    given = HaluEvalConfig(instructions=str(instructions), knowledge="given")
    with pytest.raises(DataError, match="field knowledge"):
        asked([item], small_config(halueval=given))
