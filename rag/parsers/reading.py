"""All files below some paths, parsed: the documents, and what became of each file.

A document's id is the file's path below the folder that was given (its name, if the file itself
was), so that reading a folder again gives the same ids; rows of JSON Lines bring their own. What
can't be parsed is reported and left out. So is a document whose id another has already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from plumbrule.data.records import Document
from plumbrule.errors import DataError
from plumbrule.registry import Registry
from plumbrule.store.source_files import files_under
from rag.parsers.parsed import Parsed, clean

IMAGE = ("rag.parsers.images:parse",)
HTML = ("rag.parsers.html:parse",)
PARSERS: Registry[Callable[[Path, str], Parsed]] = Registry(
    "the ending of a file",
    {
        "txt": ("rag.parsers.text:parse",),
        "text": ("rag.parsers.text:parse",),
        "md": ("rag.parsers.markdown:parse",),
        "markdown": ("rag.parsers.markdown:parse",),
        "html": HTML,
        "htm": HTML,
        "xhtml": HTML,
        "pdf": ("rag.parsers.pdf:parse",),
        "docx": ("rag.parsers.docx:parse",),
        "csv": ("rag.parsers.tables:parse",),
        "tsv": ("rag.parsers.tables:parse",),
        "jsonl": ("rag.parsers.json_lines:parse",),
        "png": IMAGE,
        "jpg": IMAGE,
        "jpeg": IMAGE,
        "tif": IMAGE,
        "tiff": IMAGE,
        "bmp": IMAGE,
        "gif": IMAGE,
        "webp": IMAGE,
    },
)
"""Ending, in lower case and without its dot -> parser."""


class FileReport(NamedTuple):
    """What became of a file."""

    path: str
    documents: int
    problem: str
    """Why nothing of it was read; "": something was."""
    notes: list[str]


def read_files(paths: Iterable[Path]) -> tuple[list[Document], list[FileReport]]:
    """Return the documents of the files at or below `paths`, and what became of each file.

    Raises: DataError: a path that is not there.
    """
    documents: dict[str, Document] = {}
    reports: list[FileReport] = []
    for root in paths:
        for path in files_under(root):
            id = clean(path.name if path == root else path.relative_to(root).as_posix())
            parsed = parse_file(path, id)
            if isinstance(parsed, str):
                reports.append(FileReport(str(path), 0, parsed, []))
                continue
            notes, number = list(parsed.notes), 0
            for document in parsed.documents:
                if document.id in documents:
                    notes.append(f"document {document.id!r:.80} was read already; left out")
                    continue
                documents[document.id] = document
                number += 1
            problem = "" if number else (notes[0] if notes else "has no documents")
            reports.append(FileReport(str(path), number, problem, notes))
    return list(documents.values()), reports


def parse_file(path: Path, id: str) -> Parsed | str:
    """Return what a file holds, or why it can't be read."""
    ending = path.suffix.lower().removeprefix(".")
    if ending not in PARSERS:
        return f"no parser reads files that end in .{ending}" if ending else "has no ending"
    try:
        return PARSERS[ending](path, id)
    except ImportError as error:
        return f"needs a library that is not installed ({error}): pip install plumbrule[documents]"
    except DataError as error:
        return str(error)
    except Exception as error:  # whatever a library raises on a damaged file: the others are read
        return f"can't be read ({type(error).__name__}: {error!s:.200})"
