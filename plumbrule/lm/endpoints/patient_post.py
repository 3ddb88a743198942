"""One question to a service over HTTP, asked again while the service is down.

A service that is down, slow or overloaded (no connection, no whole reply in `timeout_seconds`,
status 429 or 5xx) is asked again after 1, 2, 4, ... at most 15 seconds, until `patience_seconds`
have passed; then the run stops, and the same command goes on from its newest checkpoint. Any other
status, and a reply of another form or without end, stops it at once; redirects are not followed.
"""

from __future__ import annotations

import logging
import os
import time
import urllib.error
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import TypeVar

from plumbrule.errors import ConfigError, TrainingError
from plumbrule.lm.endpoints.bounded_post import CutOffError, post

log = logging.getLogger(__name__)
LONGEST_PAUSE = 15.0
"""Seconds between two tries."""
SHOWN_CHARACTERS = 200
"""Of a reply that is refused."""
OF_REQUESTS = (400, 404, 413, 422)
"""Statuses that may be about what is asked, and not about where or by whom."""
T = TypeVar("T")


class RefusedError(TrainingError):
    """A service refused a request. said: what it said beside the status, never shown: it may repeat
    a secret.
    """

    def __init__(self, message: str, status: int, said: str):
        super().__init__(message)
        self.status, self.said = status, said


@dataclass(frozen=True)
class Service:
    """What is asked, and how patiently. name: such as `the scorer at <url>`, for messages."""

    name: str
    url: str
    section: str
    """Of the config that holds its URL and `token_env`."""
    timeout_seconds: float
    patience_seconds: float
    headers: Mapping[str, str] = field(repr=False)
    """May hold a secret."""

    def ask(self, data: bytes, read: Callable[[bytes], T], most_bytes: int, what: str) -> T:
        """Return what `read` makes of the reply to `data`.

        Args: read: raises TrainingError for a reply of another form. most_bytes: of a reply. what:
            such as `to 3 response(s)`, for messages.
        Raises: TrainingError: the service stays away, refuses, or answers in another form.
        """
        begun, pause = time.monotonic(), 1.0
        while True:
            try:
                reply = post(
                    self.url,
                    data,
                    self.headers,
                    seconds=self.timeout_seconds,
                    most_bytes=most_bytes,
                )
                if len(reply) > most_bytes:
                    raise TrainingError(
                        f"{self.name} must answer at most {most_bytes} bytes {what}; it answered: "
                        f"{shown(reply)}"
                    )
                return read(reply)
            except urllib.error.HTTPError as error:
                if error.code != 429 and error.code < 500:
                    more = (
                        f", and the other settings of {self.section}: the request may be too long "
                        "for it or name what it has not"
                        if error.code in OF_REQUESTS
                        else ""
                    )
                    raise RefusedError(
                        f"{self.name} refused (status {error.code}); check {self.section}.url and "
                        f"{self.section}.token_env{more}.",
                        error.code,
                        error.read().decode("utf-8", "replace"),
                    ) from None
                why = f"status {error.code}"
            except CutOffError as error:
                why = f"{error}" + (f"; it began: {shown(error.reply)}" if error.reply else "")
            except (OSError, HTTPException) as error:
                why = str(getattr(error, "reason", error))
            waited = time.monotonic() - begun
            if waited + pause > self.patience_seconds:
                raise TrainingError(
                    f"{self.name} gave no answer for {waited:.0f} s ({why}); start it and run the "
                    "same command again, which goes on from the newest checkpoint."
                )
            log.warning("%s: %s; asking again in %.0f s", self.name, why, pause)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def headers_with(token_env: str | None, section: str) -> dict[str, str]:
    """Return the headers of a JSON request, with the bearer token that a variable holds.

    Args: token_env: the environment variable; None: no token.
    Raises: ConfigError: it is not set, or can't be sent.
    """
    headers = {"Content-Type": "application/json"}
    if token_env is None:
        return headers
    token = os.environ.get(token_env)
    if not token:
        raise ConfigError(
            f"{section}.token_env (={token_env}) must name an environment variable that is set; "
            "set it, or leave the setting out."
        )
    if not (token.isascii() and token.isprintable()):
        raise ConfigError(
            f"the value of {token_env} ({section}.token_env) must be one line of plain letters; "
            "set it without line breaks."
        )
    return {**headers, "Authorization": f"Bearer {token}"}


def shown(reply: bytes) -> str:
    """Return the beginning of a reply, on one line."""
    return repr(reply[:SHOWN_CHARACTERS].decode("utf-8", "replace"))
