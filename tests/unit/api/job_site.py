"""An app with jobs in memory over the test engine, and a worker that runs them when a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
from fastapi import FastAPI

from forebay.api.app import create_app
from forebay.api.inference import Inference
from forebay.api.job_codec import InferenceCodec
from forebay.api.job_hub import Hub
from forebay.api.jobs import Jobs
from forebay.core.errors import DependencyError
from forebay.core.request import Request
from forebay.core.settings import JobSettings
from forebay.jobs.memory import MemoryJobs
from forebay.jobs.record import JobError, Output
from forebay.jobs.store import Bounds, Finish, LeasedJob, Look, NewJob, Submission

MLP = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
JOBS = "/v1/models/mlp/jobs"
INFER = "/v2/models/mlp/infer"
UNKNOWN = "019ab5f0-1234-7abc-8def-0123456789ab"
"""An id that no job has."""


def check_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The document of a refusal, which is in the form of RFC 9457."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    problem: dict[str, Any] = answer.json()
    assert (problem["status"], problem["code"], problem["type"]) == (status, code, "about:blank")
    assert problem["title"]
    assert problem["detail"]
    assert "error" not in problem
    return problem


async def submitted(http: httpx.AsyncClient, **more: Any) -> str:
    """The id of a new job."""
    answer = await http.post(JOBS, json={**MLP, **more})
    assert answer.status_code == 202, answer.text
    id: str = answer.json()["id"]
    return id


class Store(MemoryJobs):
    """`MemoryJobs` whose clock a test moves, and that fails where a test says so."""

    def __init__(self) -> None:
        self.now = 1_764_063_707_123
        super().__init__(lambda: self.now)
        self.fail_with: Exception | None = None
        self.calls: list[int] = []
        """How many jobs each submission had."""
        self.reads = 0

    async def submit(self, new: Sequence[NewJob], bounds: Bounds) -> Sequence[Submission]:
        self.calls.append(len(new))
        self._check()
        return await super().submit(new, bounds)

    async def read(self, ids: Sequence[str], *, output: bool = True) -> Sequence[Look]:
        self.reads += 1
        self._check()
        return await super().read(ids, output=output)

    def _check(self) -> None:
        if self.fail_with is not None:
            raise self.fail_with


class JobSite:
    """`http` speaks to the app; `work` runs what is queued."""

    def __init__(self, inference: Inference, **settings: Any) -> None:
        self.inference = inference
        self.store = Store()
        self.hub = Hub(self.store)
        self.starts = 0
        private_webhooks = settings.pop("private_webhooks_allowed", False)
        self.jobs = Jobs(
            JobSettings(**settings),
            inference.server,
            self.store,
            self.store,
            self.hub,
            ready=self._ready,
            private_webhooks=private_webhooks,
        )
        self.app: FastAPI = create_app(inference, metrics_text=lambda: b"", ready=list, jobs=self.jobs)
        self.codec = InferenceCodec(inference, lambda: 0.0)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://test")

    async def _ready(self) -> None:
        self.starts += 1

    async def leased(self, model: str = "mlp", most: int = 1000) -> Sequence[LeasedJob]:
        return await self.store.lease([model], most, 0.0, 15.0)

    async def work(self, model: str = "mlp") -> int:
        """Runs all that is queued for a model; how many jobs that were."""
        leased = await self.leased(model)
        for job in leased:
            answered: asyncio.Future[Output | JobError] = asyncio.get_running_loop().create_future()

            def done(request: Request, answered: asyncio.Future[Output | JobError] = answered) -> None:
                answered.set_result(self.codec.close(request))

            engine, request = self.codec.open(job.spec, done)
            engine.submit(request)
            answer = await answered
            self.store.now += 250
            if isinstance(answer, Output):
                finish = Finish(job, "succeeded", output=answer, metrics={"batch_rows": 1})
            else:
                finish = Finish(job, "failed", error=answer)
            assert await self.store.finish([finish]) == [True]
        return len(leased)

    async def close(self) -> None:
        await self.http.aclose()
        await self.jobs.close()
        await self.hub.close()
        await self.store.close()


UNREACHED = DependencyError("the store cannot be reached", retry_after_s=2.0)


async def waiting(site: JobSite, count: int = 1) -> None:
    """Until so many wait for the end of a job."""
    async with asyncio.timeout(5):
        while len(site.hub) < count:
            await asyncio.sleep(0.001)
