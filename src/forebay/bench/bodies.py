"""Request bodies for any server of the Open Inference Protocol v2, made from the model's metadata.

Source: https://github.com/kserve/open-inference-protocol and Triton's binary tensor data extension.
"""

from __future__ import annotations

import http.client
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec
import numpy as np

from forebay.bench.connection import Answer
from forebay.core.errors import SetupError
from forebay.core.tensors import NUMPY_TYPES, Array, element_count, to_buffer

DIFFERENT_BODIES = 10_000
"""So that no cache, wanted or not, answers twice."""

POOL_BYTES = 512 * 1024 * 1024
"""A pool of large bodies stops growing here."""

WORDS = (
    *("river", "basin", "water", "gate", "flow", "level", "pool", "wave", "stone", "light", "paper", "green"),
    *("house", "letter", "music", "garden", "winter", "table", "market", "answer", "signal", "number", "engine"),
    *("copper", "silver", "field", "north", "travel", "doctor", "window", "morning", "question"),
)

_INTEGERS = {"UINT8": 256, "INT8": 128}
_HEADER_LENGTH = b"inference-header-content-length"


class TensorMetadata(msgspec.Struct):
    """One input as the server describes it; -1 in `shape` is a variable axis."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(msgspec.Struct):
    """The part of `GET /v2/models/{name}` that bodies are made from."""

    name: str
    inputs: list[TensorMetadata]


class Endpoint(msgspec.Struct, frozen=True):
    """Where a server listens, from its URL."""

    host: str
    port: int
    path: str = ""

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """From `http://host:port/prefix` or `host:port`. Raises `SetupError` for anything else."""
        try:
            parts = urlsplit(url if "//" in url else f"http://{url}")
            port = parts.port
        except ValueError as error:
            raise SetupError(f"{url!r} is not a URL: {error}") from None
        if parts.scheme != "http" or not parts.hostname:
            raise SetupError(f"{url!r} is not a URL this generator can use; write http://HOST:PORT (no TLS)")
        return cls(parts.hostname, port or 80, parts.path.rstrip("/"))

    @property
    def authority(self) -> str:
        """Host and port as a Host header has them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def fetch_metadata(endpoint: Endpoint, model: str, headers: Mapping[str, str] | None = None) -> ModelMetadata:
    """The model's metadata. Raises `SetupError` where the server has no such model or does not answer."""
    path = f"{endpoint.path}/v2/models/{quote(model, safe='')}"
    connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=10)
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        response = connection.getresponse()
        body = response.read()
    except OSError as error:
        raise SetupError(f"no server answers at {endpoint.host}:{endpoint.port}: {error}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise SetupError(f"GET {path} answered {response.status}: {body[:300].decode(errors='replace')}")
    try:
        return msgspec.json.decode(body, type=ModelMetadata)
    except msgspec.MsgspecError as error:
        raise SetupError(f"GET {path} did not answer with a model's metadata: {error}") from error


def http_request(
    endpoint: Endpoint,
    path: str,
    body: bytes,
    *,
    content_type: str = "application/json",
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """A whole POST request: head and body."""
    lines = [
        f"POST {endpoint.path}{path} HTTP/1.1",
        f"Host: {endpoint.authority}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def infer_request(
    endpoint: Endpoint,
    model: str,
    inputs: Sequence[tuple[str, str, Array]],
    *,
    binary: bool = False,
    timeout_ms: float | None = None,
    parameters: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """A whole infer request for inputs given as (name, datatype, array with the batch axis).

    `timeout_ms` goes out as the protocol's `timeout` parameter, in microseconds. `binary`: inputs and outputs travel in
    the binary tensor extension.
    """
    sent_parameters = dict(parameters or {})
    if timeout_ms is not None:
        sent_parameters["timeout"] = round(timeout_ms * 1000)
    if binary:
        sent_parameters["binary_data_output"] = True
    buffers: list[bytes] = []
    entries: list[dict[str, Any]] = []
    for name, datatype, array in inputs:
        entry: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": datatype}
        if binary:
            buffers.append(to_buffer(array, datatype))
            entry["parameters"] = {"binary_data_size": len(buffers[-1])}
        else:
            entry["data"] = _json_values(array)
        entries.append(entry)
    message: dict[str, Any] = {"inputs": entries}
    if sent_parameters:
        message["parameters"] = sent_parameters
    head = msgspec.json.encode(message)
    all_headers = dict(headers or {})
    if binary:
        all_headers["Inference-Header-Content-Length"] = str(len(head))
    return http_request(
        endpoint,
        f"/v2/models/{quote(model, safe='')}/infer",
        b"".join([head, *buffers]),
        content_type="application/octet-stream" if binary else "application/json",
        headers=all_headers,
    )


def random_text(generator: np.random.Generator, *, lowest: int = 5, highest: int = 200) -> str:
    """A text whose word count is lognormal and clipped to `lowest` and `highest`, which lie two sigmas off the median.

    With 5 and 200 the median is 31.6 words, the mean about 47.
    """
    sigma = np.log(highest / lowest) / 4
    count = round(np.clip(generator.lognormal(np.log(lowest * highest) / 2, sigma), lowest, highest))
    return " ".join(WORDS[place] for place in generator.integers(0, len(WORDS), size=count))


def random_tensor(generator: np.random.Generator, spec: TensorMetadata, rows: int, longest: int) -> Array:
    """Values for one input: `rows` on a variable leading axis, 1 to `longest` on every other variable one."""
    shape = [
        axis if axis >= 0 else rows if place == 0 else int(generator.integers(1, longest + 1))
        for place, axis in enumerate(spec.shape)
    ]
    count = element_count(shape)
    if spec.datatype == "BYTES":
        texts = np.empty(count, dtype=object)
        texts[:] = [random_text(generator).encode() for _ in range(count)]
        return texts.reshape(shape)
    dtype = NUMPY_TYPES.get(spec.datatype)
    if dtype is None:
        raise SetupError(f"input {spec.name!r} has datatype {spec.datatype!r}, which this generator cannot make")
    if dtype.kind == "b":
        return generator.integers(0, 2, size=shape).astype(dtype)
    if dtype.kind in "iu":
        return generator.integers(0, _INTEGERS.get(spec.datatype, 1000), size=shape).astype(dtype)
    return generator.standard_normal(size=shape).astype(dtype)


def pool_from_metadata(
    endpoint: Endpoint,
    metadata: ModelMetadata,
    *,
    count: int = DIFFERENT_BODIES,
    rows: int = 1,
    longest: int = 32,
    binary: bool = False,
    timeout_ms: float | None = None,
    headers: Mapping[str, str] | None = None,
    seed: int = 0,
) -> list[bytes]:
    """`count` different whole requests with random values; fewer where they would take more than 512 MiB."""
    generator = np.random.default_rng(seed)
    pool: list[bytes] = []
    size = 0
    while len(pool) < count and size < POOL_BYTES:
        inputs = [(spec.name, spec.datatype, random_tensor(generator, spec, rows, longest)) for spec in metadata.inputs]
        request = infer_request(endpoint, metadata.name, inputs, binary=binary, timeout_ms=timeout_ms, headers=headers)
        pool.append(request)
        size += len(request)
    return pool


class _Outputs(msgspec.Struct):
    outputs: list[msgspec.Raw]


def holds_outputs(_place: int, answer: Answer) -> bool:
    """Whether an infer answer is JSON (in front of any binary part) with at least one output."""
    try:
        length = int(answer.headers.get(_HEADER_LENGTH, len(answer.body)))
        return bool(msgspec.json.decode(answer.body[:length], type=_Outputs).outputs)
    except (ValueError, msgspec.MsgspecError):
        return False


def _json_values(array: Array) -> list[Any]:
    flat: list[Any] = array.reshape(-1).tolist()
    return [value.decode() if isinstance(value, bytes) else value for value in flat]
