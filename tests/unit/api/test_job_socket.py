from __future__ import annotations

import asyncio
import json
import logging
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

import pytest
from tests.unit.api.job_server import JobServer, job_server
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from forebay.api.auth import key_line
from forebay.api.job_socket import MOST_JOBS_A_MESSAGE
from forebay.core.errors import DependencyError
from forebay.jobs.memory import MemoryJobs
from forebay.jobs.record import STATE_NAMES, State
from forebay.jobs.store import EVENTS_BYTES, Event
from forebay.jobs.subscription import Subscription

UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"
LIFE = [("status", 1), ("status", 2), ("done", 3)]


@pytest.fixture(params=["lane", "plain"])
async def served(request: pytest.FixtureRequest) -> AsyncIterator[JobServer]:
    async with job_server(lane=request.param == "lane") as found:
        yield found


async def eventually(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.005)


def opened(served: JobServer, path: str, **options: Any) -> connect:
    return connect(served.ws + path, compression=None, ping_interval=None, max_size=None, proxy=None, **options)


async def say(socket: ClientConnection, kind: str, *jobs: str, **members: Any) -> None:
    await socket.send(json.dumps({"type": kind, "jobs": jobs, **members}))


async def hear(socket: ClientConnection, *kinds: str) -> list[Any]:
    """The next messages, of these kinds."""
    messages = [json.loads(await socket.recv()) for _ in kinds]
    assert [message["type"] for message in messages] == list(kinds), messages
    return messages


async def rest(socket: ClientConnection) -> tuple[list[Any], int, str]:
    """Every message until the server closes; its code and reason."""
    messages = []
    with suppress(ConnectionClosed):
        async for message in socket:
            messages.append(json.loads(message))
    return messages, socket.close_code or 0, socket.close_reason or ""


def order(messages: Sequence[Any], id: str = "") -> list[tuple[str, int]]:
    return [(message["type"], message["sequence"]) for message in messages if id in ("", message.get("id"))]


async def test_one_job_is_followed_to_its_end_and_the_connection_closes(served: JobServer) -> None:
    id = await served.submit()
    async with opened(served, f"/v1/jobs/{id}/ws") as socket:
        assert await hear(socket, "status") == [
            {"type": "status", "id": id, "sequence": 1, "status": "queued", "attempt": 0}
        ]
        await served.start(id)
        await served.tell(id, progress=0.5)
        await served.tell(id, piece=b"[1]")
        await served.succeed(id)
        messages, code, _ = await rest(socket)
    assert order(messages) == [("status", 2), ("progress", 3), ("output", 4), ("done", 5)]
    assert messages[2]["output"] == [1]
    assert (messages[3]["id"], messages[3]["job"]["status"]) == (id, "succeeded")
    assert code == 1000
    await eventually(lambda: len(served.streams) == len(served.hub) == 0)


async def test_one_job_is_resumed_after_an_event(served: JobServer) -> None:
    id = await served.submit()
    await served.run(id)
    for last in range(4):
        async with opened(served, f"/v1/jobs/{id}/ws?last_event_id={last}") as socket:
            messages, code, _ = await rest(socket)
        assert (order(messages), code) == ([*LIFE, ("done", 3)][min(last, 2) :][: max(1, 3 - last)], 1000)


async def test_many_jobs_are_followed_over_one_connection(served: JobServer) -> None:
    ids = [await served.submit() for _ in range(300)]
    other = await served.submit()
    async with opened(served, "/v1/ws") as socket:
        await say(socket, "subscribe", *ids)
        assert (await hear(socket, "subscribed"))[0]["jobs"] == ids
        assert {message["id"] for message in await hear(socket, *["status"] * 300)} == set(ids)
        await served.run(*ids, other)
        messages = [json.loads(await socket.recv()) for _ in range(600)]
        assert all(order(messages, id) == LIFE[1:] for id in ids)
        await eventually(lambda: len(served.hub) == 0)
        await say(socket, "subscribe", other, after={other: 2})
        assert order((await hear(socket, "subscribed", "done"))[1:]) == [("done", 3)]
    await eventually(lambda: len(served.streams) == 0)


async def test_ids_may_be_in_upper_case_as_over_http_and_what_is_no_id_is_told_how_they_look(served: JobServer) -> None:
    id = await served.submit()
    async with opened(served, "/v1/ws") as socket:
        await say(socket, "subscribe", id.upper(), "nonsense", after={id.upper(): 1})
        (error,) = await hear(socket, "error")
        assert error["error"].startswith("there is no job 'nonsense': ids are UUIDs of version 7")
        assert (await hear(socket, "subscribed"))[0]["jobs"] == [id]
        await served.run(id)
        assert order(await hear(socket, "status", "done"), id) == LIFE[1:]
        await say(socket, "unsubscribe", id.upper())
        await hear(socket, "unsubscribed")


async def test_who_unsubscribes_hears_no_more_and_may_come_back(served: JobServer) -> None:
    one, two = await served.submit(), await served.submit()
    async with opened(served, "/v1/ws") as socket:
        await say(socket, "subscribe", one, two)
        await hear(socket, "subscribed", "status", "status")
        await say(socket, "unsubscribe", one, UNKNOWN)
        await hear(socket, "unsubscribed")
        await served.run(one, two)
        assert order(await hear(socket, "status", "done"), two) == LIFE[1:]
        await say(socket, "subscribe", one, after={one: 1})
        assert order((await hear(socket, "subscribed", "status", "done"))[1:], one) == LIFE[1:]


async def test_subscribing_again_begins_anew(served: JobServer) -> None:
    id = await served.submit()
    await served.start(id)
    async with opened(served, "/v1/ws") as socket:
        for _ in range(2):
            await say(socket, "subscribe", id, id)
            assert order((await hear(socket, "subscribed", "status", "status"))[1:]) == LIFE[:2]
        await served.succeed(id)
        assert order(await hear(socket, "done")) == LIFE[2:]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("no json", "malformed"),
        ("{}", "type"),
        ('{"type": "publish"}', "publish"),
        ('{"type": "subscribe"}', "jobs"),
        ('{"type": "subscribe", "jobs": []}', "jobs"),
        ('{"type": "subscribe", "jobs": [1]}', "jobs"),
        ('{"type": "subscribe", "jobs": ["a"], "since": 1}', "since"),
        ('{"type": "subscribe", "jobs": ["a"], "after": {"a": -1}}', "after"),
        (json.dumps({"type": "subscribe", "jobs": ["a"] * (MOST_JOBS_A_MESSAGE + 1)}), "1000"),
        (b'{"type": "subscribe"}', "text"),
    ],
)
async def test_a_message_that_is_not_understood_is_answered_and_the_connection_goes_on(
    served: JobServer, message: str | bytes, words: str
) -> None:
    async with opened(served, "/v1/ws") as socket:
        await socket.send(message)
        (error,) = await hear(socket, "error")
        assert error["code"] == "invalid_request"
        assert words in error["error"]
        id = await served.submit()
        await say(socket, "subscribe", id)
        await hear(socket, "subscribed", "status")


async def test_jobs_that_cannot_be_followed_are_named_and_the_others_followed(served: JobServer) -> None:
    id, gone = await served.submit(), await served.submit(retention_s=0.001)
    await served.run(gone)
    await asyncio.sleep(0.01)
    async with opened(served, "/v1/ws") as socket:
        await say(socket, "subscribe", "none", UNKNOWN, gone, id)
        messages = await hear(socket, "error", "error", "error", "subscribed", "status")
    assert [(message["id"], message["code"]) for message in messages[:3]] == [
        ("none", "job_not_found"),
        (UNKNOWN, "job_not_found"),
        (gone, "job_gone"),
    ]
    assert messages[3]["jobs"] == [id]


async def test_a_job_that_is_deleted_is_an_error_and_its_own_connection_ends(served: JobServer) -> None:
    id = await served.submit()
    async with opened(served, "/v1/ws") as many, opened(served, f"/v1/jobs/{id}/ws") as one:
        await say(many, "subscribe", id)
        await hear(many, "subscribed", "status")
        await hear(one, "status")
        await served.jobs.delete(id)
        (error,) = await hear(many, "error")
        assert (error["id"], error["code"]) == (id, "job_not_found")
        messages, code, _ = await rest(one)
        assert ([message["code"] for message in messages], code) == (["job_not_found"], 1000)


async def test_a_connection_of_one_job_takes_no_messages(served: JobServer) -> None:
    id = await served.submit()
    async with opened(served, f"/v1/jobs/{id}/ws") as socket:
        await hear(socket, "status")
        await say(socket, "subscribe", id)
        assert "no message" in (await hear(socket, "error"))[0]["error"]
        await served.run(id)
        assert order((await rest(socket))[0]) == LIFE[1:]


async def refused(served: JobServer, path: str, **options: Any) -> tuple[int, str]:
    with pytest.raises(InvalidStatus) as refusal:
        async with opened(served, path, **options):
            pass
    answer = refusal.value.response
    return answer.status_code, json.loads(answer.body or b"{}")["code"]


async def test_a_handshake_is_refused_with_the_answer_of_http(served: JobServer) -> None:
    id = await served.submit()
    assert await refused(served, f"/v1/jobs/{UNKNOWN}/ws") == (404, "job_not_found")
    assert await refused(served, "/v1/jobs/none/ws") == (404, "job_not_found")
    assert await refused(served, f"/v1/jobs/{id}/ws?last_event_id=x") == (400, "invalid_request")
    assert await refused(served, "/v1/ws", subprotocols=[Subprotocol("soap")]) == (400, "invalid_request")
    assert len(served.streams) == 0


async def test_a_refused_handshake_is_no_error_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    async with job_server(lane=True) as served:
        assert await refused(served, f"/v1/jobs/{UNKNOWN}/ws") == (404, "job_not_found")
        with pytest.raises(InvalidStatus):
            async with opened(served, "/v1/none/ws"):
                pass
    assert [line.getMessage() for line in caplog.records if line.levelno > logging.INFO] == []


async def test_keys_are_asked_for_in_a_header_or_a_subprotocol_and_tenants_do_not_see_each_other() -> None:
    async with job_server(keys=f"{key_line('ann', 'fb_a')}\n{key_line('bob', 'fb_b')}") as served:
        id = await served.submit("ann")
        path = f"/v1/jobs/{id}/ws"
        ann, bob = ({"additional_headers": {"Authorization": f"Bearer fb_{name}"}} for name in "ab")
        assert await refused(served, path) == (401, "unauthorized")
        assert await refused(served, path, **bob) == (404, "job_not_found")
        wrong = [Subprotocol("forebay.jobs"), Subprotocol("forebay.key.fb_c")]
        assert await refused(served, path, subprotocols=wrong) == (401, "unauthorized")
        async with opened(served, path, **ann) as socket:
            assert socket.subprotocol is None
            await hear(socket, "status")
        offered = [Subprotocol("forebay.key.fb_a"), Subprotocol("forebay.jobs")]
        async with opened(served, path, subprotocols=offered) as socket:
            assert socket.subprotocol == "forebay.jobs"
            await hear(socket, "status")
        async with opened(served, "/v1/ws", **bob) as socket:
            await say(socket, "subscribe", id)
            assert (await hear(socket, "error", "subscribed"))[0]["code"] == "job_not_found"


async def test_pages_of_other_sites_are_refused(served: JobServer) -> None:
    for origin in ("https://evil.example", f"http://localhost:{served.port}", "null"):
        assert await refused(served, "/v1/ws", origin=origin) == (403, "forbidden")
    site = {"additional_headers": {"Sec-Fetch-Site": "cross-site"}}
    assert await refused(served, "/v1/ws", **site) == (403, "forbidden")
    async with opened(served, "/v1/ws", origin=served.http):
        pass


async def test_nothing_is_lost_or_told_twice_whenever_connections_break(served: JobServer) -> None:
    chance = random.Random(7)
    ids = [await served.submit() for _ in range(20)]
    await served.start(*ids)
    had: dict[str, list[Any]] = {id: [] for id in ids}

    def open_ids() -> list[str]:
        return [id for id in ids if not had[id] or had[id][-1]["type"] != "done"]

    async def follow() -> None:
        while left := open_ids():
            async with opened(served, "/v1/ws") as socket:
                after = {id: had[id][-1]["sequence"] for id in left if had[id]}
                await say(socket, "subscribe", *left, after=after)
                for _ in range(chance.randrange(2, 200)):
                    message = json.loads(await socket.recv())
                    if message["type"] != "subscribed":
                        had[message["id"]].append(message)
                    if not open_ids():
                        return
                socket.transport.abort()

    following = asyncio.create_task(follow())
    for number in range(100):
        for id in ids:
            await served.tell(id, piece=b"%d" % number)
        if not number % 10:
            await asyncio.sleep(0.005)
    await served.succeed(*ids)
    await following
    for messages in had.values():
        assert [message["sequence"] for message in messages] == list(range(1, 104))
        assert [message["output"] for message in messages[2:-1]] == list(range(100))
    await eventually(lambda: len(served.streams) == len(served.hub) == 0)


class Deaf(MemoryJobs):
    """A store whose changes are all lost."""

    def changes(self, states: Collection[State] = STATE_NAMES) -> Subscription:
        return Subscription()


async def test_changes_that_are_lost_delay_events_and_lose_none() -> None:
    async with job_server(jobs=Deaf(), look_every_s=0.05) as served:
        id = await served.submit()
        async with opened(served, f"/v1/jobs/{id}/ws") as socket:
            await hear(socket, "status")
            await served.run(id)
            assert order((await rest(socket))[0]) == LIFE[1:]


class Absent(MemoryJobs):
    """A store that is away for a while, or has a fault."""

    away = 0
    error: type[Exception] = DependencyError

    async def events(self, id: str, after: int, most_bytes: int = EVENTS_BYTES) -> Sequence[Event]:
        if self.away:
            self.away -= 1
            raise self.error("the store is away")
        return await super().events(id, after, most_bytes)


async def test_a_store_that_is_away_for_a_while_costs_no_event() -> None:
    jobs = Absent()
    async with job_server(jobs=jobs, look_every_s=0.02) as served:
        id = await served.submit()
        jobs.away = 3
        async with opened(served, f"/v1/jobs/{id}/ws") as socket:
            await hear(socket, "status")
            await served.run(id)
            assert order((await rest(socket))[0]) == LIFE[1:]


async def test_a_fault_closes_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    jobs = Absent()
    async with job_server(jobs=jobs) as served:
        id = await served.submit()
        jobs.away, jobs.error = 1, ZeroDivisionError
        with caplog.at_level(logging.CRITICAL):
            async with opened(served, f"/v1/jobs/{id}/ws") as socket:
                assert (await rest(socket))[:2] == ([], 1011)


def upgraded(served: JobServer, path: str, receive_bytes: int = 0) -> socket.socket:
    """A WebSocket on a bare socket, which may read slowly, or vanish."""
    raw = socket.socket()
    if receive_bytes:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    raw.connect(("127.0.0.1", served.port))
    head = (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    raw.send(head.encode())
    raw.setblocking(False)
    return raw


async def test_a_client_that_does_not_read_is_dropped_and_others_go_on() -> None:
    async with job_server(beat_s=0.3) as served:
        id = await served.submit()
        await served.start(id)
        slow = upgraded(served, f"/v1/jobs/{id}/ws", receive_bytes=4096)
        async with opened(served, f"/v1/jobs/{id}/ws") as socket:
            await eventually(lambda: len(served.streams) == 2)
            piece = json.dumps("x" * 100_000).encode()
            following = asyncio.create_task(rest(socket))
            for _ in range(100):
                await served.tell(id, piece=piece)
                await asyncio.sleep(0)
            await eventually(lambda: len(served.streams) == 1)
            await served.succeed(id)
            messages, code, _ = await following
        assert [message["sequence"] for message in messages] == list(range(1, 104))
        assert code == 1000
        slow.close()


async def test_a_client_that_was_too_slow_is_told_why_when_it_reads_at_last() -> None:
    async with job_server(beat_s=0.3) as served:
        id = await served.submit()
        await served.start(id)
        slow = upgraded(served, f"/v1/jobs/{id}/ws", receive_bytes=4096)
        await eventually(lambda: len(served.streams) == 1)
        for _ in range(100):
            await served.tell(id, piece=json.dumps("x" * 100_000).encode())
        (connection,) = served.server.server_state.connections
        await eventually(lambda: connection.close_sent)  # type: ignore[union-attr]
        got = b""
        while piece := await asyncio.get_running_loop().sock_recv(slow, 1 << 16):
            got += piece
        assert got.endswith(struct.pack("!H", 1013) + b"events are not read")
        await eventually(lambda: len(served.streams) == 0)
        slow.close()


async def test_a_thousand_clients_that_vanish_leave_nothing_behind(served: JobServer) -> None:
    before = len(asyncio.all_tasks())
    ids = [await served.submit() for _ in range(100)]
    raw = []
    for number in range(1000):
        raw.append(upgraded(served, f"/v1/jobs/{ids[number % 100]}/ws"))
        if not number % 50:
            await asyncio.sleep(0)
    await eventually(lambda: len(served.streams) == 1000)
    for client in raw:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    await eventually(lambda: len(served.streams) == len(served.hub) == 0)
    await eventually(lambda: not served.server.server_state.connections)
    await eventually(lambda: len(asyncio.all_tasks()) <= before + 2)


async def test_a_shutdown_sends_everybody_back_at_a_time_of_its_own_and_nothing_is_lost() -> None:
    jobs = MemoryJobs()
    async with job_server(jobs=jobs) as served:
        ids = [await served.submit() for _ in range(30)]
        sockets = [await opened(served, f"/v1/jobs/{id}/ws") for id in ids]
        for one in sockets:
            await hear(one, "status")
    retries = []
    for one in sockets:
        messages, code, _ = await rest(one)
        assert (code, [message["type"] for message in messages]) == (1012, ["retry"])
        retries.append(messages[0]["retry_ms"])
        await one.close()
    assert all(2000 <= retry <= 4000 for retry in retries)
    assert len(set(retries)) > 15
    async with job_server(jobs=jobs) as served:
        await served.run(*ids)
        async with opened(served, "/v1/ws") as socket:
            await say(socket, "subscribe", *ids, after=dict.fromkeys(ids, 1))
            await hear(socket, "subscribed")
            messages = [json.loads(await socket.recv()) for _ in range(60)]
        assert all(order(messages, id) == LIFE[1:] for id in ids)


async def test_a_message_larger_than_the_bound_closes_the_connection(served: JobServer) -> None:
    async with opened(served, "/v1/ws") as socket:
        await socket.send("x" * (1 << 20))
        assert (await rest(socket))[1] == 1009
    await eventually(lambda: len(served.streams) == 0)


async def test_a_closed_hub_sends_clients_back(served: JobServer) -> None:
    id = await served.submit()
    async with opened(served, f"/v1/jobs/{id}/ws") as socket, opened(served, "/v1/ws") as many:
        await hear(socket, "status")
        await served.hub.close()
        assert (await rest(socket))[1] == 1012
        await say(many, "subscribe", id)
        assert (await rest(many))[1] == 1012


async def test_a_websocket_is_refused_while_an_answer_is_owed_on_its_connection() -> None:
    async with job_server() as served:
        id = await served.submit()
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        upgrade = b"GET /v1/ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        writer.write(b"GET /v1/jobs/%b/events HTTP/1.1\r\nHost: a\r\n\r\n" % id.encode() + upgrade)
        await eventually(lambda: len(served.streams) == 1)
        await served.run(id)
        got = await reader.readuntil(b"\r\n0\r\n\r\n")
        assert b"event: done" in got
        assert b"404 Not Found" in await reader.readuntil(b"\r\n"), "as if it had not asked for an upgrade"
        writer.close()
        await writer.wait_closed()
