"""Messages to a Kafka, each confirmed or not.

What the client library tells is asked for in the loop, every millisecond while something is on its way. A thread that
waited for it would hear at once, and then wait for the interpreter, which the loop of a busy server gives away once in
5 ms (`sys.getswitchinterval`).
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from forebay.brokers.kafka_errors import ClientLog, failure
from forebay.brokers.kafka_url import KafkaAddress

log = logging.getLogger("forebay.jobs")

CONFIRM_TIMEOUT_S: Final = 5.0
_SEND_S = CONFIRM_TIMEOUT_S + 3.0
_SOON_S = 0.001
_IDLE_S = 0.2
"""How long until the library is asked again, at least and at most: an eighth of the time for which it told nothing."""
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
    """Records of one call that are on their way."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        late = KafkaError(KafkaError._MSG_TIMED_OUT)
        self.sent = [Sent(record, -1, late) for record in records]
        self._left = len(records)

    def report(self, at: int, error: KafkaError | None, message: Message | None) -> None:
        """The end of one."""
        offset = message.offset() if message is not None and error is None else None
        self.sent[at] = Sent(self.sent[at].record, -1 if offset is None else offset, error)
        self._left -= 1
        if not self._left and not self.over.done():
            self.over.set_result(None)


class Sender:
    """`blame` is told of errors; `also` is called now and then."""

    def __init__(self, address: KafkaAddress, blame: Callable[[KafkaError], None], also: Callable[[], object]) -> None:
        self._address, self._blame, self._also = address, blame, also
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
        self._unmade = ""
        """Why there was no new one the last time."""
        self._loop = asyncio.get_running_loop()
        self._under_way = 0
        """Calls."""
        self._heard_s = -math.inf
        """When something was sent, or what became of it was told, last."""
        self._timer = self._loop.call_later(_IDLE_S, self._ask)

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

    def renew(self) -> None:
        """Brokers were away: those that know nothing of what was sent before would keep its successors waiting."""
        self._renew(self._producer)

    def close(self) -> None:
        """What is on its way is dropped."""
        self._closed = True
        self._timer.cancel()
        for producer in (self._producer, *self._old):
            producer.purge()
            producer.poll(0)

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
        self._under_way += 1
        try:
            self._ask_soon()
            await asyncio.wait([sending.over], timeout=_SEND_S)
        finally:
            self._under_way -= 1
        return sending.sent

    def _made(self) -> Producer:
        return Producer(self._settings, logger=ClientLog())

    def _failed(self, error: KafkaError) -> None:
        if error.fatal():
            self._renew(self._producer)
        self._blame(error)

    def _ask_soon(self) -> None:
        self._heard_s = time.monotonic()
        if not self._closed and self._timer.when() > self._loop.time() + _SOON_S:
            self._timer.cancel()
            self._timer = self._loop.call_later(_SOON_S, self._ask)

    def _ask(self) -> None:
        try:
            if self._producer.poll(0):
                self._heard_s = time.monotonic()
            if self._old:
                self._let_go()
            self._also()
        except Exception:  # it goes on whatever happens: without it nothing would ever be confirmed
            log.exception("what Kafka confirmed may not be heard")
        wait_s = _IDLE_S
        if self._under_way:
            wait_s = max(_SOON_S, min((time.monotonic() - self._heard_s) / 8, _IDLE_S))
        self._timer = self._loop.call_later(wait_s, self._ask)

    def _let_go(self) -> None:
        """Of old producers that have nothing on its way. On a thread: each waits for its own threads to end, one of
        which may be looking up a name."""
        over = [producer for producer in self._old if not producer.poll(0) and not len(producer)]
        if over:
            self._old = [producer for producer in self._old if producer not in over]
            threading.Thread(target=over.clear, name="kafka: producers that are over", daemon=True).start()

    def _renew(self, producer: Producer) -> None:
        if producer is not self._producer or self._closed:
            return
        log.debug("the producer is made anew")
        try:
            self._producer = self._made()
        except KafkaException as error:
            # A certificate may be half written, or threads short. Brokers that know the old one still take from it.
            why = failure(error, self._address).message
            if why != self._unmade:
                log.error("no new producer can be made, so the old one goes on; it is tried again: %s", why)
            self._unmade = why
            return
        self._unmade = ""
        self._old.append(producer)


def in_loop(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *arguments: object) -> None:
    """Have it called there, unless that is over."""
    try:
        loop.call_soon_threadsafe(call, *arguments)
    except RuntimeError:
        pass  # the loop is closed
