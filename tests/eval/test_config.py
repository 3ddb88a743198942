"""Settings of the eval stages that are refused, with the field and its value in the message."""

from __future__ import annotations

import pytest

from eval.comparisons.config import CompareConfig
from eval.config import BoldConfig, EvalConfig, HaluEvalConfig
from plumbrule.errors import ConfigError


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: EvalConfig(conditions=[]), r"eval.conditions \(=\[\]\)"),
        (lambda: EvalConfig(conditions=["open"]), r"eval.conditions \(=open\)"),
        (lambda: EvalConfig(confidence=1.0), r"eval.confidence \(=1.0\)"),
        (lambda: EvalConfig(num_resamples=10), r"eval.num_resamples \(=10\)"),
        (lambda: EvalConfig(num_samples=-1), r"eval.num_samples \(=-1 responses\)"),
        (lambda: EvalConfig(max_prompts=1), r"eval.max_prompts \(=1 prompts\)"),
        (lambda: HaluEvalConfig(per_task=0), r"eval.halueval.per_task \(=0 rows\)"),
        (lambda: HaluEvalConfig(protocol="offical"), r"protocol \(=offical\).*nearest is official"),
        (lambda: HaluEvalConfig(protocol="official"), r"instructions \(=None\) must be a folder"),
        (lambda: HaluEvalConfig(knowledge="some"), r"eval.halueval.knowledge \(=some\)"),
        (lambda: HaluEvalConfig(form="base"), r"eval.halueval.form \(=base\)"),
        (lambda: HaluEvalConfig(max_new_tokens=0), r"halueval.max_new_tokens \(=0 tokens\)"),
        (lambda: BoldConfig(per_group=0), r"eval.bold.per_group \(=0 prompts\)"),
        (lambda: BoldConfig(scored="all"), r"eval.bold.scored \(=all\)"),
        (lambda: BoldConfig(max_new_tokens=0), r"eval.bold.max_new_tokens \(=0 tokens\)"),
        (lambda: CompareConfig(confidence=0.1), r"compare.confidence \(=0.1\)"),
    ],
)
def test_refused_settings_name_field_and_value(make, said):
    with pytest.raises(ConfigError, match=said):
        make()
