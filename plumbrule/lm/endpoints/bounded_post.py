"""One `POST` that ends: within a time once the host's name is resolved, with a bounded reply.

A socket's timeout bounds the wait for the next byte only, so a peer that drips a byte a second, in
its headers or in its body, holds a caller for ever. Here a timer shuts the connection down when the
whole exchange has taken too long, and each of a host's addresses is tried for what is left of that
time. Looking the host's name up can't be bounded from here: the system's resolver has timeouts of
its own, after which nothing is tried any more. Redirects are not followed: a token meant for one
host must not reach another.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

READ_BYTES = 2**16
"""At once."""
REFUSAL_BYTES = 2**12
"""Of what a service says beside a status of 300 or more."""


class CutOffError(OSError):
    """The exchange took too long. reply: what had come by then."""

    def __init__(self, seconds: float, reply: bytes):
        self.reply = reply
        super().__init__(f"not whole after {seconds:g} s")


class Exchange:
    """The connection of one request, and the timer that ends it."""

    def __init__(self, seconds: float):
        self.is_over = False
        self.sockets: list[socket.socket] = []
        self.seconds, self.ends_at = seconds, time.monotonic() + seconds
        self.timer = threading.Timer(seconds, self.end)
        self.timer.daemon = True

    def connect(self, host: str, port: int) -> socket.socket:
        """Return a connection to the first of a host's addresses that answers.

        Raises: OSError: none does in what is left of the time.
        """
        error: OSError = TimeoutError("timed out")
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        ):
            left = self.ends_at - time.monotonic()
            if left <= 0:
                break
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(left)
                connection.connect(address)
                connection.settimeout(self.seconds)  # the timer comes first, and says why
                self.opened(connection)
                return connection
            except OSError as failed:
                error = failed
                connection.close()
        raise error

    def opened(self, connection: socket.socket) -> None:
        """Take note of a socket, by a descriptor of its own, since TLS takes the given one over."""
        self.sockets.append(connection.dup())
        if self.is_over:
            self.end()

    def end(self) -> None:
        """Shut the sockets down, whoever reads from them."""
        self.is_over = True
        for connection in self.sockets:
            with contextlib.suppress(OSError):  # the peer has closed it
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Stop the timer and give the descriptors back."""
        self.timer.cancel()
        for connection in self.sockets:
            connection.close()


def post(
    url: str, data: bytes, headers: Mapping[str, str], *, seconds: float, most_bytes: int
) -> bytes:
    """Return the first `most_bytes` + 1 bytes of the reply: one more than allowed shows that there
    are more.

    Raises: CutOffError: the exchange took more than `seconds`. urllib.error.HTTPError: a status of
    300 or more; what was said beside it can be read. OSError, http.client.HTTPException: no
    connection, or a broken one.
    """
    exchange = Exchange(seconds)
    opener = urllib.request.build_opener(_NoRedirect, _Handler(exchange), _SecureHandler(exchange))
    reply = b""
    exchange.timer.start()
    try:
        request = urllib.request.Request(url, data, dict(headers))
        with opener.open(request, timeout=seconds) as answered:
            while len(reply) <= most_bytes:
                part = answered.read1(min(READ_BYTES, most_bytes + 1 - len(reply)))
                if not part:
                    break
                reply += part
            if len(reply) <= most_bytes and answered.length:
                raise http.client.IncompleteRead(reply, answered.length)
    except urllib.error.HTTPError as error:
        said = b""
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            said = error.read(REFUSAL_BYTES)
        error.close()
        raise urllib.error.HTTPError(
            error.url, error.code, error.reason, error.headers, io.BytesIO(said)
        ) from None
    except (OSError, http.client.HTTPException, ValueError):
        if exchange.is_over:
            raise CutOffError(seconds, reply) from None
        raise
    finally:
        exchange.close()
    if exchange.is_over:
        raise CutOffError(seconds, reply)
    return reply


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> None:
        return None


class _Handler(urllib.request.HTTPHandler):
    def __init__(self, exchange: Exchange):
        super().__init__()
        self.exchange = exchange

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_watched(http.client.HTTPConnection, self.exchange), req)


class _SecureHandler(urllib.request.HTTPSHandler):
    def __init__(self, exchange: Exchange):
        super().__init__()
        self.exchange = exchange

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_watched(http.client.HTTPSConnection, self.exchange), req)


def _watched(kind: Any, exchange: Exchange) -> Any:
    """Return a way to make a connection of that kind whose socket the exchange knows."""

    def make(host: str, **settings: Any) -> Any:
        connection = kind(host, **settings)
        # called by connect, before any TLS handshake
        connection._create_connection = lambda address, *_: exchange.connect(*address)
        return connection

    return make
