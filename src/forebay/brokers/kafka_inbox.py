"""The consumer of one topic, on a thread of its own that polls whatever its jobs take, so that the group never thinks
it dead."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from forebay.brokers.kafka_errors import UNKNOWN_TOPICS, ClientLog, kafka_error
from forebay.brokers.kafka_parts import Part, Parts, Place
from forebay.brokers.kafka_sending import in_loop
from forebay.brokers.kafka_topics import group_name, topic_name
from forebay.brokers.kafka_url import KafkaAddress
from forebay.brokers.packs import Pack, PackError, unpacked
from forebay.brokers.port import PRIORITY_LEVELS, Delivery

log = logging.getLogger("forebay.jobs")

COMMIT_S: Final = 0.2
_POLL_S = 0.2
_AT_ONCE: Final = 64
"""Few, so that one partition is not far beyond its share when it is looked at again."""
_AGAIN_S = 1.0
_CLOSE_S = 8.0
_JOIN_S = 4.0
_FETCHED_KIB: Final = 16 << 10
"""What librdkafka holds itself."""
_HEARTBEAT_MS = 1000
_PASSING: Final = frozenset(
    {
        KafkaError._PARTITION_EOF,
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._MAX_POLL_EXCEEDED,  # this process was stopped for so long
    }
)


class Inbox:
    """`arrived` is called in the loop when there is news, `bury` with a message that cannot be read; `blame` is called
    on the thread with errors of connections, `is_away` to ask whether the brokers are known to be away."""

    def __init__(
        self,
        address: KafkaAddress,
        queue: str,
        level: int,
        arrived: Callable[[], None],
        bury: Callable[[Part, int, bytes], None],
        blame: Callable[[KafkaError], None],
        is_away: Callable[[], bool],
    ) -> None:
        self.queue, self.level = queue, level
        self.topic = topic_name(address, queue, level)
        self.parts = Parts()
        self.joined = False
        """The group has given it its partitions, which may be none."""
        self.error: KafkaError | None = None
        """Why nothing may come, until something does."""
        self._loop = asyncio.get_running_loop()
        self._arrived, self._bury, self._blame, self._is_away = arrived, bury, blame, is_away
        self._settings: dict[str, Any] = address.client() | {
            "group.id": group_name(self.topic),
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": address.session_timeout_s * 1000,
            "heartbeat.interval.ms": _HEARTBEAT_MS,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "allow.auto.create.topics": False,
            "fetch.wait.max.ms": address.fetch_wait_ms,
            "fetch.queue.backoff.ms": 20,
            "fetch.error.backoff.ms": 100,
            "queued.max.messages.kbytes": _FETCHED_KIB,
            "error_cb": self._failed,
            "on_commit": self._committed,
        }
        self._paused: set[Place] = set()
        self._commit_s = 0.0
        self._told = False
        self._ending = False
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name=f"kafka: {self.topic}", daemon=True)
        self._thread.start()

    async def end(self) -> None:
        """Tell how far all is done with, and leave the group."""
        self._ending = True
        await asyncio.wait([self._over], timeout=_CLOSE_S)

    # -- its thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._ending:
            try:
                self._consume()
            except Exception:  # it goes on whatever happens: without it no job would ever come again
                log.exception("the consumer of %s failed, and is made anew", self.topic)
                time.sleep(_AGAIN_S)
        in_loop(self._loop, self._is_over)

    def _is_over(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def _consume(self) -> None:
        consumer = Consumer(self._settings, logger=ClientLog())
        try:
            consumer.subscribe([self.topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)
            while not self._ending:
                self._take_in(consumer)
                self._hold_back(consumer)
                if time.monotonic() >= self._commit_s and not self._is_away():
                    self._commit_s = time.monotonic() + COMMIT_S
                    self._commit(consumer, self.parts.to_commit(), waits=False)
            # One that goes while the group takes it in cannot tell it so, and keeps partitions until its session ends.
            until_s = time.monotonic() + _JOIN_S
            while not self.joined and not self._is_away() and time.monotonic() < until_s:
                self._take_in(consumer)
        finally:
            # Its partitions are revoked by that, which tells how far they are done with.
            consumer.close()
            self.parts.taken_away(self.parts.places())
            self._paused.clear()
            self.joined = False

    def _take_in(self, consumer: Consumer) -> None:
        # One by one, each would wait for the interpreter anew.
        first = consumer.poll(_POLL_S)
        for message in () if first is None else (first, *consumer.consume(_AT_ONCE, 0.0)):
            error = message.error()
            if error is None:
                self._came(message)
            elif error.code() not in _PASSING:
                self.error = error
                self._tell()

    def _came(self, message: Message) -> None:
        topic, number, offset, body = message.topic(), message.partition(), message.offset(), message.value() or b""
        assert topic is not None
        assert number is not None
        assert offset is not None
        part = self.parts.expects((topic, number), offset)
        if part is None:
            return
        self.error = None
        try:
            messages = unpacked(bytes(body), self.queue, self.level)
        except PackError as error:
            log.error("a message in %s is no job; it goes to the topic of dead letters: %s", topic, error)
            self.parts.add(part, offset, None, 0)
            in_loop(self._loop, self._bury, part, offset, bytes(body))
            return
        self.parts.add(part, offset, Pack(messages, part, offset), len(body))
        self._tell()

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            in_loop(self._loop, self._hear)

    def _hear(self) -> None:
        self._told = False
        self._arrived()

    def _hold_back(self, consumer: Consumer) -> None:
        """Fetch no more of what there is enough, and go on where there is not."""
        full = self.parts.full(self._paused)
        if stopped := full - self._paused:
            consumer.pause(_partitions(stopped))
        if to_go_on := self._paused - full:
            consumer.resume(_partitions(to_go_on))
        self._paused = full

    # -- partitions that come and go ----------------------------------------------------------------------------------

    def _assigned(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        self.parts.given((each.topic, each.partition) for each in partitions)
        self.joined, self.error = True, None
        self._tell()

    def _revoked(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        done = self._gone(consumer, partitions)
        if not self._is_away():
            self._commit(consumer, done, waits=True)

    def _lost(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        self._gone(consumer, partitions)

    def _gone(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> list[tuple[Place, int]]:
        # librdkafka would keep one paused when it comes back. Now, since it drops a resume that meets an assignment.
        consumer.resume(list(partitions))
        places = [(each.topic, each.partition) for each in partitions]
        self._paused.difference_update(places)
        done = self.parts.taken_away(places)
        self.joined = bool(self.parts.places())
        return done

    def _commit(self, consumer: Consumer, done: Sequence[tuple[Place, int]], *, waits: bool) -> None:
        if not done:
            return
        offsets = [TopicPartition(*place, offset) for place, offset in done]
        try:
            if waits:
                consumer.commit(offsets=offsets, asynchronous=False)
            else:
                consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            self._not_committed([place for place, _ in done], error)

    def _committed(self, error: KafkaError | None, partitions: Sequence[TopicPartition]) -> None:
        failed = [(each.topic, each.partition) for each in partitions if error is not None or each.error is not None]
        if failed:
            self._not_committed(failed, error)

    def _not_committed(self, places: Sequence[Place], error: BaseException | KafkaError | None) -> None:
        log.debug("how far %s is done with was not taken: %s", self.topic, error)
        self.parts.not_committed(places)
        told = None if error is None else kafka_error(error)
        if told is not None and told.code() in (
            KafkaError.GROUP_AUTHORIZATION_FAILED,
            KafkaError.TOPIC_AUTHORIZATION_FAILED,
        ):
            self.error = told
            self._tell()

    def _failed(self, error: KafkaError) -> None:
        if error.code() in UNKNOWN_TOPICS:
            self.error = error
            self._tell()
        self._blame(error)


def taken(inboxes: Sequence[Sequence[Inbox]], most: int) -> list[Delivery]:
    """Up to `most` of what inboxes, by queue and level, have; the higher levels first."""
    found: list[Delivery] = []
    for level in range(PRIORITY_LEVELS):
        for levels in inboxes:
            if len(found) < most:
                found += levels[level].parts.take(most - len(found))
    return found


def _partitions(places: set[Place]) -> list[TopicPartition]:
    return [TopicPartition(*place) for place in places]
