"""Random numbers that belong to a name, not to a moment.

A stream of random numbers depends on the order in which it is read, so the batch size, the number
of processes or a restart would change every sampled response. Here a number is a pure function of
what it is for: `row_key("sample", seed, update, prompt, sample)` names a response, and
`uniforms(keys, t)` gives the number that picks its token t, wherever and whenever it is asked.

The key is a hash (BLAKE2b) of the parts. The numbers are SplitMix64 (Steele, Lea and Flood 2014):
its state after c steps is key + c * gamma, so any step can be reached at once. The key is mixed
once more first, so that keys 0, 1, 2, ... are as good as hashes. `generator` is for work that no
batching touches (a shuffle, a bootstrap); `seed_everything` for libraries that read the global
streams.
"""

from __future__ import annotations

import hashlib
import json
import random

import numpy as np

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def row_key(*parts: int | str) -> int:
    """Return a 64-bit key of `parts`; equal parts give equal keys on every machine.

    Whole numbers and texts differ (1 is not "1"), and so do different groupings of one text.
    """
    named = json.dumps([part if isinstance(part, str) else int(part) for part in parts])
    return int.from_bytes(hashlib.blake2b(named.encode(), digest_size=8).digest(), "little")


def uniforms(keys: np.ndarray, counter: int | np.ndarray) -> np.ndarray:
    """Return the uniform numbers in [0, 1) at place `counter` of the streams `keys`, as float64.

    Args: keys: (b,) uint64, or any shape that broadcasts with `counter`. counter: 0 or more.
    """
    with np.errstate(over="ignore"):
        steps = np.asarray(counter, dtype=np.uint64) + np.uint64(1)
        bits = _mix(_mix(np.asarray(keys, dtype=np.uint64)) + steps * _GAMMA)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(bits: np.ndarray) -> np.ndarray:
    """Return SplitMix64's output function of `bits`, a bijection on 64 bits."""
    bits = (bits ^ (bits >> np.uint64(30))) * _FIRST
    bits = (bits ^ (bits >> np.uint64(27))) * _SECOND
    return bits ^ (bits >> np.uint64(31))


def generator(*parts: int | str) -> np.random.Generator:
    """Return a numpy generator of its own for the work that `parts` name."""
    return np.random.default_rng(row_key(*parts))


def seed_everything(seed: int) -> None:
    """Seed the global streams of python, numpy and torch (all devices)."""
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
