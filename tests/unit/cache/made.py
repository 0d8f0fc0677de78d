"""Requests and entries for the tests of the cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from forebay.cache.entry import OVERHEAD_BYTES, Entry
from forebay.core.request import Payload, Request
from forebay.models.signature import Signature, TensorSpec

ONE = Signature((TensorSpec("x", "FP32", (2,)),), (TensorSpec("y", "FP32", (2,)),))


def nothing(request: Request) -> None:
    """An `on_done` that does nothing."""


def request(inputs: Sequence[Payload], shapes: Sequence[tuple[int, ...]], rows: int = 1, **more: Any) -> Request:
    """A request that arrived at 0."""
    nbytes = sum(4 * len(one) if isinstance(one, list) else len(one) for one in inputs)
    given: dict[str, Any] = {"nbytes": nbytes, "deadline": 60.0, "arrived": 0.0, "on_done": nothing, **more}
    return Request(list(inputs), tuple(shapes), rows, **given)


def entry(key: bytes, *, until: float = 1e9, size: int = 2, **more: Any) -> Entry:
    """An entry with `size` numbers that is served until then."""
    data = np.arange(size, dtype=np.float32).tobytes()
    given: dict[str, Any] = {"place": ("m", "1"), "tenant": "", "tags": (), "rows": 1, **more}
    nbytes = OVERHEAD_BYTES + len(key) + len(data)
    return Entry(key, shapes=((1, size),), data=data, nbytes=nbytes, stale_until=until, refresh_at=until, **given)
