"""Shared memory for large batches: two slots each way, since at most two batches are at an instance at a time.

The slot of a batch is its id modulo two. A writer may reuse a slot only when the batch two before it is done, which
the engine's rule (one running, one waiting) guarantees.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sequence

SLOT_BYTES = 64 << 20
"""Size of one slot. Pages that were never written take no memory."""

_ALIGN = 64


class Arena:
    """One anonymous file mapped by the engine and by one instance. The engine creates it, the instance opens its fd."""

    def __init__(self, fd: int | None = None, slot_bytes: int = SLOT_BYTES) -> None:
        self.slot_bytes = slot_bytes
        if fd is None:
            fd = _anonymous_file(slot_bytes * 4)
        self.fd = fd
        self._map = mmap.mmap(fd, slot_bytes * 4)
        self.view = memoryview(self._map)

    def place(
        self, batch_id: int, groups: Sequence[Sequence[bytes | bytearray | memoryview]], *, answer: bool
    ) -> list[int] | None:
        """Copy payloads into the batch's slot, each group contiguous. Returns the groups' offsets; None: too large."""
        start = position = ((batch_id & 1) + (2 if answer else 0)) * self.slot_bytes
        offsets: list[int] = []
        for group in groups:
            offsets.append(position)
            for payload in group:
                if position + len(payload) > start + self.slot_bytes:
                    return None
                self.view[position : position + len(payload)] = payload
                position += len(payload)
            position += -position % _ALIGN
        return offsets

    def close(self) -> None:
        """Unmap and close; again is harmless. Views handed out by the instance side must be gone."""
        if self.fd < 0:
            return
        self.view.release()
        try:
            self._map.close()
        except BufferError:
            pass  # an array still looks at it; the mapping goes with the process
        os.close(self.fd)
        self.fd = -1  # the number may soon be another file's


def _anonymous_file(size: int) -> int:
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("forebay-arena", os.MFD_CLOEXEC)
    else:  # macOS
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return fd
