"""Jobs that a broker did not confirm: nothing is promised, and the key finds what became of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

import httpx
import pytest
from tests.unit.api.job_site import JOBS, MLP, check_problem
from tests.unit.jobs.flaky import LossyBroker

from forebay.api.app import create_app
from forebay.api.inference import Inference
from forebay.api.job_hub import Hub
from forebay.api.jobs import Jobs
from forebay.brokers.memory import HeldQueues
from forebay.brokers.port import Message
from forebay.core.settings import JobSettings
from forebay.jobs.brokered import BrokeredQueue
from forebay.jobs.memory_store import MemoryStore
from forebay.testing import FakeClock

BATCH = f"{JOBS}/batch"


class Full(LossyBroker):
    """Has room for so many more messages."""

    room = 1_000

    async def publish(self, messages: Sequence[Message]) -> Sequence[bool]:
        taken, self.room = min(self.room, len(messages)), self.room - min(self.room, len(messages))
        await super().publish(messages[:taken])
        return [place < taken for place in range(len(messages))]


class Site:
    """Jobs of a web process whose broker has room for as many as a test says."""

    def __init__(self, inference: Inference) -> None:
        clock = FakeClock(1_800_000_000.0)
        store = MemoryStore(lambda: round(clock() * 1000))
        self.broker = Full(HeldQueues(True, clock))
        self.queue = BrokeredQueue(store, self.broker)
        self.hub = Hub(store)
        self.jobs = Jobs(JobSettings(), inference.server, self.queue, store, self.hub, ready=_ready, carried=True)
        app = create_app(inference, metrics_text=lambda: b"", ready=list, jobs=self.jobs)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")

    async def close(self) -> None:
        await self.http.aclose()
        await self.jobs.close()
        await self.hub.close()
        await self.queue.close()


async def _ready() -> None:
    pass


@pytest.fixture
async def site(make_inference: Callable[..., Inference]) -> AsyncIterator[Site]:
    made = Site(make_inference())
    yield made
    await made.close()


async def test_one_is_refused_and_its_key_finds_it(site: Site) -> None:
    site.broker.room = 0
    answer = await site.http.post(JOBS, json=MLP, headers={"idempotency-key": "k"})
    problem = check_problem(answer, 503, "broker_unavailable")
    assert "repeat the request with its Idempotency-Key" in problem["detail"]
    assert int(answer.headers["retry-after"]) >= 1
    site.broker.room = 10
    again = await site.http.post(JOBS, json=MLP, headers={"idempotency-key": "k"})
    assert (again.status_code, again.headers["idempotent-replayed"]) == (202, "true")
    assert again.json()["status"] == "queued"


async def test_of_many_those_that_the_broker_took_are_jobs(site: Site) -> None:
    site.broker.room = 2
    answer = await site.http.post(BATCH, json={"jobs": [MLP] * 3})
    assert answer.status_code == 202
    jobs = answer.json()["jobs"]
    assert [job.get("code") for job in jobs] == [None, None, "broker_unavailable"]
    for job in jobs[:2]:
        assert (await site.http.get(job["urls"]["self"])).json()["status"] == "queued"
    answer = await site.http.post(BATCH, json={"jobs": [MLP] * 3})
    check_problem(answer, 503, "broker_unavailable")
    assert int(answer.headers["retry-after"]) >= 1
