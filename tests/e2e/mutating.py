"""A proxy in front of a real server that plants one mistake: what a wrong server would answer, over real sockets."""

from __future__ import annotations

import contextlib
import http.client
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from io import BufferedIOBase
from typing import Any

import msgspec


@dataclass(frozen=True)
class Request:
    """A request as it came; `head` is everything before the body, the first line left out."""

    method: str
    path: str
    head: bytes
    body: bytes

    @property
    def infers(self) -> bool:
        """Whether it is an inference request."""
        return self.method == "POST" and self.path.endswith("/infer")

    def json(self) -> Any:
        """Its JSON, also in front of binary data; None where it is none."""
        with contextlib.suppress(msgspec.MsgspecError):
            return msgspec.json.decode(self.body)
        return None

    def with_json(self, document: Any) -> Request:
        """The same with another JSON body."""
        body = msgspec.json.encode(document)
        lines = [line for line in self.head.split(b"\r\n") if not line.lower().startswith(b"content-length:")]
        return replace(self, head=b"\r\n".join([b"Content-Length: %d" % len(body), *lines]), body=body)


@dataclass(frozen=True)
class Reply:
    """An answer. Header names are in small letters; Content-Length is set on the way out unless `length` is given."""

    status: int
    headers: dict[str, str]
    body: bytes
    length: int | None = None
    closes: bool = False

    @property
    def split(self) -> int:
        """Where its JSON ends."""
        return int(self.headers.get("inference-header-content-length", len(self.body)))

    def json(self) -> Any:
        """Its JSON, in front of any binary data."""
        return msgspec.json.decode(self.body[: self.split])

    def with_json(self, document: Any, status: int | None = None) -> Reply:
        """The same with other JSON; binary data behind it stays."""
        head = msgspec.json.encode(document)
        headers = dict(self.headers)
        if "inference-header-content-length" in headers:
            headers["inference-header-content-length"] = str(len(head))
        body = head + self.body[self.split :]
        return replace(self, status=self.status if status is None else status, headers=headers, body=body)

    def with_header(self, name: str, value: str | None) -> Reply:
        """The same with a header changed, or without it."""
        headers = {key: old for key, old in self.headers.items() if key != name}
        return replace(self, headers=headers if value is None else {**headers, name: value})


Before = Callable[[Request], Request]
After = Callable[[Request, Reply], Reply]


@dataclass(frozen=True)
class Mutation:
    """One mistake: what becomes of requests, of answers, and which check must find it."""

    name: str
    found_by: str
    after: After = field(default=lambda request, reply: reply)
    before: Before = field(default=lambda request: request)


class _Proxy(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    upstream: tuple[str, int]
    mutation: Mutation


class _Connection(socketserver.StreamRequestHandler):
    """One client connection and its own one to the real server; requests go on byte for byte."""

    server: _Proxy

    def handle(self) -> None:
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            socket.create_connection(self.server.upstream, timeout=30) as upstream,
        ):
            while (request := _read(self.rfile)) is not None:
                request = self.server.mutation.before(request)
                line = f"{request.method} {request.path} HTTP/1.1\r\n".encode("latin-1")
                upstream.sendall(line + request.head + b"\r\n\r\n" + request.body)
                reply = self.server.mutation.after(request, _answer(upstream, request.method))
                self._write(request, reply)
                if reply.closes:
                    return

    def _write(self, request: Request, reply: Reply) -> None:
        length = len(reply.body) if reply.length is None else reply.length
        lines = [f"{name}: {value}" for name, value in reply.headers.items()]
        lines += [f"content-length: {length}", *(["connection: close"] if reply.closes else [])]
        head = f"HTTP/1.1 {reply.status} X\r\n" + "\r\n".join(lines) + "\r\n\r\n"
        self.wfile.write(head.encode("latin-1") + (b"" if request.method == "HEAD" else reply.body))
        if reply.length is not None and reply.length > len(reply.body):
            self.connection.shutdown(socket.SHUT_RDWR)


def _read(stream: BufferedIOBase) -> Request | None:
    first = stream.readline()
    if not first.strip():
        return None
    method, path, _ = first.decode("latin-1").split(" ", 2)
    lines: list[bytes] = []
    while (line := stream.readline().rstrip(b"\r\n")) != b"":
        lines.append(line)
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    if fields.get(b"transfer-encoding") == b"chunked":
        body = b""
        while not body.endswith(b"0\r\n\r\n"):
            body += stream.readline()
    else:
        body = stream.read(int(fields.get(b"content-length", b"0")))
    return Request(method, path, b"\r\n".join(lines), body)


def _answer(upstream: socket.socket, method: str) -> Reply:
    response = http.client.HTTPResponse(upstream, method=method)
    response.begin()
    body = response.read()
    headers = {name.lower(): value for name, value in response.getheaders()}
    headers.pop("content-length", None)
    headers.pop("transfer-encoding", None)  # the body has been read whole
    closes = headers.pop("connection", "") == "close" or response.will_close
    return Reply(response.status, headers, body, closes=closes)


@contextlib.contextmanager
def mutating(upstream_port: int, mutation: Mutation) -> Iterator[str]:
    """The URL of a proxy that makes this mistake."""
    with _Proxy(("127.0.0.1", 0), _Connection) as proxy:
        proxy.upstream = ("127.0.0.1", upstream_port)
        proxy.mutation = mutation
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{proxy.server_address[1]}"
        finally:
            proxy.shutdown()
            thread.join()
