"""The batch of an update: responses and what the reward gives them, before any model reads them.

`draw_batch` samples and scores it with the policy's weights of the moment, once or, with dynamic
sampling, until it is full. Everything in it follows from (seed, update), the weights and the
settings, so it does not matter when it is asked for, nor by how many processes.

With `ppo.staleness` a batch is drawn one update before it is trained on. A checkpoint that lies
between the two holds it (`save_batch`): the weights that sampled it are gone by then, and it is far
smaller than they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from plumbrule.data.records import Prompt
from plumbrule.lm.generation.search_turns import Searcher
from plumbrule.lm.loading import Policy
from plumbrule.lm.search_calls.recorded import from_json
from plumbrule.protocols import Scorer
from plumbrule.timing import Stopwatch
from rlhf.ppo.objective import scores_of
from rlhf.ppo.rollout.dynamic_sampling import Draws, fill_rollout, groups_that_vary
from rlhf.ppo.rollout.evaluation import compute_precision
from rlhf.ppo.rollout.prompts import further_prompts
from rlhf.ppo.rollout.score import score_terms
from rlhf.ppo.rollout.trajectory import Answer, Query, Sampler, Trajectory, answers, assemble
from rlhf.ppo.update_settings import DrawSettings

TENSORS, TEXTS = "next_batch.safetensors", "next_batch.json"
"""Files of a checkpoint."""
_TENSOR_FIELDS = ("action_mask", "step_mask", "finished", "rollout_logprobs")
_LIST_FIELDS = ("prompt_ids", "passages", "queries", "responses", "texts")
"""Of a trajectory; `frozen_states` are computed when the batch is trained on."""
_TERM = "term:"
"""In front of a reward term's name in `TENSORS`."""


class Batch(NamedTuple):
    """Responses of one update, and what the reward gives them."""

    trajectory: Trajectory
    terms: dict[str, Tensor]
    """Reward term, or part of one, -> (b,) float64."""
    draws: Draws | None = None
    """None: without dynamic sampling."""

    @property
    def num_tokens(self) -> tuple[int, int]:
        """Tokens of all queries, one for each response, and of all responses."""
        trajectory = self.trajectory
        return sum(map(len, trajectory.queries)), int(trajectory.action_mask.sum())


def draw_batch(
    policy: Policy,
    prompts: Sequence[Prompt],
    update: int,
    *,
    rows_of: Callable[[int], list[int]],
    queries_of: Callable[[Sequence[Prompt], int, int], list[Query]],
    scorers: Mapping[str, Scorer],
    sampler: Sampler,
    settings: DrawSettings,
    watch: Stopwatch,
    searcher: Searcher | None = None,
) -> Batch:
    """Return the batch that `update` trains on, the same in every process.

    Args: rows_of: update -> prompt numbers of its first draw (`batch_of`). queries_of: prompts,
    update, draw -> this process's queries (`ask`). watch: gets the parts generate and score.
    searcher: None: the policy may not search.
    """
    size, first = settings.samples_per_prompt, rows_of(update)
    needed = len(first) // size
    groups = first[::size]
    varied: list[bool] = []
    rows: list[Answer] = []
    parts: list[dict[str, Tensor]] = []
    for draw in range(1, settings.max_draws + 1):
        if draw > 1:
            missing = needed - sum(varied)
            groups += further_prompts(len(prompts), update, groups, missing, seed=settings.seed)
        asked = [prompts[n] for n in groups[len(varied) :] for _ in range(size)]
        with watch("generate"), compute_precision(settings.precision, policy.model.device):
            queries = queries_of(asked, update, draw)
            drawn = answers(policy, queries, settings.sampling, len(asked), sampler, searcher)
            trajectory = assemble(drawn, policy.model.device, settings.score_at)
        with watch("score"):
            terms = score_terms(scorers, trajectory, asked)
        if settings.max_draws == 1:
            return Batch(trajectory, terms)
        rows += drawn
        parts.append(terms)
        varied += groups_that_vary(scores_of(trajectory, terms, settings.shaping).final, size)
        if sum(varied) >= needed:
            break
    chosen = [g * size + i for g in fill_rollout(varied, needed) for i in range(size)]
    left_out = [rows[i] for i in sorted(set(range(len(rows))) - set(chosen))]
    return Batch(
        assemble([rows[i] for i in chosen], policy.model.device, settings.score_at),
        {name: torch.cat([terms[name] for terms in parts])[chosen] for name in parts[0]},
        Draws(
            draws=len(parts),
            groups=len(varied),
            with_variance=sum(varied),
            group_size=size,
            prompt_tokens_left_out=sum(len(row.query.tokens) for row in left_out),
            response_tokens_left_out=sum(num_sampled(row) for row in left_out),
        ),
    )


def num_sampled(row: Answer) -> int:
    """Return the tokens of a response that the policy sampled."""
    return len(row.sample.tokens) if row.action_mask is None else sum(row.action_mask)


def save_batch(batch: Batch, folder: Path) -> None:
    """Write a batch into a checkpoint's folder."""
    trajectory = batch.trajectory
    tensors = {name: getattr(trajectory, name) for name in _TENSOR_FIELDS}
    tensors |= {_TERM + name: values for name, values in batch.terms.items()}
    save_file({name: x.contiguous().cpu() for name, x in tensors.items()}, folder / TENSORS)
    texts = {name: list(getattr(trajectory, name)) for name in _LIST_FIELDS}
    about: dict[str, Any] = {**texts, "draws": batch.draws and batch.draws._asdict()}
    if trajectory.searching is not None:
        about["searching"] = trajectory.searching
    (folder / TEXTS).write_text(json.dumps(about), encoding="utf-8")


def load_batch(folder: Path, device: torch.device) -> Batch | None:
    """Return the batch that `save_batch` wrote, on `device`; None: there is none."""
    if not (folder / TEXTS).is_file():
        return None
    about = json.loads((folder / TEXTS).read_text(encoding="utf-8"))
    draws, searching = about["draws"], about.get("searching")
    tensors = load_file(folder / TENSORS, device=str(device))
    terms = {
        name.removeprefix(_TERM): values
        for name, values in tensors.items()
        if name.startswith(_TERM)
    }
    trajectory = Trajectory(
        prompt_ids=about["prompt_ids"],
        passages=[tuple(some) for some in about["passages"]],
        queries=about["queries"],
        responses=about["responses"],
        texts=about["texts"],
        action_mask=tensors["action_mask"],
        step_mask=tensors["step_mask"],
        finished=tensors["finished"],
        rollout_logprobs=tensors["rollout_logprobs"],
        searching=None if searching is None else [from_json(row) for row in searching],
    )
    return Batch(trajectory, terms, draws and Draws(**draws))
