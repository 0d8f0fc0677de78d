"""A worker over jobs in memory and a real engine around a tiny Python model, in the test's own event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from tests.unit.engine.started import Answers, Gate, eventually, plan_of, running, tiny

from forebay.core.caching import CacheAsk
from forebay.core.errors import DependencyError, ForebayError, RequestError
from forebay.core.request import Outputs, Request, output_array
from forebay.core.settings import JobSettings
from forebay.engine.client import EngineClient
from forebay.engine.engine import Engine
from forebay.jobs.ids import JobIds
from forebay.jobs.memory import MemoryJobs
from forebay.jobs.record import JobError, JobRecord, JobSpec, Output
from forebay.jobs.store import Bounds, Finish, LeasedJob, NewJob, Partial
from forebay.worker.codec import OnDone, Opened
from forebay.worker.loop import Worker
from forebay.worker.reaper import Reaper

AMPLE = Bounds(1_000_000, 1 << 40)
MODEL = '''
import os
import time

import numpy as np

import forebay

HERE = os.path.dirname(__file__)


class Tiny(forebay.Model):
    """y = 2x. Waits while the file `gate` is beside it; -1 raises, -2 ends the process, -3 runs out of memory, -4 never
    returns."""

    inputs = {"x": ("FP32", [-1])}
    outputs = {"y": ("FP32", [-1])}

    def predict(self, x):
        with open(os.path.join(HERE, "calls"), "a") as file:
            file.write(f"{len(x)}\\n")
        while os.path.exists(os.path.join(HERE, "gate")):
            time.sleep(0.001)
        if (x == -1).any():
            raise ValueError("minus one")
        if (x == -2).any():
            os._exit(3)
        if (x == -3).any():
            raise MemoryError("minus three")
        while (x == -4).any():
            time.sleep(0.01)
        return x * 2
'''


class ListCodec:
    """Jobs whose bodies are JSON lists: one row. A body of `"large"` elements is opened in steps like any other."""

    def __init__(self, clients: Mapping[str, EngineClient]) -> None:
        self.clients = dict(clients)
        self.calls: list[Callable[[], None]] = []
        self.timeout_s = 60.0
        self.ask: CacheAsk | None = None
        self.close_raises = False
        self.closed = 0

    def served(self) -> Mapping[str, EngineClient]:
        return self.clients

    def watch(self, call: Callable[[], None]) -> None:
        self.calls.append(call)

    def serve(self, clients: Mapping[str, EngineClient]) -> None:
        """From now on these are served."""
        self.clients = dict(clients)
        for call in self.calls:
            call()

    def open(self, spec: JobSpec, on_done: OnDone) -> Opened:
        if spec.model not in self.clients or spec.version:
            raise RequestError(f"no model {spec.model!r} of version {spec.version!r}", code="model_not_found")
        try:
            values = msgspec.json.decode(spec.body, type=list[float])
        except msgspec.DecodeError as error:
            raise RequestError(f"not a list of numbers: {error}") from None
        now = time.monotonic()
        shapes, due = ((len(values),),), now + self.timeout_s
        request = Request([values], shapes, 1, 4 * len(values), due, now, on_done, cache=self.ask)
        return self.clients[spec.model], request

    def open_in_steps(self, spec: JobSpec, on_done: OnDone) -> Generator[None, None, Opened]:
        for _ in range(3):
            yield
        return self.open(spec, on_done)

    def close(self, request: Request) -> Output | JobError:
        if self.close_raises:
            raise KeyError("form")
        self.closed += 1
        error = request.error
        if isinstance(error, ForebayError):
            return JobError(error.code, error.message)
        return Output(msgspec.json.encode(output_array(request, 0, True)[0].tolist()))

    def piece(self, request: Request, row: int, outputs: Outputs) -> bytes:
        return msgspec.json.encode({"row": row, "y": outputs.arrays[0].tolist()})


class Shaky(MemoryJobs):
    """Jobs in memory whose store can be cut off, and which remembers what was asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.down = False
        self.committed: list[int] = []
        """Of each call of `finish`, how many."""
        self.extended: list[int] = []
        self.lease_raises: Exception | None = None

    def _reach(self) -> None:
        if self.down:
            raise DependencyError("the store is away")

    async def lease(self, models: Sequence[str], most: int, wait_s: float, lease_s: float) -> Sequence[LeasedJob]:
        self._reach()
        if self.lease_raises is not None:
            error, self.lease_raises = self.lease_raises, None
            raise error
        jobs = await super().lease(models, most, wait_s, lease_s)
        if self.down:
            await MemoryJobs.finish(self, [Finish(job, "release") for job in jobs])
        self._reach()
        return jobs

    async def extend(self, jobs: Sequence[LeasedJob], lease_s: float) -> Sequence[bool]:
        self._reach()
        self.extended.append(len(jobs))
        return await super().extend(jobs, lease_s)

    async def tell(self, partials: Sequence[Partial]) -> Sequence[bool]:
        self._reach()
        return await super().tell(partials)

    async def finish(self, finishes: Sequence[Finish]) -> Sequence[bool]:
        self._reach()
        self.committed.append(len(finishes))
        return await super().finish(finishes)


class Rig:
    """All of it, and shorthands."""

    def __init__(self, engine: Engine, jobs: Shaky, folder: Path, settings: JobSettings) -> None:
        self.engine = engine
        self.jobs = jobs
        self.gate = Gate(folder)
        self.codec = ListCodec({"tiny": engine})
        self.settings = settings
        self.worker = Worker(jobs, self.codec, settings, time.monotonic)
        self.reaper = Reaper(jobs, lambda: ["tiny"], self.worker.metrics)
        self.answers = Answers(engine)
        self._ids = JobIds()

    async def submit(self, *bodies: Any, **options: Any) -> list[str]:
        """One job for each: a number or a list; bytes are the body itself."""
        specs = []
        for body in bodies:
            raw = body if isinstance(body, bytes) else msgspec.json.encode(body if isinstance(body, list) else [body])
            given = {"model": "tiny", "tenant": "anna", "body": raw, **options}
            specs.append(JobSpec(id=self._ids.new(), **given))
        answers = await self.jobs.submit([NewJob(spec) for spec in specs], AMPLE)
        assert {answer.outcome for answer in answers} == {"created"}
        return [spec.id for spec in specs]

    async def record(self, id: str) -> JobRecord:
        [look] = await self.jobs.read([id])
        assert isinstance(look, JobRecord)
        return look

    async def records(self, ids: Sequence[str]) -> list[JobRecord]:
        return [await self.record(id) for id in ids]

    async def ended(self, *ids: str) -> list[JobRecord]:
        """Wait until all have ended; reaps meanwhile, so that delayed ones become due."""
        end = time.monotonic() + 60
        while True:
            found = await self.records(ids)
            if all(one.finished_ms for one in found):
                return found
            assert time.monotonic() < end, [(one.state, one.attempt, one.error) for one in found if not one.finished_ms]
            await self.jobs.reap()
            await asyncio.sleep(0.005)

    async def begun(self, calls: int) -> None:
        """Wait until the model has been called so often."""
        await eventually(lambda: len(self.gate.calls) >= calls)


def output(record: JobRecord) -> Any:
    """The answer of a job that succeeded."""
    assert record.state == "succeeded", record.error
    assert record.output is not None
    return msgspec.json.decode(record.output.body)


@asynccontextmanager
async def rig(
    folder: Path,
    *,
    text: str = MODEL,
    lease_s: float = 30.0,
    start: bool = True,
    jobs: Shaky | None = None,
    **plan: Any,
) -> AsyncIterator[Rig]:
    """A rig with a started worker; closed at the end."""
    async with running(plan_of(tiny(folder, text=text), folder / "data", **{"pad": True, **plan})) as engine:
        made = Rig(engine, jobs or Shaky(), folder, JobSettings(lease_s=lease_s))
        if start:
            made.worker.start()
        try:
            yield made
        finally:
            await made.worker.close(0.0)
