"""Requests and entries for the tests of the cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from forebay.cache.entry import Entry
from forebay.core.request import Outputs, Payload, Request
from forebay.models.signature import Signature, TensorSpec

ONE = Signature((TensorSpec("x", "FP32", (2,)),), (TensorSpec("y", "FP32", (2,)),))


def nothing(request: Request) -> None:
    """An `on_done` that does nothing."""


def request(inputs: Sequence[Payload], shapes: Sequence[tuple[int, ...]], rows: int = 1, **more: Any) -> Request:
    """A request that arrived at 0."""
    nbytes = sum(4 * len(one) if isinstance(one, list) else len(one) for one in inputs)
    given: dict[str, Any] = {"nbytes": nbytes, "deadline": 60.0, "arrived": 0.0, "on_done": nothing, **more}
    return Request(list(inputs), tuple(shapes), rows, **given)


def outputs(*values: float) -> Outputs:
    """One row."""
    return Outputs(["y"], ["FP32"], [np.array([values], np.float32)], 1)


def entry(key: bytes, *, until: float = 1e9, size: int = 2, **more: Any) -> Entry:
    """An entry with `size` numbers that is served until then."""
    given: dict[str, Any] = {"model": "m", "version": "1", "tenant": "", **more}
    made = Entry(key, outputs=outputs(*range(size)), **given)
    made.fresh_until = made.stale_until = made.refresh_at = until
    return made
