"""`RedisListener`: a subscription that is made again whenever its connection breaks or falls silent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from redis.asyncio.client import PubSub

from forebay.brokers.redis_link import RedisLink, unless_canceled

_log = logging.getLogger(__name__)
_PING_AFTER_S = 5.0
_SILENT_S = 12.0
"""Two pings without an answer: the connection is dead, though nobody has said so."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0


class RedisListener:
    """Runs from its start until it is closed. `on_message(channel, data)` is called for each message; `on_stands()`
    whenever the subscription stands: messages may have been lost before."""

    def __init__(
        self,
        link: RedisLink,
        channels: Sequence[str],
        on_message: Callable[[bytes, bytes], None],
        on_stands: Callable[[], None],
        subject: str,
    ) -> None:
        """`subject`: what it hears of, for the log."""
        self._link, self._channels, self._subject = link, channels, subject
        self._on_message, self._on_stands = on_message, on_stands
        self._listening: asyncio.Task[None] | None = None
        self._closed = False
        self.stands = False

    def start(self) -> None:
        """Listen, unless it does already."""
        if self._listening is None and not self._closed:
            self._listening = asyncio.get_running_loop().create_task(self._listen())

    async def close(self) -> None:
        """Stop listening."""
        self._closed = True
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait([self._listening])

    async def _listen(self) -> None:
        pause_s, told = _FIRST_PAUSE_S, ""
        while True:
            try:
                async with self._link.subscribed(self._channels) as pubsub:
                    self.stands = True
                    self._on_stands()
                    pause_s, told = _FIRST_PAUSE_S, ""
                    await self._read(pubsub)
            except Exception as error:
                failure = self._link.failure(error)
                if failure is None:
                    _log.exception("The subscription to %s failed; it is made anew", self._subject)
                elif failure.message != told:  # an outage may last, and each try fails alike
                    told = failure.message
                    _log.warning("The subscription to %s broke and is made anew: %s", self._subject, told)
            self.stands = False
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _read(self, pubsub: PubSub) -> None:
        """Pass messages on until the connection breaks or falls silent."""
        loop = asyncio.get_running_loop()
        heard = loop.time()
        while True:
            message = await unless_canceled(pubsub.get_message(timeout=_PING_AFTER_S))
            if message is not None:
                heard = loop.time()
                if message["type"] == "message":
                    self._on_message(message["channel"], message["data"])
            elif loop.time() - heard > _SILENT_S:
                _log.warning("The subscription to %s fell silent and is made anew", self._subject)
                return
            else:
                await unless_canceled(pubsub.ping())
