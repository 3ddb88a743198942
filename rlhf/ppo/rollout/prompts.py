"""Which prompts an update asks, a pure function of (seed, update): nothing to save for a resume.

Episodes run through the training prompts epoch by epoch, each epoch in an order of its own that
belongs to (seed, epoch); update u takes the u-th part of that endless row.
"""

from __future__ import annotations

from collections.abc import Sequence

from plumbrule.data.records import Prompt
from plumbrule.lm.loading import Policy, fits
from plumbrule.lm.parallel import distributed
from plumbrule.lm.randomness import generator
from plumbrule.lm.retrieval_prompts import shown_prompts
from plumbrule.protocols import Retriever
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.rollout.trajectory import Query, sampling_keys


def prompts_that_fit(
    policy: Policy, prompts: Sequence[Prompt], max_new_tokens: int
) -> list[Prompt]:
    """Return the prompts that fit the context with a response but without passages."""
    return [p for p in prompts if fits(policy, p.messages, (), max_new_tokens)]


def batch_of(
    num_prompts: int, update: int, *, batch_size: int, samples_per_prompt: int = 1, seed: int = 0
) -> list[int]:
    """Return the prompt numbers of the rows of `update` (from 1), equal ones next to each other."""
    number_asked = batch_size // samples_per_prompt
    first = (update - 1) * number_asked
    epochs = range(first // num_prompts, (first + number_asked - 1) // num_prompts + 1)
    row = [
        int(number)
        for epoch in epochs
        for number in generator("ppo prompts", seed, epoch).permutation(num_prompts)
    ]
    begin = first - epochs.start * num_prompts
    chosen = row[begin : begin + number_asked]
    return [number for number in chosen for _ in range(samples_per_prompt)]


def ask(
    policy: Policy,
    prompts: Sequence[Prompt],
    retriever: Retriever | None,
    config: PPOConfig,
    update: int,
) -> list[Query]:
    """Return this process's share of a rollout's queries: passages chosen, tokens, sampling keys.

    Args: prompts: of the whole rollout, since a prompt's keys count its earlier rows.
    """
    keys = sampling_keys([p.id for p in prompts], config.seed, update)
    mine = distributed.rank_indices(len(prompts))
    own = [prompts[i] for i in mine]
    shown = shown_prompts(
        own,
        policy,
        retriever,
        config.retrieval,
        seed=config.seed,
        max_new_tokens=config.sampling.max_new_tokens,
    )
    return [
        Query(prompt.id, given.passages, given.tokens, keys[i])
        for i, prompt, given in zip(mine, own, shown, strict=True)
    ]
