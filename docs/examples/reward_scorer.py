r"""A reward with settings of its own: how often a letter stands in a response, up to a bound.

Use it beside the reward model, or alone:
    plumbrule --plugin docs/examples/reward_scorer.py \
        'reward.terms=[{name: letters, settings: {letter: a, most: 5}}]'

`python docs/examples/reward_scorer.py` scores two responses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from plumbrule.config import require_range
from plumbrule.data.records import Message, Prompt
from plumbrule.protocols import Episode
from rlhf.rewards.options import TERMS, TermInputs


@dataclass
class Letters:
    """Settings of the term; they are checked when the config is composed, and hashed."""

    letter: str = "e"
    most: int = 3
    """Letters of a response that count."""

    def __post_init__(self) -> None:
        require_range("reward.terms.letters.settings.most", self.most, 1)


class CountLetters:
    """A `Scorer`: it may load a model, ask a service or, as here, only count."""

    def __init__(self, settings: Letters):
        self.settings = settings

    def score(self, episodes: Sequence[Episode]) -> Mapping[str, np.ndarray]:
        """Return `score`, (n,) float64: one finite number for each episode."""
        counts = [episode.response.count(self.settings.letter) for episode in episodes]
        return {"score": np.array([float(min(count, self.settings.most)) for count in counts])}


@TERMS.register("letters", settings=Letters)
def open_letters(given: TermInputs) -> CountLetters:
    """Return the scorer; `given` also holds the node's inputs and the runtime's device."""
    return CountLetters(given.settings)


if __name__ == "__main__":
    prompt = Prompt("1", (Message("user", "What grows there?"),))
    episodes = [Episode(prompt, (), text, True) for text in ("Bananas.", "Rye.")]
    print(CountLetters(Letters("a", most=5)).score(episodes)["score"].tolist())  # [3.0, 0.0]
