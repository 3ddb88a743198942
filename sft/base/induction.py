"""A start for small Llamas that can already look things up: induction heads by construction.

A small transformer that is trained on question answering over passages first learns to copy *some*
value of the right kind, and stays there for long: on Atlas, from an ordinary random start, it picks
a distractor with the same relation as often as the right entity for millions of tokens. What it has
not found is the two-layer circuit that finds an earlier occurrence of the last few tokens and
copies what followed (Olsson et al. 2022, arXiv:2209.11895). This module writes a rough version of
that circuit into the first two layers, and training takes it from there. The architecture is the
plain one; only the values at step 0 differ.

How it works, for heads of d dimensions and residual streams of H:

- **Embeddings** are small and random, with one coordinate that is the same for every token, so that
  a head can form a query or key that does not depend on the token at all.
- **Layer 0, head h attends to the token h + 1 places back.** Rotary codes turn the dimension pair
  f by position times theta_f. With the key (1, 0) in each pair and the query (cos o theta_f,
  -sin o theta_f), the score is the sum over f of cos((m - n - o) theta_f), which peaks where the
  key is o places behind the query. Only the fastest pairs take part: slow ones do not tell places
  apart. What a head finds it writes, through one projection P for all of them, into a
  subspace of its own, G_h. So each place of the stream then holds the tokens before it.
- **Layer 1, all heads but the last, match n-grams.** The key at n spells the tokens n-1, n-2, ...
  (subspaces G_0, G_1, ...); the query at m spells the tokens m, m-1, ... (the embedding itself and
  G_0, ...). Each offset is put through a random rotation of its own, the same on both sides, so
  that scores add up where tokens agree at the same offset. It is done in the slowest pairs, where
  rotary codes hardly move. Values pass the token found there back into the stream, where the tied
  head reads it: a head that matched at n votes for the token at n.
- What the other layers write is scaled down, so that they do not drown the circuit at first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

WEIGHT_STD = 0.06
"""Of embeddings and of all matrices that are not constructed."""
CONSTANT = 6.0
"""The shared coordinate of the embeddings, in units of their standard deviation."""
QUIET = 0.1
"""Factor on what layers write into the stream, where not constructed."""
FAST_SHARE = 10 / 24
"""Share of the rotary pairs, the fastest ones, that tell places apart."""
PLACE, CODE = 1.1, 1.5
"""Of the constructed queries and keys: how sharply the first layer's heads look at one offset, and
the second's at a match. Larger, and training can't move them; smaller, and they look at all."""
COPIED = (0.3, 0.25)
"""Value and output of the first layer: a neighbour's code is about as long as the token's own."""
VOTED = (0.6, 0.5)
"""Value and output of the second: what it found outweighs what the head reads otherwise."""
NOISE_LEFT = 0.2
"""Share of the random part that the first layer's queries and keys keep."""


@torch.no_grad()
def construct(model: LlamaForCausalLM, seed: int) -> None:
    """Overwrite an untrained Llama's weights with the start described above, a function of `seed`.

    Needs tied embeddings, two layers or more, as many key as query heads, and heads that fill the
    hidden size (`BaseConfig` checks it).
    """
    config = model.config
    hidden, num_heads = config.hidden_size, config.num_attention_heads
    head = hidden // num_heads
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            parameter.normal_(0.0, WEIGHT_STD, generator=generator)
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.mul_(QUIET)
    model.model.embed_tokens.weight[:, 0] = CONSTANT * WEIGHT_STD

    # What a token is, in the d dimensions of a head, without the shared coordinate: (d, H).
    token = torch.zeros(head, hidden)
    token[:, 1:] = _orthonormal(hidden - 1, head, generator).T
    subspaces = _orthonormal(hidden, hidden, generator).split(head, dim=1)  # G_h: (H, d) each
    first, second = (layer.self_attn for layer in model.model.layers[:2])

    # Layer 0: head h finds the token h + 1 places back and writes it into G_h.
    rope: dict[str, Any] = dict(config.rope_parameters or {})
    theta = float(rope["rope_theta"]) ** (-torch.arange(head // 2) * 2.0 / head)
    num_fast = max(1, round(FAST_SHARE * head / 2))
    fast = slice(0, num_fast)
    for number, rows in enumerate(_heads(num_heads, head)):
        query, key = torch.zeros(2, head // 2), torch.zeros(2, head // 2)
        key[0, fast] = 1.0
        query[0, fast] = torch.cos((number + 1) * theta)[fast]
        query[1, fast] = -torch.sin((number + 1) * theta)[fast]
        first.q_proj.weight[rows] *= NOISE_LEFT
        first.k_proj.weight[rows] *= NOISE_LEFT
        first.q_proj.weight[rows, 0] = PLACE * query.flatten()
        first.k_proj.weight[rows, 0] = PLACE * key.flatten()
        first.v_proj.weight[rows] = COPIED[0] * token
        first.o_proj.weight[:, rows] = COPIED[1] * subspaces[number]

    # Layer 1: match the tokens up to here with the tokens before there, and copy what stands there.
    slow = torch.tensor([i for i in range(head) if i % (head // 2) >= num_fast])
    for rows in _heads(num_heads, head)[:-1]:
        query_map, key_map = torch.zeros(head, hidden), torch.zeros(head, hidden)
        for offset in range(num_heads):
            code = torch.zeros(head, head)
            code[slow] = _orthonormal(head, len(slow), generator).T
            key_map += code @ subspaces[offset].T
            query_map += code @ (token if offset == 0 else subspaces[offset - 1].T)
        second.q_proj.weight[rows] = CODE * query_map
        second.k_proj.weight[rows] = CODE * key_map
    turn = _orthonormal(hidden, hidden, generator)
    second.v_proj.weight.copy_(VOTED[0] * turn)
    second.o_proj.weight.copy_(VOTED[1] * turn.T)


def _heads(num_heads: int, head: int) -> list[slice]:
    """Return the rows of each head in a projection."""
    return [slice(number * head, (number + 1) * head) for number in range(num_heads)]


def _orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Return a random (rows, columns) matrix with orthonormal columns."""
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator))[0]
