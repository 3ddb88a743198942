"""What a chunk is about in its document, written by a language model before it is indexed.

The text becomes `context` of the chunk's metadata and stands in its header
(`rag/index/headers.py`). It is made of one document, whose chunks all have its rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from plumbrule.data.records import Document
from rag.chunks import Chunk
from rag.search.models import Answer

CONTEXT = "context"


def with_contexts(
    chunks: Sequence[Chunk], documents: Sequence[Document], answer: Answer
) -> list[Chunk]:
    """Return the chunks with `context` in their metadata; those that have one keep it.

    A chunk of which the model says nothing gets none.
    """
    texts: Mapping[str, Document] = {document.id: document for document in documents}
    todo = [row for row, chunk in enumerate(chunks) if CONTEXT not in chunk.metadata]
    prompts = [_prompt(texts[chunks[row].document], chunks[row]) for row in todo]
    found = list(chunks)
    for row, text in zip(todo, answer(prompts), strict=True):
        if text.strip():
            metadata = {**chunks[row].metadata, CONTEXT: " ".join(text.split())}
            found[row] = chunks[row]._replace(metadata=metadata)
    return found


def with_placeholders(chunks: Sequence[Chunk]) -> list[Chunk]:
    """Return the chunks as if they had contexts, so that fields can be checked beforehand."""
    return [c._replace(metadata={CONTEXT: "", **c.metadata}) for c in chunks]


def _prompt(document: Document, chunk: Chunk) -> str:
    title = f"{document.title}\n" if document.title else ""
    return (
        "Say in one sentence what the passage is about, given the document that it stands in.\n\n"
        f"Document: {title}{document.text}\n\nPassage: {chunk.text}\n\nSentence:"
    )
