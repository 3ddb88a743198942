"""The command's first lines: Ctrl-C while the rest is still being imported is one line, too.

They also have Python look for garbage less often (`plumbrule.machine.garbage`).
"""

from __future__ import annotations

import sys

from plumbrule.machine import garbage


def main() -> None:
    """Run the command line and exit."""
    try:
        with garbage.not_collected():
            from plumbrule.cli import main as command_line

            garbage.collect_seldom()
        command_line.main()
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        sys.exit(130)
