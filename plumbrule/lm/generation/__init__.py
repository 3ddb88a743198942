"""The one sampler: `generate` in `sampler.py`, on the KV cache of `kv_cache.py`."""

from plumbrule.lm.generation.sampler import Sample, generate

__all__ = ["Sample", "generate"]
