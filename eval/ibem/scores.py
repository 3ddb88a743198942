"""Found expressions against those of the page: where they are, and what they say.

Boxes of one page and type are matched one to one, those that overlap most first, from
intersection over union `iou` on. Of matched expressions:

    exact        the LaTeX is the same, but for spaces around it
    normalised   the same tokens as `latex_norm`, without spacing and sizes
    edit         1 - Levenshtein distance over the longer of the two, in those tokens
    bleu         sacrebleu's over all of them, in those tokens
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval.ibem.records import Box, MathExpression
from eval.intervals import Intervals, Metrics, Row, known
from plumbrule.statistics import point

_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|\S", re.DOTALL)
_UNSEEN = {
    *(r"\left", r"\right", r"\big", r"\Big", r"\bigg", r"\Bigg", r"\displaystyle", r"\textstyle"),
    *(r"\,", r"\;", r"\:", r"\!", "\\ ", "\\\n", r"\quad", r"\qquad", "~"),
}
"""Tokens that change spacing or size alone."""
BLEU_SETTINGS = "tok:none, LaTeX tokens"


def tokens(latex: str) -> list[str]:
    """Return the tokens of LaTeX (commands, escaped characters, characters), but spacing, sizes."""
    return [token for token in _TOKEN.findall(latex) if token not in _UNSEEN]


def overlap(one: Box, other: Box) -> float:
    """Return intersection over union of two boxes, in [0, 1]."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (sum(areas) - both)


def match_boxes(
    true: Sequence[MathExpression], found: Sequence[MathExpression], iou: float
) -> list[tuple[int, int]]:
    """Return (place of a true one, place of a found one) of matched boxes, of one page."""
    pairs = []
    for i, one in enumerate(true):
        for j, other in enumerate(found):
            if one.type == other.type and one.box is not None and other.box is not None:
                share = overlap(one.box, other.box)
                if share >= iou:
                    pairs.append((-share, i, j))
    matched: dict[int, int] = {}
    taken: set[int] = set()
    for _, i, j in sorted(pairs):
        if i not in matched and j not in taken:
            matched[i] = j
            taken.add(j)
    return sorted(matched.items())


def match_numbers(
    true: Sequence[MathExpression], found: Sequence[MathExpression]
) -> list[tuple[int, int]]:
    """Return the same of expressions of one type and number."""
    places = {(one.type, one.number): j for j, one in enumerate(found)}
    keys = [(one.type, one.number) for one in true]
    return [(i, places[key]) for i, key in enumerate(keys) if key in places]


def edit_similarity(one: Sequence[str], other: Sequence[str]) -> float:
    """Return 1 - Levenshtein distance / length of the longer, in [0, 1]; 1 of two empty ones."""
    longer = max(len(one), len(other))
    if not longer:
        return 1.0
    numbers: dict[str, int] = {}
    a, b = (np.array([numbers.setdefault(t, len(numbers)) for t in x], int) for x in (one, other))
    steps = np.arange(len(b) + 1)
    row = steps.copy()
    for i, token in enumerate(a, 1):
        changed = np.minimum(row[1:] + 1, row[:-1] + (b != token))
        # An insertion costs 1 more than what stands to its left: a running minimum.
        row = np.minimum.accumulate(np.concatenate([[i], changed]) - steps) + steps
    return 1.0 - float(row[-1]) / longer


def compared(true: MathExpression, found: MathExpression) -> dict[str, Any]:
    """Return the row of one matched pair."""
    gold, said = tokens(true.latex_norm), tokens(found.latex_norm)
    return {
        "id": true.id,
        "group": true.document,
        "condition": "closed",
        "type": true.type,
        "exact": int(true.latex.strip() == found.latex.strip()),
        "normalised": int(gold == said),
        "edit": edit_similarity(gold, said),
        "found": " ".join(said),
        "gold": " ".join(gold),
    }


def page_row(
    page: str, group: str, type: str, true: int, found: int, matched: int
) -> dict[str, Any]:
    """Return how many boxes of a page and type there are, were found, and match."""
    return {
        "id": f"{page}/{type}",
        "group": group,
        "type": type,
        "true": true,
        "found": found,
        "matched": matched,
    }


def ratio(top: np.ndarray, *below: np.ndarray) -> float:
    """Return the sum of the first over the mean of the sums of the others; NaN over 0."""
    total = sum(float(x.sum()) for x in below) / len(below)
    return float(top.sum()) / total if total else float("nan")


SPANS: Mapping[str, Sequence[str]] = {
    "span_precision": ("matched", "found"),
    "span_recall": ("matched", "true"),
    "span_f1": ("matched", "found", "true"),
}
"""Metric -> columns of `page_row`: F1 is 2 matched / (found + true)."""


def summarise(pairs: Sequence[Row], pages: Sequence[Row], intervals: Intervals) -> Metrics:
    """Return the metrics of matched pairs and, of rows of pages, of the boxes."""
    metrics: dict = {name: intervals.share(pairs, name) for name in ("exact", "normalised")}
    metrics["edit"] = intervals.mean(pairs, "edit")
    if pairs:
        metrics["bleu"] = point(
            bleu([row["found"] for row in pairs], [row["gold"] for row in pairs])[0], len(pairs)
        )
    for name, columns in SPANS.items():
        if sum(row[column] for row in pages for column in columns[1:]):
            metrics[name] = intervals.statistic(ratio, pages, columns, low=0.0)
    return known(metrics)


def bleu(found: Sequence[str], gold: Sequence[str]) -> tuple[float, str]:
    """Return sacrebleu's BLEU of texts whose tokens stand apart, 0 to 100, and its signature."""
    from sacrebleu.metrics import BLEU  # planning needs none

    metric = BLEU(tokenize="none", force=True)
    score = metric.corpus_score(list(found), [list(gold)])
    return float(score.score), str(metric.get_signature())
