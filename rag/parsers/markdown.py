"""Markdown: its text as it is written, its headings as sections, its tables as rows.

Read by markdown-it-py (CommonMark and tables), which says on which lines a block stands. HTML
comments and front matter are left out; of front matter, `title`, `date` and `url` are kept.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rag.parsers.parsed import Parsed, Text, table_lines
from rag.parsers.text import decoded

FRONT_MATTER = re.compile(r"\A---\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
FACT = re.compile(r"^(title|date|url)[ \t]*:[ \t]*(.+)$", re.MULTILINE)


def parse(path: Path, id: str) -> Parsed:
    """Return the file as one document. Raises: DataError: it holds no text."""
    from markdown_it import MarkdownIt

    source, notes = decoded(path.read_bytes())
    source = source.replace("\r\n", "\n").replace("\r", "\n")
    facts: dict[str, str] = {}
    if (front := FRONT_MATTER.match(source)) is not None:
        facts = {name: value.strip(" \"'") for name, value in FACT.findall(front[1])}
        source = source[front.end() :]
    lines = source.split("\n")
    tokens = MarkdownIt("commonmark").enable("table").parse(source)
    text, title = Text(), facts.pop("title", "")
    for place, token in enumerate(tokens):
        if token.level != 0 or token.map is None:
            continue
        block = "\n".join(lines[token.map[0] : token.map[1]])
        if token.type == "heading_open":
            heading = tokens[place + 1].content
            title = title or heading
            text.heading(heading, int(token.tag[1:]))
        elif token.type == "table_open":
            for line in table_lines(*cells_of(tokens[place:])):
                text.add(line)
        elif token.type == "html_block" and block.lstrip().startswith("<!--"):
            continue
        else:
            text.add(block)
    meta = {"source": id, "format": "markdown", **facts}
    return Parsed([text.document(id, title, meta)], notes)


def cells_of(tokens: list[Any]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the table that the tokens begin with."""
    rows: list[list[str]] = []
    for place, token in enumerate(tokens):
        if token.type == "table_close":
            break
        if token.type == "tr_open":
            rows.append([])
        elif token.type in ("th_open", "td_open"):
            rows[-1].append(tokens[place + 1].content)
    return rows[0], rows[1:]
