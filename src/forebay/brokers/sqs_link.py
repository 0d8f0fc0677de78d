"""Calls to SQS, each bounded in time, and whether it can be reached at all.

There is no connection that breaks, so a call that fails is what tells that SQS is away. From then on every call is
refused at once, while a look from time to time finds out when it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Coroutine, Mapping
from typing import Any, Final, TypeVar

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession

from forebay.brokers.refusals import Refusals
from forebay.brokers.sqs_errors import FAILURES, failure, is_away, is_missing, setup_failure
from forebay.brokers.sqs_url import SqsAddress
from forebay.core.errors import DependencyError, SetupError

log = logging.getLogger("forebay.jobs")

CONNECT_TIMEOUT_S: Final = 3.0
CALL_TIMEOUT_S: Final = 5.0
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 1.0
MENDED_PAUSE_S: Final = 3.0
"""What an operator has to mend is looked at no more often, since that takes a new client, which is slow to make."""
BILLED_BYTES: Final = 64 << 10
"""A call with more in it is billed as several."""
_CONNECTIONS: Final = 0
"""Of any number: each call under way has one, and with too few all would wait for those that wait for messages."""
_TRIES: Final = 2
"""A connection that SQS closed while nobody used it fails the next call on it."""
T = TypeVar("T")


class SqsLink:
    """The client, which is made when it is first used. `calls` counts requests by their names, `billed` what is paid
    for them."""

    def __init__(self, address: SqsAddress) -> None:
        self.address = address
        self.calls, self.billed = Counter[str](), Counter[str]()
        self.refused = Refusals[tuple[str, str]]()
        """Calls, with the queues that refuse them, of whose refusal nobody else is told."""
        self._away = ""
        """Why nothing is asked now; empty: SQS is not away, or nobody knows yet."""
        self.closed = False
        self._client: Any = None
        self._stack = contextlib.AsyncExitStack()
        self._making = asyncio.Lock()
        self._stands = False
        self._looking: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Future[Any]] = set()

    @property
    def region(self) -> str:
        """Once there is a client."""
        return str(self._client.meta.region_name)

    async def ready(self) -> None:
        """Raises `DependencyError` where SQS is known to be away: at once, but for the first look."""
        self._check_open()
        if not self._stands and not self._away:
            self._look()
            try:
                async with asyncio.timeout(2 * CALL_TIMEOUT_S):
                    while not self._stands and not self._away and not self.closed:
                        await self._changed.wait()
            except TimeoutError:
                raise failure(TimeoutError(), self.address) from None
        self._check_there()

    async def call(self, name: str, within_s: float = CALL_TIMEOUT_S, **arguments: Any) -> Mapping[str, Any]:
        """One request. Raises what is in `FAILURES`, and `DependencyError` where SQS is known to be away."""
        self._check_there()
        try:
            return await self._request(name, within_s, arguments)
        except FAILURES as error:
            if is_away(error):
                self._lost(error)
            raise

    async def apart(self, work: Coroutine[Any, Any, T]) -> T:
        """Await it in a task of its own: canceling the wait does not cancel it."""
        return await self.outcome(self.begin(work))

    async def outcome(self, task: asyncio.Task[T]) -> T:
        """Of what was begun. Raises what it does, and `DependencyError` where it was ended."""
        await asyncio.wait([task])
        if task.cancelled():
            self._check_open()
            raise failure(TimeoutError(), self.address)
        return task.result()

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Have it done; `end` waits for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    async def end(self, within_s: float) -> None:
        """Wait for what was begun, and for what that begins; what lasts longer is canceled."""
        until_s = time.monotonic() + within_s
        while self._tasks:
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                for task in self._tasks:
                    task.cancel()
            await asyncio.wait(self._tasks, timeout=max(left_s, CALL_TIMEOUT_S))

    async def check(self) -> None:
        """Raises `SetupError` for what an operator has to mend, else `DependencyError`."""
        try:
            await self._attempt()
        except FAILURES as error:
            wrong = setup_failure(error, self.address) or await self._region_failure()
            raise wrong or failure(error, self.address) from None

    async def close(self) -> None:
        """No more calls."""
        self.closed = True
        self._wake()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        await self.end(0.0)
        await self._drop()

    # -- whether it is there ------------------------------------------------------------------------------------------

    def _lost(self, error: BaseException) -> None:
        self._stands = False
        if not self._away and not self.closed:
            self._away = failure(error, self.address).message
            log.warning("%s; it is tried again", self._away)
            self._look()

    def _look(self) -> None:
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_until_there(), name="sqs: is it there?")

    async def _look_until_there(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._stands:
            try:
                await self._attempt()
            except Exception as error:  # whatever it is: credentials come from files and programs of others
                told = failure(error, self.address).message
                if self._away != told:
                    log.warning("%s; it is tried again", told)
                self._away = told
                self._wake()
                if setup_failure(error, self.address) is not None:
                    await self._drop()
                    pause_s = MENDED_PAUSE_S
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            if self._away:
                log.info("SQS at %s can be reached again", self.address.place)
            self._stands, self._away = True, ""
            self._wake()

    async def _attempt(self) -> None:
        """Any answer will do that says who we are is known. Raises `FAILURES`."""
        try:
            await self._request("GetQueueUrl", CALL_TIMEOUT_S, {"QueueName": f"{self.address.prefix}-dead"})
        except FAILURES as error:
            if not is_missing(error):
                raise

    async def _region_failure(self) -> SetupError | None:
        """A region that AWS's own list does not have, where nothing answers."""
        if self.address.endpoint or self._client is None:
            return None
        known = await AioSession().get_available_regions("sqs")
        if self.region in known:
            return None
        there_are = ", ".join(known)
        return SetupError(f"SQS at {self.address.place}: there is no region {self.region!r}; there are {there_are}")

    # -- calls --------------------------------------------------------------------------------------------------------

    async def _request(self, name: str, within_s: float, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        async with asyncio.timeout(within_s):
            client = self._client or await self._made()
            method = getattr(client, _METHODS[name])
            self.calls[name] += 1
            self.billed[name] += max(1, -(-_bytes_of(arguments.get("Entries", ())) // BILLED_BYTES))
            answer: Mapping[str, Any] = await method(**arguments)
        received = -(-_bytes_of(answer.get("Messages", ())) // BILLED_BYTES)
        again = int(answer.get("ResponseMetadata", {}).get("RetryAttempts", 0))
        self.calls[name] += again
        self.billed[name] += again + max(0, received - 1)
        return answer

    async def _made(self) -> Any:
        async with self._making:
            if self._client is None:
                self._check_open()
                config = AioConfig(
                    connect_timeout=CONNECT_TIMEOUT_S,
                    read_timeout=60,
                    max_pool_connections=_CONNECTIONS,
                    retries={"mode": "standard", "total_max_attempts": _TRIES},
                )
                session = AioSession(profile=self.address.profile or None)
                making = session.create_client(
                    "sqs",
                    region_name=self.address.region or None,
                    endpoint_url=self.address.endpoint or None,
                    config=config,
                )
                self._client = await self._stack.enter_async_context(making)
        return self._client

    async def _drop(self) -> None:
        """The next call has a client of its own, which looks anew for credentials: this one would keep what it has."""
        async with self._making:
            self._client = None
            await self._stack.aclose()
            self._stack = contextlib.AsyncExitStack()

    def _check_there(self) -> None:
        self._check_open()
        if self._away:
            # Not the error of the call that failed: one that is raised again and again keeps every frame it came by.
            raise DependencyError(self._away, code="broker_unavailable")

    def _check_open(self) -> None:
        if self.closed:
            raise DependencyError("this connection to the broker was closed", code="broker_unavailable")

    def _forget(self, task: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


_METHODS: Final = {
    "ChangeMessageVisibilityBatch": "change_message_visibility_batch",
    "CreateQueue": "create_queue",
    "DeleteMessageBatch": "delete_message_batch",
    "GetQueueAttributes": "get_queue_attributes",
    "GetQueueUrl": "get_queue_url",
    "ReceiveMessage": "receive_message",
    "SendMessageBatch": "send_message_batch",
}


def _bytes_of(messages: Any) -> int:
    """Of the bodies in an answer or a call."""
    return sum(len(one.get("MessageBody", one.get("Body", ""))) for one in messages)
