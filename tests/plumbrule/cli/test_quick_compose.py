"""What tests compose quickly is what Hydra composes."""

from __future__ import annotations

import pytest
from hydra.errors import HydraException
from quick_compose import quickly_composed

from plumbrule.cli.composition import composed_config


@pytest.mark.parametrize(
    "words",
    [
        ["seed=3", "ppo.kl.coef=0.5", "run.goals=[rm]", "run.notes=['a=b, c']"],
        ["debug=fast", "+nodes.ppo.set={kl: {coef: 0.1}}", "nodes.ppo.set.kl.coef=1"],
        ["ppo.kl.coef=1", "model=gpt2", "nodes.sft.inputs.base=null", "model.revision=null"],
        ["+nodes.ppo.each={kl.coef: [0.1]}", "seed=2", "+nodes.more={kind: ppo}"],
        ["+nodes.ppo.inputs={more: sft}"],
    ],
)
def test_values_that_are_set_on_a_copy_give_what_hydra_gives(words: list[str]) -> None:
    composed, expected = quickly_composed(words), composed_config(words)
    assert composed == expected
    composed.seed = 77
    assert quickly_composed(words) == expected


@pytest.mark.parametrize(
    "word", ["ppo.kl.coeff=1", "seed=1,2", "seed=1.5", "ppo.kl.coef=much", "+ppo.kl.coef=1"]
)
def test_what_can_not_be_set_is_refused_as_hydra_refuses_it(word: str) -> None:
    with pytest.raises(HydraException) as whole:
        composed_config([word])
    with pytest.raises(HydraException) as quick:
        quickly_composed([word])
    assert str(quick.value) == str(whole.value)
