"""What a text has in common with its references: exact match and F1 as SQuAD's, BLEU, ROUGE.

Exact match and F1 are those of Rajpurkar et al. 2016 (arXiv:1606.05250): lower case, without
punctuation and the articles a, an, the, single-spaced; F1 counts words with their number, and the
best reference counts. BLEU is sacrebleu's and ROUGE rouge-score's, each with the signature under
which its numbers compare.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
ROUGES = ("rouge1", "rouge2", "rougeL")


def normalise_answer(text: str) -> str:
    """Return a text as SQuAD's script compares it."""
    plain = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", plain).split())


def exact_match(text: str, references: Sequence[str]) -> int:
    """Return 1 where the text is one of the references, normalised, else 0."""
    return int(normalise_answer(text) in {normalise_answer(r) for r in references})


def word_f1(text: str, references: Sequence[str]) -> float:
    """Return the best F1 of words with a reference, in [0, 1]; two empty texts are alike."""
    return max(_f1(normalise_answer(text).split(), normalise_answer(r).split()) for r in references)


def _f1(words: Sequence[str], reference: Sequence[str]) -> float:
    if not words or not reference:
        return float(list(words) == list(reference))
    common = sum((Counter(words) & Counter(reference)).values())
    if not common:
        return 0.0
    precision, recall = common / len(words), common / len(reference)
    return 2 * precision * recall / (precision + recall)


def corpus_bleu(texts: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, str]:
    """Return sacrebleu's BLEU of all texts together, 0 to 100, and its signature.

    Args: references: of each text, at least one; where texts have different numbers of them, the
        first ones of all count.
    """
    from sacrebleu.metrics import BLEU  # planning needs none

    number = min(len(own) for own in references)
    metric, columns = BLEU(), [[own[k] for own in references] for k in range(number)]
    score = metric.corpus_score(list(texts), columns)
    return float(score.score), str(metric.get_signature())


def rouge(text: str, references: Sequence[str]) -> Mapping[str, float]:
    """Return the best F-measure of rouge1, rouge2 and rougeL with a reference, in [0, 1]."""
    found = _rouge_scorer().score_multi(list(references), text)
    return {name: float(found[name].fmeasure) for name in ROUGES}


def rouge_signature() -> str:
    """Return what the ROUGE of `rouge` is."""
    from importlib.metadata import version

    return f"rouge-score {version('rouge-score')}, {', '.join(ROUGES)}, stemmed, F-measure"


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # planning needs none

    return RougeScorer(list(ROUGES), use_stemmer=True)
