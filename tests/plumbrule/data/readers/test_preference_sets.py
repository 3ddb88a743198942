"""Readers of published preference data, each with what is known to be read wrongly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plumbrule.data.readers import FORMATS, READERS, read
from plumbrule.data.readers.preference_sets.shp import MOST_COMMENTS
from plumbrule.data.readers.published import ROLES, ranks_by
from plumbrule.errors import DataError

SETS = (
    *("helpsteer3", "helpsteer2", "oasst1", "webgpt", "shp", "tldr", "nectar"),
    *("pku_saferlhf_better", "pku_saferlhf_safer", "arena"),
)


def written(path: Path, *rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rows_of(format, tmp_path, *rows, name="rows.jsonl"):
    return list(read(format, "preferences", written(tmp_path / name, *rows)))


def record(format, tmp_path, *rows):
    (found,) = rows_of(format, tmp_path, *rows)
    assert found.record is not None, found.dropped
    return found.record


def example(format):
    (text,) = FORMATS[format].examples["preferences"].values()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("format", SETS)
def test_a_ranking_feeds_every_role_that_it_can(format, tmp_path):
    path = written(tmp_path / "rows.jsonl", *example(format))
    assert {role for name, role in READERS if name == format} == set(ROLES)
    prompts, demonstrations, preferences = (
        [row.record for row in read(format, role, path)]
        for role in ("prompts", "demonstrations", "preferences")
    )
    assert [p.messages for p in prompts] == [p.messages for p in preferences]
    best = [p.responses[p.ranks.index(1)] for p in preferences]
    assert [d.response for d in demonstrations] == best


@pytest.mark.parametrize("format", SETS)
def test_equal_answers_are_no_comparison(format, tmp_path):
    """Also where they differ in space around them alone."""
    texts = {"Hello.": "Same", "What?": "Same ", "So.": "Same", "So [1].": "Same", "No.": " Same"}
    texts |= {" Rain.": "Same", " Sun.": "Same "}

    def same(value):
        if isinstance(value, dict):
            return {k: same(v) for k, v in value.items()}
        if isinstance(value, list):
            return [same(v) for v in value]
        return texts.get(value, value) if isinstance(value, str) else value

    (found,) = rows_of(format, tmp_path, *same(example(format)))
    assert found.record is None
    assert found.dropped in ("the answers are equal", "fewer than two answers are left")


@pytest.mark.parametrize("format", [name for name in SETS if name != "tldr"])
def test_validation_files_are_held_out_and_test_files_not_read(format, tmp_path):
    for name in ("train", "validation", "test"):
        written(tmp_path / f"{name}.jsonl", *example(format))
    sides = [row.held_out for row in read(format, "preferences", tmp_path)]
    assert sorted(sides) == [False, True]
    assert FORMATS[format].own_split(tmp_path)
    (tmp_path / "validation.jsonl").unlink()
    assert {row.held_out for row in read(format, "preferences", tmp_path)} == {None}


@pytest.mark.parametrize("format", SETS)
def test_a_row_of_another_set_is_named(format, tmp_path):
    with pytest.raises(DataError, match=r"rows.jsonl, row 1: "):
        rows_of(format, tmp_path, {"text": "A text."})


def test_ranks_have_no_holes_and_ties_repeat_one():
    assert ranks_by([3.0, 1.0, 3.0, 2.0]) == (1, 3, 1, 2)


# --- HelpSteer ---------------------------------------------------------------------------------

HELP3 = example("helpsteer3")[0]


def test_helpsteer3_is_negative_where_the_first_answer_is_better(tmp_path):
    first = record("helpsteer3", tmp_path, HELP3)
    assert first.ranks == (1, 2)
    assert first.margin == 2.0
    second = record("helpsteer3", tmp_path, HELP3 | {"overall_preference": 1})
    assert second.ranks == (2, 1)
    assert second.margin == 1.0


def test_helpsteer3_a_zero_is_a_tie_of_two_answers_and_not_one_answer_twice(tmp_path):
    """One framework makes chosen and rejected the first answer both."""
    tie = record("helpsteer3", tmp_path, HELP3 | {"overall_preference": 0})
    assert tie.responses == ("Hello.", "What?")
    assert tie.ranks == (1, 1)
    assert tie.margin is None


def test_helpsteer3_takes_a_context_of_text(tmp_path):
    found = record("helpsteer3", tmp_path, HELP3 | {"context": "Hi there"})
    assert [(m.role, m.content) for m in found.messages] == [("user", "Hi there")]


@pytest.mark.parametrize("value", [4, 0.5, True, None, "1"])
def test_helpsteer3_refuses_another_preference(tmp_path, value):
    with pytest.raises(DataError, match=r"overall_preference .* must be one of -3, -2"):
        rows_of("helpsteer3", tmp_path, HELP3 | {"overall_preference": value})


def test_helpsteer2_groups_by_prompt_and_not_by_place(tmp_path):
    """A row that is missing would shift all pairs after it."""
    rows = [
        {"prompt": "A", "response": "a1", "helpfulness": 1},
        {"prompt": "B", "response": "b1", "helpfulness": 4},
        {"prompt": "A", "response": "a2", "helpfulness": 3},
        {"prompt": "B", "response": "b2", "helpfulness": 4},
        {"prompt": "C", "response": "c1", "helpfulness": 4},
    ]
    a, b, c = rows_of("helpsteer2", tmp_path, *rows)
    assert (a.record.responses, a.record.ranks) == (("a1", "a2"), (2, 1))
    assert b.record.ranks == (1, 1)
    assert c.dropped == "fewer than two answers are left"


def test_helpsteer2_reads_the_turns_of_a_prompt(tmp_path):
    prompt = "Hi<extra_id_1>Assistant\nHello.<extra_id_1>User\nAnd now?"
    rows = [{"prompt": prompt, "response": r, "helpfulness": k} for k, r in enumerate("ab")]
    found = record("helpsteer2", tmp_path, *rows)
    assert [m.role for m in found.messages] == ["user", "assistant", "user"]
    assert found.messages[-1].content == "And now?"


# --- oasst1 ------------------------------------------------------------------------------------


def message(id, parent, role="assistant", **more):
    return {"message_id": id, "parent_id": parent, "text": f"text {id}", "role": role, **more}


def test_oasst1_rank_0_is_the_best_and_an_answer_without_rank_is_none(tmp_path):
    rows = [
        message("b", "a", rank=1),
        message("c", "a", rank=0),
        message("d", "a", rank=None),
        message("a", None, "prompter"),
    ]
    found = record("oasst1", tmp_path, *rows)
    assert found.responses == ("text b", "text c")
    assert found.ranks == (2, 1)


def test_oasst1_a_ranking_is_of_the_children_of_one_message(tmp_path):
    rows = [
        message("a", None, "prompter"),
        message("b", "a", rank=0),
        message("c", "a", rank=1),
        message("d", "b", "prompter"),
        message("e", "d", rank=1),
        message("f", "d", rank=0),
    ]
    first, second = (row.record for row in rows_of("oasst1", tmp_path, *rows))
    assert first.responses == ("text b", "text c")
    assert [m.content for m in second.messages] == ["text a", "text b", "text d"]
    assert second.ranks == (2, 1)


@pytest.mark.parametrize("gone", [{"deleted": True}, {"review_result": False}])
def test_oasst1_what_is_deleted_or_failed_its_review_is_not_read(tmp_path, gone):
    rows = [
        message("a", None, "prompter"),
        message("b", "a", rank=0, **gone),
        message("c", "a", rank=1),
        message("d", "b", "prompter"),
        message("e", "d", rank=0),
        message("f", "d", rank=1),
    ]
    one, below = rows_of("oasst1", tmp_path, *rows)
    assert one.dropped == "fewer than two answers are left"
    assert below.dropped.startswith("an earlier message is deleted")


def test_oasst1_messages_that_name_each_other_as_parents_end(tmp_path):
    rows = [
        message("a", "b", "prompter"),
        message("b", "a", "prompter"),
        message("c", "a", rank=0),
        message("d", "a", rank=1),
    ]
    (found,) = rows_of("oasst1", tmp_path, *rows)
    assert found.record is None


# --- WebGPT, SHP -------------------------------------------------------------------------------

WEBGPT = example("webgpt")[0]


def test_webgpt_shows_neither_sides_quotes(tmp_path):
    quotes = {"quotes_0": {"title": ["T"], "extract": ["Secret 0"]}, "quotes_1": {"extract": []}}
    (row,) = rows_of("webgpt", tmp_path, WEBGPT | quotes)
    assert row.record.passages == ()
    assert "Secret" not in str(row.record)
    assert row.record.responses[0] == "So [1]."
    assert "quotes are not shown" in row.conversions[0]


def test_webgpt_a_score_of_0_is_a_tie_and_the_two_add_up_to_0(tmp_path):
    assert record("webgpt", tmp_path, WEBGPT | {"score_0": 0, "score_1": 0.0}).ranks == (1, 1)
    with pytest.raises(DataError, match=r"score_0 \(=0.5\) must be score_1 \(=0.5\) with its sign"):
        rows_of("webgpt", tmp_path, WEBGPT | {"score_1": 0.5})


SHP = example("shp")[0]


def test_shp_folds_the_comments_of_a_post_into_one_ranking(tmp_path):
    more = {"human_ref_B": "Maybe.", "score_A": 9, "score_B": 5}
    other = SHP | {"post_id": "q", "history": "When?"}
    first, second = rows_of("shp", tmp_path, SHP, other, SHP | more)
    assert first.record.responses == ("So.", "No.", "Maybe.")
    assert first.record.ranks == (1, 3, 2)
    assert second.record.id == "q"


def test_shp_a_popular_post_has_a_few_comments_alone(tmp_path):
    rows = [SHP | {"human_ref_B": f"No {k}.", "score_B": k - 40} for k in range(30)]
    found = record("shp", tmp_path, *rows)
    assert len(found.responses) == MOST_COMMENTS


@pytest.mark.parametrize(("label", "a", "b"), [(0, 9, 2), (1, 2, 9)])
def test_shp_a_label_of_1_says_that_a_is_better(tmp_path, label, a, b):
    with pytest.raises(DataError, match=r"labels .* must be 1 where score_A"):
        rows_of("shp", tmp_path, SHP | {"labels": label, "score_A": a, "score_B": b})


# --- TL;DR, Nectar, PKU-SafeRLHF, Arena --------------------------------------------------------

TLDR = example("tldr")[0]


def test_tldr_keeps_the_workers_and_the_split_of_each_row(tmp_path):
    rows = [
        TLDR,
        TLDR | {"worker": "v", "choice": 1},
        TLDR | {"split": "valid2", "worker": "u"},
        TLDR,
    ]
    first, second, third, again = rows_of("tldr", tmp_path, *rows)
    assert (first.record.annotator, first.record.ranks) == ("w", (1, 2))
    assert (second.record.annotator, second.record.ranks) == ("v", (2, 1))
    assert [row.held_out for row in (first, second, third)] == [False, False, True]
    assert again.dropped == "the worker judged this pair before"
    assert first.record.messages[0].content == (
        "SUBREDDIT: r/news\n\nTITLE: Rain\n\nPOST: It rained.\n\nTL;DR:"
    )


def test_tldr_reads_the_article_of_a_cnndm_batch(tmp_path):
    found = record("tldr", tmp_path, TLDR | {"info": {"article": "It rained.", "site": "cnn"}})
    assert found.messages[0].content == "ARTICLE: It rained.\n\nTL;DR:"


def nectar(prompt="\n\nHuman: Hi\n\nAssistant: ", **answers):
    listed = [{"answer": text, "rank": rank} for text, rank in answers.items()]
    return {"prompt": prompt, "answers": listed}


def test_nectar_rank_1_is_the_best_and_a_hole_is_closed(tmp_path):
    row = nectar(a=4.0, b=1.0, c=2.0)
    row["answers"][2]["answer"] = "Well.\n\nHuman: And?"  # writes the user's next turn
    (found,) = rows_of("nectar", tmp_path, row)
    assert found.record.responses == ("a", "b")
    assert found.record.ranks == (2, 1)
    assert found.conversions


def test_nectar_reads_several_turns(tmp_path):
    prompt = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant: "
    found = record("nectar", tmp_path, nectar(prompt, a=1, b=2))
    assert [m.content for m in found.messages] == ["Hi", "Hello.", "Why?"]
    (bad,) = rows_of("nectar", tmp_path, nectar("Hi", a=1, b=2))
    assert bad.dropped == "the turns don't alternate"


def test_pku_saferlhf_has_two_preferences_that_may_disagree(tmp_path):
    (row,) = example("pku_saferlhf_better")
    assert record("pku_saferlhf_better", tmp_path, row).ranks == (1, 2)
    assert record("pku_saferlhf_safer", tmp_path, row).ranks == (2, 1)
    old = {"is_response_0_safer": True} | {k: v for k, v in row.items() if k != "safer_response_id"}
    with pytest.raises(DataError, match="safer_response_id"):
        rows_of("pku_saferlhf_safer", tmp_path, old)


ARENA = example("arena")[0]


@pytest.mark.parametrize(
    ("winner", "ranks"),
    [("model_a", (1, 2)), ("model_b", (2, 1)), ("tie", (1, 1)), ("both_bad", (1, 1))],
)
def test_arena_knows_ties_and_both_bad(tmp_path, winner, ranks):
    assert record("arena", tmp_path, ARENA | {"winner": winner}).ranks == ranks


def test_arena_conversations_must_be_one_up_to_the_last_answer(tmp_path):
    turn = {"role": "user", "content": "Other"}
    changed = ARENA | {"conversation_b": [turn, ARENA["conversation_b"][1]]}
    (found,) = rows_of("arena", tmp_path, changed)
    assert found.dropped == "the conversations differ before the last answer"
    with pytest.raises(DataError, match="winner"):
        rows_of("arena", tmp_path, ARENA | {"winner": "model_c"})
    with pytest.raises(DataError, match="conversation_a must end with a user's turn"):
        rows_of("arena", tmp_path, ARENA | {"conversation_a": [turn]})
