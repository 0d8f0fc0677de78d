"""The port by which requests that somebody waits for reach a worker and come back: `Calls`. Nothing of it is durable.

A call waits in a bounded queue of its form (`ServedModel.form`) until a worker takes it, for as long as its caller
waits for it. Its answer goes to that caller alone, and is lost where he does not listen. Errors are `DependencyError`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

MOST_WAITING: Final = 10_000
MOST_WAITING_BYTES: Final = 256 << 20
"""Calls of one form that wait, and their bytes; more are refused."""
CALLER_DIGITS: Final = 12
"""Of a call's id those that name its caller; what follows is the caller's own affair."""


class Call(msgspec.Struct, frozen=True, eq=False):
    """One request. `left_s`: how long it is waited for. `body`: whatever caller and worker agree on."""

    id: str
    form: str
    left_s: float
    body: bytes
    level: int = 1
    """0 high, 1 normal, 2 low priority."""


class Taken(msgspec.Struct, frozen=True):
    """Calls that a worker has taken; `more`: forms of which others wait."""

    calls: Sequence[Call]
    more: frozenset[str] = frozenset()


class CallAnswer(msgspec.Struct, frozen=True, eq=False):
    """The answer to one call."""

    id: str
    body: bytes


WAITING: Final = "waiting"
"""Where a call is that nobody has taken. Any other place is a worker's id, or empty where there is no such call: it was
answered, dropped, or is overdue."""


class Calls(Protocol):
    """Both ends of it. `hear` and `watch` are called once, before anything else."""

    async def send(self, calls: Sequence[Call]) -> Sequence[bool]:
        """Queue calls. False: its queue is full."""
        ...

    async def drop(self, ids: Sequence[str]) -> None:
        """Nobody waits for these any more."""
        ...

    async def where(self, ids: Sequence[str]) -> Sequence[str]:
        """Who has each call: a worker, `WAITING`, or nobody."""
        ...

    def hear(self, caller: str, on_answers: Callable[[Sequence[CallAnswer]], None], on_gap: Callable[[], None]) -> None:
        """Call `on_answers` with the answers to this caller's calls, `on_gap` whenever some may have been lost."""
        ...

    async def take(self, worker: str, wanted: Mapping[str, int]) -> Taken:
        """Take at most so many calls of each form, higher levels first, then the oldest."""
        ...

    async def give_back(self, calls: Sequence[Call]) -> None:
        """Queue calls again that were taken, before all others."""
        ...

    async def answer(self, answers: Sequence[CallAnswer]) -> None:
        """Tell callers."""
        ...

    def watch(self, on_calls: Callable[[frozenset[str]], None]) -> None:
        """Call this with the forms of which calls have come; with none where some may have been missed."""
        ...
