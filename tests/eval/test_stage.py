"""The whole stage on a policy of random weights: files, names, resumption, independence."""

from __future__ import annotations

import json
import math

import pytest
from worlds.evaluation import (
    FirstDocumentIndex,
    prompts,
    read_lines,
    small_config,
    small_inputs,
    small_policy,
)
from worlds.trackers import Stopped

from eval.config import BoldConfig
from eval.stage import run
from plumbrule.cli.merged_model import merge
from plumbrule.data.records import Message, Prompt, write_records
from plumbrule.errors import ConfigError, DataError
from plumbrule.lm.chat import encode_chat
from plumbrule.lm.loading import make_policy, save_policy
from plumbrule.pipeline.planning.acceptance import without_times
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.tracking.stage_tracker import NullTracker

ALL = ("prompts", "questions", "halueval", "bold", "index", "rm")
RUNTIME = RuntimeConfig(device="cpu", micro_batch_size=3)


class StopsAtBenchmark(NullTracker):
    """Dies when the benchmark after `num_done` others begins; None: never. Counts beginnings."""

    def __init__(self, num_done: int | None = None):
        self.num_done, self.begun = num_done, []

    def progress(self, total, what, unit):
        if len(self.begun) == self.num_done:
            raise Stopped
        self.begun.append(what)
        return super().progress(total, what, unit)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted evaluation of everything: (inputs, folder, headline metrics)."""
    folder = tmp_path_factory.mktemp("whole")
    inputs, out = small_inputs(folder, *ALL), folder / "out"
    out.mkdir()
    return inputs, out, run(small_config(), inputs, RUNTIME, out, NullTracker())


def test_a_prompt_is_tokenised_once_for_each_set_of_passages(tmp_path, monkeypatch):
    calls = []

    def counted(tokenizer, messages, generation_prompt=True):
        calls.append(tuple(messages))
        return encode_chat(tokenizer, messages, generation_prompt)

    monkeypatch.setattr("plumbrule.lm.policy.encode_chat", counted)
    inputs, out = small_inputs(tmp_path, *ALL), tmp_path / "out"
    out.mkdir()
    run(small_config(), inputs, RUNTIME, out, NullTracker())
    assert len(calls) == len(set(calls)) > 12


def test_the_index_is_opened_on_the_device_of_the_runtime(whole):
    assert set(FirstDocumentIndex.devices) == {"cpu"}


def test_files_hold_one_row_per_item_and_condition(whole):
    _, out, _ = whole
    counts = {path.stem: len(read_lines(path)) for path in (out / "items").iterdir()}
    # prompts 4 and questions 3 under two conditions; halueval 3 pairs and 2 texts; bold 6.
    assert counts == {"prompts": 8, "questions": 6, "halueval": 8, "bold": 6}
    for path in (out / "items").iterdir():
        for row in read_lines(path):
            assert {"id", "group", "condition"} <= row.keys()
    samples = read_lines(out / "samples.jsonl")
    assert len(samples) == 2 * 6
    assert {"id", "prompt", "passages", "response"} <= samples[0].keys()


def test_metrics_are_nested_with_bounds_and_counts(whole):
    _, out, _ = whole
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics) == {"prompts", "questions", "halueval", "bold"}
    assert set(metrics["prompts"]) == {"closed", "rag"}
    gold = metrics["prompts"]["rag"]["gold"]
    assert gold["low"] is None
    assert gold["reason"] == "too few: 3 groups of at least 5"
    assert gold["n"] == 3  # the fourth prompt names no answer
    assert metrics["prompts"]["rag"]["proxy"]["n"] == 4
    assert metrics["bold"]["closed"]["region_gap_chance"]["low"] is None


def test_each_number_says_what_it_rests_on_and_where_it_comes_from(whole):
    inputs, out, _ = whole
    metrics = json.loads((out / "metrics.json").read_text())
    units = {"prompts": "entities", "questions": "entities", "halueval": "rows", "bold": "entities"}
    for name, conditions in metrics.items():
        for metrics_of in conditions.values():
            for number in metrics_of.values():
                assert number["unit"] == units[name]
                assert number["method"]
                assert number["signature"].startswith(f"{name}:plumbrule ")
                assert number["data"] == inputs[name].fingerprint
                assert number["policy"] == inputs["policy"].fingerprint
                assert len(number["config"]) == 16
                assert (number["seed"], number["confidence"]) == (0, 0.95)
    gap = metrics["bold"]["closed"]["region_gap"]
    assert "|vader:" in gap["signature"]
    assert "|threshold:0.5|scored:text|tokens:4|" in gap["signature"]
    assert gap["method"] == "bootstrap"
    assert (
        "|protocol:two_sided|words:short|knowledge:given|"
        in (metrics["halueval"]["closed"]["qa_accuracy"]["signature"])
    )


def test_headlines_end_in_kind_and_condition(whole):
    _, _, headline = whole
    names = {
        "eval/gold_sft_closed",
        "eval/gold_right_sft_rag",
        "eval/proxy_sft_rag",
        "eval/accuracy_sft_rag",
        "eval/abstain_sft_closed",
        "eval/confident_wrong_sft_closed_low",
        "eval/known_accuracy_sft",
        "eval/known_accuracy_sft_closed",
        "eval/halueval_qa_accuracy_sft",
        "eval/halueval_summarization_auroc_sft",
        "eval/bold_region_gap_sft",
    }
    assert names <= headline.keys()
    assert all(math.isfinite(value) for value in headline.values())
    assert not any("rule" in name or "south" in name for name in headline)


def test_gold_terms_add_up_to_gold(whole):
    _, out, _ = whole
    for row in read_lines(out / "items" / "prompts.jsonl"):
        if "gold" in row:
            terms = [value for name, value in row.items() if name.startswith("gold_")]
            assert row["gold"] == pytest.approx(sum(terms))


def test_passages_are_shown_under_rag_only(whole):
    _, out, _ = whole
    rows = read_lines(out / "items" / "questions.jsonl")
    shown = {row["id"]: row.get("answer_shown") for row in rows if row["condition"] == "rag"}
    # q2 has no answer that could be shown.
    assert shown == {"q0": 1, "q1": 1, "q2": None}
    assert all("answer_shown" not in row for row in rows if row["condition"] == "closed")


@pytest.mark.parametrize("num_done", [0, 1, 3, 5])
def test_killed_and_resumed_equals_uninterrupted(whole, tmp_path, num_done):
    inputs, out, metrics = whole
    with pytest.raises(Stopped):
        run(small_config(), inputs, RUNTIME, tmp_path, StopsAtBenchmark(num_done))
    rest = StopsAtBenchmark()
    again = run(small_config(), inputs, RUNTIME, tmp_path, rest)
    assert without_times(again) == without_times(metrics)
    assert len(rest.begun) == 6 - num_done
    for name in ("items/bold.jsonl", "items/prompts.jsonl", "metrics.json", "samples.jsonl"):
        assert (tmp_path / name).read_text() == (out / name).read_text()


def test_an_answer_does_not_depend_on_other_prompts_or_batches(whole, tmp_path):
    inputs, out, _ = whole
    data = tmp_path / "prompts"
    data.mkdir()
    write_records([prompts()[2], prompts()[0]], data / "validation.jsonl")
    alone = {"policy": inputs["policy"], "prompts": Artifact.of(data, "data")}
    config = small_config(conditions=["closed"])
    config.sampling.batch_size = 1
    run(config, alone, RUNTIME, tmp_path, NullTracker())
    before = {
        row["id"]: row["words"]
        for row in read_lines(out / "items" / "prompts.jsonl")
        if row["condition"] == "closed"
    }
    after = {row["id"]: row["words"] for row in read_lines(tmp_path / "items" / "prompts.jsonl")}
    assert after == {"p2": before["p2"], "p0": before["p0"]}


def test_without_index_and_reward_model_only_closed_book_gold_is_measured(whole, tmp_path):
    inputs = {name: whole[0][name] for name in ("policy", "prompts")}
    metrics = run(small_config(), inputs, RUNTIME, tmp_path, NullTracker())
    assert "eval/gold_sft_closed" in metrics
    assert not any("rag" in name or "proxy" in name for name in metrics)
    assert metrics["eval/gold_sft_closed"] == whole[2]["eval/gold_sft_closed"]


def test_prompts_that_do_not_fit_are_counted(whole, tmp_path):
    inputs = {"policy": whole[0]["policy"]}
    data = tmp_path / "prompts"
    data.mkdir()
    long = Prompt("long", (Message("user", "Where was Ada born? " * 30),), prompts()[0].meta)
    write_records([*prompts()[:2], long], data / "validation.jsonl")
    inputs["prompts"] = Artifact.of(data, "data")
    run(small_config(), inputs, RUNTIME, tmp_path, NullTracker())
    notes = json.loads((tmp_path / "notes.json").read_text())
    assert notes == [
        "prompts closed: 1 of 3 items are longer than 90 tokens, all that the policy's context "
        "leaves for them; they are left out whole."
    ]
    assert len(read_lines(tmp_path / "items" / "prompts.jsonl")) == 2


def test_what_was_evaluated_is_told_without_paths(whole, tmp_path):
    inputs = {name: whole[0][name] for name in ("policy", "bold")}
    config = small_config(bold=BoldConfig(path="/elsewhere/bold", max_new_tokens=4))
    run(config, inputs, RUNTIME, tmp_path, NullTracker())
    text = (tmp_path / "evaluated.json").read_text()
    assert json.loads(text)["kind"] == "sft"
    assert json.loads(text)["settings"]["gold"]["right"] == 2.0
    assert "elsewhere" not in text


def test_nothing_to_measure_is_refused(whole, tmp_path):
    with pytest.raises(ConfigError, match="something to measure"):
        run(small_config(), {"policy": whole[0]["policy"]}, RUNTIME, tmp_path, NullTracker())


@pytest.mark.parametrize("rows", [[], [prompts()[0], prompts()[0]]])
def test_no_records_and_repeated_ids_are_refused(whole, tmp_path, rows):
    write_records(rows, tmp_path / "validation.jsonl")
    inputs = {"policy": whole[0]["policy"], "prompts": Artifact.of(tmp_path, "data")}
    with pytest.raises(DataError, match=r"must hold a record|must be unique"):
        run(small_config(), inputs, RUNTIME, tmp_path, NullTracker())


ALONE = (  # takes one turn of the user, and none that says "Reply"
    "{% if messages | length > 1 or 'Reply' in messages[0].content %}"
    "{{ raise_exception('one question at a time') }}{% endif %}{{ messages[0].content }}"
)


@pytest.mark.parametrize(
    ("slots", "extra", "refused"),
    [
        (("bold", "prompts"), True, "'p9'"),
        (("bold", "prompts", "halueval"), False, "'h1/right'"),
    ],
)
def test_a_chat_that_the_template_refuses_is_named_before_any_work(tmp_path, slots, extra, refused):
    inputs = small_inputs(tmp_path, *slots)
    policy = small_policy()
    policy.tokenizer.chat_template = ALONE
    policy = make_policy(policy.model, policy.tokenizer, policy.spec.context)
    save_policy(policy, tmp_path / "policy" / "model")
    two = (Message("system", "Be brief."), Message("user", "Say it."))
    more = [Prompt("p9", two)] if extra else []
    write_records([*prompts(), *more], tmp_path / "prompts" / "validation.jsonl")
    inputs = {name: Artifact.of(one.path, one.kind) for name, one in inputs.items()}
    tracker = StopsAtBenchmark()
    with pytest.raises(DataError, match=rf"first is {refused}.*one question at a time"):
        run(small_config(), inputs, RUNTIME, tmp_path, tracker)
    assert tracker.begun == []
    if extra:  # what is not asked is not checked
        run(small_config(max_prompts=4), inputs, RUNTIME, tmp_path, tracker)
        assert tracker.begun == ["prompts closed", "bold closed"]


def test_a_policy_with_an_adapter_is_measured_as_the_merged_one(tmp_path, adapted):
    inputs = small_inputs(tmp_path, "questions", "halueval")
    start = adapted(inputs["policy"].file("model"), tmp_path / "adapter" / "model")
    merge(start, tmp_path / "whole" / "model")
    found = []
    for name in ("adapter", "whole"):
        (tmp_path / f"out-{name}").mkdir()
        given = {**inputs, "policy": Artifact.of(tmp_path / name, "sft")}
        run(small_config(), given, RUNTIME, tmp_path / f"out-{name}", NullTracker())
        found.append(read_lines(tmp_path / f"out-{name}" / "items" / "halueval.jsonl"))
    for one, other in zip(*found, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert value == (
                pytest.approx(other[name], abs=1e-4) if isinstance(value, float) else other[name]
            )


def test_seconds_per_row_are_known_of_what_one_process_measured_whole(whole, tmp_path):
    inputs, _, metrics = whole
    prefix = "time/item_seconds_"
    known = {name.removeprefix(prefix) for name in metrics if name.startswith(prefix)}
    conditions = {f"{name}_{c}" for name in ("prompts", "questions") for c in ("closed", "rag")}
    assert known == conditions | {"halueval_closed", "bold_closed"}
    assert all(metrics[prefix + name] > 0 for name in known)
    config = small_config()
    with pytest.raises(Stopped):  # behind the first chunk of the first benchmark
        run(config, inputs, RUNTIME, tmp_path, StopsAtBenchmark(1))
    (tmp_path / "checkpoints").rename(tmp_path / "gone")  # its answers are in the journal
    rest = run(config, inputs, RUNTIME, tmp_path, StopsAtBenchmark())
    assert {name for name in known if prefix + name not in rest} == {"prompts_closed"}


def test_an_answer_to_a_question_has_its_tokens(whole):
    rows = read_lines(whole[1] / "items" / "questions.jsonl")
    closed, shown = ({r["id"]: r for r in rows if r["condition"] == c} for c in ("closed", "rag"))
    assert all(0 < row["answer_tokens"] <= 6 for row in rows)
    more = [shown[name]["prompt_tokens"] - row["prompt_tokens"] for name, row in closed.items()]
    assert min(more) >= 0
    assert max(more) > 0  # with passages
