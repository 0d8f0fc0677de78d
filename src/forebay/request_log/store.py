"""One model's folder as this process writes it: each row once, within the bound, the oldest files go first."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from forebay.request_log import folder as folders
from forebay.request_log.folder import Piece
from forebay.request_log.row import Origin
from forebay.request_log.segment import OVERHEAD_BYTES, Damage, Segment, framed, opening
from forebay.telemetry.logs import fields
from forebay.telemetry.request_log_metrics import RequestLogCounts

log = logging.getLogger("forebay.request_log")

MOST_KEYS: Final = 100_000
"""Of rows that are there, by which equal ones are known; without them an equal row is written again."""
LARGEST_SEGMENT: Final = 16 << 20
SEGMENTS: Final = 16
"""A file is at most this part of the bound, so that making room takes away little."""


class Entry(NamedTuple):
    """A row to append."""

    origin: Origin
    key: bytes
    body: bytes
    counts: RequestLogCounts


MOST_OPEN: Final = 64
"""Files that are held open, those written to last: there is one a tenant and version, and there may be thousands."""


class _Open(msgspec.Struct, eq=False):
    """A file that is appended to. `fd`: None while it is not held open; `size`: what is written. What is to follow is
    in `waiting`, and is of these `entries`."""

    name: str
    path: Path
    fd: int | None
    size: int = 0
    waiting: list[bytes] = []
    waiting_bytes: int = 0
    entries: list[Entry] = []

    def held(self) -> int:
        """Its descriptor. Raises `OSError`."""
        if self.fd is None:
            self.fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_CLOEXEC", 0))
        return self.fd

    def let_go(self) -> None:
        """Hold it open no longer."""
        fd, self.fd = self.fd, None
        if fd is not None:
            os.close(fd)


_Place = tuple[str, str, str, bool | None]
"""Version, digest, tenant and whether they are redacted: what the rows of a file have in common."""


def _place(origin: Origin) -> _Place:
    return origin.version, origin.digest, origin.tenant, origin.redacted


class Store:
    """`append` may be called by one thread only; other processes do the same to the same folder."""

    def __init__(self, model: str, path: Path, bound_bytes: int, clock: Callable[[], float]) -> None:
        """`clock`: seconds since 1970, by which files are named."""
        self.bound_bytes = bound_bytes
        self.held_bytes = 0
        """What lies there, when it was last looked at."""
        self._model = model
        self._path = path
        self._clock = clock
        self._open: dict[_Place, _Open] = {}
        self._last: _Open | None = None
        """The one that was written to last: it stands behind all others in `_open`."""
        self._keys: dict[bytes, None] = {}
        self._keys_of: dict[str, list[bytes]] | None = None
        """By file; None: it was not looked yet what is there."""
        self._failing = False
        self._made = 0

    def append(self, entries: Sequence[Entry]) -> None:
        """Write those of these rows that are not there yet. What cannot be written is counted and told of, once."""
        done = 0
        try:
            with folders.locked(self._path):
                there = self._look()
                for entry in entries:
                    self._append(entry, there)
                    done += 1
                for one in self._open.values():
                    self._write(one)
        except OSError as error:
            # Those that were not put to a file are counted nowhere yet, and not tried until the next time.
            for entry in entries[done:]:
                entry.counts.drop("disk", 1)
            self._fails(error)
        else:
            self._failing = False

    def _fails(self, error: OSError) -> None:
        for one in list(self._open.values()):
            self._give_up(one)
            self._close(one)
            if not one.size:  # while the disk stays full there would be one more each time
                with contextlib.suppress(OSError):
                    one.path.unlink()
        if not self._failing:
            where = fields(model=self._model, file=str(self._path))
            log.warning("the request log cannot be written: %s", error.strerror or error, extra=where)
        self._failing = True

    def _look(self) -> list[Piece]:
        """What is there now. What others have taken away is known no more, and may be written again."""
        there = folders.pieces(self._path)
        self.held_bytes = sum(piece.size for piece in there)
        names = {piece.name for piece in there}
        if self._keys_of is None:
            self._keys_of = {}
            self._recall(there)
        for gone in self._keys_of.keys() - names:
            self._forget(gone)
        for one in list(self._open.values()):
            if one.name not in names:
                self._close(one)
        return there

    def _recall(self, there: Sequence[Piece]) -> None:
        """The keys of rows that were written before this process began, of the newest files."""
        damage, left = Damage(), MOST_KEYS
        found: list[tuple[str, list[bytes]]] = []
        for piece in reversed(there):
            keys = list(islice(Segment(piece.path, damage).row_keys(), left))
            found.append((piece.name, keys))
            left -= len(keys)
            if not left:
                break
        if damage.torn or damage.broken:
            log.warning(
                "%d files of the request log end in a row that is not whole, and %d parts cannot be read: that is "
                "passed over, the rest is kept",
                *(damage.torn, damage.broken),
                extra=fields(model=self._model, file=str(self._path)),
            )
        for name, keys in reversed(found):
            for key in keys:
                self._know(key, name)

    def _know(self, key: bytes, name: str) -> None:
        assert self._keys_of is not None
        self._keys[key] = None
        self._keys_of.setdefault(name, []).append(key)
        if len(self._keys) > MOST_KEYS:
            self._forget(next(iter(self._keys_of)))

    def _forget(self, name: str) -> None:
        assert self._keys_of is not None
        for key in self._keys_of.pop(name, ()):
            self._keys.pop(key, None)

    def _append(self, entry: Entry, there: list[Piece]) -> None:
        if entry.key in self._keys:
            entry.counts.drop("duplicate", 1)
            return
        frame, place = framed(entry.key, entry.body), _place(entry.origin)
        one = self._open.get(place)
        largest = min(LARGEST_SEGMENT, self.bound_bytes // SEGMENTS)
        if one is not None and one.size + one.waiting_bytes + len(frame) > largest:
            self._write(one)
            self._close(one)
            one = None
        if one is not None:
            self._make_room(len(frame), there)
            one = self._open.get(place)  # it may have had to go itself
        if one is None:
            head = opening(entry.origin)
            if len(head) + len(frame) > self.bound_bytes:
                entry.counts.drop("too_large", 1)
                return
            self._make_room(len(head) + len(frame), there)
            self._made += 1
            name, path, fd = folders.new_segment(self._path, entry.origin.tenant, self._clock(), self._made)
            one = self._open[place] = _Open(name, path, fd)
            there.append(Piece(name, path, 0))
            self._put(one, head)
        self._used(place, one)
        self._put(one, frame)
        one.entries.append(entry)
        self._know(entry.key, one.name)

    def _used(self, place: _Place, one: _Open) -> None:
        """It is the last that was written to; the one that was first is held open no longer, where there are many."""
        if one is self._last:
            return
        self._last = one
        del self._open[place]
        self._open[place] = one
        if len(self._open) > MOST_OPEN:
            for other in list(self._open.values())[:-MOST_OPEN]:
                self._write(other)
                other.let_go()

    def _make_room(self, nbytes: int, there: list[Piece]) -> None:
        """Take the oldest files away until there is room for so many bytes more."""
        while self.held_bytes + nbytes > self.bound_bytes and there:
            oldest = there.pop(0)
            for one in list(self._open.values()):
                if one.name == oldest.name:
                    self._write(one)
                    self._close(one)
            with contextlib.suppress(FileNotFoundError):
                self.held_bytes -= oldest.path.stat().st_size  # it may have grown since it was looked at
                oldest.path.unlink()
            self._forget(oldest.name)

    def _put(self, one: _Open, data: bytes) -> None:
        one.waiting.append(data)
        one.waiting_bytes += len(data)
        self.held_bytes += len(data)

    def _write(self, one: _Open) -> None:
        """All that waits, or nothing: half a row would hide those that follow. In one step, since before each the
        thread gives the interpreter away and then waits for it, and so does the event loop. Raises `OSError`."""
        if not one.waiting:
            return
        data = b"".join(one.waiting)
        fd = one.held()
        try:
            written = os.write(fd, data)
            if written < len(data):
                raise OSError(0, f"only {written} of {len(data)} bytes could be written; is the disk full?")
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, one.size)
            raise
        one.size += len(data)
        for entry in one.entries:
            entry.counts.written += 1
            entry.counts.written_bytes += OVERHEAD_BYTES + len(entry.body)
        one.waiting, one.waiting_bytes, one.entries = [], 0, []

    def _give_up(self, one: _Open) -> None:
        """What waits is not written."""
        self.held_bytes -= one.waiting_bytes
        for entry in one.entries:
            entry.counts.drop("disk", 1)
            self._keys.pop(entry.key, None)
        one.waiting, one.waiting_bytes, one.entries = [], 0, []

    def _close(self, one: _Open) -> None:
        one.let_go()
        self._open = {place: other for place, other in self._open.items() if other is not one}

    def let_go(self, version: str, digest: str) -> None:
        """Nothing more comes from these files of the model."""
        for place, one in list(self._open.items()):
            if place[:2] == (version, digest):
                self._close(one)

    def close(self) -> None:
        """Nothing more comes."""
        for one in list(self._open.values()):
            self._close(one)
