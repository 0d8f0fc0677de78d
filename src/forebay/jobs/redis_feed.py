"""The subscription of one process to what happens to jobs in Redis, for who waits for changes or for work.

Messages may be lost, when a connection breaks; readers are then told to look again, and who waits for work looks every
second or two in any case.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from weakref import WeakSet

from forebay.brokers.redis_link import RedisLink
from forebay.brokers.redis_listener import RedisListener
from forebay.jobs.record import STATE_NAMES, State
from forebay.jobs.redis_codec import changes_of
from forebay.jobs.subscription import Subscription


class RedisFeed:
    """Runs from its first use until it is closed, and subscribes again whenever the connection breaks."""

    def __init__(self, link: RedisLink, channels: Sequence[str]) -> None:
        self._subscriptions: WeakSet[Subscription] = WeakSet()
        self._waiting: dict[asyncio.Event, frozenset[str]] = {}
        self._listener = RedisListener(link, channels, self._pass_on, self._lose, "jobs")
        self._closed = False

    def subscribe(self, states: Collection[State] = STATE_NAMES) -> Subscription:
        """Changes to these states from when the subscription stands; the first thing it gives is empty, and says so."""
        subscription = Subscription(states, stands=self._listener.stands)
        self._subscriptions.add(subscription)
        if self._closed:
            subscription.close()
        else:
            self.start()
        return subscription

    def start(self) -> None:
        """Listen, unless it does already."""
        self._listener.start()

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
        await self._listener.close()
        for subscription in self._subscriptions:
            subscription.close()
        self._wake(None)

    def _pass_on(self, channel: bytes, data: bytes) -> None:
        wanted = frozenset[State]().union(*(subscription.states for subscription in self._subscriptions))
        changes, work = changes_of(data, wanted)
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
