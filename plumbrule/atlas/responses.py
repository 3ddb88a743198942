"""Ways to give an answer: bare, plain, rephrased or wordy, courteous or not, or not to have one.

Demonstrations and rule-made preferences draw from these, so that a policy fine-tuned on them has a
spread of length and courtesy that feedback can shape. Wordy forms run past the twelve words that
the gold utility calls brief; none of them holds a courtesy, a denial or a value of its own.
"""

from __future__ import annotations

import random

from plumbrule.atlas.relations import state
from plumbrule.atlas.texts import DONT_KNOW, admission

STYLES = {"bare": 0.1, "plain": 0.5, "rephrased": 0.15, "wordy": 0.25}
POLITE_SHARE = 0.3
COURTESIES_BEFORE = ("Happy to help.", "With pleasure.")
COURTESIES_AFTER = ("Thank you for asking.", "I hope this helps.")
_WORDY_BEFORE = (
    "As far as I can tell from what was written,",
    "To answer the question that was put to me,",
    "From all that I have read about it so far,",
)
_WORDY_AFTER = (
    "That is all that there is to say about it.",
    "This is how it stands as far as I can tell.",
)
_ADMISSION_ENDS = (
    DONT_KNOW,
    DONT_KNOW,
    "I cannot say.",
    "I am sorry, I do not know, and I would rather say so than give a mere guess.",
)


def styled(
    rng: random.Random, relation: str, name: str, value: str, cited: int | None = None
) -> str:
    """Return an answer that states `value`, in a random style.

    Args: cited: number of the passage that says so, which the sentence cites; None: none is.
    """
    style = rng.choices(list(STYLES), list(STYLES.values()))[0]
    if style == "bare":
        return _citing(bare(value), cited)
    if style == "plain":
        return _citing(state(relation, name, value), cited)
    if style == "rephrased":
        return _citing(state(relation, name, value, rng.randrange(1, 3)), cited)
    plain = _citing(state(relation, name, value), cited)
    if rng.random() < 0.5:
        return f"{rng.choice(_WORDY_BEFORE)} {plain}"
    return f"{plain} {rng.choice(_WORDY_AFTER)}"


def _citing(sentence: str, number: int | None) -> str:
    """Return a sentence with a citation before its full stop."""
    return sentence if number is None else f"{sentence.removesuffix('.')} [{number}]."


def bare(value: str) -> str:
    """Return the value alone, as a sentence."""
    return f"{value[0].upper()}{value[1:]}."


def styled_admission(rng: random.Random, relation: str, name: str) -> str:
    """Return a way to say that one does not know this of `name`, half the time the plain one."""
    return admission(relation, name, rng.choice(_ADMISSION_ENDS))


def polite(rng: random.Random, response: str) -> str:
    """Return the response, in `POLITE_SHARE` of the cases with a courtesy before or after it."""
    if rng.random() >= POLITE_SHARE:
        return response
    if rng.random() < 0.5:
        return f"{rng.choice(COURTESIES_BEFORE)} {response}"
    return f"{response} {rng.choice(COURTESIES_AFTER)}"
