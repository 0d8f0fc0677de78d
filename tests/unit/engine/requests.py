"""Requests for the tests of the engine, with sensible defaults."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from forebay.core.request import Payload, Request


def nothing(request: Request) -> None:
    """An `on_done` that does nothing."""


def request(
    inputs: Sequence[Payload],
    shapes: Sequence[tuple[int, ...]],
    rows: int = 1,
    *,
    timeout_s: float = 60.0,
    on_done: Callable[[Request], None] = nothing,
    explain: bool = False,
    priority: int = 0,
) -> Request:
    """A request that arrives now."""
    now = time.monotonic()
    nbytes = sum(4 * len(payload) if isinstance(payload, list) else len(payload) for payload in inputs)
    return Request(
        inputs=list(inputs),
        shapes=tuple(shapes),
        rows=rows,
        nbytes=nbytes,
        deadline=now + timeout_s,
        arrived=now,
        on_done=on_done,
        explain=explain,
        priority=priority,
    )
