"""What a search of a live store is asked with: checked before anything is read. No numpy."""

from __future__ import annotations

from collections.abc import Iterable

from plumbrule.config import require
from rag.chunks import EVERYONE
from rag.documents import is_unicode


def require_queries(queries: object, groups: object) -> None:
    """Raise ConfigError for queries or groups that are one text, or no Unicode."""
    for name, texts in (("queries", queries), ("groups", groups)):
        is_list = isinstance(texts, Iterable) and not isinstance(texts, str)
        require(is_list, name, f"{texts!r:.80}", "be a list of texts", "put it in brackets")
    for query in queries if isinstance(queries, Iterable) else ():
        sound = isinstance(query, str) and is_unicode(query)
        require(sound, "query", f"{query!r:.80}", "be text in UTF-8", "type it again in UTF-8")


def require_principal(principal: str) -> None:
    """Raise ConfigError unless a search is made for somebody in particular."""
    require(
        bool(principal.strip()) and principal != EVERYONE,
        "principal",
        repr(principal),
        "name who asks",
        "give the name that access rules have for them",
    )
