"""`ppo.sampler=transformers`: its continuous batching, on the policy's own weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import transformers

from plumbrule.lm.generation.transformers_sampler import TransformersSampler, require_engine
from plumbrule.runtime_config import RuntimeConfig
from rlhf.ppo.rollout.trajectory import NamedSampler


@contextmanager
def open_transformers(precision: str, runtime: RuntimeConfig) -> Iterator[NamedSampler]:
    """Yield transformers' continuous batching. Raises: ConfigError: this version's is too old."""
    require_engine()
    name = f"transformers {transformers.__version__} {precision}"
    yield NamedSampler(name, TransformersSampler(precision))
