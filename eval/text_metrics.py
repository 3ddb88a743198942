"""What a text has in common with its references: BLEU and ROUGE.

BLEU is sacrebleu's and ROUGE rouge-score's, each with the signature under which its numbers
compare. Exact match and F1 are in `plumbrule/grounding/answer_match.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

ROUGES = ("rouge1", "rouge2", "rougeL")


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
