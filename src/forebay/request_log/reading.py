"""What is in a log: rows, each once, and figures by tenant and version. Reads while others write."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from forebay.request_log.folder import pieces, readable
from forebay.request_log.row import Origin, Row
from forebay.request_log.segment import Damage, Segment


class Found(NamedTuple):
    """A row, and what answered it for whom."""

    origin: Origin
    row: Row


class Part(msgspec.Struct):
    """What is there of one tenant and version. `since`: when its oldest file was begun, seconds since 1970."""

    model: str
    version: str
    tenant: str
    rows: int
    files: int
    bytes: int
    since: float


class Reading:
    """The rows of a model, oldest first; those that several processes have written come once.

    Raises `SetupError` where a folder or file cannot be read.
    """

    def __init__(
        self, folder: Path, tenants: Collection[str] | None = None, versions: Collection[str] | None = None
    ) -> None:
        """`tenants`, `versions`: only these."""
        self.damage = Damage()
        self.duplicates = 0
        self._folder = folder
        self._tenants = tenants
        self._versions = versions

    def __iter__(self) -> Iterator[Found]:
        with readable(self._folder):
            yield from self._rows()

    def _rows(self) -> Iterator[Found]:
        seen: set[bytes] = set()
        for piece in pieces(self._folder, self._tenants):
            for origin, key, row in Segment(piece.path, self.damage).rows():
                if self._versions is not None and origin.version not in self._versions:
                    break  # all of a file have one origin
                if key in seen:
                    self.duplicates += 1
                    continue
                seen.add(key)
                yield Found(origin, row)


def parts_of(folder: Path, damage: Damage) -> list[Part]:
    """What is there of a model, by version and tenant. `damage` is added to. Raises `SetupError`."""
    with readable(folder):
        return _parts_of(folder, damage)


def _parts_of(folder: Path, damage: Damage) -> list[Part]:
    parts: dict[tuple[str, str], Part] = {}
    for piece in pieces(folder):
        segment = Segment(piece.path, damage)
        origin = segment.origin()
        if origin is None:
            continue
        part = parts.setdefault(
            (origin.version, origin.tenant),
            Part(origin.model, origin.version, origin.tenant, 0, 0, 0, int(piece.name.partition("-")[0]) / 1e3),
        )
        part.rows += sum(1 for _ in segment.row_keys())
        part.files += 1
        part.bytes += piece.size
    return [part for _, part in sorted(parts.items())]
