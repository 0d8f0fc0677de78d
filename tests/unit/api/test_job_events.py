from __future__ import annotations

import asyncio
import json
import logging
import random
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from contextlib import aclosing, suppress
from typing import Any, cast

import httpx
import pytest
from httpx_sse import ServerSentEvent, aconnect_sse
from starlette.requests import Request as HttpRequest
from tests.unit.api.job_server import JobServer, job_server

from forebay.api.auth import key_line
from forebay.api.inference import LEAVING, Leaving
from forebay.api.job_events import JobEvents
from forebay.api.job_hub import Hub, Seen
from forebay.api.job_streams import Follow, Streams
from forebay.core.errors import DependencyError
from forebay.jobs.memory import MemoryJobs
from forebay.jobs.record import STATE_NAMES, Output, State
from forebay.jobs.store import EVENTS_BYTES, Change, Event
from forebay.jobs.subscription import Subscription

UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"


@pytest.fixture(params=["lane", "plain"])
async def served(request: pytest.FixtureRequest) -> AsyncIterator[JobServer]:
    async with job_server(lane=request.param == "lane") as found:
        yield found


async def eventually(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.005)


async def stream(served: JobServer, id: str, last: str = "", **headers: str) -> AsyncGenerator[ServerSentEvent, None]:
    """The events of one connection, as they come."""
    headers = {**headers, **({"Last-Event-ID": last} if last else {})}
    async with (
        httpx.AsyncClient(timeout=30) as client,
        aconnect_sse(client, "GET", f"{served.http}/v1/jobs/{id}/events", headers=headers) as source,
    ):
        assert source.response.status_code == 200, (await source.response.aread()).decode()
        async for event in source.aiter_sse():
            if event.event != "message":  # `retry:` alone
                yield event


async def whole(served: JobServer, id: str, last: str = "", **headers: str) -> list[tuple[int, str, Any]]:
    """(id, kind, data) of every event until the server ends the stream."""
    return [told(event) async for event in stream(served, id, last, **headers)]


def told(event: ServerSentEvent) -> tuple[int, str, Any]:
    return int(event.id or 0), event.event, event.json()


async def get(served: JobServer, path: str, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(timeout=30) as client:
        return await client.get(served.http + path, headers=headers)


async def lived(served: JobServer) -> str:
    """A job that has had every kind of event."""
    id = await served.submit()
    await served.start(id)
    await served.tell(id, progress=0.5)
    await served.tell(id, piece=b'{"y":[1]}')
    await served.succeed(id)
    return id


KINDS = [(1, "status"), (2, "status"), (3, "progress"), (4, "output"), (5, "done")]


async def test_a_job_is_told_from_its_queue_to_its_end_and_then_the_stream_ends(served: JobServer) -> None:
    id = await served.submit()
    events = []
    async with aclosing(stream(served, id)) as source:
        async for event in source:
            events.append(told(event))
            if len(events) == 1:
                await served.start(id)
            elif len(events) == 2:
                await served.tell(id, progress=0.5)
            elif len(events) == 3:
                await served.tell(id, piece=b'{"y":\n[1]}')
            elif len(events) == 4:
                await served.succeed(id)
    assert [event[:2] for event in events] == KINDS
    assert [event[2] for event in events[:4]] == [
        {"type": "status", "id": id, "sequence": 1, "status": "queued", "attempt": 0},
        {"type": "status", "id": id, "sequence": 2, "status": "running", "attempt": 1},
        {"type": "progress", "id": id, "sequence": 3, "attempt": 1, "progress": 0.5},
        {"type": "output", "id": id, "sequence": 4, "attempt": 1, "output": {"y": [1]}},
    ]
    assert events[4][2]["status"] == "succeeded"
    assert events[4][2]["output"] == {"output": {"y": [1]}}
    await eventually(lambda: len(served.streams) == len(served.hub) == 0)


async def test_a_finished_job_is_told_whole_at_once(served: JobServer) -> None:
    id = await lived(served)
    assert [event[:2] for event in await whole(served, id)] == KINDS


@pytest.mark.parametrize("last", [1, 2, 3, 4])
async def test_who_comes_back_is_sent_what_it_has_not_had(served: JobServer, last: int) -> None:
    id = await lived(served)
    assert [event[:2] for event in await whole(served, id, str(last))] == KINDS[last:]
    path = f"/v1/jobs/{id}/events?last_event_id={last}"
    assert (await get(served, path)).text.count("event: ") == 5 - last
    assert (await get(served, path, **{"Last-Event-ID": "4"})).text.count("event: ") == 1, "the header is the newer"


async def test_who_has_had_all_is_told_to_stay_away(served: JobServer) -> None:
    id = await lived(served)
    answer = await get(served, f"/v1/jobs/{id}/events", **{"Last-Event-ID": "5"})
    assert (answer.status_code, answer.content) == (204, b"")


async def test_nothing_is_lost_or_told_twice_whenever_connections_break(served: JobServer) -> None:
    chance = random.Random(7)
    ids = [await served.submit() for _ in range(8)]
    await served.start(*ids)
    had: dict[str, list[tuple[int, str, Any]]] = {id: [] for id in ids}

    async def follow(id: str) -> None:
        while not had[id] or had[id][-1][1] != "done":
            left = chance.randrange(1, 30)
            last = str(had[id][-1][0]) if had[id] else ""
            async with aclosing(stream(served, id, last)) as source:
                async for event in source:
                    had[id].append(told(event))
                    left -= 1
                    if not left:
                        break

    following = [asyncio.create_task(follow(id)) for id in ids]
    for number in range(200):
        for id in ids:
            await served.tell(id, piece=b"%d" % number)
        if not number % 10:
            await asyncio.sleep(0.005)
    await served.succeed(*ids)
    await asyncio.gather(*following)
    for events in had.values():
        assert [event[0] for event in events] == list(range(1, 204))
        assert [event[2]["output"] for event in events[2:-1]] == list(range(200))
    await eventually(lambda: len(served.streams) == len(served.hub) == 0)


async def test_a_job_that_runs_again_says_so_and_tells_its_attempt(served: JobServer) -> None:
    id = await served.submit()
    await served.start(id)
    await served.tell(id, piece=b"1")
    following = asyncio.create_task(whole(served, id))
    await eventually(lambda: len(served.hub))
    await served.retry(id)
    await served.start(id)
    await served.tell(id, piece=b"2")
    await served.succeed(id)
    events = await following
    statuses = [(data["status"], data["attempt"]) for _, kind, data in events if kind == "status"]
    assert statuses == [("queued", 0), ("running", 1), ("queued", 1), ("running", 2)]
    assert [data["output"] for _, kind, data in events if kind == "output" and data["attempt"] == 2] == [2]


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 16])
async def test_an_id_that_no_event_has_is_refused(served: JobServer, last: str) -> None:
    id = await served.submit()
    answer = await get(served, f"/v1/jobs/{id}/events", **{"Last-Event-ID": last})
    assert answer.status_code == 400
    assert repr(last) in answer.json()["detail"]


async def test_an_id_that_a_store_has_lost_again_stands_for_the_last_event_there_is(served: JobServer) -> None:
    id = await served.submit()
    following = asyncio.create_task(whole(served, id, "99"))
    await eventually(lambda: len(served.hub))
    await served.run(id)
    assert [event[:2] for event in await following] == [(2, "status"), (3, "done")]


async def test_what_is_no_job_is_answered_like_the_job_itself(served: JobServer) -> None:
    for id in (UNKNOWN, "none"):
        answer = await get(served, f"/v1/jobs/{id}/events")
        assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")
    id = await served.submit(retention_s=0.001)
    await served.run(id)
    await asyncio.sleep(0.01)
    answer = await get(served, f"/v1/jobs/{id}/events")
    assert (answer.status_code, answer.json()["code"]) == (410, "job_gone")


async def test_head_ends_at_once(served: JobServer) -> None:
    id = await served.submit()
    async with httpx.AsyncClient() as client:
        answer = await client.head(f"{served.http}/v1/jobs/{id}/events")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert len(served.streams) == 0


async def test_a_job_is_followed_by_its_tenant_only() -> None:
    async with job_server(keys=f"{key_line('ann', 'a')}\n{key_line('bob', 'b')}") as served:
        id = await served.submit("ann")
        await served.run(id)
        path = f"/v1/jobs/{id}/events"
        assert (await get(served, path)).status_code == 401
        assert (await get(served, path, Authorization="Bearer b")).json()["code"] == "job_not_found"
        assert [event[1] for event in await whole(served, id, Authorization="Bearer a")][-1] == "done"


async def test_a_job_that_is_deleted_ends_its_streams_with_a_problem(served: JobServer) -> None:
    id = await served.submit()
    following = asyncio.create_task(whole(served, id))
    await eventually(lambda: len(served.hub))
    await asyncio.sleep(0.05)
    assert await served.jobs.delete(id)
    events = await following
    assert [event[1] for event in events] == ["status", "problem"]
    assert events[-1][2]["code"] == "job_not_found"


class Deaf(MemoryJobs):
    """A store whose changes are all lost."""

    def changes(self, states: Collection[State] = STATE_NAMES) -> Subscription:
        return Subscription()


async def test_changes_that_are_lost_delay_events_and_lose_none() -> None:
    async with job_server(jobs=Deaf(), look_every_s=0.05) as served:
        id = await served.submit()
        following = asyncio.create_task(whole(served, id))
        await eventually(lambda: len(served.hub))
        await served.run(id)
        assert [event[:2] for event in await following] == [(1, "status"), (2, "status"), (3, "done")]


class Absent(MemoryJobs):
    """A store that is away for a while."""

    away = 0

    async def events(self, id: str, after: int, most_bytes: int = EVENTS_BYTES) -> Sequence[Event]:
        if self.away:
            self.away -= 1
            raise DependencyError("the store is away")
        return await super().events(id, after, most_bytes)


async def test_a_store_that_is_away_for_a_while_costs_no_event() -> None:
    jobs = Absent()
    async with job_server(jobs=jobs, look_every_s=0.02) as served:
        id = await served.submit()
        jobs.away = 3
        following = asyncio.create_task(whole(served, id))
        await eventually(lambda: not jobs.away)
        await served.run(id)
        assert [event[:2] for event in await following] == [(1, "status"), (2, "status"), (3, "done")]


class Faulty(MemoryJobs):
    """A store with a fault in it."""

    async def events(self, id: str, after: int, most_bytes: int = EVENTS_BYTES) -> Sequence[Event]:
        raise ZeroDivisionError


async def test_a_fault_ends_the_stream_with_a_problem(caplog: pytest.LogCaptureFixture) -> None:
    async with job_server(jobs=Faulty()) as served:
        id = await served.submit()
        with caplog.at_level(logging.CRITICAL):
            assert [(kind, data["code"]) for _, kind, data in await whole(served, id)] == [("problem", "internal")]


async def test_an_idle_stream_is_kept_alive_by_comments() -> None:
    async with job_server(beat_s=0.1) as served, httpx.AsyncClient(timeout=30) as client:
        id = await served.submit()
        got = ""
        async with client.stream("GET", f"{served.http}/v1/jobs/{id}/events") as answer:
            async for text in answer.aiter_text():
                got += text
                if got.count(": keep-alive\n\n") == 3:
                    break
        assert got.startswith("retry: ")
        assert got.count("event: ") == 1


class RawClient:
    """A client on a bare socket, which may read slowly, or vanish."""

    def __init__(self, served: JobServer, id: str, receive_bytes: int = 0) -> None:
        self.socket = socket.socket()
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.connect(("127.0.0.1", served.port))
        self.socket.setblocking(False)
        self.socket.send(f"GET /v1/jobs/{id}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())

    async def until_end(self) -> bytes:
        """All that comes until the server ends the connection."""
        got = b""
        while piece := await asyncio.get_running_loop().sock_recv(self.socket, 1 << 16):
            got += piece
        return got

    def vanish(self) -> None:
        """Close by RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


@pytest.mark.parametrize("lane", [True, False])
async def test_a_client_that_does_not_read_is_dropped_and_others_go_on(
    lane: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    how: dict[str, Any] = {"keep_alive_s": 0.3} if lane else {"beat_s": 0.3}
    async with job_server(lane=lane, **how) as served:
        id = await served.submit()
        await served.start(id)
        slow = RawClient(served, id, receive_bytes=4096)
        following = asyncio.create_task(whole(served, id))
        await eventually(lambda: len(served.streams) == 2)
        piece = json.dumps("x" * 100_000).encode()
        for _ in range(100):
            await served.tell(id, piece=piece)
            await asyncio.sleep(0)
        await eventually(lambda: len(served.streams) == 1)
        await served.succeed(id)
        events = await following
        assert [event[0] for event in events] == list(range(1, 104))
        if lane:
            with suppress(ConnectionResetError):
                assert not (await slow.until_end()).endswith(b"\r\n0\r\n\r\n"), "its answer is not complete"
        slow.vanish()


async def test_a_client_that_left_before_its_stream_began_is_told_nothing(served: JobServer) -> None:
    leaving = Leaving()
    leaving.happen()
    scope: dict[str, Any] = {"type": "http", "path": "/", "headers": [], LEAVING: leaving}
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    events = JobEvents(served.streams, HttpRequest(scope), Follow(UNKNOWN, 0))
    await events(scope, cast(Any, None), send)
    assert sent == []


async def test_a_thousand_clients_that_vanish_leave_nothing_behind(served: JobServer) -> None:
    before = len(asyncio.all_tasks())
    ids = [await served.submit() for _ in range(100)]
    raw = []
    for number in range(1000):
        raw.append(RawClient(served, ids[number % 100]))
        if not number % 50:
            await asyncio.sleep(0)
    await eventually(lambda: len(served.streams) == 1000)
    for client in raw:
        client.vanish()
    await eventually(lambda: len(served.streams) == len(served.hub) == 0)
    await eventually(lambda: not served.server.server_state.connections)
    await eventually(lambda: len(asyncio.all_tasks()) <= before + 2)
    await served.run(*ids)
    assert (await whole(served, ids[0]))[-1][1] == "done"


async def test_a_shutdown_sends_everybody_back_at_a_time_of_its_own_and_nothing_is_lost() -> None:
    jobs = MemoryJobs()
    async with job_server(jobs=jobs) as served:
        ids = [await served.submit() for _ in range(50)]
        raw = [RawClient(served, id) for id in ids]
        await eventually(lambda: len(served.streams) == 50)
        await eventually(lambda: len(served.hub) == 50)
        await asyncio.sleep(0.1)
        leased = served.leased
    retries = []
    for client in raw:
        text = (await client.until_end()).decode()
        client.socket.close()
        assert text.endswith("0\r\n\r\n"), "the answer is complete"
        assert text.count("event: status") == 1
        retries.append(int(text.rsplit("retry: ", 1)[1].split("\n")[0]))
    assert all(2000 <= retry <= 4000 for retry in retries)
    assert len(set(retries)) > 25
    async with job_server(jobs=jobs) as served:
        served.leased.update(leased)
        await served.run(*ids)
        for id in ids:
            assert [event[:2] for event in await whole(served, id, "1")] == [(2, "status"), (3, "done")]


async def test_a_closed_hub_sends_clients_back(served: JobServer) -> None:
    id = await served.submit()
    following = asyncio.create_task(whole(served, id))
    await eventually(lambda: len(served.hub))
    await served.hub.close()
    assert await following == [] or [event[1] for event in await following] == ["status"]
    await eventually(lambda: not len(served.streams))


async def test_a_long_backlog_is_fetched_in_parts_and_a_large_event_alone() -> None:
    async with job_server() as served:
        id = await served.submit()
        await served.start(id)
        for size in (10, 10, 5000, 10):
            await served.tell(id, piece=json.dumps("x" * size).encode())
        await served.succeed(id, output=Output(body=b"1"))
        follow = Follow(id, 2)
        assert follow.told(7, "succeeded")
        parts = []
        while follow.behind:
            parts.append([item.sequence for item in await follow.fetch(served.streams, "", 1000)])
        assert parts == [[3, 4], [5], [6, 7]]
        assert not follow.told(7, "succeeded")


async def test_news_that_come_late_or_twice_change_nothing() -> None:
    follow = Follow("a", 3)
    seen: list[tuple[int, Seen]] = [(1, "queued"), (3, "running")]
    assert [follow.told(sequence, state) for sequence, state in seen] == [False, False]
    assert follow.told(4, "running")


class Backward(MemoryJobs):
    """A store that says that a job has ended which has not."""

    def changes(self, states: Collection[State] = STATE_NAMES) -> Subscription:
        subscription = super().changes(states)
        real = subscription.add

        def backward(*changes: Change) -> None:
            real(*(Change(change.id, change.sequence, "canceled") for change in changes))

        subscription.add = backward  # type: ignore[method-assign]
        return subscription


async def test_a_job_that_goes_on_after_all_is_told_to_its_end() -> None:
    async with job_server(jobs=Backward(), look_every_s=0.05) as served:
        id = await served.submit()
        following = asyncio.create_task(whole(served, id))
        await eventually(lambda: len(served.hub))
        await served.start(id)
        await asyncio.sleep(0.1)
        await served.succeed(id)
        assert [event[:2] for event in await following] == [(1, "status"), (2, "status"), (3, "done")]


async def test_streams_take_turns_at_being_looked_at() -> None:
    class Counted:
        beats = 0

        def beat(self) -> None:
            self.beats += 1

        def end(self) -> None:
            raise AssertionError

    async with job_server() as served:
        streams = Streams(Hub(served.jobs), served.streams.gate, served.streams.ready, beat_s=0.06)
        found = [Counted() for _ in range(120)]
        for one in found:
            streams.join(one)
        await eventually(lambda: all(one.beats >= 2 for one in found))
        beats = [one.beats for one in found]
        assert max(beats) - min(beats) <= 1, "each has its turn"
        for one in found:
            streams.leave(one)
        assert len(streams) == 0
