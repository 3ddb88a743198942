"""The KL of sampled answers to a reference."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from worlds.evaluation import prompts, read_lines, small_config, small_inputs, small_policy

from eval.benchmarks.divergence import log_ratios
from eval.benchmarks.generate import Subject, sample
from eval.stage import run
from plumbrule.config import RuntimeConfig, SamplingConfig
from plumbrule.data.records import Message, Prompt
from plumbrule.errors import ConfigError
from plumbrule.lm.loading import save_policy
from plumbrule.tracking.stage_tracker import NullTracker

RUNTIME = RuntimeConfig(device="cpu", micro_batch_size=3)


def answered(policy, number=4, tokens=6, temperature=1.0):
    """Return answers of a policy to `number` prompts of unlike length."""
    sampling = SamplingConfig(temperature=temperature, max_new_tokens=tokens, batch_size=64)
    subject = Subject(policy, None, None, small_config(), RUNTIME, NullTracker())
    asked = [Prompt(f"p{i}", (Message("user", "Where " * (1 + i % 3)),)) for i in range(number)]
    return sample(asked, "closed", subject, sampling, "prompts")[0]


def by_definition(policy, one, temperature):
    """Return the summed log-probs of an answer's tokens, one row alone, in float64."""
    row = torch.tensor([[*one.query, *one.tokens]])
    with torch.no_grad():
        logits = policy.model(row).logits[0].double() / temperature
    begin = len(one.query)
    spread = logits[begin - 1 : -1] - logits[begin - 1 : -1].logsumexp(-1, keepdim=True)
    return float(spread.gather(1, row[0, begin:, None]).sum())


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_it_is_the_sum_over_an_answers_tokens(temperature):
    policy, reference = small_policy(0), small_policy(1)
    answers = answered(policy, 5, temperature=temperature)
    wanted = [
        by_definition(policy, one, temperature) - by_definition(reference, one, temperature)
        for one in answers
    ]
    for rows_per_pass in (1, 2, 5):
        found = log_ratios(policy, reference, answers, temperature, rows_per_pass)
        assert found == pytest.approx(wanted, abs=1e-4)  # float32 passes
    assert max(abs(x) for x in wanted) > 0.01


def test_to_itself_it_is_zero():
    policy = small_policy()
    assert log_ratios(policy, policy, answered(policy), 1.0, 2) == [0.0] * 4


def test_its_mean_is_the_kl():
    """One token each from one prompt: the KL of two distributions over the vocabulary is known."""
    policy, reference = small_policy(0), small_policy(1)
    with torch.no_grad():  # far enough apart to see
        policy.model.get_output_embeddings().weight.mul_(8)
    one = Prompt("p", (Message("user", "Where?"),))
    asked = [dataclasses.replace(one, id=f"p{i}") for i in range(1500)]
    sampling = SamplingConfig(max_new_tokens=1, batch_size=500)
    subject = Subject(policy, None, None, small_config(), RUNTIME, NullTracker())
    answers = sample(asked, "closed", subject, sampling, "prompts")[0]
    ratios = np.array(log_ratios(policy, reference, answers, 1.0, 500))
    with torch.no_grad():
        row = torch.tensor([answers[0].query])
        p, q = (m.model(row).logits[0, -1].double().softmax(-1) for m in (policy, reference))
    exact = float((p * (p / q).log()).sum())
    error = ratios.std() / len(ratios) ** 0.5
    assert exact > 10 * error
    assert abs(ratios.mean() - exact) < 4 * error


def test_another_tokenizer_is_refused():
    policy, other = small_policy(), small_policy(1)
    other.tokenizer.add_tokens(["Bexley"])
    with pytest.raises(ConfigError, match="must have the policy's tokenizer"):
        log_ratios(policy, other, answered(policy), 1.0, 2)


def test_an_evaluation_with_a_reference_reports_it(tmp_path):
    inputs = small_inputs(tmp_path, "prompts", "index")
    folder = tmp_path / "reference"
    save_policy(small_policy(1), folder / "model")
    given = {**inputs, "reference": dataclasses.replace(inputs["policy"], path=folder)}
    out = tmp_path / "out"
    out.mkdir()
    metrics = run(small_config(), given, RUNTIME, out, NullTracker())
    rows = read_lines(out / "items" / "prompts.jsonl")
    assert len(rows) == 2 * len(prompts())
    for condition in ("closed", "rag"):
        own = [row["kl"] for row in rows if row["condition"] == condition]
        assert metrics[f"eval/kl_sft_{condition}"] == pytest.approx(np.mean(own))


def test_greedy_answers_have_no_kl(composed):
    with pytest.raises(ConfigError, match=r"eval\.sampling\.temperature"):
        composed("+nodes.eval.inputs.reference=sft", "eval.sampling.temperature=0")
