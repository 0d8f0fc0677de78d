"""The subscription of one process to what happens to jobs in Redis, for who waits for changes or for work.

Messages may be lost, when a connection breaks; readers are then told to look again, and who waits for work looks every
second or two in any case.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from weakref import WeakSet

from redis.asyncio.client import PubSub

from forebay.brokers.redis_link import RedisLink
from forebay.jobs.redis_codec import changes_of
from forebay.jobs.subscription import Subscription

_log = logging.getLogger(__name__)
_PING_AFTER_S = 5.0
_SILENT_S = 12.0
"""Two pings without an answer: the connection is dead, though nobody has said so."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0


class RedisFeed:
    """Runs from its first use until it is closed, and subscribes again whenever the connection breaks."""

    def __init__(self, link: RedisLink, channels: Sequence[str]) -> None:
        self._link, self._channels = link, channels
        self._subscriptions: WeakSet[Subscription] = WeakSet()
        self._waiting: dict[asyncio.Event, frozenset[str]] = {}
        self._listening: asyncio.Task[None] | None = None
        self._stands = self._closed = False

    def subscribe(self) -> Subscription:
        """All changes from when the subscription stands; the first thing it gives is empty, and says so."""
        subscription = Subscription(stands=self._stands)
        self._subscriptions.add(subscription)
        if self._closed:
            subscription.close()
        else:
            self.start()
        return subscription

    def start(self) -> None:
        """Listen, unless it does already."""
        if self._listening is None and not self._closed:
            self._listening = asyncio.get_running_loop().create_task(self._listen())

    def await_work(self, models: Sequence[str]) -> asyncio.Event:
        """An event that is set when one of the models has new work; give it back with `forget`."""
        self.start()
        arrival = asyncio.Event()
        self._waiting[arrival] = frozenset(models)
        return arrival

    def forget(self, arrival: asyncio.Event) -> None:
        """Nobody waits for it any more."""
        self._waiting.pop(arrival, None)

    async def close(self) -> None:
        """Stop listening; who waits is woken, and subscriptions end."""
        self._closed = True
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait([self._listening])
        for subscription in self._subscriptions:
            subscription.close()
        self._wake(None)

    async def _listen(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                async with self._link.subscribed(self._channels) as pubsub:
                    self._stands = True
                    self._lose()
                    pause_s = _FIRST_PAUSE_S
                    await self._read(pubsub)
            except Exception as error:
                failure = self._link.failure(error)
                if failure is None:
                    _log.exception("The subscription to jobs failed; it is made anew")
                else:
                    _log.warning("The subscription to jobs broke and is made anew: %s", failure.message)
            self._stands = False
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _read(self, pubsub: PubSub) -> None:
        """Pass messages on until the connection breaks or falls silent."""
        loop = asyncio.get_running_loop()
        heard = loop.time()
        while True:
            message = await pubsub.get_message(timeout=_PING_AFTER_S)
            if message is not None:
                heard = loop.time()
                if message["type"] == "message":
                    self._pass_on(message["data"])
            elif loop.time() - heard > _SILENT_S:
                _log.warning("The subscription to jobs fell silent and is made anew")
                return
            else:
                await pubsub.ping()

    def _pass_on(self, data: bytes) -> None:
        changes, work = changes_of(data)
        if changes:
            for subscription in self._subscriptions:
                subscription.add(*changes)
        if work:
            self._wake(work)

    def _lose(self) -> None:
        """Messages may have been lost before now."""
        for subscription in self._subscriptions:
            subscription.lose()
        self._wake(None)

    def _wake(self, models: Sequence[str] | None) -> None:
        for arrival, wanted in self._waiting.items():
            if models is None or not wanted.isdisjoint(models):
                arrival.set()
