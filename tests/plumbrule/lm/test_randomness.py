"""Random numbers are functions of a name: golden values, uniformity, independence of batching."""

import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from plumbrule.lm.randomness import generator, row_key, seed_everything, uniforms

MASK = 2**64 - 1


def splitmix64(state: int) -> int:
    """Return one output of SplitMix64, in python's integers (Steele et al. 2014, fig. 17)."""
    z = state
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_the_mixer_is_splitmix64():
    # The published first outputs for seed 1234567, whose state is seed + gamma.
    gamma = 0x9E3779B97F4A7C15
    assert splitmix64((1234567 + gamma) & MASK) == 6457827717110365317
    assert splitmix64((1234567 + 2 * gamma) & MASK) == 3203168211198807973


@pytest.mark.parametrize("key", [0, 1, 2**64 - 1, row_key("sample", 3)])
def test_uniforms_equal_a_scalar_reference(key):
    gamma = 0x9E3779B97F4A7C15
    for counter in (0, 1, 47, 10**6):
        state = (splitmix64(key) + (counter + 1) * gamma) & MASK
        expected = (splitmix64(state) >> 11) * 2.0**-53
        assert uniforms(np.array([key], dtype=np.uint64), counter)[0] == expected


def test_uniforms_do_not_depend_on_the_batch():
    keys = np.array([row_key("s", i) for i in range(32)], dtype=np.uint64)
    table = uniforms(keys[:, None], np.arange(10)[None, :])
    assert table.shape == (32, 10)
    assert table.dtype == np.float64
    assert np.array_equal(table[5:9, 3], uniforms(keys[5:9], 3))
    assert np.array_equal(table[::-1, 7], uniforms(keys[::-1], 7))
    assert np.array_equal(table[4], uniforms(keys[4], np.arange(10)))


@pytest.mark.parametrize(
    "keys",
    [np.arange(4000), np.array([row_key("sample", 0, i) for i in range(4000)], dtype=np.uint64)],
    ids=["small keys", "hashed keys"],
)
def test_uniforms_are_uniform_over_keys_and_over_counters(keys):
    table = uniforms(keys.astype(np.uint64)[:, None], np.arange(50)[None, :])
    assert table.min() >= 0.0
    assert table.max() < 1.0
    for sample in (table.ravel(), table[:, 0], table[0], table[:, 49]):
        counts = np.histogram(sample, bins=20, range=(0, 1))[0]
        expected = len(sample) / 20
        # 19 degrees of freedom: 50.8 is exceeded once in 10,000.
        assert ((counts - expected) ** 2 / expected).sum() < 50.8
    # Neighbours in key and in counter are uncorrelated: |r| of n pairs stays under 4 / sqrt(n).
    for a, b in ((table[:-1], table[1:]), (table[:, :-1], table[:, 1:])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4 / np.sqrt(a.size)


def test_row_key_is_stable_and_tells_parts_apart():
    # The first 8 bytes of BLAKE2b-64 over the JSON `["sample", 0, 1, "p-7", 3]`, little-endian.
    assert row_key("sample", 0, 1, "p-7", 3) == 8028880040274608835
    assert row_key("a", 1) != row_key("a", "1")
    assert row_key("ab", "c") != row_key("a", "bc") != row_key("abc")
    assert row_key(1, 2) != row_key(2, 1)
    assert row_key("n", np.int64(4)) == row_key("n", 4)
    keys = {row_key("sample", seed, i) for seed in range(20) for i in range(500)}
    assert len(keys) == 10_000
    assert all(0 <= key < 2**64 for key in keys)


def test_generator_belongs_to_its_name():
    assert generator("split", 1).random(3).tolist() == generator("split", 1).random(3).tolist()
    assert generator("split", 1).random() != generator("split", 2).random()


def test_seed_everything_seeds_three_libraries():
    def draw():
        return random.random(), np.random.random(), torch.rand(1).item()

    seed_everything(5)
    first = draw()
    seed_everything(5)
    assert draw() == first
    seed_everything(2**40 + 1)  # wider than numpy's global seed
    assert draw() != first


def test_planning_stays_free_of_torch():
    code = "import plumbrule.lm.randomness, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
