"""What `Kafka` promises beyond the contract of brokers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from tests.contract.brokers.kafka import topics_of_its_own
from tests.contract.brokers.kafka_hands import connected, host_of, patiently, positions, read, topic_of
from tests.contract.brokers.tansu import OPTIONS, Tansu
from tests.contract.brokers.test_broker import LEASE_S, PATIENCE_S, by_id, carried, leased, messages, published

from forebay.brokers import kafka_sending
from forebay.brokers.kafka import PACK_JOBS, SPREAD_JOBS, STEADY_S
from forebay.brokers.packs import unpacked
from forebay.brokers.port import Delivery, Message
from forebay.core.errors import DependencyError, SetupError


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """Where topics are that nobody else has."""
    async with topics_of_its_own() as found:
        yield found


@pytest.fixture
def tansu() -> Iterator[Tansu]:
    """One that the test may kill."""
    with Tansu() as started:
        yield started


# -- setting up -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mechanism",
    [
        pytest.param("PLAIN", marks=pytest.mark.full),
        pytest.param("SCRAM-SHA-256", marks=pytest.mark.full),
        "SCRAM-SHA-512",
    ],
)
async def test_who_is_refused_is_told_what_to_mend(mechanism: str) -> None:
    with Tansu("--authentication") as strict:
        async with connected(f"kafka://me:s3cret@{strict.host}/?mechanism={mechanism}") as broker:
            with pytest.raises(SetupError) as caught:
                await broker.check()
            assert f"it refuses user 'me', the password, or mechanism {mechanism}" in caught.value.message
            assert "s3cret" not in caught.value.message
            with pytest.raises(DependencyError) as refused:
                await broker.publish(messages(1))
            assert refused.value.code == "broker_unavailable"
            assert "s3cret" not in refused.value.message


async def test_certificates_that_are_not_there_are_named(tmp_path: Path) -> None:
    async with connected(f"kafkas://me:s3cret@127.0.0.1:1/?cafile={tmp_path}/none.pem") as broker:
        with pytest.raises(SetupError, match=r"cafile names no file: .*none\.pem") as caught:
            await broker.check()
        assert "s3cret" not in caught.value.message


@pytest.mark.full
async def test_a_topic_that_is_missing_is_named_where_none_may_be_created(url: str) -> None:
    async with connected(f"{url}&create=no") as broker:
        with pytest.raises(SetupError, match=r"a topic is missing \(.*\.dead\); create it as docs/kafka.md says"):
            await broker.check()
        with pytest.raises(DependencyError, match=r"q\.normal") as caught:
            await broker.publish(messages(1))
        assert caught.value.code == "broker_unavailable"
        with pytest.raises(DependencyError, match=r"a topic is missing"):
            await broker.lease(["q"], 1, 0.0, LEASE_S)
    async with connected(url) as other:
        await published(other, [message for level in range(3) for message in messages(1, "good", level=level)])
    async with connected(f"{url}&create=no") as broker:
        assert list(await broker.publish([*messages(1), *messages(1, "good")])) == [False, True]
        await broker.ack(await leased(broker, 4, "q", "good"))
    async with connected(url) as other:
        assert (await other.check()).startswith("Kafka, cluster ")
        await published(other, [*messages(1), *messages(1, level=0), *messages(1, level=2)])
    async with connected(f"{url}&create=no") as broker:
        await broker.check()
        await published(broker, messages(1, start=1))
        await broker.ack(await leased(broker, 4))


async def test_a_broker_that_is_not_there_is_said_at_once() -> None:
    async with connected("kafka://127.0.0.1:1") as broker:
        with pytest.raises(DependencyError, match="cannot be reached") as caught:
            await broker.check()
        assert caught.value.code == "broker_unavailable"


# -- its end and its return -------------------------------------------------------------------------------------------


async def test_a_broker_that_is_killed_is_used_again_by_those_who_wait_for_it(tansu: Tansu) -> None:
    """A Tansu has lost all that it held by then: topics, groups, and what it knew of its producers."""
    async with connected(f"{tansu.url}?{OPTIONS}") as broker, connected(f"{tansu.url}?{OPTIONS}") as other:
        await published(broker, messages(40))
        held = await leased(broker, 10)
        waiting = asyncio.create_task(broker.lease(["other"], 1, PATIENCE_S * 10, LEASE_S))
        await asyncio.sleep(0.5)
        await asyncio.to_thread(tansu.kill)
        with pytest.raises(DependencyError) as caught:
            await asyncio.wait_for(waiting, PATIENCE_S)
        assert caught.value.code == "broker_unavailable"
        async with asyncio.timeout(PATIENCE_S):
            for publish in ([], messages(1)):
                with pytest.raises(DependencyError):
                    await broker.publish(publish)
        # They are here again, for they could not be sent anew.
        await broker.ack(held[:5])
        await broker.release(held[5:])
        tansu.begin()
        await asyncio.to_thread(tansu.wait)
        sent: list[Message] = []
        async with asyncio.timeout(PATIENCE_S):
            while not sent:
                with contextlib.suppress(DependencyError):
                    batch = messages(5, start=100)
                    # Confirmed as soon as they can be reached: topics and producer are made anew.
                    assert all(await other.publish(batch))
                    sent = batch
                await asyncio.sleep(0.01)
        wanted = {message.id for message in sent}
        async with asyncio.timeout(2 * PATIENCE_S):
            while wanted:
                for delivery in await patiently(broker, 1):
                    wanted.discard(delivery.message.id)
                    await broker.ack([delivery])


async def test_who_suspects_the_brokers_finds_them_again_though_no_new_producer_can_be_made(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def cannot_be_made(settings: object, logger: object) -> None:
        raise KafkaException(KafkaError(KafkaError._CRIT_SYS_RESOURCE, "no more threads"))

    async with connected(url) as broker:
        await published(broker, messages(1))
        monkeypatch.setattr(kafka_sending, "Producer", cannot_be_made)
        for number in range(1, 3):
            broker._link.blame(KafkaError(KafkaError._ALL_BROKERS_DOWN))
            await asyncio.sleep(0)
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    with contextlib.suppress(DependencyError):
                        await published(broker, messages(1, start=number))
                        break
        assert caplog.text.count("no new producer can be made, so the old one goes on") == 1
        assert "no more threads" in caplog.text


@pytest.mark.full
async def test_a_silent_broker_keeps_nobody_waiting(tansu: Tansu) -> None:
    async with connected(f"{tansu.url}?{OPTIONS}") as broker:
        await published(broker, messages(1))
        tansu.send(signal.SIGSTOP)
        try:
            async with asyncio.timeout(PATIENCE_S):
                with contextlib.suppress(DependencyError):
                    assert not any(await broker.publish(messages(3, start=1)))
                while True:
                    try:
                        await broker.publish(())
                    except DependencyError:
                        break
                    await asyncio.sleep(0.05)
        finally:
            tansu.send(signal.SIGCONT)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with contextlib.suppress(DependencyError):
                    if all(await broker.publish(messages(1, start=9))):
                        break
                await asyncio.sleep(0.05)


# -- topics and offsets -----------------------------------------------------------------------------------------------


async def test_what_cannot_be_read_is_kept_as_a_dead_letter_and_nothing_else_is(url: str) -> None:
    bodies = [b"\xc1nonsense", b"\x90", b'{"id": 1}']
    async with connected(url) as broker:
        await published(broker, messages(2))
        sender = Producer({"bootstrap.servers": host_of(url)})
        for body in bodies:
            sender.produce(topic_of(url, "q.normal"), body, partition=0)
        assert sender.flush(PATIENCE_S) == 0
        await published(broker, messages(2, start=2))
        await broker.ack(await leased(broker, 4))
        assert sorted(await asyncio.to_thread(read, url, "dead", 3)) == sorted(bodies)
        # What looks like a job, and turns out to be none, is kept by who leases it.
        assert list(await broker.bury(messages(1))) == [True]
        assert unpacked((await asyncio.to_thread(read, url, "dead", 4))[3], "q", 1) == messages(1)
        async with asyncio.timeout(PATIENCE_S):
            while sum(await asyncio.to_thread(positions, url, "q.normal")) < 5:
                await asyncio.sleep(0.05)


async def test_what_cannot_be_read_and_is_too_large_for_a_dead_letter_holds_up_no_position(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(url) as broker:
        await published(broker, messages(1))
        sender = Producer({"bootstrap.servers": host_of(url), "message.max.bytes": 2_000_000})
        sender.produce(topic_of(url, "q.normal"), b"\xc1" * 1_500_000, partition=0)
        assert sender.flush(PATIENCE_S) == 0
        await broker.ack(await leased(broker, 1))
        async with asyncio.timeout(PATIENCE_S):
            while sum(await asyncio.to_thread(positions, url, "q.normal")) < 2:
                await asyncio.sleep(0.05)
    assert caplog.text.count("is no job, and too large for a dead letter") == 1


async def test_a_burst_is_for_many_workers_and_what_follows_at_once_travels_in_whole_packs(url: str) -> None:
    now = [100.0]
    async with connected(url, clock=lambda: now[0]) as broker:

        async def packs(queue: str, start: int) -> int:
            """Of 32 messages that are published now."""
            before = (await broker.depth(queue)).waiting
            await published(broker, messages(32, queue, start=start))
            return (await broker.depth(queue)).waiting - before

        assert (await packs("q", 0), await packs("q", 32)) == (32 // SPREAD_JOBS, 32 // PACK_JOBS)
        assert await packs("other", 0) == 32 // SPREAD_JOBS, "what keeps coming for one model makes no other's steady"
        now[0] += 2 * STEADY_S
        assert await packs("q", 64) == 32 // SPREAD_JOBS


async def test_a_slow_job_holds_the_position_and_not_those_behind_it(url: str) -> None:
    one_after_the_other = [Message("same", "q", b"%d" % number) for number in range(30)]
    async with connected(url, pack_jobs=1) as broker:
        await published(broker, one_after_the_other)
        slow, *others = await leased(broker, 30)
        await broker.ack(others)
        await published(broker, [Message("same", "q", b"later")])
        [later] = await leased(broker, 1)
        await broker.ack([later])
        # What another's clean end would show: all of it comes again.
        assert sum(await asyncio.to_thread(positions, url, "q.normal")) == 0
        await broker.ack([slow])
        async with asyncio.timeout(PATIENCE_S):
            while sum(await asyncio.to_thread(positions, url, "q.normal")) < 31:
                await asyncio.sleep(0.05)


async def test_of_a_pack_some_are_done_some_given_back_and_some_still_run(url: str) -> None:
    async with connected(url) as broker:
        await published(broker, messages(6))
        held = await leased(broker, 6)
        await broker.ack(held[:2])
        await broker.release(held[2:4])
        again = await leased(broker, 2)
        assert by_id(carried(again)) == by_id(carried(held[2:4]))
        await broker.ack(held[4:])
        await broker.ack(again)
    assert sum(await asyncio.to_thread(positions, url, "q.normal")) == 2


@pytest.mark.full
async def test_a_topic_that_is_deleted_is_made_anew(url: str) -> None:
    """Nobody fetches from it meanwhile: to who does, a Tansu answers without the topic's id, and librdkafka 2.5 to 2.16
    ends the whole process with SIGSEGV."""
    async with connected(url) as broker:
        await published(broker, messages(1))
        admin = AdminClient({"bootstrap.servers": host_of(url)})
        name = topic_of(url, "q.normal")
        admin.delete_topics([name])[name].result(PATIENCE_S)
        found: list[Delivery] = []
        async with asyncio.timeout(2 * PATIENCE_S):
            while not found:
                with contextlib.suppress(DependencyError):
                    await broker.publish(messages(1, start=1))
                    found += await broker.lease(["q"], 1, 0.5, LEASE_S)
                await asyncio.sleep(0.01)


@pytest.mark.full
async def test_names_that_no_topic_may_have_are_kept_apart(url: str) -> None:
    names = ["ünï", "a.b", "a_b", "a-b", "x" * 300, "x" * 299 + "y"]
    async with connected(url) as broker:
        for name in names:
            await published(broker, [Message(name, name, b"")])
        for name in names:
            found = await leased(broker, 1, name)
            assert [each.message.id for each in found] == [name]
            await broker.ack(found)


async def test_a_message_that_is_too_large_is_told_as_that_and_holds_up_no_other(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="forebay")
    async with connected(url) as broker:
        # librdkafka refuses it by itself, as a topic with a lower max.message.bytes would.
        sent = [Message("large", "q", b"x" * 1_100_000), *messages(3)]
        for _ in range(2):
            assert list(await broker.publish(sent)) == [None, True, True, True]
        assert not broker._link.is_away()
    assert caplog.text.count("travel by their ids alone; raise its max.message.bytes") == 1
