"""Expressions of pages, as `IBEM.json` has them (Anitei et al. 2023, zenodo.org/records/7963703).

    {"<document>-page01": {"preamble": "...",
        "embedded": {"0": {"x_min": 10.0, "y_min": 5.0, "x_max": 14.0, "y_max": 7.0, "split": 0,
            "latex": "2 \\eps", "latex_expand": "2 \\epsilon", "latex_norm": "2 \\epsilon"}},
        "displayed": {...}}}

A box is in percent of the page's width and height. Older copies call displayed expressions
isolated. An expression that is split over lines or pages is repeated, whole, with each box. The
images of the pages are not read, nor is the preamble. A prediction may leave out
`latex_norm`, or with `match=number` the box.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from plumbrule.data.strict_json import parse_json
from plumbrule.errors import DataError

TYPES = {"embedded": "embedded", "displayed": "displayed", "isolated": "displayed"}
"""Key of a page -> type of its expressions."""
_BOX = ("x_min", "y_min", "x_max", "y_max")
_PAGE = re.compile(r"[-_. ]*page.*$", re.IGNORECASE)

Box = tuple[float, float, float, float]


class MathExpression(NamedTuple):
    """One expression. type: embedded or displayed. box: percent of the page; None: not given."""

    page: str
    type: str
    number: str
    latex: str
    latex_norm: str
    box: Box | None

    @property
    def id(self) -> str:
        """Its name in the file."""
        return f"{self.page}/{self.type}/{self.number}"

    @property
    def document(self) -> str:
        """The paper that its page is of: what is resampled together."""
        return document_of(self.page)


class IbemPages(NamedTuple):
    """Page -> its expressions, and why others were left out -> how many."""

    pages: dict[str, list[MathExpression]]
    dropped: Counter[str]


def document_of(page: str) -> str:
    """Return the name of a page before `page`; the whole name where that isn't in it."""
    return _PAGE.sub("", page) or page


def read_ibem(path: Path, *, boxes: bool = True) -> IbemPages:
    """Return the expressions of a file by page; those without text are left out and counted.

    Args: boxes: whether each expression must have one.
    Raises: DataError: no such JSON, or an expression without its texts or with a bad box.
    """
    try:
        found = parse_json(path.read_bytes())
    except ValueError as error:
        raise DataError(f"the file must be JSON: {error}.", path) from None
    except OSError as error:
        raise DataError(
            f"the file can't be read ({error.strerror}); check its path.", path
        ) from None
    if not isinstance(found, Mapping) or not found:
        raise DataError("the file must hold an object of pages by name.", path)
    pages: dict[str, list[MathExpression]] = {}
    dropped = Counter[str]()
    for page, content in found.items():
        if not isinstance(content, Mapping):
            raise DataError(f"page {page!r} must be an object with embedded or displayed.", path)
        pages[page] = []
        for key, type in TYPES.items():
            for number, given in numbered(content.get(key, {}), f"{page}/{key}", path):
                one = expression(page, type, number, given, path, boxes)
                if one.latex.strip() or one.latex_norm.strip():
                    pages[page].append(one)
                else:
                    dropped["expression without text"] += 1
    return IbemPages(pages, dropped)


def numbered(given: Any, where: str, path: Path) -> list[tuple[str, Any]]:
    """Return (number, expression) of an object by number, or of a list."""
    if isinstance(given, Mapping):
        return list(given.items())
    if isinstance(given, list):
        return [(str(number), one) for number, one in enumerate(given)]
    raise DataError(f"{where} (={given!r:.80}) must be an object or a list.", path)


def expression(
    page: str, type: str, number: str, given: Any, path: Path, boxes: bool
) -> MathExpression:
    """Return one expression of the file. Raises: DataError: a text or the box is missing or bad."""
    where = f"{page}/{type}/{number}"
    if not isinstance(given, Mapping) or not isinstance(given.get("latex"), str):
        raise DataError(f"{where} (={given!r:.80}) must be an object with the text latex.", path)
    norm = given.get("latex_norm", given["latex"])
    if not isinstance(norm, str):
        raise DataError(f"{where}: latex_norm (={norm!r:.80}) must be text.", path)
    box = tuple(given.get(name) for name in _BOX)
    if not boxes and box == (None,) * 4:
        return MathExpression(page, type, number, given["latex"], norm, None)
    if not all(isinstance(x, int | float) and not isinstance(x, bool) for x in box):
        raise DataError(f"{where}: {', '.join(_BOX)} (={list(box)}) must be numbers.", path)
    left, top, right, bottom = (float(x) for x in box if x is not None)
    if not (0 <= left < right <= 100 and 0 <= top < bottom <= 100):
        raise DataError(
            f"{where}: box (={[left, top, right, bottom]}) must lie in 0 to 100 percent of the page"
            " and have an area.",
            path,
        )
    return MathExpression(page, type, number, given["latex"], norm, (left, top, right, bottom))
