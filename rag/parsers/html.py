"""HTML: what an article says, without what surrounds it on every page of a site.

Read by Beautiful Soup over lxml. Of a page with `<main>` or one `<article>` only that is read.
Navigation, headers, footers, asides, forms, scripts and hidden parts are left out, and lists and
blocks of at least three links that hold little else. Headings are sections, tables rows. Title,
canonical URL and date come from the page's head; the encoding from the page, else as Beautiful Soup
guesses it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rag.parsers.parsed import Parsed, Text, table_lines

NEVER = ["script", "style", "noscript", "template", "svg", "iframe", "form", "button", "select"]
AROUND = ["nav", "aside", "footer"]
ROLES = {"navigation", "banner", "contentinfo", "search", "complementary"}
BLOCKS = frozenset(
    {"address", "article", "blockquote", "body", "dd", "div", "dl", "dt", "fieldset", "figcaption"}
    | {"figure", "header", "html", "li", "main", "ol", "p", "pre", "section", "table", "tbody"}
    | {"td", "tfoot", "th", "thead", "tr", "ul", "hgroup", "details", "summary", "hr"}
)
HEADINGS = {f"h{level}": level for level in range(1, 7)}
LINK_SHARE, LINKS = 0.8, 3
DATES = ("article:published_time", "date", "dc.date", "dcterms.date", "datePublished")


def parse(path: Path, id: str) -> Parsed:
    """Return the page as one document. Raises: DataError: it holds no text."""
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(path.read_bytes(), "lxml")
    title = soup.title.get_text() if soup.title is not None else ""
    meta = {"source": id, "format": "html", "url": url_of(soup), "date": date_of(soup)}
    root, is_main = root_of(soup)
    drop(root, is_main)
    text = Text()
    Reader(text).read(root)
    return Parsed([text.document(id, title, meta)], [])


def root_of(soup: Any) -> tuple[Any, bool]:
    """Return the element that holds the article, and whether the page says that it does."""
    main = soup.find("main") or soup.find(attrs={"role": "main"})
    if main is None:
        articles = soup.find_all("article")
        main = articles[0] if len(articles) == 1 else None
    return (main, True) if main is not None else (soup.body or soup, False)


def drop(root: Any, is_main: bool) -> None:
    """Remove what is no part of the article."""
    around = AROUND if is_main else [*AROUND, "header"]
    for element in root.find_all([*NEVER, *around]):
        element.decompose()
    for element in root.find_all(True):
        if element.decomposed:
            continue
        hidden = element.has_attr("hidden") or element.get("aria-hidden") == "true"
        if hidden or element.get("role") in ROLES:
            element.decompose()
    for element in root.find_all(["ul", "ol", "div", "p"]):
        if element.decomposed:
            continue
        links = element.find_all("a")
        whole = len("".join(element.get_text().split()))
        linked = sum(len("".join(link.get_text().split())) for link in links)
        if len(links) >= LINKS and linked >= LINK_SHARE * whole:
            element.decompose()


class Reader:
    """Walks a page and adds its blocks to a text."""

    def __init__(self, text: Text):
        self._text = text
        self._inline: list[str] = []

    def read(self, root: Any) -> None:
        """Add the blocks of an element."""
        self._walk(root)
        self._flush()

    def _flush(self) -> None:
        lines = "".join(self._inline).split("\v")
        self._text.add("\n".join(" ".join(line.split()) for line in lines))
        self._inline = []

    def _walk(self, element: Any) -> None:
        from bs4 import NavigableString, Tag

        for child in element.children:
            if type(child) is NavigableString:  # comments and declarations are subclasses
                self._inline.append(str(child).replace("\v", " "))
            elif not isinstance(child, Tag):
                continue
            elif child.name in HEADINGS:
                self._flush()
                self._text.heading(child.get_text(" "), HEADINGS[child.name])
            elif child.name == "pre":
                self._flush()
                self._text.add(child.get_text())
            elif child.name == "table" and child.find("table") is None:
                self._flush()
                self._table(child)
            elif child.name == "br":
                self._inline.append("\v")
            elif child.name in BLOCKS:
                self._flush()
                self._walk(child)
                self._flush()
            else:
                self._walk(child)

    def _table(self, table: Any) -> None:
        """Add a table; the first row is its header if all its cells are, or it stands in thead."""
        rows = table.find_all("tr")
        cells = [[c.get_text(" ") for c in row.find_all(["td", "th"])] for row in rows]
        header: list[str] = []
        if rows and (rows[0].parent.name == "thead" or not rows[0].find_all("td")):
            header, cells = cells[0], cells[1:]
        for line in table_lines(header, cells):
            self._text.add(line)


def url_of(soup: Any) -> str:
    """Return the URL that the page gives itself, or ""."""
    link = soup.find("link", rel="canonical")
    if link is not None and link.get("href"):
        return str(link["href"])
    meta = soup.find("meta", property="og:url")
    return str(meta.get("content", "")) if meta is not None else ""


def date_of(soup: Any) -> str:
    """Return the date that the page's head gives, or ""."""
    for name in DATES:
        for key in ("property", "name", "itemprop"):
            meta = soup.find("meta", attrs={key: name})
            if meta is not None and meta.get("content"):
                return str(meta["content"]).strip()
    return ""
