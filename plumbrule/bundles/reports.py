"""The reports of a run, made again of what its archive holds.

The page and its text are made of the record and the artifacts' files alone, so the version that
wrote them writes the same again. Another version may word or order things otherwise; where it does,
rows of tables that it has as well are still compared, cell by cell.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import TemplateError

from plumbrule.errors import PlumbruleError
from plumbrule.report import render_report
from plumbrule.report.rollouts.names import page_name
from plumbrule.store.layout import REPORT_PAGE, REPORT_TEXT

NOT_OURS = (
    *(AttributeError, KeyError, TypeError, ValueError, IndexError),
    *(RecursionError, ArithmeticError),
)
"""What our code raises where a file holds something else than our versions write."""


class ReportCheck(NamedTuple):
    """What became of the reports. same: whether both are what their artifacts give, to the byte.

    wrong, notes: sentences.
    """

    same: bool
    wrong: Sequence[str]
    notes: Sequence[str]


def check_reports(root: Path, run: str, record: Mapping[str, Any]) -> ReportCheck:
    """Return whether the reports of an unpacked run are what its artifacts give.

    Args: root: of the unpacked archive. run: its folder inside.
    """
    names = {REPORT_TEXT: root / run / REPORT_TEXT, REPORT_PAGE: root / run / REPORT_PAGE}
    missing = [name for name, path in names.items() if not path.is_file()]
    if missing:
        return ReportCheck(False, [f"{run}/{name} is missing" for name in missing], [])
    nodes = record["nodes"]
    policies = [name for name, node in nodes.items() if node["kind"] == "ppo"]
    pages = {name: page_name(name, len(policies) == 1) for name in policies}
    there = {n: page if (root / run / page).is_file() else None for n, page in pages.items()}
    try:
        folders = {name: root / node["artifact"] for name, node in nodes.items()}
        page, text = render_report(record, folders, there)
    except (*NOT_OURS, PlumbruleError, TemplateError) as error:
        told = f"{type(error).__name__}: {error}".replace(str(root), "<archive>")
        note = f"the report can't be made again, so it was not compared ({told:.120})"
        return ReportCheck(False, [], [note])
    others = [
        f"{path.name} was not compared"
        for path in sorted((root / run).glob("*.html"))
        if path.name != REPORT_PAGE
    ]
    own = names[REPORT_TEXT].read_text(encoding="utf-8", errors="replace")
    own_page = names[REPORT_PAGE].read_text(encoding="utf-8", errors="replace")
    if own == text:
        wrong = [] if own_page == page else [f"{REPORT_PAGE} is not what its artifacts give"]
        return ReportCheck(not wrong, wrong, others)
    wrong = changed_rows(own.splitlines(), text.splitlines())
    changes = [line[:1] for line in difflib.ndiff(own.splitlines(), text.splitlines())]
    lines = max(changes.count("-"), changes.count("+"))
    notes = [f"{lines} lines of {REPORT_TEXT} are not what this version writes"]
    if own_page != page:
        notes.append(f"{REPORT_PAGE} is not what this version writes, and was not compared")
    return ReportCheck(False, [f"{REPORT_TEXT} {one}" for one in wrong], [*notes, *others])


def changed_rows(told: Sequence[str], again: Sequence[str]) -> list[str]:
    """Return where rows of tables that both texts have differ in a cell.

    A row is that of the other text if it stands in the same place among equal lines, or where lines
    were added if no other there begins so, and if it begins alike and has as many cells.
    """
    wrong = []
    matcher = difflib.SequenceMatcher(a=told, b=again, autojunk=False)
    for change, a, b, c, d in matcher.get_opcodes():
        if change != "replace":
            continue
        ours, theirs = told[a:b], again[c:d]
        pairs = list(zip(ours, theirs, strict=False))
        if len(ours) != len(theirs):
            known = [_only_by_first_cell(side) for side in (ours, theirs)]
            pairs = [(line, known[1][cell]) for cell, line in known[0].items() if cell in known[1]]
        for line, other in pairs:
            cells, others = (text.strip("| ").split(" | ") for text in (line, other))
            is_row = line.startswith("|") and other.startswith("|")
            if is_row and cells[0] == others[0] and len(cells) == len(others):
                wrong += [
                    f"{cells[0].strip():.40} is {x.strip():.40}; its artifacts give {y.strip():.40}"
                    for x, y in zip(cells, others, strict=True)
                    if x != y
                ]
    return wrong


def _only_by_first_cell(lines: Sequence[str]) -> dict[str, str]:
    """Return first cell -> row, of the rows of tables that alone begin so."""
    cells = [line.strip("| ").split(" | ")[0] for line in lines]
    return {
        cell: line
        for cell, line in zip(cells, lines, strict=True)
        if line.startswith("|") and cells.count(cell) == 1
    }
