"""Rewards that are functions of text, by name: rules of ours, and those of plug-ins.

A function takes episodes and returns one number for each, in their order. A number must depend on
its own episode alone: a function is given the distinct ones of one process, or some of them. A name
in a config chooses it (`reward.terms=[{name: rm}, {name: length, weight: -0.02}]`); where it lives
is written in code only, here or in a plug-in:

    # lengths.py, started with PLUMBRULE_PLUGINS=lengths.py or `plumbrule --plugin lengths.py ...`
    from rlhf.rewards.functions import register

    @register("shouting")
    def shouting(episodes):
        return [-float(e.response.isupper()) for e in episodes]

No torch here: a config checks its names against this table before anything loads.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plumbrule.errors import ConfigError
from plumbrule.store.computing_code import registered_digest
from plumbrule.store.fingerprint import plugin_digest
from rlhf.rewards.options import TERMS, TOTAL, own_code

if TYPE_CHECKING:
    from plumbrule.data.records import Prompt
    from plumbrule.protocols import Episode

RewardFunction = Callable[["Sequence[Episode]"], Sequence[float]]
FUNCTIONS: dict[str, RewardFunction] = {}
_CHECKS: dict[str, Callable[[Prompt], None]] = {}
_FILES: dict[str, Path] = {}
_DIGESTS: dict[str, str] = {}
HASHED_BY_NAME = True
"""A registered function is hashed with the term that names it
(`plumbrule/store/fingerprint.py`)."""
NGRAM = 3
"""Words of which a repetition is made."""
_WORD = re.compile(r"\w+")
_CITATION = re.compile(r"\[(\d+)\]")


def register(
    name: str, check: Callable[[Prompt], None] | None = None
) -> Callable[[RewardFunction], RewardFunction]:
    """Return a decorator that enters a function into the table.

    Args: check: raises DataError for a prompt whose responses the function can't score; it is asked
    of all prompts before the first is answered. None: it scores any.
    Raises: ConfigError: the name is taken, or can't stand in a config.
    """
    if name in (*TERMS, TOTAL) or not name.isidentifier():
        raise ConfigError(
            f"reward function (={name!r}) must have a name of letters, digits and _ that is none "
            f"of {', '.join((*TERMS, TOTAL))}; choose another."
        )

    file = Path(sys._getframe(1).f_globals["__file__"])

    def enter(function: RewardFunction) -> RewardFunction:
        if name in FUNCTIONS and _FILES[name] != file:
            raise ConfigError(
                f"reward function (={name}) must be registered once; {_FILES[name].name} and "
                f"{file.name} both do. Rename one."
            )
        FUNCTIONS[name], _FILES[name] = function, file
        _DIGESTS[name] = plugin_digest(str(file))
        if check is not None:
            _CHECKS[name] = check
        return function

    return enter


def check_prompts(names: Iterable[str], prompts: Iterable[Prompt]) -> None:
    """Raise what the checks of the named terms raise for a prompt, before any is answered."""
    checks = [_CHECKS[name] for name in names if name in _CHECKS]
    for prompt in prompts if checks else ():
        for check in checks:
            check(prompt)


def source_digest(name: str) -> str:
    """Return 16 hex digits of the plug-in that registered a term, as it was then, or of our own
    function; "" for a term whose code is the stages' own.

    It is part of a term's config, so that an edit makes another artifact of those who use the term.
    The digest is in the config only of runs that choose the name.
    """
    if name in TERMS:
        return own_code(name)
    return _DIGESTS[name] or registered_digest(FUNCTIONS[name])


@register("length")
def length(episodes: Sequence[Episode]) -> list[float]:
    """Return the number of words of each response."""
    return [float(len(e.response.split())) for e in episodes]


@register("repetition")
def repetition(episodes: Sequence[Episode]) -> list[float]:
    """Return the share, in [0, 1], of each response's runs of three words that it holds already."""
    return [_repeated(_words(e.response)) for e in episodes]


@register("unfinished")
def unfinished(episodes: Sequence[Episode]) -> list[float]:
    """Return 1 for a response that was cut by its limit, else 0."""
    return [float(not e.finished) for e in episodes]


@register("supported")
def supported(episodes: Sequence[Episode]) -> list[float]:
    """Return the share, in [0, 1], of each response's words that the question or a passage holds.

    1 for a response without words; 0 for one to a prompt without passages, which nothing supports.
    """
    shares = []
    for e in episodes:
        words = _words(e.response)
        shown = set(_words(" ".join(e.passages)))
        asked = set(_words(" ".join(m.content for m in e.prompt.messages)))
        held = [word in shown or word in asked for word in words]
        shares.append(sum(held) / len(held) if shown and held else float(not held))
    return shares


@register("citation")
def citation(episodes: Sequence[Episode]) -> list[float]:
    """Return the share, in [0, 1], of each response's [n] that name a passage shown; 0 for none."""
    shares = []
    for e in episodes:
        named = [1 <= int(n) <= len(e.passages) for n in _CITATION.findall(e.response)]
        shares.append(sum(named) / len(named) if named else 0.0)
    return shares


@register("neutral")
def neutral(episodes: Sequence[Episode]) -> list[float]:
    """Return minus the size, in [0, 1], of VADER's compound score of each response."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer  # reads its lexicon

    score = SentimentIntensityAnalyzer().polarity_scores
    return [-abs(float(score(e.response)["compound"])) for e in episodes]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _repeated(words: Sequence[str]) -> float:
    runs = [tuple(words[i : i + NGRAM]) for i in range(len(words) - NGRAM + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
