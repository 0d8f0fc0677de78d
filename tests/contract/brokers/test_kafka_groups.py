"""What becomes of the backlog of a `Kafka`, and of its partitions, while workers come and go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from tests.contract.brokers.kafka import Ends, topics_of_its_own
from tests.contract.brokers.kafka_hands import attentive, connected
from tests.contract.brokers.test_broker import LEASE_S, PATIENCE_S, by_id, carried, leased, messages, published

from forebay.brokers.kafka_parts import AHEAD_JOBS
from forebay.brokers.port import Broker, Delivery, Message


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """Where topics are that nobody else has."""
    async with topics_of_its_own() as found:
        yield found


@pytest.mark.parametrize("pack_jobs", [pytest.param(1, marks=pytest.mark.full), 32])
async def test_any_number_may_wait_and_be_held(url: str, pack_jobs: int) -> None:
    """More than is fetched ahead, so fetching pauses and goes on."""
    count = 2 * AHEAD_JOBS
    async with connected(url, pack_jobs) as broker:
        sent = messages(count)
        for begin in range(0, count, 4096):
            await published(broker, sent[begin : begin + 4096])
        held = await leased(broker, 1)
        inbox = broker._inboxes["q", 1]
        async with asyncio.timeout(PATIENCE_S):
            while not inbox._paused:
                await asyncio.sleep(0.01)
        async with asyncio.timeout(PATIENCE_S):
            while len(held) < count:
                held += await broker.lease(["q"], 500, 1.0, LEASE_S)
        assert by_id(carried(held)) == by_id(sent)
        await broker.ack(held)


async def test_of_a_backlog_each_partition_has_its_turn(url: str) -> None:
    """However much waits in the first of them, and however often fetching pauses: a worker that has taken as much as
    each has was given some of all of them."""
    count, each = 8 * AHEAD_JOBS, 2 * AHEAD_JOBS
    async with connected(f"{url}&partitions=4" if "?" in url else f"{url}?partitions=4") as broker:
        sent = messages(count)
        for begin in range(0, count, 4096):
            await published(broker, sent[begin : begin + 4096])
        seen: set[int] = set()
        taken = 0
        async with asyncio.timeout(PATIENCE_S):
            while taken < each:
                found = await broker.lease(["q"], 500, 1.0, LEASE_S)
                seen |= {delivery.receipt.pack.owner.place[1] for delivery in found}
                taken += len(found)
                await broker.ack(found)
        assert seen == {0, 1, 2, 3}


@pytest.mark.full
async def test_what_is_given_back_after_its_partition_went_is_anybodys(url: str) -> None:
    ends = Ends()
    async with attentive(url, ends) as broker, attentive(url, ends) as other:
        await published(broker, messages(40))
        held = await leased(broker, 40)
        # Who gets some of the partitions passes over what is there, since it runs here.
        passed: list[Delivery] = []
        async with asyncio.timeout(PATIENCE_S):
            while not passed:
                passed += await other.lease(["q"], 40, 1.0, LEASE_S)
        while more := await other.lease(["q"], 40, 0.0, LEASE_S):
            passed += more
        await other.ack(passed)
        await broker.release(held)
        again = await patiently_both(broker, other, 40)
        assert by_id(again) == by_id(messages(40))


async def patiently_both(one: Broker, other: Broker, count: int) -> list[Message]:
    """So many messages from either, each acked."""
    found: list[Message] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < count:
            for broker in (one, other):
                deliveries: Sequence[Delivery] = await broker.lease(["q"], count, 0.05, LEASE_S)
                await broker.ack(deliveries)
                found += carried(deliveries)
    return found


@pytest.mark.full
async def test_a_partition_that_was_full_when_it_went_flows_again_when_it_comes_back(url: str) -> None:
    count = 2 * AHEAD_JOBS
    async with connected(url) as broker:
        sent = messages(count)
        for begin in range(0, count, 4096):
            await published(broker, sent[begin : begin + 4096])
        held = await leased(broker, 1)
        inbox = broker._inboxes["q", 1]
        async with asyncio.timeout(2 * PATIENCE_S):
            while len(inbox._paused) < 4:
                await asyncio.sleep(0.01)
        async with connected(url) as guest:
            await leased(guest, 1)
            async with asyncio.timeout(PATIENCE_S):
                while len(inbox.parts.places()) == 4:
                    await asyncio.sleep(0.01)
        wanted = {message.id for message in sent}
        async with asyncio.timeout(3 * PATIENCE_S):
            while wanted:
                wanted.difference_update(delivery.message.id for delivery in held)
                await broker.ack(held)
                held = list(await broker.lease(["q"], 500, 1.0, LEASE_S))


@pytest.mark.full
@pytest.mark.timeout(180)
async def test_while_workers_come_and_go_work_goes_on_and_all_is_delivered(url: str) -> None:
    """One stays, others join and leave every two seconds, which is before a Tansu has given them anything. What comes
    twice was in hand when its partition went."""
    got, again, sent = set[str](), 0, 0

    async def work(broker: Broker) -> None:
        nonlocal again
        while True:
            deliveries = await broker.lease(["q"], 5, 0.2, LEASE_S)
            again += sum(each.message.id in got for each in deliveries)
            got.update(each.message.id for each in deliveries)
            await broker.ack(deliveries)

    async def publish() -> None:
        nonlocal sent
        while True:
            await published(broker, messages(8, start=sent))
            sent += 8
            await asyncio.sleep(0.1)

    async with connected(url) as broker:
        first = asyncio.create_task(work(broker))
        publishing = asyncio.create_task(publish())
        async with asyncio.timeout(PATIENCE_S):
            while not got:
                await asyncio.sleep(0.05)
        for _ in range(5):
            before = len(got)
            async with connected(url) as guest:
                working = asyncio.create_task(work(guest))
                await asyncio.sleep(2.0)
                working.cancel()
                await asyncio.wait([working])
            await asyncio.sleep(2.0)
            assert len(got) > before
        publishing.cancel()
        await asyncio.wait([publishing])
        async with asyncio.timeout(2 * PATIENCE_S):
            while len(got) < sent:
                await asyncio.sleep(0.05)
        first.cancel()
        await asyncio.wait([first])
        # Of each of four partitions, what was delivered within the time between two commits.
        assert again <= sent // 4
