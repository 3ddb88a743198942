"""The one sampler: `generate` in `sampler.py`, on the key-value cache of `cache.py`."""

from plumbrule.lm.generation.sampler import Sample, generate

__all__ = ["Sample", "generate"]
