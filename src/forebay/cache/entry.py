"""One kept answer."""

from __future__ import annotations

from typing import Final

import numpy as np

from forebay.cache.key import entry_id
from forebay.core.request import Outputs, Request
from forebay.core.tensors import Array

OVERHEAD_BYTES: Final = 1200
"""Of an entry beside its data, roughly: Python's objects are not small."""


class Entry:
    """An answer as outputs, so that every form can be made of it. Times are monotonic seconds of this process."""

    __slots__ = (
        "compute_s",
        "created",
        "fresh_until",
        "key",
        "memos",
        "model",
        "nbytes",
        "outputs",
        "refresh_at",
        "sightings",
        "stale_until",
        "tags",
        "tenant",
        "version",
    )

    def __init__(
        self, key: bytes, model: str, version: str, tenant: str, outputs: Outputs, tags: tuple[str, ...] = ()
    ) -> None:
        self.key = key
        self.model = model
        self.version = version
        self.tenant = tenant
        self.outputs = outputs
        self.tags = tags
        self.nbytes = OVERHEAD_BYTES + data_bytes(outputs)
        self.created = 0.0
        self.fresh_until = 0.0
        self.refresh_at = 0.0
        """From then on a hit has it computed anew, though it is fresh."""
        self.stale_until = 0.0
        self.compute_s = 0.0
        """What it took to compute."""
        self.sightings = 0
        """How often it was asked for since it is here."""
        self.memos: list[tuple[dict[bytes, object], bytes]] | None = None
        """Where bodies stand whose whole answer is known: they go when the entry goes."""

    @property
    def id(self) -> str:
        """As callers see it."""
        return entry_id(self.key)

    def answer(self, request: Request) -> None:
        """Give a request this answer."""
        kept = self.outputs
        # Outputs of its own: what an answer's encoding leaves in them is not counted here.
        request.outputs = Outputs(kept.names, kept.datatypes, kept.arrays, kept.rows)
        request.row_start = 0


def kept_outputs(request: Request, batched: bool) -> Outputs:
    """The outputs of an answered request, apart from those of the batch that it ran in."""
    given = request.outputs
    assert given is not None
    start = request.row_start
    stop = start + request.rows
    arrays: list[Array] = []
    wanted = request.requested
    for index, array in enumerate(given.arrays):
        if wanted is not None and index not in wanted:
            arrays.append(array[:0])
        elif batched:
            arrays.append(array[start:stop].copy())
        else:
            arrays.append(array.copy())
    return Outputs(given.names, given.datatypes, arrays, request.rows)


def data_bytes(outputs: Outputs) -> int:
    """What the values take."""
    nbytes = 0
    for array in outputs.arrays:
        nbytes += array.nbytes
        if array.dtype == np.object_:
            nbytes += sum(map(len, array.reshape(-1).tolist())) + 33 * array.size
    return nbytes
