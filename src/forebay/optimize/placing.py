"""How results get into a folder: in such steps that a run may end anywhere, and the next one knows what is its own."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

REPORT_FILE: Final = "report.json"
PAGE_FILE: Final = "report.html"
_STAGED, _REPLACED = ".staged", ".replaced"
UNFINISHED: Final = frozenset({_STAGED, _REPLACED, *(f"{_STAGED}.{file}" for file in (REPORT_FILE, PAGE_FILE))})
"""What may lie in a folder of a run that ended while it wrote."""


@contextlib.contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """An empty folder beside what is there, to fill before anything of that goes. It is away at the end, however that
    comes. Raises `OSError`.
    """
    staged = folder / _STAGED
    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    try:
        staged.mkdir()
        yield staged
    finally:
        _clear(folder)


def _clear(folder: Path) -> None:
    shutil.rmtree(folder / _STAGED, ignore_errors=True)
    for file in (REPORT_FILE, PAGE_FILE):
        with contextlib.suppress(OSError):
            (folder / f"{_STAGED}.{file}").unlink()


def put_reports(folder: Path, report: bytes, page: bytes) -> None:
    """Before any model: by the report the next run knows that what lies here is its own. Raises `OSError`."""
    contents = {REPORT_FILE: report, PAGE_FILE: page}
    for file, content in contents.items():
        (folder / f"{_STAGED}.{file}").write_bytes(content)
    for file in contents:
        (folder / f"{_STAGED}.{file}").replace(folder / file)


def replace(target: Path, new: Path) -> None:
    """`new` in the place of `target`; where there is no new one, none. Raises `OSError`."""
    old = target.with_name(_REPLACED)
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    if new.exists():
        new.rename(target)
    shutil.rmtree(old, ignore_errors=True)
