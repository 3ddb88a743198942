"""The answers that a feedback artifact holds, as methods that choose among them read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from plumbrule.data.json_lines import read_rows
from plumbrule.data.records import DemonstratedSearch, Message, Prompt, to_searches
from plumbrule.errors import DataError, TrainingError
from plumbrule.lm.search_calls.recorded import from_json
from plumbrule.protocols import Episode, Scorer, Searching, Tracker
from rlhf.rewards.config import RewardConfig
from rlhf.rewards.terms import score_distinct
from rlhf.rewards.transforms import reward_of

CHUNK_PROMPTS = 64
"""Prompts whose answers are scored between two steps of the progress line."""


class AnsweredPrompt(NamedTuple):
    """A prompt, what was shown with it, and K answers to it, in the order of their sampling."""

    prompt: Prompt
    passages: tuple[str, ...]
    responses: tuple[str, ...]
    finished: tuple[bool, ...]
    utilities: tuple[float, ...] | None
    """Gold, without noise, where they are known."""
    searching: tuple[Searching | None, ...] | None = None
    """Of each answer; None: the policy may not search."""
    searches: tuple[tuple[DemonstratedSearch, ...] | None, ...] | None = None
    """Of each answer: its turns with a call as a demonstration holds them; None where a call did
    not work."""

    def episodes(self) -> list[Episode]:
        """Return the answers as a reward judges them."""
        each = self.searching or (None,) * len(self.responses)
        return [
            Episode(
                self.prompt,
                (*self.passages, *(() if searching is None else searching.passages)),
                response,
                finished,
                searching,
            )
            for response, finished, searching in zip(
                self.responses, self.finished, each, strict=True
            )
        ]


def read_answers(path: Path, split: str) -> list[AnsweredPrompt]:
    """Return the prompts of one split of a feedback artifact's samples.jsonl.

    Raises: DataError: the split has none.
    """
    rows: dict[str, list[Mapping]] = {}
    for _, row in read_rows(path):
        if row["split"] == split:
            rows.setdefault(row["id"], []).append(row)
    found = []
    for id, own in rows.items():
        own.sort(key=lambda row: row["sample"])
        first, utilities = own[0], [row["utility"] for row in own]
        found.append(
            AnsweredPrompt(
                Prompt(id, tuple(Message(**m) for m in first["messages"]), first["meta"]),
                tuple(first["passages"]),
                tuple(row["response"] for row in own),
                tuple(bool(row["finished"]) for row in own),
                None if None in utilities else tuple(float(u) for u in utilities),
                *_searched(own),
            )
        )
    if not found:
        raise DataError(f"samples must hold answers of the split {split}; sample some.", path)
    return found


def _searched(rows: Sequence[Mapping]) -> tuple[Any, Any]:
    """Return `searching` and `searches` of one prompt's rows."""
    if "searching" not in rows[0]:
        return None, None
    demonstrated = (row["searches"] for row in rows)
    return (
        tuple(from_json(row["searching"]) for row in rows),
        tuple(None if turns is None else to_searches(turns) for turns in demonstrated),
    )


def score_answers(
    prompts: Sequence[AnsweredPrompt],
    scorers: Mapping[str, Scorer],
    reward: RewardConfig,
    tracker: Tracker,
) -> list[np.ndarray]:
    """Return the reward (K,) of each prompt's answers, its terms prepared over all of them.

    Raises: TrainingError: a term raises, or gives NaN or Inf.
    """
    terms: dict[str, list[np.ndarray]] = {name: [] for name in scorers}
    with tracker.progress(sum(len(p.responses) for p in prompts), "reward", "answers") as line:
        for start in range(0, len(prompts), CHUNK_PROMPTS):
            episodes = [e for p in prompts[start : start + CHUNK_PROMPTS] for e in p.episodes()]
            for name, scorer in scorers.items():
                terms[name].append(score_distinct(name, scorer, episodes)["score"])
            line.advance(len(episodes))
    whole = {name: torch.from_numpy(np.concatenate(parts)) for name, parts in terms.items()}
    for name, values in whole.items():
        bad = int((~torch.isfinite(values)).sum())
        if bad:
            raise TrainingError(f"reward term {name} must be finite; {bad} answers are NaN or Inf.")
    total = reward_of(whole, reward).numpy()
    ends = np.cumsum([len(p.responses) for p in prompts])
    return np.split(total, ends[:-1])
