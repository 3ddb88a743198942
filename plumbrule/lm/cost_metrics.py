"""What a stage cost, counted alike in all: four numbers that methods can be held to.

cost/generated_tokens  sampled while training or for feedback; not those of an evaluation
cost/training_tokens   of rows that weights were trained on, prompts included, once for each time
                       that they were
cost/training_flops    2 per token and weight that is read or sampled, 6 where all of the model is
                       trained, 4 with adapters (Kaplan et al. 2020, arXiv:2001.08361, section 2.1);
                       attention, embeddings, heads and reward terms are left out
cost/labels            rankings to train on that someone or something judged (of feedback), or that
                       were trained on (of what learns from them)

`eval/comparisons/costs.py` adds up those of an artifact and of all that it was made from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

COSTS = ("generated_tokens", "training_tokens", "training_flops", "labels")
READ, TRAINED, ADAPTED = 2, 6, 4
"""FLOPs per token and weight."""


def num_weights(module: nn.Module) -> int:
    """Return the weights that a token is multiplied with: matrices that are no embeddings."""
    from torch import nn

    tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    return sum(p.numel() for p in module.parameters() if p.ndim == 2 and id(p) not in tables)


def cost_metrics(**costs: float) -> dict[str, float]:
    """Return costs as headline metrics. Raises: ValueError: an unknown one."""
    if unknown := set(costs) - set(COSTS):
        raise ValueError(f"costs (={sorted(unknown)}) must be of {', '.join(COSTS)}.")
    return {f"cost/{name}": float(value) for name, value in costs.items()}
