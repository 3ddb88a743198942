"""What a reward model reads: rows of tokens that end with a response, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from plumbrule.lm.logprobs import pad_rows


@dataclass(frozen=True)
class TokenizedAnswer:
    """What is scored: a prompt, a response and the terminal token if due, as token ids."""

    tokens: tuple[int, ...]
    begin: int
    """Where the response begins."""

    @property
    def prompt(self) -> tuple[int, ...]:
        """The tokens before the response."""
        return self.tokens[: self.begin]

    def __len__(self) -> int:
        return len(self.tokens)


class RowBatch(NamedTuple):
    """Rows as tensors: (b, l) ids, what is no padding, and what is of a response; (b,) sharing."""

    tokens: Tensor
    real_mask: Tensor
    response_mask: Tensor
    shared: Tensor
    """How many first tokens a row has in common with the last row before it that shares none: the
    length of the prompt where both answer the same one, else 0."""

    def to(self, device: str | torch.device) -> RowBatch:
        """Return the same on `device`."""
        return RowBatch(*(x.to(device) for x in self))


def collate(rows: Sequence[TokenizedAnswer], pad_id: int) -> RowBatch:
    """Return rows padded on the right; neighbours that answer one prompt share it."""
    tokens, real_mask = pad_rows([row.tokens for row in rows], pad_id)
    begins = torch.tensor([row.begin for row in rows])
    positions = torch.arange(tokens.shape[1])
    shared = torch.tensor(
        [
            row.begin if before is not None and row.prompt == before.prompt else 0
            for before, row in zip([None, *rows], rows, strict=False)
        ]
    )
    return RowBatch(tokens, real_mask, real_mask & (positions >= begins[:, None]), shared)


def by_prompt(rows: Sequence[TokenizedAnswer], most: int) -> list[list[int]]:
    """Return lists of at most `most` row indices: answers to one prompt together, longest first."""
    answers: dict[tuple[int, ...], list[int]] = {}
    for i, row in enumerate(rows):
        answers.setdefault(row.prompt, []).append(i)
    parts = [
        own[start : start + most] for own in answers.values() for start in range(0, len(own), most)
    ]
    lists: list[list[int]] = []
    for part in sorted(parts, key=lambda part: -max(len(rows[i]) for i in part)):
        if lists and len(lists[-1]) + len(part) <= most:
            lists[-1] += part
        else:
            lists.append(list(part))
    return lists


def last_real(real_mask: Tensor) -> Tensor:
    """Return the position (b,) int64 of the last True in each row of `real_mask` (b, l) bool.

    Raises: ValueError: a row holds none.
    """
    if real_mask.ndim != 2 or not bool(real_mask.any(dim=1).all()):
        raise ValueError("every row of real_mask (b, l) must hold at least one real token.")
    positions = torch.arange(real_mask.shape[1], device=real_mask.device)
    return torch.where(real_mask, positions, -1).amax(dim=1)
