"""How much memory and time an update will take, said before the first one.

Measured rather than computed: one micro-batch of the size that the run will use goes forward and
backward, and a few tokens are sampled. That knows the device, the precision and what is shared,
which a formula over layers does not. Responses are taken as long as they may be, so both numbers
are upper ends. It changes nothing: no gradient is left, no random number drawn, no weight moved.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from plumbrule.config import RuntimeConfig
from plumbrule.generation import generate
from plumbrule.models import Policy
from plumbrule.scoring import hidden_states, logprobs, pad_rows
from rlhf.forward import compute_precision
from rlhf.ppo_config import PPOConfig
from rlhf.ppo_step import Learner, trainable
from rlhf.sharing import Actors

PROBE_TOKENS = 4
"""Sampled per response to time a token."""
OPTIMIZER_COPIES = 3
"""Numbers kept per trained weight beside it: its gradient and Adam's two moments."""


class Estimate(NamedTuple):
    """Of one update."""

    memory_bytes: int
    """Weights, gradients, optimizer and what a backward pass keeps; reward models aside."""
    seconds: float
    """Sampling, reading and training, without the reward."""

    def __str__(self) -> str:
        gib = self.memory_bytes / 2**30
        return f"about {self.seconds:.2g} s and {gib:.2g} GiB an update, reward aside"


def estimate(
    actors: Actors,
    learner: Learner,
    queries: Sequence[Sequence[int]],
    config: PPOConfig,
    runtime: RuntimeConfig,
) -> Estimate:
    """Return what an update on these queries (of this process, token ids) takes at most."""
    limit = config.sampling.max_new_tokens
    longest = sorted(queries, key=lambda query: -len(query))
    some = longest[:: -(-len(longest) // runtime.micro_batch_size)]
    rows = [[*query, *[query[0]] * limit] for query in some]
    num_tokens = sum(map(len, queries)) + limit * len(queries)

    kept, read_seconds, learn_seconds = _read_and_learn(actors, learner, rows, config)
    sample_seconds = _sample(actors.policy, some, config) * limit * len(queries) / len(rows)
    per_token = 1 / sum(map(len, rows))
    passes = 3 if learner.value_model is not None else 2  # of policy, reference and values
    seconds = sample_seconds + num_tokens * per_token * (
        passes * read_seconds + config.num_ppo_epochs * learn_seconds
    )
    return Estimate(_weights(actors, learner) + kept, seconds)


def _read_and_learn(
    actors: Actors, learner: Learner, rows: Sequence[Sequence[int]], config: PPOConfig
) -> tuple[int, float, float]:
    """Return what a backward pass keeps (bytes), seconds of a forward pass, and of a training one.

    The last counts the value model's training pass too; of what the two keep, the larger.
    """
    device = actors.policy.model.device
    tokens, real_mask = (x.to(device) for x in pad_rows(rows, actors.policy.pad_id))
    target_mask = real_mask.clone()
    target_mask[:, 0] = False
    stem = None
    if actors.stem is not None:
        stem = torch.cat(actors.stem.read(rows, len(rows)))
    policy, value_model = learner.reader.model, learner.value_model

    def scores() -> Tensor:
        hidden = hidden_states(policy, tokens, real_mask, stem) if stem is not None else None
        return logprobs(policy, tokens, real_mask, target_mask, hidden=hidden).logprobs.sum()

    with compute_precision(config.precision, device):
        with torch.no_grad():
            scores()  # warms up
            read = _seconds(scores)
        kept = [_kept(scores, policy)]
        learn = _seconds(lambda: scores().backward())
        if value_model is not None and value_model.trunk is not None:

            def values() -> Tensor:
                return value_model(tokens, real_mask, stem).sum()

            kept.append(_kept(values, value_model))
            learn += _seconds(lambda: values().backward())
    for model in learner.models.values():
        model.zero_grad(set_to_none=True)
    return max(kept), read, learn


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def _kept(work: Callable[[], Tensor], model: nn.Module) -> int:
    """Return the bytes that autograd keeps for the backward pass of `work`, weights aside."""
    weights = {p.data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        result = work()
    total = sum(found.values())
    del result
    return total


def _sample(policy: Policy, queries: Sequence[Sequence[int]], config: PPOConfig) -> float:
    """Return the seconds of one token of each response."""
    few = dataclasses.replace(
        config.sampling, max_new_tokens=min(PROBE_TOKENS, config.sampling.max_new_tokens)
    )
    keys = list(range(len(queries)))
    with compute_precision(config.precision, policy.model.device):
        generate(policy, queries[:1], sampling=few, keys=keys[:1])
        took = _seconds(lambda: generate(policy, queries, sampling=few, keys=keys))
    return took / few.max_new_tokens


def _weights(actors: Actors, learner: Learner) -> int:
    """Return bytes of all weights, each once, and of gradients and moments of the trained ones."""
    models = [actors.policy.model, actors.reference.policy.model, *learner.models.values()]
    every = {id(p): p for model in models for p in model.parameters()}
    trained = {id(p): p for model in learner.models.values() for p in trainable(model)}
    held = sum(p.numel() * p.element_size() for p in every.values())
    return held + OPTIMIZER_COPIES * sum(p.numel() * p.element_size() for p in trained.values())


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that are free on the device; None: not known."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None
