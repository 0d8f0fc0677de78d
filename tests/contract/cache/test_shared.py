"""What every store of cached answers does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.contract.cache.conftest import MOST_BYTES, Place

from forebay.cache.memory_shared import MemorySharedCache
from forebay.cache.port import (
    CLAIM_S,
    OVERHEAD_BYTES,
    WAITED_FOR_S,
    Found,
    Free,
    Match,
    News,
    SharedCache,
    Stats,
    Stored,
    Taken,
    ToKeep,
)

THIRD = MOST_BYTES // 3 - OVERHEAD_BYTES
"""The size of an answer of which three may be kept."""
ONE, OTHER = b"\x00" * 31 + b"1", b"\xff" * 31 + b"2"


def answer(value: bytes = b"value", **more: Any) -> ToKeep:
    given: dict[str, Any] = {"place": ("m", "1"), "tenant": "", "tags": (), "fresh_s": 60.0, "stale_s": 30.0, **more}
    return ToKeep(value, **given)


async def look(cache: SharedCache, digest: bytes, claim: str = "") -> Found:
    (found,), _ = await cache.exchange([(digest, claim)])
    return found


async def settle(cache: SharedCache, *claims: tuple[bytes, str]) -> set[bytes]:
    found, waited = await cache.exchange([], claims)
    assert not found
    return set(waited)


async def heard(news: list[News], holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.01)


async def listening(place: Place) -> list[News]:
    """What `there` hears, from when it can hear."""
    news: list[News] = []
    place.there.hear(news.append, lambda: None)

    async def drop() -> None:
        while not news:
            await place.here.drop(Match(digest=b"\x07" * 32))
            await asyncio.sleep(0.02)

    async with asyncio.timeout(30):
        await drop()
    await asyncio.sleep(0.1)
    news.clear()
    return news


async def test_nothing_is_there(place: Place) -> None:
    assert await look(place.here, ONE) == Free()


async def test_what_is_kept_is_found(place: Place) -> None:
    await place.here.keep(ONE, "", answer(b"\x00\xffbytes"))
    found = await look(place.there, ONE)
    assert isinstance(found, Stored)
    assert found.value == b"\x00\xffbytes"
    assert 0 <= found.age_s < 30
    assert 30 < found.fresh_s <= 60
    assert 60 < found.left_s <= 90
    assert await look(place.here, OTHER) == Free()


async def test_an_answer_takes_the_place_of_another(place: Place) -> None:
    await place.here.keep(ONE, "", answer(b"old" * 100))
    await place.there.keep(ONE, "", answer(b"new"))
    found = await look(place.here, ONE)
    assert isinstance(found, Stored)
    assert found.value == b"new"
    stats = await place.here.stats()
    assert (stats.entries, stats.nbytes) == (1, 3 + OVERHEAD_BYTES)


async def test_time_ends_an_answer(place: Place) -> None:
    await place.here.keep(ONE, "", answer(fresh_s=0.05, stale_s=0.05))
    await asyncio.sleep(0.2)
    assert await look(place.here, ONE) == Free()


async def test_an_answer_is_as_old_as_it_was_when_it_came(place: Place) -> None:
    await place.here.keep(ONE, "", answer(age_s=1800.0))
    found = await look(place.there, ONE)
    assert isinstance(found, Stored)
    assert 1800 <= found.age_s < 1830
    assert 30 < found.fresh_s <= 60
    assert 60 < found.left_s <= 90


async def test_an_answer_that_came_stale_has_no_more_time_than_it_had(place: Place) -> None:
    await place.here.keep(ONE, "", answer(age_s=100.0, fresh_s=-40.0, stale_s=100.0))
    found = await look(place.there, ONE)
    assert isinstance(found, Stored)
    assert -70 < found.fresh_s <= -40
    assert 30 < found.left_s <= 60


async def test_a_stale_answer_says_so(place: Place) -> None:
    await place.here.keep(ONE, "", answer(fresh_s=0.01, stale_s=60.0))
    await asyncio.sleep(0.05)
    found = await look(place.here, ONE)
    assert isinstance(found, Stored)
    assert found.fresh_s < 0 < found.left_s


async def test_one_claims_and_the_other_waits(place: Place) -> None:
    assert await look(place.here, ONE, "mine") == Free()
    taken = await look(place.there, ONE, "its")
    assert isinstance(taken, Taken)
    assert 0 < taken.left_s <= CLAIM_S
    assert await look(place.there, OTHER, "its") == Free()
    assert await look(place.there, ONE) == Free()  # who claims nothing waits for nobody


async def test_several_are_looked_for_at_once(place: Place) -> None:
    third = b"3" * 32
    await place.here.keep(OTHER, "", answer(b"kept"))
    await look(place.there, third, "its")
    asked = [(ONE, "mine"), (OTHER, "mine"), (third, "mine"), (ONE, "")]
    (one, other, taken, again), _ = await place.here.exchange(asked)
    assert (one, again) == (Free(), Free())
    assert isinstance(other, Stored)
    assert other.value == b"kept"
    assert isinstance(taken, Taken)
    assert [list(told) for told in await place.here.exchange([])] == [[], []]


async def test_what_is_computed_and_waited_for_by_nobody_ends_its_claim(place: Place) -> None:
    await place.here.exchange([(ONE, "mine"), (OTHER, "mine")])
    await look(place.there, OTHER, "its")
    assert await settle(place.here, (ONE, "mine"), (OTHER, "mine")) == {OTHER}
    assert await look(place.there, ONE, "its") == Free()
    assert isinstance(await look(place.there, OTHER, "again"), Taken)
    await place.here.keep(OTHER, "mine", answer(admitted=False))
    assert isinstance(await look(place.there, OTHER), Stored)


async def test_what_is_computed_is_told_in_the_call_that_asks_for_more(place: Place) -> None:
    await place.here.exchange([(ONE, "mine"), (OTHER, "mine")])
    await look(place.there, OTHER, "its")
    (again, taken), waited = await place.here.exchange(
        [(ONE, "anew"), (OTHER, "anew")], [(ONE, "mine"), (OTHER, "mine")]
    )
    assert (again, set(waited)) == (Free(), {OTHER})
    assert isinstance(taken, Taken)


async def test_nobody_settles_the_claim_of_another(place: Place) -> None:
    await look(place.here, ONE, "mine")
    assert not await settle(place.there, (ONE, "its"), (OTHER, "its"))
    assert isinstance(await look(place.there, ONE, "again"), Taken)


async def test_what_was_waited_for_is_told_and_there(place: Place) -> None:
    news = await listening(place)
    await look(place.here, ONE, "mine")
    await look(place.there, ONE, "its")
    await place.here.keep(ONE, "mine", answer(admitted=False))
    await heard(news, lambda: bool(news))
    assert news == [News(ONE)]
    found = await look(place.there, ONE, "its")
    assert isinstance(found, Stored)
    assert found.value == b"value"
    assert found.left_s <= WAITED_FOR_S


async def test_what_nobody_waits_for_is_kept_only_if_admitted(place: Place) -> None:
    await look(place.here, ONE, "mine")
    await place.here.keep(ONE, "mine", answer(admitted=False))
    assert await look(place.here, ONE) == Free()
    assert (await place.here.stats()).entries == 0


async def test_keeping_ends_the_claim(place: Place) -> None:
    await look(place.here, ONE, "mine")
    await place.here.keep(ONE, "mine", answer(admitted=False))
    assert await look(place.there, ONE, "its") == Free()


@pytest.mark.parametrize("error", [b"", b"\x00why"])
async def test_a_failure_is_told(place: Place, error: bytes) -> None:
    news = await listening(place)
    await look(place.here, ONE, "mine")
    await look(place.there, ONE, "its")
    await place.here.fail(ONE, "mine", error)
    await heard(news, lambda: bool(news))
    assert news == [News(ONE, failed=True, error=error)]
    assert await look(place.there, ONE, "its") == Free()


async def test_who_has_lost_his_claim_ends_nobody_elses(place: Place) -> None:
    await look(place.here, ONE, "mine")
    await place.lapse(ONE)
    assert await look(place.there, ONE, "its") == Free()
    await place.here.fail(ONE, "mine", b"why")
    assert isinstance(await look(place.here, ONE, "again"), Taken)
    await place.here.renew([(ONE, "mine")])
    await place.there.fail(ONE, "its")
    assert await look(place.here, ONE, "again") == Free()


async def test_a_claim_is_renewed(place: Place) -> None:
    await look(place.here, ONE, "mine")
    await asyncio.sleep(0.2)
    await place.here.renew([(ONE, "mine"), (OTHER, "never")])
    taken = await look(place.there, ONE, "its")
    assert isinstance(taken, Taken)
    assert taken.left_s > CLAIM_S - 0.2
    assert await look(place.there, OTHER, "its") == Free()


async def test_bytes_are_bounded_and_the_last_used_stay(place: Place) -> None:
    digests = [bytes([number]) * 32 for number in range(4)]
    for digest in digests[:3]:
        await place.here.keep(digest, "", answer(b"x" * THIRD))
        await asyncio.sleep(0.005)
    await look(place.there, digests[0])
    await asyncio.sleep(0.005)
    await place.here.keep(digests[3], "", answer(b"x" * THIRD))
    there = [isinstance(await look(place.here, digest), Stored) for digest in digests]
    assert there == [True, False, True, True]
    assert (await place.here.stats()).nbytes == 3 * (THIRD + OVERHEAD_BYTES)


async def test_small_answers_count_with_what_they_take_beside_their_values(place: Place) -> None:
    """Else many of them would take a store many times what they may."""
    for number in range(20):
        await place.here.keep(bytes([number]) * 32, "", answer(b"x" * 20))
    stats = await place.here.stats()
    assert (stats.entries, stats.nbytes) == (3, 3 * (20 + OVERHEAD_BYTES))
    await place.here.drop(Match())
    assert await place.here.stats() == Stats(0, 0)


async def test_tags_count(place: Place) -> None:
    tags = ("\U0001f600" * 64, "\U0001f601" * 64)
    for number in range(3):
        await place.here.keep(bytes([number]) * 32, "", answer(b"x" * 20, tags=tags))
    stats = await place.here.stats()
    assert stats.entries == 2
    assert stats.nbytes >= 2 * (20 + 512 + OVERHEAD_BYTES)


async def test_one_that_is_larger_than_all_together_is_not_kept(place: Place) -> None:
    await place.here.keep(ONE, "", answer(b"x" * (MOST_BYTES + 1)))
    assert await look(place.here, ONE) == Free()
    assert (await place.here.stats()).nbytes == 0


KEPT = {
    b"1" * 32: answer(tenant="a", tags=("x", "xy")),
    b"2" * 32: answer(tenant="b", place=("m", "2")),
    b"3" * 32: answer(tenant="a", place=("n", "1"), tags=("y",)),
}


@pytest.mark.parametrize(
    ("match", "gone"),
    [
        (Match(), "123"),
        (Match(model="m"), "12"),
        (Match(model="m", version="2"), "2"),
        (Match(tag="x"), "1"),
        (Match(tag="y"), "3"),
        (Match(tenant="a"), "13"),
        (Match(tenant="", model="m"), ""),
        (Match(tenant="b", digest=b"1" * 32), ""),
        (Match(digest=b"1" * 32), "1"),
        (Match(digest=b"9" * 32), ""),
    ],
)
async def test_dropping(place: Place, match: Match, gone: str) -> None:
    for digest, kept in KEPT.items():
        await place.here.keep(digest, "", kept)
    assert await place.there.drop(match) == len(gone)
    left = {chr(digest[0]) for digest in KEPT if isinstance(await look(place.here, digest), Stored)}
    assert left == {"1", "2", "3"} - set(gone)
    assert (await place.here.stats()).entries == 3 - len(gone)


async def test_drops_are_told(place: Place) -> None:
    news = await listening(place)
    await place.here.drop(Match(tenant="a", model="m", tag="x"))
    await heard(news, lambda: bool(news))
    assert set(news) == {News(match=Match(tenant="a", model="m", tag="x"))}


async def test_what_was_known_before_a_drop_is_not_kept_after_it_whether_it_was_heard_of_or_not(place: Place) -> None:
    news = await listening(place)
    before = place.there.drops
    await place.here.drop(Match())
    await look(place.there, ONE, "its")
    await place.there.keep(ONE, "its", answer(drops=before))
    assert await look(place.here, ONE) == Free()
    await heard(news, lambda: place.there.drops != before)
    await place.there.keep(ONE, "", answer(drops=before))
    assert await look(place.here, ONE) == Free()
    await place.there.keep(ONE, "", answer(drops=place.there.drops))
    assert isinstance(await look(place.here, ONE), Stored)


async def test_what_is_handed_over_while_others_drop_it_is_not_there_afterwards(place: Place) -> None:
    await listening(place)
    before = place.there.drops
    dropping = asyncio.create_task(place.here.drop(Match()))
    while not dropping.done():
        await place.there.keep(ONE, "", answer(drops=before))
        await asyncio.sleep(0)
    await dropping
    assert await look(place.here, ONE) == Free()


async def test_those_who_wait_for_what_was_dropped_meanwhile_are_told_to_try_themselves(place: Place) -> None:
    news = await listening(place)
    before = place.there.drops
    await look(place.here, ONE, "mine")
    await look(place.there, ONE, "its")
    await place.here.drop(Match())
    await place.here.keep(ONE, "mine", answer(drops=before))
    await heard(news, lambda: any(one.digest for one in news))
    assert news[-1] == News(ONE, failed=True)
    assert await look(place.there, ONE, "its") == Free()


async def test_who_has_not_heard_of_drops_keeps_nothing(place: Place) -> None:
    await place.here.drop(Match())
    await place.there.keep(ONE, "", answer(drops=place.there.drops))
    assert await look(place.here, ONE) == Free()


async def test_who_begins_to_hear_is_told_that_something_may_have_been_dropped_before(place: Place) -> None:
    await place.here.drop(Match())
    gaps: list[int] = []
    place.there.hear(lambda news: None, lambda: gaps.append(place.there.drops))
    async with asyncio.timeout(30):
        while not gaps:
            await asyncio.sleep(0.01)
    await place.there.keep(ONE, "", answer(drops=place.there.drops))
    assert isinstance(await look(place.here, ONE), Stored)


async def test_a_store_that_has_lost_everything_comes_to_no_number_of_drops_again(place: Place) -> None:
    if isinstance(place.here, MemorySharedCache):
        pytest.skip("it loses nothing that its process does not lose")
    numbers: set[int] = set()
    for _ in range(3):
        await place.here.drop(Match())
        link, base = place.here._link, place.here._base  # type: ignore[attr-defined]
        numbers.add(int(await link.execute("GET", f"{base}drops")))
        await link.execute("DEL", f"{base}drops")
    assert len(numbers) == 3


async def test_a_store_that_was_emptied_or_is_another_one_keeps_answers_again_soon(place: Place) -> None:
    if isinstance(place.here, MemorySharedCache):
        pytest.skip("nobody empties it but its process")
    gaps: list[int] = []
    place.here.hear(lambda news: None, lambda: gaps.append(1))
    async with asyncio.timeout(30):
        while not gaps:
            await asyncio.sleep(0.01)
    link, base = place.here._link, place.here._base  # type: ignore[attr-defined]
    for number in (None, 7):
        gaps.clear()
        await link.execute("DEL", f"{base}drops")
        if number is not None:  # somebody else has begun to count
            await link.execute("SET", f"{base}drops", number)
        async with asyncio.timeout(30):
            while not isinstance(await look(place.there, ONE), Stored):
                await place.here.keep(ONE, "", answer(drops=place.here.drops))
                await asyncio.sleep(0.01)
        assert gaps, "what was kept here may have been dropped there"
        await place.here.drop(Match())


async def test_an_answer_from_the_future_is_new(place: Place) -> None:
    if isinstance(place.here, MemorySharedCache):
        pytest.skip("its clock is monotonic")
    await place.here.keep(ONE, "", answer())
    link, base = place.here._link, place.here._base  # type: ignore[attr-defined]
    await link.execute("HSET", base.encode() + b"e:" + ONE, "since", 99999999999999)
    found = await look(place.there, ONE)
    assert isinstance(found, Stored)
    assert found.age_s == 0.0


async def test_many_at_once_are_one_claim(place: Place) -> None:
    looks: list[Awaitable[Any]] = [
        look(place.here if number % 2 else place.there, ONE, f"claim{number}") for number in range(50)
    ]
    found = await asyncio.gather(*looks)
    assert sum(isinstance(one, Free) for one in found) == 1
