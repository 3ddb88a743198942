"""Seconds of a training pass against its real tokens, from 1x to 16x, and against padding.

    python scripts/bench_linear.py            # eight minutes on two cores

The policy of `bench_ppo.py` (small). Three ways to have more tokens: more rows (as PPO cuts them,
16 to a pass), longer rows, and the same tokens in rows of ever more different lengths, which a
padded pass would pay for. Each number is the median of five forward and backward passes in turn
with the others; the line is least squares. `padded` is what transformers' own pass over the padded
batch takes of the same rows.
"""

from __future__ import annotations

import plumbrule.machine.openmp  # noqa: F401  before torch is  # isort: skip

import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from ppo_workload import CUT, SHAPE, make_workload

from plumbrule.lm.loading import Policy, load_policy
from plumbrule.lm.logprobs import buckets, logprobs, pad_rows
from rlhf.ppo.rollout.evaluation import compute_precision

FACTORS = (1, 2, 4, 8, 16)
ROWS_PER_PASS = 16
BASE_LENGTH = 64
REPEATS = 5
SERIES = {
    "more rows": {k: [BASE_LENGTH] * (ROWS_PER_PASS * k) for k in FACTORS},
    "longer rows": {k: [32 * k] * ROWS_PER_PASS for k in FACTORS},
    "one long row": {
        k: [BASE_LENGTH * k] + [(16 - k) * BASE_LENGTH // 15] * 15 for k in (1, 2, 4, 8)
    },
}
"""Name -> factor -> lengths of the rows, tokens."""


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as scratch:
        make_workload(Path(scratch), "small", "cpu")
        policy = load_policy(Path(scratch) / "policy" / "model")
        plain = load_policy(Path(scratch) / "policy" / "model")
    plain.model.set_attn_implementation("sdpa")
    print(f"{torch.get_num_threads()} threads")
    found = {}
    for precision in ("float32", "bfloat16"):
        for name, lengths in SERIES.items():
            found[f"{name}, {precision}"] = show(name, precision, lengths, policy, plain)
    print(json.dumps({"cost_linearity": found, "repeats": REPEATS}))


def show(
    name: str,
    precision: str,
    lengths: dict[int, list[int]],
    policy: Policy,
    plain: Policy,
) -> float:
    """Print one series and how far it is from a line; return a token's cost at the end.

    That is of the last factor, over that of the first.
    """
    rows = {factor: draw(some) for factor, some in lengths.items()}
    taken: dict[tuple[int, str], list[float]] = {}
    for repeat in range(REPEATS + 1):
        for factor, some in rows.items():
            for label, chosen in (("ours", policy), ("padded", plain)):
                took = train(chosen, some, precision)
                if repeat:  # the first warms up
                    taken.setdefault((factor, label), []).append(took)
    print(f"{name}, {precision}")
    seconds = {}
    for factor, some in rows.items():
        number = sum(map(len, some))
        ours, padded = (statistics.median(taken[factor, label]) for label in ("ours", "padded"))
        seconds[number] = ours
        print(
            f"  {factor:3}x {number:6} tokens {ours * 1e3:8.1f} ms {ours / number * 1e6:7.1f} us a "
            f"token; padded {padded / ours:.2f} times that"
        )
    per_token = [took / number for number, took in seconds.items()]
    if max(seconds) > 2 * min(seconds):
        tokens, times = np.array(list(seconds)), np.array(list(seconds.values()))
        slope, constant = np.polyfit(tokens, times, 1)
        rest = np.abs(times - slope * tokens - constant) / times
        print(
            f"      {constant * 1e3:.1f} ms + {slope * 1e6:.1f} us a token; off that line by at "
            f"most {rest.max():.1%}"
        )
    return round(per_token[-1] / per_token[0], 3)


def draw(lengths: Sequence[int]) -> list[list[int]]:
    """Return rows of random words."""
    generator = np.random.default_rng(0)
    return [
        generator.integers(CUT, int(SHAPE["small"]["vocab"]), size=length).tolist()
        for length in lengths
    ]


def train(policy: Policy, rows: list[list[int]], precision: str) -> float:
    """Return the seconds of forward and backward passes over all rows, `ROWS_PER_PASS` in each."""
    begun = time.perf_counter()
    for part in buckets([len(row) for row in rows], ROWS_PER_PASS):
        tokens, real = pad_rows([rows[i] for i in part], policy.pad_id)
        target = real.clone()
        target[:, 0] = False
        with compute_precision(precision, tokens.device):
            found = logprobs(policy.model, tokens, real, target).logprobs
        found.sum().backward()
    took = time.perf_counter() - begun
    policy.model.zero_grad(set_to_none=True)
    return took


if __name__ == "__main__":
    main()
