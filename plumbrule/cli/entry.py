"""The command's first lines: Ctrl-C while the rest is still being imported is one line, too."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit."""
    try:
        from plumbrule.cli import main as command_line

        command_line.main()
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        sys.exit(130)
