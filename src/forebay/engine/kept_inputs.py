"""Inputs of live requests, kept to measure with: the last few, whatever came."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from forebay.core.request import Request
from forebay.engine.assemble import buffers_of
from forebay.engine.frames import InputPart
from forebay.models.signature import Signature

MOST = 64
FEWEST = 16
"""Fewer say little of what is to come: a probe after the start, one user who tries it out."""
MOST_BYTES = 16 << 20
EVERY = 32
"""Once enough are kept, a request of one in so many batches takes the place of the oldest."""
MOST_ROWS = 64
"""Larger requests are not kept: what is measured is how many small ones there may be."""


class KeptRequest(msgspec.Struct, array_like=True):
    """What one request brought, and nothing of who sent it."""

    shapes: list[Sequence[int]]
    payloads: list[bytes]
    rows: int = 1

    @property
    def nbytes(self) -> int:
        """All payloads together."""
        return sum(map(len, self.payloads))


class KeptInputs:
    """The inputs of requests that were answered well, one of a batch at most, so that it costs next to nothing."""

    def __init__(self) -> None:
        self._kept: deque[KeptRequest] = deque()
        self._bytes = 0
        self._passed_over = 0
        self._full = False

    def offer(self, signature: Signature, request: Request) -> None:
        """A request of a batch that has come back, while its memory is not used again yet."""
        self._passed_over += 1
        if not self._full or self._passed_over >= EVERY:
            self._passed_over = 0
            self._take(signature, request)

    def _take(self, signature: Signature, request: Request) -> None:
        """Copy what it brings. The oldest make room."""
        if request.rows > MOST_ROWS or request.nbytes > MOST_BYTES:
            return
        pairs = zip(request.inputs, signature.inputs, strict=True)
        payloads = [b"".join(buffers_of([payload], spec.datatype)) for payload, spec in pairs]
        kept = KeptRequest(list(request.shapes), payloads, request.rows)
        self._kept.append(kept)
        self._bytes += kept.nbytes
        while len(self._kept) > MOST or self._bytes > MOST_BYTES:
            self._bytes -= self._kept.popleft().nbytes
            self._full = True

    def all(self) -> list[KeptRequest]:
        """Those that are kept, oldest first."""
        return list(self._kept)


def kept_of(shown: Sequence[Sequence[InputPart]], payload: memoryview) -> list[KeptRequest]:
    """The requests that an instance has made up (SHOWN)."""
    found: list[KeptRequest] = []
    position = 0
    for parts in shown:
        payloads: list[bytes] = []
        for part in parts:
            payloads.append(bytes(payload[position : position + part.nbytes]))
            position += part.nbytes
        found.append(KeptRequest([part.shapes[0] for part in parts], payloads))
    return found
