"""`python -m eval policy.path=<folder or hub name>`: evaluate one model, and train nothing.

The command is `plumbrule experiment=evaluate model=<folder or hub name>`, and every override of
`plumbrule` may stand behind it, such as `eval.bold.path=<folder>`. `policy.revision=<commit>` goes
with a hub name.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

POLICY, REVISION = "policy.path=", "policy.revision="


def as_command(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of `plumbrule` that evaluate what these name.

    Raises: ValueError: no policy, or several.
    """
    named = [a.removeprefix(POLICY) for a in arguments if a.startswith(POLICY)]
    if len(named) != 1 or not named[0]:
        raise ValueError(
            f"policy.path (={', '.join(named) or None}) must name one folder of a model or hub "
            "name; add policy.path=<folder or hub name>."
        )
    chosen = ["experiment=evaluate", f"model={named[0]}"]
    for argument in arguments:
        if argument.startswith(REVISION):
            chosen.append(f"model.revision={argument.removeprefix(REVISION)}")
        elif not argument.startswith(POLICY):
            chosen.append(argument)
    return chosen


def main() -> None:
    """Run the command line and exit."""
    try:
        sys.argv[1:] = as_command(sys.argv[1:])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    from plumbrule.cli.entry import main as command_line

    command_line()


if __name__ == "__main__":
    main()
