"""Brings what an embedded Valkey has written to the disk, once a second.

Valkey's own `appendfsync everysec` keeps writes in its memory while a sync runs, so that killing it loses jobs that it
had confirmed. Here it runs `appendfsync no`: each write is with the kernel before it is confirmed, and this thread
syncs the file.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from forebay.brokers.embedded_folder import AOF_FOLDER, AOF_MANIFEST
from forebay.telemetry.logs import fields

log = logging.getLogger("forebay.jobs")

_INTERVAL_S = 1.0
_STOP_S = 10.0


class AofSync:
    """The thread. `error` is why the last round failed; empty: it did not."""

    def __init__(self, folder: Path) -> None:
        self.error = ""
        self._folder = folder
        self._files = folder / AOF_FOLDER
        self._open: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="forebay-jobs-sync", daemon=True)

    def start(self) -> None:
        """Begin, with the names of what was just created."""
        self._thread.start()

    def stop(self) -> None:
        """End it after one last round. Blocking, but not for ever where the disk does not answer."""
        self._stop.set()
        self._thread.join(_STOP_S)

    def _run(self) -> None:
        try:
            self._round(self._sync_names)
            while not self._stop.wait(_INTERVAL_S):
                self._round(self.sync)
            self._round(self.sync)
        finally:
            for fd in self._open.values():
                os.close(fd)

    def _round(self, work: Callable[[], None]) -> None:
        """One round. A disk that fails is told of when it begins to and when it works again."""
        try:
            work()
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            if reason != self.error:
                log.error(
                    "jobs are not brought to the disk: a power cut would lose more than a second of them",
                    extra=fields(file=str(self._files), reason=reason),
                )
            self.error = reason
        else:
            if self.error:
                log.info("jobs are brought to the disk again", extra=fields(file=str(self._files)))
            self.error = ""

    def sync(self) -> None:
        """Sync the files that Valkey appends to, as its manifest names them now (a rewrite begins a new one, and
        Valkey itself syncs the one that it leaves). Raises `OSError`."""
        current = self._appended_to()
        for name in self._open.keys() - set(current):
            os.close(self._open.pop(name))
        for name in current:
            fd = self._open.get(name, -1)
            if fd < 0:
                try:
                    fd = self._open[name] = os.open(self._files / name, os.O_WRONLY | os.O_CLOEXEC)
                except FileNotFoundError:
                    continue  # A rewrite has just done away with it.
            _sync_data(fd)

    def _appended_to(self) -> list[str]:
        """The manifest has a line a file: `file NAME seq N type i`, with type b for what a rewrite wrote as a whole."""
        try:
            text = (self._files / AOF_MANIFEST).read_text()
        except FileNotFoundError:
            return []
        words = [line.split() for line in text.splitlines()]
        return [line[1] for line in words if line[:1] == ["file"] and line[4:6] == ["type", "i"]]

    def _sync_names(self) -> None:
        """Valkey syncs the names of its files, but not that of their folder; ours are new too."""
        for folder in (self._files, self._folder, self._folder.parent, self._folder.parent.parent):
            with contextlib.suppress(PermissionError):
                fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)


def _sync_data(fd: int) -> None:
    if sys.platform == "darwin":
        os.fsync(fd)
    else:
        os.fdatasync(fd)
