"""Byte streams to feed a server: well-formed requests of every form, broken ones, and mutations of both."""

from __future__ import annotations

import gzip
import json
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

MAX_BODY_BYTES = 4096
SLOW_BODY_BYTES = 600
"""`decode_off_loop_bytes` of the servers that are compared."""
COMPRESS_FROM_BYTES = 300
"""`compress_from_bytes` of theirs."""

INFER = b"/v2/models/mlp/infer"
TEXT = b"/v2/models/text/infer"
JSON = b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}'
SHORT = b'{"input":{"x":[5,6,7,8]}}'


class Part(NamedTuple):
    """One request, the statuses it is answered with, and whether its connection ends with it.

    A status of 0 stands for none: the server waits for more.
    """

    name: str
    data: bytes
    statuses: tuple[int, ...]
    closes: bool = False


def request(
    body: bytes = b"",
    *lines: bytes,
    method: bytes = b"POST",
    target: bytes = INFER,
    version: bytes = b"HTTP/1.1",
    length: bytes | None = b"",
) -> bytes:
    """One request. `length`: the value of Content-Length; empty: the right one; None: no such header."""
    head = [b"%b %b %b" % (method, target, version), b"Host: test", *lines]
    if length is not None:
        head.append(b"Content-Length: %b" % (length or b"%d" % len(body)))
    return b"\r\n".join((*head, b"", body))


def document(rows: Sequence[Sequence[float]], **members: object) -> bytes:
    """A protocol v2 body of the model `mlp`."""
    flat = [value for row in rows for value in row]
    tensor = {"name": "x", "shape": [len(rows), 4], "datatype": "FP32", "data": flat}
    return json.dumps({"inputs": [tensor], **members}).encode()


def binary(**parameters: object) -> bytes:
    """A request of two rows in the binary form, with its header."""
    tensor = {"name": "x", "shape": [2, 4], "datatype": "FP32", "parameters": {"binary_data_size": 32}}
    head = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
    body = head + struct.pack("<8f", *range(8))
    return request(body, b"Inference-Header-Content-Length: %d" % len(head))


def chunked(body: bytes, *lines: bytes, trailer: bytes = b"", piece: int = 20, **rest: bytes) -> bytes:
    """The body in chunks."""
    chunks = [body[at : at + piece] for at in range(0, len(body), piece)]
    coded = b"".join(b"%x;a=b\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n" + trailer + b"\r\n"
    head = request(b"", b"Transfer-Encoding: chunked", *lines, length=None, **rest)
    return head + coded


def get(target: bytes, *lines: bytes, version: bytes = b"HTTP/1.1", method: bytes = b"GET") -> bytes:
    """A request without a body."""
    return request(b"", *lines, method=method, target=target, version=version, length=None)


def zipped_binary() -> bytes:
    """A binary request in gzip; the length of its JSON is that without the coding."""
    head, body = binary().split(b"\r\n\r\n", 1)
    inner = next(line for line in head.split(b"\r\n") if line.startswith(b"Inference"))
    return request(gzip.compress(body), inner, GZIP)


GZIP = b"Content-Encoding: gzip"
DEFLATE = b"Content-Encoding: deflate"
ACCEPT = b"Accept-Encoding: gzip, deflate"
CLASSES = document([[1, 2, 3, 4]], outputs=[{"name": "y", "parameters": {"classification": 1}}])
CLOSE = b"Connection: close"
LARGE = document([[1.5, 2.25, 3.125, 4.0]] * 40)
FULL = JSON + b" " * (MAX_BODY_BYTES - len(JSON))


def lane_parts() -> list[Part]:
    """Requests that the express lane may take."""
    versions = b"/v2/models/mlp/versions/1/infer"
    return [
        Part("json", request(JSON), (200,)),
        Part("two rows", request(document([[1, 2, 3, 4], [5, 6, 7, 8]])), (200,)),
        Part("id", request(document([[1, 2, 3, 4]], id="a")), (200,)),
        Part("explain", request(document([[1, 2, 3, 4]], parameters={"explain": True})), (200,)),
        Part("nan", request(JSON.replace(b"[1,2", b"[NaN,2")), (200,)),
        Part("large", request(LARGE), (200,)),
        Part("full", request(FULL), (200,)),
        Part("binary", binary(), (200,)),
        Part("binary out", binary(binary_data_output=True), (200,)),
        Part("bad binary length", request(JSON, b"Inference-Header-Content-Length: 1e3"), (400,)),
        Part("short", request(SHORT), (200,)),
        Part("version", request(JSON, target=versions), (200,)),
        Part("raw", request(struct.pack("<4f", 1, 2, 3, 4), b"Inference-Header-Content-Length: 0"), (200,)),
        Part("raw, too short", request(bytes(15), b"Inference-Header-Content-Length: 0"), (400,)),
        Part("raw text", request(b"a\0b", b"Inference-Header-Content-Length: 0", target=TEXT), (200,)),
        Part("classes", request(CLASSES), (200,)),
        Part("classes, binary", request(CLASSES.replace(b'": 1}', b'": 1, "binary_data": true}')), (200,)),
        Part("accepts, small", request(JSON, ACCEPT), (200,)),
        Part("accepts, large", request(LARGE, ACCEPT), (200,)),
        Part("accepts deflate, large", request(LARGE, b"Accept-Encoding: gzip;q=0.5, deflate"), (200,)),
        Part("accepts nothing, large", request(LARGE, b"Accept-Encoding: *;q=0"), (200,)),
        Part("image", request(b"png", b"Content-Type: image/png", target=b"/v2/models/text/infer"), (200,)),
        Part("image for numbers", request(b"\x89PNG", b"Content-Type: image/png"), (400,)),
        Part("curl", request(JSON, b"Content-Type: application/x-www-form-urlencoded", b"Accept: */*"), (200,)),
        Part("keep-alive", request(JSON, b"Connection: keep-alive"), (200,)),
        Part("KEEP-ALIVE", request(JSON, b"CONNECTION: Keep-Alive").replace(b"Content-L", b"CONTENT-l"), (200,)),
        Part("two content types", request(JSON, b"Content-Type: a/b", b"Content-Type: application/json"), (200,)),
        Part("empty body", request(b""), (400,)),
        Part("not json", request(b"{"), (400,)),
        Part("wrong shape", request(JSON.replace(b"[1,4]", b"[1,3]")), (400,)),
        Part("no utf-8", request(b"\xff" * 9, target=b"/v2/models/text/infer"), (400,)),
        Part("space after the length", request(JSON, length=b"%d  " % len(JSON)), (200,)),
        Part("leading line ends", b"\r\n\r\n" + request(JSON), (200,)),
        Part("long header", request(JSON, b"X-Long: " + b"y" * 20_000), (200,)),
        Part("connection: upgrade alone", request(JSON, b"Connection: Upgrade"), (200,)),
    ]


def asgi_parts() -> list[Part]:
    """Requests that go the ordinary way, the route of inference among them."""
    upgrade = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")
    return [
        Part("healthz", get(b"/healthz"), (200,)),
        Part("metadata", get(b"/v2/models/mlp"), (200,)),
        Part("ready", get(b"/v2/health/ready"), (200,)),
        Part("nothing there", get(b"/nowhere"), (404,)),
        Part("post to get", request(b"abc", target=b"/v2"), (405,)),
        Part("get to post", get(INFER), (405,)),
        Part("delete", get(INFER, method=b"DELETE"), (405,)),
        Part("options *", get(b"*", method=b"OPTIONS"), (404,)),
        Part("unknown model", request(JSON, target=b"/v2/models/none/infer"), (404,)),
        Part("unknown version", request(JSON, target=b"/v2/models/mlp/versions/2/infer"), (404,)),
        Part("no length", request(b"", length=None), (400,)),
        Part("chunked", chunked(JSON), (200,)),
        Part("chunked with a trailer", chunked(JSON, trailer=b"X-Sum: 1\r\n"), (200,)),
        Part("trailer is no header", chunked(JSON, trailer=b"Content-Encoding: gzip\r\n"), (200,)),
        Part("accepts, large in chunks", chunked(LARGE, ACCEPT), (200,)),
        Part("full in gzip", request(gzip.compress(FULL), GZIP), (200,)),
        Part("expect", request(JSON, b"Expect: 100-continue"), (100, 200)),
        Part("Expect ", request(JSON, b"EXPECT: 100-Continue "), (100, 200)),
        Part("expect, refused", request(JSON, b"Expect: 100-continue", b"Content-Encoding: br"), (415,)),
        Part("coding", chunked(JSON).replace(b"g: chunked", b"g: gzip, chunked"), (501,)),
        Part("encoding", request(JSON, b"Content-Encoding: zstd"), (415,)),
        Part("two encodings", request(JSON, b"Content-Encoding: gzip, deflate"), (415,)),
        Part("two encoding lines", request(JSON, b"Content-Encoding: gzip", b"Content-Encoding: gzip"), (415,)),
        Part("not gzip", request(JSON, b"Content-Encoding: gzip"), (400,)),
        Part("gzip", request(gzip.compress(JSON), b"Content-Encoding: gzip"), (200,)),
        Part("GZIP", request(gzip.compress(JSON), b"CONTENT-ENCODING:  X-Gzip "), (200,)),
        Part("gzip members", request(gzip.compress(JSON[:9]) + gzip.compress(JSON[9:]), GZIP), (200,)),
        Part("deflate", request(zlib.compress(JSON), b"Content-Encoding: deflate, identity"), (200,)),
        Part("deflate in chunks", chunked(zlib.compress(JSON), b"Content-Encoding: deflate"), (200,)),
        Part("cut gzip", request(gzip.compress(JSON)[:-3], GZIP), (400,)),
        Part("no gzip at all", request(b"", GZIP), (400,)),
        Part("more than deflate", request(zlib.compress(JSON) + b"\0", b"Content-Encoding: deflate"), (400,)),
        Part("gzip of binary", zipped_binary(), (200,)),
        Part("logging, delete", get(b"/v2/logging", method=b"DELETE"), (405,)),
        Part("trace", get(b"/v2/trace/setting"), (200,)),
        Part("trace, on", request(b'{"trace_level":["TIMESTAMPS"]}', target=b"/v2/trace/setting"), (501,)),
        Part("shared memory", get(b"/v2/systemsharedmemory/status"), (501,)),
        Part("identity", request(JSON, b"Content-Encoding: identity"), (200,)),
        Part("prefer", request(JSON, b"Prefer: wait=1"), (200,)),
        Part("query", request(JSON, target=INFER + b"?a=b"), (200,)),
        Part("percent", request(JSON, target=b"/v2/models/m%6cp/infer"), (200,)),
        Part("broken percent", request(JSON, target=b"/v2/models/m%zzp/infer"), (404,)),
        Part("percent, not utf-8", request(JSON, target=b"/v2/models/%ff/infer"), (404,)),
        Part("slash in the name", request(JSON, target=b"/v2/models/m%2Flp/infer"), (404,)),
        Part("absolute", request(JSON, target=b"http://test" + INFER), (200,)),
        Part("absolute, no path", get(b"http://test"), (404,)),
        Part("upgrade", request(JSON, *upgrade), (200,)),
        Part("upgrade of chunks", chunked(JSON, *upgrade), (200,)),
        Part("upgrade of a get", get(b"/healthz", b"Connection: upgrade", b"Upgrade: websocket"), (200,)),
        Part("upgrade unasked", request(JSON, b"Upgrade: h2c"), (200,)),
        Part("index", request(b"{}", target=b"/v2/repository/index"), (200,)),
    ]


def last_parts() -> list[Part]:
    """Requests that end their connection."""
    return [
        Part("close", request(JSON, CLOSE), (200,), True),
        Part("CLOSE", request(JSON, b"CONNECTION: CLOSE"), (200,), True),
        Part("close among others", request(JSON, b"Connection: keep-alive, close"), (200,), True),
        Part("close of a get", get(b"/healthz", CLOSE), (200,), True),
        Part("close of an error", request(b"{", CLOSE), (400,), True),
        Part("close of chunks", chunked(JSON, CLOSE), (200,), True),
        Part("close of an upgrade", request(JSON, b"Connection: close, upgrade", b"Upgrade: h2c"), (200,), True),
        Part("1.0", request(JSON, version=b"HTTP/1.0"), (200,), True),
        Part("1.0 keep-alive", request(JSON, b"Connection: keep-alive", version=b"HTTP/1.0"), (200,), True),
        Part("1.0, no host", request(JSON, version=b"HTTP/1.0").replace(b"Host: test\r\n", b""), (200,), True),
        Part("1.0 get", get(b"/healthz", version=b"HTTP/1.0"), (200,), True),
        Part("too large", request(b"x" * (MAX_BODY_BYTES + 1)), (413,), True),
        Part("far too large", request(b"x", length=b"9" * 18), (413,), True),
        Part("bomb", request(gzip.compress(bytes(MAX_BODY_BYTES * 900)), GZIP), (413,), True),
        Part("one byte too large in gzip", request(gzip.compress(FULL + b" "), GZIP), (413,), True),
        Part(
            "deflate bomb",
            chunked(zlib.compress(bytes(MAX_BODY_BYTES * 9)), b"Content-Encoding: deflate"),
            (413,),
            True,
        ),
        Part("too large in chunks", chunked(b"x" * (MAX_BODY_BYTES + 1), piece=1000), (413,), True),
        Part("connect", get(b"test:443", method=b"CONNECT"), (405,), True),
        *broken_parts(),
    ]


def broken_parts() -> list[Part]:
    """What is not HTTP."""
    plain = request(JSON)
    broken = {
        "garbage": b"\x16\x03\x01\x02\x00\x01\x00",
        "method": request(JSON, method=b"BREW"),
        "lower-case method": request(JSON, method=b"post"),
        "version": request(JSON, version=b"HTTP/1.2"),
        "version 3": request(JSON, version=b"HTTP/3.0"),
        "h2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "relative target": request(JSON, target=b"v2/models/mlp/infer"),
        "no target": request(JSON, target=b""),
        "authority as target": get(b"test:443"),
        "target not ascii": request(JSON, target=b"/v2/models/\xc3\xa4/infer"),
        "space in the target": request(JSON, target=b"/v2/models/m lp/infer"),
        "bare line feed": plain.replace(b"\r\n", b"\n"),
        "no host": plain.replace(b"Host: test\r\n", b""),
        "no host, get": get(b"/healthz").replace(b"Host: test\r\n", b""),
        "two hosts": request(JSON, b"Host: test"),
        "two hosts, 1.0": request(JSON, b"HOST: other", version=b"HTTP/1.0"),
        "nul in a value": request(JSON, b"X: a\0b"),
        "nul in a name": request(JSON, b"X\0: ab"),
        "return in a value": request(JSON, b"X: a\rb"),
        "folded": request(JSON, b"X: a\r\n b"),
        "space before the colon": request(JSON, b"X : a"),
        "no colon": request(JSON, b"X a"),
        "two lengths": request(JSON, b"Content-Length: %d" % len(JSON)),
        "two different lengths": request(JSON, b"Content-Length: 2"),
        "length list": request(JSON, length=b"2, 2"),
        "length negative": request(JSON, length=b"-1"),
        "length plus": request(JSON, length=b"+9"),
        "length hex": request(JSON, length=b"0x20"),
        "length underscore": request(JSON, length=b"1_0"),
        "length empty": request(JSON, length=b" "),
        "length beyond 64 bits": request(JSON, length=b"9" * 25),
        "length and chunks": chunked(JSON, b"Content-Length: 5"),
        "chunks and length": request(JSON, b"Transfer-Encoding: chunked"),
        "coding": request(JSON, b"Transfer-Encoding: gzip", length=None),
        "chunked not last": request(JSON, b"Transfer-Encoding: chunked, gzip", length=None),
        "identity coding": request(JSON, b"Transfer-Encoding: identity", length=None),
        "chunk size": request(b"xyz\r\n", b"Transfer-Encoding: chunked", length=None),
        "chunk size too large": request(b"f" * 20 + b"\r\n", b"Transfer-Encoding: chunked", length=None),
        "chunk without end": request(b"2\r\nabcd\r\n", b"Transfer-Encoding: chunked", length=None),
    }
    return [Part(name, data, (400,), True) for name, data in broken.items()]


def tail_parts() -> list[Part]:
    """Beginnings of requests: the server waits for the rest."""
    return [
        Part("nothing", b"", ()),
        Part("half a head", request(JSON)[:40], ()),
        Part("half a body", request(JSON)[:-9], ()),
        Part("half a chunk", chunked(JSON)[:-30], ()),
        Part("half a length", request(JSON, length=b"99")[:75], ()),
    ]


def cut(data: bytes, at: Sequence[int]) -> list[bytes]:
    """`data` in pieces, cut at these offsets."""
    edges = [0, *sorted(set(at)), len(data)]
    return [data[a:b] for a, b in pairwise(edges) if a < b]


def random_cuts(rng: random.Random, data: bytes) -> list[bytes]:
    """`data` in one piece, a few, or (short data) single bytes."""
    kind = rng.random()
    if kind < 0.3 or len(data) < 2:
        return [data] if data else []
    if kind < 0.35 and len(data) < 400:
        return cut(data, range(1, len(data)))
    return cut(data, rng.sample(range(1, len(data)), min(len(data) - 1, rng.randint(1, 5))))


TOKENS = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"\xff", b"Content-Length: 0\r\n", b"Content-Length: 76\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"0\r\n\r\n",
    b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\nConnection: upgrade\r\n", b"HTTP/1.0", b"HTTP/1.1", b"POST ",
    b"GET ", b"\r\n\r\n", b"/", b"%", b"?", b"9999999999999999999", b"Inference-Header-Content-Length: 3\r\n",
    b"Content-Encoding: gzip\r\n", b"Accept-Encoding: gzip\r\n", b"[", b"}", b'"', b"NaN",
    b"Content-Type: image/png\r\n", b"\r\n x",
)  # fmt: skip


def _flip(rng: random.Random, data: bytearray, at: int) -> None:
    data[at] = rng.randrange(256)


def _drop(rng: random.Random, data: bytearray, at: int) -> None:
    del data[at : at + rng.randint(1, 12)]


def _insert(rng: random.Random, data: bytearray, at: int) -> None:
    data[at:at] = rng.choice(TOKENS)


def _replace(rng: random.Random, data: bytearray, at: int) -> None:
    token = rng.choice(TOKENS)
    data[at : at + len(token)] = token


def _repeat(rng: random.Random, data: bytearray, at: int) -> None:
    data[at:at] = data[at : at + rng.randint(1, 120)]


def _line(rng: random.Random, data: bytearray, at: int) -> None:
    """A whole header line, where lines begin."""
    start = data.find(b"\r\n", at)
    if start >= 0:
        data[start + 2 : start + 2] = rng.choice(TOKENS[7:])


def _truncate(rng: random.Random, data: bytearray, at: int) -> None:
    del data[at:]


_MUTATIONS: tuple[Callable[[random.Random, bytearray, int], None], ...] = (
    _flip, _drop, _insert, _replace, _repeat, _line, _line, _truncate,
)  # fmt: skip


def mutated(rng: random.Random, data: bytes) -> bytes:
    """`data` with one to four faults."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if changed:
            rng.choice(_MUTATIONS)(rng, changed, rng.randrange(len(changed)))
    return bytes(changed)
