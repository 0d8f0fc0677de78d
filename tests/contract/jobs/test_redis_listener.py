"""A subscription to a server that is killed and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from redis.asyncio.client import PubSub
from tests.contract.jobs.redis_servers import Server, valkey

from forebay.brokers import redis_listener
from forebay.brokers.redis_link import RedisLink
from forebay.brokers.redis_listener import RedisListener


class Counted(RedisLink):
    """A link that counts how often a subscription was tried."""

    tries = 0

    @asynccontextmanager
    async def subscribed(self, channels: Sequence[str]) -> AsyncIterator[PubSub]:
        self.tries += 1
        async with super().subscribed(channels) as pubsub:
            yield pubsub


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.01)


class Lines:
    """What is logged, whatever other tests of this process have done to the log."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, text: str, *values: object) -> None:
        self.lines.append(text % values)

    exception = warning


async def test_an_outage_is_one_line_however_often_it_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[bytes] = []
    log = Lines()
    monkeypatch.setattr(redis_listener, "_log", log)
    with Server(valkey()) as server:
        link = Counted(server.url)
        listener = RedisListener(link, ["news"], lambda _, data: heard.append(data), lambda: None, "news")
        listener.start()

        async def heard_all(count: int) -> None:
            await until(lambda: len(heard) == count)

        async def tried_again(times: int) -> None:
            enough = link.tries + times
            await until(lambda: link.tries >= enough)

        for outages in range(1, 3):
            await until(lambda: listener.stands)
            server.ask("PUBLISH", "news", outages)
            await heard_all(outages)
            server.kill()
            await tried_again(4)
            told = [line for line in log.lines if "broke and is made anew" in line]
            assert outages <= len(told) <= 2 * outages, log.lines
            server.start()
        await until(lambda: listener.stands)
        await listener.close()
        await link.close()
    assert heard == [b"1", b"2"]
