"""The errors a user may see. Each says which field or file, its value, the rule and the fix.

`ConfigError` and `DataError` are raised before a model loads wherever that can be known. The
command line prints them as one line and exits with 2; `NeedsInput` exits with 3.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


class PlumbruleError(Exception):
    """Base of every error that is the user's to fix; never raised itself."""


class ConfigError(PlumbruleError):
    """A setting, or a combination of settings, that cannot run."""


class GraphError(ConfigError):
    """A run graph that cannot run: a cycle, an unknown node, an input of the wrong kind."""


class DataError(PlumbruleError):
    """A record or file of data that breaks its format.

    Args: message: rule and fix; what is not printable in it is escaped. path, row: where (row
    counts from 1). text: the offending line, of which the first 80 characters are shown.
    """

    def __init__(
        self,
        message: str,
        path: Path | str | None = None,
        row: int | None = None,
        text: str | None = None,
    ):
        message = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
        where = "" if path is None else f"{path}" + ("" if row is None else f", row {row}") + ": "
        shown = "" if text is None else f" It reads: {text[:80]!r}"
        super().__init__(f"{where}{message}{shown}")


class ArtifactError(PlumbruleError):
    """A published artifact that is damaged, incomplete or of the wrong kind."""


class TrainingError(PlumbruleError):
    """Training that cannot go on: NaN or Inf in a loss, a claim that was lost."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: whoever runs jobs wants this one to end; as Ctrl-C, all is left in order first."""


class Pruned(KeyboardInterrupt):
    """A search has stopped a run early: what it left stands, and it is no failure."""


class NeedsInput(Exception):
    """A stage that waits for a person: the run ends with exit code 3 and says what it awaits.

    Args: path: the file or folder to fill. what: one sentence saying how.
    """

    def __init__(self, path: Path | str, what: str):
        self.path, self.what = Path(path), what
        super().__init__(f"waiting for {path}: {what}")


def listed(names: Iterable[str], most: int = 12) -> str:
    """Return names from outside as an error shows them: the first `most`, each cut short."""
    every = [str(name) for name in names]
    shown = ", ".join(name if len(name) <= 40 else f"{name[:40]}..." for name in every[:most])
    return shown + (f" and {len(every) - most} more" if len(every) > most else "")
