"""The express lane alone, over a transport without a socket and under a clock of the test's own."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest
from tests.differential.replies import Reply, parse
from tests.differential.streams import CLOSE, INFER, JSON, chunked, document, get, request
from tests.differential.transport import HIGH_WATER_BYTES, FakeTransport
from tests.differential.ways import Way, settle
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from forebay.api import lane_check
from forebay.api.lane import Lane, lane_protocol
from forebay.api.lane_time import LINGER_S, sweep, sweep_connections

ONE = request(JSON)
LIMITS: dict[str, Any] = {"head_timeout_s": 10.0, "body_timeout_s": 30.0, "keep_alive_s": 75.0}
LIMITS |= {"max_body_bytes": 1_000_000, "decode_off_loop_bytes": 10_000}


class Wire:
    """One connection and what is on it."""

    def __init__(self, way: Way) -> None:
        self.way = way
        self.lane, self.transport = way.connect()

    async def send(self, *pieces: bytes) -> Wire:
        for piece in pieces:
            if not self.transport.closing:
                self.lane.data_received(piece)
                await settle()
        return self

    def replies(self) -> list[Reply]:
        return parse(bytes(self.transport.written))

    def statuses(self) -> list[int]:
        return [reply.status for reply in self.replies()]

    @property
    def closed(self) -> bool:
        return self.lane.transport.is_closing()

    async def after(self, *seconds: float) -> Wire:
        """Sweeps at these instants."""
        for instant in seconds:
            sweep(self.lane, 1000.0 + instant)
            await settle()
        return self

    async def end(self) -> None:
        await self.way.end(self.lane, self.transport)


@pytest.fixture(params=["auto", "off"])
async def way(request: pytest.FixtureRequest) -> AsyncIterator[Way]:
    """With the lane and without: order and time are kept on both ways."""
    made = Way(request.param, max_pipelined=8, **LIMITS)
    yield made
    assert not made.state.connections


@pytest.fixture
async def wire(way: Way) -> AsyncIterator[Wire]:
    made = Wire(way)
    yield made
    await made.end()


@pytest.fixture
async def in_lane() -> AsyncIterator[Wire]:
    """A connection with the lane only."""
    made = Wire(Way("auto", **LIMITS))
    yield made
    await made.end()


# -- heads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
@pytest.mark.parametrize("target", [INFER, b"/v2/models/mlp/generate"])
async def test_only_clients_of_http_1_1_are_told_to_go_on(wire: Wire, target: bytes, version: bytes) -> None:
    head = request(b"", b"Expect: 100-continue", target=target, version=version, length=b"%d" % len(JSON))
    await wire.send(head)
    assert bytes(wire.transport.written).startswith(b"HTTP/1.1 100 ") == (version == b"HTTP/1.1")
    await wire.send(JSON)
    assert wire.statuses()[:-1] == [100] * (version == b"HTTP/1.1")


@pytest.mark.parametrize("target", [INFER, b"/v2/models/mlp/generate"])
@pytest.mark.parametrize("host", [b"a b", b"a/b", b"me@host", b"a?b", b"[::1", b"h:80:80", b"h\xc3\xa9"])
async def test_a_host_that_is_none_is_400(wire: Wire, target: bytes, host: bytes) -> None:
    await wire.send(
        request(JSON, target=target) + request(JSON, target=target).replace(b"Host: test", b"Host: " + host)
    )
    assert wire.statuses()[-1] == 400
    assert b"names no host (RFC 9112, 3.2)" in wire.replies()[-1].body
    assert wire.closed


@pytest.mark.parametrize("host", [b"", b"t", b"t:8000", b"[::1]:8000", b"a_b.example", b"10.0.0.1", b"%41", b"t \t"])
async def test_a_host_may_have_any_form_of_one(wire: Wire, host: bytes) -> None:
    one = ONE.replace(b"Host: test", b"Host: " + host)
    await wire.send(one, one, ONE)
    assert wire.statuses() == [200, 200, 200]


async def test_a_target_that_is_too_long_is_414(wire: Wire) -> None:
    await wire.send(ONE, b"GET /v2/models/%b HTTP/1.1\r\nHost: t\r\n\r\n" % (66_000 * b"a"))
    assert wire.statuses() == [200, 414]
    assert b"the request target has 66011 bytes; 65535 are taken" in wire.replies()[-1].body
    assert wire.closed


# -- order and flow ------------------------------------------------------------------------------------------------


async def test_answers_leave_in_the_order_of_the_requests(in_lane: Wire) -> None:
    engine = in_lane.way.engines["mlp"]
    engine.holding = True
    await in_lane.send(b"".join(request(document([[n, 0, 0, 0]], id=str(n))) for n in range(6)))
    for request_ in reversed(list(engine.waiting)):
        assert not in_lane.transport.written
        engine.waiting.remove(request_)
        engine.run(request_)
        request_.on_done(request_)
    ids = [reply.body[: reply.body.index(b",")] for reply in in_lane.replies()]
    assert ids == [b'{"id":"%d"' % n for n in range(6)]
    assert in_lane.way.state.total_requests == 6


@pytest.mark.parametrize("refused", [False, True])
async def test_reading_pauses_at_eight_unanswered(in_lane: Wire, refused: bool) -> None:
    engine = in_lane.way.engines["mlp"]
    engine.holding = True
    await in_lane.send(ONE)
    if refused:  # those behind it have their answers, but their turn has not come
        engine.state = "draining"
    for _ in range(6):
        await in_lane.send(ONE)
        assert in_lane.transport.reading
    await in_lane.send(ONE)
    assert not in_lane.transport.reading
    engine.release()
    await settle()
    assert in_lane.transport.reading
    assert len(in_lane.replies()) == 8
    engine.state = "ready"
    await in_lane.send(ONE)
    assert in_lane.statuses()[-1] == 200


@pytest.mark.parametrize("one", [chunked(JSON), get(b"/healthz"), ONE], ids=["chunks", "get", "json"])
async def test_reading_pauses_while_asgi_requests_wait(wire: Wire, one: bytes) -> None:
    """However often the app asks for its body, and whatever it answers: what is not read cannot fill our memory."""
    wire.way.hold(True)
    await wire.send(chunked(JSON) + one)
    assert not wire.transport.reading
    wire.lane.flow.resume_reading()
    assert not wire.transport.reading
    wire.way.hold(False)
    await settle()
    assert wire.transport.reading
    assert wire.statuses() == [200, 200]


async def test_a_flood_is_read_no_faster_than_it_is_answered(wire: Wire) -> None:
    waiting = []
    for _ in range(200):
        if wire.transport.reading:
            wire.lane.data_received(chunked(JSON) * 10)
        waiting.append(len(wire.lane.pipeline))
        await asyncio.sleep(0)
    assert max(waiting) <= 20
    await settle()


async def test_a_client_that_does_not_read_is_not_read(wire: Wire) -> None:
    wire.transport.reads = False
    large = request(document([[1.5, 2.5, 3.5, 4.5]] * 20))
    sent = 0
    while wire.transport.reading and sent < 2000:
        await wire.send(large)
        sent += 1
    assert len(wire.transport.written) < HIGH_WATER_BYTES + 5000
    await wire.after(0.0, 1.0, 2.0)
    assert not wire.transport.reading
    wire.transport.drain()
    await settle()
    assert wire.transport.reading
    await wire.send(ONE)
    assert wire.statuses() == [200] * (sent + 1)


async def test_an_app_that_waits_for_a_body_does_not_undo_that(wire: Wire) -> None:
    wire.transport.reads = False
    wire.way.hold(True)
    await wire.send(chunked(JSON)[:-40])
    wire.lane.pause_writing()
    await wire.send(b"")
    wire.lane.flow.resume_reading()
    assert not wire.transport.reading
    wire.lane.resume_writing()
    assert wire.transport.reading


# -- time ----------------------------------------------------------------------------------------------------------


async def test_a_client_that_says_nothing_is_let_go(wire: Wire) -> None:
    await wire.after(0, 10)
    assert not wire.closed
    await wire.after(10.1)
    assert wire.closed
    assert not wire.transport.written


@pytest.mark.parametrize("before", [b"", ONE, get(b"/healthz"), chunked(JSON)])
async def test_a_slow_head_is_408(wire: Wire, before: bytes) -> None:
    await wire.send(before + ONE[:30])
    await wire.after(0, 5)
    await wire.send(ONE[30:50])  # a drop now and then does not help
    await wire.after(9.9)
    assert not wire.closed
    await wire.after(10.1)
    assert wire.statuses() == [200] * bool(before) + [408]
    assert wire.replies()[-1].closes
    assert wire.closed


async def test_after_a_request_that_ends_its_connection_no_job_is_taken(way: Way) -> None:
    taken: list[Any] = []

    class Jobs:
        """What would take them."""

        def post(self, *given: Any) -> None:
            taken.append(given)

    way.protocol = lane_protocol(way.inference, way.settings, cast(Any, Jobs()))
    [name] = [name for name in way.engines if name == "mlp"]
    job = request(b'{"input":{"x":[1,2,3,4]}}').replace(b"/v2/models/mlp/infer", f"/v1/models/{name}/jobs".encode())
    assert b"/jobs" in job
    wire = await Wire(way).send(b"GET / HTTP/1.1\r\n\r\n" + job)
    assert (wire.statuses(), taken) == ([400], [])
    await wire.end()


@pytest.mark.parametrize("one", [ONE, chunked(JSON), request(JSON, b"Expect: 100-continue")], ids=["", "chunks", "100"])
@pytest.mark.parametrize("before", [b"", ONE, chunked(JSON)], ids=["", "json", "chunked"])
async def test_a_slow_body_is_408(wire: Wire, one: bytes, before: bytes) -> None:
    await wire.send(before + one[:-20])
    await wire.after(0, 15)
    await wire.send(one[-20:-10])
    await wire.after(29.9)
    assert not wire.closed
    await wire.after(30.1)
    assert [status for status in wire.statuses() if status >= 200] == [200] * bool(before) + [408]
    assert b'"body_timeout"' in wire.replies()[-1].body
    assert wire.closed


async def test_a_slow_body_of_a_route_that_is_not_inference_is_408(wire: Wire) -> None:
    await wire.send(request(b"{}", target=b"/v2/repository/index")[:-1])
    await wire.after(0, 30.1)
    assert wire.statuses() == [408]


async def test_a_slow_body_behind_others_waits_for_its_turn(in_lane: Wire) -> None:
    in_lane.way.hold(True)
    await in_lane.send(ONE + ONE[:-5])
    await in_lane.after(0, 30.1)
    assert not in_lane.transport.written
    in_lane.way.hold(False)
    await settle()
    assert in_lane.statuses() == [200, 408]
    assert in_lane.closed


async def test_a_refused_request_whose_body_does_not_come_has_one_answer(wire: Wire) -> None:
    wire.way.engines["mlp"].state = "draining"
    await wire.send(ONE[:-5])
    await wire.after(0, 30.1)
    assert wire.statuses() == [503]
    assert wire.closed


async def test_a_refused_request_behind_others_whose_body_does_not_come(in_lane: Wire) -> None:
    in_lane.way.hold(True)
    await in_lane.send(ONE)
    in_lane.way.engines["mlp"].state = "draining"
    await in_lane.send(ONE[:-5])
    await in_lane.after(0, 30.1)
    in_lane.way.hold(False)
    await settle()
    assert in_lane.statuses() == [200, 503]
    assert in_lane.closed


async def test_an_idle_connection_is_closed_and_one_that_waits_for_us_is_not(wire: Wire) -> None:
    wire.way.hold(True)
    await wire.send(ONE)
    await wire.after(*range(0, 200, 10))
    assert not wire.closed
    wire.way.hold(False)
    await settle()
    await wire.after(300, 374)
    assert not wire.closed
    await wire.send(ONE)
    await wire.after(380, 454)
    assert not wire.closed
    await wire.after(456)
    assert wire.closed
    assert wire.statuses() == [200, 200]


async def test_a_client_that_never_reads_is_let_go(wire: Wire) -> None:
    wire.transport.reads = False
    while wire.transport.reading:
        await wire.send(request(document([[1, 2, 3, 4]] * 20)))
    await wire.after(0, 1)  # the first sight of what is unsent
    wire.transport.buffered_bytes -= 1  # it took something
    await wire.after(70, 140)
    assert not wire.transport.lost
    await wire.after(146)
    assert wire.transport.lost


async def test_a_body_that_we_did_not_read_is_not_late(wire: Wire) -> None:
    await wire.send(ONE[:-5])
    wire.lane.pause_writing()
    await wire.after(*range(0, 60, 5))
    wire.lane.resume_writing()
    await wire.after(60, 61)
    assert not wire.closed
    await wire.send(ONE[-5:])
    assert wire.statuses() == [200]


async def test_a_client_that_goes_on_sending_after_its_last_answer(wire: Wire) -> None:
    await wire.send(request(b"x" * 1_000_001)[:1000])
    assert wire.statuses() == [413]
    assert wire.transport.ended
    assert not wire.transport.closing  # a socket closed with bytes unread would be reset, and the answer with it
    await wire.send(b"x" * 4000, ONE)
    await wire.after(0, 1, LINGER_S)
    assert not wire.transport.lost
    await wire.after(1.1 + LINGER_S)
    assert wire.transport.lost
    assert wire.statuses() == [413]


async def test_a_client_that_was_told_of_the_end_is_closed_at_once(wire: Wire) -> None:
    await wire.send(request(JSON, CLOSE))
    assert wire.statuses() == [200]
    assert wire.transport.lost


async def test_a_sweep_over_all_connections(way: Way) -> None:
    wires = [Wire(way) for _ in range(3)]
    sweep_connections({object(), *way.state.connections})
    assert all(wire.lane.since_s > 0 for wire in wires)
    for wire in wires:
        wire.transport.close()
    await settle()


async def test_a_fault_in_one_sweep_costs_that_connection_and_no_other(
    way: Way, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = Wire(way), Wire(way)

    def fault() -> bool:
        raise KeyError("a fault")

    monkeypatch.setattr(bad.lane.transport, "is_closing", fault)
    bad.lane.since_s = good.lane.since_s = 1.0
    with caplog.at_level(logging.ERROR):
        sweep_connections({bad.lane, good.lane})
    assert "internal error" in caplog.text
    assert good.lane.since_s == 0.0 or good.transport.closing  # it was looked at
    await settle()
    assert bad.transport.lost
    await good.end()


# -- endings -------------------------------------------------------------------------------------------------------


async def test_the_server_stops(way: Way) -> None:
    silent, idle, busy, half = (Wire(way) for _ in range(4))
    await idle.send(ONE)
    way.hold(True)
    await busy.send(ONE)
    await half.send(ONE[:-5])
    for wire in (silent, idle, busy, half):
        wire.lane.shutdown()
    assert [wire.transport.closing for wire in (silent, idle, busy, half)] == [True, True, False, False]
    way.hold(False)
    await half.send(ONE[-5:])
    for wire in (busy, half):
        assert wire.statuses() == [200]
        assert wire.replies()[0].closes
        assert wire.transport.lost
    for wire in (silent, idle, busy, half):
        await wire.end()
    assert way.state.total_requests == 3


async def test_the_server_stops_in_the_middle_of_a_head(wire: Wire) -> None:
    await wire.send(ONE + ONE[:10])
    wire.lane.shutdown()
    assert wire.transport.closing  # at once: nothing is being answered


async def test_a_fault_of_ours_costs_one_connection(in_lane: Wire, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def get(self, _: bytes) -> None:
            raise KeyError("a fault")

    in_lane.lane.by_path = Broken()  # type: ignore[assignment]
    with caplog.at_level(logging.ERROR):
        await in_lane.send(ONE)
    assert in_lane.transport.lost
    assert "internal error" in caplog.text
    other = Wire(in_lane.way)
    await other.send(ONE)
    assert other.statuses() == [200]
    await other.end()


@pytest.mark.parametrize("count", [1, 2])
async def test_an_answer_that_cannot_be_written_costs_one_connection(
    in_lane: Wire, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    def fault(*_: Any) -> bytes:
        raise KeyError("a fault")

    monkeypatch.setattr(type(in_lane.lane.heads), "of", fault)
    with caplog.at_level(logging.ERROR):
        await in_lane.send(request(b"{") * count)
    assert in_lane.transport.lost
    assert "internal error" in caplog.text


async def test_a_client_that_leaves_an_asgi_request_cancels_it_though_others_wait_behind(wire: Wire) -> None:
    wire.way.hold(True)
    await wire.send(chunked(JSON) * 3)
    assert wire.way.engines["mlp"].waiting
    wire.transport.reset()
    await settle()
    assert not wire.way.engines["mlp"].waiting
    assert not wire.way.state.tasks


@pytest.mark.parametrize("frame", [request, chunked])
async def test_a_large_body_of_a_client_that_leaves_while_it_is_decoded(
    wire: Wire, frame: Callable[..., bytes]
) -> None:
    wire.lane.data_received(frame(document([[1.5, 2.5, 3.5, 4.5]] * 20_000)))
    for _ in range(5):
        await asyncio.sleep(0)
    wire.transport.reset()
    await settle()
    assert wire.way.engines["mlp"].runs == 0
    await wire.end()
    other = Wire(wire.way)  # that it would have run otherwise
    await other.send(frame(document([[1.5, 2.5, 3.5, 4.5]] * 20_000)))
    assert other.statuses() == [200]
    assert wire.way.engines["mlp"].runs == 1
    await other.end()


def test_what_the_lane_needs_of_uvicorn_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lane_check.usable() == ""
    monkeypatch.delattr(HttpToolsProtocol, "_start_asgi_task")
    assert lane_check.usable() == "uvicorn's HTTP protocol has no _start_asgi_task"
    monkeypatch.undo()
    monkeypatch.setattr(lane_check, "RequestResponseCycle", lambda scope, flow: None)
    assert lane_check.usable() == "uvicorn's request cycle takes scope flow"


def test_nothing_refers_to_a_connection_that_is_gone() -> None:
    """Connections are freed at once, without a collection."""

    async def come_and_go() -> list[weakref.ref[Lane]]:
        way = Way("auto")
        references = []
        for data in (b"", ONE, get(b"/healthz"), ONE[:50], b"\0", chunked(JSON)[:-9]):
            wire = Wire(way)
            await wire.send(data)
            await wire.end()
            references.append(weakref.ref(wire.lane))
            del wire
        await asyncio.sleep(0)
        return references

    gc.disable()
    try:
        alive = [reference for reference in asyncio.run(come_and_go()) if reference() is not None]
    finally:
        gc.enable()
    assert alive == []


def test_the_fake_transport_behaves() -> None:
    async def check() -> None:
        transport = FakeTransport(asyncio.Protocol())
        transport.close()
        transport.write(b"late")
        assert (bytes(transport.written), bytes(transport.late)) == (b"", b"late")

    asyncio.run(check())
