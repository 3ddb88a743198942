"""Which rollouts a page holds where there are more than it can: whole prompts, all their updates.

A prompt that is taken is taken with every response to it, so its way over the updates stays whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from plumbrule.errors import ConfigError

PICKS = ("random", "gap")
"""Orders in which prompts are taken: by a hash of their ids, by the largest gap of a response."""


class Choice(NamedTuple):
    """Rows that a page holds, (k,) in order; and the sentence that says so, "" where it is all."""

    rows: np.ndarray
    note: str


def choose(
    prompt_ids: Sequence[str], limit: int, pick: str = "random", gaps: np.ndarray | None = None
) -> Choice:
    """Return at most `limit` of n rows: all responses to as many prompts as fit.

    Where not even the first prompt fits, its first responses are taken.
    Args: gaps: (n,) of pick=gap.
    Raises: ConfigError: pick=gap, and there is no gap to pick by.
    """
    total = len(prompt_ids)
    if pick == "gap" and gaps is None:
        raise ConfigError(
            "--pick (=gap) must be random where the gold utility is not known; leave it out."
        )
    if total <= limit:
        return Choice(np.arange(total), "")
    rows: dict[str, list[int]] = {}
    for row, prompt in enumerate(prompt_ids):
        rows.setdefault(prompt, []).append(row)
    if pick == "gap" and gaps is not None:
        known = np.where(np.isfinite(gaps), gaps, -np.inf)
        order = sorted(rows, key=lambda prompt: -float(known[rows[prompt]].max()))
    else:
        order = sorted(rows, key=lambda prompt: hashlib.sha256(prompt.encode()).digest())
    taken: list[int] = []
    prompts = 0
    for prompt in order:
        if len(taken) + len(rows[prompt]) > limit:
            break
        taken += rows[prompt]
        prompts += 1
    how = "by the largest gap of a response" if pick == "gap" else "by a hash of their ids"
    if not taken:
        taken = rows[order[0]][:limit]
        what = f"the first of the responses to one prompt of {len(rows):,}"
    else:
        what = f"all responses to {prompts:,} of {len(rows):,} prompts, taken {how}"
    return Choice(
        np.array(sorted(taken)),
        f"This page holds {len(taken):,} of {total:,} rollouts: {what}. The curves are of all. "
        "plumbrule rollouts takes --limit, --update and --pick for others.",
    )
