"""The contract of `Calls`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import count

from tests.contract.roles.conftest import MOST_WAITING, MOST_WAITING_BYTES, Place

from forebay.jobs.calls import WAITING, Call, CallAnswer, Calls

FORM, OTHER = "f" * 16, "e" * 16
CALLER = "caller-12345"
_number = count()


def call(form: str = FORM, left_s: float = 60.0, body: bytes = b"body", level: int = 1) -> Call:
    return Call(f"{CALLER}{next(_number):x}", form, left_s, body, level)


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.005)


async def hearing(calls: Calls, caller: str = CALLER) -> list[CallAnswer]:
    """What a caller hears from now on."""
    heard: list[CallAnswer] = []
    stands = asyncio.Event()
    calls.hear(caller, heard.extend, stands.set)
    await asyncio.sleep(0)
    try:
        async with asyncio.timeout(0.5):
            await stands.wait()
    except TimeoutError:
        pass  # one that never loses anything need not say so
    return heard


async def ids(calls: Calls, most: int = 10, worker: str = "w1") -> Sequence[str]:
    return [one.id for one in (await calls.take(worker, {FORM: most})).calls]


async def test_a_call_is_taken_once_with_the_time_that_is_left(place: Place) -> None:
    sent = call(body=bytes(range(256)), left_s=30.0)
    assert await place.calls.send([sent]) == [True]
    assert await place.calls.where([sent.id]) == [WAITING]
    (taken,) = (await place.other_calls.take("w1", {FORM: 5, OTHER: 5})).calls
    assert (taken.id, taken.form, taken.body) == (sent.id, FORM, sent.body)
    assert 0 < taken.left_s <= 30.0
    assert await place.calls.where([sent.id]) == ["w1"]
    assert await ids(place.calls) == []


async def test_higher_levels_are_taken_first_then_the_oldest(place: Place) -> None:
    low, normal, next_, high = call(level=2), call(level=1), call(level=1), call(level=0)
    await place.calls.send([low, normal])
    await place.calls.send([next_, high])
    taken = await place.calls.take("w1", {FORM: 3})
    assert [one.id for one in taken.calls] == [high.id, normal.id, next_.id]
    assert taken.more == {FORM}
    last = await place.calls.take("w1", {FORM: 3})
    assert ([one.id for one in last.calls], last.more) == ([low.id], frozenset())


async def test_an_answer_goes_to_its_caller_alone(place: Place) -> None:
    mine, other = await hearing(place.calls), await hearing(place.other_calls, "caller-67890")
    sent = [call(), call()]
    await place.calls.send(sent)
    await ids(place.other_calls)
    await place.other_calls.answer([CallAnswer(one.id, b"to " + one.id.encode()) for one in sent])
    await until(lambda: len(mine) == 2)
    assert {one.id: one.body for one in mine} == {one.id: b"to " + one.id.encode() for one in sent}
    assert other == []
    assert await place.calls.where([one.id for one in sent]) == ["", ""]


async def test_large_bodies_and_answers_arrive_whole(place: Place) -> None:
    heard = await hearing(place.calls)
    sent = call(body=bytes(300_000))
    await place.calls.send([sent])
    (taken,) = (await place.other_calls.take("w1", {FORM: 1})).calls
    assert taken.body == sent.body
    answers = [
        CallAnswer(sent.id, b"y" * 3_000_000),
        CallAnswer(call().id, b"small"),
        CallAnswer(call().id, b"z" * 70_000),
    ]
    await place.other_calls.answer(answers)
    await until(lambda: len(heard) == 3)
    assert {one.id: one.body for one in heard} == {one.id: one.body for one in answers}


async def test_a_queue_is_bounded_in_number(place: Place) -> None:
    sent = [call() for _ in range(MOST_WAITING + 2)]
    assert await place.calls.send(sent) == [True] * MOST_WAITING + [False] * 2
    assert await place.calls.send([call(OTHER)]) == [True]
    assert await place.calls.where([sent[-1].id]) == [""]
    await ids(place.calls, 1)
    assert await place.calls.send([call(), call()]) == [True, False]


async def test_a_queue_is_bounded_in_bytes(place: Place) -> None:
    half = bytes(MOST_WAITING_BYTES // 2)
    assert await place.calls.send([call(body=half), call(body=half), call(body=b"x")]) == [True, True, False]
    await ids(place.calls)
    assert await place.calls.send([call(body=half), call(body=half)]) == [True, True]


async def test_what_nobody_waits_for_any_more_leaves_room_in_a_full_queue(place: Place) -> None:
    dropped = [call() for _ in range(3)]
    overdue = [call(left_s=0.01) for _ in range(MOST_WAITING - 3)]
    await place.calls.send([*dropped, *overdue])
    await place.calls.drop([one.id for one in dropped])
    await asyncio.sleep(0.05)
    fresh = call()
    assert await place.calls.send([fresh]) == [True]
    assert await ids(place.calls) == [fresh.id]


async def test_a_call_that_is_overdue_or_dropped_is_not_taken(place: Place) -> None:
    overdue, dropped, kept = call(left_s=0.01), call(), call()
    await place.calls.send([overdue, dropped, kept])
    await place.calls.drop([dropped.id])
    await asyncio.sleep(0.05)
    assert await ids(place.calls) == [kept.id]
    assert await place.calls.where([overdue.id, dropped.id]) == ["", ""]


async def test_a_call_that_is_given_back_goes_before_all_others(place: Place) -> None:
    first, second = call(), call(level=0)
    await place.calls.send([first])
    taken = (await place.calls.take("w1", {FORM: 1})).calls
    await place.calls.send([second])
    await place.calls.give_back(taken)
    assert await place.calls.where([first.id]) == [WAITING]
    assert await ids(place.other_calls, worker="w2") == [first.id, second.id]


async def test_a_call_that_was_dropped_is_not_queued_again(place: Place) -> None:
    sent = call()
    await place.calls.send([sent])
    taken = (await place.calls.take("w1", {FORM: 1})).calls
    await place.calls.drop([sent.id])
    await place.calls.give_back(taken)
    assert await ids(place.calls) == []


async def test_workers_are_told_of_the_forms_that_have_come(place: Place) -> None:
    told: list[frozenset[str]] = []
    place.other_calls.watch(told.append)
    await until(lambda: told)
    assert told.pop() == frozenset()
    await place.calls.send([call(), call(OTHER), call()])
    await until(lambda: told)
    assert frozenset().union(*told) == {FORM, OTHER}
