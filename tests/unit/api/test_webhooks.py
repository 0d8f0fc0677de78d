from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace
from tests.unit.api.webhook_receiver import OK, Receiver

from forebay.api import webhooks
from forebay.api.webhook_secrets import WebhookSecrets
from forebay.api.webhooks import HOLD_S, MOST_OF_A_HOST, MOST_TRIES, Webhooks
from forebay.core.errors import DependencyError
from forebay.jobs.ids import JobIds
from forebay.jobs.memory import MemoryJobs
from forebay.jobs.record import UNREADABLE, JobRecord, JobSpec, Output
from forebay.jobs.store import Bounds, Finish, Look, NewJob
from forebay.jobs.webhooks import Delivery, Settled
from forebay.telemetry.job_metrics import JobMetrics

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8G"


async def eventually(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.005)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    found = Receiver()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    yield found
    server.close()
    await eventually(lambda: not found.open)
    await server.wait_closed()


async def finished(jobs: MemoryJobs, receiver: Receiver, count: int = 1, url: str = "") -> list[str]:
    """Jobs with a webhook that have succeeded."""
    made = JobIds()
    url = url or f"http://127.0.0.1:{receiver.port}/hook?token=a"
    specs = [JobSpec(id=made.new(), model="m", tenant="t", webhook=url) for _ in range(count)]
    await jobs.submit([NewJob(spec) for spec in specs], Bounds(10_000, 1 << 30))
    leased = await jobs.lease(["m"], count, 0.0, 60.0)
    assert all(await jobs.finish([Finish(job, "succeeded", output=Output(b'{"y":1}')) for job in leased]))
    return [spec.id for spec in specs]


class Calling:
    """`Webhooks` at work."""

    def __init__(self, jobs: MemoryJobs, **options: Any) -> None:
        settings: dict[str, Any] = {"private": True, "poll_s": 0.01, "first_retry_s": 0.01, **options}
        self.webhooks = Webhooks(jobs, jobs, WebhookSecrets.parse(SECRET, "secrets"), **settings)

    async def __aenter__(self) -> Calling:
        self.running = asyncio.create_task(self.webhooks.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)


class Kept(MemoryJobs):
    """Jobs in memory that note how deliveries were settled."""

    def __init__(self) -> None:
        super().__init__()
        self.settled: list[Settled] = []

    async def settle_webhooks(self, settled: Sequence[Settled]) -> None:
        self.settled += settled
        await super().settle_webhooks(settled)

    def ended(self, id: str) -> bool:
        return any(one.id == id and one.again_s is None for one in self.settled)


async def test_a_finished_job_is_delivered_once_signed_and_whole(receiver: Receiver) -> None:
    jobs = Kept()
    (id,) = await finished(jobs, receiver)
    async with Calling(jobs):
        await eventually(lambda: jobs.ended(id))
        await asyncio.sleep(0.05)
    ((headers, body),) = receiver.calls
    assert headers["line"] == "POST /hook?token=a HTTP/1.1"
    assert headers["host"] == f"127.0.0.1:{receiver.port}"
    assert headers["content-type"] == "application/json"
    assert headers["webhook-id"] == id
    signed = f"{id}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    digest = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{digest}"
    told = json.loads(body)
    assert (told["type"], told["data"]["id"], told["data"]["output"]) == ("job.succeeded", id, {"y": 1})
    assert told["timestamp"] == told["data"]["finished_at"]


@pytest.mark.parametrize("how", ["canceled", "expired"])
async def test_every_end_is_delivered(receiver: Receiver, how: str) -> None:
    now_ms = 1_000_000
    jobs = MemoryJobs(lambda: now_ms)
    url = f"http://127.0.0.1:{receiver.port}"
    spec = JobSpec(id=JobIds().new(), model="m", tenant="t", webhook=url, ttl_s=1.0)
    await jobs.submit([NewJob(spec)], Bounds(10, 1 << 20))
    if how == "canceled":
        await jobs.cancel([spec.id])
    else:
        now_ms += 2000
        await jobs.reap()
    async with Calling(jobs):
        await eventually(lambda: receiver.calls)
    assert json.loads(receiver.calls[0][1])["type"] == f"job.{how}"
    assert receiver.calls[0][0]["line"] == "POST / HTTP/1.1"


@pytest.mark.parametrize(
    "bad",
    [
        b"HTTP/1.1 500 Oops\r\n\r\n",
        b"HTTP/1.1 404 No\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/elsewhere\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 10_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 10,
        b"",
    ],
)
async def test_what_fails_is_called_again_with_the_same_id_until_it_succeeds(receiver: Receiver, bad: bytes) -> None:
    jobs = Kept()
    (id,) = await finished(jobs, receiver)
    receiver.answers = [bad, bad, b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.0 200\r\n\r\n" + b"x" * 100]
    async with Calling(jobs):
        await eventually(lambda: jobs.ended(id))
    assert [headers["webhook-id"] for headers, _ in receiver.calls] == [id] * 3
    assert [headers["line"] for headers, _ in receiver.calls] == ["POST /hook?token=a HTTP/1.1"] * 3
    first, second = (one.again_s for one in jobs.settled[:2])
    assert first is not None
    assert second is not None
    assert 0.008 <= first <= 0.012
    assert 0.032 <= second <= 0.048


async def test_one_that_wants_no_more_and_one_that_never_answers_are_given_up(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = Kept()
    (id,) = await finished(jobs, receiver)
    receiver.answers = [b"HTTP/1.1 410 Gone\r\n\r\n"]
    async with Calling(jobs):
        await eventually(lambda: jobs.ended(id))
        assert len(receiver.calls) == 1
        receiver.answers = [b"HTTP/1.1 503 Busy\r\n\r\n"]
        (other,) = await finished(jobs, receiver)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(webhooks, "LONGEST_RETRY_S", 0.01)
            await eventually(lambda: jobs.ended(other))
    assert len(receiver.calls) == 1 + MOST_TRIES
    assert "token" not in caplog.text, "where it goes is the tenant's secret"
    assert "whsec" not in caplog.text


async def test_retry_after_is_heeded(receiver: Receiver) -> None:
    jobs = Kept()
    await finished(jobs, receiver)
    receiver.answers = [b"HTTP/1.1 429 Slow\r\nRetry-After: 120\r\n\r\n"]
    async with Calling(jobs):
        await eventually(lambda: jobs.settled)
    assert jobs.settled[0].again_s == 120.0


async def test_a_slow_receiver_is_called_few_times_at_once_and_others_go_on(receiver: Receiver) -> None:
    jobs = Kept()
    receiver.hold = asyncio.Event()
    slow = await finished(jobs, receiver, 100)
    other = Receiver()
    server = await asyncio.start_server(other.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with Calling(jobs, timeout_s=2.0):
        await eventually(lambda: receiver.open == MOST_OF_A_HOST)
        (id,) = await finished(jobs, receiver, url=f"http://localhost:{port}/")
        await eventually(lambda: jobs.ended(id))
        assert receiver.most_open == MOST_OF_A_HOST
        receiver.hold.set()
        await eventually(lambda: all(jobs.ended(one) for one in slow))
    assert receiver.most_open == MOST_OF_A_HOST
    assert not any(one.counts for one in jobs.settled if one.again_s is not None), "waiting is not a failure"
    server.close()
    await eventually(lambda: not other.open)


async def test_no_answer_within_the_time_is_a_failure(receiver: Receiver) -> None:
    jobs = Kept()
    receiver.hold = asyncio.Event()
    (id,) = await finished(jobs, receiver)
    async with Calling(jobs, timeout_s=0.1):
        await eventually(lambda: jobs.settled)
        receiver.hold.set()
        await eventually(lambda: jobs.ended(id))
    assert len(receiver.calls) >= 2


async def test_a_delivery_survives_whoever_was_making_it(receiver: Receiver) -> None:
    now_ms = 1_000_000
    jobs = MemoryJobs(lambda: now_ms)
    (id,) = await finished(jobs, receiver)
    assert [one.id for one in await jobs.due_webhooks(1, HOLD_S)] == [id]
    async with Calling(jobs):
        await asyncio.sleep(0.05)
        assert receiver.calls == []
        now_ms += round(HOLD_S * 1000) + 1000
        await eventually(lambda: receiver.calls)
    assert [headers["webhook-id"] for headers, _ in receiver.calls] == [id]


async def test_a_call_that_is_made_at_the_end_is_finished(receiver: Receiver) -> None:
    jobs = Kept()
    receiver.hold = asyncio.Event()
    (id,) = await finished(jobs, receiver)
    async with Calling(jobs, last_calls_s=30.0) as calling:
        await eventually(lambda: receiver.open)
        calling.running.cancel()
        await asyncio.sleep(0.05)
        receiver.hold.set()
        await asyncio.wait([calling.running])
    assert jobs.settled == [Settled(id)]
    assert len(receiver.calls) == 1


async def test_what_is_broken_off_at_the_end_is_due_again_at_once_and_has_not_failed(receiver: Receiver) -> None:
    jobs = Kept()
    receiver.hold = asyncio.Event()
    (id,) = await finished(jobs, receiver)
    async with Calling(jobs, last_calls_s=0.01):
        await eventually(lambda: receiver.open)
    receiver.hold.set()
    assert jobs.settled == [Settled(id, 0.0, counts=False)]
    assert list(await jobs.due_webhooks(10, HOLD_S)) == [Delivery(id)]


async def test_a_store_that_is_away_at_the_end_means_another_call_later(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = Away(DependencyError("the store is away"))
    jobs.failures = {"due": 0, "settle": 1_000_000}
    await finished(jobs, receiver)
    async with Calling(jobs):
        await eventually(lambda: jobs.failures["settle"] < 999_990)
    assert jobs.settled == []
    assert "1 webhooks will be called once more: the store is away" in caplog.text
    assert caplog.text.count("webhooks wait for the store") == 1


async def test_how_calls_end_is_counted(receiver: Receiver) -> None:
    jobs, metrics = Kept(), JobMetrics()
    receiver.answers = [b"HTTP/1.1 500 Oops\r\n\r\n", OK, b"HTTP/1.1 410 Gone\r\n\r\n"]
    async with Calling(jobs, metrics=metrics):
        for _ in range(2):
            (id,) = await finished(jobs, receiver)
            await eventually(partial(jobs.ended, id))
    assert metrics.webhooks == {"retried": 1, "delivered": 1, "failed": 1}
    (family,) = [family for family in metrics.collect() if family.name == "forebay_job_webhooks"]
    assert {sample.labels["kind"]: sample.value for sample in family.samples} == metrics.webhooks


class Away(Kept):
    """A store that fails the first calls of each kind."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error
        self.failures = {"due": 2, "settle": 2}

    def _fail(self, kind: str) -> None:
        if self.failures[kind]:
            self.failures[kind] -= 1
            raise self.error

    async def due_webhooks(self, most: int, hold_s: float) -> Sequence[Delivery]:
        self._fail("due")
        return await super().due_webhooks(most, hold_s)

    async def settle_webhooks(self, settled: Sequence[Settled]) -> None:
        self._fail("settle")
        await super().settle_webhooks(settled)


async def test_a_store_that_is_away_for_a_while_costs_nothing(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    jobs = Away(DependencyError("the store is away"))
    (id,) = await finished(jobs, receiver)
    async with Calling(jobs):
        await eventually(lambda: jobs.ended(id))
    assert len(receiver.calls) == 1


async def test_a_fault_in_a_round_does_not_end_the_rounds(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    jobs = Away(ZeroDivisionError())
    jobs.failures["settle"] = 0
    (id,) = await finished(jobs, receiver)
    async with Calling(jobs):
        await eventually(lambda: jobs.ended(id))


async def test_a_job_that_is_deleted_or_gone_is_not_delivered(receiver: Receiver) -> None:
    jobs = Kept()
    (id,) = await finished(jobs, receiver)
    await jobs.delete(id)
    async with Calling(jobs):
        await eventually(lambda: jobs.ended(id))
    assert receiver.calls == []


async def test_the_call_for_a_job_that_a_newer_server_stored_is_left_to_that_one(receiver: Receiver) -> None:
    class Newer(Kept):
        async def read(self, ids: Sequence[str], *, output: bool = True) -> Sequence[Look]:
            looks = await super().read(ids, output=output)
            blank = JobSpec(envelope=UNREADABLE, id=strange, model="m", tenant="t")
            return [
                replace(look, spec=blank) if isinstance(look, JobRecord) and look.spec.id == strange else look
                for look in looks
            ]

    jobs = Newer()
    strange, known = await finished(jobs, receiver, 2)
    async with Calling(jobs):
        await eventually(lambda: jobs.ended(known))
    assert [headers["webhook-id"] for headers, _ in receiver.calls] == [known]
    assert not any(one.id == strange for one in jobs.settled)
