"""A connection to RabbitMQ that is made anew whenever it ends.

aio-pika's own reconnecting can hang, so it is not used: whatever ends one of the channels ends the whole session, and
the next one begins with nothing of it. Nothing is sent twice here, every call is bounded in time, and what goes wrong
is a `DependencyError` (broker_unavailable) that shows no password.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import aio_pika
from aiormq import exceptions as amqp
from aiormq import spec
from aiormq.abc import AbstractConnection as Wire
from aiormq.channel import Channel

from forebay.brokers.rabbitmq_errors import FAILURES, ended_words, failure, setup_failure, unavailable
from forebay.brokers.rabbitmq_url import RabbitAddress
from forebay.core.errors import DependencyError, SetupError

log = logging.getLogger("forebay.jobs")

CONNECT_TIMEOUT_S: Final = 5.0
CALL_TIMEOUT_S: Final = 8.0
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 1.0
_CLOSE_TIMEOUT_S = 3.0
_ANSWER_S = 2.0
_FIRST_S = CONNECT_TIMEOUT_S + _CLOSE_TIMEOUT_S + 1.0
"""More than it takes to find out that a host cannot be connected to."""
T = TypeVar("T")


class Session:
    """One connection, from its start to its end: a channel that publishes, one that consumes, one for the rest."""

    def __init__(self, address: RabbitAddress, connection: aio_pika.abc.AbstractConnection, wire: Wire) -> None:
        self.address = address
        self._connection, self._wire = connection, wire
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.reason: BaseException | None = None
        """What the broker ended it with."""
        self.publishing: Channel
        self.consuming: Channel
        self._asking: Channel | None = None
        self._asks = asyncio.Lock()
        self._calls: set[asyncio.Future[Any]] = set()

    @property
    def server(self) -> str:
        """Name and version of the broker."""
        told = [self._wire.server_properties.get(name) for name in ("product", "version")]
        return " ".join(word.decode(errors="replace") if isinstance(word, bytes) else str(word) for word in told)

    async def open(self) -> None:
        """Open the channels. Raises what aiormq does."""
        self.publishing = await self.channel(confirms=True)
        self.consuming = await self.channel()
        for part in (self.publishing, self.consuming, self._wire):
            part.closing.add_done_callback(self._part_ended)

    def end(self) -> None:
        """It is of no use any more."""
        if not self.ended.done():
            self.ended.set_result(None)

    async def call(self, work: Coroutine[Any, Any, T], within_s: float = CALL_TIMEOUT_S, *, ends: bool = True) -> T:
        """Await what is asked of the broker. Canceling the wait does not cancel it, since that would cost the channel;
        one that gets no answer ends the session, or is a `TimeoutError` and left to go on. Raises what aiormq does, and
        `DependencyError`."""
        call = asyncio.ensure_future(work)
        self._calls.add(call)
        call.add_done_callback(self._forget)
        either: set[asyncio.Future[Any]] = {call, self.ended}
        await asyncio.wait(either, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        if not call.done():
            if not self.ended.done() and not ends:
                raise TimeoutError
            if not self.ended.done():
                self.end()
                raise unavailable(f"no answer within {within_s:g} s", self.address)
            raise self.broken()
        # A channel that is closed ends what waits for it as if it had been canceled.
        if call.cancelled() or isinstance(call.exception(), asyncio.CancelledError):
            raise self.broken()
        return call.result()

    def broken(self) -> DependencyError:
        """That it has ended, and why, where the broker said so."""
        return unavailable(ended_words(self.reason, self.address) or "the connection broke", self.address)

    async def try_publishing(self) -> None:
        """See that messages may be sent to queues, with one for a queue that is not there. Raises as `call`."""
        name = f"{self.address.prefix}.nobody"
        publishing = self.publishing.basic_publish(b"", routing_key=name, mandatory=True, timeout=_ANSWER_S, wait=False)
        try:
            await self.call(publishing)
        except amqp.DeliveryError:
            pass  # it came back, or was refused for being one too many in a queue of that name

    def run(self, work: Coroutine[Any, Any, Any]) -> None:
        """Have it done, where that is still possible, without waiting."""
        call = asyncio.ensure_future(work)
        self._calls.add(call)
        call.add_done_callback(self._forget)

    async def answers(self) -> bool:
        """Whether the broker answers at all."""
        try:
            await self.call(self.publishing.rpc(spec.Basic.Qos()), _ANSWER_S, ends=False)
        except (*FAILURES, DependencyError):
            return False
        return True

    async def ask(self, work: Callable[[Channel], Coroutine[Any, Any, T]]) -> T:
        """A call that the broker may refuse by closing its channel, which costs no more than that. Raises as `call`."""
        async with self._asks:
            if self._asking is None or self._asking.is_closed:
                self._asking = await self.call(self.channel())
            return await self.call(work(self._asking))

    async def close(self) -> None:
        """End the connection; what was delivered and not acked is anybody's then."""
        self.end()
        for call in list(self._calls):
            call.cancel()
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._connection.close()
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise

    async def channel(self, *, confirms: bool = False) -> Channel:
        """A further one. Raises what aiormq does."""
        channel = await self._wire.channel(publisher_confirms=confirms, on_return_raises=confirms)
        assert isinstance(channel, Channel)
        return channel

    def _part_ended(self, closing: asyncio.Future[Any]) -> None:
        if not self.ended.done() and not closing.cancelled():
            self.reason = closing.exception()
        self.end()

    def _forget(self, call: asyncio.Future[Any]) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            call.exception()


class RabbitLink:
    """Keeps a session. `begin` is called with each new one before anybody else gets it."""

    def __init__(self, address: RabbitAddress, begin: Callable[[Session], None]) -> None:
        self.address = address
        self._begin = begin
        self._session: Session | None = None
        self._error: DependencyError | None = None
        """Why there is no session; None before the first attempt has ended."""
        self._keeping: asyncio.Task[None] | None = None
        self._failing = False
        """An attempt has failed since the last session."""
        self._changed = asyncio.Event()
        self._closed = False

    async def session(self) -> Session:
        """The one that stands. Raises `DependencyError` where there is none: at once, but for the first attempt."""
        if self._closed:
            raise DependencyError("this connection to the broker was closed", code="broker_unavailable")
        if self._keeping is None or self._keeping.done():
            self._keeping = asyncio.create_task(self._keep(), name="rabbitmq: connection")
        while True:
            if self._session is not None and not self._session.ended.done():
                return self._session
            if self._closed or self._error is not None:
                words = "the connection was closed"
                raise unavailable(words, self.address) if self._error is None else self._error.anew()
            if self._session is not None:
                raise self._session.broken()
            try:
                async with asyncio.timeout(_FIRST_S * len(self.address.hosts)):
                    await self._changed.wait()
            except TimeoutError:
                raise unavailable("no answer in time", self.address) from None

    async def renewed(self, ended: Session, within_s: float) -> Session:
        """The one after `ended`, where the first attempt makes it. Raises as `session`, at once if it fails."""
        try:
            async with asyncio.timeout(within_s):
                while self._session is ended and not self._failing and not self._closed:
                    await self._changed.wait()
        except TimeoutError:
            pass
        return await self.session()

    async def check(self) -> str:
        """Name and version of the broker. Raises `SetupError` for what an operator has to mend, else
        `DependencyError`."""
        try:
            session = await self._connect()
            try:
                await session.try_publishing()
            finally:
                await session.close()
        except SetupError:
            raise
        except DependencyError as error:
            raise setup_failure(session.reason, self.address) or error from None
        except Exception as error:
            raise setup_failure(error, self.address) or failure(error, self.address) from None
        return session.server

    async def close(self) -> None:
        """End the connection, and make no other."""
        self._closed = True
        self._wake()
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
        if self._session is not None:
            await self._session.close()

    async def _keep(self) -> None:
        pause_s, told = FIRST_PAUSE_S, ""
        while True:
            try:
                session = await self._connect()
            except Exception as error:
                # Whatever it is: certificates may be half written, and aiormq raises more than it says.
                self._error, self._failing = failure(error, self.address), True
                if self._error.message != told:
                    told = self._error.message
                    log.warning("%s; it is tried again", told)
                self._wake()
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            self._begin(session)
            self._session, self._error, self._failing = session, None, False
            if told:
                log.info("RabbitMQ at %s can be reached again", self.address.shown)
            pause_s, told = FIRST_PAUSE_S, ""
            self._wake()
            await asyncio.wait([session.ended])
            self._error = session.broken()
            told = self._error.message
            log.warning("%s; it is made anew", told)
            await session.close()

    async def _connect(self) -> Session:
        """The first host that answers. Raises what aiormq does, and `SetupError`."""
        error: BaseException = OSError("no host")
        for host, port in self.address.hosts:
            try:
                return await _apart(self._connect_to(host, port))
            except StopAsyncIteration:  # aiormq's word for a connection that ends between two frames
                error = amqp.AMQPConnectionError("the connection broke")
            except Exception as failed:
                error = failed
        raise error

    async def _connect_to(self, host: str, port: int) -> Session:
        address = self.address
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            connection = await aio_pika.connect(
                host=host,
                port=port,
                login=address.user,
                password=address.password,
                virtualhost=address.vhost,
                ssl=address.tls,
                ssl_context=address.ssl_context(),
                client_properties={"connection_name": "forebay"},
                heartbeat=address.heartbeat_s,
            )
            if connection.transport is None:
                raise amqp.AMQPConnectionError("the connection broke")
            session = Session(address, connection, connection.transport.connection)
            try:
                await session.open()
            except BaseException:
                await session.close()
                raise
            return session

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


async def _apart(work: Coroutine[Any, Any, T]) -> T:
    """Await it in a task of its own: aiormq ends what waits for a connection that broke as if it had been canceled."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait([task])
        raise
    if task.cancelled():
        raise amqp.AMQPConnectionError("the connection broke")
    return task.result()
