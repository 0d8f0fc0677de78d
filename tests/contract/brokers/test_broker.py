"""What every broker promises, as far as its kind can."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from tests.contract.brokers.connections import Service

from forebay.brokers.port import Broker, Capabilities, Delivery, Depth, Message
from forebay.core.errors import DependencyError

LEASE_S = 60.0
PATIENCE_S = 30.0


def messages(count: int, queue: str = "q", level: int = 1, start: int = 0) -> list[Message]:
    """Each with an id and a payload of its own."""
    return [
        Message(f"{queue}-{level}-{number}", queue, b"payload %d" % number, level)
        for number in range(start, start + count)
    ]


async def published(broker: Broker, sent: Sequence[Message]) -> None:
    """Hand over, and have it confirmed."""
    assert list(await broker.publish(sent)) == [True] * len(sent)


async def leased(broker: Broker, count: int, *queues: str) -> list[Delivery]:
    """So many deliveries, in the order in which they were given."""
    found: list[Delivery] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < count:
            found += await broker.lease(queues or ["q"], count - len(found), 1.0, LEASE_S)
    return found


async def nothing_to_lease(broker: Broker, *queues: str) -> bool:
    """Whether there is nothing to be had now."""
    return len(await broker.lease(queues or ["q"], 10, 0.0, LEASE_S)) == 0


def carried(deliveries: Sequence[Delivery]) -> list[Message]:
    """Their messages."""
    return [delivery.message for delivery in deliveries]


def by_id(sent: Sequence[Message]) -> list[Message]:
    """Sorted."""
    return sorted(sent, key=lambda message: message.id)


async def settles(broker: Broker, can: Capabilities, queue: str, waiting: int, leased: int) -> None:
    """Some brokers tell a moment later how much waits, some count packs, some do not tell what is leased."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            depth = await broker.depth(queue)
            right = depth.waiting == waiting if can.counts == "messages" else (depth.waiting > 0) == (waiting > 0)
            if right and depth.leased in (-1, leased):
                return
            await asyncio.sleep(0.01)


async def test_a_broker_says_what_its_kind_can_do(broker: Broker, can: Capabilities) -> None:
    assert broker.capabilities == can


async def test_messages_come_as_they_were_published(broker: Broker) -> None:
    sent = [
        Message("1", "q", b""),
        Message("2", "q", bytes(range(256)), 0),
        Message("3", "q", b"x" * 200_000, 2),
        Message("ünï", "q", b"\xff"),
    ]
    await published(broker, sent)
    assert by_id(carried(await leased(broker, 4))) == by_id(sent)
    assert await nothing_to_lease(broker)


async def test_higher_levels_come_first_and_each_in_its_order(broker: Broker, can: Capabilities) -> None:
    sent = [message for level in (2, 0, 1) for message in messages(5, level=level)]
    await published(broker, sent)
    got = carried(await leased(broker, 15))
    assert [message.level for message in got] == [0] * 5 + [1] * 5 + [2] * 5
    assert by_id(got) == by_id(sent)
    if can.orders:
        assert got == sorted(sent, key=lambda message: message.level)


async def test_queues_are_apart(broker: Broker) -> None:
    sent = {queue: messages(3, queue) for queue in "abc"}
    for queue in "abc":
        await published(broker, sent[queue])
    assert by_id(carried(await leased(broker, 6, "a", "c"))) == by_id(sent["a"] + sent["c"])
    assert await nothing_to_lease(broker, "a", "c", "none")
    assert by_id(carried(await leased(broker, 3, "b"))) == by_id(sent["b"])


async def test_no_more_come_than_asked_for(broker: Broker) -> None:
    await published(broker, messages(10))
    assert len(await broker.lease(["q"], 3, 1.0, LEASE_S)) <= 3
    assert list(await broker.lease(["q"], 0, 0.0, LEASE_S)) == []
    assert list(await broker.lease([], 3, 0.0, LEASE_S)) == []


async def test_nothing_published_is_nothing(broker: Broker) -> None:
    assert list(await broker.publish([])) == []
    await broker.extend([], LEASE_S)
    await broker.ack([])
    await broker.release([])
    assert await nothing_to_lease(broker)


async def test_who_waits_gets_a_message_when_it_comes(service: Service, broker: Broker) -> None:
    waiting = asyncio.create_task(leased(broker, 1))
    await asyncio.sleep(0.05)
    sent = messages(1)
    await published(await service.connect(), sent)
    assert carried(await waiting) == sent


async def test_who_waits_in_vain_gets_none(broker: Broker) -> None:
    assert list(await broker.lease(["q"], 1, 0.05, LEASE_S)) == []


async def test_canceling_a_lease_loses_no_message(service: Service, broker: Broker) -> None:
    other = await service.connect()
    got: list[Message] = []
    sent: list[Message] = []
    for turn in range(30):
        waiting = asyncio.create_task(broker.lease(["q"], 10, 1.0, LEASE_S))
        await asyncio.sleep(0.002 * (turn % 3))
        sent += messages(1, start=turn)
        await published(other, sent[-1:])
        waiting.cancel()
        try:
            got += carried(await waiting)
        except asyncio.CancelledError:
            pass
    got += carried(await leased(broker, len(sent) - len(got)))
    assert by_id(got) == by_id(sent)


async def test_consumers_side_by_side_get_each_message_once(service: Service) -> None:
    consumers = [await service.connect() for _ in range(4)]
    for consumer in consumers:
        assert await nothing_to_lease(consumer)
    await published(await service.connect(), messages(200))
    got: list[Delivery] = []

    async def work(consumer: Broker) -> None:
        while len(got) < 200:
            deliveries = await consumer.lease(["q"], 7, 0.05, LEASE_S)
            got.extend(deliveries)
            await consumer.ack(deliveries)

    async with asyncio.timeout(20):
        await asyncio.gather(*map(work, consumers))
    assert by_id(carried(got)) == by_id(messages(200))


async def test_what_is_acked_never_comes_again(service: Service, broker: Broker) -> None:
    await published(broker, messages(20))
    deliveries = await leased(broker, 20)
    await broker.ack(deliveries[:7])
    await broker.ack(deliveries[:12])
    await broker.ack(deliveries[12:])
    await broker.ack(deliveries)
    await service.pass_s(LEASE_S + 1)
    assert await nothing_to_lease(broker)
    await broker.close()
    assert await nothing_to_lease(await service.connect())


async def test_what_is_not_acked_comes_to_others(service: Service, broker: Broker, can: Capabilities) -> None:
    sent = messages(20)
    await published(broker, sent)
    deliveries = await leased(broker, 20)
    await broker.ack(deliveries[:5])
    await broker.close()
    if can.holds == "item":
        await service.pass_s(LEASE_S + 1)
    other = await service.connect()
    got = await leased(other, 15)
    assert by_id(carried(got)) == by_id(carried(deliveries[5:]))
    await other.ack(got)
    assert await nothing_to_lease(other)


async def test_an_ack_behind_one_that_is_missing_counts_unless_positions_do(
    service: Service, broker: Broker, can: Capabilities
) -> None:
    sent = [Message("same", "q", b"%d" % number) for number in range(5)]
    await published(broker, sent)
    deliveries = await leased(broker, 5)
    await broker.ack([deliveries[0], *deliveries[2:]])
    await broker.close()
    await service.pass_s(LEASE_S + 1)
    other = await service.connect()
    # Positions count packs; of one that is done with in part, the rest is sent anew.
    expected = sent[1:] if can.holds == "offset" and can.counts == "messages" else sent[1:2]
    await settles(other, can, "q", len(expected), 0)
    assert carried(await leased(other, len(expected))) == expected
    assert await nothing_to_lease(other)


async def test_a_held_message_is_nobody_elses_for_as_long_as_its_kind_holds(
    service: Service, broker: Broker, can: Capabilities
) -> None:
    other = await service.connect()
    await published(other, messages(1))
    [delivery] = await leased(broker, 1)
    for _ in range(3):
        await service.pass_s(LEASE_S - 15)
        if can.extends:
            await broker.extend([delivery], LEASE_S)
        assert await nothing_to_lease(broker)
        if can.holds != "offset":
            assert await nothing_to_lease(other)
    await service.pass_s(LEASE_S + 1)
    assert await nothing_to_lease(broker) == (can.holds != "item")


async def test_what_comes_after_a_lease_has_ended_takes_nothing_from_who_has_it_now(
    service: Service, broker: Broker, can: Capabilities
) -> None:
    if can.holds != "item":
        pytest.skip("its deliveries have no lease of their own")
    other = await service.connect()
    await published(broker, messages(8))
    late = await leased(broker, 8)
    await service.pass_s(LEASE_S + 1)
    now = await leased(other, 8)
    await broker.ack(late)
    await broker.release(late)
    await broker.extend(late, LEASE_S * 10)
    assert await nothing_to_lease(broker)
    await service.pass_s(LEASE_S + 1)
    assert by_id(carried(await leased(broker, 8))) == by_id(carried(now))


async def test_parts_that_change_hands_begin_where_all_before_is_acked(
    service: Service, broker: Broker, can: Capabilities
) -> None:
    if can.holds != "offset":
        pytest.skip("its queues have no parts")
    await published(broker, messages(40))
    first = await leased(broker, 40)
    other = await service.connect()
    async with asyncio.timeout(PATIENCE_S):
        while not (taken := await other.lease(["q"], 40, 1.0, LEASE_S)):
            pass
    assert len(taken) < 40
    await broker.ack(first)
    await broker.close()
    await other.close()
    rest = await leased(await service.connect(), len(taken))
    assert by_id(carried(rest)) == by_id(carried(taken))


async def test_what_is_given_back_is_anybodys_at_once(service: Service, broker: Broker, can: Capabilities) -> None:
    sent = messages(6)
    await published(broker, sent)
    deliveries = await leased(broker, 6)
    await broker.ack(deliveries[:2])
    await broker.release(deliveries[2:])
    taker = broker if can.holds == "offset" else await service.connect()
    again = await leased(taker, 4)
    assert by_id(carried(again)) == by_id(carried(deliveries[2:]))
    await broker.release(deliveries[2:])
    assert await nothing_to_lease(taker)
    await taker.ack(again)
    await broker.close()
    await service.pass_s(LEASE_S + 1)
    assert await nothing_to_lease(await service.connect())


async def test_giving_back_what_is_acked_does_nothing(broker: Broker) -> None:
    await published(broker, [Message("same", "q", b"%d" % number) for number in range(3)])
    deliveries = await leased(broker, 3)
    await broker.ack(deliveries[1:])
    await broker.release(deliveries[1:])
    assert await nothing_to_lease(broker)


async def test_depth_tells_what_waits_and_what_is_held(broker: Broker, can: Capabilities) -> None:
    assert await broker.depth("q") in (Depth(0, 0, 0), Depth(0, -1, 0), Depth(0, -1, -1))
    await published(broker, [message for level in range(3) for message in messages(4, level=level)])
    await published(broker, messages(2, "other"))
    await settles(broker, can, "q", 12, 0)
    assert (await broker.depth("q")).waiting_bytes in (-1, sum(len(message.payload) for message in messages(4)) * 3)
    deliveries = await leased(broker, 5)
    await settles(broker, can, "q", 7, 5)
    await broker.ack(deliveries[:2])
    await broker.release(deliveries[2:])
    await settles(broker, can, "q", 10, 0)
    await broker.ack(await leased(broker, 10))
    await settles(broker, can, "q", 0, 0)
    await settles(broker, can, "other", 2, 0)


async def test_a_closed_connection_refuses_and_others_go_on(service: Service, broker: Broker) -> None:
    other = await service.connect()
    waiting = asyncio.create_task(broker.lease(["q"], 1, PATIENCE_S * 10, LEASE_S))
    await asyncio.sleep(0.01)
    await broker.close()
    await broker.close()
    with pytest.raises(DependencyError):
        await asyncio.wait_for(waiting, PATIENCE_S)
    for publish in (messages(1), []):
        with pytest.raises(DependencyError) as caught:
            await broker.publish(publish)
        assert caught.value.code == "broker_unavailable"
    await published(other, messages(1))
    assert len(await leased(other, 1)) == 1
