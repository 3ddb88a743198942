"""The command's first lines: Ctrl-C while the rest is still being imported is one line, too.

They also say how often Python looks for garbage. What is imported, composed and planned stays to
the end, and by default a seventh of a short command is spent on finding none in it.
"""

from __future__ import annotations

import gc
import sys

NEW_OBJECTS = 50_000
"""How many containers are made before the newest of them are looked through."""


def main() -> None:
    """Run the command line and exit."""
    gc.disable()
    try:
        from plumbrule.cli import main as command_line

        gc.freeze()
        gc.set_threshold(NEW_OBJECTS, *gc.get_threshold()[1:])
        gc.enable()
        command_line.main()
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        sys.exit(130)
    finally:
        gc.enable()
