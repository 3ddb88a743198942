"""What a shell offers behind <TAB>: verbs and options of ours, and what Hydra knows of settings.

Hydra's script asks `plumbrule -sc query=<shell>` with the line so far in $COMP_LINE. It knows none
of our options, and would print its usage in the middle of the line for them.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterable

from plumbrule.cli.explain import OPTIONS
from plumbrule.pipeline import plugins


def is_asked(arguments: list[str]) -> bool:
    """Return whether a shell asks, rather than a person."""
    return " ".join(arguments[:2]).startswith("-sc query=")


def answer(verbs: Iterable[str], hydra: Callable[[], object]) -> None:
    """Print what may stand at the end of $COMP_LINE.

    Args: hydra: prints what Hydra offers for that line.
    """
    sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (a person is typing)
    line = os.environ.get("COMP_LINE", "")
    words = [*line.split(), *([""] if line.endswith(" ") else [])]
    last, before = (words[-1] if words[1:] else ""), words[1:-1]
    offered: list[str] = []
    if last.startswith("-"):
        offered = [option for option in OPTIONS if option.startswith(("--", "-m"))]
    elif before[:1] and before[0] in set(verbs):
        offered = []  # Hydra knows nothing of a verb's words
    else:
        if not before:
            offered += verbs
        known = plugins.take_options(before)
        os.environ["COMP_LINE"] = " ".join([words[0], *known, last]) if words else line
        with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
            hydra()
        offered += [
            w for w in said.getvalue().split() if not w.endswith("=schema") and "=of_" not in w
        ]
    fits = [word for word in offered if word.startswith(last)]
    between = "\n" if any("fish" in word for word in sys.argv) else " "
    print(between.join(dict.fromkeys(fits)))
