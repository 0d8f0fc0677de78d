"""One kept answer, and how outputs become one and an answer again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np

from forebay.cache.key import digest_of, entry_id
from forebay.core.errors import ForebayError
from forebay.core.request import Outputs, Request
from forebay.core.tensors import NUMPY_TYPES, Array, bytes_array, element_count, pack_bytes, unpack_bytes
from forebay.models.signature import Signature

OVERHEAD_BYTES: Final = 600
"""Of an entry beside its key and its data, roughly: Python's objects are not small."""
_STRING_BYTES: Final = 80
"""Of one that is beside its characters."""

Shapes = tuple[tuple[int, ...], ...]


class Entry(msgspec.Struct, eq=False, weakref=False, gc=False):
    """An answer as outputs, so that every form can be made of it. Times are monotonic seconds of this process.

    The garbage collector does not look at it: there are hundreds of thousands, and none refers back to itself.
    """

    key: bytes
    place: tuple[str, str]
    """Model and version."""
    tenant: str
    tags: tuple[str, ...]
    rows: int
    shapes: Shapes
    data: tuple[bytes, ...] | bytes
    """The bytes of each output, as the protocol's binary form has them; of one output not in a tuple."""
    nbytes: int
    """What it counts for: its data, its key, its tags, `OVERHEAD_BYTES`, and what is remembered beside it."""
    created: float = 0.0
    refresh_at: float = 0.0
    """From then on a hit has it computed anew, though it is fresh."""
    stale_until: float = 0.0
    """When it is not served any more."""
    compute_s: float = 0.0
    """What it took to compute."""
    shared: bool = False
    """It is in the store of cached answers too, as far as is known."""
    id: str = ""
    """As callers see it; empty until somebody does."""
    used: int = 0
    """The number of its last use, counted over all that is kept."""
    memos: list[tuple[dict[bytes, Any], bytes, int]] | None = None
    """Where bodies stand whose whole answer is known, and what each counts for: they go when the entry goes."""

    def told_id(self) -> str:
        """Its id, which is told to somebody from now on."""
        if not self.id:
            self.id = entry_id(digest_of(self.key))
        return self.id


def nbytes_of(key: bytes, tags: Sequence[str], data_bytes: int) -> int:
    """What an entry counts for at first. Of a tag that is not ASCII a character takes up to 4 bytes, and as many once
    more where it was encoded: Python keeps that too."""
    tag_bytes = sum(_STRING_BYTES + len(tag) * (1 if tag.isascii() else 8) for tag in tags)
    return OVERHEAD_BYTES + len(key) + tag_bytes + data_bytes


class KeptRows(msgspec.Struct, eq=False, weakref=False, gc=False):
    """Answers of one batch, a row each, that nobody has asked for again: then one becomes an entry. Most never do, and
    an entry for each would be half of what keeping it costs. They are no tenant's, and have no tags.

    Times are those of `Entry`. `data`: of the rows of the batch, one after the other; empty where answers of this batch
    are no such rows.
    """

    place: tuple[str, str]
    shapes: Shapes
    data: bytes
    row_bytes: int
    created: float
    refresh_at: float
    stale_until: float
    compute_s: float
    """Of a row."""
    starts: dict[bytes, int] = {}
    """By key, the number of its row in the batch."""
    closed: bool = False
    """No more are added: it was taken into the cache."""
    came: int = 0
    """As `Entry.used`: when it was."""
    nbytes: int = 0
    """What those of `starts` count for by then."""

    def entry(self, key: bytes) -> Entry:
        """One of them as an entry of its own."""
        start = self.starts[key] * self.row_bytes
        return Entry(
            key,
            self.place,
            "",
            (),
            1,
            self.shapes,
            self.data[start : start + self.row_bytes],
            self.nbytes_of(key),
            self.created,
            self.refresh_at,
            self.stale_until,
            self.compute_s,
        )

    def taken(self, key: bytes) -> Entry:
        """One of them as an entry of its own, which is here no more."""
        entry = self.entry(key)
        del self.starts[key]
        self.nbytes -= entry.nbytes
        return entry

    def compact(self) -> None:
        """Let go of the rows of others."""
        size, data = self.row_bytes, self.data
        self.data = b"".join([data[start * size : (start + 1) * size] for start in self.starts.values()])
        self.starts = {key: place for place, key in enumerate(self.starts)}

    def nbytes_of(self, key: bytes) -> int:
        """What one of them counts for."""
        return OVERHEAD_BYTES + len(key) + self.row_bytes


class OutputForm:
    """Outputs of one model to what is kept of them, and back."""

    __slots__ = ("_batched", "_bytes", "_datatypes", "_last", "_names", "_one_row", "_shapes", "row_bytes")

    def __init__(self, signature: Signature) -> None:
        self._batched = signature.batched
        self._names = [spec.name for spec in signature.outputs]
        self._datatypes = [spec.datatype for spec in signature.outputs]
        self._shapes = [tuple(spec.row_shape) for spec in signature.outputs]
        only = signature.outputs[0] if len(signature.outputs) == 1 else None
        fixed = only is not None and signature.batched and not only.variable and only.datatype != "BYTES"
        self._one_row: Shapes = ()
        self.row_bytes = 0
        """Of an output of one row, where each has the same; 0: they have not."""
        if fixed and only is not None:
            self._one_row = ((1, *only.row_shape),)
            self.row_bytes = element_count(only.row_shape) * NUMPY_TYPES[only.datatype].itemsize
        self._last: Outputs | None = None
        self._bytes = b""
        """The bytes of the batch that was seen last: its requests come one after the other."""

    def kept(self, request: Request) -> tuple[Shapes, tuple[bytes, ...] | bytes, int]:
        """The outputs of an answered request, apart from those of the batch that it ran in: shapes, bytes, how many."""
        outputs = request.outputs
        assert outputs is not None
        if request.rows == 1 and self._one_row and request.requested is None:
            if outputs is not self._last:
                self._last, self._bytes = outputs, self._rows_of(outputs.arrays[0])
            if self._bytes:
                size = self.row_bytes
                start = request.row_start * size
                return self._one_row, self._bytes[start : start + size], size
        wanted = request.requested
        start, stop = request.row_start, request.row_start + request.rows
        shapes: list[tuple[int, ...]] = []
        data: list[bytes] = []
        for index, array in enumerate(outputs.arrays):
            if wanted is not None and index not in wanted:
                shapes.append((0,))
                data.append(b"")
                continue
            mine: Array = array[start:stop] if self._batched else array
            shapes.append(mine.shape)
            data.append(pack_bytes(mine.reshape(-1).tolist()) if mine.dtype == object else mine.tobytes())
        return tuple(shapes), tuple(data) if len(data) > 1 else data[0], sum(map(len, data))

    def rows(self, request: Request) -> tuple[Shapes, bytes]:
        """The rows of a batch one after the other, where this request is one of them: its shapes and all bytes; no
        bytes where it is not, or where a row takes more than an entry does without it."""
        outputs = request.outputs
        assert outputs is not None
        if request.rows != 1 or not self._one_row or request.requested is not None or self.row_bytes > OVERHEAD_BYTES:
            return (), b""
        return self._one_row, self._rows_of(outputs.arrays[0])

    def _rows_of(self, array: Array) -> bytes:
        """All rows of a batch; empty where they are not what the signature says."""
        if array.dtype != self.dtype(0) or array.nbytes != self.row_bytes * len(array):
            return b""
        return array.tobytes()

    def dtype(self, index: int) -> np.dtype[Any]:
        """Of one output."""
        return NUMPY_TYPES[self._datatypes[index]]

    def answer(self, entry: Entry, request: Request) -> None:
        """Give a request what was kept."""
        request.outputs = Outputs(self._names, self._datatypes, self._arrays(entry), entry.rows)
        request.row_start = 0

    def fits(self, entry: Entry, request: Request) -> bool:
        """Whether an entry that comes from elsewhere can be given to a request."""
        if entry.rows != request.rows or len(entry.shapes) != len(self._names):
            return False
        try:
            arrays = self._arrays(entry)
        except (ForebayError, ValueError, OverflowError):
            return False
        if not (math.isfinite(entry.compute_s) and entry.compute_s >= 0):
            return False
        wanted, rows = request.requested, (entry.rows,) if self._batched else ()
        return all(
            array.shape == shape
            and (_has(shape, (*rows, *row_shape)) if wanted is None or index in wanted else not array.size)
            for index, (array, shape, row_shape) in enumerate(zip(arrays, entry.shapes, self._shapes, strict=True))
        )

    def _arrays(self, entry: Entry) -> list[Array]:
        data = entry.data
        pieces: Sequence[bytes] = data if isinstance(data, tuple) else (data,)
        return [
            self._array(index, shape, piece)
            for index, (shape, piece) in enumerate(zip(entry.shapes, pieces, strict=True))
        ]

    def _array(self, index: int, shape: tuple[int, ...], data: bytes) -> Array:
        if self._datatypes[index] == "BYTES":
            return bytes_array(unpack_bytes(data, element_count(shape)), shape)
        return np.frombuffer(data, self.dtype(index)).reshape(shape)


def _has(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether a shape is one that is declared so; -1 stands for any length."""
    return len(shape) == len(wanted) and all(want in (-1, got) for want, got in zip(wanted, shape, strict=True))
