"""The terms of a reward over a rollout's responses, each process a share of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from plumbrule.data.records import Prompt
from plumbrule.lm.parallel import distributed
from plumbrule.protocols import Episode, Scorer, Searching
from rlhf.ppo.rollout.trajectory import Trajectory
from rlhf.rewards.terms import score_distinct


def score_terms(
    scorers: Mapping[str, Scorer], trajectory: Trajectory, prompts: Sequence[Prompt]
) -> dict[str, Tensor]:
    """Return what each term, and each part of one, gives every response: (b,) float64.

    The same in every process; each one scores its share of the rows.
    Args: prompts: of the trajectory's rows, in order.
    Raises: TrainingError: a term raises, or does not give one number per response.
    """
    finished = trajectory.finished.tolist()
    mine = list(distributed.rank_indices(len(trajectory)))
    searching: Sequence[Searching | None] = trajectory.searching or [None] * len(trajectory)
    episodes = [
        Episode(prompts[i], trajectory.passages[i], trajectory.texts[i], finished[i], searching[i])
        for i in mine or [0]  # without a row of its own a process still must name the parts
    ]
    terms: dict[str, Tensor] = {}
    for name, scorer in scorers.items():
        for part, values in score_distinct(name, scorer, episodes).items():
            full = trajectory.finished.new_zeros(len(trajectory), dtype=torch.float64)
            full[mine] = torch.from_numpy(values[: len(mine)]).to(full.device)
            terms[name if part == "score" else f"{name}/{part}"] = full
    distributed.all_reduce_sum_(list(terms.values()))  # rows of other processes are 0 here
    return terms
