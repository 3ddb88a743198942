"""Documents that are to be stored: what their ids, texts and rules must be."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace

from plumbrule.data.records import Document
from plumbrule.errors import DataError
from rag.chunks import place_and_rule, places_of, principals


def with_rule(document: Document, readers: Sequence[str]) -> Document:
    """Return a document that states its access rule: its own, else `readers`; [] is nobody.

    Raises: DataError: as `require_storable`, or a rule that is no list of principals.
    """
    require_storable(document)
    rule = principals(document.meta.get("readers", readers), f"document {document.id!r:.80}")
    return replace(document, meta={**document.meta, "readers": list(rule)})


def checked(documents: Iterable[Document], readers: Sequence[str]) -> list[Document]:
    """Return documents with their rules, as a store takes them.

    Raises: DataError: as `with_rule`, or two of one id.
    """
    ruled = [with_rule(document, readers) for document in documents]
    seen: set[str] = set()
    for document in ruled:
        if document.id in seen:
            raise DataError(f"two documents have the id {document.id!r:.80}; give each its own.")
        seen.add(document.id)
    return ruled


def require_storable(document: Document) -> None:
    """Raise DataError for a document that no store can hold.

    An id that is blank or that SQLite can't hold, a text that is no Unicode, a `meta` that is no
    JSON, and a rule or places of another form.
    """
    whose = f"document {document.id!r:.80}"
    if not document.id.strip():
        raise DataError(f"{whose} must have an id that is not blank; give it one.")
    if "\0" in document.id or not is_unicode(document.id):
        raise DataError(f"{whose} must have an id without NUL, in Unicode.")
    for name, value in (("text", document.text), ("title", document.title)):
        if not is_unicode(value):
            raise DataError(f"{whose}: {name} must be Unicode (it has a lone surrogate); mend it.")
    try:
        sound = is_unicode(json.dumps(dict(document.meta), ensure_ascii=False, sort_keys=True))
    except (TypeError, ValueError, RecursionError):
        sound = False
    if not sound:
        raise DataError(f"{whose}: meta must be JSON of Unicode texts; mend it, or leave it out.")
    place_and_rule(document, ())
    places_of(document)


def is_unicode(text: str) -> bool:
    """Return whether a text can be written: lone surrogates are no Unicode."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
