"""Where rows lie: DATA_DIR/requests/MODEL/TENANT/SEGMENT, for the operator's eyes only, within a bound.

Any number of processes write here, each to files of its own. Who appends, makes room or clears holds the lock of the
model's folder meanwhile, so that the bound holds for all of them together.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

from forebay.core.errors import SetupError
from forebay.request_log.segment import SUFFIX

if sys.platform != "win32":
    import fcntl

ROOT: Final = "requests"
"""Its folder in the data folder."""
_LOCK: Final = ".lock"
_NAME_FILE: Final = ".name"
_LONGEST_NAME: Final = 100


class Piece(NamedTuple):
    """A segment on disk; they sort oldest first."""

    name: str
    path: Path
    size: int


def folder_name(name: str) -> str:
    """A model or tenant as a folder: no name leads anywhere else, and no two have one folder."""
    plain = quote(name, safe="")
    if plain and plain == name and len(plain) <= _LONGEST_NAME and not plain.startswith(".") and "~" not in plain:
        return plain
    return f"{plain[:_LONGEST_NAME].strip('.~')}~{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def model_folder(data_dir: Path, model: str) -> Path:
    """Of all versions of a model."""
    return data_dir / ROOT / folder_name(model)


@contextlib.contextmanager
def readable(place: Path) -> Iterator[None]:
    """Around what reads below a folder. Raises `SetupError` that names what cannot be read."""
    try:
        yield
    except OSError as error:
        told = error.strerror or error
        raise SetupError(
            f"{error.filename or place} cannot be read: {told}; is it the server's data folder, and yours to read?"
        ) from None


def models_in(data_dir: Path) -> dict[str, Path]:
    """The models that have a log, by name. Raises `SetupError`."""
    found: dict[str, Path] = {}
    with readable(data_dir / ROOT), contextlib.suppress(FileNotFoundError):
        for folder in sorted((data_dir / ROOT).iterdir()):
            if folder.is_dir():
                named = folder / _NAME_FILE
                found[named.read_text("utf-8") if named.exists() else folder.name] = folder
    return found


def make_private(folder: Path) -> None:
    """Make a folder that only its owner may enter, whatever made it before. Raises `OSError`."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if stat.S_IMODE(folder.stat().st_mode) & 0o077:
        folder.chmod(0o700)


def make_model_folder(data_dir: Path, model: str) -> Path:
    """The folder of a model, made where it is not there. Raises `OSError`."""
    make_private(data_dir / ROOT)
    folder = model_folder(data_dir, model)
    make_private(folder)
    if folder.name != model and not (folder / _NAME_FILE).exists():
        fd = os.open(folder / _NAME_FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(model)
    return folder


def tenant_folder(folder: Path, tenant: str) -> Path:
    """Of one tenant's rows of a model."""
    return folder / folder_name(tenant)


def pieces(folder: Path, tenants: Iterable[str] | None = None) -> list[Piece]:
    """The segments of a model, oldest first. `tenants`: only theirs."""
    wanted = None if tenants is None else {folder_name(tenant) for tenant in tenants}
    found: list[Piece] = []
    for below in _entries(folder):
        if wanted is not None and below.name not in wanted:
            continue
        with contextlib.suppress(NotADirectoryError):
            for entry in _entries(Path(below.path)):
                if entry.name.endswith(SUFFIX):
                    with contextlib.suppress(FileNotFoundError):
                        found.append(Piece(entry.name, Path(entry.path), entry.stat(follow_symlinks=False).st_size))
    found.sort()
    return found


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except FileNotFoundError:
        return []


def new_segment(folder: Path, tenant: str, now_s: float, number: int) -> tuple[str, Path, int]:
    """A new file to append to: name, path and descriptor. `number`: of those that this process made; within one
    millisecond they stand in this order. Raises `OSError`."""
    below = tenant_folder(folder, tenant)
    make_private(below)
    name = f"{int(now_s * 1000):014d}-{number:08d}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
    return name, below / name, os.open(below / name, flags, 0o600)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Alone in a model's folder, of all processes. Waits; a process that ends lets go. Raises `OSError`."""
    fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        if sys.platform != "win32":
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def clear(folder: Path, tenants: Iterable[str] | None = None) -> tuple[int, int]:
    """Take away what is there: how many files, and their bytes. Who writes goes on in new ones. Raises `OSError`."""
    files = nbytes = 0
    with locked(folder):
        for piece in pieces(folder, tenants):
            with contextlib.suppress(FileNotFoundError):
                piece.path.unlink()
                files, nbytes = files + 1, nbytes + piece.size
    return files, nbytes
