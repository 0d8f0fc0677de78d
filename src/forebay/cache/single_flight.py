"""Equal requests in flight: one runs, the others wait for its answer. Each keeps its own deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from forebay.core.request import Request

OnDone = Callable[[Request], None]


class Flight:
    """One computation and who waits for it."""

    __slots__ = ("due", "followers", "generation", "key", "on_done", "runs", "timer")

    def __init__(self, key: bytes, runs: Request, on_done: OnDone | None, generation: int) -> None:
        """`on_done`: of the request that runs; None: its caller has left, or never waited. `generation`: of what was
        kept when it began."""
        self.generation = generation
        self.key = key
        self.runs = runs
        self.on_done = on_done
        self.followers: list[Request] = []
        """Those that wait beside it. They were never submitted to the engine; their `on_done` is their callers'."""
        self.due = float("inf")
        """When to look which of them are too late."""
        self.timer: asyncio.TimerHandle | None = None

    @property
    def waited_for(self) -> bool:
        """Whether anybody wants the answer."""
        return self.on_done is not None or bool(self.followers)

    def joinable(self, request: Request) -> bool:
        """Whether it can wait here: nobody waits behind a job, which itself stands behind all that is waited for."""
        return self.runs.background is None or request.background is not None

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
        self.due = min((one.deadline for one in self.followers), default=float("inf"))
        return late

    def take_followers(self) -> list[Request]:
        """All who wait beside the one that ran, in the order in which they came."""
        taken, self.followers = self.followers, []
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        return taken
