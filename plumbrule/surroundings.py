"""What the command line needs of the process it is started in: UTF-8, and streams to write on.

`prepare_streams` is called once, before anything is read or printed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

PLAIN_TERMINALS = ("dumb", "unknown", "")
"""Values of TERM whose terminals can't redraw a line."""


def prepare_streams() -> None:
    """Make this process one in which every character can be read and written.

    Python decodes arguments and file names, and libraries open files, by the locale. Where that is
    not UTF-8 the same command is started again in Python's UTF-8 mode, in this process's place.
    """
    open_closed_streams()
    if sys.getfilesystemencoding().lower().replace("-", "") != "utf8":
        os.environ["PYTHONUTF8"] = "1"
        words = as_utf8([sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
        os.execv(words[0], words)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # a test's stream may have none
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def as_utf8(words: Sequence[str]) -> list[bytes]:
    """Return words that were decoded by the locale as the bytes that mean the same in UTF-8."""
    return [word.encode("utf-8", "surrogateescape") for word in words]


def open_closed_streams() -> None:
    """Open the null device in the place of a standard stream that is closed.

    Else the next file that is opened gets its number, and what a library writes to standard error
    goes into that file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def redraws(isatty: bool) -> bool:
    """Return whether a stream is a terminal on which a line can be drawn again."""
    return isatty and os.environ.get("TERM", "") not in PLAIN_TERMINALS
