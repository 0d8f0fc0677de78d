"""One file of the log: what answered, then rows, each with its key, its length and a checksum.

A file is written by one process and only ever appended to. Whatever ends that process, the file is readable up to the
last whole row; what follows is told of and passed over.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final
from zlib import crc32

import msgspec

from forebay.core.errors import RequestError
from forebay.request_log.row import KEY_BYTES, Origin, Row, unpack

SUFFIX: Final = ".rows"
_MAGIC: Final = b"FBROWS1\n"
_HEAD: Final = struct.Struct(f"<II{KEY_BYTES}s")
"""Length of the body, checksum of key and body, key."""
LONGEST_BODY: Final = 64 << 20
OVERHEAD_BYTES: Final = _HEAD.size
"""Of a row beside its body."""


class Damage(msgspec.Struct):
    """What could not be read. `torn`: files whose last row is not whole; `broken`: rows whose checksum is wrong, and
    files that are none."""

    torn: int = 0
    broken: int = 0


def opening(origin: Origin) -> bytes:
    """What a file begins with."""
    return _MAGIC + framed(b"\0" * KEY_BYTES, msgspec.msgpack.encode(origin))


def framed(key: bytes, body: bytes) -> bytes:
    """A row as it is appended."""
    return _HEAD.pack(len(body), crc32(body, crc32(key)), key) + body


class Segment:
    """A file that is read, while somebody may still append to it or take it away."""

    def __init__(self, path: Path, damage: Damage) -> None:
        """`damage` is added to."""
        self.path = path
        self._damage = damage
        self._begins = 0
        """Where its rows do."""

    def rows(self) -> Iterator[tuple[Origin, bytes, Row]]:
        """Origin, key and row of each that is whole."""
        with self._opened() as file:
            if file is None or (origin := self._origin(file)) is None:
                return
            while (found := self._next(file)) is not None:
                key, body = found
                try:
                    row = unpack(body)
                except (ValueError, msgspec.MsgspecError, RequestError):
                    self._damage.broken += 1
                    continue
                yield origin, key, row

    def row_keys(self) -> Iterator[bytes]:
        """The keys of its rows, without a look at these."""
        with self._opened() as file:
            if file is None or self._origin(file) is None:
                return
            size = file.seek(0, 2)
            file.seek(self._begins)
            while True:
                head = file.read(_HEAD.size)
                if not head:
                    return
                length, _, key = _HEAD.unpack(head) if len(head) == _HEAD.size else (size, 0, b"")
                if file.seek(length, 1) > size:
                    self._damage.torn += 1
                    return
                yield key

    def origin(self) -> Origin | None:
        """What answered its rows; None: it cannot be read."""
        with self._opened() as file:
            return None if file is None else self._origin(file)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[BinaryIO | None]:
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            yield None  # it went to make room
            return
        with file:
            yield file

    def _origin(self, file: BinaryIO) -> Origin | None:
        start = file.read(len(_MAGIC))
        if start != _MAGIC:
            if _MAGIC.startswith(start):
                self._damage.torn += 1
            else:
                self._damage.broken += 1
            return None
        found = self._next(file)
        self._begins = file.tell()
        if found is None:
            return None
        try:
            return msgspec.msgpack.decode(found[1], type=Origin)
        except msgspec.MsgspecError:
            self._damage.broken += 1
            return None

    def _next(self, file: BinaryIO) -> tuple[bytes, bytes] | None:
        """Key and body of the next row that is whole; None at the end."""
        while True:
            head = file.read(_HEAD.size)
            if not head:
                return None
            if len(head) < _HEAD.size:
                self._damage.torn += 1
                return None
            length, checksum, key = _HEAD.unpack(head)
            if length > LONGEST_BODY:
                self._damage.broken += 1  # no length: where the next row begins is not known
                return None
            body = file.read(length)
            if len(body) < length:
                self._damage.torn += 1
                return None
            if crc32(body, crc32(key)) == checksum:
                return key, body
            self._damage.broken += 1
