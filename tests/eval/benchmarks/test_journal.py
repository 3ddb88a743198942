"""The journal of an evaluation, and that a batch that does not fit memory is done in halves."""

from __future__ import annotations

import pytest
import torch
from worlds.evaluation import (
    halueval,
    read_lines,
    small_config,
    small_inputs,
    small_policy,
)
from worlds.trackers import Stopped

from eval.benchmarks import journal as journal_module
from eval.benchmarks import subject as subject_module
from eval.benchmarks.halueval import measure
from eval.benchmarks.journal import Journal, read
from eval.benchmarks.subject import Subject, generate_fitting
from eval.stage import ASKED, run
from plumbrule.lm.config import SamplingConfig
from plumbrule.lm.generation import generate
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.tracking.stage_tracker import NullTracker

RUNTIME = RuntimeConfig(device="cpu", micro_batch_size=3)


def counting(calls):
    def compute(places):
        calls.append(list(places))
        return [place * 10 for place in places]

    return compute


def test_whole_chunks_are_taken_and_others_computed_whole(tmp_path):
    path, calls = tmp_path / "a.jsonl", []
    keys = list("abcde")
    assert Journal(path).each(keys, counting(calls), chunk=2) == [0, 10, 20, 30, 40]
    assert calls == [[0, 1], [2, 3], [4]]
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], lines[3][:-5]]))  # d is torn, e is lost
    again, seen = [], []
    found = Journal(path).each(keys, counting(again), seen.append, chunk=2)
    assert found == [0, 10, 20, 30, 40]
    assert again == [[2, 3], [4]]
    assert seen == [2]
    assert read(path) == dict(zip(keys, found, strict=True))  # written behind the torn row


def test_an_altered_row_is_not_there(tmp_path):
    path, calls = tmp_path / "a.jsonl", []
    Journal(path).each(["a"], counting([]))
    path.write_text(path.read_text().replace('"result": 0', '"result": 7'))
    assert Journal(path).each(["a"], counting(calls)) == [0]
    assert calls == [[0]]


def test_a_key_is_of_all_that_an_answer_depends_on():
    one = Journal(None, "policy")
    keys = {
        one.key("answer", [1, 2], {"temperature": 1.0}, 5),
        one.key("answer", [1, 2], {"temperature": 0.5}, 5),
        one.key("answer", [12], {"temperature": 1.0}, 5),
        one.key("answer", [1, 2], {"temperature": 1.0}, 6),
        one.key("odds", [1, 2], {"temperature": 1.0}, 5),
        Journal(None, "other").key("answer", [1, 2], {"temperature": 1.0}, 5),
    }
    assert len(keys) == 6
    assert one.key("odds", [1]) == Journal(None, "policy").key("odds", [1])


def test_log_likelihoods_are_taken_from_the_journal(tmp_path, monkeypatch):
    rows = [([1, 2], [3]), ([1], [2, 3]), ([2], [2])]

    def nats():
        journal = Journal(tmp_path / ASKED, "policy")
        asker = Subject(
            small_policy(), None, None, small_config(), RUNTIME, NullTracker(), journal=journal
        )
        return asker.response_nats(rows, "nats")

    first = nats()
    monkeypatch.setattr(subject_module, "score_batches", None)  # nothing is computed again
    assert nats() == first
    assert len(set(first)) == 3


@pytest.mark.parametrize("name", ["halueval", "bold", "prompts"])
def test_an_evaluation_that_dies_within_a_benchmark_goes_on_with_the_same_numbers(
    tmp_path, monkeypatch, name
):
    """Killed behind its first chunk of two items; the rest is computed, and no chunk twice."""
    monkeypatch.setattr(journal_module.Journal.each, "__defaults__", (lambda n: None, 2))
    inputs = small_inputs(tmp_path, name)
    config = small_config(conditions=["closed"])
    outs = [tmp_path / "whole", tmp_path / "killed"]
    for out in outs:
        out.mkdir()
    metrics = run(config, inputs, RUNTIME, outs[0], NullTracker())
    write, written = Journal._write, []

    def dies(self, keys, results):
        if len(written) == 1:
            raise Stopped
        written.append(list(keys))
        write(self, keys, results)

    monkeypatch.setattr(Journal, "_write", dies)
    with pytest.raises(Stopped):
        run(config, inputs, RUNTIME, outs[1], NullTracker())
    assert len(read(outs[1] / ASKED)) == sum(map(len, written))

    def counted(self, keys, results):
        written.append(list(keys))
        write(self, keys, results)

    monkeypatch.setattr(Journal, "_write", counted)
    timed = {name for name in metrics if name.startswith("time/")}
    again = run(config, inputs, RUNTIME, outs[1], NullTracker())
    assert again == {name: value for name, value in metrics.items() if name not in timed}
    for file in (f"items/{name}.jsonl", "metrics.json", "samples.jsonl"):
        assert (outs[1] / file).read_bytes() == (outs[0] / file).read_bytes()
    assert len({tuple(keys) for keys in written}) == len(written)
    assert not (outs[1] / ASKED).exists()


def test_repeats_of_a_prompt_under_other_ids_stay_repeats(tmp_path):
    policy = small_policy()
    config = small_config(sampling=SamplingConfig(max_new_tokens=6, batch_size=4))
    asker = Subject(
        policy, None, None, config, RUNTIME, NullTracker(), journal=Journal(tmp_path / "a.jsonl")
    )
    found, _ = asker.continue_texts(["Ada won"] * 6, [str(i) for i in range(6)], "bold", 6)
    assert len({one.continuation for one in found.values()}) > 1
    again, _ = asker.continue_texts(["Ada won"] * 6, [str(i) for i in range(6)], "bold", 6)
    assert again == found


def test_a_batch_that_does_not_fit_memory_is_done_in_halves(monkeypatch):
    policy, sizes = small_policy(), []

    def short_of_memory(policy, prompts, *, sampling, keys, progress):
        sizes.append(sampling.batch_size)
        if sampling.batch_size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(policy, prompts, sampling=sampling, keys=keys, progress=progress)

    prompts, keys = [[1, 5, 9]] * 5, list(range(5))
    sampling = SamplingConfig(max_new_tokens=4, batch_size=8)
    whole = generate(policy, prompts, sampling=sampling, keys=keys)
    monkeypatch.setattr(subject_module, "generate", short_of_memory)
    with NullTracker().progress(5, "test", "responses") as line:
        found = generate_fitting(policy, prompts, sampling, keys, line)
    assert [one.tokens for one in found] == [one.tokens for one in whole]
    assert sizes == [8, 4, 2]


def test_a_batch_of_one_that_does_not_fit_is_an_error(monkeypatch):
    def never(*given, **settings):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(subject_module, "generate", never)
    sampling = SamplingConfig(max_new_tokens=4, batch_size=4)
    with (
        NullTracker().progress(1, "test", "responses") as line,
        pytest.raises(torch.OutOfMemoryError),
    ):
        generate_fitting(small_policy(), [[1]], sampling, [0], line)


def test_a_subject_without_a_journal_measures_the_same(tmp_path):
    config = small_config()
    found = [
        measure(
            halueval(),
            "closed",
            Subject(small_policy(), None, None, config, RUNTIME, NullTracker(), **given),
        )
        for given in ({}, {"journal": Journal(tmp_path / "a.jsonl", "x")})
    ]
    assert found[0] == found[1]
    assert len(read_lines(tmp_path / "a.jsonl")) == 8
