"""Rewrites of both answers of a pair that keep their meaning: a sound judge's verdict stays.

After the idea of reWordBench (Wu et al. 2025, arXiv:2503.11751); the rewrites are ours and rules
alone, so they can be applied to any pairs and need no model. Of each stand the accuracy of the same
pairs before and after, and `flips`, the share whose verdict changes: from one answer to the other,
or from or to a tie. Typos and a different order of paragraphs may cost a reader something, but they
cost both answers the same.

Random numbers belong to the pair, the rewrite and the answer's text, so a text is rewritten alike
wherever it occurs.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eval.intervals import Intervals, Metrics, Row, known
from plumbrule.lm.randomness import row_key

TYPO_SHARE = 0.1
"""Of the words of at least four letters, that have two letters exchanged."""


def framed(text: str, rng: random.Random) -> str:
    """Return the text behind a sentence that says nothing."""
    return f"Here is my answer to this question.\n\n{text}"


def padded(text: str, rng: random.Random) -> str:
    """Return the text with spaces at line ends and empty lines around it."""
    return "\n\n" + text.replace("\n", "  \n") + "\n\n"


def quoted(text: str, rng: random.Random) -> str:
    """Return the text as a quotation in markdown."""
    return "\n".join(f"> {line}" for line in text.split("\n"))


def without_markup(text: str, rng: random.Random) -> str:
    """Return the text without markdown's emphasis, headings and bullets."""
    plain = re.sub(r"(?m)^[ \t]*(#{1,6}|[-*+])[ \t]+", "", text)
    return re.sub(r"(\*\*|__|`)(?=\S)(.+?)(?<=\S)\1", r"\2", plain)


def with_markup(text: str, rng: random.Random) -> str:
    """Return the text below a heading, its first words in bold."""
    head, space, rest = text.partition(" ")
    return f"## Answer\n\n**{head}**{space}{rest}"


def with_typos(text: str, rng: random.Random) -> str:
    """Return the text with two inner letters exchanged in every tenth longer word, at least one."""
    words = re.split(r"(\s+)", text)
    places = [i for i, word in enumerate(words) if len(word) >= 4 and word.isalpha()]
    if not places:
        return text
    for i in rng.sample(places, max(1, round(TYPO_SHARE * len(places)))):
        word = words[i]
        at = rng.randrange(1, len(word) - 2)
        words[i] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return "".join(words)


def reordered(text: str, rng: random.Random) -> str:
    """Return the text with the items of its list reversed, where it has a list without numbers."""
    lines = text.split("\n")
    places = [i for i, line in enumerate(lines) if re.match(r"[-*+] ", line)]
    for i, j in zip(places, reversed(places), strict=True):
        if i < j:
            lines[i], lines[j] = lines[j], lines[i]
    return "\n".join(lines)


REWRITES: Mapping[str, Callable[[str, random.Random], str]] = {
    "framed": framed,
    "padded": padded,
    "quoted": quoted,
    "without_markup": without_markup,
    "with_markup": with_markup,
    "with_typos": with_typos,
    "reordered": reordered,
}
"""Name -> what becomes of an answer. A pair of which neither answer changes is left out."""


def rewritten(name: str, text: str, seed: int) -> str:
    """Return a text after one of the rewrites."""
    return REWRITES[name](text, random.Random(row_key("rewrite", seed, name, text)))


def rewrite_row(
    name: str, id: str, group: str, before: tuple[float, float], after: tuple[float, float]
) -> dict[str, Any]:
    """Return a pair's row. Args: before, after: scores of the better and of the worse answer."""
    old, new = (verdict(*scores) for scores in (before, after))
    return {
        "id": f"{id}/{name}",
        "group": group,
        "rewrite": name,
        "before": (old + 1) / 2,
        "after": (new + 1) / 2,
        "flips": int(old != new),
    }


def verdict(better: float, worse: float) -> int:
    """Return 1 where the better answer scores higher, 0 where they tie, else -1."""
    return (better > worse) - (better < worse)


def summarise_rewrites(rows: Sequence[Row], intervals: Intervals) -> Metrics:
    """Return `<rewrite>_before`, `<rewrite>_after` and `<rewrite>_flips`, and `flips` of all."""
    metrics: dict = {}
    for name in dict.fromkeys(row["rewrite"] for row in rows):
        own = [row for row in rows if row["rewrite"] == name]
        for column in ("before", "after", "flips"):
            metrics[f"{name}_{column}"] = intervals.share(own, column)
    metrics["flips"] = intervals.share(rows, "flips")
    return known(metrics)
