"""Forward passes in which the real tokens of all rows are one long row.

Rows of a batch differ in length, and a padded batch runs every layer over its padding too; of a PPO
rollout that is half of all work. Here only attention (`attention.py`) takes the rows apart.

Rows that begin alike (the answers to one prompt) can share what they have in common: `shared` says
how many tokens of a row are those of the first of its run, and these are computed once. The rows
of a run then form one row whose attention mask lets each continuation see the common beginning and
itself.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from plumbrule.lm.unpadded.attention import Layout, make_layout
from plumbrule.lm.unpadded.shapes import num_added
from plumbrule.lm.unpadded.wanted_tokens import reading_at


def hidden_states(
    trunk: nn.Module,
    tokens: Tensor,
    real_mask: Tensor,
    frozen_states: Tensor | None = None,
    shared: Tensor | None = None,
    wanted: Tensor | None = None,
) -> Tensor:
    """Return the last hidden states (b, l, h) of a trunk; 0 at slots that are not real.

    Args: tokens: (b, l) int64. real_mask: (b, l) bool, one unbroken run per row; empty rows are 0.
        frozen_states: (n, h), read in place of embeddings, one for each of the n real tokens, row
        by row.
        shared: (b,) int64, how many of its first real tokens a row has in common with the last row
        before it that shares none; those are computed once. None: no row shares any.
        wanted: (b, l) bool, True = it is read; others hold anything. None: all real ones are.
    """
    if shared is not None and frozen_states is None and bool(shared.any()):
        return _hidden_of_runs(trunk, tokens, real_mask, shared, wanted)
    lengths = real_mask.sum(1)
    order = lengths.argsort(descending=True, stable=True)
    row, column = real_mask[order].nonzero(as_tuple=True)
    row = order[row]
    position = column - real_mask.to(torch.uint8).argmax(1)[row]
    layout = make_layout([n for n in lengths[order].tolist() if n], tokens.device)
    with reading_at(trunk, None if wanted is None else wanted[row, column]):
        if frozen_states is None:
            hidden = run(trunk, layout, position, input_ids=tokens[row, column])
        else:
            number = real_mask.flatten().long().cumsum(0).view(real_mask.shape) - 1
            hidden = run(trunk, layout, position, inputs_embeds=frozen_states[number[row, column]])
    padded = hidden.new_zeros(*tokens.shape, hidden.shape[-1])
    return padded.index_put((row, column), hidden)


def _hidden_of_runs(
    trunk: nn.Module,
    tokens: Tensor,
    real_mask: Tensor,
    shared: Tensor,
    wanted: Tensor | None,
) -> Tensor:
    """Return what `hidden_states` does, computing what the rows of a run share once.

    1 the runs, the one with most tokens first; 2 the tokens that are computed; 3 one mask per run;
    4 where each row finds its states; 5 the states.
    """
    device = tokens.device
    position = real_mask.long().cumsum(1) - 1
    own = real_mask & (position >= shared[:, None])
    # 1
    run_of = (shared == 0).long().cumsum(0) - 1
    sizes = torch.zeros_like(run_of).index_add(0, run_of, own.sum(1))[: int(run_of[-1]) + 1]
    rank = sizes.argsort(descending=True, stable=True).argsort()
    order = rank[run_of].argsort(stable=True)
    # 2
    row, column = own[order].nonzero(as_tuple=True)
    row = order[row]
    # 3
    lengths = [n for n in sizes.sort(descending=True).values.tolist() if n]
    masks = [
        _run_mask(r, position[r, c], shared)
        for r, c in zip(row.split(lengths), column.split(lengths), strict=True)
    ]
    layout = make_layout(lengths, device, masks)
    # 4
    place = torch.full_like(tokens, len(row)).index_put(
        (row, column), torch.arange(len(row), device=device)
    )
    begins = real_mask.to(torch.uint8).argmax(1)
    first = (shared == 0).nonzero()[:, 0][run_of]
    others = real_mask & ~own
    r, c = others.nonzero(as_tuple=True)
    place[others] = place[first[r], begins[first[r]] + position[r, c]]
    # 5
    read = None
    if wanted is not None:
        read = torch.zeros_like(row, dtype=torch.bool).index_fill(0, place[wanted], True)
    with reading_at(trunk, read):
        hidden = run(trunk, layout, position[row, column], input_ids=tokens[row, column])
    return torch.cat([hidden, hidden.new_zeros(1, hidden.shape[-1])])[place]


def _run_mask(row: Tensor, position: Tensor, shared: Tensor) -> Tensor | None:
    """Return which of a run's n tokens see which, (n, n) bool; None for a run of one row.

    A token sees the earlier ones of its own row, and of the run's first row those that are shared.

    Args: row, position: (n,) int64, of each token, the first row's tokens first.
    """
    if bool((row == row[0]).all()):
        return None
    earlier = torch.ones(len(row), len(row), dtype=torch.bool, device=row.device).tril()
    common = (row == row[0]) & (position < shared[row][:, None])
    return ((row == row[:, None]) & earlier) | common


def run(trunk: nn.Module, layout: Layout, position: Tensor, **inputs: Tensor) -> Tensor:
    """Return the last hidden states (n, h) of n tokens, each seeing the earlier ones of its row.

    A few tokens of no row are put behind them, so that there are not as many shapes as batches.

    Args: position: (n,) int64, from 0 in each row. inputs: input_ids (n,) or inputs_embeds (n, h).
    """
    number = len(position)
    extra = num_added(number)
    # A mask of four dimensions is handed through as it is; with a layout nobody reads it.
    unread = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=position.device)
    return trunk(
        attention_mask=unread,
        position_ids=_lengthen(position, extra),
        use_cache=False,
        layout=layout,
        **{name: _lengthen(given, extra) for name, given in inputs.items()},
    ).last_hidden_state[0, :number]


def _lengthen(rows: Tensor, extra: int) -> Tensor:
    """Return (n, ...) as (1, n + extra, ...), with zeros behind."""
    return torch.cat([rows, rows.new_zeros(extra, *rows.shape[1:])])[None]
