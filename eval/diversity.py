"""How varied the answers of one policy are: distinct-n over all of them, self-BLEU of each.

distinct-n of Li et al. 2016 (arXiv:1510.03055): different n-grams over all n-grams of all answers
together; an n-gram lies within one answer. It falls as there is more text, so it compares between
sets of the same prompts and of like length only. Words are lower-cased, without punctuation.

Self-BLEU of Zhu et al. 2018 (arXiv:1802.01886): the BLEU of an answer with the other answers as
its references, 0 to 100; high where they say the same. It is sacrebleu's sentence BLEU, and each of
the first `SELF_BLEU_ANSWERS` is compared with the others of them, since it rises with the number of
references.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from eval.intervals import Intervals, Metrics, Row, having, known
from plumbrule.statistics import Interval

SELF_BLEU_ANSWERS = 64
DISTINCT = (1, 2)
"""The n of distinct-n."""
_WORD = re.compile(r"\w+(?:'\w+)?")


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """Return the n-grams of a text's words, in order, with repeats."""
    words = _WORD.findall(text.lower())
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def distinct(texts: Sequence[str], n: int) -> float:
    """Return distinct-n, in [0, 1]; NaN where no text has n words."""
    found = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(found)) / len(found) if found else float("nan")


def self_bleu(texts: Sequence[str]) -> list[float]:
    """Return the BLEU of each of the first texts with the others of them as references, 0 to 100.

    There is none of fewer than two texts. An empty text, and one that has no word in common with
    another, scores 0.
    """
    from sacrebleu.metrics import BLEU  # planning needs none

    some = list(texts[:SELF_BLEU_ANSWERS])
    if len(some) < 2:
        return []
    metric = BLEU(effective_order=True)
    return [
        float(metric.sentence_score(text, [*some[:i], *some[i + 1 :]]).score)
        for i, text in enumerate(some)
    ]


def signature() -> str:
    """Return under which settings two values of self-BLEU compare."""
    from importlib.metadata import version

    return f"self_bleu:sacrebleu {version('sacrebleu')}, eff:yes, tok:13a, n:{SELF_BLEU_ANSWERS}"


def summarise(rows: Sequence[Row], intervals: Intervals) -> Metrics:
    """Return `distinct_1`, `distinct_2` and `self_bleu` of rows with a `response`.

    Of distinct-n the interval is a jackknife by group. That of self-BLEU takes the answers that
    each one is compared with as given.
    """
    answered = having(rows, "response")
    metrics = {f"distinct_{n}": _distinct(answered, n, intervals) for n in DISTINCT}
    metrics["self_bleu"] = intervals.mean(rows, "self_bleu")
    return known(metrics)


def _distinct(rows: Sequence[Row], n: int, intervals: Intervals) -> Interval | None:
    numbers: dict[tuple[str, ...], int] = {}
    grams = [
        np.array([numbers.setdefault(g, len(numbers)) for g in ngrams(row["response"], n)], int)
        for row in rows
    ]
    if not numbers:
        return None

    def of(places: np.ndarray) -> float:
        chosen = np.concatenate([grams[int(place)] for place in places])
        return len(np.unique(chosen)) / len(chosen) if len(chosen) else float("nan")

    numbered = [{**row, "place": place} for place, row in enumerate(rows)]
    return intervals.statistic(of, numbered, ["place"], low=0.0)
