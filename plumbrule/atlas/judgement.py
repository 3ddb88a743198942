"""What a response states: which values it names, and whether it says that it does not know.

Everything is read from the words of the response, the question and `prompt.meta` (`answer`,
`aliases`, `entity`, and `values` or `value_kind`), never from the world, so any data set with those
keys can be judged. Words are compared without case, punctuation and articles.

The rules are made so that saying more never helps. A response states

- the reference answer, where it or an alias stands in it;
- every other value of the kind asked for: the listed `values`, a year, or a word of `WORDS`;
- every name but the entity's own: a run of capitalised words that the question does not hold. Of
  one word, it counts where a name is asked for and it does not merely begin a sentence. So "Bero
  Vik lives in ..." about Bero Lund names somebody else;
- where neither `values` nor a known `value_kind` tells values from other words: whatever it says
  beyond the question, unless the reference is in it.

The entity and the words of the question are never an answer, so an echo of the prompt states
nothing; nor does a citation, `[1]`. A response is not `clear` where it denies ("not in ..."),
offers an alternative ("... or ..."), admits not knowing beside a value, or buries the value under
more than `MOST_OTHER_WORDS` words from elsewhere.

It does not parse: a denial far from the value counts as one, and a paraphrase that is no alias of
the reference is not seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from plumbrule.atlas.relations import NAME_KINDS, WORDS
from plumbrule.errors import DataError

COURTESIES = (
    "happy to help",
    "glad to help",
    "thank you for asking",
    "thank you",
    "you are welcome",
    "with pleasure",
    "i hope this helps",
    "i hope that helps",
)
ADMISSIONS = (
    "i do not know",
    "i don't know",
    "i cannot know",
    "i can't know",
    "i cannot say",
    "i can't say",
    "i am not sure",
    "i'm not sure",
    "i have no information",
    "it is not known to me",
)
DENIALS = frozenset(
    ("not", "no", "never", "neither", "nor", "cannot", "don't", "doesn't", "isn't", "wasn't")
)
MOST_OTHER_WORDS = 12
"""Words beside values, entity, question and function words among which a value is still clear."""

_ARTICLES = frozenset(("a", "an", "the"))
_FUNCTION_TEXT = """
    and or but if so as at by for from in into of on to with about after before it its he she they
    his her their him them i you we me my your our this that these those there here is are was were
    be been being am has have had do does did will would can could may might must shall should who
    whom whose which what when where why how all one only also just than then very yes each thus
    far well
"""
_FUNCTION_WORDS = _ARTICLES | frozenset(_FUNCTION_TEXT.split())
_ENTITY, _ANSWER, _REMOVED = "<entity>", "<answer>", "<removed>"
_MARKERS = frozenset((_ENTITY, _ANSWER, _REMOVED))
_CITATION = re.compile(r"\s*\[\d{1,3}\]")
_TOKEN = re.compile(r"\w+(?:'\w+)?|[.!?]+(?=\s|$)|\n+|/")


class Judgement(NamedTuple):
    """What a response states (distinct values, normalised) and whether it admits not knowing.

    clear: nothing in it takes the stated value back, or hides it.
    """

    stated: tuple[str, ...]
    admits: bool
    clear: bool


class Word(NamedTuple):
    """One word, lower-cased; `begins` and `ends` say where in its sentence it stands."""

    text: str
    capital: bool = False
    begins: bool = False
    ends: bool = False


def judge(response: str, meta: Mapping[str, Any], question: str = "") -> Judgement:
    """Return what `response` states, by the rules above.

    Args: meta: of the prompt. question: the user's last turn.
    Raises: DataError: `aliases` or `values` is neither a text nor a list.
    """
    words = _words(_CITATION.sub("", response))
    admits = holds(normalise_answer(response), ADMISSIONS)
    for phrase in (*ADMISSIONS, *COURTESIES):
        words = _replace(words, phrase, _REMOVED)
    words = _replace(words, str(meta.get("entity", "")), _ENTITY)
    answers = references(meta)
    for answer in answers:
        words = _replace(words, answer, _ANSWER)
    asked = frozenset(normalise_answer(question).split())
    values = [normalise_answer(answers[0])] if any(w.text == _ANSWER for w in words) else []
    values += _other_values(words, meta, asked)
    familiar = _FUNCTION_WORDS | asked | {"/"} | {word for v in values for word in v.split()}
    others = [w.text for w in words if w.text not in _MARKERS and w.text not in familiar]
    if not values and not _has_kind(meta) and others and not admits:
        values = [" ".join(others)]
    clear = (
        not admits
        and not any(w.text in DENIALS for w in words)
        and not _is_alternative([w.text for w in words], _FUNCTION_WORDS | asked | {_ENTITY})
        and len(others) <= MOST_OTHER_WORDS
    )
    return Judgement(tuple(dict.fromkeys(values)), admits, clear)


def references(meta: Mapping[str, Any]) -> list[str]:
    """Return the reference answer and its aliases, longest first so that none hides another.

    Raises: DataError: `aliases` is neither a text nor a list.
    """
    texts = [str(meta.get("answer", "")), *_listed(meta, "aliases")]
    return sorted({t for t in texts if normalise_answer(t)}, key=lambda t: (-len(t), t))


def _listed(meta: Mapping[str, Any], name: str) -> list[str]:
    """Return the texts of an entry that is a list; a text is one, null is none.

    Raises: DataError: it is anything else.
    """
    given = meta.get(name)
    if given is None or isinstance(given, str):
        return [] if given is None else [given]
    if not isinstance(given, list | tuple):
        raise DataError(
            f"meta.{name} (={given!r:.80}) of a prompt must be a text or a list of texts; mend the "
            "prompt."
        )
    return [str(one) for one in given]


def normalise_answer(text: str) -> str:
    """Return `text` in lower case without punctuation and articles, words parted by one space."""
    return " ".join(word.text for word in _words(text))


def holds(normalised: str, phrases: Iterable[str]) -> bool:
    """Return whether one of the (normalised) phrases stands in the text as whole words."""
    padded = f" {normalised} "
    return any(f" {phrase} " in padded for phrase in phrases)


def is_polite(text: str) -> bool:
    """Return whether `text` holds one of `COURTESIES`."""
    return holds(normalise_answer(text), COURTESIES)


def _has_kind(meta: Mapping[str, Any]) -> bool:
    return "values" in meta or meta.get("value_kind") in (*WORDS, *NAME_KINDS)


def _other_values(
    words: Sequence[Word], meta: Mapping[str, Any], asked: frozenset[str]
) -> list[str]:
    """Return what `words` name beside the reference: values of the kind, and names."""
    kind = meta.get("value_kind")
    found: list[str] = []
    if "values" in meta:
        left = list(words)
        for value in sorted(set(_listed(meta, "values")), key=lambda v: (-len(v), v)):
            without = _replace(left, value, _REMOVED)
            if without != left:
                found.append(normalise_answer(value))
            left = without
    elif kind == "year":
        found = [w.text for w in words if w.text.isdigit() and w.text not in asked]
    elif kind in WORDS:
        options = frozenset(WORDS[kind])
        found = [w.text for w in words if w.text in options and w.text not in asked]
    if kind in (*WORDS, *NAME_KINDS):
        found += _names(words, asked, kind in NAME_KINDS)
    return found


def _names(words: Sequence[Word], asked: frozenset[str], single: bool) -> list[str]:
    """Return runs of capitalised words, but those that are wholly words of the question.

    single: runs of one word count, unless they begin a sentence that goes on.
    """
    names: list[str] = []
    run: list[Word] = []
    for word in (*words, Word("")):
        opens_plainly = word.begins and word.text in _FUNCTION_WORDS
        is_name = word.capital and not opens_plainly and word.text != "i"
        if run and (not is_name or word.begins):
            whole = len(run) > 1 or (single and (run[0].ends or not run[0].begins))
            if whole and not all(w.text in asked for w in run):
                names.append(" ".join(w.text for w in run))
            run = []
        if is_name:
            run.append(word)
    return names


def _is_alternative(text: Sequence[str], plain: frozenset[str]) -> bool:
    """Return whether "or" or a slash joins the reference to words that are not `plain`."""
    for index, word in enumerate(text):
        if word not in ("or", "/"):
            continue
        before, after = text[max(0, index - 2) : index], text[index + 1 : index + 3]
        if _ANSWER in before and any(w not in plain for w in after):
            return True
        if _ANSWER in after and any(w not in plain for w in before):
            return True
    return False


def _words(text: str) -> list[Word]:
    """Return the words of `text` without articles and possessive endings."""
    words: list[Word] = []
    begins = True
    for token in _TOKEN.findall(text.replace("’", "'")):
        if token[0] in ".!?\n":
            if words:
                words[-1] = words[-1]._replace(ends=True)
            begins = True
            continue
        plain = token.lower().removesuffix("'s")
        if plain not in _ARTICLES:
            words.append(Word(plain, token[0].isupper(), begins))
        begins = False
    if words:
        words[-1] = words[-1]._replace(ends=True)
    return words


@lru_cache(maxsize=8192)
def _wanted(phrase: str) -> tuple[str, ...]:
    return tuple(word.text for word in _words(phrase))


def _replace(words: list[Word], phrase: str, marker: str) -> list[Word]:
    """Return `words` with each occurrence of `phrase` replaced by one marker."""
    wanted = _wanted(phrase)
    if not wanted or all(word.text != wanted[0] for word in words):
        return words
    out: list[Word] = []
    index = 0
    while index < len(words):
        found = words[index : index + len(wanted)]
        if tuple(word.text for word in found) == wanted:
            out.append(Word(marker, False, found[0].begins, found[-1].ends))
            index += len(wanted)
        else:
            out.append(words[index])
            index += 1
    return out
