"""How what is asked of the store of cached answers is put together: few calls, everybody told, nothing left behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Sequence

import pytest

from forebay.cache.answer_cache import AnswerCache
from forebay.cache.memory_shared import MemorySharedCache, SharedMemory
from forebay.cache.port import Found, Free, Match, News, Stored, Taken, ToKeep
from forebay.cache.shared_tier import MOST_A_CALL, SharedTier
from forebay.core.errors import DependencyError

LONG_S = 1000.0
"""What an answer takes: so long that what comes within milliseconds is gathered."""


class Counted(MemorySharedCache):
    """Counts what comes in each call."""

    def __init__(self, shared: SharedMemory) -> None:
        super().__init__(shared)
        self.calls: list[tuple[int, int]] = []
        self.fails = False

    async def exchange(
        self, asked: Sequence[tuple[bytes, str]], computed: Sequence[tuple[bytes, str]] = ()
    ) -> tuple[Sequence[Found], Collection[bytes]]:
        self.calls.append((len(asked), len(computed)))
        if self.fails:
            raise DependencyError("it is down")
        return await super().exchange(asked, computed)


@pytest.fixture
def shared() -> SharedMemory:
    return SharedMemory(time.monotonic, 1 << 20)


@pytest.fixture
def store(shared: SharedMemory) -> Counted:
    return Counted(shared)


@pytest.fixture
async def tier(store: Counted) -> AsyncIterator[SharedTier]:
    made = SharedTier(store, 5.0, time.monotonic, AnswerCache(1 << 20, 1 << 16).metrics)
    made.start(lambda match: None)
    yield made
    await made.close()


def kept(value: bytes = b"v") -> ToKeep:
    return ToKeep(value, ("m", "1"), "", (), 60.0, 0.0)


async def settled(tier: SharedTier) -> None:
    async with asyncio.timeout(10):
        while tier._calls:
            await asyncio.sleep(0)


async def test_what_is_asked_within_moments_is_one_call_where_answers_take_long(
    tier: SharedTier, store: Counted
) -> None:
    async def later(digest: bytes, turns_of_the_loop: int) -> tuple[Found, str]:
        for _ in range(turns_of_the_loop):
            await asyncio.sleep(0)
        return await tier.look(digest, claims=True, cost_s=LONG_S)

    found = await asyncio.gather(later(b"a", 0), later(b"b", 0), later(b"c", 3))
    assert store.calls == [(3, 0)]
    assert all(isinstance(told, Free) for told, _ in found)
    assert len({claim for _, claim in found} - {""}) == 3


async def test_where_answers_take_no_time_nothing_waits_for_more(tier: SharedTier, store: Counted) -> None:
    await tier.look(b"a", claims=True)
    await tier.look(b"b", claims=True)
    assert store.calls == [(1, 0), (1, 0)]


async def test_what_is_computed_goes_with_what_is_asked_next(tier: SharedTier, store: Counted) -> None:
    _, claim = await tier.look(b"a", claims=True, cost_s=LONG_S)
    tier.settle(b"a", claim, kept, LONG_S)
    found, again = await tier.look(b"a", claims=True, cost_s=LONG_S)
    assert store.calls == [(1, 0), (1, 1)]
    assert isinstance(found, Free), "its claim had ended"
    assert again not in ("", claim)


async def test_an_answer_that_others_wait_for_is_kept_for_them(
    tier: SharedTier, store: Counted, shared: SharedMemory
) -> None:
    _, claim = await tier.look(b"a", claims=True)
    other = MemorySharedCache(shared)
    (taken,), _ = await other.exchange([(b"a", "its")])
    assert isinstance(taken, Taken)
    tier.settle(b"a", claim, kept, LONG_S)
    async with asyncio.timeout(10):
        while not shared.kept:
            await asyncio.sleep(0.001)
    (found,), _ = await other.exchange([(b"a", "its")])
    assert isinstance(found, Stored)


@pytest.mark.parametrize("way", ["keep", "keep_now"])
async def test_an_answer_that_was_handed_over_before_a_drop_is_not_kept_after_it(
    tier: SharedTier, store: Counted, shared: SharedMemory, way: str
) -> None:
    before = store.drops
    if way == "keep":
        tier.keep(b"a", "", kept())
        keeping = None
    else:
        keeping = tier.keep_now(b"a", kept())
    other = MemorySharedCache(shared)
    await other.drop(Match())
    if keeping is not None:
        async with asyncio.timeout(10):
            while store.drops == before:
                await asyncio.sleep(0)
        await keeping
    await settled(tier)
    assert not shared.kept
    tier.keep(b"a", "", kept())
    await settled(tier)
    assert list(shared.kept) == [b"a"]


async def test_what_was_computed_before_a_drop_is_not_kept_for_those_who_turn_out_to_wait_for_it(
    tier: SharedTier, store: Counted, shared: SharedMemory
) -> None:
    _, claim = await tier.look(b"a", claims=True)
    other, told = MemorySharedCache(shared), list[News]()
    other.hear(told.append, lambda: None)
    await other.exchange([(b"a", "its")])
    tier.settle(b"a", claim, kept, 10.0)
    before = store.drops
    await other.drop(Match())
    async with asyncio.timeout(10):
        while not any(news.digest for news in told):
            await asyncio.sleep(0.001)
    assert (store.drops, told[-1], shared.kept) == (before + 1, News(b"a", failed=True), {})


async def test_many_are_parted_so_that_no_call_holds_the_store_up(tier: SharedTier, store: Counted) -> None:
    digests = [number.to_bytes(2, "big") for number in range(2 * MOST_A_CALL + 1)]
    await asyncio.gather(*(tier.look(digest, claims=False, cost_s=LONG_S) for digest in digests))
    assert sorted(store.calls) == [(1, 0), (MOST_A_CALL, 0), (MOST_A_CALL, 0)]


async def test_whoever_asks_is_told_though_another_cannot_hear_it(tier: SharedTier) -> None:
    told: list[Found] = []

    def fails(found: Found, claim: str) -> None:
        raise RuntimeError("of its own")

    tier.ask(b"a", fails, claims=False)
    tier.ask(b"b", lambda found, claim: told.append(found), claims=False)
    await tier.look(b"c", claims=False)
    assert [type(one) for one in told] == [Free]


async def test_a_store_that_fails_is_free_for_all_and_holds_no_claims(tier: SharedTier, store: Counted) -> None:
    store.fails = True
    found = await asyncio.gather(*(tier.look(digest, claims=True, cost_s=LONG_S) for digest in (b"a", b"b")))
    assert found == [(Free(), ""), (Free(), "")]


async def test_what_waits_to_be_sent_is_sent_at_the_end(store: Counted) -> None:
    tier = SharedTier(store, 5.0, time.monotonic, AnswerCache(1 << 20, 1 << 16).metrics)
    tier.start(lambda match: None)
    told: list[Found] = []
    tier.ask(b"a", lambda found, claim: told.append(found), claims=False, cost_s=LONG_S)
    await tier.close()
    assert (store.calls, len(told)) == ([(1, 0)], 1)
