"""What one pass per answer saves: a step on rankings of K answers against one on their pairs.

    python scripts/bench_rm.py
    python scripts/bench_rm.py --answers 6 --rankings 8 --repeats 5

Both take the same rankings, model and micro-batches, and end with the same gradient, which is
checked. `pairs` runs the C(K, 2) pairs apart, two rows each, as a trainer of pairs does; `rankings`
runs every answer once. Repeats alternate; the ratio of medians and its range are printed.
"""

from __future__ import annotations

import plumbrule.machine.openmp  # noqa: F401  before torch is  # isort: skip

import argparse
import statistics
import time

import torch

from plumbrule.lm.config import ModelConfig
from plumbrule.lm.loading import make_policy, new_model, train_tokenizer
from plumbrule.lm.randomness import generator
from rlhf.reward_model.config import RMConfig
from rlhf.reward_model.model import RewardModel
from rlhf.reward_model.rows import TokenizedAnswer
from rlhf.reward_model.stage import split_up
from rlhf.reward_model.training import Ranking, RewardLossSettings, micro_batches

PROMPT_TOKENS, ANSWER_TOKENS = 64, (8, 48)
"""Of a prompt, and the shortest and longest answer."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--answers", type=int, default=6, help="K")
    parser.add_argument("--rankings", type=int, default=8, help="rankings per step")
    parser.add_argument("--micro-batch-size", type=int, default=32, help="rows")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    model = small_reward_model()
    rankings = random_rankings(model, given.rankings, given.answers)
    pairs = [single for ranking in rankings for single in split_up(ranking)]
    seconds: dict[str, list[float]] = {"rankings": [], "pairs": []}
    gradients = {}
    for repeat in range(given.repeats + 1):  # the first one warms up
        for name, batch in (("rankings", rankings), ("pairs", pairs)):
            took, gradients[name] = step(model, batch, given.micro_batch_size)
            if repeat:
                seconds[name].append(took)
    gap = float((gradients["pairs"] - gradients["rankings"]).abs().max())
    size = float(gradients["rankings"].abs().max())
    ratios = [p / r for p, r in zip(seconds["pairs"], seconds["rankings"], strict=True)]
    for name, took in seconds.items():
        print(f"{name:<9} median {statistics.median(took):.3f} s, {min(took):.3f}-{max(took):.3f}")
    print(
        f"K = {given.answers}: {statistics.median(ratios):.2f} times as fast "
        f"({min(ratios):.2f}-{max(ratios):.2f}), largest difference of gradients {gap / size:.1e}"
    )


def small_reward_model() -> RewardModel:
    """Return an untrained reward model of 6 layers and width 256."""
    words = " ".join(f"w{i}" for i in range(400))
    tokenizer = train_tokenizer([words] * 4, 2048)
    shape = ModelConfig(
        context=256, hidden_size=256, num_layers=6, num_heads=4, intermediate_size=688
    )
    return RewardModel(make_policy(new_model(shape, tokenizer, 0), tokenizer, 256))


def random_rankings(model: RewardModel, number: int, num_answers: int) -> list[Ranking]:
    """Return rankings of random tokens; answers of one ranking share their prompt."""
    draw = generator("bench rm", number, num_answers)
    highest = len(model.policy.tokenizer)
    made = []
    for _ in range(number):
        prompt = draw.integers(highest, size=PROMPT_TOKENS).tolist()
        lengths = draw.integers(ANSWER_TOKENS[0], ANSWER_TOKENS[1] + 1, size=num_answers)
        rows = tuple(
            TokenizedAnswer((*prompt, *draw.integers(highest, size=n).tolist()), len(prompt))
            for n in lengths
        )
        pairs = tuple((i, j) for i in range(num_answers) for j in range(i + 1, num_answers))
        ranks = tuple(range(1, num_answers + 1))
        made.append(Ranking(rows, ranks, pairs, (0.0,) * len(pairs)))
    return made


def step(
    model: RewardModel, batch: list[Ranking], micro_batch_size: int
) -> tuple[float, torch.Tensor]:
    """Return the seconds of one forward and backward pass, and the gradient."""
    model.zero_grad()
    begun = time.perf_counter()
    for losses, _ in micro_batches(
        model, batch, micro_batch_size, RewardLossSettings.of(RMConfig())
    ):
        (losses.sum() / len(batch)).backward()
    took = time.perf_counter() - begun
    return took, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


if __name__ == "__main__":
    main()
