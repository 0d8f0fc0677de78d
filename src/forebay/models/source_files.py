"""Files that a model was made from besides its source, such as weights that a factory reads and modules of its own."""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from forebay.core.errors import SetupError

_CHUNK_BYTES = 1 << 20
SETTLED_NS = 100_000_000
"""Two writes within the tick of a file system's clock leave one time behind: what was written so lately may be written
again unseen."""


class SourceFile(msgspec.Struct, frozen=True, kw_only=True):
    """One of them, as it was."""

    path: str
    """Beneath the folder in which the source lies: relative to it, with `/`. Else absolute."""
    size_bytes: int
    sha256: str
    """As hex."""

    def place(self, folder: Path) -> Path:
        """Where it is, with the folder in which the source lies."""
        return folder / self.path

    def difference(self, folder: Path) -> str:
        """What has become of it, such as `is gone`; empty: nothing."""
        file = self.place(folder)
        try:
            if not file.is_file():
                return "is gone"
            same = file.stat().st_size == self.size_bytes and file_digest(file) == self.sha256
        except OSError as error:
            return f"cannot be read ({error.strerror or error})"
        return "" if same else "has changed since"


def taken(files: Iterable[Path], folder: Path) -> tuple[SourceFile, ...]:
    """The files as they are now, in a fixed order. Raises `SetupError` for one that cannot be read."""
    return tuple(sorted((_taken(file, folder) for file in files), key=lambda one: one.path))


def _taken(file: Path, folder: Path) -> SourceFile:
    shown = file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file)
    try:
        shown.encode()
    except UnicodeEncodeError:
        raise SetupError(f"{shown!a}: a file's name must be UTF-8 to be noted; rename it") from None
    try:
        return SourceFile(path=shown, sha256=file_digest(file), size_bytes=file.stat().st_size)
    except OSError as error:
        raise SetupError(f"{file} cannot be read: {error.strerror or error}") from None


def file_digest(file: Path) -> str:
    """SHA-256 of a file, as hex."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def digest_once(file: Path) -> str:
    """SHA-256 of a file, as hex: it is read again only where something was written to it since. Raises `OSError`."""
    status = file.stat()
    written_ns = max(status.st_mtime_ns, status.st_ctime_ns)
    if written_ns > time.time_ns() - SETTLED_NS:
        return file_digest(file)
    return _digest_as_of(str(file), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


@functools.lru_cache(maxsize=4096)
def _digest_as_of(file: str, *_stamp: int) -> str:
    return file_digest(Path(file))


def walk(folder: Path) -> Iterator[Path]:
    """Every regular file in a folder and beneath, but for hidden ones and what Python compiles: a pipe that nobody
    writes to would hold whoever opens it. Folders that are symbolic links are not entered."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != "." and name != "__pycache__")
        paths = (Path(parent, name) for name in sorted(files) if name[0] != ".")
        yield from (path for path in paths if path.is_file())
