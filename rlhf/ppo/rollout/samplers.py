"""Who answers a rollout's queries: the sampler that `ppo.sampler` names, opened for a run.

A sampler is a callable (`Sampler`); an engine beside it has to be started and ended, so each is
opened as a context. It is asked once for each draw of an update's prompts and sees the policy's
weights of then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from plumbrule.errors import ConfigError
from plumbrule.inputs import Inputs
from plumbrule.lm.generation import generate
from plumbrule.lm.generation.search_turns import Searcher
from plumbrule.runtime_config import RuntimeConfig
from rlhf.ppo.config import PPOConfig
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


def open_searcher(
    config: PPOConfig, inputs: Inputs, runtime: RuntimeConfig, given: Sampler | None = None
) -> Searcher | None:
    """Return what answers queries in turns; None where the policy may not search.

    Args: given: a sampler in place of the one that is configured.
    Raises: ConfigError: there is no index, or a sampler is given.
    """
    if not config.search.is_on:
        return None
    name = f"ppo.search.max_turns (={config.search.max_turns} turns)"
    if given is not None:
        raise ConfigError(
            f"{name} must be 1 with a sampler that is given: searches are our own sampler's; "
            "set ppo.search.max_turns=1."
        )
    retriever = inputs.retriever("index", config.search.method, runtime)
    if retriever is None:
        raise ConfigError(f"{name} must be 1 without an index; give the node an `index` input.")
    return Searcher(retriever, config.search)
