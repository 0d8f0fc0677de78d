"""How a command that works for minutes is stopped: SIGTERM as Ctrl-C, and one exit code for both."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

INTERRUPTED: Final = 130
"""Exit code after Ctrl-C or SIGTERM."""


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM raises `KeyboardInterrupt` too, so that processes are ended and folders removed."""

    def as_interrupt(_number: int, _frame: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    # A shell starts what runs in the background with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGTERM, as_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])
