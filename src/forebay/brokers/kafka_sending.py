"""Messages to a Kafka, each confirmed or not: an idempotent producer with a thread that hears of its deliveries."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from forebay.brokers.kafka_errors import ClientLog
from forebay.brokers.kafka_url import KafkaAddress

log = logging.getLogger("forebay.jobs")

CONFIRM_TIMEOUT_S: Final = 5.0
_SEND_S = CONFIRM_TIMEOUT_S + 3.0
_POLL_S = 0.2
_LOST_COUNT: Final = frozenset(
    {
        KafkaError._FATAL,
        KafkaError.PRODUCER_FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.UNKNOWN_PRODUCER_ID,
        KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
    }
)
"""The brokers, which may have forgotten, do not agree with a producer about what it has sent."""


class Record(NamedTuple):
    """What is to be sent where."""

    topic: str
    partition: int
    body: bytes
    key: str | None = None


class Sent(NamedTuple):
    """What became of it: `offset` where it stands, or `error`."""

    record: Record
    offset: int
    error: KafkaError | None


class _Sending:
    """Records of one call that are on their way. Reports come on the sender's thread."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._loop = asyncio.get_running_loop()
        self.over: asyncio.Future[None] = self._loop.create_future()
        late = KafkaError(KafkaError._MSG_TIMED_OUT)
        self.sent = [Sent(record, -1, late) for record in records]
        self._left = len(records)
        self._lock = threading.Lock()

    def report(self, at: int, error: KafkaError | None, message: Message | None) -> None:
        """The end of one."""
        offset = message.offset() if message is not None and error is None else None
        self.sent[at] = Sent(self.sent[at].record, -1 if offset is None else offset, error)
        with self._lock:
            self._left -= 1
            if self._left:
                return
        in_loop(self._loop, self._end)

    def _end(self) -> None:
        if not self.over.done():
            self.over.set_result(None)


class Sender:
    """`blame` is told of errors, on another thread; `also` is called there now and then."""

    def __init__(self, address: KafkaAddress, blame: Callable[[KafkaError], None], also: Callable[[], object]) -> None:
        self._blame, self._also = blame, also
        self._settings: dict[str, Any] = address.client() | {
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 0,
            "delivery.timeout.ms": round(CONFIRM_TIMEOUT_S * 1000),
            "request.timeout.ms": round(CONFIRM_TIMEOUT_S * 1000) - 1000,
            "error_cb": self._failed,
        }
        self._closed = False
        self._producer = self._made()
        self._old: list[Producer] = []
        """Have messages on their way."""
        self._renewing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="kafka: sender", daemon=True)
        self._thread.start()

    async def send(self, records: Sequence[Record]) -> Sequence[Sent]:
        """All on their way together; what became of each, in their order."""
        producer = self._producer
        sent = list(await self._send(producer, records)) if records else []
        refused = [at for at, one in enumerate(sent) if one.error is not None and one.error.code() in _LOST_COUNT]
        if any(one.error is not None and one.error.code() == KafkaError._MSG_TIMED_OUT for one in sent):
            # It waits for an agreement with brokers that may never come.
            self._renew(producer)
        if refused:
            # Nobody has these.
            self._renew(producer)
            for at, one in zip(refused, await self._send(self._producer, [records[at] for at in refused]), strict=True):
                sent[at] = one
        return sent

    async def close(self) -> None:
        """What is on its way is dropped."""
        self._closed = True
        await asyncio.to_thread(self._thread.join, _SEND_S)

    async def _send(self, producer: Producer, records: Sequence[Record]) -> Sequence[Sent]:
        sending = _Sending(records)
        for at, record in enumerate(records):
            report = functools.partial(sending.report, at)
            try:
                producer.produce(record.topic, record.body, record.key, record.partition, on_delivery=report)
            except KafkaException as error:
                report(error.args[0], None)
            except BufferError:
                report(KafkaError(KafkaError._QUEUE_FULL), None)
        await asyncio.wait([sending.over], timeout=_SEND_S)
        return sending.sent

    def _made(self) -> Producer:
        return Producer(self._settings, logger=ClientLog())

    def _failed(self, error: KafkaError) -> None:
        if error.fatal():
            self._renew(self._producer)
        self._blame(error)

    def _run(self) -> None:
        while not self._closed:
            try:
                self._producer.poll(_POLL_S)
                self._also()
                self._old = [producer for producer in self._old if producer.poll(0) or len(producer)]
            except Exception:  # it goes on whatever happens: without it nothing would ever be confirmed
                log.exception("what Kafka confirmed may not be heard")
        for producer in (self._producer, *self._old):
            producer.purge()
            producer.poll(0)

    def _renew(self, producer: Producer) -> None:
        with self._renewing:
            if producer is not self._producer or self._closed:
                return
            log.debug("the producer is made anew")
            self._producer = self._made()
            self._old.append(producer)


def in_loop(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *arguments: object) -> None:
    """Have it called there, unless that is over."""
    try:
        loop.call_soon_threadsafe(call, *arguments)
    except RuntimeError:
        pass  # the loop is closed
