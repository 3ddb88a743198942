"""Markdown: its text as it is written, its headings as sections, its tables as rows.

Read by markdown-it-py (CommonMark and tables), which says on which lines a block stands. Of HTML
blocks what is seen is kept, as of a page (`html.py`). HTML comments and front matter are left out;
of front matter, `title`, `date` and `url` are kept. Front matter is a YAML mapping that begins on
the line after the first `---`; what else stands between two rules is text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rag.parsers.html import fragment_text
from rag.parsers.parsed import Parsed, TextBuilder, table_lines
from rag.parsers.text import decoded

FRONT_MATTER = re.compile(r"\A---\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
COMMENT = re.compile(r"<!--(?:>|->|.*?-->)", re.DOTALL)
FACT = re.compile(r"^(title|date|url)[ \t]*:[ \t]*(.+)$", re.MULTILINE)


def parse(path: Path, id: str) -> Parsed:
    """Return the file as one document. Raises: DataError: it holds no text."""
    from markdown_it import MarkdownIt

    source, notes = decoded(path.read_bytes())
    source = source.replace("\r\n", "\n").replace("\r", "\n")
    facts: dict[str, str] = {}
    if (front := FRONT_MATTER.match(source)) is not None and is_mapping(front[1]):
        facts = {name: value.strip(" \"'") for name, value in FACT.findall(front[1])}
        source = source[front.end() :]
    lines = source.split("\n")
    tokens = MarkdownIt("commonmark").enable("table").parse(source)
    text, title = TextBuilder(), facts.pop("title", "")
    for place, token in enumerate(tokens):
        if token.level != 0 or token.map is None:
            continue
        block = "\n".join(lines[token.map[0] : token.map[1]])
        inside = tokens_of(tokens[place:])
        if token.type == "heading_open":
            heading = without_comments(inside[1].content, inside)
            title = title or heading
            text.heading(heading, int(token.tag[1:]))
        elif token.type == "table_open":
            for line in table_lines(*cells_of(inside)):
                text.add(line)
        elif token.type == "html_block":
            seen = COMMENT.sub("", block)
            # A comment that never ends would take the rest of the file with it.
            text.add(seen if "<!--" in seen else fragment_text(seen))
        else:
            text.add(without_comments(block, inside))
    meta = {"source": id, "format": "markdown", **facts}
    return Parsed([text.document(id, title, meta)], notes)


def is_mapping(front: str) -> bool:
    """Return whether what stands between two rules at a file's start is front matter."""
    import yaml

    if not front.partition("\n")[0].strip():
        return False
    try:
        return isinstance(yaml.safe_load(front), dict)
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date that is none
        return False


def tokens_of(tokens: list[Any]) -> list[Any]:
    """Return the tokens of the block that the tokens begin with."""
    depth = 0
    for place, token in enumerate(tokens):
        depth += token.nesting
        if depth == 0:
            return tokens[: place + 1]
    return tokens


def without_comments(source: str, tokens: list[Any]) -> str:
    """Return the source of a block without its HTML comments; code keeps what looks like one."""
    comments, code = [], ""
    for token in tokens:
        for part in [token, *(token.children or [])]:
            if part.type in ("html_inline", "html_block"):
                comments += COMMENT.findall(part.content)
            elif part.type in ("code_inline", "fence", "code_block"):
                code += part.content
    for comment in comments:
        if comment not in code:
            source = source.replace(comment, "", 1)
    return source


def cells_of(tokens: list[Any]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the table that the tokens begin with."""
    rows: list[list[str]] = []
    for place, token in enumerate(tokens):
        if token.type == "table_close":
            break
        if token.type == "tr_open":
            rows.append([])
        elif token.type in ("th_open", "td_open"):
            cell = tokens[place + 1]
            rows[-1].append(without_comments(cell.content, [cell]))
    return rows[0], rows[1:]
