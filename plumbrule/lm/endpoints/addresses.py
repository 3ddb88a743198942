"""What a URL in a config may be: one that a client can ask, without a secret. No torch here."""

from __future__ import annotations

from urllib.parse import urlsplit

from plumbrule.config import require


def require_url(name: str, url: str, token_setting: str) -> None:
    """Raise ConfigError unless the setting `name` is an http or https address without a secret.

    Args: token_setting: where a secret belongs.
    """
    secret = set(url) & set("@?#")
    require(
        url.startswith(("http://", "https://")) and not secret,
        name,
        "hidden" if secret else url,
        "begin with http:// or https:// and hold no password and no query",
        f"put a secret into an environment variable and name it in {token_setting}",
    )
    require(
        _is_address(url),
        name,
        url,
        "be an address in plain letters, with a host",
        "percent-encode other letters and blanks",
    )


def _is_address(url: str) -> bool:
    """Return whether a client can send a request to `url`."""
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return named and url.isascii() and url.isprintable() and " " not in url
