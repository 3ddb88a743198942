"""Stage `data`: nothing leaks, nothing is lost without being counted, the same bytes each time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import SHARED as DATA_FOLDER

from eval.benchmarks.registry import BENCHMARKS
from plumbrule.atlas.config import ATLAS_SIZES, AtlasConfig
from plumbrule.data.benchmark_items import BENCHMARK
from plumbrule.data.json_lines import read_rows
from plumbrule.data.readers import FORMATS, READERS, SourceRow
from plumbrule.data.records import (
    BenchmarkItem,
    Demonstration,
    Document,
    Message,
    Preference,
    Prompt,
    read_records,
    write_records,
)
from plumbrule.data.splits import fold_of, in_held_out_share, normalise, start_of
from plumbrule.errors import ConfigError, DataError
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.tracking.stage_tracker import NullTracker
from sft.data.config import ROLES, DataConfig, DatasetConfig
from sft.data.data_card import better_is_longer, lengths
from sft.data.selection import collect, take_evenly
from sft.data.stage import run

SHARED = DATA_FOLDER / "data"
KINDS = {
    "demonstrations": Demonstration,
    "new_facts": Demonstration,
    "preferences": Preference,
    "prompts": Prompt,
    "documents": Document,
    "questions": BenchmarkItem,
    "reading": BenchmarkItem,
    "halueval": BenchmarkItem,
    "bold": BenchmarkItem,
}
TINY = AtlasConfig(
    num_known=8,
    num_after=8,
    num_corpus=60,
    num_demonstrations=24,
    num_preferences=24,
    num_prompts=24,
    num_questions=8,
    num_halueval=4,
    num_bold=4,
)


def chat(text):
    return (Message("user", text),)


OF_BOLD = BENCHMARKS["bold"].items.group


def items_of(role):
    return BENCHMARKS[role].items if role in BENCHMARKS else None


def prepare(out, role, path, format="jsonl", **settings):
    """Run the stage and return its metrics; `out` then holds its files."""
    per_group = settings.pop("per_group", None)
    dataset = DatasetConfig(format=format, path=str(path), **settings)
    config = DataConfig(role=role, dataset=dataset, items=items_of(role), per_group=per_group)
    out.mkdir(exist_ok=True)
    return run(config, {}, RuntimeConfig(), out, NullTracker())


def card_of(out):
    return json.loads((out / "card.json").read_text())


def read_both(out, kind):
    """Return (training, held-out) records of a prepared folder."""
    return tuple(read_records(kind, out / f"{name}.jsonl") for name in ("records", "validation"))


# --- the split ---------------------------------------------------------------------------------


@pytest.fixture
def pairs(tmp_path):
    """A file of 200 pairs: 50 conversations, each with two prompts, each with two pairs."""
    records = []
    for start in range(50):
        for turns in range(2):
            opening = chat(f"Question {start}?")
            more = (Message("assistant", "Yes."), Message("user", "And then?")) if turns else ()
            for pair in range(2):
                responses = (f"better {start} {turns} {pair}", f"worse {start} {turns} {pair}")
                id = f"{start}-{turns}-{pair}"
                records.append(Preference(id, opening + more, responses, (1, 2)))
    write_records(records, tmp_path / "pairs.jsonl")
    return tmp_path / "pairs.jsonl"


def folded(out, role, path, fold, folds):
    dataset = DatasetConfig(format="jsonl", path=str(path))
    out.mkdir(exist_ok=True)
    config = DataConfig(role=role, dataset=dataset, folds=folds, fold=fold)
    return run(config, {}, RuntimeConfig(), out, NullTracker())


def test_folds_are_disjoint_and_cover_all_rows_in_every_role(pairs, tmp_path):
    held: dict[str, list[set[str]]] = {}
    for role in ("preferences", "prompts"):
        every: list[str] = []
        for fold in range(3):
            out = tmp_path / f"{role}{fold}"
            folded(out, role, pairs, fold, 3)
            train, validation = read_both(out, KINDS[role])
            starts = [{start_of(item) for item in side} for side in (train, validation)]
            assert not starts[0] & starts[1]
            assert len(starts[0] | starts[1]) == 50
            held.setdefault(role, []).append(starts[1])
            every += [item.id for item in validation]
        whole = [item.id for side in read_both(tmp_path / f"{role}0", KINDS[role]) for item in side]
        assert sorted(every) == sorted(whole)  # each row is held out once
    assert held["preferences"] == held["prompts"]
    assert card_of(tmp_path / "prompts2")["fold"] == 2


def test_the_first_fold_of_ten_is_a_share_of_a_tenth(pairs, tmp_path):
    folded(tmp_path / "fold", "preferences", pairs, 0, 10)
    prepare(tmp_path / "share", "preferences", pairs, validation_share=0.1)
    fold, share = (read_both(tmp_path / name, Preference) for name in ("fold", "share"))
    assert fold == share


def test_folds_that_can_not_be_are_refused(pairs, tmp_path):
    dataset = DatasetConfig(format="jsonl", path=str(pairs))
    for folds, fold, says in (
        (1, 0, r"folds \(=1\) must lie in \[2, 100\]"),
        (5, 5, r"fold \(=5\) must lie in \[0, 4\]"),
        (5, None, r"fold \(=None\) must be given with folds \(=5\), and only then; for all folds"),
        (None, 1, r"fold \(=1\) must be given with folds \(=None\)"),
    ):
        with pytest.raises(ConfigError, match=says):
            DataConfig("prompts", dataset, folds=folds, fold=fold)
    write_records(read_both_of_one_start(), tmp_path / "one.jsonl")
    with pytest.raises(DataError, match="are one conversation to the split"):
        folded(tmp_path / "one", "prompts", tmp_path / "one.jsonl", 0, 5)
    few = [Prompt(f"p{i}", chat(f"Say {i}")) for i in range(2)]
    write_records(few, tmp_path / "few.jsonl")
    empty = min(set(range(20)) - {fold_of(start_of(row), 20, 0) for row in few})
    says = rf"the split \(fold={empty} of folds=20, split_seed=0\) of 2 rows in 2 conversations"
    with pytest.raises(DataError, match=says):
        folded(tmp_path / "few", "prompts", tmp_path / "few.jsonl", empty, 20)
    sides = tmp_path / "sides"
    sides.mkdir()
    for name in ("train", "validation"):
        write_records([Prompt(name, chat(name))], sides / f"{name}.jsonl")
    with pytest.raises(DataError, match=r"folds \(=5\) must be left out where a source brings its"):
        folded(tmp_path / "own", "prompts", sides, 0, 5)


def read_both_of_one_start():
    return [Prompt("a", chat("Say it"))]


def test_no_held_out_conversation_is_trained_on_in_any_role(pairs, tmp_path):
    trained: set[str] = set()
    held_out: set[str] = set()
    for role in ("preferences", "prompts", "demonstrations", "corpus"):
        out = tmp_path / role
        prepare(out, role, pairs, validation_share=0.2)
        if role == "corpus":
            train, validation = (
                [row for _, row in read_rows(out / f"{name}.jsonl")]
                for name in ("records", "validation")
            )
        else:
            train, validation = read_both(out, KINDS[role])
        assert train
        assert validation
        trained |= {start_of(item) for item in train}
        held_out |= {start_of(item) for item in validation}
    assert len(trained | held_out) == 50
    assert not trained & held_out


def test_split_depends_on_the_seed_and_on_nothing_else(pairs, tmp_path):
    sides = {}
    for name, settings in {
        "a": {},
        "more rows": {"max_rows": 120},
        "other seed": {"split_seed": 1},
    }.items():
        prepare(tmp_path / name, "preferences", pairs, validation_share=0.3, **settings)
        train, validation = read_both(tmp_path / name, Preference)
        sides[name] = {start_of(r): False for r in train} | {start_of(r): True for r in validation}
    shared = sides["more rows"]
    assert all(sides["a"][start] == side for start, side in shared.items())
    assert sides["a"] != sides["other seed"]


@given(st.text(max_size=40), st.integers(0, 5))
def test_held_out_side_ignores_case_and_spacing(text, seed):
    one = Prompt("1", chat(text))
    other = Demonstration("2", chat(f"  {text}\n"), "An answer.", ("A passage.",))
    assert start_of(one) == start_of(other)
    assert in_held_out_share(start_of(one), 0.5, seed) == in_held_out_share(
        start_of(other), 0.5, seed
    )


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_share_is_met_on_average(share):
    held_out = sum(in_held_out_share(f"prompt {i}", share, 0) for i in range(4000))
    # five standard errors of a binomial share at n = 4000 are at most 0.04
    assert abs(held_out / 4000 - share) < 0.04
    assert not any(in_held_out_share(f"prompt {i}", 0.0, 0) for i in range(100))


def test_start_of_a_system_prompt_and_of_chat_text():
    asked = (Message("system", "Be kind."), Message("user", "Who  are you?"))
    text = "<|system|> Be kind.<|user|> Who are YOU?<|assistant|> A model.<|eos|>"
    assert start_of(Prompt("p", asked)) == start_of({"text": text}) == "who are you?"
    assert start_of({"segments": [["<|user|>", 0.0], [" Hi<|assistant|>", 0], [" a", 1]]}) == "hi"
    assert start_of({"text": "Plain  text."}) == "plain text."


def test_the_sources_own_split_is_kept(tmp_path):
    (tmp_path / "own").mkdir()
    for name, texts in {"train": "abcd", "validation": "ef"}.items():
        prompts = [Prompt(f"{name}-{text}", chat(text)) for text in texts]
        write_records(prompts, tmp_path / "own" / f"{name}.jsonl")
    metrics = prepare(tmp_path / "out", "prompts", tmp_path / "own", validation_share=0.0)
    assert metrics["data/rows"] == 4
    assert metrics["data/validation_rows"] == 2
    assert card_of(tmp_path / "out")["split"] == "of the source"
    prepare(tmp_path / "few", "prompts", tmp_path / "own", max_rows=2)
    assert [len(side) for side in read_both(tmp_path / "few", Prompt)] == [2, 2]


def test_a_leak_between_given_files_is_an_error(tmp_path):
    (tmp_path / "own").mkdir()
    write_records([Prompt("1", chat("Who are you?"))], tmp_path / "own" / "train.jsonl")
    write_records([Prompt("2", chat("Who are you?"))], tmp_path / "own" / "validation.jsonl")
    with pytest.raises(DataError, match=r"1 prompt\(s\) of the held-out part.*Who are you"):
        prepare(tmp_path / "out", "prompts", tmp_path / "own")
    assert not (tmp_path / "out" / "records.jsonl").exists()


def test_an_id_given_twice_is_an_error(tmp_path):
    write_records([Prompt("x", chat(text)) for text in "abcdefghijkl"], tmp_path / "a.jsonl")
    with pytest.raises(DataError, match=r"id \(='x', 12 rows\) must belong to one row"):
        prepare(tmp_path / "out", "prompts", tmp_path / "a.jsonl", validation_share=0.5)


def test_a_split_that_leaves_a_side_empty_is_an_error(tmp_path):
    write_records([Prompt(text, chat(text)) for text in "ab"], tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="leaves none in the held-out part"):
        prepare(tmp_path / "out", "prompts", tmp_path / "a.jsonl", validation_share=1e-6)
    metrics = prepare(tmp_path / "out", "prompts", tmp_path / "a.jsonl", validation_share=0.0)
    assert metrics["data/rows"] == 2


def test_nothing_left_is_an_error(tmp_path):
    row = {"chosen": "\n\nHuman: Hi\n\nAssistant: a", "rejected": "\n\nHuman: Hi\n\nAssistant: a"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=r"no row is left .*1 because the answers are equal"):
        prepare(tmp_path / "out", "prompts", tmp_path / "a.jsonl", format="hh_rlhf")


# --- duplicates and limits ---------------------------------------------------------------------


def test_duplicates_go_and_are_counted(tmp_path):
    records = [
        Preference("1", chat("Hi"), ("a", "b"), (1, 2)),
        Preference("2", chat("Hi"), ("a", "b"), (1, 2), meta={"from": "elsewhere"}),
        Preference("3", chat("Hi"), ("b", "a"), (2, 1)),  # the same, told in another order
        Preference("4", chat("Hi"), ("a", "b"), (2, 1)),  # the contrary
        Preference("5", chat("Hi"), ("a", "b"), (1, 2), annotator="second"),  # a second opinion
        Preference("6", chat("Hi"), ("a", "b"), (1, 2), passages=("p",)),  # another prompt
        *(Preference(f"x{i}", chat(f"Other {i}"), ("a", "b"), (1, 2)) for i in range(30)),
    ]
    write_records(records, tmp_path / "a.jsonl")
    metrics = prepare(tmp_path / "out", "preferences", tmp_path / "a.jsonl")
    train, validation = read_both(tmp_path / "out", Preference)
    kept = {record.id for record in (*train, *validation)}
    assert metrics["data/duplicates"] == 2
    assert kept >= {"1", "4", "5", "6"}
    assert not kept & {"2", "3"}
    assert any("2 of 36 rows" in n for n in json.loads((tmp_path / "out/notes.json").read_text()))


def test_max_rows_counts_kept_rows_and_stops_reading(tmp_path):
    def rows():
        yield SourceRow(None, "bad")
        for text in "aabcd":
            yield SourceRow(Prompt(text, chat(text)))
        raise AssertionError("read on after the limit")

    kept = collect(rows(), max_rows=3, unique=True)
    assert [item.id for item in kept.train] == ["a", "b", "c"]
    assert (kept.rows_read, kept.duplicates, dict(kept.dropped)) == (5, 1, {"bad": 1})
    assert kept.limited


def test_benchmarks_keep_their_repeats_and_are_not_split(tmp_path):
    tree = {"g": {"e": ["The same ", "The same "], "f": ["Another "]}}
    (tmp_path / "race_prompt.json").write_text(json.dumps(tree))
    metrics = prepare(tmp_path / "out", "bold", tmp_path, format="bold")
    assert metrics == {
        "data/rows": 3,
        "data/validation_rows": 0,
        "data/duplicates": 0,
        "data/dropped": 0,
    }
    assert (tmp_path / "out" / "validation.jsonl").read_text() == ""


# --- per_group ---------------------------------------------------------------------------------


def bold_item(group, entity, number):
    meta = {"domain": "d", "group": group}
    return BenchmarkItem(f"{group}/{entity}/{number}", "bold", {"prompt": "p"}, entity, meta)


def test_spread_takes_each_entity_before_any_twice():
    items = [
        bold_item("g", entity, n) for entity, k in (("a", 5), ("b", 1), ("c", 2)) for n in range(k)
    ]
    # rounds: (a0 b0 c0), (a1 c1), (a2), (a3), (a4)
    for per_group, expected in {
        1: ["a/0"],
        2: ["a/0", "b/0"],
        3: ["a/0", "b/0", "c/0"],
        4: ["a/0", "a/1", "b/0", "c/0"],
        6: ["a/0", "a/1", "a/2", "b/0", "c/0", "c/1"],
        99: [i.id[2:] for i in items],
    }.items():
        assert [item.id[2:] for item in take_evenly(items, per_group, OF_BOLD)] == expected
    assert take_evenly(items, None, OF_BOLD) == items


def test_spread_over_rows_is_even():
    items = [BenchmarkItem(f"qa:{i}", "halueval_qa", {}, f"qa:{i}") for i in range(10)]
    group_of = BENCHMARKS["halueval"].items.group
    assert [item.id for item in take_evenly(items, 4, group_of)] == ["qa:0", "qa:2", "qa:5", "qa:7"]


@given(
    st.lists(st.tuples(st.sampled_from("gh"), st.sampled_from("abc")), max_size=40),
    st.integers(1, 12),
)
def test_spread_fills_each_group_and_keeps_order(cells, per_group):
    items = [bold_item(group, entity, i) for i, (group, entity) in enumerate(cells)]
    chosen = take_evenly(items, per_group, OF_BOLD)
    sizes = Counter(group for group, _ in cells)
    assert Counter(OF_BOLD(i) for i in chosen) == {
        f"d/{group}": min(size, per_group) for group, size in sizes.items()
    }
    assert [i for i in items if i in chosen] == chosen
    for group in sizes:
        # no entity is used twice more than another that still has prompts
        used = Counter(i.group for i in chosen if i.meta["group"] == group)
        has = Counter(entity for g, entity in cells if g == group)
        assert all(
            used[low] == has[low] or used[low] >= used[high] - 1 for low in has for high in has
        )


# --- card, notes, files ------------------------------------------------------------------------


def test_card_of_a_small_source(tmp_path):
    out = tmp_path / "out"
    pairs = [
        Preference(
            str(i), chat("one two three"[: 3 + 5 * (i % 3)] + f" {i}"), ("a b c", "d"), (1, 2)
        )
        for i in range(40)
    ]
    write_records(pairs, tmp_path / "a.jsonl")
    metrics = prepare(out, "preferences", tmp_path / "a.jsonl", validation_share=0.3)
    card = card_of(out)
    assert card["source"] == "a.jsonl"
    assert str(tmp_path) not in (out / "card.json").read_text()
    assert card["rows"] + card["validation_rows"] == card["rows_kept"] == 40
    assert card["rows"] == metrics["data/rows"]
    assert card["length_words"]["response"] == {
        "texts": 80,
        "total": 160,
        "min": 1,
        "median": 2.0,
        "mean": 2.0,
        "p95": 3.0,
        "max": 3,
    }
    assert card["better_is_longer"] == {"pairs_that_differ": 40, "share": 1.0}
    assert json.loads((out / "notes.json").read_text()) == []
    samples = [row for _, row in read_rows(out / "samples.jsonl")]
    assert len(samples) == 8
    assert samples[0]["response"] == "a b c"


def test_better_is_longer_counts_pairs():
    # "a" against "b b": shorter is better; "c c c" against the rest: longer; equal lengths: none
    first = Preference("1", chat("q"), ("a", "b b"), (1, 2))
    second = Preference("2", chat("q"), ("c c c", "a", "b"), (1, 2, 3))
    # pairs that differ in length: first 1 (shorter), second (c,a) (c,b) longer -> 2 of 3
    assert better_is_longer([first, second]) == {"pairs_that_differ": 3, "share": 0.6667}


def test_lengths_leave_out_absent_parts():
    assert set(lengths([Demonstration("d", chat("q"), "a")])) == {"prompt", "response"}


def test_same_source_same_bytes_also_over_an_earlier_attempt(pairs, tmp_path):
    files = ("records.jsonl", "validation.jsonl", "card.json", "samples.jsonl", "notes.json")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "records.jsonl").write_text("the rest of a killed run\n" * 1000)
    for name in "ab":
        prepare(tmp_path / name, "preferences", pairs)
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_an_artifact_can_be_read_again_as_jsonl(pairs, tmp_path):
    prepare(tmp_path / "a", "preferences", pairs)
    prepare(tmp_path / "b", "preferences", tmp_path / "a")
    for name in ("records.jsonl", "validation.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_halueval_notes_name_the_absent_tasks(tmp_path):
    row = {"knowledge": "K", "question": "Q", "right_answer": "r", "hallucinated_answer": "h"}
    (tmp_path / "qa_data.json").write_text((json.dumps(row) + "\n") * 7)
    metrics = prepare(tmp_path / "out", "halueval", tmp_path, format="halueval", per_group=3)
    assert metrics["data/rows"] == 3
    notes = json.loads((tmp_path / "out" / "notes.json").read_text())
    assert "halueval: 3 of 7 rows used, at most 3 per group, spread evenly." in notes
    absent = "halueval_dialogue, halueval_summarization, halueval_general"
    assert any(f"no row of task(s) {absent}" in note for note in notes)


# --- Atlas and real files ----------------------------------------------------------------------


@pytest.mark.parametrize("role", dict.fromkeys([*ROLES, *ATLAS_SIZES]))
def test_atlas_feeds_every_role(role, tmp_path):
    config = DataConfig(role=role, dataset=DatasetConfig(), atlas=TINY, items=items_of(role))
    metrics = run(config, {}, RuntimeConfig(), tmp_path, NullTracker())
    assert metrics["data/rows"] > 0
    split = role in ("corpus", "demonstrations", "new_facts", "preferences", "prompts")
    assert (metrics["data/validation_rows"] > 0) == split
    assert metrics["data/dropped"] == 0
    if role != "corpus":
        train, validation = read_both(tmp_path, KINDS[role])
        assert not {normalise(str(i)) for i in train} & {normalise(str(i)) for i in validation}


@pytest.mark.skipif(
    not (SHARED / "hh-rlhf").is_dir(), reason=f"hh-rlhf: no real files at {SHARED}/hh-rlhf"
)
def test_real_hh_rlhf_roles_agree_on_what_is_held_out(tmp_path):
    starts: dict[bool, set[str]] = {False: set(), True: set()}
    for role in ("preferences", "prompts", "demonstrations", "corpus"):
        metrics = prepare(tmp_path / role, role, SHARED / "hh-rlhf", format="hh_rlhf")
        assert metrics["data/dropped"] == 13
        for held_out, name in ((False, "records"), (True, "validation")):
            path = tmp_path / role / f"{name}.jsonl"
            items = (
                [row for _, row in read_rows(path)]
                if role == "corpus"
                else read_records(KINDS[role], path)
            )
            starts[held_out] |= {start_of(item) for item in items}
    assert not starts[False] & starts[True]
    # 2,299 rows in 10 % and 90 %; five standard errors are 0.03 of them
    assert 0.07 < len(starts[True]) / len(starts[False] | starts[True]) < 0.13


# --- config ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"role": "songs"}, r"data.role \(=songs\) must be one of"),
        ({"dataset": DatasetConfig(format="jsonl")}, r"dataset.path \(=None\) must name"),
        ({"role": "prompts"}, "data.atlas"),
        (
            {
                "role": "questions",
                "dataset": DatasetConfig(format="hh_rlhf", path="x"),
                "items": items_of("questions"),
            },
            r"questions: dataset.format \(=hh_rlhf\) must be one that feeds role questions",
        ),
        (
            {"dataset": DatasetConfig(format="jsonl", path="x"), "per_group": 3},
            r"data.per_group \(=3\) must be None for role demonstrations",
        ),
        (
            {
                "role": "bold",
                "dataset": DatasetConfig(format="bold", path="x"),
                "items": items_of("bold"),
                "per_group": 0,
            },
            r"data.per_group \(=0 rows\)",
        ),
    ],
)
def test_bad_settings(settings, says):
    with pytest.raises(ConfigError, match=says):
        DataConfig(**settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [("format", "parquet"), ("validation_share", 1.0), ("validation_share", -0.1), ("max_rows", 1)],
)
def test_bad_dataset_settings(name, value):
    with pytest.raises(ConfigError, match=rf"dataset.{name} \(={value}"):
        DatasetConfig(**{name: value})


def test_every_format_but_atlas_has_a_reader():
    assert {format for format, _ in READERS} == set(FORMATS)
    own = {name for name in BENCHMARKS if name in FORMATS}
    of_atlas_alone = {"new_facts"}
    assert {role for _, role in READERS} == {*ROLES, BENCHMARK, *own} - of_atlas_alone


def test_the_stage_imports_no_torch():
    code = "import sys, sft.data.stage, plumbrule.data.readers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- ties ---------------------------------------------------------------------------------------


@pytest.fixture
def tied(tmp_path):
    """Ten pairs with an order, and one ranking of three whose answers all tie."""
    rows = [{"prompt": f"Q{i}?", "chosen": f"a{i}", "rejected": "b"} for i in range(10)]
    records = [
        Preference(str(i), chat(r["prompt"]), (r["chosen"], r["rejected"]), (1, 2))
        for i, r in enumerate(rows)
    ]
    records.append(Preference("t", chat("Tie?"), ("x", "y", "z"), (1, 1, 1)))
    write_records(records, tmp_path / "rows.jsonl")
    return tmp_path / "rows.jsonl"


@pytest.mark.parametrize(
    ("ties", "ranks", "told"),
    [
        ("drop", [], "preferences: 1 of 11 rows left out: no ordered pair: all answers tie."),
        ("keep", [(1, 1, 1)], "preferences: 1 of 11 rows read as a tie, kept as it is."),
        (
            "half",
            [(1, 2, 3), (3, 2, 1)],
            "preferences: 1 of 11 rows read as a tie, as a ranking in each order.",
        ),
    ],
)
def test_one_policy_for_ties_and_they_are_counted(tied, tmp_path, ties, ranks, told):
    dataset = DatasetConfig("jsonl", str(tied), validation_share=0.0, ties=ties)
    (tmp_path / "out").mkdir()
    run(DataConfig("preferences", dataset), {}, RuntimeConfig(), tmp_path / "out", NullTracker())
    found = read_records(Preference, tmp_path / "out" / "records.jsonl")
    assert [r.ranks for r in found if r.responses == ("x", "y", "z")] == ranks
    assert len(found) == 10 + len(ranks)
    assert told in json.loads((tmp_path / "out" / "notes.json").read_text())


def test_half_a_win_for_either_is_each_pair_in_both_orders(tied, tmp_path):
    dataset = DatasetConfig("jsonl", str(tied), validation_share=0.0, ties="half")
    (tmp_path / "out").mkdir()
    run(DataConfig("preferences", dataset), {}, RuntimeConfig(), tmp_path / "out", NullTracker())
    found = read_records(Preference, tmp_path / "out" / "records.jsonl")
    pairs = [p for r in found if r.responses == ("x", "y", "z") for p in r.pairs()]
    assert sorted(pairs) == [(i, j) for i in range(3) for j in range(3) if i != j]


def test_another_policy_for_ties_is_refused():
    with pytest.raises(
        ConfigError, match=r"dataset.ties \(=none\) must be one of drop, half, keep"
    ):
        DatasetConfig(ties="none")
