"""Examples in front of questions: which are drawn, the prompt by hand, what is refused."""

from __future__ import annotations

import json

import pytest
from worlds.evaluation import halueval, small_config, small_inputs, small_policy

from eval.benchmarks.multiple_choice import classification, general
from eval.benchmarks.multiple_choice.likelihood import score_choices
from eval.benchmarks.open_answers import open_qa
from eval.benchmarks.registry import BENCHMARKS
from eval.benchmarks.subject import Subject
from eval.config import STAGE, BenchmarkFiles, check_shots
from eval.few_shot import NONE, Shot, Shots, as_text, draw
from eval.stage import run
from plumbrule.data.records import BenchmarkItem, write_records
from plumbrule.errors import ConfigError, DataError
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.stage_kind import PlacedNode
from plumbrule.store.artifacts import Artifact
from plumbrule.tracking.stage_tracker import NullTracker

RUNTIME = RuntimeConfig(device="cpu", micro_batch_size=4)
EXAMPLES = [Shot("1 + 1?", "2"), Shot("2 + 2?", "4")]


def choice(id, question="Where was she born?", answer=0, **meta):
    fields = {"question": question, "choices": ["Arlen", "Bosk"], "answer": answer}
    return BenchmarkItem(id, "multiple_choice", fields, meta=meta)


def subject(**settings):
    return Subject(small_policy(), None, None, small_config(**settings), RUNTIME, NullTracker())


def scored_rows(subject, monkeypatch, shots):
    """Return the prompt, as text, of each scored answer."""
    seen = []

    def response_nats(self, rows, what):
        seen.extend(self.policy.tokenizer.decode(prompt) for prompt, _ in rows)
        return [0.0] * len(rows)

    monkeypatch.setattr(Subject, "response_nats", response_nats)
    score_choices(subject, ["3 + 3?"], [["6", "7"]], "what", [shots])
    return seen


def test_a_chat_shows_examples_as_turns(monkeypatch):
    expected = (
        "<|bos|><|user|> 1 + 1?<|assistant|> 2<|eos|><|user|> 2 + 2?<|assistant|> 4<|eos|>"
        "<|user|> 3 + 3?<|assistant|>"
    )
    assert scored_rows(subject(), monkeypatch, EXAMPLES) == [expected] * 2


def test_plain_text_shows_examples_in_the_words_of_the_question(monkeypatch):
    expected = "<|bos|>Q: 1 + 1?\nA: 2\n\nQ: 2 + 2?\nA: 4\n\nQ: 3 + 3?\nA:"
    assert scored_rows(subject(choice_prompt="plain"), monkeypatch, EXAMPLES) == [expected] * 2


def test_an_open_question_stands_behind_its_examples_with_their_passages():
    item = BenchmarkItem("a", "open_qa", {"question": "Who?", "answers": ["Ada"]})
    train = {"question": "Where?", "answers": ["Bosk", "in Bosk"], "passages": ["A town."]}
    shown = open_qa.example(BenchmarkItem("t", "open_qa", train))
    assert shown == Shot("Where?", "Bosk", ("A town.",))
    asked = Subject(
        small_policy(), None, None, small_config(), RUNTIME, NullTracker(),
        shots={"open_qa": Shots({"": [("t", shown)]})},
    )  # fmt: skip
    (answered,), _ = _answers(asked, [item])
    user, assistant, last = answered.prompt.messages
    assert "A town." in user.content
    assert user.content.endswith("Where?")
    assert (assistant.role, assistant.content) == ("assistant", "Bosk")
    assert last.content == "Who?"


def _answers(subject, items):
    seen = []
    respond = Subject.respond

    def noted(self, prompts, what, **more):
        answered, notes = respond(self, prompts, what, **more)
        seen.extend(one.episode for one in answered)
        return answered, notes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Subject, "respond", noted)
        measured = open_qa.measure(items, "closed", subject)
    return seen, measured


def test_a_text_is_shown_with_its_label():
    item = BenchmarkItem("a", "classification", {"question": "A fine film.", "label": "good"})
    assert classification.example(item) == Shot("A fine film.", "good")
    assert general.example(choice("a", answer=1)).answer == "Bosk"


def test_no_examples_are_no_text():
    assert as_text([]) == ""
    assert NONE.of(choice("a")) == []


def test_examples_are_never_rows_that_are_evaluated():
    train = [choice(f"t{i}", f"{i}?") for i in range(6)]
    evaluated = [choice("e0", " 3? "), choice("e1", "new?")]
    shots = draw("multiple_choice", train, evaluated, 5, 0, general.example)
    assert sorted(shots.ids()) == ["t0", "t1", "t2", "t4", "t5"]
    assert shots.num_passed_over == 1
    with pytest.raises(
        DataError, match=r"eval.num_shots \(=6 examples\) must be at most the 5 rows"
    ):
        draw("multiple_choice", train, evaluated, 6, 0, general.example)


def test_the_draw_follows_from_the_seed_and_from_no_order_of_the_file():
    train = [choice(f"t{i}", f"{i}?") for i in range(40)]
    first = draw("multiple_choice", train, [choice("e")], 5, 0, general.example)
    again = draw("multiple_choice", train[::-1], [choice("e")], 5, 0, general.example)
    other = draw("multiple_choice", train, [choice("e")], 5, 1, general.example)
    assert first.ids() == again.ids() != other.ids()
    more = draw("multiple_choice", train, [choice("e")], 6, 0, general.example)
    assert more.ids()[:5] == first.ids()


def test_a_question_is_shown_examples_of_its_own_subject():
    train = [choice(f"{s}{i}", f"{s} {i}?", subject=s) for s in ("art", "law") for i in range(3)]
    asked = [choice("a", subject="art"), choice("l", subject="law")]
    shots = draw("multiple_choice", train, asked, 2, 0, general.example)
    assert {s: sorted({id[:3] for id in ids}) for s, ids in shots.ids().items()} == {
        "art": ["art"],
        "law": ["law"],
    }
    assert [e.question[:3] for e in shots.of(asked[1])] == ["law", "law"]
    with pytest.raises(DataError, match="at most the 0 rows of subject 'tax'"):
        draw("multiple_choice", train, [choice("t", subject="tax")], 2, 0, general.example)


def test_questions_with_and_without_a_subject_have_examples_of_their_own():
    train = [choice(f"m{i}", f"math {i}?", subject="math") for i in range(3)]
    train += [choice(f"n{i}", f"none {i}?") for i in range(3)]
    asked = [choice("a", subject="math"), choice("b")]
    shots = draw("multiple_choice", train, asked, 2, 0, general.example)
    assert [[e.question[:4] for e in shots.of(item)] for item in asked] == [
        ["math"] * 2,
        ["none"] * 2,
    ]
    plain = draw("multiple_choice", train[3:], asked, 2, 0, general.example)  # names no subject
    assert plain.of(asked[0]) == plain.of(asked[1]) != []


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("few")
    inputs = small_inputs(folder, "questions")
    files = {
        "multiple_choice": [choice("e0", "0?"), choice("e1", "1?")],
        "multiple_choice_shots": [choice(f"t{i}", f"{i}?", 1) for i in range(5)],
    }
    for name, records in files.items():
        (folder / name).mkdir()
        write_records(records, folder / name / "records.jsonl")
        inputs[name] = Artifact.of(folder / name, "data")
    out = folder / "out"
    out.mkdir()
    run(small_config(num_shots=2, conditions=["closed"]), inputs, RUNTIME, out, NullTracker())
    return inputs, out


def test_each_number_says_which_examples_were_shown(whole):
    inputs, out = whole
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    number = metrics["multiple_choice"]["closed"]["accuracy"]
    assert number["shots"]["number"] == len(number["shots"]["ids"]) == 2
    assert set(number["shots"]["ids"]) < {"t2", "t3", "t4"}
    assert number["shots"]["data"] == inputs["multiple_choice_shots"].fingerprint
    assert number["signature"].endswith("|shots:2")
    assert number["seed"] == 0
    plain = metrics["questions"]["closed"]["accuracy"]
    assert "shots" not in plain
    assert "shots" not in plain["signature"]


def test_notes_say_who_was_asked_without_examples_and_what_was_passed_over(whole):
    notes = json.loads((whole[1] / "notes.json").read_text(encoding="utf-8"))
    assert any(n.startswith("questions: asked without examples: ") for n in notes)
    assert any(
        n.startswith("multiple_choice: 2 rows of the train split are evaluated") for n in notes
    )


def node(*inputs, **settings):
    return PlacedNode("eval", "eval", dict.fromkeys(inputs), small_config(**settings))


@pytest.mark.parametrize("name", ["truthfulqa", "bbq", "simpleqa", "perplexity"])
def test_a_benchmark_whose_protocol_fixes_the_prompt_refuses_examples_by_name(name):
    files = BenchmarkFiles(path="a.jsonl", shots="b.jsonl")
    with pytest.raises(ConfigError, match=rf"eval.{name}.shots \(=b.jsonl\) must be null: \w+"):
        check_shots(node(name, num_shots=2, **{name: files}))
    assert BENCHMARKS[name].no_shots != BENCHMARKS["multiple_choice"].no_shots


def test_examples_that_nothing_takes_are_refused_with_each_reason():
    with pytest.raises(
        ConfigError, match=r"num_shots \(=2 examples\) must be 0 .*halueval: its prot.*bold: BOLD's"
    ) as error:
        check_shots(node("halueval", "bold", num_shots=2))
    assert "eval.multiple_choice.shots=<file>" in str(error.value)
    check_shots(node("halueval", "multiple_choice", "multiple_choice_shots", num_shots=2))
    check_shots(node("halueval"))
    assert STAGE.check == "eval.config:check_inputs"
    assert halueval()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"num_shots": -1}, r"eval.num_shots \(=-1 examples\)"),
        (
            {"open_qa": BenchmarkFiles("a", None, "b")},
            r"eval.open_qa.shots \(=b\) must be null with",
        ),
        (
            {"num_shots": 1, "open_qa": BenchmarkFiles(None, None, "b")},
            r"eval.open_qa.shots \(=b\) must come with eval.open_qa.path",
        ),
        ({"num_votes": 1}, r"eval.num_votes \(=1\) must be 0 or at least 2"),
    ],
)
def test_bad_settings_are_refused(settings, says):
    with pytest.raises(ConfigError, match=says):
        small_config(**settings)
