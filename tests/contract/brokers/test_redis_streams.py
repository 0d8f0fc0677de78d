"""What `RedisStreams` promises when the way to its server, or what the server holds, is lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.contract.brokers.proxy import Proxy
from tests.contract.brokers.redis_streams import AGE, GROUP
from tests.contract.brokers.test_broker import LEASE_S, carried, leased, messages, nothing_to_lease, published
from tests.contract.jobs.redis_servers import Server, valkey

from forebay.brokers.port import Delivery, Depth, Message
from forebay.brokers.redis_link import RedisLink
from forebay.brokers.redis_streams import RedisStreams
from forebay.core.errors import DependencyError

STREAM = "forebay:{queues}:1:q"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(valkey()) as started:
        yield started


@pytest.fixture(autouse=True)
def empty(server: Server) -> None:
    server.ask("CONFIG", "SET", "maxmemory", "0")
    server.ask("FLUSHALL")


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="fbproxy") as name:
        yield Path(name)


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[RedisStreams]:
    """A broker on a link of its own."""
    link = RedisLink(url, code="broker_unavailable")
    broker = RedisStreams(link)
    try:
        yield broker
    finally:
        await broker.close()
        await link.close()


@pytest.fixture
async def broker(server: Server) -> AsyncIterator[RedisStreams]:
    async with connected(server.url) as one:
        yield one


@pytest.fixture
async def other(server: Server) -> AsyncIterator[RedisStreams]:
    async with connected(server.url) as one:
        yield one


@pytest.fixture
async def proxy(server: Server, folder: Path) -> AsyncIterator[Proxy]:
    async with Proxy(folder / "p", server.socket).serving() as one:
        yield one


async def test_what_waits_is_not_doubled_when_it_is_published_again(broker: RedisStreams) -> None:
    for _ in range(100):
        await published(broker, messages(3))
    assert await broker.depth("q") == Depth(3, -1, 0)
    deliveries = await leased(broker, 3)
    # One that somebody has may be lost with them, so that another is wanted.
    await published(broker, messages(3))
    assert carried(await leased(broker, 3)) == carried(deliveries)
    await broker.ack(deliveries)
    assert await broker.depth("q") == Depth(0, -1, 3)


async def test_what_was_removed_by_hand_can_be_published_again(server: Server, broker: RedisStreams) -> None:
    await published(broker, messages(3))
    server.ask("DEL", STREAM)
    await published(broker, messages(3))
    assert carried(await leased(broker, 3)) == messages(3)


async def test_a_lost_answer_to_a_publish_adds_nothing_when_it_is_repeated(proxy: Proxy, other: RedisStreams) -> None:
    async with connected(proxy.url) as broker:
        await published(broker, messages(1))
        proxy.lose_answer_to(b"payload 2")
        with pytest.raises(DependencyError) as caught:
            await broker.publish(messages(3))
        assert caught.value.code == "broker_unavailable"
        assert await other.depth("q") == Depth(3, -1, 0)
        await published(broker, messages(3))
        assert carried(await leased(other, 3)) == messages(3)
        assert await nothing_to_lease(other)


async def test_messages_of_a_lost_answer_are_not_lost(proxy: Proxy, other: RedisStreams) -> None:
    async with connected(proxy.url) as broker:
        await published(other, messages(5))
        [first] = await leased(broker, 1)
        proxy.lose_answer_to(b"EVALSHA")
        with pytest.raises(DependencyError):
            await broker.lease(["q"], 2, 0.0, LEASE_S)
        assert await other.depth("q") == Depth(2, -1, 3)
        again = await leased(broker, 4)
        assert carried([first, *again]) == messages(5)
        assert await nothing_to_lease(broker)
        assert await nothing_to_lease(other)


async def test_messages_of_a_waiting_read_that_broke_are_not_lost(proxy: Proxy, other: RedisStreams) -> None:
    async with connected(proxy.url) as broker:
        assert await nothing_to_lease(broker)
        proxy.lose_answer_to(b"BLOCK")
        waiting = asyncio.create_task(broker.lease(["q"], 2, 5.0, LEASE_S))
        await asyncio.sleep(0.1)
        await published(other, messages(1))
        with pytest.raises(DependencyError):
            await waiting
        assert proxy.lost.is_set()
        assert carried(await leased(broker, 1)) == messages(1)


async def test_a_read_that_breaks_after_its_caller_left_loses_nothing(proxy: Proxy, other: RedisStreams) -> None:
    async with connected(proxy.url) as broker:
        assert await nothing_to_lease(broker)
        proxy.lose_answer_to(b"BLOCK")
        waiting = asyncio.create_task(broker.lease(["q"], 2, 5.0, LEASE_S))
        await asyncio.sleep(0.1)
        waiting.cancel()
        await published(other, messages(1))
        await proxy.lost.wait()
        assert carried(await leased(broker, 1)) == messages(1)


async def test_what_came_for_a_caller_who_left_is_given_back_at_the_end(server: Server, other: RedisStreams) -> None:
    async with connected(server.url) as broker:
        waiting = asyncio.create_task(broker.lease(["q"], 2, 5.0, LEASE_S))
        await asyncio.sleep(0.1)
        waiting.cancel()
        await published(other, messages(1))
        async with asyncio.timeout(10):
            while await other.depth("q") != Depth(0, -1, 1):
                await asyncio.sleep(0.01)
    assert carried(await leased(other, 1)) == messages(1)


async def test_what_lay_here_too_long_and_went_to_another_is_not_given_out(
    server: Server, broker: RedisStreams, other: RedisStreams
) -> None:
    lease_s = 0.3
    waiting = asyncio.create_task(broker.lease(["q"], 9, 5.0, lease_s))
    await asyncio.sleep(0.1)
    waiting.cancel()
    await published(other, messages(2))
    await asyncio.sleep(lease_s)
    got: list[Delivery] = []
    async with asyncio.timeout(10):
        while len(got) < 2:
            got += await other.lease(["q"], 9, 0.1, lease_s)
            await other.extend(got, lease_s)
    assert list(await broker.lease(["q"], 9, 0.0, LEASE_S)) == []
    await other.ack(got)
    assert await other.depth("q") == Depth(0, -1, 0)


async def test_after_all_was_flushed_it_goes_on(server: Server, broker: RedisStreams, other: RedisStreams) -> None:
    await published(broker, messages(5))
    held = await leased(broker, 2)
    waiting = asyncio.create_task(leased(broker, 1, "q2"))
    await asyncio.sleep(0.1)
    server.ask("FLUSHALL")
    await broker.extend(held, LEASE_S)
    await broker.ack(held)
    await broker.release(held)
    assert await broker.depth("q") == Depth(0, -1, 0)
    assert await nothing_to_lease(broker)
    await published(other, messages(5))
    assert carried(await leased(broker, 5)) == messages(5)
    await published(other, messages(1, "q2"))
    assert carried(await waiting) == messages(1, "q2")


async def test_scripts_that_the_server_forgot_are_sent_again(server: Server, broker: RedisStreams) -> None:
    await published(broker, messages(1))
    server.ask("SCRIPT", "FLUSH")
    assert carried(await leased(broker, 1)) == messages(1)


async def test_who_waits_beside_another_waits_no_longer_than_asked(broker: RedisStreams, other: RedisStreams) -> None:
    long = asyncio.create_task(broker.lease(["q"], 1, 5.0, LEASE_S))
    await asyncio.sleep(0.05)
    assert list(await broker.lease(["q"], 1, 0.01, LEASE_S)) == []
    assert not long.done()
    await published(other, messages(1))
    assert carried(await long) == messages(1)


async def test_queues_take_their_turns(broker: RedisStreams) -> None:
    for queue in "abc":
        await published(broker, messages(30, queue))
    first = [(await broker.lease(["a", "b", "c"], 1, 0.0, LEASE_S))[0].message.queue for _ in range(6)]
    assert sorted(first) == ["a", "a", "b", "b", "c", "c"]


async def test_what_is_overdue_comes_though_there_is_always_new_work(
    server: Server, broker: RedisStreams, other: RedisStreams
) -> None:
    await published(other, messages(1))
    [lost] = await leased(other, 1)
    server.ask("EVAL", AGE, 1, STREAM, GROUP, int(LEASE_S * 1000) + 1)
    got: list[Message] = []
    async with asyncio.timeout(20):
        while lost.message not in got:
            await published(other, messages(10, start=len(got) + 100))
            deliveries = await broker.lease(["q"], 5, 0.0, LEASE_S)
            got += carried(deliveries)
            await broker.ack(deliveries)


async def test_consumers_that_ended_are_forgotten_but_not_what_they_held(server: Server, other: RedisStreams) -> None:
    def consumers() -> int:
        found = server.ask("XINFO", "CONSUMERS", STREAM, GROUP)
        assert isinstance(found, list)
        return len(found)

    await published(other, messages(2))
    async with connected(server.url) as broker:
        await leased(broker, 1)
    assert consumers() == 1
    async with connected(server.url) as broker:
        await broker.ack(await leased(broker, 1))
        assert consumers() == 2
    assert consumers() == 1
    server.ask("EVAL", AGE, 1, STREAM, GROUP, int(LEASE_S * 1000) + 1)
    assert len(await leased(other, 1)) == 1


async def test_where_memory_is_short_it_takes_no_more_and_finishes_what_it_has(
    server: Server, broker: RedisStreams
) -> None:
    await published(broker, messages(4))
    server.ask("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(DependencyError, match="maxmemory"):
        await broker.publish(messages(1, start=10))
    deliveries = await leased(broker, 4)
    await broker.extend(deliveries, LEASE_S)
    await broker.release(deliveries[:1])
    await broker.ack(deliveries[1:])
    assert await broker.depth("q") == Depth(1, -1, 0)


async def test_an_entry_that_is_not_ours_is_given_out_as_it_is(server: Server, broker: RedisStreams) -> None:
    assert await nothing_to_lease(broker)
    server.ask("XADD", STREAM, "*", "odd", b"\xff")
    [delivery] = await leased(broker, 1)
    assert delivery.message.payload == b""
    await broker.release([delivery])
    await broker.ack(await leased(broker, 1))
    assert await broker.depth("q") == Depth(0, -1, 0)


async def test_a_large_publish_goes_in_parts(broker: RedisStreams) -> None:
    sent = [Message(f"{number:04}", "q", b"x" * 20_000, number % 3) for number in range(700)]
    await published(broker, sent)
    got = carried(await leased(broker, 700))
    assert got == sorted(sent, key=lambda message: message.level)


async def test_a_ledger_holds_while_connections_break(server: Server, folder: Path, other: RedisStreams) -> None:
    """Everything confirmed is delivered, long before a lease would have ended, and nothing stays behind."""
    confirmed: set[str] = set()
    delivered: set[str] = set()
    over = asyncio.Event()

    async def submit(broker: RedisStreams, name: int) -> None:
        for number in range(150):
            one = Message(f"{name}-{number}", "q", b"x", number % 3)
            while True:
                try:
                    await broker.publish([one])
                    break
                except DependencyError:
                    await asyncio.sleep(0.005)
            confirmed.add(one.id)

    async def work(broker: RedisStreams) -> None:
        while not over.is_set():
            try:
                deliveries = await broker.lease(["q"], 8, 0.1, LEASE_S)
            except DependencyError:
                await asyncio.sleep(0.005)
                continue
            delivered.update(delivery.message.id for delivery in deliveries)
            while True:
                try:
                    await broker.ack(deliveries)
                    break
                except DependencyError:
                    await asyncio.sleep(0.005)

    async with Proxy(folder / "p", server.socket).serving() as proxy, contextlib.AsyncExitStack() as stack:
        brokers = [await stack.enter_async_context(connected(proxy.url)) for _ in range(6)]
        workers = [asyncio.create_task(work(broker)) for broker in brokers[:3]]
        submitters = asyncio.gather(*(submit(broker, name) for name, broker in enumerate(brokers[3:])))
        chance = random.Random(5)
        async with asyncio.timeout(60):
            while not submitters.done():
                await asyncio.sleep(chance.uniform(0.005, 0.03))
                proxy.cut()
            await submitters
            while delivered != confirmed or (await other.depth("q")) != Depth(0, -1, 0):
                await asyncio.sleep(0.02)
        over.set()
        await asyncio.gather(*workers)
    assert len(confirmed) == 450
