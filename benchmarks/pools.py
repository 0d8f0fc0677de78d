"""The request bodies of all workloads, and what the right answers to them are."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from forebay.bench.bodies import DIFFERENT_BODIES, Endpoint, http_request, infer_request, random_text
from forebay.bench.connection import Answer
from forebay.bench.generator import Check
from forebay.core.tensors import Array

IMAGE_SHAPE = (224, 224, 3)
HEADS, TAILS = 256, 64
"""Images are put together from so many beginnings and ends: 16,384 different ones in 10 MB."""
_HEAD_PIXELS = 256
_HEADER_LENGTH = b"inference-header-content-length"


class SplitPool:
    """Requests put together when sent: a head (HTTP head, first bytes) and a tail. `wrk.lua` does the same."""

    def __init__(self, heads: Sequence[bytes], tails: Sequence[bytes] = ()) -> None:
        self.heads = heads
        self.tails = tails

    def __len__(self) -> int:
        return len(self.heads) * max(len(self.tails), 1)

    def __getitem__(self, place: int) -> bytes:
        head = self.heads[place % len(self.heads)]
        return head + self.tails[tail_of(place)] if self.tails else head

    def turned(self, place: int) -> SplitPool:
        """The same, beginning with another head: whoever sends a part of them sends another part."""
        return SplitPool([*self.heads[place:], *self.heads[:place]], self.tails)

    def write(self, path: Path) -> Path:
        """The pool as `wrk.lua` reads it."""
        with path.open("wb") as file:
            file.write(f"{len(self.heads)} {len(self.tails)}\n".encode())
            for part in (*self.heads, *self.tails):
                file.write(f"{len(part)}\n".encode() + part)
        return path

    @classmethod
    def read(cls, path: Path) -> SplitPool:
        """What `write` wrote."""
        with path.open("rb") as file:
            counts = [int(word) for word in file.readline().split()]
            heads, tails = ([file.read(int(file.readline())) for _ in range(count)] for count in counts)
        return cls(heads, tails)


def tail_of(place: int) -> int:
    """Which tail goes with the head of request `place`; every head meets every tail before a pair comes again."""
    return (place + place // HEADS) % TAILS


def mlp_inputs(count: int = DIFFERENT_BODIES, seed: int = 0) -> Array:
    """float64 [count, 16] of six digits after the point: what JSON carries, to us and to the peers alike."""
    return np.round(np.random.default_rng(seed).standard_normal((count, 16)), 6)


def texts(count: int = DIFFERENT_BODIES, seed: int = 0) -> list[str]:
    """Different texts of 5 to 200 words (lognormal, 95 % between), a number in front of each."""
    generator = np.random.default_rng(seed)
    return [f"{place} {random_text(generator)}" for place in range(count)]


def images(seed: int = 0) -> tuple[Array, Array]:
    """Beginnings uint8 [256, 256] and ends uint8 [64, 150272] of flattened pictures.

    Each end has a brightness of its own in each colour, so that the answers to different pictures differ.
    """
    generator = np.random.default_rng(seed)
    heads = generator.integers(0, 256, size=(HEADS, _HEAD_PIXELS), dtype=np.uint8)
    tails = np.empty((TAILS, int(np.prod(IMAGE_SHAPE)) - _HEAD_PIXELS), dtype=np.uint8)
    for tail in tails:
        brightest = generator.integers(32, 257, size=3)
        noise = generator.random((np.prod(IMAGE_SHAPE[:2]), 3), dtype=np.float32)
        tail[:] = (noise * brightest).astype(np.uint8).reshape(-1)[_HEAD_PIXELS:]
    return heads, tails


def image(heads: Array, tails: Array, place: int) -> Array:
    """The whole picture of request `place`: uint8 [224, 224, 3]."""
    whole: Array = np.concatenate([heads[place % HEADS], tails[tail_of(place)]]).reshape(IMAGE_SHAPE)
    return whole


def plain_json(endpoint: Endpoint, path: str, key: str, values: Sequence[Any]) -> SplitPool:
    """One request a value, `{key: value}`: how the peers' own documentation sends it."""
    return SplitPool([http_request(endpoint, path, msgspec.json.encode({key: value})) for value in values])


def protocol_json(
    endpoint: Endpoint,
    model: str,
    key: str,
    datatype: str,
    rows: Sequence[Array],
    *,
    timeout_ms: float | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> SplitPool:
    """One infer request of the Open Inference Protocol a row, each of shape [1, ...]."""
    return SplitPool(
        [
            infer_request(endpoint, model, [(key, datatype, row)], timeout_ms=timeout_ms, parameters=parameters)
            for row in rows
        ]
    )


def in_two_parts(endpoint: Endpoint, model: str, heads: Sequence[bytes], tails: Sequence[bytes]) -> SplitPool:
    """Infer requests whose bodies are any head and any tail; the tails are equally long. For `wrk.lua`."""
    path = f"/v2/models/{model}/infer"
    size = len(tails[0])
    return SplitPool([http_request(endpoint, path, head + tails[0])[:-size] for head in heads], tails)


def text_rows(values: Sequence[str]) -> list[Array]:
    """BYTES rows of shape [1, 1]."""
    rows: list[Array] = []
    for value in values:
        row = np.empty((1, 1), dtype=object)
        row[0, 0] = value.encode()
        rows.append(row)
    return rows


def protocol_images(
    endpoint: Endpoint, model: str, key: str, heads: Array, tails: Array, timeout_ms: float | None = None
) -> SplitPool:
    """Pictures in the binary tensor extension, in and out."""
    whole = [(key, "UINT8", image(heads, tails, 0)[None])]
    first = infer_request(endpoint, model, whole, binary=True, timeout_ms=timeout_ms)
    prefix = first[: len(first) - int(np.prod(IMAGE_SHAPE))]
    return SplitPool([prefix + head.tobytes() for head in heads], [tail.tobytes() for tail in tails])


def raw_images(endpoint: Endpoint, path: str, heads: Array, tails: Array) -> SplitPool:
    """Pictures as a bare body."""
    whole = http_request(endpoint, path, bytes(int(np.prod(IMAGE_SHAPE))), content_type="application/octet-stream")
    prefix = whole[: len(whole) - int(np.prod(IMAGE_SHAPE))]
    return SplitPool([prefix + head.tobytes() for head in heads], [tail.tobytes() for tail in tails])


Decode = Callable[[Answer], Array]


def plain_values(key: str) -> Decode:
    """Reads `{key: [numbers]}`."""
    return lambda answer: np.asarray(json.loads(answer.body)[key], dtype=np.float64)


def protocol_values(answer: Answer) -> Array:
    """The first output of an infer answer, JSON or binary FP32, flat."""
    length = int(answer.headers.get(_HEADER_LENGTH, len(answer.body)))
    message = json.loads(answer.body[:length])
    output = message["outputs"][0]
    if "data" in output:
        return np.asarray(output["data"], dtype=np.float64).reshape(-1)
    size = output["parameters"]["binary_data_size"]
    return np.frombuffer(answer.body, dtype="<f4", offset=length, count=size // 4).astype(np.float64)


def check_against(expected: Mapping[int, Array], decode: Decode, tolerance: float = 1e-3) -> Check:
    """Compares answers with those computed beforehand; a place without one is not checked."""

    def check(place: int, answer: Answer) -> bool | None:
        wanted = expected.get(place)
        if wanted is None:
            return None
        try:
            got = decode(answer)
        except (KeyError, IndexError, ValueError, TypeError):
            return False
        return got.size == wanted.size and bool(np.allclose(got, wanted.reshape(-1), atol=tolerance, rtol=tolerance))

    return check


def check_echo(bodies: Callable[[int], bytes]) -> Check:
    """The answer is the body that was sent."""
    return lambda place, answer: answer.body == bodies(place)


def build_example(python: str, script: Path, *arguments: str) -> None:
    """Run one of the examples' `build.py`. Raises `SystemExit` with its words where it fails."""
    done = subprocess.run([python, str(script), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{script} failed:\n{done.stdout}{done.stderr}")
