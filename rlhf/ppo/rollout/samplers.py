"""Who answers a rollout's queries: the sampler that `ppo.sampler` names, opened for a run.

A sampler is a callable (`Sampler`); an engine beside it has to be started and ended, so each is
opened as a context. It is asked once for each draw of an update's prompts and sees the policy's
weights of then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from plumbrule.lm.generation import generate
from plumbrule.runtime_config import RuntimeConfig
from rlhf.ppo.options import SAMPLERS
from rlhf.ppo.rollout.trajectory import NamedSampler, Sampler


@contextmanager
def open_own(precision: str, runtime: RuntimeConfig) -> Iterator[NamedSampler]:
    """Yield our sampler, which shares the policy's weights and needs nothing else."""
    yield NamedSampler("own", generate)


@contextmanager
def open_sampler(
    name: str, precision: str, runtime: RuntimeConfig, given: Sampler | None = None
) -> Iterator[NamedSampler]:
    """Yield the sampler of a name, or the one that is given in its place.

    Raises: ConfigError: it can't be had on this machine.
    """
    if given is not None:
        yield NamedSampler("given", given)
        return
    with SAMPLERS[name](precision, runtime) as sampler:
        yield sampler
