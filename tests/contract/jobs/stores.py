"""The implementations under the contract of jobs, and how a test opens one."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from forebay.jobs.memory import MemoryJobs
from forebay.jobs.store import JobQueue, JobReader


class Jobs(JobQueue, JobReader, Protocol):
    """Both ports in one object."""


@dataclass(frozen=True)
class Store:
    """An empty store. `pass_s` moves its clock (and may really wait); real time alone moves it by less than 10 s a
    test. `other` is the same store as another process sees it. `orders`: jobs that nobody has had yet are leased in
    the order of their acceptance."""

    jobs: Jobs
    other: Jobs
    pass_s: Callable[[float], Awaitable[None]]
    orders: bool = True


Opener = Callable[[], AbstractAsyncContextManager[Store]]

START_MS = 1_800_000_000_000


@contextlib.asynccontextmanager
async def memory() -> AsyncIterator[Store]:
    """`MemoryJobs` with a clock that only the test moves."""
    now_ms = START_MS

    async def pass_s(seconds: float) -> None:
        nonlocal now_ms
        now_ms += round(seconds * 1000)

    jobs = MemoryJobs(lambda: now_ms)
    yield Store(jobs, jobs, pass_s)
    await jobs.close()


IMPLEMENTATIONS: dict[str, Opener] = {"memory": memory}
