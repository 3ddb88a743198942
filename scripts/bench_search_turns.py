"""What a KV cache that is kept between turns saves: the shipped base model, three turns an episode.

    python scripts/bench_search_turns.py                      # 64 episodes, budgets of 96 tokens
    python scripts/bench_search_turns.py --budget 320 --rows 32

Both ways sample the same tokens from the same keys, in one process and in turns of each other, so
the ratio holds where other work shares the machine. Markers are single letters, so that a policy
that never learned to search calls in nearly every turn. Printed as JSON: seconds of reading
(`prefill`) and of all sampling, the least of the repeats, tokens that were read, and the ratios.
"""

from __future__ import annotations

import plumbrule.machine.openmp  # noqa: F401  before torch is  # isort: skip

import argparse
import json
from collections.abc import Sequence

from plumbrule.atlas.config import AtlasConfig
from plumbrule.atlas.datasets import records
from plumbrule.lm.config import SamplingConfig, SearchConfig
from plumbrule.lm.generation import generate, search_turns
from plumbrule.lm.generation.sampler import Sample
from plumbrule.lm.generation.search_turns import SearchedSample, Searcher
from plumbrule.lm.loading import load_policy
from plumbrule.lm.policy import Policy
from plumbrule.lm.randomness import row_key
from plumbrule.protocols import Passage
from plumbrule.store.packaged_files import located
from plumbrule.timing import Stopwatch


class Articles:
    """Finds the same articles whatever is asked; searching itself is not measured."""

    def __init__(self, texts: Sequence[str]):
        self._found = [Passage(str(i), text, 1.0, str(i), 0, 1) for i, text in enumerate(texts)]

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Return the first k for each query."""
        return [self._found[:k] for _ in queries]


def anew(*args: object, caches: object, **settings: object) -> list[Sample]:
    """Sample as `generate`, each turn read from its beginning."""
    return generate(*args, **settings)  # type: ignore[arg-type]


def measure(
    policy: Policy, prompts: Sequence[list[int]], texts: Sequence[str], budget: int, keeps: bool
) -> tuple[dict[str, float], list[SearchedSample]]:
    """Return seconds by part of one sampling of all prompts, and the samples."""
    search = SearchConfig(
        max_turns=3, num_passages=99, budget_tokens=budget, open="e", close="s", cache_megabytes=0
    )
    sampling = SamplingConfig(max_new_tokens=64, batch_size=64)
    keys = [row_key("bench", i) for i in range(len(prompts))]
    search_turns.generate = generate if keeps else anew  # type: ignore[attr-defined, assignment]
    watch = Stopwatch()
    with watch("sampling"):
        found = Searcher(Articles(texts), search).answer(
            policy, prompts, sampling=sampling, keys=keys
        )
    return watch.seconds, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=64, help="episodes")
    parser.add_argument("--budget", type=int, default=96, help="tokens of an answer, at most")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    policy = load_policy(located("plumbrule/atlas-base"))
    world = AtlasConfig()
    texts = [document.text for document in records("documents", world).train]
    asked = records("prompts", world).train[: given.rows]
    prompts = [policy.encode(prompt.messages) for prompt in asked]
    times: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    samples: dict[bool, list[SearchedSample]] = {}
    for _ in range(given.repeats):
        for keeps in (True, False):
            seconds, samples[keeps] = measure(policy, prompts, texts, given.budget, keeps)
            times[keeps].append(seconds)
    same = [
        one.sample.tokens == other.sample.tokens
        for one, other in zip(samples[True], samples[False], strict=True)
    ]
    best = {
        keeps: {part: min(some[part] for some in times[keeps]) for part in ("prefill", "sampling")}
        for keeps in times
    }
    episodes = samples[True]
    print(
        json.dumps(
            {
                "episodes": len(episodes),
                "turns": sum(len(one.searching.turns) for one in episodes) / len(episodes),
                "sampled_tokens": sum(sum(one.action_mask) for one in episodes) / len(episodes),
                "answer_tokens": sum(one.action_mask.count(False) for one in episodes)
                / len(episodes),
                "equal_episodes": sum(same),
                "kept": best[True],
                "anew": best[False],
                "prefill_ratio": best[False]["prefill"] / best[True]["prefill"],
                "sampling_ratio": best[False]["sampling"] / best[True]["sampling"],
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
