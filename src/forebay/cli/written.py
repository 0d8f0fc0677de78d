"""Files that commands write at the end of long work: whether they can be written is told before it."""

from __future__ import annotations

import os
from pathlib import Path

from forebay.core.errors import SetupError


def check_writable(option: str, path: Path | None) -> None:
    """Raises `SetupError` where no file can be written there."""
    if path is None:
        return
    folder = path.absolute().parent
    if path.is_dir():
        raise SetupError(f"{option} {path} is a folder; name a file")
    if not folder.is_dir():
        raise SetupError(f"{option} {path}: there is no folder {folder}; make it, or name another file")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise SetupError(f"{option} {path} may not be written; name another file")


def write_file(option: str, path: Path, content: bytes) -> None:
    """Raises `SetupError`."""
    try:
        path.write_bytes(content)
    except OSError as error:
        raise SetupError(f"{option} {path} cannot be written: {error.strerror or error}; name another file") from None
