"""Layouts of published sets: read with the conversion named, or refused with what is surplus."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pyarrow as arrow
import pytest
from places import SHARED as SHARED_FOLDER
from pyarrow import parquet

from plumbrule.data.readers import read
from plumbrule.data.records import Demonstration, Message, Preference, Prompt
from plumbrule.errors import DataError
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.tracking.stage_tracker import NullTracker
from sft.data.config import DataConfig, DatasetConfig
from sft.data.stage import run

CASES = SHARED_FOLDER / "cases" / "data"
ASK, TELL = {"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}
GONE = {"role": "assistant", "content": "Gone."}
WHERE = (Message("user", "Where?"),)
ID = "rows:1"


def write(path: Path, *rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def one(tmp_path, role, row):
    (result,) = read("jsonl", role, write(tmp_path / "rows.jsonl", row))
    return result


def prepared(out: Path, role: str, path: Path, **settings):
    """Run the data stage and return its card and notes."""
    out.mkdir(exist_ok=True)
    config = DataConfig(role, DatasetConfig("jsonl", str(path), **settings))
    run(config, {}, RuntimeConfig(), out, NullTracker())
    return json.loads((out / "card.json").read_text()), json.loads((out / "notes.json").read_text())


# --- layouts -----------------------------------------------------------------------------------

H4 = {
    "prompt": "Where?",
    "prompt_id": "7",
    "messages": [ASK, TELL],
    "chosen": [ASK, TELL],
    "rejected": [ASK, GONE],
    "score_chosen": 8.0,
    "score_rejected": 2.0,
}


@pytest.mark.parametrize(
    ("role", "row", "record", "unread", "conversion"),
    [
        (
            "preferences",
            H4,
            Preference(ID, WHERE, ("Here.", "Gone."), (1, 2), scores=(8.0, 2.0)),
            ("messages", "prompt_id"),
            "H4",
        ),
        (
            "demonstrations",
            {"prompt": "Where?", "prompt_id": "7", "messages": [ASK, TELL]},
            Demonstration(ID, WHERE, "Here."),
            ("prompt", "prompt_id"),
            "H4",
        ),
        (
            "demonstrations",
            {
                "conversations": [
                    {"from": "human", "value": "Where?"},
                    {"from": "gpt", "value": "a"},
                ]
            },
            Demonstration(ID, WHERE, "a"),
            (),
            "ShareGPT",
        ),
        (
            "demonstrations",
            {"instruction": "Where?", "input": "Box 3", "output": "Here.", "text": "Below is"},
            Demonstration(ID, (Message("user", "Where?\n\nBox 3"),), "Here."),
            ("text",),
            "alpaca",
        ),
        (
            "demonstrations",
            {"instruction": "Where?", "input": "", "output": "Here."},
            Demonstration(ID, WHERE, "Here."),
            (),
            "alpaca",
        ),
        # without prompt_id the columns are a pair's; the prompt stands once more in the dialogues
        (
            "preferences",
            {"prompt": "Where?", "chosen": [ASK, TELL], "rejected": [ASK, GONE]},
            Preference(ID, WHERE, ("Here.", "Gone."), (1, 2)),
            (),
            "",
        ),
        # parts of type text
        (
            "prompts",
            {"prompt": [{"role": "user", "content": [{"type": "text", "text": "Where?"}]}]},
            Prompt(ID, WHERE),
            (),
            "",
        ),
    ],
)
def test_a_layout_is_read_and_its_conversion_named(role, row, record, unread, conversion, tmp_path):
    result = one(tmp_path, role, row)
    assert result.record == record
    assert result.unread == unread
    assert [text.split(":")[0] for text in result.conversions] == [conversion][: bool(conversion)]


@pytest.mark.parametrize(
    ("role", "row", "says"),
    [
        ("preferences", {**H4, "prompt": "Who?"}, "begin alike with a turn that is the prompt"),
        ("preferences", {**H4, "messages": [ASK, GONE]}, "messages must equal chosen"),
        ("preferences", {**H4, "source": "x", "tags": []}, "take out source, tags"),
        ("preferences", {**H4, "score_rejected": None}, "must stand together"),
        ("demonstrations", {"conversations": [{"from": "tool", "value": "x"}]}, r"from \(='tool'"),
        ("demonstrations", {"conversations": [{"role": "user"}]}, "object with from and value"),
        ("demonstrations", {"instruction": "a", "output": ""}, "output"),
        ("demonstrations", {"instruction": "a", "input": ["b"], "output": "c"}, "input"),
        ("demonstrations", {"instruction": "a", "output": "c", "history": []}, "take out history"),
    ],
)
def test_a_layout_that_does_not_add_up_is_refused(role, row, says, tmp_path):
    with pytest.raises(DataError, match=says):
        one(tmp_path, role, row)


# --- what turns hold besides -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("turns", "says"),
    [
        (
            [ASK, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}],
            r"messages\[1\].tool_calls must be empty",
        ),
        ([ASK, {**TELL, "function_call": {"name": "f"}}], "function_call must be empty"),
        ([ASK, {"role": "tool", "content": "4", "tool_call_id": "1"}, ASK], "tool_call_id"),
        ([ASK, {"role": "tool", "content": "4"}, ASK], r"role \(='tool'\)"),
        ([ASK, {**TELL, "weight": 0}], r"messages\[1\].weight \(=0\) must be 1 on the answer"),
        ([ASK, {**TELL, "weight": True}], "weight"),
        ([{"role": "user", "content": [{"type": "image_url"}]}, TELL], "part of type 'image_url'"),
        ([{"role": "user", "content": ["a"]}, TELL], "part of type 'str'"),
    ],
)
@pytest.mark.parametrize("layout", ["chat", "completion", "pair", "ours"])
def test_what_changes_the_chat_is_refused_by_name(turns, says, layout, tmp_path):
    role = "demonstrations"
    if layout == "chat":
        row = {"messages": turns}
    elif layout == "ours":
        row, says = {"messages": turns, "response": "a"}, says
    elif layout == "completion":
        row = {"prompt": turns[:-1], "completion": turns[-1:]}
    else:
        row = {"chosen": turns, "rejected": [*turns[:-1], GONE]}
    says = says.replace(r"messages\[1\].", "")
    with pytest.raises(DataError, match=says):
        one(tmp_path, role, row)


def test_the_rest_is_counted_on_the_card_and_in_a_note(tmp_path):
    thoughts = {**TELL, "reasoning_content": "It was there.", "weight": 1, "tool_calls": []}
    earlier = {**TELL, "weight": 1}
    rows = [{"messages": [{**ASK, "name": "ann"}, earlier, ASK, thoughts]}]
    rows += [
        {"messages": [ASK, {**TELL, "weight": 0}, ASK, {**TELL, "content": f"{i}"}]}
        for i in range(20)
    ]
    rows += [{"messages": [{"role": "user", "content": f"{i}?"}, TELL]} for i in range(20)]
    path = write(tmp_path / "a.jsonl", *rows)
    card, notes = prepared(tmp_path / "out", "demonstrations", path)
    fields = {f"messages[].{name}": 1 for name in ("name", "weight", "reasoning_content")}
    assert card["not_read"] == fields
    assert sum("is not read" in note for note in notes) == 3


def test_columns_that_are_not_read_are_counted(tmp_path):
    def rated(i):
        completions = [
            {"response": f"{side}", "overall_score": k, "critique": "Good.", "principle": None}
            for k, side in enumerate("ab")
        ]
        return {"instruction": f"{i}?", "completions": completions, "source": "s", "models": []}

    path = write(tmp_path / "a.jsonl", *map(rated, range(40)))
    card, _ = prepared(tmp_path / "out", "preferences", path)
    assert card["not_read"] == {"source": 40, "completions[].critique": 40}


def test_numbers_against_the_ranks_are_counted(tmp_path):
    def pair(i, **more):
        return {"prompt": f"{i}?", "chosen": "a", "rejected": "b", **more}

    rows = [pair(i, score_chosen=2, score_rejected=1) for i in range(30)]
    rows += [pair(50 + i, score_chosen=1, score_rejected=2) for i in range(3)]
    rows += [pair(70 + i, score_chosen=1, score_rejected=1) for i in range(2)]
    rows += [pair(90, margin=-1.5)]
    card, notes = prepared(tmp_path / "out", "preferences", write(tmp_path / "a.jsonl", *rows))
    assert card["against_ranks"] == {
        "scores_contrary": 3,
        "scores_level": 2,
        "negative_margin": 1,
    }
    assert (
        "preferences: 3 of 36 rankings have a higher score on a worse answer; the ranks count."
        in notes
    )


# --- text is text ------------------------------------------------------------------------------


def test_what_only_looks_alike_is_kept_and_both_rows_are_shown(tmp_path):
    rows = [
        {"prompt": f"Write {i}", "completion": text} for i in range(20) for text in ("TRUE", "true")
    ]
    card, notes = prepared(tmp_path / "out", "demonstrations", write(tmp_path / "a.jsonl", *rows))
    assert card["rows_kept"] == 40
    assert card["duplicates"] == 0
    assert card["look_alikes"]["rows"] == 20
    (note,) = notes
    assert "'a:1: Write 0 | TRUE' beside 'a:2: Write 0 | true'" in note


@pytest.mark.parametrize(("one", "other"), [("10²", "102"), ("Polish", "polish"), ("ﬁt", "fit")])
def test_no_look_alike_is_a_leak(one, other, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    write(own / "train.jsonl", {"prompt": f"{one}?"}, {"prompt": "another"})
    write(own / "validation.jsonl", {"prompt": f"{other}?"})
    card, notes = prepared(tmp_path / "out", "prompts", own)
    assert card["held_out_look_alikes"]["rows"] == 1
    assert f"'validation:1: {other}?' beside 'train:1: {one}?'" in notes[0]
    write(own / "validation.jsonl", {"prompt": f"{one}?"})
    with pytest.raises(DataError, match="must not be in the training part"):
        prepared(tmp_path / "out", "prompts", own)


def test_two_turns_are_not_one_that_reads_like_them(tmp_path):
    a, b = {"role": "user", "content": "a"}, {"role": "user", "content": "a\nuser: a"}
    rows = [{"prompt": [a, a]}, {"prompt": [b]}, {"prompt": "other"}]
    card, _ = prepared(
        tmp_path / "out", "prompts", write(tmp_path / "a.jsonl", *rows), validation_share=0.0
    )
    assert card["rows_kept"] == 3


def test_look_alikes_are_shown_where_they_differ(tmp_path):
    rows = [{"text": "x" * 500 + word + f"{i}" * 9} for i in range(9) for word in ("Yes", "yes")]
    _, notes = prepared(
        tmp_path / "out", "corpus", write(tmp_path / "a.jsonl", *rows), validation_share=0.0
    )
    assert "xYes0" in notes[0]
    assert "xyes0" in notes[0]


def test_chats_of_one_first_turn_say_what_to_do(tmp_path):
    hi = {"role": "user", "content": "Hi"}
    rows = [{"messages": [hi, TELL, {"role": "user", "content": f"{i}?"}, TELL]} for i in range(30)]
    path = write(tmp_path / "a.jsonl", *rows)
    with pytest.raises(DataError, match=r"30 rows begin with the same user turn.*validation file"):
        prepared(tmp_path / "out", "demonstrations", path)
    card, _ = prepared(tmp_path / "out", "demonstrations", path, validation_share=0.0)
    assert card["rows"] == 30


# --- files -------------------------------------------------------------------------------------

PAIRS = [
    {"prompt": f"{i}?", "chosen": "a, b", "rejected": 'c "d"', "margin": 0.5} for i in range(4)
]


def as_csv(path: Path, rows) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def as_parquet(path: Path, rows) -> Path:
    parquet.write_table(arrow.Table.from_pylist(rows), path)
    return path


def as_list(path: Path, rows) -> Path:
    path.write_text(json.dumps(rows, indent=1))
    return path


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("a.csv", as_csv, "CSV"),
        ("a.parquet", as_parquet, "Parquet"),
        ("a.json", as_list, "one JSON"),
    ],
)
def test_every_form_gives_the_same_records(name, make, says, tmp_path):
    expected = [
        row.record for row in read("jsonl", "preferences", write(tmp_path / "a.jsonl", *PAIRS))
    ]
    found = list(read("jsonl", "preferences", make(tmp_path / name, PAIRS)))
    assert [row.record for row in found] == expected
    assert all(row.conversions[0].startswith(says) for row in found)
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / name.replace("a", "train", 1)).write_bytes((tmp_path / name).read_bytes())
    assert len(list(read("jsonl", "preferences", folder))) == 4


def test_parquet_of_chats_with_fields_that_only_some_turns_have(tmp_path):
    rows = [
        {"messages": [ASK, {**TELL, "reasoning_content": "So."}]},
        {"messages": [ASK, {**TELL, "content": "There."}]},
    ]
    found = list(read("jsonl", "demonstrations", as_parquet(tmp_path / "a.parquet", rows)))
    assert [row.unread for row in found] == [("messages[].reasoning_content",), ()]


BAD_FILES = [
    ("a.json", b'[{"prompt": "a"}, 3]', "row 2: a row must be a JSON object"),
    ("a.json", b'[{"prompt": "a"},', "row 1: not valid JSON.*one list of objects"),
    ("a.json", b'{\n "prompt": "a"\n}', "one whole object a line"),
    ("a.json", b'[{"prompt": NaN}]', "must be finite"),
    ("a.csv", b"prompt,prompt\na,b\n", "name each column once"),
    ("a.csv", b"", "name each column once"),
    ("a.csv", b"prompt,meta\na\n", "row 1: a row must have a cell for each of the 2 columns"),
    ("a.csv", b'prompt\n"a\n', "row 1: not valid CSV"),
    ("a.csv", b"prompt,chosen,rejected,margin\na,b,c,inf\n", "margin must be a number"),
    ("a.csv", b"prompt,chosen,rejected,margin\na,b,c,true\n", r"margin \(=True\)"),
    ("a.csv", b"prompt\n\xff\n", "UTF-8"),
    ("a.parquet", b"PAR1 and nothing more", "can't be read as Parquet"),
    ("a.parquet", b"", "can't be read as Parquet"),
    ("a.jsonl.gz", gzip.compress(b'{"prompt": "a"}\n' * 9000)[:-30], "gzip"),
    ("a.jsonl", b'{"prompt": "a", "id": [1]}', r"id \(=\[1\]\) must be text or a whole number"),
    ("a.jsonl", b'{"prompt": "a", "id": true}', "id"),
    ("a.jsonl", b'{"prompt": "a", "id": 1.5}', "id"),
    ("a.jsonl", b'{"messages": "x", "ranks": [1, 2.0], "responses": ["a", "b"]}', "messages"),
]


@pytest.mark.parametrize(("name", "content", "says"), BAD_FILES)
def test_a_damaged_file_is_one_line_with_file_and_row(name, content, says, tmp_path):
    (tmp_path / name).write_bytes(content)
    role = "preferences" if b"chosen" in content or b"ranks" in content else "prompts"
    with pytest.raises(DataError, match=says) as caught:
        list(read("jsonl", role, tmp_path / name))
    assert str(caught.value).startswith(f"{tmp_path / name}")
    assert len(str(caught.value)) < 1500


def test_a_gzip_damaged_in_the_middle_says_where(tmp_path):
    lines = "".join(json.dumps({"prompt": f"{i} {i * 7919 % 10007}"}) + "\n" for i in range(20_000))
    whole = bytearray(gzip.compress(lines.encode()))
    for at in range(len(whole) // 2, len(whole) // 2 + 40):
        whole[at] ^= 0xFF
    (tmp_path / "a.jsonl.gz").write_bytes(whole)
    with pytest.raises(DataError, match=r"a.jsonl.gz, row \d{4,5}: ") as caught:
        list(read("jsonl", "prompts", tmp_path / "a.jsonl.gz"))
    assert int(str(caught.value).split("row ")[1].split(":")[0]) > 5000


def test_ranks_that_are_no_whole_numbers_say_so(tmp_path):
    for row in (
        {"messages": [ASK], "responses": ["a", "b"], "ranks": [1, 2.0]},
        {"prompt": "Hi", "responses": ["a", "b"], "ranking": [1, 2.0]},
    ):
        with pytest.raises(
            DataError, match=r"\[1, 2.0\]\) must be a list of whole numbers.*not 1.0"
        ):
            one(tmp_path, "preferences", row)


@pytest.mark.parametrize(
    "more", [{"margin": 1e300}, {"margin": True}, {"scores": [1e300, 0.0]}, {"confidence": True}]
)
def test_numbers_that_no_model_can_compute_with_are_refused(more, tmp_path):
    row = {"messages": [ASK], "responses": ["a", "b"], "ranks": [1, 2], **more}
    with pytest.raises(DataError, match=next(iter(more))):
        one(tmp_path, "preferences", row)


@pytest.mark.parametrize(
    "known",
    [
        {"finished": 3},
        {"finished": [True]},
        {"finished": ["yes", "no"]},
        {"utilities": [1.0]},
        {"utilities": "ab"},
        {"terms": [1, 2]},
        {"terms": {"right": [1.0]}},
        {"flipped": "no"},
    ],
)
def test_what_stages_read_of_answers_is_checked_wherever_it_stands(known, tmp_path):
    row = {"messages": [ASK], "responses": ["a", "b"], "ranks": [1, 2]}
    for given in ({**row, **known}, {**row, "meta": known}):
        with pytest.raises(DataError, match=next(iter(known))):
            one(tmp_path, "preferences", given)


OUTCOMES = {
    "alpaca.json": "24 of 24 rows read as alpaca",
    "good_demos.jsonl": "",
    "good_pairs.jsonl": "",
    "h4_layout.jsonl": "24 of 24 rows read as H4",
    "long_number.jsonl": "row 1: a number must have at most 300 digits",
    "margin_inf.jsonl": "row 25: a number (=Infinity) must be finite",
    "margin_nan.jsonl": "row 25: a number (=NaN) must be finite",
    "nested.jsonl": "row 1: brackets must nest at most 64 deep",
    "pointer.jsonl": "git lfs pull",
    "same_first_turn.jsonl": "begin with the same user turn",
    "sharegpt.jsonl": "24 of 24 rows read as ShareGPT",
    "surrogate.jsonl": "row 1: a text must not hold half a surrogate pair",
    "tool_calls.jsonl": "row 25: messages[1].tool_calls must be empty",
    "true_and_TRUE.jsonl": "24 of 48 rows differ from another in case",
}


@pytest.mark.skipif(not CASES.is_dir(), reason=f"no reduced cases at {CASES}")
@pytest.mark.parametrize(("name", "says"), OUTCOMES.items())
def test_reduced_cases(name, says, tmp_path):
    ranked = ("good_pairs", "margin", "long_number", "h4")
    role = "preferences" if name.startswith(ranked) else "demonstrations"
    try:
        _, notes = prepared(tmp_path / "out", role, CASES / name)
    except DataError as error:
        notes = [str(error)]
    assert says in "\n".join(notes)
    assert bool(notes) == bool(says)
