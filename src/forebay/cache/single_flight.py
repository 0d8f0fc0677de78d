"""Equal requests in flight: one runs, the others wait for its answer. Each keeps its own deadline."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence

import msgspec

from forebay.cache.entry import Entry
from forebay.core.caching import CacheNote
from forebay.core.request import Request

OnDone = Callable[[Request], None]


class Flight(msgspec.Struct, eq=False, weakref=False, gc=False):
    """One computation and who waits for it. It must be taken out of its requests' `cached` at its end: the garbage
    collector does not look at it."""

    key: bytes
    runs: Request
    """What is in the engine, or will be."""
    on_done: OnDone | None
    """Of the request that runs; None: its caller has left, or never waited."""
    generation: int
    """Of what was kept when it began."""
    digest: str = ""
    """Of the model's files that its key is about."""
    followers: Sequence[Request] = ()
    """Those that wait beside it. They were never submitted to the engine; their `on_done` is their callers'."""
    first: Request | None = None
    """For whom it was begun, where that is one of those who wait beside it."""
    claim: str = ""
    """Under which others wait for it in the store of cached answers."""
    admitted: bool = False
    """Its answer is to be kept there."""
    by_row: bool = False
    """Its answer is kept as a row of its batch, if it is one."""
    submitted: bool = False
    """It is in the engine."""
    due: float = math.inf
    """When to look which of them are too late."""
    timer: asyncio.TimerHandle | None = None
    sought: bool = False
    """The answers to near texts have been looked through, or are not."""
    near: CacheNote | None = None
    """It was answered with the answer to a near text."""
    on_sooner: Callable[[], None] | None = None
    """Called when one who has less time than all others comes to wait beside it."""
    on_kept: Callable[[Entry], None] | None = None
    """Called with what is kept of its answer, if anything is."""

    @property
    def waited_for(self) -> bool:
        """Whether anybody wants the answer."""
        return self.on_done is not None or bool(self.followers)

    def joinable(self, request: Request) -> bool:
        """Whether it can wait here: nobody waits behind a job, which itself stands behind all that is waited for."""
        return self.runs.background is None or request.background is not None

    def join(self, request: Request) -> None:
        """It waits here too."""
        if not isinstance(self.followers, list):
            self.followers = list(self.followers)
        self.followers.append(request)
        request.cached = self

    def leave(self, request: Request) -> None:
        """The caller of one of them has left."""
        if request is self.runs:
            self.on_done = None
        else:
            self.followers = [one for one in self.followers if one is not request]

    def take_late(self, now: float) -> list[Request]:
        """Those whose deadline has passed; they wait no longer."""
        late = [one for one in self.followers if one.deadline <= now]
        if late:
            self.followers = [one for one in self.followers if one.deadline > now]
        self.due = min((one.deadline for one in self.followers), default=math.inf)
        return late

    def take_followers(self) -> list[Request]:
        """All who wait beside the one that ran, in the order in which they came."""
        taken, self.followers = list(self.followers), ()
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        return taken
