"""HTML: what an article says, without what surrounds it on every page of a site.

Read by Beautiful Soup over lxml. Of a page with `<main>` or one `<article>` only that is read, if
it holds text. Navigation, headers (of the page, not of an article), footers, asides, scripts and
hidden parts are left out; so are forms, unless they hold most of the text, and lists and menus of
at least three links that hold little else, which are noted. Headings are sections, tables rows.
Title, canonical URL and date come from the page's head; the encoding from a byte-order mark or the
page, else it is found as that of plain text (`text.py`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from plumbrule.errors import DataError
from rag.parsers.html_tables import grid, header_rows, is_layout, rows_of
from rag.parsers.parsed import Parsed, TextBuilder, joined_header, table_lines
from rag.parsers.text import MARKS, decoded, windows_1252

NEVER = ["head", "script", "style", "noscript", "template", "svg", "iframe", "button", "select"]
AROUND = ["nav", "aside", "footer"]
ROLES = {"navigation", "banner", "contentinfo", "search", "complementary"}
BLOCKS = frozenset(
    {"address", "article", "blockquote", "body", "dd", "div", "dl", "dt", "fieldset", "figcaption"}
    | {"figure", "header", "html", "li", "main", "ol", "p", "pre", "section", "table", "tbody"}
    | {"td", "tfoot", "th", "thead", "tr", "ul", "hgroup", "details", "summary", "hr"}
    | {"caption", "form", "dialog"}
)
HEADINGS = {f"h{level}": level for level in range(1, 7)}
LINK_SHARE, LINKS, FORM_SHARE = 0.8, 3, 0.5
MENU = re.compile(
    r"(?:^|[-_ ])(?:nav|navbar|navigation|menu|breadcrumbs?|pagination|pager|links)\b"
)
"""In the class or id of a block that is a menu."""
HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
LATIN = ("iso-8859-1", "latin-1", "latin1", "us-ascii", "ascii", "windows-1252", "cp1252")
"""Names under which pages are written in Windows-1252, as the HTML standard reads them."""
DATES = ("article:published_time", "date", "dc.date", "dcterms.date", "datePublished")


def parse(path: Path, id: str) -> Parsed:
    """Return the page as one document. Raises: DataError: it holds no text but links."""
    page, notes = decoded_page(path.read_bytes())
    soup = soup_of(page)
    title = soup.title.get_text() if soup.title is not None else ""
    meta = {"source": id, "format": "html", "url": url_of(soup), "date": date_of(soup)}
    text, menus = TextBuilder(), 0
    for root, is_main in roots_of(soup):
        menus += drop(root, is_main)
        Reader(text).read(root)
        if text.content():
            break
    if menus and not text.content():
        raise DataError("has no text but lists or menus of links")
    if menus:
        notes.append(f"{menus} lists or menus of links left out")
    return Parsed([text.document(id, title, meta)], notes)


def soup_of(page: str) -> Any:
    """Return the tree of a page."""
    from bs4 import BeautifulSoup

    data = page.replace("\0", "").encode("utf-8", "replace")
    return BeautifulSoup(data, "lxml", from_encoding="utf-8")


def fragment_text(source: str) -> str:
    """Return the text of a piece of HTML, its blocks separated by blank lines."""
    soup, text = soup_of(source), TextBuilder()
    drop_unseen(soup)
    Reader(text).read(soup)
    return text.content()


def decoded_page(data: bytes) -> tuple[str, list[str]]:
    """Return the text of a page's bytes, and a note where its encoding was guessed."""
    from bs4.dammit import EncodingDetector

    named = EncodingDetector.find_declared_encoding(data, is_html=True) or ""
    marked = any(data.startswith(mark) for mark, _ in MARKS)
    # A name that stands in plain letters can't be UTF-16's or UTF-32's.
    if marked or not named or named.lower().startswith("utf"):
        return decoded(data)
    if named.lower() in LATIN:
        return windows_1252(data), []
    try:
        return data.decode(named), []
    except (LookupError, ValueError):
        text, notes = decoded(data)
        return text, [f"is not of the encoding that it names ({named:.40})", *notes]


def roots_of(soup: Any) -> list[tuple[Any, bool]]:
    """Return the elements that may hold the article, and whether the page says that it does."""
    main = soup.find("main") or soup.find(attrs={"role": "main"})
    if main is None:
        articles = soup.find_all("article")
        main = articles[0] if len(articles) == 1 else None
    # The whole page: what stands after </html> is outside of its body.
    return [(main, True), (soup, False)] if main is not None else [(soup, False)]


def drop(root: Any, is_main: bool) -> int:
    """Remove what is no part of the article; return the number of lists of links among it."""
    drop_unseen(root)
    for element in root.find_all(AROUND if is_main else [*AROUND, "header"]):
        if not element.decomposed:
            own = element.name == "header" and element.find_parent("article") is not None
            if not own:
                element.decompose()
    for element in root.find_all(role=list(ROLES)):
        if not element.decomposed:
            element.decompose()
    for element in root.find_all("form"):
        if not element.decomposed and letters(element) <= FORM_SHARE * letters(root):
            element.decompose()
    menus = 0
    for element in root.find_all(["ul", "ol", "div"]):
        if element.decomposed or (element.name == "div" and not is_menu(element)):
            continue
        links = element.find_all("a")
        linked = sum(letters(link) for link in links)
        if len(links) >= LINKS and linked >= LINK_SHARE * letters(element):
            element.decompose()
            menus += 1
    return menus


def drop_unseen(root: Any) -> None:
    """Remove what a browser does not show."""
    for element in root.find_all(NEVER):
        element.decompose()
    for element in root.find_all(True):
        if element.decomposed:
            continue
        hidden = element.has_attr("hidden") or element.get("aria-hidden") == "true"
        if hidden or HIDDEN.search(element.get("style", "")):
            element.decompose()


def letters(element: Any) -> int:
    """Return the number of characters of an element's text, blanks aside."""
    return len("".join(element.get_text().split()))


def is_menu(element: Any) -> bool:
    """Return whether the class or the id of an element says that it is a menu."""
    names = [*element.get("class", []), element.get("id", "")]
    return any(MENU.search(name.lower()) for name in names)


class Reader:
    """Walks a page and adds its blocks to a text."""

    def __init__(self, text: TextBuilder):
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
                self._text.heading(flat(child), HEADINGS[child.name])
            elif child.name == "pre":
                self._flush()
                for line_break in child.find_all("br"):
                    line_break.replace_with("\n")
                self._text.add(child.get_text())
            elif child.name == "rt":  # how a character is read, beside it
                self._inline.append(f" ({child.get_text()}) ")
            elif child.name == "table" and not is_layout(child):
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
        """Add a table: its caption, then a block for each row."""
        caption = table.find("caption", recursive=False)
        if caption is not None:
            self._text.add(flat(caption))
        rows = rows_of(table)
        head = header_rows(rows)
        cells = grid(rows, flat)
        header = joined_header([row for row, is_head in zip(cells, head, strict=True) if is_head])
        body = [row for row, is_head in zip(cells, head, strict=True) if not is_head]
        for line in table_lines(header, body):
            self._text.add(line)


def flat(element: Any) -> str:
    """Return the text of an element on one line, with a blank where a block or a line ends."""
    text = TextBuilder()
    Reader(text).read(element)
    return " ".join(text.content().split())


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
