"""The clock that pure code is handed: monotonic seconds, or a test's own."""

from __future__ import annotations

from collections.abc import Callable

Clock = Callable[[], float]
"""Returns monotonic seconds. Deadlines are instants on it and never leave the host."""
