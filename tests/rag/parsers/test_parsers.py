"""Files become documents; what can't is reported, and the rest is read."""

from __future__ import annotations

import codecs
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from plumbrule.data.records import Document
from plumbrule.errors import DataError
from rag.chunking.choosing import chunker_of
from rag.chunking.config import ChunkerConfig
from rag.chunking.cutting import Cutting
from rag.chunks import chunks_at
from rag.parsers.images import can_read_images
from rag.parsers.parsed import Parsed, table_lines
from rag.parsers.pdf import without_repeated
from rag.parsers.reading import PARSERS, parse_file, read_files


def parsed(path: Path, content: bytes | str) -> Parsed:
    """Write a file and return what is read of it."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    found = parse_file(path, path.name)
    assert isinstance(found, Parsed), found
    return found


def refused(path: Path, content: bytes | str) -> str:
    """Write a file and return why it can't be read."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    found = parse_file(path, path.name)
    assert isinstance(found, str), found
    return found


def sections(document: Document) -> dict[str, str]:
    """Return the text of each chunk that the chunker `structure` makes, by its section."""
    chunker = chunker_of(Cutting(100, 0, ChunkerConfig(by="structure")))
    return {c.section: c.text for c in chunks_at(document, chunker(document))}


def pdf(pages: list[str], title: str = "", image_only: bool = False) -> bytes:
    """Return a PDF with the lines of each page, or with pages that draw a box."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>"]
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    objects += [f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>"]
    objects += ["<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    for n, page in enumerate(pages):
        lines = "".join(f"({line}) Tj 0 -20 Td " for line in page.split("\n"))
        drawn = "0 0 100 100 re f" if image_only else f"BT /F1 12 Tf 50 750 Td {lines} ET"
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents {5 + 2 * n} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>",
            f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream",
        ]
    about = len(objects) + 1
    objects += [f"<< /Title ({title}) /CreationDate (D:20260131120000Z) >>"]
    data, places = b"%PDF-1.4\n", []
    for n, one in enumerate(objects, 1):
        places.append(len(data))
        data += f"{n} 0 obj\n{one}\nendobj\n".encode()
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    head = f"xref\n0 {about + 1}\n0000000000 65535 f \n{table}"
    end = f"trailer << /Size {about + 1} /Root 1 0 R /Info {about} 0 R >>\n"
    return data + f"{head}{end}startxref\n{len(data)}\n%%EOF\n".encode()


def test_rows_of_a_table_carry_their_header() -> None:
    rows = [["Ada", "Rome"], ["Bo", "", "extra"], ["", " "]]
    assert table_lines(["Name", " born\nin"], rows) == [
        "Name: Ada | born in: Rome",
        "Name: Bo | extra",
    ]
    assert table_lines(["Name", "Town"], []) == ["Name | Town"]
    assert table_lines(["Name", "Town"], [["Ada", ""]]) == ["Name | Town", "Name: Ada"]


def test_text_of_every_encoding(tmp_path: Path) -> None:
    for mark, encoding in ((b"", "utf-8"), (codecs.BOM_UTF8, "utf-8"), (b"", "utf-16")):
        found = parsed(tmp_path / "a.txt", mark + "Zoë in Łódź\r\nand on.\r".encode(encoding))
        assert found.documents[0].text == "Zoë in Łódź\nand on."
        assert found.notes == []
    mixed = "Zoë\n".encode() + "Ünal\n".encode("cp1252") + b"\x81 odd\n" + "Łódź".encode()
    found = parsed(tmp_path / "a.txt", mixed)
    assert found.documents[0].text == "Zoë\nÜnal\n\x81 odd\nŁódź"
    assert found.notes == ["2 of its lines are not UTF-8 and were read as Windows-1252"]
    assert parsed(tmp_path / "a.txt", b"a\0b").documents[0].text == "ab"
    half = codecs.BOM_UTF16_LE + "Zoë".encode("utf-16-le")[:-1]
    assert parsed(tmp_path / "a.txt", half).notes == ["holds what is no Unicode"]


def test_ten_megabytes_on_one_line(tmp_path: Path) -> None:
    line = "Ada Quill was born in Rome. " * 370_000
    (document,) = parsed(tmp_path / "a.txt", line).documents
    assert len(document.text) > 10_000_000
    cell = f'name,text\nAda,"{line}"\n'
    (document,) = parsed(tmp_path / "a.csv", cell).documents
    assert document.text.startswith("name: Ada | text: Ada Quill")
    assert len(document.text) > 10_000_000


def test_markdown_has_sections_and_rows_and_no_comments(tmp_path: Path) -> None:
    source = """---
title: "Towns"
date: 2026-01-31
other: x
---
Intro *words*.

# Italy
Text.

```
# no heading
```

## Rome ##

| Name | Trade |
| --- | --- |
| Ada | baker |
| Bo  | |

<!-- left out -->

Spain
=====
- one
- two
"""
    (document,) = parsed(tmp_path / "a.md", source).documents
    assert (document.title, document.meta["date"]) == ("Towns", "2026-01-31")
    assert sections(document) == {
        "": "Intro *words*.",
        "Italy": "Italy\n\nText.\n\n```\n# no heading\n```",
        "Italy > Rome": "Rome\n\nName: Ada | Trade: baker\n\nName: Bo",
        "Spain": "Spain\n\n- one\n- two",
    }
    (document,) = parsed(tmp_path / "b.md", "# One\n# Two\nText").documents
    assert document.title == "One"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("---\n\nIntro.\n\n---\n\nBody", "---\n\nIntro.\n\n---\n\nBody"),
        ("---\nIntro.\n\ntext\n\n---\n\nBody", "---\n\nIntro.\n\ntext\n\n---\n\nBody"),
        ("---\nother: [x]\n---\nBody", "Body"),
        ("---\ndate: 2026-13-45\n---\nBody", "---\n\ndate: 2026-13-45\n\nBody"),
        ("<!-- no -->\nseen at once\n\nmore", "seen at once\n\nmore"),
        ("<!-- no\n\nno --> <p>seen <!-- no -->\n\nmore", "seen\n\nmore"),
        ("<div>\n<b>a</b>b\n<script>no()</script>\n</div>\n\nmore", "ab\n\nmore"),
        ("next <!-- secret --> rest `<!-- code -->`", "next  rest `<!-- code -->`"),
        ("- one <!-- no -->\n- two\n\n  <!-- no -->", "- one \n- two"),
        ("| a <!-- no --> | b |\n|--|--|\n| 1 | 2 <!-- no --> |", "a: 1 | b: 2"),
        ("a\n\n<!-- never ends\n\nb", "a\n\n<!-- never ends\n\nb"),
        ("```\n<!-- code -->\n```", "```\n<!-- code -->\n```"),
    ],
)
def test_markdown_loses_only_comments_and_front_matter(
    tmp_path: Path, source: str, text: str
) -> None:
    assert parsed(tmp_path / "a.md", source).documents[0].text == text


PAGE = """<!doctype html><html><head><title>Towns &amp; trades</title>
<link rel=canonical href="https://a.example/towns">
<meta property="article:published_time" content="2026-01-31T08:00:00">
<style>p {color: red}</style></head><body>
<header><h1>Site name</h1></header><nav><a href=/>Home</a> <a href=/b>More</a></nav>
<div class=menu><a href=1>One</a> <a href=2>Two</a> <a href=3>Three</a></div>
MAIN
<footer>Copyright</footer><script>track()</script></body></html>"""
ARTICLE = """<h1>Italy</h1><p>Ada&nbsp;<b>Quill</b> lived<br>in Rome.
<!-- no text --><p hidden>Secret.<h2>Trades</h2>
<table><tr><th>Name<th>Trade</tr><tr><td>Ada<td>baker</table>
<pre>a  b
 c</pre><ul><li>One<li>Two</ul>"""


@pytest.mark.parametrize("wrapped", ["<main>{}</main>", "<div>{}</div>", "<article>{}</article>"])
def test_html_without_what_surrounds_it(tmp_path: Path, wrapped: str) -> None:
    page = PAGE.replace("MAIN", wrapped.format(ARTICLE))
    (document,) = parsed(tmp_path / "a.html", page).documents
    assert document.title == "Towns & trades"
    assert document.meta["url"] == "https://a.example/towns"
    assert document.meta["date"] == "2026-01-31T08:00:00"
    assert sections(document) == {
        "Italy": "Italy\n\nAda Quill lived\nin Rome.",
        "Italy > Trades": "Trades\n\nName: Ada | Trade: baker\n\na  b\n c\n\nOne\n\nTwo",
    }


def test_html_says_its_encoding_and_may_be_of_layout_tables(tmp_path: Path) -> None:
    page = "<meta charset=iso-8859-2><table><tr><td>Zażółć<table><tr><td>x<td>y</table></table>"
    (document,) = parsed(tmp_path / "a.htm", page.encode("iso-8859-2")).documents
    assert document.text == "Zażółć\n\nx | y"
    assert refused(tmp_path / "b.html", "<nav>Home</nav>") == "has no text"


HEAD = "<tr><th>Name<th>Year<th>Pay</tr>"


@pytest.mark.parametrize(
    ("page", "text"),
    [
        (  # a name of two years
            f"<table>{HEAD}<tr><td rowspan=2>Ann<td>1990<td>10<tr><td>1991<td>20</table>",
            "Name: Ann | Year: 1990 | Pay: 10\n\nName: Ann | Year: 1991 | Pay: 20",
        ),
        (
            "<table><tr><th colspan=2>Name<th>Pay<tr><td>Ann<td>Quill<td>10</table>",
            "Name: Ann | Name: Quill | Pay: 10",
        ),
        (
            f"<table>{HEAD}<tr><td colspan=3>Europe<tr><td>Ann<td colspan=2>none</table>",
            "Europe\n\nName: Ann | Year, Pay: none",
        ),
        (
            "<table><caption>Pay</caption><thead><tr><th rowspan=2>Name<th colspan=2>2020"
            "<tr><th>Q1<th>Q2<tbody><tr><td>Ann<td>1<td>2</table>",
            "Pay\n\nName: Ann | 2020 Q1: 1 | 2020 Q2: 2",
        ),
        (
            "<table><tr><th>A<th>B<tr><td>1<td><table><tr><th>C<tr><td>in</table></table>",
            "A: 1 | B: C: in",
        ),
        ("<table><tr><td rowspan=0 colspan=0>a<td rowspan=x>b</table>", "a | b"),
        ("<table></table><p>x", "x"),
    ],
)
def test_html_tables_say_nothing_false(tmp_path: Path, page: str, text: str) -> None:
    assert parsed(tmp_path / "a.html", page).documents[0].text == text


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<html><body><p>one</body></html><p>after", "one\n\nafter"),
        ('<p style="color:red; display: none">no<p hidden>no<p>yes', "yes"),
        ('<p style="visibility:hidden">no<p>yes', "yes"),
        (
            "<h2>H<sub>2</sub>O un<b>believ</b>able<br>x</h2><table><tr><td>H<sub>2</sub>O"
            "<p>y</table>",
            "H2O unbelievable x\n\nH2O y",
        ),
        ("<pre>a<br>b</pre>", "a\nb"),
        ("<p><a>Smith 1999</a>, <a>Jones 2001</a>, <a>Quill 2004</a>", None),
        ("<form><p>All of a page</form>", "All of a page"),
        ("<p>A text that is longer<form>Search</form>", "A text that is longer"),
        ("<main></main><div>The text</div>", "The text"),
        ("<article><header><h1>A</h1></header>a</article><article>b</article>", "A\n\na\n\nb"),
        ("<p>be\0fore and after", "before and after"),
        ("<ruby>漢<rt>kan</rt></ruby>", "漢 (kan)"),
    ],
)
def test_html_loses_nothing_that_is_seen(tmp_path: Path, page: str, text: str | None) -> None:
    text = text or "Smith 1999, Jones 2001, Quill 2004"
    assert parsed(tmp_path / "a.html", page).documents[0].text == text


def test_html_of_mixed_encodings_and_menus_is_noted(tmp_path: Path) -> None:
    mixed = "<p>grün\n".encode() + "<p>grün".encode("cp1252")
    found = parsed(tmp_path / "a.html", mixed)
    assert found.documents[0].text == "grün\n\ngrün"
    assert found.notes == ["1 of its lines are not UTF-8 and were read as Windows-1252"]
    for named in ("latin1", "utf-16", "no-such", "utf-8"):
        page = f"<meta charset={named}><p>grün 5 €"
        encoding = "cp1252" if named == "latin1" else "utf-8"
        found = parsed(tmp_path / "a.html", page.encode(encoding))
        assert found.documents[0].text == "grün 5 €"
        assert bool(found.notes) == (named == "no-such")
    links = "<ul><li><a>One</a><li><a>Two</a><li><a>Three</a></ul>"
    assert refused(tmp_path / "b.html", links) == "has no text but lists or menus of links"
    page = "<p>text<ul><li><a>One</a><li><a>Two</a><li><a>Three</a></ul>"
    assert parsed(tmp_path / "a.html", page).notes == ["1 lists or menus of links left out"]


def test_pdf_has_pages_and_no_repeated_headers_and_footers(tmp_path: Path) -> None:
    names = ("Ada", "Bo", "Cy", "Di")
    pages = [
        f"Annals\n{name} lived here.\nAnd {name}.\nPage {n} of 4" for n, name in enumerate(names)
    ]
    found = parsed(tmp_path / "a.pdf", pdf(pages, "Annals"))
    (document,) = found.documents
    assert found.notes[0].startswith("8 lines that repeat at the top or bottom of pages left out")
    assert "'Annals'" in found.notes[0]
    assert document.text == "\n".join(f"{name} lived here.\nAnd {name}." for name in names)
    assert (document.title, document.meta["date"]) == ("Annals", "2026-01-31")
    chunks = chunks_at(document, [(document.text.index(f"And {name}"), 99) for name in names])
    assert [chunk.page for chunk in chunks] == [1, 2, 3, 4]


def test_lines_that_repeat_are_removed_only_at_the_edges_of_most_pages() -> None:
    pages = [["Head", "a", "Head", "b", "7"], ["Head", "c", "d", "e", "8"], ["x", "g", "f", "9"]]
    assert without_repeated(pages) == [["a", "Head", "b"], ["c", "d", "e"], ["x", "g", "f"]]
    assert without_repeated(pages[:2]) == pages[:2]  # of two pages nothing can be told


@pytest.mark.parametrize(
    "lines",
    [
        lambda n: f"Invoice {n}\nTotal: {n}00 EUR",
        lambda n: f"Patient {n}\nDose {7 * n} mg\nnoted by {'ABCDE'[n]}\nScore {3 * n}",
        lambda n: f"{n * n}\nA sum of squares {n}\n{100 - n}",
        lambda n: f"Annals\nPage {n}",  # nothing else stands on the page
    ],
)
def test_numbers_at_the_edges_of_pages_stay_unless_they_are_the_pages(
    tmp_path: Path, lines: Callable[[int], str]
) -> None:
    pages = [lines(n) for n in range(1, 5)]
    found = parsed(tmp_path / "a.pdf", pdf(pages))
    assert found.documents[0].text == "\n".join(pages)
    assert found.notes == []


@pytest.mark.parametrize("shape", ["{}", "- {} -", "{} / 12", "Page {}", "Annals, p. {}", "[{}]"])
def test_numbers_of_pages_are_left_out(shape: str) -> None:
    pages = [[f"Words {n}", f"More {n}", shape.format(n)] for n in range(7, 11)]
    assert without_repeated(pages) == [[f"Words {n}", f"More {n}"] for n in range(7, 11)]


def test_pdf_page_that_unpacks_to_too_much_is_noted(tmp_path: Path) -> None:
    from pypdf import PdfReader, PdfWriter
    from pypdf.generic import NameObject, StreamObject

    (tmp_path / "a.pdf").write_bytes(pdf(["Ada lived.", "Bo lived."]))
    writer = PdfWriter(clone_from=PdfReader(tmp_path / "a.pdf"))
    stream = StreamObject()
    stream._data = zlib.compress(b" " * 80_000_000, 1)
    stream[NameObject("/Filter")] = NameObject("/FlateDecode")
    writer.pages[1][NameObject("/Contents")] = writer._add_object(stream)
    writer.write(tmp_path / "b.pdf")
    found = parse_file(tmp_path / "b.pdf", "b.pdf")
    assert isinstance(found, Parsed)
    assert found.documents[0].text == "Ada lived."
    assert found.notes[0].startswith("1 of its 2 pages can't be read (LimitReachedError: ")


def test_pdf_of_images_encrypted_or_damaged_is_reported(tmp_path: Path) -> None:
    if not can_read_images():
        told = refused(tmp_path / "a.pdf", pdf(["", ""], image_only=True))
        assert told.startswith("has no text on its 2 pages, which may be images")
        (tmp_path / "b.pdf").write_bytes(pdf(["Text.", ""]))
        found = parsed(tmp_path / "b.pdf", pdf(["Ada lived.", ""]))
        assert found.notes[0].startswith("1 of its 2 pages have no text: images are skipped")
    whole = pdf(["Ada lived in Rome."])
    assert "can't be read" in refused(tmp_path / "c.pdf", b"%PDF-1.4 and nothing")
    from pypdf import PdfReader, PdfWriter

    (tmp_path / "d.pdf").write_bytes(whole)
    writer = PdfWriter(clone_from=PdfReader(tmp_path / "d.pdf"))
    writer.encrypt("secret", algorithm="RC4-128")
    writer.write(tmp_path / "e.pdf")
    assert "is encrypted" in str(parse_file(tmp_path / "e.pdf", "e.pdf"))


def test_docx_in_the_order_of_its_blocks(tmp_path: Path) -> None:
    import docx

    made = docx.Document()
    made.core_properties.title = "Towns"
    made.sections[0].header.paragraphs[0].text = "Running header"
    made.add_heading("Italy", 1)
    made.add_paragraph("Ada lived in Rome.")
    made.add_heading("Trades", 2)
    table = made.add_table(rows=3, cols=2)
    for row, texts in zip(
        table.rows, [("Name", "Trade"), ("Ada", "baker"), ("Bo", "")], strict=True
    ):
        for cell, text in zip(row.cells, texts, strict=True):
            cell.text = text
    table.rows[2].cells[0].merge(table.rows[2].cells[1])
    made.add_paragraph("After.")
    made.save(str(tmp_path / "a.docx"))
    found = parse_file(tmp_path / "a.docx", "a.docx")
    assert isinstance(found, Parsed)
    (document,) = found.documents
    assert document.title == "Towns"
    assert sections(document) == {
        "Italy": "Italy\n\nAda lived in Rome.",
        "Italy > Trades": "Trades\n\nName: Ada | Trade: baker\n\nBo\n\nAfter.",
    }
    assert "can't be read" in refused(tmp_path / "b.docx", b"PK no zip")
    docx.Document().save(str(tmp_path / "c.docx"))
    assert parse_file(tmp_path / "c.docx", "c.docx") == "has no text"


W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def docx_of(path: Path, body: str) -> Parsed:
    """Write a DOCX whose body is some XML and return what is read of it."""
    import docx
    from docx.oxml import parse_xml

    made = docx.Document()
    for element in parse_xml(f"<w:body {W}>{body}</w:body>"):
        made.element.body.insert(-1, element)
    made.save(str(path))
    found = parse_file(path, path.name)
    assert isinstance(found, Parsed), found
    return found


def run(text: str) -> str:
    """Return the XML of some words."""
    return f"<w:r><w:t xml:space='preserve'>{text}</w:t></w:r>"


def cell(text: str, settings: str = "") -> str:
    """Return the XML of a cell of a table."""
    return f"<w:tc><w:tcPr>{settings}</w:tcPr><w:p>{run(text)}</w:p></w:tc>"


def test_docx_keeps_insertions_and_controls_and_leaves_deletions_out(tmp_path: Path) -> None:
    deleted = "<w:r><w:delText>gone</w:delText></w:r>"
    body = (
        f"<w:p>{run('one')}<w:ins w:id='1'>{run(' two')}</w:ins><w:del w:id='2'>{deleted}</w:del>"
        f"<w:sdt><w:sdtContent>{run(' three')}</w:sdtContent></w:sdt>"
        f"<w:hyperlink>{run(' four')}</w:hyperlink></w:p>"
        f"<w:sdt><w:sdtContent><w:p><w:pPr><w:pStyle w:val='Heading1'/></w:pPr>{run('Head')}</w:p>"
        f"<w:p>{run('a')}<w:r><w:tab/><w:t>b</w:t></w:r></w:p></w:sdtContent></w:sdt>"
    )
    (document,) = docx_of(tmp_path / "a.docx", body).documents
    assert sections(document) == {"": "one two three four", "Head": "Head\n\na\tb"}


def test_docx_tables_of_any_shape(tmp_path: Path) -> None:
    empty = f"<w:tbl></w:tbl><w:p>{run('after')}</w:p>"
    assert docx_of(tmp_path / "a.docx", empty).documents[0].text == "after"
    inner = f"<w:tbl><w:tr>{cell('C')}</w:tr><w:tr>{cell('in')}</w:tr></w:tbl>"
    nested = (
        f"<w:tbl><w:tr>{cell('A')}{cell('B')}</w:tr>"
        f"<w:tr>{cell('1')}<w:tc><w:p>{run('x')}</w:p>{inner}<w:p/></w:tc></w:tr></w:tbl>"
    )
    assert docx_of(tmp_path / "a.docx", nested).documents[0].text == "A: 1 | B: x C: in"
    wide, down, on = "<w:gridSpan w:val='2'/>", "<w:vMerge w:val='restart'/>", "<w:vMerge/>"
    head = "<w:trPr><w:tblHeader/></w:trPr>"
    spans = (
        f"<w:tbl><w:tr>{head}{cell('Name', down)}{cell('2020', wide)}</w:tr>"
        f"<w:tr>{head}{cell('', on)}{cell('Q1')}{cell('Q2')}</w:tr>"
        f"<w:tr>{cell('Ann', down)}{cell('1')}{cell('2')}</w:tr>"
        f"<w:tr>{cell('', on)}{cell('none', wide)}</w:tr></w:tbl>"
    )
    assert docx_of(tmp_path / "a.docx", spans).documents[0].text == (
        "Name: Ann | 2020 Q1: 1 | 2020 Q2: 2\n\nName: Ann | 2020 Q1, 2020 Q2: none"
    )


def test_docx_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.docx", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("word/document.xml", b" " * 51_000_000)
    assert (tmp_path / "a.docx").stat().st_size < 100_000
    told = parse_file(tmp_path / "a.docx", "a.docx")
    assert isinstance(told, str)
    assert told.startswith("unpacks to 51 MB of XML (at most 50); split it")


def test_csv_of_any_separator(tmp_path: Path) -> None:
    for name, separator in (("a.csv", ","), ("b.csv", ";"), ("c.tsv", "\t")):
        rows = [["Name", "Town"], ["Ada", f'"Rome{separator} old"'], ["", ""], ["Bo"]]
        content = "\n".join(separator.join(row) for row in rows)
        found = parsed(tmp_path / name, content)
        town = " ".join(f"Rome{separator} old".split())
        assert found.documents[0].text == f"Name: Ada | Town: {town}\n\nName: Bo"
        assert found.notes == ["1 of its 2 rows have not the cells of the header"]
    assert "is no table" in refused(tmp_path / "d.csv", 'a,b\n1,"never closed\n')
    assert refused(tmp_path / "e.csv", "\n,,\n") == "has no text"


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("sep=;\r\nname;year\r\nAnn, B;1990\r\n", "name: Ann, B | year: 1990"),
        ('"sep=|"\na|b\n1|2', "a: 1 | b: 2"),
        ('id,"notes; a; b; c"\n1,hello; there\n', "id: 1 | notes; a; b; c: hello; there"),
        ("1;5,3;2,1\n2;6,4;3,3\n", "1: 2 | 5,3: 6,4 | 2,1: 3,3"),
        ("a; b; c,d\n1,2\n3,4", "a; b; c: 1 | d: 2\n\na; b; c: 3 | d: 4"),
        ("alone\none; two", "alone: one; two"),
    ],
)
def test_csv_s_separator_is_the_one_that_fits_its_rows(
    tmp_path: Path, table: str, text: str
) -> None:
    assert parsed(tmp_path / "a.csv", table).documents[0].text == text


def test_tsv_with_quotes_as_they_stand(tmp_path: Path) -> None:
    for cell_of, end in (('"quoted start only', "unexpected end"), ('"Hi" he said', "expected")):
        found = parsed(tmp_path / "a.tsv", f"a\tb\n{cell_of}\t2\nnext\t3\n")
        assert found.documents[0].text == f"a: {cell_of} | b: 2\n\na: next | b: 3"
        assert found.notes[0].startswith("its quotes do not match (")
        assert end in found.notes[0]
    found = parsed(tmp_path / "a.tsv", 'a\tb\n"1\tx"\t2\n')
    assert (found.documents[0].text, found.notes) == ("a: 1 x | b: 2", [])


def test_json_lines_keep_good_rows_and_note_bad_ones(tmp_path: Path) -> None:
    rows = '{"id": "a", "text": "One."}\n\n{"text": "Two.", "meta": {"year": 1}}\n{"id": 3}\n{no\n'
    found = parsed(tmp_path / "a.jsonl", rows)
    assert [(d.id, d.text) for d in found.documents] == [("a", "One."), ("a.jsonl:3", "Two.")]
    assert len(found.notes) == 2
    assert "row 4: " in found.notes[0]
    assert "row 5" in found.notes[1]
    assert "row 1" in refused(tmp_path / "b.jsonl", '{"id": "a", "text": " "}')


def test_images_without_ocr_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # where no program lies
    told = refused(tmp_path / "a.png", b"\x89PNG")
    assert told.startswith("is an image: images are skipped without OCR (pip install")


def test_images_are_read_by_ocr(tmp_path: Path) -> None:
    if not can_read_images():
        pytest.skip("OCR is not here: pip install plumbrule[ocr], and the program tesseract")
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (400, 100), "white")
    ImageDraw.Draw(image).text((20, 30), "ROME", "black", ImageFont.load_default(40))
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "scanned.pdf")
    for name in ("a.png", "scanned.pdf"):
        found = parse_file(tmp_path / name, name)
        assert isinstance(found, Parsed)
        assert "ROME" in found.documents[0].text


def test_a_folder_is_read_whole_whatever_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_text("One.", encoding="utf-8")
    (tmp_path / "sub" / "a.txt").write_text("Two.", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"id": "a.txt", "text": "Other."}', encoding="utf-8")
    (tmp_path / "c.pdf").write_bytes(b"%PDF damaged")
    (tmp_path / "d.docx").write_bytes(zlib.compress(b"no zip"))
    (tmp_path / "e.xyz").write_bytes(b"?")
    (tmp_path / "f").write_bytes(b"?")
    (tmp_path / "g.txt").write_text(" \n", encoding="utf-8")
    documents, reports = read_files([tmp_path])
    assert {d.id: d.text for d in documents} == {"a.txt": "One.", "sub/a.txt": "Two."}
    told = {Path(r.path).relative_to(tmp_path).as_posix(): r.problem for r in reports}
    assert {name for name, problem in told.items() if not problem} == {"a.txt", "sub/a.txt"}
    assert told["b.jsonl"] == "document 'a.txt' was read already; left out"
    assert told["e.xyz"] == "no parser reads files that end in .xyz"
    assert told["f"] == "has no ending"
    assert told["g.txt"] == "has no text"
    assert "can't be read" in told["c.pdf"]
    assert "can't be read" in told["d.docx"]
    (alone,), _ = read_files([tmp_path / "sub" / "a.txt"])
    assert alone.id == "a.txt"
    with pytest.raises(DataError, match="no such file or folder"):
        read_files([tmp_path / "absent"])


def test_a_plug_in_s_parser_is_found_by_its_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    option = type(PARSERS.option("txt"))
    read = lambda path, id: Parsed([Document(id, path.read_text(encoding="utf-8").upper())], [])  # noqa: E731
    monkeypatch.setitem(PARSERS._options, "shout", option(read))
    assert parsed(tmp_path / "a.SHOUT", "one").documents[0].text == "ONE"


def test_links_out_of_a_folder_fifos_and_links_to_nothing_are_reported(tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "s.txt").write_text("Secret.", encoding="utf-8")
    (folder / "a.txt").write_text("Rome.", encoding="utf-8")
    os.mkfifo(folder / "f.txt")
    for name, target in (
        ("dead.txt", tmp_path / "absent"),
        ("out.txt", outside / "s.txt"),
        ("there", outside),
        ("within.txt", Path("a.txt")),
    ):
        (folder / name).symlink_to(target)
    documents, reports = read_files([folder])
    assert [one.id for one in documents] == ["a.txt", "within.txt"]
    problems = {Path(one.path).name: one.problem for one in reports if one.problem}
    assert set(problems) == {"dead.txt", "f.txt", "out.txt", "there"}
    assert "is a link out of" in problems["out.txt"]
    assert "is a link to a folder" in problems["there"]
    assert "a FIFO" in problems["f.txt"]
    assert "which is not there" in problems["dead.txt"]
    (_, reports) = read_files([folder / "f.txt", folder / "dead.txt"])
    assert all(one.problem for one in reports)
    with pytest.raises(DataError, match="no such file"):
        read_files([folder / "absent"])
