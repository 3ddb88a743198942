"""Terms of a reward by name: which opener makes the scorer of each. No torch here.

    rm          the node's reward models (inputs `rm`, `rm_1`, ...) as one (`ensemble.py`)
    gold        the gold utility of the generated world, for experiments that know the truth
    constant    1 for every response: a control, under which a right PPO must not go anywhere
    classifier  a ready-made sequence classifier (`classifier.py`)
    http        a scorer behind a URL (`http_scorer.py`)
    judge       a grade by a language model (`judge.py`)
    rubric      criteria, each judged by a language model (`judge.py`)

A function of text is a term as well, and needs no entry here (`functions.py`). What needs more, a
model to load or settings of its own, is an opener. One file holds it, ours or a plug-in:

    from dataclasses import dataclass
    from rlhf.rewards.options import TERMS

    @dataclass
    class Letters:
        letter: str = "e"

    class CountLetters:
        def __init__(self, letter): self.letter = letter
        def score(self, episodes):
            return {"score": np.array([float(e.response.count(self.letter)) for e in episodes])}

    @TERMS.register("letters", settings=Letters)
    def open_letters(given):
        return CountLetters(given.settings.letter)

chosen by `reward.terms=[{name: letters, settings: {letter: a}}]`. One of ours has its line in
`TERMS` in place of the decorator; with the trait `separate` it is imported by the runs that choose
it alone, and a digest of its code is part of their config. Settings of ours that are hashed by
content, or that others share, stand in the section of `RewardConfig` that is named like the term.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from plumbrule.registry import Registry
from plumbrule.store.fingerprint import code_hashes, digest

if TYPE_CHECKING:
    from plumbrule.protocols import Scorer
    from plumbrule.runtime_config import RuntimeConfig
    from plumbrule.store.artifacts import Artifact


class TermInputs(NamedTuple):
    """What an opener may make a term's scorer of."""

    name: str
    """Of the term."""
    settings: Any
    """Of the class that the entry names; for ours, the section of the term's name; else None."""
    reward: Any
    """The `RewardConfig` that the term is one of."""
    inputs: Mapping[str, Artifact]
    """Of the node."""
    runtime: RuntimeConfig
    replies: Path | None
    """Folder in which a scorer may keep what it was answered; None: nothing is kept."""


TERMS: Registry[Callable[[TermInputs], Scorer]] = Registry(
    "reward.terms.name",
    {
        "rm": ("rlhf.rewards.ensemble:open_reward_models",),
        "gold": ("rlhf.rewards.terms:open_gold",),
        "constant": ("rlhf.rewards.terms:open_constant",),
        "classifier": ("rlhf.rewards.classifier:open_term", "separate"),
        "http": ("rlhf.rewards.http_scorer:open_term", "separate"),
        "judge": ("rlhf.rewards.judge:open_judge_term", "separate"),
        "rubric": ("rlhf.rewards.judge:open_rubric_term", "separate"),
    },
    traits=("separate",),
)
TOTAL = "score"
"""What the sum of all terms is called beside them, and so no term."""


def own_code(name: str) -> str:
    """Return the digest of a term's opener: of its plug-in, or of a `separate` one's code; or "".

    The code of all others is part of the stages' that open rewards.
    """
    option = TERMS.option(name)
    if "separate" not in option.traits or not isinstance(option.where, str):
        return option.source
    return digest(code_hashes([option.where.partition(":")[0]]))
