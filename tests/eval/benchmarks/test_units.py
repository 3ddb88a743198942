"""What stands beside each number: its unit by name, and what it depends on beside the records."""

from __future__ import annotations

import pytest

from eval.benchmarks.registry import BENCHMARKS
from eval.config import EvalConfig
from plumbrule.lm.config import SamplingConfig

CHOICES = ("truthfulqa", "multiple_choice", "bbq", "classification")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_names_what_its_intervals_count(name):
    assert BENCHMARKS[name].unit in ("entities", "rows", "questions", "texts")


@pytest.mark.parametrize("name", CHOICES)
def test_given_answers_depend_on_how_the_question_is_put(name):
    signature = BENCHMARKS[name].signature
    assert signature(EvalConfig()) == "prompt:chat"
    assert signature(EvalConfig(choice_prompt="plain")) == "prompt:plain"


def test_greedy_answers_depend_on_their_length_and_grader():
    config = EvalConfig(sampling=SamplingConfig(max_new_tokens=7))
    assert BENCHMARKS["simpleqa"].signature(config) == "grader:rule|tokens:7"
    found = BENCHMARKS["open_qa"].signature(config)
    assert found.startswith("tokens:7|bleu:sacrebleu ")
    assert "|rouge:rouge-score " in found


def test_perplexity_depends_on_its_stride():
    signature = BENCHMARKS["perplexity"].signature
    assert signature(EvalConfig()) == "stride:half the context"
    assert signature(EvalConfig(perplexity_stride=32)) == "stride:32"
