"""What the policy did: one row per response, and the mask of the tokens that it chose itself.

A row is a query and a response. Over the positions of the response stand tensors (b, t), where t is
the longest response of the rollout. `action_mask` is True where the policy sampled the token. It is
written as the sampler's tokens are put down, and from then on it is data: nobody makes it
again from ids or lengths. Padding is False, and so are tokens in a response that the policy did not
sample: answers to its search calls (`plumbrule/lm/generation/search_turns.py`). All that PPO counts
or averages uses it.

`step_mask` is True where the process takes a step, and so where a value is learnt: at the action
tokens and, where the score is to come *after* the last one, at the position after the response.
Everywhere else the two are the same.

Ids stay lists, as ragged as they are; they are padded only when a few rows of like length go
through a model (`rows_for_model`). Queries and responses are joined there with all padding on the
right, where causal attention never meets it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from plumbrule.lm.config import SamplingConfig
from plumbrule.lm.generation import Sample, generate
from plumbrule.lm.generation.search_turns import Searcher
from plumbrule.lm.loading import Policy
from plumbrule.lm.logprobs import pad_rows
from plumbrule.lm.parallel import distributed
from plumbrule.lm.randomness import row_key
from plumbrule.protocols import Searching
from plumbrule.runtime_config import RuntimeConfig


@dataclass(frozen=True)
class Trajectory:
    """The responses of one rollout, b rows."""

    prompt_ids: Sequence[str]
    passages: Sequence[tuple[str, ...]]
    """That each row was shown, by its prompt and then by answers to its calls."""
    queries: Sequence[Sequence[int]]
    """Token ids of each prompt, passages included."""
    responses: Sequence[Sequence[int]]
    """Token ids of each response, terminal token included where it was sampled, and answers to
    search calls."""
    texts: Sequence[str]
    """Each response decoded, without its terminal token; its last turn where the policy may
    search."""
    action_mask: Tensor
    """(b, t) bool, True = the policy sampled this token."""
    step_mask: Tensor
    """(b, t) bool, True = a step: an action token or, with `score_at=after`, the next position."""
    finished: Tensor
    """(b,) bool, True = ended with a stop token and not at the length limit."""
    rollout_logprobs: Tensor
    """(b, t) float32, as the sampler saw them, nats."""
    frozen_states: Sequence[Tensor] | None = None
    """Hidden states of the frozen lower layers at each row's tokens, (tokens, h) each; None: \
nothing is frozen (`rlhf/ppo/shared_trunk.py`)."""
    searching: Sequence[Searching] | None = None
    """Of each row; None: the policy may not search."""

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def steps_after_end(self) -> int:
        """Positions after each response that are steps: 1 with `score_at=after`, else 0."""
        return int((self.step_mask & ~self.action_mask).any())

    @property
    def num_tokens(self) -> list[int]:
        """Tokens of each query and response together."""
        return [len(q) + len(r) for q, r in zip(self.queries, self.responses, strict=True)]


class Query(NamedTuple):
    """A prompt as the policy is asked it, and the key of its response's random numbers."""

    prompt_id: str
    passages: tuple[str, ...]
    tokens: list[int]
    key: int


class ModelRows(NamedTuple):
    """A few rows of a trajectory, padded, on a device. n rows of l tokens, t of responses."""

    tokens: Tensor
    """(n, l) int64."""
    real_mask: Tensor
    """(n, l) bool, True = a token of the row."""
    target_mask: Tensor
    """(n, l) bool, True = an action token."""
    columns: Tensor
    """(n, t) int64: the column of each response position (0 at padding); that of a step after the
    response is the one after its last token, which may lie outside the row."""
    action_mask: Tensor
    """(n, t) bool."""
    step_mask: Tensor
    """(n, t) bool."""
    frozen_states: Tensor | None = None
    """(tokens, h), hidden states of the frozen layers, the rows one behind the other; None: none \
are frozen."""


class Sampler(Protocol):
    """What answers a rollout's queries: `generation.generate`, or an engine of one's own.

    A sample's log-probs must be those of the distribution that it was drawn from, at the sampling
    temperature and with nothing truncated. Where that is not quite the policy's (other kernels,
    older weights), `ppo.importance_cap` weighs the difference.
    """

    def __call__(
        self,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        *,
        sampling: SamplingConfig,
        keys: Sequence[int],
    ) -> list[Sample]:
        """Return one sample per prompt, in order; `keys` are the seeds of their random numbers."""
        ...


class NamedSampler(NamedTuple):
    """A sampler, and what a rollout's file says of who sampled it."""

    name: str
    answer: Sampler


class OpenSampler(Protocol):
    """What a table of samplers holds under a name."""

    def __call__(
        self, precision: str, runtime: RuntimeConfig
    ) -> AbstractContextManager[NamedSampler]:
        """Return the sampler in a `with`, at whose end it is closed.

        Args: precision: float32 or bfloat16, of forward passes. runtime: device, and what an engine
            may take.
        """
        ...


def sampling_keys(prompt_ids: Sequence[str], seed: int, update: int, draw: int = 1) -> list[int]:
    """Return the key of each response's random numbers: (seed, update, draw, prompt, sample).

    The sample counts earlier rows of the same prompt in the draw; a first draw, the only one
    without dynamic sampling, is not named. Ranks and batch positions do not enter, so neither the
    number of processes nor the batch size of the sampler changes a response.
    """
    place = (seed, update) if draw == 1 else (seed, update, draw)
    seen: dict[str, int] = {}
    keys = []
    for prompt_id in prompt_ids:
        sample = seen.setdefault(prompt_id, 0)
        keys.append(row_key("ppo", *place, prompt_id, sample))
        seen[prompt_id] += 1
    return keys


class Answer(NamedTuple):
    """A response as it was sampled."""

    query: Query
    sample: Sample
    text: str
    """Decoded, without its terminal token; its last turn where the policy may search."""
    action_mask: list[bool] | None = None
    """Of each token, True = the policy sampled it, as the sampler wrote it down; None: all are."""
    searching: Searching | None = None
    """None: the policy may not search."""


def answers(
    policy: Policy,
    queries: Sequence[Query],
    sampling: SamplingConfig,
    num_rows: int,
    sampler: Sampler = generate,
    searcher: Searcher | None = None,
) -> list[Answer]:
    """Return the policy's responses to a draw's queries, the same in every process.

    Args: queries: this process's share of the draw (`distributed.rank_indices(num_rows)`).
    searcher: answers them in turns, in place of the sampler; None: the policy may not search.
    """
    if searcher is not None:
        return distributed.gather_rows(
            searched_answers(policy, queries, sampling, searcher), num_rows
        )
    samples = sampler(
        policy, [q.tokens for q in queries], sampling=sampling, keys=[q.key for q in queries]
    )
    texts = [policy.decode(sample.tokens) for sample in samples]
    mine = [Answer(*row) for row in zip(queries, samples, texts, strict=True)]
    return distributed.gather_rows(mine, num_rows)


def searched_answers(
    policy: Policy, queries: Sequence[Query], sampling: SamplingConfig, searcher: Searcher
) -> list[Answer]:
    """Return the responses in turns of a policy that may search."""
    found = searcher.answer(
        policy,
        [q.tokens for q in queries],
        sampling=sampling,
        keys=[q.key for q in queries],
        num_shown=[len(q.passages) for q in queries],
    )
    return [
        Answer(query, one.sample, policy.decode(one.last_turn), one.action_mask, one.searching)
        for query, one in zip(queries, found, strict=True)
    ]


def assemble(rows: Sequence[Answer], device: torch.device, score_at: str = "last") -> Trajectory:
    """Return the trajectory of answers.

    Args: score_at: last or after, see `step_mask`.
    """
    queries, samples, texts, masks, searching = zip(*rows, strict=True)
    extra = score_at == "after"
    acts = [
        [True] * len(s.tokens) if mask is None else mask
        for s, mask in zip(samples, masks, strict=True)
    ]
    chosen = [[*row, *[False] * extra] for row in acts]
    steps = [[*row, *[True] * extra] for row in acts]
    logprobs = [[*s.logprobs, *[0.0] * extra] for s in samples]
    calls = [() if one is None else one.calls for one in searching]
    return Trajectory(
        prompt_ids=[q.prompt_id for q in queries],
        passages=[
            (*q.passages, *(text for call in own for text in call.passages))
            for q, own in zip(queries, calls, strict=True)
        ],
        queries=[q.tokens for q in queries],
        responses=[s.tokens for s in samples],
        texts=texts,
        action_mask=padded(chosen, torch.bool).to(device),
        step_mask=padded(steps, torch.bool).to(device),
        finished=torch.tensor([s.finished for s in samples], device=device),
        rollout_logprobs=padded(logprobs, torch.float32).to(device),
        searching=None if searching[0] is None else list(searching),
    )


def padded(rows: Sequence[Sequence[float]], dtype: torch.dtype) -> Tensor:
    """Return ragged rows as one (b, t) tensor, 0 (False) behind each row's end."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=dtype)


def rows_for_model(trajectory: Trajectory, rows: Sequence[int], pad_id: int) -> ModelRows:
    """Return the named rows as padded model input on the trajectory's device.

    They are trimmed to the longest of themselves, in tokens and in response positions alike.
    """
    device = trajectory.action_mask.device
    queries = [trajectory.queries[i] for i in rows]
    responses = [trajectory.responses[i] for i in rows]
    joined = [[*q, *r] for q, r in zip(queries, responses, strict=True)]
    tokens, real_mask = (x.to(device) for x in pad_rows(joined, pad_id))
    begins = torch.tensor([len(q) for q in queries], device=device)[:, None]
    lengths = torch.tensor([len(r) for r in responses], device=device)[:, None]
    extra = trajectory.steps_after_end
    position = torch.arange(max(len(r) for r in responses) + extra, device=device)[None, :]
    columns = torch.where(position < lengths + extra, begins + position, 0)
    action_mask, step_mask = (
        mask[list(rows), : position.shape[1]]
        for mask in (trajectory.action_mask, trajectory.step_mask)
    )
    # Positions after the end write False into column 0, which is the query's and never a target.
    inside = torch.where(position < lengths, columns, 0)
    target_mask = torch.zeros_like(real_mask).scatter(1, inside, action_mask)
    frozen_states = None
    if trajectory.frozen_states is not None:
        frozen_states = torch.cat([trajectory.frozen_states[i] for i in rows])
    return ModelRows(tokens, real_mask, target_mask, columns, action_mask, step_mask, frozen_states)
