"""The constructed start: does it copy what once followed, before any training?"""

import pytest
import torch

from plumbrule.errors import ConfigError
from plumbrule.lm.config import ModelConfig
from plumbrule.lm.loading import new_model
from sft.base.config import BaseConfig
from sft.base.induction import construct
from sft.base.packed_rows import token_logits

SHAPE = ModelConfig(
    context=128, hidden_size=192, num_layers=4, num_heads=4, intermediate_size=512, vocab_size=512
)


class Words:
    """What `new_model` asks of a tokenizer."""

    bos_token_id, eos_token_id, pad_token_id = 1, 2, 0

    def __len__(self):
        return SHAPE.vocab_size


def copied(model):
    """Return the share of tokens of a second copy of random words that are predicted rightly."""
    generator = torch.Generator().manual_seed(1)
    once = torch.stack([torch.randperm(500, generator=generator)[:20] + 6 for _ in range(16)])
    tokens = torch.cat([once, once], 1)
    wanted = torch.zeros_like(tokens, dtype=torch.bool)
    wanted[:, 24:] = True  # four words of the copy are seen before the first one is asked for
    with torch.no_grad():
        logits = token_logits(model, tokens, torch.zeros_like(tokens), wanted)
    return (logits.argmax(-1) == tokens[wanted]).double().mean().item()


@pytest.mark.parametrize("seed", [0, 1])
def test_it_copies_what_followed_before_any_training(seed):
    model = new_model(SHAPE, Words(), seed)
    assert copied(model) < 0.02
    construct(model, seed)
    assert copied(model) > 0.2  # one in 500 by chance; .34 and .36 for these seeds


def test_it_is_a_function_of_its_seed():
    one, two, other = (new_model(SHAPE, Words(), 0) for _ in range(3))
    construct(one, 3)
    construct(two, 3)
    construct(other, 4)
    weights = [dict(m.named_parameters()) for m in (one, two, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    matrices = [name for name, w in weights[0].items() if w.ndim == 2]
    assert not any(torch.equal(weights[0][name], weights[2][name]) for name in matrices)


@pytest.mark.parametrize(
    "shape", [{"num_layers": 1}, {"num_heads": 1}, {"hidden_size": 8, "num_heads": 4}]
)
def test_a_shape_without_room_for_the_circuit_is_refused(shape):
    with pytest.raises(ConfigError, match=r"base.start \(=induction\) must be random"):
        BaseConfig(model=ModelConfig(**shape), start="induction")
