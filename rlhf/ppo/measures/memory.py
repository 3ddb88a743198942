"""How much memory and time an update will take, said before the first one.

Measured rather than computed: the longest few rows of the first rollout go forward and backward,
and a few tokens are sampled. That knows the device, the precision and what is shared, which a
formula over layers does not. Responses are taken as long as they may be. It changes nothing: no
gradient is left, no random number drawn, no weight moved. Where it runs out of memory it says so,
and the run goes on, since the responses may be shorter.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from plumbrule.lm.config import SamplingConfig
from plumbrule.lm.generation import generate
from plumbrule.lm.generation.continuous_batching import CHECK_EVERY
from plumbrule.lm.loading import Policy
from plumbrule.lm.logprobs import hidden_states, logprobs, pad_rows
from rlhf.ppo.optimisation.learner import Learner, trainable
from rlhf.ppo.rollout.evaluation import compute_precision
from rlhf.ppo.shared_trunk import Actors

PROBE_ROWS = 4
"""That go forward and backward, and that warm the sampler up; what a batch without padding keeps \
grows with its tokens."""
PROBE_TOKENS = 1 + CHECK_EVERY, 1 + 3 * CHECK_EVERY
"""Sampled per response, to time a token: whole rounds of the slots' steps, which \
go on after all rows have ended."""
FLOAT_BYTES = 4
OPTIMIZER_COPIES = 3
"""Numbers kept per trained weight beside it: its gradient and Adam's two moments."""


class Estimate(NamedTuple):
    """Of one update."""

    memory_bytes: int
    """Weights, gradients, optimizer, and the larger of what sampling and a backward pass keep; \
reward models aside."""
    held_bytes: int
    """Of those, what is there already: the weights."""
    seconds: float
    """Sampling, reading and training, without the reward; responses as long as they may be."""
    fits: bool = True
    """False: the accelerator ran out of memory over the few rows of the probe."""

    def __str__(self) -> str:
        gib = self.memory_bytes / 2**30
        if not self.fits:
            return f"{PROBE_ROWS} rows do not fit beside {gib:.2g} GiB of weights and optimizer"
        seconds = f"{self.seconds:.0f}" if self.seconds >= 10 else f"{self.seconds:.2g}"
        return f"at most about {seconds} s and {gib:.2g} GiB an update, reward aside"


class Probe(NamedTuple):
    """What was measured."""

    kept_bytes: float
    """Per token: what a backward pass keeps, of the policy or of the value model, the larger."""
    read_seconds: float
    """Per token: a forward pass of the policy."""
    learn_seconds: float
    """Per token: the training passes of policy and value model."""
    sample_seconds: float
    """A batch of the sampler, responses as long as they may be."""


def estimate_memory(
    actors: Actors,
    learner: Learner,
    queries: Sequence[Sequence[int]],
    sampling: SamplingConfig,
    *,
    micro_batch_size: int,
    num_ppo_epochs: int = 1,
    precision: str = "float32",
    averaged: bool = False,
    teacher: Policy | None = None,
) -> Estimate:
    """Return what an update on these queries (of this process, token ids) takes.

    Memory is that of the longest rows, time that of as many tokens as there are, with responses as
    long as they may be.

    Args: averaged: whether an average of the policy's weights is kept. teacher: of a distillation,
    whose weights count and whose time does not.
    """
    held, weights = _weights(actors, learner, averaged, teacher)
    if not queries:
        return Estimate(weights, held, 0.0)
    limit = sampling.max_new_tokens
    longest = sorted(queries, key=lambda query: -len(query))
    try:
        probe = _measure(actors, learner, longest, sampling, precision)
    except torch.cuda.OutOfMemoryError:
        for model in learner.models.values():
            model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        return Estimate(weights, held, 0.0, fits=False)

    num_tokens = sum(map(len, queries)) + limit * len(queries)
    passes = 3 if learner.value_model is not None else 2  # of policy, reference and values
    per_token = passes * probe.read_seconds + num_ppo_epochs * probe.learn_seconds
    batches = -(-len(queries) // sampling.batch_size)
    seconds = batches * probe.sample_seconds + num_tokens * per_token

    largest = longest[:micro_batch_size]
    kept = probe.kept_bytes * (sum(map(len, largest)) + limit * len(largest))
    sampled = min(len(queries), sampling.batch_size) * (len(longest[0]) + limit)
    cache = sampled * _cache_bytes(actors.policy)
    return Estimate(
        round(weights + _frozen_states_bytes(actors, num_tokens) + max(kept, cache)), held, seconds
    )


def _measure(
    actors: Actors,
    learner: Learner,
    queries: Sequence[Sequence[int]],
    sampling: SamplingConfig,
    precision: str,
) -> Probe:
    """Run a few rows through all that is trained, sample a few tokens; longest queries first."""
    device = actors.policy.model.device
    limit = sampling.max_new_tokens
    rows = [[*query, *[query[0]] * limit] for query in queries[:PROBE_ROWS]]
    tokens, real_mask = (x.to(device) for x in pad_rows(rows, actors.policy.pad_id))
    target_mask = real_mask.clone()
    target_mask[:, 0] = False
    policy, value_model = learner.reader.model, learner.value_model
    frozen_states: Tensor | None = None

    def scores() -> Tensor:
        hidden = (
            None
            if frozen_states is None
            else hidden_states(policy, tokens, real_mask, frozen_states)
        )
        return logprobs(policy, tokens, real_mask, target_mask, hidden=hidden).logprobs.sum()

    with compute_precision(precision, device):
        if actors.frozen_layers is not None:
            frozen_states = torch.cat(actors.frozen_layers.read(rows, len(rows)))
        with torch.no_grad():
            scores()  # warms up
            read = _seconds(scores)
        kept = [_kept(scores, policy)]
        learn = _seconds(lambda: scores().backward())
        if value_model is not None and value_model.trunk is not None:

            def values() -> Tensor:
                assert value_model is not None  # checked above
                return value_model(tokens, real_mask, frozen_states).sum()

            kept.append(_kept(values, value_model))
            learn += _seconds(lambda: values().backward())
        for model in learner.models.values():
            model.zero_grad(set_to_none=True)
        sample = _sample(actors.policy, queries[: sampling.batch_size], sampling)
    number = sum(map(len, rows))
    return Probe(max(kept) / number, read / number, learn / number, sample)


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def _kept(work: Callable[[], Tensor], model: nn.Module) -> int:
    """Return the bytes that autograd keeps for the backward pass of `work`, weights aside."""
    weights = {p.data_ptr() for p in model.parameters()}
    found: dict[int, torch.UntypedStorage] = {}

    def count(tensor: Tensor) -> None:  # a node that kept its own result would never be freed
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage  # held, or its address would be given out again

    with torch.autograd.graph.saved_tensors_hooks(count, lambda nothing: nothing):
        work()
    return sum(storage.nbytes() for storage in found.values())


def _sample(policy: Policy, queries: Sequence[Sequence[int]], sampling: SamplingConfig) -> float:
    """Return the seconds of a batch of the sampler, responses as long as they may be.

    Two lengths tell what a token takes from what prompts and preparations do.
    """
    limit = sampling.max_new_tokens
    keys = list(range(len(queries)))

    def sample(num_tokens: int, num_rows: int | None = None) -> float:
        few, rows = dataclasses.replace(sampling, max_new_tokens=num_tokens), queries[:num_rows]
        return _seconds(lambda: generate(policy, rows, sampling=few, keys=keys[: len(rows)]))

    short, long = (min(number, limit) for number in PROBE_TOKENS)
    sample(short, PROBE_ROWS)  # warms up
    # The longer one first: what the first whole batch pays once must not shorten a token's time.
    longer, took = sample(long), sample(short)
    per_token = max(0.0, longer - took) / max(1, long - short)
    return longer + per_token * (limit - long)


def _weights(
    actors: Actors, learner: Learner, averaged: bool, teacher: Policy | None
) -> tuple[int, int]:
    """Return the bytes of all weights, each once, and of these with what training keeps beside.

    That is gradients, moments, and the average if one is kept.
    """
    models = [actors.policy.model, actors.reference.policy.model, *learner.models.values()]
    models += [teacher.model] if teacher is not None else []
    every = {id(p): p for model in models for p in model.parameters()}
    held = sum(p.numel() * p.element_size() for p in every.values())
    trained = {
        name: sum(p.numel() * p.element_size() for p in trainable(model))
        for name, model in learner.models.items()
    }
    average = trained["policy"] if averaged else 0
    return held, held + OPTIMIZER_COPIES * sum(trained.values()) + average


def _frozen_states_bytes(actors: Actors, num_tokens: int) -> int:
    """Return the bytes of the frozen layers' hidden states of a rollout."""
    width = int(actors.policy.model.config.get_text_config().hidden_size)
    return num_tokens * width * FLOAT_BYTES if actors.frozen_layers is not None else 0


def _cache_bytes(policy: Policy) -> int:
    """Return the bytes of one token's keys and values in the sampler's cache, at most."""
    shape = policy.model.config.get_text_config()
    heads = getattr(shape, "num_key_value_heads", None) or shape.num_attention_heads
    size = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    return int(2 * shape.num_hidden_layers * heads * size * FLOAT_BYTES)


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that are to be had on the device; None: not known."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(found[0]) if found else None


def describe_estimate(expected: Estimate, device: torch.device) -> str:
    """Return a line on what an update will take, with a way out where it is more than there is."""
    free = free_memory(device)
    if expected.fits and (free is None or expected.memory_bytes <= free + expected.held_bytes):
        return f"ppo  {expected}"
    there = (
        "" if free is None else f", and {(free + expected.held_bytes) / 2**30:.2g} GiB are there"
    )
    return (
        f"ppo  {expected}{there}: lower runtime.micro_batch_size, or set "
        "runtime.gradient_checkpointing=true, ppo.adapter.rank or ppo.unfrozen_layers"
    )
