"""The end of a process that a thread would hold up, such as one that reads from a file system which hangs.

Python waits for the threads of its executors before it exits, however long that takes, and nothing can stop a thread.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from types import FrameType
from typing import Final

CLOSE_S: Final = 30.0
"""How long a server may take to close what it has, once the time of its drain is over."""
LEFT_S = 5.0
"""How long threads may go on once everything is closed: what they would answer nobody waits for."""
_FLUSH_S: Final = 1.0
_CALLS: Final = 5

log = logging.getLogger("forebay")


class LastResort:
    """Ends the process where it does not end by itself in time. `exit_code` is then its own."""

    def __init__(self) -> None:
        self.exit_code = 0
        self._timer: threading.Timer | None = None
        self._ends_at = float("inf")

    def within(self, seconds: float) -> None:
        """From now on the process has so long to end, or less where it had less before."""
        ends_at = time.monotonic() + seconds
        if ends_at >= self._ends_at:
            return
        self.cancel()
        self._ends_at = ends_at
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        """It may go on as long as it likes."""
        self._ends_at = float("inf")
        if self._timer is not None:
            self._timer.cancel()

    def _end(self) -> None:
        # In a thread: one that hangs may hold the lock of the log, or of a stream.
        telling = threading.Thread(target=_tell, daemon=True)
        telling.start()
        telling.join(_FLUSH_S)
        os._exit(self.exit_code)


def _tell() -> None:
    frames = sys._current_frames()
    found = [
        f"{thread.name} in {_where(frames[thread.ident])}"
        for thread in threading.enumerate()
        if not thread.daemon and thread is not threading.main_thread() and thread.ident in frames
    ]
    log.error(
        "the process ends by force, for it does not end by itself; what still runs: %s", "; ".join(found) or "nothing"
    )
    for handler in logging.getLogger().handlers:
        handler.flush()
    sys.stdout.flush()
    sys.stderr.flush()


def _where(frame: FrameType | None) -> str:
    """The innermost calls, the last one first."""
    names: list[str] = []
    while frame is not None and len(names) < _CALLS:
        names.append(frame.f_code.co_qualname)
        frame = frame.f_back
    return " < ".join(names)
