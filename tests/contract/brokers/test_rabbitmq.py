"""What `RabbitMq` promises beyond the contract of brokers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import pytest
from aiormq.channel import Channel
from tests.contract.brokers.rabbit import queues_of_its_own
from tests.contract.brokers.rabbit_nodes import RabbitNode
from tests.contract.brokers.test_broker import LEASE_S, PATIENCE_S, by_id, carried, leased, messages, published

from forebay.brokers import rabbitmq_inbox
from forebay.brokers.packs import unpacked
from forebay.brokers.port import PRIORITY_LEVELS, Delivery, Message
from forebay.brokers.rabbitmq import RabbitMq
from forebay.brokers.rabbitmq_inbox import AHEAD_BYTES, MOST_SENT
from forebay.brokers.rabbitmq_link import Session
from forebay.brokers.rabbitmq_queues import LEVELS
from forebay.core.errors import DependencyError, SetupError

RIGHTS = (r"^forebay\..*", r"^(forebay\..*|amq\.default)$", r"^forebay\..*")
"""Configure, write and read, as docs/rabbitmq.md names them."""
MOST_BYTES = 200_000
"""Of a message, at the node that tests start."""


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """Where queues are that nobody else has."""
    async with queues_of_its_own() as found:
        yield found


@pytest.fixture(scope="module")
def node() -> Iterator[RabbitNode]:
    """A node with users who lack something."""
    with RabbitNode(max_message_size=str(MOST_BYTES)) as started:
        started.control("add_user", "narrow", "s3cret")
        started.control("set_permissions", "narrow", *RIGHTS)
        started.control("add_user", "barred", "s3cret")
        started.control("add_user", "mute", "s3cret")
        started.control("set_permissions", "mute", RIGHTS[0], RIGHTS[2], RIGHTS[2])
        yield started


@contextlib.asynccontextmanager
async def connected(url: str, **more: int) -> AsyncIterator[RabbitMq]:
    broker = RabbitMq(url, **more)
    try:
        yield broker
    finally:
        await broker.close()


@contextlib.asynccontextmanager
async def by_hand(url: str) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    """A channel of an operator's."""
    async with await aio_pika.connect(url.partition("?")[0]) as connection:
        yield await connection.channel()


async def passed_over(message: object) -> None:
    """What comes stays where it is."""


def prefix_of(url: str) -> str:
    return url.partition("prefix=")[2]


async def count(url: str, name: str) -> int:
    async with by_hand(url) as channel:
        queue = await channel.declare_queue(f"{prefix_of(url)}.{name}", passive=True)
        return queue.declaration_result.message_count or 0


async def counts(url: str, name: str, number: int) -> None:
    """Wait until a queue holds so many messages that nobody has."""
    async with asyncio.timeout(PATIENCE_S):
        while await count(url, name) != number:
            await asyncio.sleep(0.02)


# -- setting up -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "vhost", "said"),
    [
        ("guest:wrong-s3cret", "", "refuses user 'guest' or the password; mend the broker's URL"),
        ("nobody:s3cret", "", "refuses user 'nobody' or the password"),
        ("guest:guest", "none", "it has no vhost 'none' (rabbitmqctl add_vhost none), or user"),
        ("barred:s3cret", "", "or user 'barred' may not use it (rabbitmqctl set_permissions -p / barred"),
        ("narrow:s3cret", "?prefix=other", "user 'narrow' lacks a permission"),
        ("mute:s3cret", "", "user 'mute' lacks a permission (ACCESS_REFUSED - write access to exchange 'amq.default'"),
    ],
)
async def test_what_an_operator_has_to_mend_is_said(node: RabbitNode, user: str, vhost: str, said: str) -> None:
    async with connected(f"amqp://{user}@127.0.0.1:{node.port}/{vhost}") as broker:
        with pytest.raises(SetupError) as caught:
            await broker.check()
        assert said in caught.value.message
        assert "s3cret" not in caught.value.message
        with pytest.raises(DependencyError) as refused:
            await broker.publish(messages(1))
        assert refused.value.code == "broker_unavailable"
        assert "s3cret" not in refused.value.message


async def test_a_user_with_the_rights_that_are_documented_is_enough(node: RabbitNode) -> None:
    async with connected(f"amqp://narrow:s3cret@127.0.0.1:{node.port}/") as broker:
        assert (await broker.check()).startswith("RabbitMQ ")
        await published(broker, messages(3))
        await broker.ack(await leased(broker, 3))
        assert (await broker.depth("q")).leased == -1


async def test_a_node_that_is_not_there_is_said_at_once(node: RabbitNode) -> None:
    async with connected("amqp://127.0.0.1:1/") as broker:
        with pytest.raises(DependencyError, match="cannot be reached") as caught:
            await broker.check()
        assert caught.value.code == "broker_unavailable"


async def test_why_the_broker_ended_a_connection_is_logged(node: RabbitNode, caplog: pytest.LogCaptureFixture) -> None:
    async with connected(f"amqp://mute:s3cret@127.0.0.1:{node.port}/") as broker:
        with pytest.raises(DependencyError, match="lacks a permission"):
            await broker.publish(messages(1))
        async with asyncio.timeout(PATIENCE_S):
            while "it is made anew" not in caplog.text:
                await asyncio.sleep(0.01)
    [told] = [record.message for record in caplog.records if "it is made anew" in record.message]
    assert "user 'mute' lacks a permission (ACCESS_REFUSED - write access to exchange 'amq.default'" in told


async def test_what_is_larger_than_the_broker_takes_is_told_as_that_and_costs_one_connection(
    node: RabbitNode, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(f"{node.url}?prefix=small", pack_bytes=1 << 20) as broker:
        half = [Message(f"half {number}", "q", b"x" * (MOST_BYTES // 2)) for number in range(3)]
        for _ in range(3):
            sent = [Message("large", "q", b"x" * MOST_BYTES), *messages(5), *half]
            assert list(await broker.publish(sent)) == [None, *[True] * 8]
    assert caplog.text.count("it is made anew") == 1
    assert "message size" in caplog.text
    assert caplog.text.count(f"takes messages of {MOST_BYTES} bytes at most") == 1


# -- its end and its return -------------------------------------------------------------------------------------------


async def test_a_node_that_is_killed_is_used_again_and_has_lost_nothing(node: RabbitNode) -> None:
    async with connected(f"{node.url}?prefix=killed") as broker:
        await published(broker, messages(40))
        held = await leased(broker, 10)
        waiting = asyncio.create_task(broker.lease(["other"], 1, PATIENCE_S * 10, LEASE_S))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(node.kill)
        with pytest.raises(DependencyError) as caught:
            await waiting
        assert caught.value.code == "broker_unavailable"
        for publish in ([], messages(1)):
            with pytest.raises(DependencyError):
                await broker.publish(publish)
        # They are somebody else's by now, and that costs nobody anything.
        await broker.ack(held[:5])
        await broker.release(held[5:])
        await asyncio.to_thread(node.start)
        found: list[Delivery] = []
        async with asyncio.timeout(PATIENCE_S):
            while len(found) < 40:
                with contextlib.suppress(DependencyError):
                    found += await broker.lease(["q"], 40 - len(found), 0.2, LEASE_S)
                await asyncio.sleep(0.01)
        assert by_id(carried(found)) == by_id(messages(40))
        await broker.ack(found)


async def test_a_connection_that_breaks_and_comes_back_is_no_failure_to_who_waits(node: RabbitNode) -> None:
    url = f"{node.url}?prefix=forebay.renewed"
    async with connected(url) as broker, connected(url) as other:
        waiting = asyncio.create_task(broker.lease(["q"], 1, PATIENCE_S, LEASE_S))
        await asyncio.sleep(0.2)
        await asyncio.to_thread(node.control, "close_all_connections", "enough")
        async with asyncio.timeout(PATIENCE_S):
            while not waiting.done():
                with contextlib.suppress(DependencyError):
                    await other.publish(messages(1))
                await asyncio.wait([waiting], timeout=0.1)
        assert len(waiting.result()) == 1


async def test_what_is_given_back_after_its_connection_broke_is_anybodys(node: RabbitNode) -> None:
    url = f"{node.url}?prefix=broken"
    async with connected(url) as broker, connected(url) as other:
        await published(broker, messages(6))
        held = await leased(broker, 6)
        assert broker._inbox is not None
        broker._inbox.session.end()
        # The pack comes again whole. Its jobs run, so each of its messages is acked unrun.
        await other.ack(await leased(other, 6))
        async with asyncio.timeout(PATIENCE_S):
            while broker._inbox.ended:
                await asyncio.sleep(0.01)
        await broker.ack(held[:4])
        await broker.release(held[4:])
        again = await leased(other, 2)
        assert by_id(carried(again)) == by_id(messages(2, start=4))
        await other.ack(again)


@pytest.mark.full
async def test_a_queue_that_does_not_answer_holds_up_no_other(node: RabbitNode) -> None:
    async with connected(f"{node.url}?prefix=dumb") as broker:
        await published(broker, messages(5))
        # Makes the two other queues. A node that is killed now may not know the last one ever again.
        await broker.release(await leased(broker, 5))
        await asyncio.to_thread(node.kill)
        await asyncio.to_thread(node.start)
        found: list[Delivery] = []
        async with asyncio.timeout(60):
            while len(found) < 5:
                with contextlib.suppress(DependencyError):
                    found += await broker.lease(["q"], 5, 0.2, LEASE_S)
                await asyncio.sleep(0.01)
        assert by_id(carried(found)) == by_id(messages(5))
        await broker.ack(found)


# -- its queues -------------------------------------------------------------------------------------------------------


async def test_what_cannot_be_read_is_kept_as_a_dead_letter_and_nothing_else_is(url: str) -> None:
    async with connected(url) as broker, by_hand(url) as channel:
        await published(broker, messages(2))
        name = f"{prefix_of(url)}.q.normal"
        for body in (b"", b"\xc1nonsense", b"\x90", b'{"id": 1}'):
            await channel.default_exchange.publish(aio_pika.Message(body), name)
        await published(broker, messages(2, start=2))
        await broker.ack(await leased(broker, 4))
        await counts(url, "dead", 4)
        await counts(url, "q.normal", 0)


async def test_what_no_job_is_found_for_can_be_made_a_dead_letter(url: str) -> None:
    async with connected(url) as broker, by_hand(url) as channel:
        assert list(await broker.bury(messages(2))) == [True, True]
        await counts(url, "dead", 2)
        dead = await channel.get_queue(f"{prefix_of(url)}.dead")
        assert unpacked((await dead.get(no_ack=True)).body, "q", 1) == messages(1)


async def test_what_is_given_back_again_and_again_is_not_a_dead_letter(url: str) -> None:
    async with connected(url) as broker:
        await published(broker, messages(1))
        for _ in range(30):
            await broker.release(await leased(broker, 1))
        await broker.ack(await leased(broker, 1))
        await counts(url, "q.normal", 0)
        assert await count(url, "dead") == 0


async def test_a_queue_that_is_deleted_is_made_anew(url: str) -> None:
    async with connected(url) as broker, by_hand(url) as channel:
        await published(broker, messages(1))
        await broker.ack(await leased(broker, 1))
        await channel.queue_delete(f"{prefix_of(url)}.q.normal")
        found: list[Delivery] = []
        async with asyncio.timeout(PATIENCE_S):
            while not found:
                # Until it is deleted everywhere, the broker may refuse to have it used, which costs the connection.
                with contextlib.suppress(DependencyError):
                    await broker.publish(messages(1))
                    found += await broker.lease(["q"], 1, 0.1, LEASE_S)
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("how", ["locked", "taken"])
async def test_a_queue_that_is_refused_holds_up_no_other(url: str, how: str, caplog: pytest.LogCaptureFixture) -> None:
    """One that is another connection's, and one that only another may consume from."""
    async with connected(url) as broker, by_hand(url) as channel:
        refused = await channel.declare_queue(f"{prefix_of(url)}.b.normal", durable=True, exclusive=how == "locked")
        if how == "taken":
            await refused.consume(passed_over, exclusive=True)
        confirmed = await broker.publish([*messages(2, "a"), *messages(1, "b")])
        assert list(confirmed) == [True, True, how == "taken"]
        await broker.ack(await leased(broker, 2, "b", "a"))
        for _ in range(3):
            assert not await broker.lease(["b", "a"], 1, 0.0, LEASE_S)
        await published(broker, messages(1, "a"))
        await broker.ack(await leased(broker, 1, "b", "a"))
        said = [record for record in caplog.records if "b.normal are taken; it is tried again" in record.message]
        assert len(said) == 1
        assert said[0].levelname == "ERROR"
        if how == "taken":
            await published(broker, messages(1, "b", level=0))
            await broker.ack(await leased(broker, 1, "b"))
            for level in LEVELS:
                other = await channel.declare_queue(f"{prefix_of(url)}.c.{level}", durable=True)
                await other.consume(passed_over, exclusive=True)
            with pytest.raises(DependencyError, match="lacks a permission"):
                await broker.lease(["c"], 1, 0.0, LEASE_S)


async def test_while_a_queue_does_not_answer_others_go_on_and_then_it_does_too(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers, consume = asyncio.Event(), Channel.basic_consume

    async def hangs(self: Channel, queue: str, *arguments: Any, **more: Any) -> Any:
        if queue.endswith(".low"):
            await answers.wait()
        return await consume(self, queue, *arguments, **more)

    async with connected(url) as broker:
        await published(broker, [*messages(3), *messages(2, level=2)])
        monkeypatch.setattr(Channel, "basic_consume", hangs)
        found = await leased(broker, 3)
        assert by_id(carried(found)) == by_id(messages(3))
        assert broker._inbox is not None
        session = broker._inbox.session
        answers.set()
        found += await leased(broker, 2)
        assert by_id(carried(found)) == by_id([*messages(3), *messages(2, level=2)])
        assert broker._inbox.session is session
        await broker.ack(found)
    assert not caplog.records


async def test_a_queue_that_never_answers_is_tried_every_two_minutes_and_costs_no_session(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried, consume = [], Channel.basic_consume

    async def hangs(self: Channel, queue: str, *arguments: Any, **more: Any) -> Any:
        if queue.endswith(".low"):
            tried.append(queue)
            await asyncio.Event().wait()
        return await consume(self, queue, *arguments, **more)

    monkeypatch.setattr(Session.call, "__defaults__", (1.0,))
    async with connected(url) as broker:
        await published(broker, messages(3))
        monkeypatch.setattr(Channel, "basic_consume", hangs)
        await broker.ack(await leased(broker, 3))
        assert broker._inbox is not None
        session = broker._inbox.session
        async with asyncio.timeout(PATIENCE_S):
            while not caplog.records:
                await asyncio.sleep(0.01)
        assert "q.low does not answer; others go on" in caplog.text
        for later_s, times in ((0, 1), (100, 1), (130, 2)):
            monkeypatch.setattr(broker._inbox._alone, "_clock", lambda later_s=later_s: time.monotonic() + later_s)
            assert not await broker.lease(["q"], 1, 0.1, LEASE_S)
            await published(broker, messages(1, start=later_s))
            await broker.ack(await leased(broker, 1))
            assert len(tried) == times
        assert broker._inbox.session is session


async def test_those_who_come_while_a_queue_is_being_made_are_served() -> None:
    """RabbitMQ shows a queue before it works: it refuses messages then, and breaks the connection of a consumer."""
    for _ in range(10):
        async with queues_of_its_own() as url, contextlib.AsyncExitStack() as stack:
            first, *others = [await stack.enter_async_context(connected(url)) for _ in range(4)]
            leasing = [asyncio.create_task(each.lease(["q"], 100, 0.5, LEASE_S)) for each in others]
            assert list(await first.publish(messages(1))) == [True]
            found = [delivery for lease in leasing for delivery in await lease]
            found += await first.lease(["q"], 1, 0.0 if found else PATIENCE_S, LEASE_S)
            assert len(found) == 1


async def test_a_queue_that_is_full_refuses(url: str) -> None:
    async with connected(f"{url}&max_length=5", pack_jobs=1) as broker:
        confirmed = [(await broker.publish(messages(1, start=number)))[0] for number in range(20)]
        assert confirmed[0]
        assert not confirmed[-1]
        assert len(await leased(broker, confirmed.count(True))) == confirmed.count(True)


async def test_a_queue_that_was_made_by_an_operator_is_used(url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with by_hand(url) as channel:
        await channel.declare_queue(f"{prefix_of(url)}.q.normal", durable=True, arguments={"x-queue-type": "quorum"})
    async with connected(url) as broker:
        await published(broker, messages(3))
        assert len(await leased(broker, 3)) == 3
    assert "was made otherwise" in caplog.text


# -- packs and what is sent ahead -------------------------------------------------------------------------------------


async def test_messages_of_one_call_share_packs_within_bounds(url: str) -> None:
    async with connected(url, pack_jobs=10, pack_bytes=100) as broker:
        await published(broker, messages(25))
        await counts(url, "q.normal", 3)
        await broker.ack(await leased(broker, 25))


async def test_of_a_pack_some_are_done_some_given_back_and_some_still_run(url: str) -> None:
    async with connected(url) as broker, connected(url) as other:
        await published(broker, messages(6))
        held = await leased(broker, 6)
        await broker.ack(held[:2])
        await broker.release(held[2:4])
        again = await leased(other, 2)
        assert by_id(carried(again)) == by_id(carried(held[2:4]))
        await broker.ack(held[4:])
        await other.ack(again)
        await counts(url, "q.normal", 0)
    await counts(url, "q.normal", 0)


async def test_what_was_sent_ahead_to_one_who_does_not_come_back_for_it_goes_to_others(url: str) -> None:
    async with connected(url, pack_jobs=1) as idle, connected(url, pack_jobs=1) as other:
        await published(other, messages(10))
        first = await leased(idle, 1)
        rest = await leased(other, 9)
        assert by_id(carried(first + rest)) == by_id(messages(10))


async def test_what_was_sent_ahead_goes_to_others_while_other_queues_are_leased(url: str) -> None:
    async with connected(url, pack_jobs=1) as mixed, connected(url, pack_jobs=1) as other:
        await published(other, messages(10, "a"))
        first = await leased(mixed, 1, "a", "b")
        waiting = asyncio.create_task(mixed.lease(["b"], 1, PATIENCE_S * 10, LEASE_S))
        rest = await leased(other, 9, "a")
        assert by_id(carried(first + rest)) == by_id(messages(10, "a"))
        await published(other, messages(1, "b"))
        await mixed.ack([*first, *await waiting])


async def test_of_large_messages_fewer_are_sent_ahead(url: str) -> None:
    async with connected(url) as broker:
        await published(broker, [Message(f"{number}", "q", b"x" * 150_000) for number in range(40)])
        async with asyncio.timeout(PATIENCE_S):
            for _ in range(40):
                await broker.ack(await leased(broker, 1))
        assert not await broker.lease(["q"], 2 * MOST_SENT, 0.0, LEASE_S)
        assert broker._inbox is not None
        ahead = [consumer.ahead for consumer in broker._inbox._consumers.values()]
        assert len(ahead) == 3
        assert max(ahead) * 150_000 <= 2 * AHEAD_BYTES


async def test_who_leases_while_consumers_end_is_sent_what_comes(url: str) -> None:
    async with connected(url) as broker, connected(url) as other:
        assert not await broker.lease(["q"], 1, 0.0, LEASE_S)
        for number in range(20):
            resting = asyncio.create_task(broker._rest(lambda name: name not in broker._leases))
            for _ in range(number % 4):
                await asyncio.sleep(0)
            waiting = asyncio.create_task(broker.lease(["q"], 1, PATIENCE_S * 10, LEASE_S))
            await broker._end(await resting)
            await published(other, messages(1, start=number))
            async with asyncio.timeout(PATIENCE_S):
                await broker.ack(await waiting)


async def test_canceling_a_lease_while_its_consumers_change_loses_nothing(url: str) -> None:
    async with connected(url, pack_jobs=1) as broker, connected(url, pack_jobs=1) as other:
        await published(other, messages(200))
        for turn in range(60):
            # Another number each time, so that consumers are replaced.
            leasing = asyncio.create_task(broker.lease(["q"], 1 + turn % 2 * 900, 0.0, LEASE_S))
            for _ in range(turn):
                await asyncio.sleep(0)
            leasing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await broker.release(await leasing)
        assert by_id(carried(await leased(other, 200))) == by_id(messages(200))


@pytest.mark.parametrize("pack_jobs", [1, 32])
async def test_any_number_may_be_held_at_once(url: str, pack_jobs: int) -> None:
    async with connected(url, pack_jobs=pack_jobs) as broker:
        await published(broker, messages(1500))
        held: list[Delivery] = []
        async with asyncio.timeout(PATIENCE_S):
            while len(held) < 1500:
                held += await broker.lease(["q"], 7, 1.0, LEASE_S)
        assert by_id(carried(held)) == by_id(messages(1500))
        await broker.ack(held)
        await counts(url, "q.normal", 0)


def test_a_url_shows_no_password() -> None:
    shown = RabbitMq("amqp://me:s3cret@host:1/v").address.shown
    assert urlsplit(shown).netloc == "host:1"


async def test_who_begins_is_given_what_is_urgent_first_however_late_it_comes(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbitmq_inbox, "SETTLE_S", PATIENCE_S)
    async with connected(url) as broker, connected(url) as other:
        await published(other, [message for level in (2, 1) for message in messages(2, level=level)])
        first = asyncio.ensure_future(broker.lease(["q"], 1, PATIENCE_S, LEASE_S))
        while broker._inbox is None or not all(broker._inbox._kept["q", level] for level in (1, 2)):
            await asyncio.sleep(0.01)
        await published(other, messages(1, level=0))
        assert [message.level for message in carried(list(await first))] == [0]


async def test_a_consumer_that_comes_back_is_not_waited_for(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does after each batch that takes long."""
    async with connected(url) as broker:
        await published(broker, messages(1))
        await broker.ack(await leased(broker, 1))
        inbox = broker._inbox
        assert inbox is not None
        while inbox._consumers:
            await asyncio.sleep(0.01)
        monkeypatch.setattr(rabbitmq_inbox, "SETTLE_S", 2 * PATIENCE_S)
        await published(broker, messages(1, start=1))
        assert len(await leased(broker, 1)) == 1
        assert len(inbox._consumers) == PRIORITY_LEVELS
