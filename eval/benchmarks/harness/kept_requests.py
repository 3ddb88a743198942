"""What lm-evaluation-harness asks of a model, kept one by one, so that a killed evaluation goes on.

The library asks for log-likelihoods and texts in a few long calls. Here each call is cut into
chunks of the journal (`eval/benchmarks/journal.py`): a request that was answered is read from it,
and prompts, filters and metrics are made of the answers anew. A request's key is its text and
settings, and its number among equal ones, so that repeats of a sampled answer stay repeats. Sampled
answers are drawn with a seed of their chunk, whether or not chunks before it were read.

The only module that extends a class of the library: what it does with a model's answers can't be
reached in another way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from eval.benchmarks.journal import Journal


class KeptRequests(HFLM):
    """A model whose answers are kept. version: of the library, which encodes the requests."""

    def __init__(self, journal: Journal, version: str, **settings: Any):
        super().__init__(**settings)
        self._journal, self._version = journal, version

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[Any]:
        """Return (log-probability in nats, whether it is the greedy one) of each continuation."""
        found = self._kept("loglikelihood", super().loglikelihood, requests, disable_tqdm)
        return [(nats, greedy) for nats, greedy in found]

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Return the log-probability of each text, nats."""
        return self._kept("rolling", super().loglikelihood_rolling, requests, disable_tqdm)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the text that follows each prompt."""
        return self._kept("generate", super().generate_until, requests, disable_tqdm)

    def _kept(
        self, what: str, ask: Callable[..., Any], requests: Sequence[Any], disable_tqdm: bool
    ) -> list[Any]:
        times: Counter[str] = Counter()
        keys = []
        for request in requests:
            key = self._journal.key("lm_eval", self._version, what, request.args)
            times[key] += 1
            keys.append(key if times[key] == 1 else self._journal.key(key, times[key]))

        def compute(places: Sequence[int]) -> Sequence[Any]:
            with torch.random.fork_rng():
                torch.manual_seed(int(keys[places[0]][:15], 16))
                return ask([requests[place] for place in places], disable_tqdm=disable_tqdm)

        return self._journal.each(keys, compute)
