"""What `Sqs` does while an SQS is away, silent, or fails in part."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator

import pytest
from tests.contract.brokers.moto_servers import REGION, MotoServer
from tests.contract.brokers.sqs import MovedClock, queues_of_its_own
from tests.contract.brokers.sqs_hands import connected, counts
from tests.contract.brokers.sqs_way import Way, through
from tests.contract.brokers.test_broker import (
    LEASE_S,
    PATIENCE_S,
    by_id,
    carried,
    leased,
    messages,
    nothing_to_lease,
    published,
)

from forebay.brokers.port import Delivery
from forebay.brokers.sqs import Sqs
from forebay.brokers.sqs_url import parse_url
from forebay.core.errors import DependencyError


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """Where queues are that nobody else has."""
    async with queues_of_its_own() as found:
        yield found


@pytest.fixture
async def way(url: str) -> AsyncIterator[Way]:
    """To the same server."""
    if not parse_url(url).endpoint:
        pytest.skip("what stands before AWS has no signatures that it takes")
    async with Way(parse_url(url).endpoint).serving() as found:
        yield found


@pytest.fixture(scope="module")
def server() -> Iterator[MotoServer]:
    """One that a test may kill."""
    with MotoServer() as started:
        yield started


async def reached(broker: Sqs) -> None:
    """Wait until SQS is known to be there again."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with contextlib.suppress(DependencyError):
                await broker.publish(())
                return
            await asyncio.sleep(0.01)


async def leased_again(broker: Sqs, count: int) -> list[Delivery]:
    """So many deliveries of a broker that may still have failures to tell of."""
    found: list[Delivery] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < count:
            with contextlib.suppress(DependencyError):
                found += await broker.lease(["q"], count - len(found), 0.2, LEASE_S)
            await asyncio.sleep(0.01)
    return found


# -- its end and its return -------------------------------------------------------------------------------------------


async def test_a_server_that_is_killed_is_used_again(server: MotoServer) -> None:
    async with connected(f"sqs://{REGION}/killed?poll=1&endpoint={server.endpoint}") as broker:
        await published(broker, messages(3))
        held = await leased(broker, 3)
        waiting = asyncio.create_task(broker.lease(["other"], 1, PATIENCE_S * 10, LEASE_S))
        await asyncio.sleep(0.3)
        await asyncio.to_thread(server.kill)
        with pytest.raises(DependencyError) as caught:
            await waiting
        assert caught.value.code == "broker_unavailable"
        for publish in ([], messages(1)):
            with pytest.raises(DependencyError):
                await broker.publish(publish)
        # Nobody can be told, and that costs nobody anything.
        await broker.ack(held[:1])
        await broker.release(held[1:])
        await asyncio.to_thread(server.start)
        # It has lost its queues, which are made anew.
        await reached(broker)
        await published(broker, messages(1, start=7))
        await broker.ack(await leased_again(broker, 1))


async def test_a_server_that_is_silent_is_noticed_and_used_again(server: MotoServer) -> None:
    async with connected(f"sqs://{REGION}/silent?poll=1&endpoint={server.endpoint}") as broker:
        await published(broker, messages(5))
        held = await leased(broker, 2)
        server.send(signal.SIGSTOP)
        try:
            async with asyncio.timeout(4 * PATIENCE_S):
                with pytest.raises(DependencyError):
                    await broker.publish(messages(1, start=5))
                with pytest.raises(DependencyError):
                    await broker.publish(())
                await broker.ack(held)
        finally:
            server.send(signal.SIGCONT)
        await reached(broker)
        assert len(await leased_again(broker, 3)) == 3


async def test_an_answer_that_is_lost_costs_no_message(way: Way, url: str) -> None:
    clock = MovedClock()
    async with connected(through(way, url), clock, pack_jobs=1) as broker:
        await published(broker, messages(2))
        way.lost += ["SendMessageBatch", "ReceiveMessage"]
        await published(broker, messages(1, start=2))
        got = await leased(broker, 1)
        while more := await broker.lease(["q"], 10, 0.5, LEASE_S):
            got += more
        # What the lost answer gave to nobody comes when its lease has ended; what was sent twice may come twice.
        await broker.ack(got)
        await clock.pass_s(LEASE_S + 1)
        while more := await broker.lease(["q"], 10, 0.5, LEASE_S):
            got += more
            await broker.ack(more)
        assert {delivery.message.id for delivery in got} == {message.id for message in messages(3)}
        await counts(url, "q-normal", 0)


async def test_a_call_to_a_fifo_queue_whose_answer_is_lost_makes_no_second_message() -> None:
    async with (
        queues_of_its_own(fifo="yes") as url,
        Way(parse_url(url).endpoint).serving() as way,
        connected(f"{through(way, url)}&fifo=yes", pack_jobs=1) as broker,
    ):
        await published(broker, messages(1))
        way.lost += ["SendMessageBatch"]
        await published(broker, messages(3, start=1))
        await counts(url, "q-normal.fifo", 4)
        # What is given back is not taken for a second of what was sent.
        held = await leased(broker, 4)
        await broker.release(held[:1])
        again = await leased(broker, 1)
        assert carried(again) == carried(held[:1])
        await broker.ack([*again, *held[1:]])
        await counts(url, "q-normal.fifo", 0)


# -- calls that fail in part ------------------------------------------------------------------------------------------


async def test_of_a_call_that_fails_in_part_the_rest_is_confirmed(way: Way, url: str) -> None:
    async with connected(through(way, url), pack_jobs=1) as broker:
        await published(broker, messages(1))
        way.failing["SendMessageBatch"] = [{"SenderFault": True, "Code": "Refused", "Message": "no"}]
        assert list(await broker.publish(messages(4, start=1))) == [False, True, True, True]
        # What is SQS's own fault is sent again.
        way.failing["SendMessageBatch"] = [{"SenderFault": False, "Code": "InternalError"}]
        assert list(await broker.publish(messages(4, start=5))) == [True] * 4
        way.failing["SendMessageBatch"] = [{"SenderFault": False, "Code": "InternalError"}] * 2
        assert list(await broker.publish(messages(2, start=9))) == [False, True]
        way.failing.clear()
        got = await leased(broker, 9)
        expected = [message for message in messages(11) if message.id not in ("q-1-1", "q-1-9")]
        assert by_id(carried(got)) == by_id(expected)


async def test_a_call_that_is_refused_is_not_taken_for_an_sqs_that_is_away(way: Way, url: str) -> None:
    async with connected(through(way, url)) as broker:
        await published(broker, messages(1))
        way.refusals["SendMessageBatch"] = ["RequestThrottled"] * 2
        with pytest.raises(DependencyError, match="RequestThrottled"):
            await broker.publish(messages(1, start=1))
        await broker.publish(())
        way.refusals["SendMessageBatch"] = []
        await published(broker, messages(1, start=2))
        way.refusals["ReceiveMessage"] = ["OverLimit"] * 20
        assert await nothing_to_lease(broker)
        way.refusals["ReceiveMessage"] = ["AccessDeniedException"] * 20
        with pytest.raises(DependencyError, match="allow sqs:GetQueueUrl, sqs:GetQueueAttributes, sqs:SendMessage"):
            await broker.lease(["q"], 1, 1.5, LEASE_S)
        way.refusals["ReceiveMessage"] = []
        assert len(await leased_again(broker, 2)) == 2


async def test_an_sqs_that_fails_itself_is_away_until_it_answers(way: Way, url: str) -> None:
    async with connected(through(way, url)) as broker:
        await published(broker, messages(1))
        way.refusals["SendMessageBatch"] = ["InternalFailure"] * 4
        way.refusals["GetQueueUrl"] = ["ServiceUnavailable"] * 4
        with pytest.raises(DependencyError):
            await broker.publish(messages(1, start=1))
        with pytest.raises(DependencyError):
            await broker.publish(())
        way.refusals.clear()
        await reached(broker)
        assert len(await leased_again(broker, 1)) == 1


async def test_what_cannot_be_deleted_comes_again(way: Way, url: str) -> None:
    clock = MovedClock()
    async with connected(through(way, url), clock) as broker:
        await published(broker, messages(3))
        way.refusals["DeleteMessageBatch"] = ["RequestThrottled"] * 2
        await broker.ack(await leased(broker, 3))
        way.refusals.clear()
        await clock.pass_s(LEASE_S + 1)
        await broker.ack(await leased(broker, 3))
        await counts(url, "q-normal", 0)


async def test_that_messages_may_not_be_deleted_or_given_back_is_said_once(
    way: Way, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock = MovedClock()
    async with connected(through(way, url), clock) as broker:
        await published(broker, messages(3))
        way.refusals["DeleteMessageBatch"] = ["AccessDeniedException"] * 2
        for _ in range(2):
            await broker.ack(await leased(broker, 3))
            await clock.pass_s(LEASE_S + 1)
        way.refusals["ChangeMessageVisibilityBatch"] = ["AccessDeniedException"]
        await broker.release(await leased(broker, 3))
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(said) == 2
    for words, name in zip(said, way.refusals, strict=True):
        assert "q-normal come again when their leases end" in words
        assert f"a permission is missing ({name}: AccessDeniedException" in words
