"""Whatever is called in whatever order: states follow each other as they may, and one end stands for ever."""

from __future__ import annotations

import itertools
import random
from typing import Literal

import pytest
from tests.contract.jobs.calls import CRASHED, reaped, spec
from tests.contract.jobs.stores import Store

from forebay.jobs.record import MOVES, TERMINAL, JobRecord, Output
from forebay.jobs.store import Bounds, Event, Finish, LeasedJob, NewJob, Partial

STEPS = 250
KINDS: tuple[Literal["succeeded", "failed", "retry", "release", "canceled"], ...] = (
    "succeeded",
    "failed",
    "retry",
    "release",
    "canceled",
)


class Walk:
    """Random calls by a few workers who forget nothing, so that they repeat themselves and come too late."""

    def __init__(self, store: Store, seed: int) -> None:
        self._store, self._random = store, random.Random(seed)
        self._ids: list[str] = []
        self._had: list[LeasedJob] = []
        self._kept: dict[str, bytes] = {}
        self._finals: dict[str, JobRecord] = {}
        self._events: dict[str, list[Event]] = {}

    async def step(self) -> None:
        """One call."""
        calls = (
            self._submit,
            self._lease,
            self._lease,
            self._finish,
            self._finish,
            self._tell,
            self._pass,
            self._cancel,
        )
        await self._random.choice(calls)()

    async def _submit(self) -> None:
        jobs = [spec(max_attempts=2, ttl_s=self._random.choice([None, 500.0])) for _ in range(2)]
        answers = await self._store.jobs.submit([NewJob(one) for one in jobs], Bounds(100, 10_000))
        assert [answer.outcome for answer in answers] == ["created", "created"]
        self._ids += [one.id for one in jobs]

    async def _lease(self) -> None:
        live = [job.spec.id for job in self._had]
        for job in await self._store.other.lease(["m"], self._random.randint(1, 3), 0.0, 30.0):
            assert job.spec.id not in self._finals
            assert job.attempt <= 1 + live.count(job.spec.id)
            self._had.append(job)

    async def _finish(self) -> None:
        if not self._had:
            return
        job, kind = self._random.choice(self._had), self._random.choice(KINDS)
        body = f"{job.nonce} {self._random.random()}".encode()
        end = Finish(job, kind, output=Output(body)) if kind == "succeeded" else Finish(job, kind, error=CRASHED)
        [done] = await self._store.jobs.finish([end])
        if done and kind == "succeeded":
            self._kept.setdefault(job.spec.id, body)

    async def _tell(self) -> None:
        if self._had:
            job = self._random.choice(self._had)
            await self._store.jobs.tell([Partial(job, piece=b"1", number=self._random.randint(1, 5))])
            await self._store.jobs.extend([job], 30.0)

    async def _pass(self) -> None:
        await self._store.pass_s(self._random.choice([1.0, 31.0]))
        await reaped(self._store)

    async def _cancel(self) -> None:
        if self._ids and self._random.random() < 0.3:
            await self._store.other.cancel([self._random.choice(self._ids)])

    async def check(self) -> None:
        """Everything that must hold between two calls."""
        counted = {"queued": 0, "running": 0}
        for id, look in zip(self._ids, await self._store.jobs.read(self._ids), strict=True):
            assert isinstance(look, JobRecord)
            counted[look.state] = counted.get(look.state, 0) + 1
            assert look.attempt <= 2
            if id in self._finals:
                assert look == self._finals[id]
                continue
            if look.state in TERMINAL:
                self._finals[id] = look
                body = self._kept[id] if look.state == "succeeded" else None
                assert (look.output.body if look.output is not None else None) == body
            await self._check_events(look)
        depth = await self._store.jobs.depth("m")
        assert (depth.waiting, depth.running) == (counted["queued"], counted["running"])

    async def _check_events(self, look: JobRecord) -> None:
        """New events follow the old ones, number by number, and states move as they may."""
        old = self._events.get(look.spec.id, [])
        new = list(await self._store.jobs.events(look.spec.id, old[-1].sequence if old else 0))
        whole = old + new
        numbers = [event.sequence for event in whole]
        assert numbers == sorted(set(numbers))
        assert numbers[-1] == look.sequence
        states = [event.state for event in whole if event.kind == "status"]
        assert states[-1] == look.state
        for before, after in itertools.pairwise(states):
            assert after in MOVES[before] | MOVES["running"]
        self._events[look.spec.id] = whole


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(one, marks=pytest.mark.full) for one in range(3, 12))])
async def test_one_end_stands_whatever_is_called(store: Store, seed: int) -> None:
    walk = Walk(store, seed)
    for _ in range(STEPS):
        await walk.step()
        await walk.check()
