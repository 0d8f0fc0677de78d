"""`forebay`, put together for a fault: calls of the store port that kill the process or lose what they tell, and clocks
that are wrong. A program; what goes wrong stands in the environment variable RIG as JSON (`Rig`).
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict

ROOT = [sys.executable, __file__]


class Rig(TypedDict, total=False):
    """`call`: kills the process `when` ("before", "after") it is made for the `number`th time, counted from 1; the ids
    of its jobs are written to `notes`. `deaf`: no change of any job is ever heard of. `clock_s`: how wrong the clock
    is."""

    call: str
    when: str
    number: int
    notes: str
    deaf: bool
    clock_s: float


def environ(rig: Rig) -> dict[str, str]:
    """The environment of a rigged program."""
    return {"RIG": json.dumps(rig)}


def noted(path: Path) -> list[str]:
    """The ids of the jobs of the call that killed the process."""
    return path.read_text().split()


def _wrong_clock(seconds: float) -> None:
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + seconds
    time.time_ns = lambda: now_ns() + int(seconds * 1e9)


def _killing(call: Callable[..., Awaitable[Any]], rig: Rig) -> Callable[..., Awaitable[Any]]:
    made = 0

    @functools.wraps(call)
    async def rigged(self: Any, jobs: Sequence[Any], *more: Any) -> Any:
        nonlocal made
        made += 1
        fatal = made == rig["number"]
        if fatal:
            ids = [job.spec.id if hasattr(job, "spec") else job.job.spec.id for job in jobs]
            Path(rig["notes"]).write_text("\n".join(ids))
            if rig["when"] == "before":
                os.kill(os.getpid(), signal.SIGKILL)
        answer = await call(self, jobs, *more)
        if fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    return rigged


async def _never(self: Any, *states: Any) -> AsyncIterator[Sequence[Any]]:
    """`JobReader.changes` that begins, as it must, and then loses everything."""
    async for changes in self.heard(*states):
        if not changes:
            yield changes


def main() -> None:
    """Rig, then do what the command line says."""
    rig: Rig = json.loads(os.environ["RIG"])
    if "clock_s" in rig:
        _wrong_clock(rig["clock_s"])
    from forebay.cli.main import main as forebay
    from forebay.jobs.brokered import BrokeredQueue
    from forebay.jobs.redis_jobs import RedisJobs
    from forebay.jobs.redis_records import RedisRecords

    jobs: Any = RedisJobs
    owners: tuple[Any, ...] = (RedisJobs, RedisRecords, BrokeredQueue)
    for owner in owners if "call" in rig else ():
        if hasattr(owner, rig["call"]):
            setattr(owner, rig["call"], _killing(getattr(owner, rig["call"]), rig))
    if rig.get("deaf"):
        jobs.heard, jobs.changes = jobs.changes, _never
    forebay()


if __name__ == "__main__":
    main()
