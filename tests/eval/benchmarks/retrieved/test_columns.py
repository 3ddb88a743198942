"""What an answer made of its passages: columns, metrics, and the log-prob without each passage."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from worlds.evaluation import small_config, small_policy
from worlds.trackers import StoppingTracker

from eval.benchmarks import held_out_rewards, questions
from eval.benchmarks.answers import Answered
from eval.benchmarks.open_answers import open_qa, simpleqa
from eval.benchmarks.retrieved.columns import (
    CITATIONS,
    EFFECTS,
    cited,
    passage_effects,
    prompt_without,
    retrieval_columns,
    retrieval_metrics,
)
from eval.benchmarks.subject import Subject
from eval.intervals import Intervals
from plumbrule.data.records import Message, Prompt
from plumbrule.lm.response_logprobs import response_logprobs
from plumbrule.lm.token_rows import TokenRow
from plumbrule.protocols import Episode
from plumbrule.runtime_config import RuntimeConfig

ADA, BEA = "Ada was born in Arlen.", "Bea was born in Bosk."
INTERVALS = Intervals(confidence=0.95, num_resamples=100, seed=0)


def subject(template: str = "{passage}", **changes: Any) -> Subject:
    policy = small_policy()
    policy.model.get_output_embeddings().weight.data.mul_(40)  # so that the context matters
    policy.spec = dataclasses.replace(policy.spec, passage_template=template)
    runtime = RuntimeConfig(device="cpu", micro_batch_size=4)
    return Subject(policy, None, None, small_config(**changes), runtime, StoppingTracker())


def answered(subject: Subject, response: str, passages: tuple[str, ...]) -> Answered:
    messages = (Message("user", "Where was Ada born?"),)
    prompt = subject.policy.encode(messages, passages)
    tokens = subject.policy.encode_response(response)
    episode = Episode(Prompt("p", messages), passages, response, True)
    return Answered(episode, TokenRow(tuple(prompt), tuple(tokens)))


def test_columns_by_hand() -> None:
    """Content words: ada, born, arlen, of which passage 2 holds born alone."""
    of = subject()
    assert cited(answered(of, "Ada was born in Arlen [1].", (ADA, BEA))) == {
        "citation_precision": 1.0,
        "citation_recall": 1.0,
        "cited_support": 1.0,
        "passage_support": 1.0,
    }
    wrong = cited(answered(of, "Ada was born in Arlen [2].", (ADA, BEA)))
    assert wrong == {
        "citation_precision": 0.0,
        "citation_recall": 0.0,
        "cited_support": pytest.approx(1 / 3),
        "passage_support": 1.0,
    }
    silent = cited(answered(of, "Ada was born in Arlen.", (ADA,)))
    assert "citation_precision" not in silent
    assert silent["citation_recall"] == 0.0
    assert cited(answered(of, "Arlen", ())) == {}
    assert cited(answered(of, "", (ADA,))) == {}


@pytest.mark.parametrize("template", ["{passage}", "[{n}] {passage}"])
def test_the_effect_of_a_passage_is_the_log_prob_with_it_less_without(template: str) -> None:
    """By whole forward passes over the texts; a number stays where its passage goes."""
    of = subject(template)
    one = answered(of, "Arlen", (ADA, BEA))
    bare = answered(of, "Bosk", ())
    effects = passage_effects([bare, one, one], of)
    assert [len(found) for found in effects] == [0, 2, 2]
    assert effects[1] == pytest.approx(effects[2], abs=1e-6)
    policy, messages = of.policy, one.episode.prompt.messages
    with torch.no_grad():
        for place, left in enumerate([(BEA,), (ADA,)]):
            if "{n}" in template:
                left = ("", BEA) if place == 0 else (ADA, "")
            prompt = policy.encode(messages, left)
            assert prompt_without(policy, one, place) == prompt
            rows = [one.row, TokenRow(tuple(prompt), one.row.response)]
            whole, without = response_logprobs(policy, rows, 1).tolist()
            assert effects[1][place] == pytest.approx(whole - without, abs=1e-4)
    assert max(map(abs, effects[1])) > 1e-3
    if "{n}" in template:
        text = policy.tokenizer.decode(prompt_without(policy, one, 0))
        assert f"[1] \n[2] {BEA}" in text


def test_effects_are_asked_for_and_only_under_rag() -> None:
    plain, asked = subject(), subject(leave_one_out=True)
    rows = [answered(plain, "Arlen [1].", (ADA, BEA)), answered(plain, "Arlen", ())]
    assert retrieval_columns(rows, "closed", asked) == [{}, {}]
    assert set(retrieval_columns(rows, "rag", plain)[0]) == set(CITATIONS)
    found = retrieval_columns(rows, "rag", asked)
    assert set(found[0]) == {*CITATIONS, *EFFECTS}
    assert found[0]["passage_effect_max"] >= found[0]["passage_effect_mean"]
    assert found[1] == {}


def test_metrics_are_means_over_the_rows_that_have_them() -> None:
    rows: list[dict[str, Any]] = [
        {"id": f"q{i}", "group": f"q{i}", "citation_recall": float(i > 1)} for i in range(4)
    ]
    rows[0]["citation_precision"] = 1.0
    found = retrieval_metrics(rows, INTERVALS, "answer_")
    assert set(found) == {"answer_citation_recall", "answer_citation_precision"}
    assert found["answer_citation_recall"].value == 0.5
    assert found["answer_citation_precision"].value == 1.0
    assert found["answer_citation_precision"].n == 1


def test_every_benchmark_that_retrieves_declares_them_under_its_own_name() -> None:
    headlines = set()
    for benchmark, prefix in (
        (questions.BENCHMARK, "answer_"),
        (held_out_rewards.BENCHMARK, "response_"),
        (open_qa.BENCHMARK, ""),
        (simpleqa.BENCHMARK, ""),
    ):
        assert benchmark.both_conditions
        for name in (*CITATIONS, *EFFECTS):
            assert benchmark.declares(prefix + name)
            headlines |= set(benchmark.headline(prefix + name, "sft", "rag"))
        row = {"id": "a", "group": "a", "condition": "rag", "citation_recall": 1.0}
        paired = [one for one in benchmark.quantities([row]) if one.stands_for(row)]
        assert any(one.column == "citation_recall" for one in paired)
    assert len(headlines) == 4 * len((*CITATIONS, *EFFECTS))
