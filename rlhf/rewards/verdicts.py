"""What a judge chooses among, how its text is read, and what it says. No torch here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from plumbrule.lm.judges.verdict_retraction import TURNING, is_taken_back
from rlhf.rewards.judge_config import JudgeTermConfig, RubricConfig

_DECORATION = r"[\s*_`\"'(:=]*"
_GRADE = re.compile(
    rf"{_DECORATION}(?:(?:grade|score|rating)\b(?:\s+is\b)?{_DECORATION})?(-?\d+(?:\.\d+)?)",
    re.IGNORECASE,
)
_JOINING = {"and", "or", "but", "also", "/", "&", ",", "*", "_", '"', "'"}
"""What stands between two words of which a reply says both. A full stop is not among them: what
follows it explains the first."""
_OUT_OF = re.compile(r"[\s*_]*(?:/|out of)\s*(\d)\b")


class GradeScale(NamedTuple):
    """The words that a judge chooses among."""

    words: Sequence[str]
    values: Sequence[float]
    """Of each word."""
    read: Callable[[str], float | None]
    """The value that a text says; None: none."""


class JudgeVerdicts(NamedTuple):
    """What a judge says to n questions, (n,) float64 each."""

    values: np.ndarray
    """NaN: none."""
    costs: Mapping[str, np.ndarray]
    """Parts that are logged: tokens, and whatever tells how sure it is."""
    example: str = ""
    """A reply that had no value, for messages."""


class JudgeModel(Protocol):
    """A local policy or an endpoint."""

    def ask(self, questions: Sequence[str], scale: GradeScale) -> JudgeVerdicts:
        """Return its verdicts on the questions, in their order."""
        ...


def grades(config: JudgeTermConfig) -> GradeScale:
    """Return the whole numbers from the lowest grade to the highest."""
    numbers = range(config.lowest, config.highest + 1)
    return GradeScale(
        [str(number) for number in numbers],
        [float(number) for number in numbers],
        lambda text: parse_grade(text, config.lowest, config.highest),
    )


def yes_or_no(config: RubricConfig) -> GradeScale:
    """Return the rubric's two words, worth 1 and 0."""
    words = [word.strip() for word in config.words]
    return GradeScale(words, [1.0, 0.0], lambda text: parse_word(text, words, (1.0, 0.0)))


def parse_grade(text: str, lowest: int, highest: int) -> float | None:
    """Return the whole number with which a reply begins; None: there is none on the scale.

    `Grade:` before it, and `/<highest>` or `out of <highest>` behind it, are understood. A reply
    that goes on with another number is ambiguous, and has no grade, nor has one that takes it back
    ("4 is too high"); neither has 3.5, since the grades are whole numbers.
    """
    found = _GRADE.match(text)
    if found is None:
        return None
    rest = text[found.end(1) :]
    if out_of := _OUT_OF.match(rest):
        if int(out_of[1]) != highest:
            return None
        rest = rest[out_of.end() :]
    number = float(found[1])
    if not lowest <= number <= highest or number != int(number):
        return None
    return None if re.search(r"\d", rest) or is_taken_back(rest) else number


def parse_word(text: str, words: Sequence[str], values: Sequence[float]) -> float | None:
    """Return the value of the word with which a reply begins; None: with none of them, with two in
    one breath ("yes and no", "yes/no"), or it takes the word back ("yes is wrong", "yes, but not
    quite").

    Args: words: the one that affirms, and the one that denies.
    """
    known = {word.casefold(): value for word, value in zip(words, values, strict=True)}
    text = text.casefold()
    said = list(re.finditer(r"\w+|[^\w\s]", text))
    tokens = [one[0] for one in said]
    first = next((i for i, t in enumerate(tokens) if t[0].isalnum() or t[0] == "_"), None)
    if first is None or tokens[first] not in known:
        return None
    denies = tokens[first] == words[-1].casefold()
    if is_taken_back(text[said[first].end() :], denies):
        return None
    others = known.keys() - {tokens[first]}
    for token in tokens[first + 1 :]:
        if token in others or (not denies and TURNING.fullmatch(token)):
            return None
        if token not in _JOINING:
            break
    return known[tokens[first]]
