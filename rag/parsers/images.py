"""Images: read by OCR where the extra `ocr` is installed, else reported as skipped.

Tesseract, through pytesseract; the program `tesseract` itself comes from the system's packages.
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from plumbrule.errors import DataError
from rag.parsers.parsed import Parsed, TextBuilder

SKIPPED = "images are skipped without OCR (pip install plumbrule[ocr], and the program tesseract)"


def can_read_images() -> bool:
    """Return whether OCR is installed: its library and its program."""
    return find_spec("pytesseract") is not None and shutil.which("tesseract") is not None


def parse(path: Path, id: str) -> Parsed:
    """Return what stands on an image as one document. Raises: DataError: without OCR or text."""
    if not can_read_images():
        raise DataError(f"is an image: {SKIPPED}")
    from PIL import Image

    text = TextBuilder()
    with Image.open(path) as image:
        text.add(text_in_image(image))
    notes = ["its text was read by OCR, which makes mistakes"]
    return Parsed([text.document(id, meta={"source": id, "format": "image"})], notes)


def text_in_image(image: Any) -> str:
    """Return the text that OCR finds on a PIL image."""
    import pytesseract

    return pytesseract.image_to_string(image)
