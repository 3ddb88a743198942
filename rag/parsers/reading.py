"""All files below some paths, parsed: the documents, and what became of each file.

A document's id is the file's path below the folder that was given (its name, if the file itself
was), so that reading a folder again gives the same ids; rows of JSON Lines bring their own. What
can't be parsed is reported and left out. So is a document whose id another has already, one that no
store can hold, and a link that leads out of the folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from plumbrule.data.records import Document
from plumbrule.errors import DataError
from plumbrule.registry import Registry
from plumbrule.store.source_files import is_litter, require_readable
from rag.documents import require_storable
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
        for path, problem in found_under(root):
            id = clean(path.name if path == root else path.relative_to(root).as_posix())
            parsed = problem or parse_file(path, id)
            if isinstance(parsed, str):
                reports.append(FileReport(str(path), 0, parsed, []))
                continue
            notes, number = list(parsed.notes), 0
            for place, document in enumerate(parsed.documents, 1):
                try:
                    require_storable(document)
                except DataError as error:
                    notes.append(f"left out its document {place}: {error}")
                    continue
                if document.id in documents:
                    notes.append(f"document {document.id!r:.80} was read already; left out")
                    continue
                documents[document.id] = document
                number += 1
            problem = "" if number else (notes[0] if notes else "has no documents")
            reports.append(FileReport(str(path), number, problem, notes))
    return list(documents.values()), reports


def found_under(root: Path) -> list[tuple[Path, str]]:
    """Return the files at or below `root` but for litter, each with why it is not read, if so.

    What can't be read (a FIFO, a link to nothing, a folder without permission) is named with its
    reason, and so are links to folders and links to files outside `root`: whoever names a folder
    names what is in it.
    Raises: DataError: `root` is not there.
    """
    if not os.path.lexists(root):
        require_readable(root)
    if not root.is_dir():
        return [(root, _problem(root))]
    if problem := _problem(root):
        return [(root, problem)]
    found: list[tuple[Path, str]] = []
    inside = root.resolve()

    def refuse(error: OSError) -> None:
        found.append((Path(error.filename), f"the folder can't be read ({error.strerror})"))

    for folder, folders, names in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if not is_litter(name)]
        linked = [name for name in folders if Path(folder, name).is_symlink()]
        found += [
            (Path(folder, name), "is a link to a folder; name that folder") for name in linked
        ]
        for name in names:
            path = Path(folder, name)
            if is_litter(name):
                continue
            problem = _problem(path)
            if not problem and path.is_symlink() and not path.resolve().is_relative_to(inside):
                problem = f"is a link out of {root}; name its file {path.resolve()}"
            found.append((path, problem))
    return sorted(found)


def _problem(path: Path) -> str:
    """Return why a file can't be opened; "": it can."""
    try:
        require_readable(path)
    except DataError as error:
        return str(error).removeprefix(f"{path}: ")
    return ""


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
