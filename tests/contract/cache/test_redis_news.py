"""What is told of drops where messages are lost, cross, or the store cannot be asked."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.contract.cache.test_shared import ONE, answer, look
from tests.contract.jobs.redis_servers import Servers

from forebay.brokers.redis_link import CALL_TIMEOUT_S, RedisLink
from forebay.cache.port import Match, News, Stored
from forebay.cache.redis_shared import RedisSharedCache
from forebay.core.errors import DependencyError


class Link(RedisLink):
    """Some commands fail, each so many times."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.fails: dict[str, int] = {}

    async def execute(self, *words: Any, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        if self.fails.get(words[0], 0):
            self.fails[words[0]] -= 1
            raise DependencyError("it is down")
        return await super().execute(*words, timeout_s=timeout_s)


class Process:
    """One process's end, and what it has heard."""

    def __init__(self, url: str, prefix: str) -> None:
        self.link = Link(url)
        self.cache = RedisSharedCache(self.link, 1 << 20, prefix=prefix)
        self.news: list[News] = []
        self.gaps = 0

    def hear(self) -> None:
        def gap() -> None:
            self.gaps += 1

        self.cache.hear(self.news.append, gap)

    async def knows(self) -> None:
        """Until it knows the number of drops."""
        await until(lambda: self.cache.drops >= 0)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.005)


@pytest.fixture
async def two(servers: Servers) -> AsyncIterator[tuple[Process, Process]]:
    url, prefix = servers.url("valkey"), f"test-{secrets.token_hex(6)}"
    assert url is not None
    both = Process(url, prefix), Process(url, prefix)
    yield both
    for one in both:
        await one.cache.close()
        await one.link.close()


async def test_whoever_finds_what_is_being_dropped_is_told_again_when_it_is_gone(
    two: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = two
    there.hear()
    await there.knows()
    await there.cache.keep(ONE, "", answer())
    found: list[Any] = []
    call = here.cache._call

    async def slowly(name: Any, *arguments: Any) -> Any:
        if name == "drop":
            await until(lambda: bool(there.news))
            found.append(await look(there.cache, ONE))
            there.news.clear()
        return await call(name, *arguments)

    monkeypatch.setattr(here.cache, "_call", slowly)
    assert await here.cache.drop(Match(model="m")) == 1
    await until(lambda: bool(there.news))
    assert (type(found[0]), there.news, there.gaps) == (Stored, [News(match=Match(model="m"))], 1)


async def test_of_drops_that_cross_none_is_taken_for_heard_of_before_it_is(two: tuple[Process, Process]) -> None:
    here, there = two
    there.hear()
    await there.knows()
    before = there.cache.drops
    await asyncio.gather(*(here.cache.drop(Match(tag=str(number))) for number in range(20)))
    await until(lambda: there.cache.drops == before + 20)
    assert {news.match.tag for news in there.news if news.match} >= {str(number) for number in range(20)}
    assert there.gaps == 1


async def test_a_drop_of_which_nothing_was_heard_is_noticed_at_the_next(two: tuple[Process, Process]) -> None:
    here, there = two
    there.hear()
    await there.knows()
    there.cache.drops -= 1
    await here.cache.drop(Match(tag="x"))
    await until(lambda: there.gaps == 2)


async def test_a_store_that_cannot_be_asked_for_its_drops_is_asked_again(two: tuple[Process, Process]) -> None:
    here, there = two
    await here.cache.drop(Match())
    there.link.fails["GET"] = 2
    there.hear()
    await there.knows()
    await there.cache.keep(ONE, "", answer(drops=there.cache.drops))
    assert isinstance(await look(here.cache, ONE), Stored)
    assert there.gaps == 1


async def test_a_number_of_drops_that_is_none_is_asked_for_again(two: tuple[Process, Process]) -> None:
    here, there = two
    key = there.cache._base + "drops"
    await here.link.execute("SET", key, "what somebody else has put there")
    asked = asyncio.Event()
    execute = there.link.execute

    async def heard(*words: Any, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        reply = await execute(*words, timeout_s=timeout_s)
        if words[0] == "GET":
            asked.set()
        return reply

    there.link.execute = heard  # type: ignore[method-assign]
    there.hear()
    await asked.wait()
    await here.link.execute("DEL", key)
    await there.knows()


async def test_where_it_is_not_known_whether_something_was_dropped_all_is_forgotten(
    two: tuple[Process, Process],
) -> None:
    here, there = two
    there.hear()
    await there.knows()
    there.link.fails["GET"] = 1
    there.cache._stands()
    await until(lambda: there.gaps == 2)
    await there.cache.keep(ONE, "", answer(drops=there.cache.drops))
    assert not isinstance(await look(here.cache, ONE), Stored)
    await there.knows()


async def test_a_drop_that_is_told_of_while_the_store_is_asked_counts(
    two: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = two
    there.hear()
    await there.knows()
    before, execute = there.cache.drops, there.link.execute

    async def late(*words: Any, **more: Any) -> Any:
        told = await execute(*words, **more)
        if words[0] == "GET" and there.cache.drops == before:
            await here.cache.drop(Match(tag="x"))
            await until(lambda: there.cache.drops == before + 1)
        return told

    monkeypatch.setattr(there.link, "execute", late)
    there.cache._stands()
    asking = there.cache._asking
    assert asking is not None
    await asking
    assert (there.cache.drops, there.gaps) == (before + 1, 1)
