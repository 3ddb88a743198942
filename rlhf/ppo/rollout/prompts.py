"""Which prompts an update asks, a pure function of (seed, update): nothing to save for a resume.

Episodes run through the training prompts epoch by epoch, each epoch in an order of its own that
belongs to (seed, epoch); update u takes the u-th part of that endless row. What dynamic sampling
draws beside it is taken from an order that belongs to (seed, update), so that the row, and with it
the first draw of every update, is that of a run without.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from plumbrule.data.records import Prompt, read_records
from plumbrule.errors import DataError
from plumbrule.lm.config import RetrievalConfig
from plumbrule.lm.loading import Policy, fits
from plumbrule.lm.parallel import distributed
from plumbrule.lm.randomness import generator
from plumbrule.lm.retrieval_prompts import shown_prompts
from plumbrule.protocols import Retriever
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import VALIDATION
from rlhf.ppo.rollout.trajectory import Query, sampling_keys


def read_prompts(
    path: Path, policy: Policy, response_tokens: int
) -> tuple[list[Prompt], list[int]]:
    """Return the prompts in `path` that fit the context with a response; tokens of each in `path`.

    Args: response_tokens: of the longest response.
    Raises: DataError: none does, or the chat template refuses one.
    """
    every = read_records(Prompt, path)
    policy.check_chats(every)
    lengths = [len(policy.encode(prompt.messages)) for prompt in every]
    kept = prompts_that_fit(policy, every, response_tokens)
    if not kept:
        raise DataError(
            f"prompts (={len(every)} rows) must hold one that fits the context (="
            f"{policy.spec.context} tokens) with a response of {response_tokens} tokens.",
            path,
        )
    return kept, lengths


def read_held_out(inputs: Mapping[str, Artifact]) -> list[Prompt]:
    """Return the held-out prompts, of which the first are shown with answers."""
    return read_records(Prompt, inputs["prompts"].file(VALIDATION))


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


def further_prompts(
    num_prompts: int, update: int, asked: Sequence[int], number: int, *, seed: int = 0
) -> list[int]:
    """Return `number` prompt numbers that `update` asks after those that it has `asked`.

    They are the next of an order that belongs to (seed, update) and were not asked yet. Once all
    were, the order is gone through again.

    Args: asked: one number for each group, of all earlier draws of the update.
    """
    order = generator("ppo further prompts", seed, update).permutation(num_prompts).tolist()
    times = Counter(asked)
    found: list[int] = []
    while len(found) < number:
        least = min(times[one] for one in order)
        fresh = [one for one in order if times[one] == least][: number - len(found)]
        found += fresh
        times.update(fresh)
    return found


def ask(
    policy: Policy,
    prompts: Sequence[Prompt],
    update: int,
    draw: int = 1,
    *,
    retriever: Retriever | None,
    retrieval: RetrievalConfig,
    seed: int,
    max_new_tokens: int,
) -> list[Query]:
    """Return this process's share of a rollout's queries: passages chosen, tokens, sampling keys.

    Args: prompts: of the whole draw, since a prompt's keys count its earlier rows. draw: from 1, of
    those of the update. max_new_tokens: of a response, which must fit behind the query.
    """
    keys = sampling_keys([p.id for p in prompts], seed, update, draw)
    mine = distributed.rank_indices(len(prompts))
    own = [prompts[i] for i in mine]
    shown = shown_prompts(
        own,
        policy,
        retriever,
        retrieval,
        seed=seed,
        max_new_tokens=max_new_tokens,
        update=update,
    )
    return [
        Query(prompt.id, given.passages, given.tokens, keys[i])
        for i, prompt, given in zip(mine, own, shown, strict=True)
    ]
