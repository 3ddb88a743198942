"""What an archive for others must not hold: secrets, and where things lie on this machine.

Paths and the names of machines are taken out of the record, the manifests and the reports. Secrets
are looked for in every text, and where one is found nothing is written: what else might be near it
is for a person to say.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plumbrule.errors import ArtifactError
from plumbrule.store.fingerprint import ROOT

LEFT_OUT = "<left out>"
PATTERNS = {
    "a token of Hugging Face": rb"\bhf_[A-Za-z0-9]{20,}",
    "an API key": rb"\b(?:sk|pk|rk)-[A-Za-z0-9_-]{20,}",
    "a token of GitHub": rb"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{22,})",
    "a key of Google": rb"\bAIza[A-Za-z0-9_-]{35}",
    "an authorization header": rb"\b[Bb]earer [A-Za-z0-9_.~+/-]{20,}",
    "a token of GitLab": rb"\bglpat-[A-Za-z0-9_-]{16,}",
    "a token of Slack": rb"\bxox[abprs]-[A-Za-z0-9-]{10,}",
    "a key of AWS": rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a private key": rb"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a password in an address": rb"://[^/\s:@\"'<>]+:[^/\s@\"'<>]+@",
}
"""What it looks like -> how it is recognised."""
_SECRET = (
    r"(?<!\bpad_)(?<!\beos_)(?<!\bbos_)(?<!\bunk_)(?<!\bstop_)token"
    r"|secret|password|passwd|passphrase|credentials?|authorization"
    r"|(?:api|access|private|secret)[_-]?key"
)
SECRET_NAMES = re.compile(rf"(?:^|[._-])(?:{_SECRET})$", re.I)
"""Of settings and of environment variables; tokens of a vocabulary are none."""
_INNER_SECRET = re.compile(rf"(?<=[{{,])(\s*(?:[\w.-]*[._-])?(?:{_SECRET}))\s*:[^,}}\]]*", re.I)
"""Such a setting with its value, in a mapping that is the value of a word."""
_INNER_PATH = re.compile(r"(?<=[\[,:\"'])/(?:[^/\s,:\]}\"']+/)+([^/\s,:\]}\"']+)")
"""An absolute path in a list or a mapping; its last part."""
SHORTEST = 12
"""Characters of an environment variable's value that is looked for; a shorter one occurs by
chance."""


class Scrubber:
    """Takes one machine's paths out of texts, always in the same way.

    Args: store: the folder of the store.
    """

    def __init__(self, store: Path):
        places = {str(store): "<store>", str(ROOT): "<project>", str(Path.home()): "<home>"}
        self.places = {path: name for path, name in places.items() if len(path) > 1}

    def value(self, value: Any, name: str = "") -> Any:
        """Return a value of JSON without paths of this machine and values of secret settings."""
        if isinstance(value, Mapping):
            return {key: self.value(one, str(key)) for key, one in value.items()}
        if isinstance(value, list):
            return [self.value(one, name) for one in value]
        if not isinstance(value, str):
            return value
        return LEFT_OUT if value and SECRET_NAMES.search(name) else self.path(value)

    def word(self, word: str) -> str:
        """Return an override without them."""
        key, equals, value = word.partition("=")
        quote = value[:1] if value[:1] in "\"'" else ""
        plain = value[1:-1] if quote and value.endswith(quote) else value
        if value[:1] in "[{" and value:
            inner = _INNER_SECRET.sub(rf"\1:{LEFT_OUT}", self.text(value))
            inner = _INNER_PATH.sub(r"<path>/\1", inner)
            return f"{key}{equals}{inner}"
        return f"{key}{equals}{quote}{self.value(plain, key)}{quote if plain != value else ''}"

    def path(self, text: str) -> str:
        """Return a text that is an absolute path with its last part alone, else as `text`."""
        found = self.text(text)
        if found == text and re.fullmatch(r"/(?:[^/\n]+/)*[^/\n]+/?", text):
            return f"<path>/{Path(text).name}"
        return found

    def text(self, text: str) -> str:
        """Return a text with names in place of the store, the project and the user's folder."""
        for path in sorted(self.places, key=len, reverse=True):
            text = re.sub(re.escape(path) + r"(?![\w.-])", self.places[path], text)
        return text


def require_no_secret(name: str, content: bytes) -> None:
    """Raise ArtifactError if a file holds what looks like a secret, which the message keeps."""
    found = next((what for what, how in PATTERNS.items() if re.search(how, content)), None)
    for variable, value in os.environ.items():
        if SECRET_NAMES.search(variable) and len(value) >= SHORTEST and value.encode() in content:
            found = f"the value of {variable}"
    if found is not None:
        raise ArtifactError(
            f"{name} holds what looks like {found}, so no archive was written; take it out of the "
            "settings or the data, and make what holds it again."
        )
