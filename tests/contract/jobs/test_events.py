"""Events of jobs: numbered without gap or duplicate, and told to who listens."""

from __future__ import annotations

import asyncio

from tests.contract.jobs.calls import (
    CRASHED,
    LEASE_S,
    Listener,
    leased,
    reaped,
    record,
    started,
    submitted,
    succeed,
)
from tests.contract.jobs.stores import Jobs, Store

from forebay.jobs.record import State
from forebay.jobs.store import Event, Finish, LeasedJob, Partial


async def told(jobs: Jobs, job: LeasedJob, *partials: Partial) -> None:
    """Tell, and be believed."""
    assert list(await jobs.tell(partials)) == [True] * len(partials)


def brief(events: list[Event]) -> list[tuple[int, str, str, int]]:
    """Their numbers, kinds, states and attempts."""
    return [(event.sequence, event.kind, event.state, event.attempt) for event in events]


async def test_a_job_tells_its_whole_story(store: Store) -> None:
    job = await started(store.jobs)
    await told(
        store.jobs,
        job,
        Partial(job, piece=b'{"t":"a"}', number=1),
        Partial(job, progress=0.25, number=2),
        Partial(job, piece=b'{"t":"b"}', number=3),
    )
    await succeed(store.jobs, job)
    events = list(await store.other.events(job.spec.id, 0))
    assert brief(events) == [
        (1, "status", "queued", 0),
        (2, "status", "running", 1),
        (3, "output", "running", 1),
        (4, "progress", "running", 1),
        (5, "output", "running", 1),
        (6, "status", "succeeded", 1),
    ]
    assert [event.piece for event in events] == [b"", b"", b'{"t":"a"}', b"", b'{"t":"b"}', b""]
    assert events[3].progress == 0.25
    assert (await record(store.jobs, job.spec.id)).sequence == 6


async def test_events_go_on_behind_any_of_them(jobs: Jobs) -> None:
    job = await started(jobs)
    await told(jobs, job, *(Partial(job, piece=b"%d" % number, number=number) for number in range(1, 21)))
    await succeed(jobs, job)
    whole = list(await jobs.events(job.spec.id, 0))
    assert [event.sequence for event in whole] == list(range(1, 24))
    for after in range(25):
        assert list(await jobs.events(job.spec.id, after)) == whole[after:]


async def in_pieces(jobs: Jobs, id: str, after: int, most_bytes: int) -> list[Event]:
    """All events, read as a slow client reads them."""
    found: list[Event] = []
    while some := await jobs.events(id, found[-1].sequence if found else after, most_bytes):
        pieces = [len(event.piece) for event in some if event.kind == "output"]
        assert len(pieces) <= 1 or sum(pieces) <= most_bytes
        found += some
    return found


async def test_many_events_are_read_in_pieces_of_bounded_size(store: Store) -> None:
    jobs = store.jobs
    [id] = await submitted(jobs)
    for attempt in (1, 2):
        [job] = await leased(jobs)
        sizes = [50_000 if number % 50 == 0 else number % 7 for number in range(1, 301)]
        for start in range(0, 300, 100):
            part = enumerate(sizes[start : start + 100], start + 1)
            await told(jobs, job, *(Partial(job, piece=b"x" * size, number=number) for number, size in part))
        if attempt == 1:
            await store.pass_s(LEASE_S + 1.0)
            await reaped(store)
    for _ in ("while it runs", "and at its end"):
        whole = list(await store.other.events(id, 0, 1 << 30))
        assert len(whole) > 300
        assert [len(event.piece) for event in whole if event.kind == "output"] == sizes
        for most_bytes in (1, 1000, 60_000, 1 << 20):
            assert await in_pieces(store.other, id, 0, most_bytes) == whole
        for after in range(0, whole[-1].sequence + 2, 41):
            rest = [event for event in whole if event.sequence > after]
            assert await in_pieces(store.other, id, after, 3000) == rest
        assert len(await jobs.events(id, 0)) < len(whole)
        await succeed(jobs, job)


async def test_progress_and_a_piece_at_once_are_two_events(jobs: Jobs) -> None:
    job = await started(jobs)
    await told(jobs, job, Partial(job, progress=0.5, piece=b"1", number=1))
    events = await jobs.events(job.spec.id, 2)
    assert sorted(event.kind for event in events) == ["output", "progress"]
    assert [event.sequence for event in events] == [3, 4]


async def test_the_record_tells_the_latest_progress(store: Store) -> None:
    job = await started(store.jobs)
    assert (await record(store.jobs, job.spec.id)).progress == 0.0
    await told(store.jobs, job, Partial(job, progress=0.25, number=1), Partial(job, progress=0.75, number=2))
    found = await record(store.other, job.spec.id)
    assert (found.progress, found.state, found.sequence) == (0.75, "running", 4)


async def test_another_attempt_begins_without_progress(jobs: Jobs) -> None:
    job = await started(jobs)
    await told(jobs, job, Partial(job, progress=0.5, number=1))
    await jobs.finish([Finish(job, "retry", error=CRASHED)])
    [again] = await leased(jobs)
    assert (await record(jobs, job.spec.id)).progress == 0.0
    await told(jobs, again, Partial(again, progress=0.25, number=1))
    assert (await record(jobs, job.spec.id)).progress == 0.25


async def test_what_is_told_again_is_not_added_again(store: Store) -> None:
    job = await started(store.jobs)
    partials = [Partial(job, progress=0.5, number=1), Partial(job, piece=b"1", number=2)]
    await told(store.jobs, job, *partials)
    before = list(await store.jobs.events(job.spec.id, 0))
    await told(store.other, job, *partials, partials[0])
    assert list(await store.jobs.events(job.spec.id, 0)) == before
    await told(store.other, job, Partial(job, piece=b"2", number=3))
    assert len(await store.jobs.events(job.spec.id, 0)) == len(before) + 1


async def test_who_lost_a_job_tells_nothing(store: Store) -> None:
    zombie = await started(store.jobs)
    await store.pass_s(LEASE_S + 1.0)
    await reaped(store)
    [job] = await leased(store.jobs)
    partials = [Partial(zombie, piece=b"late", number=1), Partial(job, piece=b"right", number=1)]
    assert list(await store.jobs.tell(partials)) == [False, True]
    pieces = [event.piece for event in await store.jobs.events(job.spec.id, 0) if event.kind == "output"]
    assert pieces == [b"right"]
    await succeed(store.jobs, job)
    assert list(await store.jobs.tell([Partial(job, progress=1.0, number=2)])) == [False]


async def test_numbers_go_on_over_attempts_and_the_latest_is_whole(store: Store) -> None:
    jobs = store.jobs
    [id] = await submitted(jobs)
    for attempt in (1, 2, 3):
        [job] = await leased(jobs)
        await told(jobs, job, *(Partial(job, piece=b"%d" % attempt, number=number) for number in (1, 2, 3)))
        if attempt == 1:
            await jobs.finish([Finish(job, "retry", error=CRASHED)])
        elif attempt == 2:
            await store.pass_s(LEASE_S + 1.0)
            await reaped(store)
        events = list(await jobs.events(id, 0))
        numbers = [event.sequence for event in events]
        assert numbers == sorted(set(numbers))
        assert numbers[-1] == (await record(jobs, id)).sequence == 5 * attempt + (0 if attempt == 3 else 1)
    assert brief(events[-4:]) == [
        (12, "status", "running", 3),
        (13, "output", "running", 3),
        (14, "output", "running", 3),
        (15, "output", "running", 3),
    ]
    ends = [(event.sequence, event.attempt) for event in events if event.kind == "status" and event.state == "queued"]
    assert set(ends) >= {(6, 1), (11, 2)}


async def test_every_change_is_told_to_every_listener_in_order(store: Store) -> None:
    async with Listener(store.jobs) as here, Listener(store.other) as there, Listener(store.other) as also:
        job = await started(store.jobs)
        await told(store.jobs, job, Partial(job, progress=0.5, number=1))
        await succeed(store.jobs, job)
        for listener in (here, there, also):
            changes = await listener.until(job.spec.id, 4)
            numbers = [change.sequence for change in changes]
            assert numbers == sorted(set(numbers))
            assert (changes[-1].state, changes[-1].sequence) == ("succeeded", 4)


async def test_a_listener_hears_of_the_states_it_asks_for(store: Store) -> None:
    wanted: set[State] = {"succeeded", "canceled"}
    async with Listener(store.other, wanted) as listener, Listener(store.other) as everything:
        job = await started(store.jobs)
        await succeed(store.jobs, job)
        [canceled] = await submitted(store.jobs)
        await store.jobs.cancel([canceled])
        assert len(await everything.until(canceled, 2)) == 2
        await listener.until(canceled, 2)
        await listener.until(job.spec.id, 3)
        heard = {(change.id, change.sequence, change.state) for change in listener.heard}  # shards keep no order
        assert heard == {(job.spec.id, 3, "succeeded"), (canceled, 2, "canceled")}


async def test_all_ends_are_told(store: Store) -> None:
    async with Listener(store.other) as listener:
        [expired] = await submitted(store.jobs, ttl_s=20.0)
        await store.pass_s(21.0)
        await reaped(store)
        [canceled] = await submitted(store.jobs)
        await store.jobs.cancel([canceled])
        silent = await started(store.jobs, max_attempts=1)
        await store.pass_s(LEASE_S + 1.0)
        await reaped(store)
        deleted = await started(store.jobs)
        await store.jobs.delete(deleted.spec.id)
        ends = [(expired, 2, "expired"), (canceled, 2, "canceled"), (silent.spec.id, 3, "failed")]
        for id, sequence, state in [*ends, (deleted.spec.id, 3, "canceled")]:
            changes = await listener.until(id, sequence)
            assert changes[-1].state == state


async def test_who_looks_when_told_finds_what_was_told(store: Store) -> None:
    ids = await submitted(store.jobs, 50)

    async def work() -> None:
        for job in await leased(store.jobs, len(ids)):
            await succeed(store.jobs, job)

    async with Listener(store.other) as listener:
        working = asyncio.create_task(work())
        for id in ids:
            await listener.until(id, 3)
            assert (await record(store.other, id)).state == "succeeded"
        await working


async def test_who_stops_listening_disturbs_nobody(store: Store) -> None:
    async with Listener(store.jobs) as stays:
        async with Listener(store.jobs) as leaves:
            [first] = await submitted(store.jobs)
            await leaves.until(first, 1)
        [second] = await submitted(store.jobs)
        assert [change.state for change in await stays.until(second, 1)] == ["queued"]


async def test_a_repeated_call_is_told_to_nobody_twice(store: Store) -> None:
    async with Listener(store.jobs) as listener:
        job = await started(store.jobs)
        for _ in range(3):
            await store.jobs.extend([job], LEASE_S)
            await succeed(store.jobs, job)
            await store.jobs.cancel([job.spec.id])
        await listener.until(job.spec.id, 3)
        [last] = await submitted(store.jobs)
        await listener.until(last, 1)
        numbers = [change.sequence for change in listener.heard if change.id == job.spec.id]
        assert numbers == sorted(set(numbers))
        assert numbers[-1] == 3
