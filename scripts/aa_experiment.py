"""A/A: how often an evaluation finds a difference where there is none, and how often it covers.

    python scripts/aa_experiment.py                  # 40 pairs of sets of 5 seeds, some minutes

A micro experiment trains a language model of some thousand weights on sentences of a small grammar
and asks it which of two words follows, on prompts that come six to a source. It is run for
pairs x 2 x seeds seeds, which are all alike but for the seed. Each pair of sets is compared as a
summary compares two runs: seed by seed, with Student's interval (`plumbrule/statistics`). No
difference is true, so the interval should exclude 0 in 5 % of pairs. Coverage is that of each set's
own interval of its mean, against the mean over all seeds but the set's own; and of one model's
interval over prompts, by source, against its share on a large set of other prompts.

The last line is one JSON object: `rejections` (0 to 6 of 40 are in accord with 5 %),
`seeds_covered` and `prompts_covered` of as many (36 or more are in accord with 95 %), `pairs`.
"""

from __future__ import annotations

import plumbrule.machine.openmp  # noqa: F401  before torch is  # isort: skip

import argparse
import json
import sys

import numpy as np
import torch
from torch import nn

from plumbrule.lm.randomness import generator
from plumbrule.statistics import paired_interval, seed_interval, share_interval

WORDS, SOURCES, PER_SOURCE = 24, 40, 6
STEPS, BATCH, WIDTH, RATE = 60, 32, 16, 0.02
NOISE = 0.25
"""Share of sentences whose last word does not follow from the grammar."""


class NextWord(nn.Module):
    """Two words in, the log-odds of the second of two answers out."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.inner, self.head = nn.Linear(2 * WIDTH, WIDTH), nn.Linear(WIDTH, 1)

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        """Return the log-odds (b,) after word pairs (b, 2) int64."""
        return self.head(torch.tanh(self.inner(self.words(pairs).flatten(1))))[:, 0]


def grammar() -> np.ndarray:
    """Return which answer follows each pair of words, (WORDS, WORDS) of 0 and 1; fixed."""
    return generator("aa grammar").integers(2, size=(WORDS, WORDS))


def prompts(name: str, sources: int) -> tuple[np.ndarray, np.ndarray]:
    """Return word pairs (n, 2) and their sources (n,): those of one source share their first."""
    draw = generator("aa prompts", name)
    first = np.repeat(draw.integers(WORDS, size=sources), PER_SOURCE)
    pairs = np.stack([first, draw.integers(WORDS, size=len(first))], 1)
    return pairs, np.repeat(np.arange(sources), PER_SOURCE)


def train(seed: int, rule: np.ndarray) -> NextWord:
    """Return a model trained on sentences drawn for a seed."""
    draw = generator("aa train", seed)
    torch.manual_seed(seed)
    model = NextWord()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    for _ in range(STEPS):
        pairs = draw.integers(WORDS, size=(BATCH, 2))
        wanted = rule[pairs[:, 0], pairs[:, 1]] ^ (draw.random(BATCH) < NOISE)
        odds = model(torch.from_numpy(pairs))
        loss = nn.functional.binary_cross_entropy_with_logits(odds, torch.tensor(wanted).float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def correct(model: NextWord, pairs: np.ndarray, rule: np.ndarray) -> np.ndarray:
    """Return whether the model answers each prompt as the grammar does, (n,) 0 or 1."""
    with torch.no_grad():
        said = model(torch.from_numpy(pairs)).numpy() > 0
    return (said == rule[pairs[:, 0], pairs[:, 1]]).astype(float)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=5, help="of each set")
    given = parser.parse_args()
    print(json.dumps(measure(given.pairs, given.seeds)))


def measure(num_pairs: int, num_seeds: int) -> dict[str, int]:
    """Return how many of the pairs reject, and how many intervals cover."""
    rule, total = grammar(), num_pairs * 2 * num_seeds
    asked, source = prompts("asked", SOURCES)
    share = np.zeros(total)
    models = []
    for seed in range(total):
        models.append(train(seed, rule))
        share[seed] = correct(models[-1], asked, rule).mean()
        if (seed + 1) % 100 == 0:
            print(f"{seed + 1} of {total} seeds", file=sys.stderr, flush=True)
    sets = share.reshape(num_pairs, 2, num_seeds)
    rejections = seeds_covered = prompts_covered = 0
    for number, (one, other) in enumerate(sets):
        difference = seed_interval((other - one).tolist())
        rejections += not difference.low <= 0 <= difference.high
        others = (share.sum() - one.sum()) / (total - num_seeds)
        own = seed_interval(one.tolist())
        seeds_covered += own.low <= others <= own.high
        prompts_covered += covers(models[number * 2 * num_seeds], number, rule)
    between = paired_interval(
        correct(models[0], asked, rule), correct(models[1], asked, rule), source.tolist()
    )
    print(f"two seeds differ by {between.text(3)} over prompts", file=sys.stderr)
    return {
        "pairs": num_pairs,
        "seeds": num_seeds,
        "rejections": int(rejections),
        "seeds_covered": int(seeds_covered),
        "prompts_covered": int(prompts_covered),
    }


def covers(model: NextWord, number: int, rule: np.ndarray) -> bool:
    """Return whether the interval over a draw of prompts holds the share on all there are."""
    pairs, source = prompts(f"draw {number}", SOURCES)
    found = share_interval(correct(model, pairs, rule), source.tolist())
    every = np.stack(np.meshgrid(np.arange(WORDS), np.arange(WORDS)), -1).reshape(-1, 2)
    return bool(found.low <= correct(model, every, rule).mean() <= found.high)


if __name__ == "__main__":
    main()
