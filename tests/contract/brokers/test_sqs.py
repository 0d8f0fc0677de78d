"""What `Sqs` promises beyond the contract of brokers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
from tests.contract.brokers.moto_servers import shared_server
from tests.contract.brokers.sqs import MovedClock, by_hand, queues_of_its_own
from tests.contract.brokers.sqs_hands import bodies, connected, counts, queue_url
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

from forebay.brokers.port import Delivery, Message
from forebay.brokers.sqs_queues import RETENTION_S, queue_name
from forebay.brokers.sqs_url import parse_url
from forebay.core.errors import DependencyError, SetupError


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


# -- its queues -------------------------------------------------------------------------------------------------------


async def test_queues_are_made_with_what_they_need(url: str) -> None:
    async with connected(url) as broker, by_hand(url) as client:
        assert (await broker.check()).startswith("SQS (http://127.0.0.1:" if shared_server() else "SQS (")
        await published(broker, messages(1))
        queue = await queue_url(url, "q-normal")
        told = (await client.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"]))["Attributes"]
        assert int(told["MessageRetentionPeriod"]) == RETENTION_S
        assert "RedrivePolicy" not in told


async def test_queues_are_not_made_where_that_is_not_wanted(url: str) -> None:
    async with connected(f"{url}&create=no") as broker, by_hand(url) as client:
        with pytest.raises(SetupError, match=r"a queue is missing .* and create=no: make it"):
            await broker.check()
        with pytest.raises(DependencyError, match="and create=no: make it"):
            await broker.publish(messages(1))
        for name in ("dead", "q-high", "q-normal", "q-low"):
            await client.create_queue(QueueName=f"{parse_url(url).prefix}-{name}")
        await broker.check()
        await published(broker, messages(1))
        assert len(await leased(broker, 1)) == 1


async def test_a_queue_that_is_refused_holds_up_no_other(url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with connected(f"{url}&create=no") as broker, by_hand(url) as client:
        for name in ("dead", "q-high", "q-normal", "q-low"):
            await client.create_queue(QueueName=f"{parse_url(url).prefix}-{name}")
        assert list(await broker.publish([*messages(1, "bad"), *messages(2)])) == [False, True, True]
        await broker.ack(await leased(broker, 2, "bad", "q"))
        for wait_s in (0.0, 0.1, 0.1):
            # What is known to be empty is not looked at again: then it is the one that is refused which is asked alone.
            assert not await broker.lease(["bad", "q"], 1, wait_s, LEASE_S)
        waiting = asyncio.create_task(broker.lease(["bad", "q"], 1, PATIENCE_S, LEASE_S))
        await asyncio.sleep(0.05)
        await published(broker, messages(1))
        await broker.ack(await waiting)
        for said in ("bad-normal are taken; it is tried again, others go on", "bad-normal are not sent"):
            assert caplog.text.count(said) == 1
        with pytest.raises(DependencyError, match="a queue is missing"):
            await broker.lease(["bad"], 1, PATIENCE_S, LEASE_S)


async def test_what_cannot_be_read_is_kept_as_a_dead_letter_and_nothing_else_is(url: str) -> None:
    async with connected(url) as broker, by_hand(url) as client:
        await published(broker, messages(2))
        nonsense = ["x", "fb1.", "fb1.*", "fb1.kA==", "fb1z.", "fb1z.!!", '{"id": 1}']
        queue = await queue_url(url, "q-normal")
        for body in nonsense:
            await client.send_message(QueueUrl=queue, MessageBody=body)
        await published(broker, messages(2, start=2))
        await broker.ack(await leased(broker, 4))
        await counts(url, "q-normal", 0)
        assert sorted(await bodies(url, "dead")) == sorted(nonsense)
        # What looks like a job, and turns out to be none, is kept by who leases it.
        assert list(await broker.bury(messages(1))) == [True]
        await counts(url, "dead", len(nonsense) + 1)


async def test_what_is_given_back_again_and_again_is_not_a_dead_letter(url: str) -> None:
    async with connected(url) as broker:
        await broker.check()
        await published(broker, messages(1))
        for _ in range(30):
            await broker.release(await leased(broker, 1))
        await broker.ack(await leased(broker, 1))
        await counts(url, "q-normal", 0)
        await counts(url, "dead", 0)


async def test_a_queue_with_a_redrive_policy_that_takes_jobs_away_is_warned_of(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(url) as broker, by_hand(url) as client:
        await broker.check()
        dead = await queue_url(url, "dead")
        arn = (await client.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"]))["Attributes"]["QueueArn"]
        policy = f'{{"deadLetterTargetArn": "{arn}", "maxReceiveCount": "3"}}'
        name = f"{parse_url(url).prefix}-q-normal"
        await client.create_queue(QueueName=name, Attributes={"RedrivePolicy": policy})
        await published(broker, messages(1))
        assert f"queue {name} has a redrive policy with maxReceiveCount 3" in caplog.text


async def test_a_queue_that_is_deleted_is_made_anew(url: str) -> None:
    async with connected(url) as broker, by_hand(url) as client:
        await published(broker, messages(1))
        await broker.ack(await leased(broker, 1))
        await client.delete_queue(QueueUrl=await queue_url(url, "q-normal"))
        await published(broker, messages(1, start=1))
        assert len(await leased(broker, 1)) == 1
        await client.delete_queue(QueueUrl=await queue_url(url, "q-normal"))
        assert (await broker.depth("q")).waiting == 0


async def test_models_of_any_name_have_queues_of_their_own(url: str) -> None:
    names = ["m", "m.1", "m_1", "ünï/x", "n" * 100, "n" * 101]
    address = parse_url(url)
    assert len({queue_name(address, (name, 1)) for name in names}) == len(names)
    async with connected(url) as broker:
        await published(broker, [Message(name, name, b"x") for name in names])
        for name in names:
            assert [one.id for one in carried(await leased(broker, 1, name))] == [name]


# -- packs and leases -------------------------------------------------------------------------------------------------


async def test_messages_of_one_call_share_packs_within_bounds(url: str) -> None:
    async with connected(url, pack_jobs=10, pack_bytes=100) as broker:
        await published(broker, messages(25))
        await counts(url, "q-normal", 3)
        await broker.ack(await leased(broker, 25))
        await counts(url, "q-normal", 0)
    async with connected(url) as broker:
        await published(broker, [Message(f"{number:036}", "q", b"x" * 1400) for number in range(64)])
        found = await bodies(url, "q-normal")
        assert 1 < len(found) <= 3
        assert max(map(len, found)) <= 64 << 10


async def test_large_messages_travel_as_far_as_a_queue_takes_them(url: str) -> None:
    noise = random.Random(1).randbytes
    async with connected(url) as broker, by_hand(url) as client:
        small = {"MaximumMessageSize": str(256 << 10)}
        await client.create_queue(QueueName=f"{parse_url(url).prefix}-q-normal", Attributes=small)
        sent = [
            Message("incompressible", "q", noise(205_000)),
            Message("compressible", "q", b"x" * 2_000_000),
            Message("too large", "q", noise(300_000)),
            *messages(3),
        ]
        assert list(await broker.publish(sent)) == [True, True, None, True, True, True]
        assert by_id(carried(await leased(broker, 5))) == by_id([*sent[:2], *sent[3:]])


async def test_in_a_queue_of_small_messages_each_that_fits_is_carried(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    noise = random.Random(1).randbytes
    async with connected(url) as broker, by_hand(url) as client:
        small = {"MaximumMessageSize": "1024"}
        await client.create_queue(QueueName=f"{parse_url(url).prefix}-q-normal", Attributes=small)
        sent = [Message(f"{number}", "q", noise(5_000 if number == 3 else 300)) for number in range(10)]
        for _ in range(2):
            assert list(await broker.publish(sent)) == [None if message.id == "3" else True for message in sent]
        assert len(await leased(broker, 18)) == 18
    assert caplog.text.count("travel by their ids alone; raise its MaximumMessageSize") == 1


async def test_a_message_that_a_queue_no_longer_takes_is_told_as_too_large(way: Way, url: str) -> None:
    async with connected(through(way, url)) as broker:
        words = "One or more parameters are invalid. Reason: Message must be shorter than 1024 bytes."
        refusal = {"SenderFault": True, "Code": "InvalidParameterValue", "Message": words}
        way.failing["SendMessageBatch"] = [refusal]
        assert list(await broker.publish(messages(1))) == [None]
        assert list(await broker.publish(messages(1))) == [True]
        assert way.seen.count("GetQueueAttributes") == 2


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
        await counts(url, "q-normal", 0)


async def test_a_pack_is_held_until_the_last_of_it_is_done(url: str) -> None:
    clock = MovedClock()
    async with connected(url, clock) as broker, connected(url, clock) as other:
        await published(broker, messages(6))
        held = await leased(broker, 6)
        for number in range(5):
            await clock.pass_s(LEASE_S - 15)
            await broker.extend(held[number:], LEASE_S)
            await broker.ack(held[number : number + 1])
        await clock.pass_s(LEASE_S - 15)
        assert await nothing_to_lease(other)
        await broker.ack(held[5:])
        await counts(url, "q-normal", 0)


async def test_leases_of_one_pack_are_renewed_by_one_call(way: Way, url: str) -> None:
    clock = MovedClock()
    async with connected(through(way, url), clock) as broker:
        await published(broker, messages(30))
        held = await leased(broker, 30)
        await clock.pass_s(20)
        for delivery in held:
            await broker.extend([delivery], LEASE_S)
        await broker.extend(held, LEASE_S)
        assert way.seen.count("ChangeMessageVisibilityBatch") == 1


async def test_what_was_received_by_one_who_does_not_come_back_for_it_goes_to_others(url: str) -> None:
    async with connected(url) as idle, connected(url) as other:
        await published(other, messages(10))
        first = await leased(idle, 1)
        rest = await leased(other, 9)
        assert by_id(carried(first + rest)) == by_id(messages(10))
        await idle.ack(first)
        await other.ack(rest)
        await counts(url, "q-normal", 0)


async def test_what_comes_after_a_lease_was_canceled_goes_to_others(url: str) -> None:
    async with connected(url.replace("poll=1", "poll=3")) as gone, connected(url) as other:
        assert await nothing_to_lease(gone)
        waiting = asyncio.create_task(gone.lease(["q"], 10, PATIENCE_S, LEASE_S))
        await asyncio.sleep(0.3)
        waiting.cancel()
        await published(other, messages(3))
        assert by_id(carried(await leased(other, 3))) == by_id(messages(3))


async def test_what_waits_is_waited_for_by_few_calls(way: Way, url: str) -> None:
    async with connected(through(way, url)) as broker:
        assert not await broker.lease(["q"], 1, 1.5, LEASE_S)
        way.seen.clear()
        for _ in range(50):
            assert not await broker.lease(["q"], 1, 0.02, LEASE_S)
        assert way.seen.count("ReceiveMessage") <= 9


async def test_calls_are_counted_as_they_are_made_and_as_they_are_billed(way: Way, url: str) -> None:
    async with connected(through(way, url), pack_jobs=1) as broker:
        await published(broker, messages(1))
        await broker.ack(await leased(broker, 1))
        assert sum(broker.link.calls.values()) == len(way.seen)
        assert broker.link.billed == broker.link.calls
        way.refusals["SendMessageBatch"] = ["ServiceUnavailable"]
        # As text it has 200,004 bytes, which is more than three times 64 KiB.
        await published(broker, [Message("large", "q", b"x" * 149_950)])
        await broker.ack(await leased(broker, 1))
        assert sum(broker.link.calls.values()) == len(way.seen)
        assert broker.link.billed["SendMessageBatch"] == 1 + 1 + 4
        assert broker.link.billed["ReceiveMessage"] == broker.link.calls["ReceiveMessage"] + 3


@pytest.mark.parametrize("pack_jobs", [1, 32])
async def test_any_number_may_be_held_at_once(url: str, pack_jobs: int) -> None:
    async with connected(url, pack_jobs=pack_jobs) as broker:
        await published(broker, messages(300))
        held: list[Delivery] = []
        async with asyncio.timeout(4 * PATIENCE_S):
            while len(held) < 300:
                held += await broker.lease(["q"], 7, 1.0, LEASE_S)
        assert by_id(carried(held)) == by_id(messages(300))
        await broker.ack(held)
        await counts(url, "q-normal", 0)
