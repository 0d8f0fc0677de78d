from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import Any, cast

import pytest

from forebay.api.job_hub import Hub, Seen
from forebay.core.errors import DependencyError
from forebay.jobs.record import STATE_NAMES, JobRecord, JobSpec, Output, State
from forebay.jobs.store import Change, Gone, JobReader, Look


class Reader:
    """Records by hand, and a subscription that can lose, break and end."""

    def __init__(self) -> None:
        self.records: dict[str, Look] = {}
        self.reads: list[tuple[int, bool]] = []
        self.subscriptions = 0
        self.heard: asyncio.Queue[Sequence[Change] | Exception] = asyncio.Queue()
        self.broken: Exception | None = None
        self.held: asyncio.Event | None = None

    def set(self, id: str, state: State, sequence: int = 1, *, tell: bool = True) -> None:
        spec = JobSpec(id=id, model="m", tenant="t")
        self.records[id] = JobRecord(spec=spec, state=state, sequence=sequence, output=Output(body=id.encode()))
        if tell:
            self.heard.put_nowait([Change(id, sequence, state, "m")])

    async def read(self, ids: Sequence[str], *, output: bool = True) -> Sequence[Look]:
        self.reads.append((len(ids), output))
        if self.held is not None:
            await self.held.wait()
        if self.broken is not None:
            raise self.broken
        return [self.records.get(id) for id in ids]

    async def changes(self, states: Collection[State] = STATE_NAMES) -> AsyncIterator[Sequence[Change]]:
        self.subscriptions += 1
        while True:
            found = await self.heard.get()
            if isinstance(found, Exception):
                raise found
            yield found


class Notes:
    def __init__(self) -> None:
        self.seen: list[tuple[str, int, Seen]] = []
        self.errors: list[tuple[str, DependencyError]] = []

    def told(self, id: str, sequence: int, seen: Seen) -> None:
        self.seen.append((id, sequence, seen))

    def failed(self, id: str, error: DependencyError) -> None:
        self.errors.append((id, error))


async def eventually(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.001)


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
async def hub(reader: Reader) -> AsyncIterator[Hub]:
    hub = hub_of(reader)
    yield hub
    await hub.close()


def hub_of(reader: Reader, look_every_s: float = 3600.0) -> Hub:
    return Hub(cast(JobReader, reader), look_every_s=look_every_s)


def body_of(look: Look) -> bytes:
    assert isinstance(look, JobRecord)
    assert look.output is not None
    return look.output.body


async def test_a_poll_returns_the_finished_record_with_its_output(hub: Hub, reader: Reader) -> None:
    reader.set("a", "queued")
    waiting = asyncio.create_task(hub.until_final("a", 60.0))
    await eventually(lambda: reader.reads)
    reader.set("a", "running", 2)
    reader.set("a", "succeeded", 3)
    found = await waiting
    assert isinstance(found, JobRecord)
    assert (found.state, body_of(found)) == ("succeeded", b"a")
    assert len(hub) == 0


async def test_a_poll_of_a_job_that_is_finished_already_needs_no_change(hub: Hub, reader: Reader) -> None:
    reader.set("a", "failed", tell=False)
    assert isinstance(await hub.until_final("a", 60.0), JobRecord)
    reader.records["b"] = Gone("t")
    assert await hub.until_final("b", 60.0) == Gone("t")
    assert await hub.until_final("c", 60.0) is None


async def test_a_poll_that_takes_too_long_returns_the_record_as_it_is(hub: Hub, reader: Reader) -> None:
    reader.set("a", "running")
    found = await hub.until_final("a", 0.0)
    assert isinstance(found, JobRecord)
    assert found.state == "running"
    assert len(hub) == 0


async def test_a_change_that_is_lost_is_found_within_a_round(reader: Reader) -> None:
    hub = hub_of(reader, look_every_s=0.01)
    for number in range(600):
        reader.set(f"job {number}", "queued", tell=False)
    waiting = [asyncio.create_task(hub.until_final(id, 60.0)) for id in reader.records]
    await eventually(lambda: sum(count for count, _ in reader.reads) >= 600)
    for id in reader.records:
        reader.set(id, "succeeded", 3, tell=False)
    assert [body_of(look) for look in await asyncio.gather(*waiting)] == [id.encode() for id in reader.records]
    await hub.close()


async def test_everybody_is_looked_up_when_changes_may_have_been_lost(hub: Hub, reader: Reader) -> None:
    reader.set("a", "queued")
    waiting = asyncio.create_task(hub.until_final("a", 60.0))
    await eventually(lambda: reader.reads)
    reader.set("a", "succeeded", 3, tell=False)
    reader.heard.put_nowait([])
    assert isinstance(await waiting, JobRecord)


async def test_a_subscription_that_breaks_is_begun_again_and_everybody_looked_up(hub: Hub, reader: Reader) -> None:
    reader.set("a", "queued")
    waiting = asyncio.create_task(hub.until_final("a", 60.0))
    await eventually(lambda: reader.reads)
    reader.set("a", "succeeded", 3, tell=False)
    reader.heard.put_nowait(DependencyError("the store is away"))
    assert isinstance(await waiting, JobRecord)
    await eventually(lambda: reader.subscriptions == 2)


async def test_all_who_wait_share_one_subscription_and_few_reads(hub: Hub, reader: Reader) -> None:
    ids = [f"job {number}" for number in range(1000)]
    for id in ids:
        reader.set(id, "queued", tell=False)
    count = len(asyncio.all_tasks())
    waiting = [asyncio.ensure_future(hub.until_final(id, 60.0)) for id in ids]
    await eventually(lambda: len(reader.reads) == 4)
    assert len(asyncio.all_tasks()) - count - len(waiting) <= 2, "the hub's own tasks do not grow with those who wait"
    for id in ids:
        reader.set(id, "succeeded", 3, tell=False)
    reader.heard.put_nowait([Change(id, 3, "succeeded") for id in ids])
    await asyncio.gather(*waiting)
    assert reader.subscriptions == 1
    assert reader.reads == [(256, False)] * 3 + [(232, False)] + [(256, True)] * 3 + [(232, True)]


async def test_nobody_who_waits_is_looked_up_for_nothing(hub: Hub, reader: Reader) -> None:
    assert reader.subscriptions == 0
    notes = Notes()
    hub.subscribe("a", notes)
    hub.unsubscribe("a", notes)
    hub.unsubscribe("a", notes)
    await asyncio.sleep(0.02)
    assert reader.reads == []


async def test_a_subscriber_is_told_how_far_a_job_is_and_then_of_each_change(hub: Hub, reader: Reader) -> None:
    notes, other = Notes(), Notes()
    reader.set("a", "queued", tell=False)
    hub.subscribe("a", notes)
    hub.subscribe("a", other)
    await eventually(lambda: notes.seen)
    hub.unsubscribe("a", other)
    reader.set("a", "running", 2)
    reader.set("b", "running", 2)
    await eventually(lambda: len(notes.seen) == 2)
    assert notes.seen == [("a", 1, "queued"), ("a", 2, "running")]
    assert other.seen == [("a", 1, "queued")]


async def test_a_subscriber_that_fails_costs_nobody_else(
    hub: Hub, reader: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    class Faulty(Notes):
        def told(self, id: str, sequence: int, seen: Seen) -> None:
            raise ZeroDivisionError

    faulty, notes = Faulty(), Notes()
    reader.set("a", "queued", tell=False)
    hub.subscribe("a", faulty)
    hub.subscribe("a", notes)
    with caplog.at_level(logging.CRITICAL):
        await eventually(lambda: notes.seen)
    assert [id for id, _ in faulty.errors] == ["a"]
    reader.set("a", "running", 2)
    await eventually(lambda: len(notes.seen) == 2)


async def test_polls_are_answered_when_the_server_begins_to_end_and_streams_go_on(hub: Hub, reader: Reader) -> None:
    reader.set("a", "running", 2, tell=False)
    notes = Notes()
    hub.subscribe("a", notes)
    waiting = asyncio.create_task(hub.until_final("a", 60.0))
    await eventually(lambda: notes.seen)
    hub.drain()
    for one in (await waiting, await hub.until_final("a", 60.0)):
        assert isinstance(one, JobRecord)
        assert one.state == "running"
    assert not notes.errors
    reader.set("a", "succeeded", 3)
    await eventually(lambda: len(notes.seen) == 2)


async def test_a_store_that_is_away_is_asked_again_and_nobody_is_given_up(hub: Hub, reader: Reader) -> None:
    reader.broken = DependencyError("the store is away")
    waiting = asyncio.create_task(hub.until_final("a", 60.0))
    await eventually(lambda: len(reader.reads) == 2)
    reader.set("a", "succeeded", 3, tell=False)
    reader.broken = None
    assert isinstance(await waiting, JobRecord)


async def test_a_record_that_cannot_be_read_is_an_error_to_each_who_asked(hub: Hub, reader: Reader) -> None:
    reader.broken = DependencyError("the store is away")
    found = await asyncio.gather(hub.read("a"), hub.read("b"), return_exceptions=True)
    assert [str(error) for error in found] == ["the store is away"] * 2
    assert found[0] is not found[1]


@pytest.mark.parametrize("part", ["changes", "read"])
async def test_a_fault_in_the_hub_is_an_error_to_all_who_wait_and_the_next_starts_it_anew(
    hub: Hub, reader: Reader, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    reader.set("a", "queued", tell=False)
    waiting = asyncio.create_task(hub.until_final("a", 60.0))
    await eventually(lambda: reader.reads)
    with caplog.at_level(logging.CRITICAL):
        if part == "changes":
            reader.heard.put_nowait(ZeroDivisionError())
        else:
            reader.broken = ZeroDivisionError()
            reader.heard.put_nowait([])
        with pytest.raises(DependencyError, match="try again"):
            await waiting
    reader.broken = None
    waiting = asyncio.create_task(hub.until_final("a", 60.0))
    reader.set("a", "succeeded", 3)
    assert isinstance(await waiting, JobRecord)


async def test_closing_is_an_error_to_all_who_wait(hub: Hub, reader: Reader) -> None:
    reader.held = asyncio.Event()
    reader.set("a", "queued", tell=False)
    notes = Notes()
    hub.subscribe("a", notes)
    waiting = [asyncio.create_task(call) for call in (hub.until_final("a", 60.0), hub.read("a"))]
    await eventually(lambda: len(reader.reads) == 2)
    asked_last = asyncio.create_task(hub.read("b"))
    await asyncio.sleep(0)
    await hub.close()
    for one in (*waiting, asked_last):
        with pytest.raises(DependencyError, match="shutting down"):
            await one
    assert [id for id, _ in notes.errors] == ["a"]
    with pytest.raises(DependencyError, match="shutting down"):
        hub.subscribe("a", notes)
    with pytest.raises(DependencyError, match="shutting down"):
        await hub.read("a")
