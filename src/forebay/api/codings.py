"""HTTP content codings, both ways: gzip and deflate (the zlib format), in steps that never hold the event loop long.

Source: RFC 9110, 8.4 (Content-Encoding), 12.5.3 (Accept-Encoding), 15.5.16 (415); Triton's clients ask for them by
`request_compression_algorithm` and `response_compression_algorithm`. Inference-Header-Content-Length counts bytes of
the body without its coding, as in Triton.
"""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterable, Iterator

from forebay.api.elements import show
from forebay.api.encode import HeaderPairs
from forebay.api.problems import Answer
from forebay.core.errors import RequestError

_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""Names of codings as zlib's `wbits`; the zlib format is what HTTP calls deflate."""

LEVEL = 1
"""Of tensors a higher level saves a few per cent more, in two to five times the time."""
INFLATE_STEP_BYTES = 64 << 10
DEFLATE_STEP_BYTES = 16 << 10
"""Bytes of one step; each takes a fraction of a millisecond."""
_VARY = (b"vary", b"accept-encoding")


def request_coding(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The coding of a request's body by its head; None: none. Raises `RequestError` (unsupported_encoding)."""
    given = b",".join(value for name, value in headers if name == b"content-encoding")
    if not given:
        return None
    codings = [token.strip().lower() for token in given.decode("latin-1").split(",")]
    codings = [token for token in codings if token not in ("", "identity")]
    if not codings:
        return None
    if len(codings) == 1 and codings[0] in _WINDOW_BITS:
        return codings[0]
    raise RequestError(
        f"Content-Encoding {show(given.decode('latin-1'))} is not supported; send one of gzip, deflate, or none",
        code="unsupported_encoding",
    )


class Inflater:
    """Undoes the coding of one body, piece by piece. What comes out is never more than a step at a time."""

    __slots__ = ("_coding", "_inflate")

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._inflate = zlib.decompressobj(_WINDOW_BITS[coding])

    def steps(self, piece: bytes) -> Iterator[bytes]:
        """The plain bytes of a piece, in parts (some may be empty). Raises `RequestError` where it is damaged."""
        while True:
            if self._inflate.eof:
                if not piece:
                    return
                if self._coding == "deflate":
                    raise RequestError("the body goes on after the end of its deflate data")
                # A gzip file may have several members (RFC 1952, 2.2).
                self._inflate = zlib.decompressobj(_WINDOW_BITS[self._coding])
            try:
                part = self._inflate.decompress(piece, INFLATE_STEP_BYTES)
            except zlib.error as error:
                raise RequestError(f"the body is not {self._coding} data: {error}") from None
            piece = self._inflate.unconsumed_tail or self._inflate.unused_data
            yield part
            if not piece and len(part) < INFLATE_STEP_BYTES:
                return

    def finish(self) -> None:
        """Raises `RequestError` where the data has not come to its end."""
        if not self._inflate.eof:
            raise RequestError(f"the body's {self._coding} data is cut short")


def answer_coding(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The coding that a request's `Accept-Encoding` likes best; None: the answer goes as it is.

    A tie is gzip's. Without the header nothing is coded, although HTTP would allow it.
    """
    given = b",".join(value for name, value in headers if name == b"accept-encoding").decode("latin-1").lower()
    if not given:
        return None
    weights: dict[str, float] = {}
    for item in given.split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        weights[name] = _weight(parameters)
    anything = weights.get("*", 0.0)
    gzip = weights.get("gzip", weights.get("x-gzip", anything))
    deflate = weights.get("deflate", anything)
    best = max(gzip, deflate)
    if best <= 0.0 or best < weights.get("identity", 0.0):
        return None
    return "gzip" if gzip == best else "deflate"


def _weight(parameters: list[str]) -> float:
    """The `q` among an item's parameters, from 0 to 1; 0 where it is not a number."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                weight = float(value)
            except ValueError:
                return 0.0
            return weight if 0.0 <= weight <= 1.0 else 0.0
    return 1.0


def coded(answer: Answer, headers: HeaderPairs) -> Generator[None, None, Answer]:
    """A large answer as the request whose headers these are wants it; the work is done in short steps."""
    coding = answer_coding(headers)
    varying = (*answer.headers, _VARY)
    if coding is None:
        return answer._replace(headers=varying)
    deflate = zlib.compressobj(LEVEL, zlib.DEFLATED, _WINDOW_BITS[coding])
    view = memoryview(answer.body)
    pieces: list[bytes] = []
    for start in range(0, len(view), DEFLATE_STEP_BYTES):
        pieces.append(deflate.compress(view[start : start + DEFLATE_STEP_BYTES]))
        yield
    pieces.append(deflate.flush())
    body = b"".join(pieces)
    if len(body) >= len(answer.body):
        return answer._replace(headers=varying)
    return Answer(answer.status, (*varying, (b"content-encoding", coding.encode())), body)
