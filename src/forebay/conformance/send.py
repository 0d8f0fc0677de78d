"""Sends one request as it is written, over one kept connection, and returns whatever comes. Never raises."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from types import TracebackType
from typing import cast
from urllib.parse import urlsplit

from forebay.conformance.check import Got, Sent
from forebay.core.errors import SetupError

_CHUNKS = 3
_CLOSE_WAIT_S = 2.0


class Sender:
    """A client with control over every header. `headers` go with each request (a key, for instance).

    Raises `SetupError` for anything but `http://HOST[:PORT][/PREFIX]`.
    """

    def __init__(self, url: str, timeout_s: float, headers: tuple[tuple[str, str], ...] = ()) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        try:
            port = parts.port or 80
        except ValueError:
            port = 0
        if parts.scheme != "http" or not parts.hostname or not port:
            raise SetupError(f"{url!r} is not a URL this kit can use; write http://HOST:PORT (no TLS)")
        self._address = (parts.hostname, port)
        self._prefix = parts.path.rstrip("/")
        self._headers = headers
        self._timeout_s = timeout_s
        self._connection: http.client.HTTPConnection | None = None

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._drop()

    def __call__(self, sent: Sent) -> Got:
        """The answer, or why there is none."""
        if sent.delay_s:
            time.sleep(sent.delay_s)
        reused = self._connection is not None
        got = self._try(sent, reused)
        if got.failure and reused:
            # The server may have closed the kept connection meanwhile; a request that got no answer goes out once more.
            got = self._try(sent, False)
        return got

    def _try(self, sent: Sent, reused: bool) -> Got:
        if self._connection is None:
            self._connection = http.client.HTTPConnection(*self._address, timeout=self._timeout_s)
        connection = self._connection
        try:
            self._write(connection, sent)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._drop()
            return Got(0, failure=f"{type(error).__name__}: {error}".rstrip(": "))
        closed = _closes(connection.sock) if _asks_close(sent) else None
        if connection.sock is None or response.will_close or closed is not None:
            self._drop()
        return Got(response.status, tuple(response.getheaders()), body, reused=reused, closed=closed)

    def _write(self, connection: http.client.HTTPConnection, sent: Sent) -> None:
        if connection.sock is None:
            connection.connect()
            cast(socket.socket, connection.sock).setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.putrequest(sent.method, self._prefix + sent.path, skip_host=True, skip_accept_encoding=True)
        if sent.host:
            host, port = self._address
            connection.putheader("Host", f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        for name, value in (*self._headers, *sent.headers):
            connection.putheader(name, value.encode("latin-1"))
        if sent.chunked:
            connection.putheader("Transfer-Encoding", "chunked")
        elif sent.body or sent.method not in ("GET", "HEAD", "DELETE"):
            connection.putheader("Content-Length", str(len(sent.body)))
        connection.endheaders(_chunks(sent.body) if sent.chunked else sent.body or None)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _chunks(body: bytes) -> bytes:
    size = max(1, -(-len(body) // _CHUNKS))
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def _asks_close(sent: Sent) -> bool:
    return any(name.lower() == "connection" and value.lower() == "close" for name, value in sent.headers)


def _closes(sock: socket.socket | None) -> bool:
    """Whether the peer closes the connection within two seconds. http.client lets go of one that was said to close."""
    if sock is None:
        return True
    with contextlib.suppress(OSError):
        sock.settimeout(_CLOSE_WAIT_S)
        return sock.recv(1) == b""
    return False
