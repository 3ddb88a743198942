"""A summary of each document, to be searched in its place (`rag/search/summaries.py`).

`lead` is its first sentence, `field` its `meta.summary`, and `written` a language model's.
"""

from __future__ import annotations

from collections.abc import Sequence

from plumbrule.data.records import Document
from plumbrule.errors import ConfigError, DataError, listed
from rag.chunking.cutting import sentence_spans
from rag.search.models import Answer

SUMMARY = "summary"


def lead(documents: Sequence[Document], answer: Answer | None) -> list[str]:
    """Return each document's first sentence."""
    found = []
    for document in documents:
        start, end = next(iter(sentence_spans(document.text)), (0, len(document.text)))
        found.append(document.text[start:end])
    return found


def field(documents: Sequence[Document], answer: Answer | None) -> list[str]:
    """Return each document's `meta.summary`.

    Raises: DataError: documents without one; the first are named.
    """
    found = [document.meta.get(SUMMARY) for document in documents]
    lacking = [
        document.id
        for document, text in zip(documents, found, strict=True)
        if not isinstance(text, str) or not text.strip()
    ]
    if lacking:
        raise DataError(
            f"{len(lacking)} documents ({listed(lacking)}) must have a text in meta.summary for "
            "rag.refine.summaries (=field); write one, or use lead or written."
        )
    return [str(text) for text in found]


def written(documents: Sequence[Document], answer: Answer | None) -> list[str]:
    """Return a language model's summary of each document; its first sentence where it says nothing.

    Raises: ConfigError: there is no language model.
    """
    if answer is None:
        raise ConfigError(
            "rag.refine.summaries (=written) must have a language model; name "
            "rag.refine.language_model.name_or_path."
        )
    prompts = [
        f"Summarise the text in one sentence.\n\n{_titled(document)}\n\nSummary:"
        for document in documents
    ]
    texts = zip(answer(prompts), lead(documents, None), strict=True)
    return [text if text.strip() else first for text, first in texts]


def _titled(document: Document) -> str:
    return f"{document.title}\n{document.text}" if document.title else document.text
