"""The streams of tests/differential over real sockets, and what only time and full buffers show. With the express lane
and without."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import psutil
import pytest
from tests.differential import streams
from tests.differential.replies import Reply, parse
from tests.differential.streams import INFER, JSON, Part, chunked, document, request
from tests.e2e.server import Served, eventually, model, quick, serving
from tests.e2e.wire import wire

WAIT = b"/v2/models/wait/infer"
PATIENCE_S = 20.0


def wait(milliseconds: float, *lines: bytes) -> bytes:
    body = b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","data":[%f]}]}' % milliseconds
    return request(body, *lines, target=WAIT)


@pytest.fixture(scope="module")
def framed(lane: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server for the streams of tests/differential, with little patience."""
    flags = ["--max-body-bytes", str(streams.MAX_BODY_BYTES), "--decode-off-loop-bytes", str(streams.SLOW_BODY_BYTES)]
    flags += ["--head-timeout-s", "1", "--body-timeout-s", "1", "--keep-alive-s", "3", "--express-lane", lane]
    models = quick(*model("framing.py", "Mlp", "Text", "Wait"))
    with serving(tmp_path_factory.mktemp("framed"), *models, *flags) as served:
        yield served


class Client:
    """One connection, read as a whole."""

    def __init__(self, port: int, receive_bytes: int = 0) -> None:
        self.socket = socket.socket()
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data = b""
        self.closed = False

    def send(self, pieces: Sequence[bytes], pause_s: float = 0.0) -> Client:
        """The server may close meanwhile: what it said before that counts."""
        for piece in pieces:
            try:
                self.socket.sendall(piece)
            except (BrokenPipeError, ConnectionResetError):
                break
            if pause_s:
                time.sleep(pause_s)
        return self

    def replies(self, count: int, *, to_the_end: bool = False) -> list[Reply]:
        """The first `count` answers, or all until the server closes."""
        while to_the_end or len(self._whole()) < count:
            block = self.socket.recv(1 << 16)
            if not block:
                self.closed = True
                break
            self.data += block
        return self._whole()

    def _whole(self) -> list[Reply]:
        with contextlib.suppress(ValueError):
            return parse(self.data)
        return []


def has_in_flight(served: Served, count: int) -> bool:
    """Whether so many requests of `wait` are admitted and unanswered."""
    return served.in_flight("wait") == count


@contextlib.contextmanager
def client(served: Served, receive_bytes: int = 0) -> Iterator[Client]:
    made = Client(served.port, receive_bytes)
    try:
        yield made
    finally:
        made.socket.close()


def check(served: Served, parts: Sequence[Part], pieces: Sequence[bytes], pause_s: float = 0.0) -> None:
    """The server answers as the table says."""
    wanted = [status for part in parts for status in part.statuses]
    with client(served) as one:
        one.send(pieces, pause_s)
        closes = any(part.closes for part in parts)
        replies = one.replies(len(wanted), to_the_end=closes)
        assert [reply.status for reply in replies] == wanted, pieces
        assert one.closed == closes


@pytest.mark.parametrize("group", ["lane", "asgi", "last"])
def test_every_request_alone_and_among_others(framed: Served, group: str) -> None:
    rng = random.Random(7)
    table = {"lane": streams.lane_parts, "asgi": streams.asgi_parts, "last": streams.last_parts}[group]()
    json, chunks = Part("json", request(JSON), (200,)), Part("chunked", chunked(JSON), (200,))
    for part in table:
        for parts in ([part], [json, part], [chunks, part], [json, chunks, json, part]):
            data = b"".join(each.data for each in parts)
            check(framed, parts, [data])
            check(framed, parts, streams.cut(data, [rng.randrange(1, len(data))]), pause_s=0.002)


def test_mixed_requests_are_answered_in_order(framed: Served) -> None:
    rng = random.Random(8)
    parts = [*streams.lane_parts(), *streams.asgi_parts()]
    for _ in range(60):
        chosen = rng.choices(parts, k=rng.randint(2, 12))
        check(framed, chosen, streams.random_cuts(rng, b"".join(part.data for part in chosen)))


def test_mutated_streams_leave_nothing(framed: Served) -> None:
    rng = random.Random(9)
    parts = [*streams.lane_parts(), *streams.asgi_parts(), *streams.last_parts()]
    for _ in range(300):
        data = b"".join(part.data for part in rng.choices(parts, k=rng.randint(1, 4)))
        with client(framed) as one:
            one.send(streams.random_cuts(rng, streams.mutated(rng, data)))
    eventually(lambda: framed.in_flight("mlp") + framed.in_flight("text") == 0, "nothing is in flight")
    assert framed.http.post(INFER.decode(), content=JSON).status_code == 200
    assert "internal error" not in framed.output


def test_the_last_answers_arrive_though_the_client_goes_on_sending(framed: Served) -> None:
    for last, status in ((b"\0" * 5_000_000, 400), (request(b"x" * 5_000_000), 413), (b"X" * 5_000_000, 400)):
        for before in (request(JSON), chunked(JSON), request(JSON) + chunked(JSON)):
            with client(framed) as one:
                replies = one.send([before, last]).replies(0, to_the_end=True)
                assert [reply.status for reply in replies][-1] == status
                assert {reply.status for reply in replies[:-1]} == {200}


def test_a_head_or_a_body_that_trickles_in_is_408(framed: Served) -> None:
    def trickle(data: bytes, begin: int) -> list[Reply]:
        with client(framed) as one:
            one.send([data[:begin]])
            one.send([data[at : at + 1] for at in range(begin, begin + 20)], pause_s=0.15)
            return one.replies(0, to_the_end=True)

    streams_ = [request(JSON), chunked(JSON), request(JSON) + request(JSON), request(JSON) + chunked(JSON)]
    with ThreadPoolExecutor(8) as pool:
        for replies in pool.map(trickle, streams_ * 2, [20] * 4 + [len(data) - 40 for data in streams_]):
            assert replies[-1].status == 408
            assert replies[-1].closes


def test_an_idle_connection_expires(framed: Served) -> None:
    with client(framed) as one, client(framed) as other, client(framed) as silent:
        assert [reply.status for reply in one.send([request(JSON)]).replies(1)] == [200]
        assert [reply.status for reply in other.send([chunked(JSON)]).replies(1)] == [200]
        for each in (silent, one, other):
            assert each.socket.recv(1) == b""


def test_a_client_that_never_reads_costs_little_and_nobody_else(framed: Served) -> None:
    process = psutil.Process(framed.process.pid)
    one = request(document([[1.5, 2.5, 3.5, 4.5]], id="x" * 800))
    with client(framed, receive_bytes=4096) as deaf:
        deaf.socket.setblocking(False)
        before_bytes = process.memory_info().rss
        sent, stuck_since, rest = 0, 0.0, b""
        while not stuck_since or time.monotonic() - stuck_since < 0.5:
            try:
                rest = rest or one
                taken = deaf.socket.send(rest)
            except BlockingIOError:
                stuck_since = stuck_since or time.monotonic()
                time.sleep(0.01)
                continue
            stuck_since, rest, sent = 0.0, rest[taken:], sent + taken
            assert sent < 64 << 20, "the server reads on and on"
        assert process.memory_info().rss - before_bytes < 16 << 20
        assert framed.http.post(INFER.decode(), content=JSON).status_code == 200
        deaf.socket.settimeout(PATIENCE_S)
        deaf.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        wanted = sent // len(one)
        blocks: list[bytes] = []
        seen, tail = 0, b""
        while seen < wanted:
            block = deaf.socket.recv(1 << 20)
            assert block, b"".join(blocks)[-600:]
            blocks.append(block)
            seen += (tail + block).count(b"}]}")  # the end of an answer
            tail = block[-2:]
        replies = parse(b"".join(blocks))
        assert {reply.status for reply in replies} == {200}
        assert len(replies) == wanted


def test_reading_pauses_at_eight_unanswered(framed: Served, lane: str) -> None:
    at_once = 8 if lane == "auto" else 1  # an ASGI request runs when the one before it is answered
    with client(framed) as one:
        one.send([wait(600)])
        for number in range(1, 12):
            admitted = min(number, at_once)
            eventually(partial(has_in_flight, framed, admitted), "it is admitted")
            one.send([wait(number)])
        assert [reply.status for reply in one.replies(12)] == [200] * 12
        assert framed.in_flight("wait") == 0


def test_sigterm_answers_what_is_in_flight(lane: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("drain")
    with (
        serving(folder, *quick(*model("framing.py", "Wait")), "--express-lane", lane) as served,
        wire(served.port) as idle,
    ):
        idle.send(wait(1.0))
        assert idle.reply().status == 200
        with client(served) as one, client(served) as other:
            one.send([wait(500)])
            other.send([wait(50)] * 3)
            eventually(lambda: served.in_flight("wait") >= 2, "they are in flight")
            served.process.send_signal(signal.SIGTERM)
            for each, count in ((one, 1), (other, 3 if lane == "auto" else 1)):
                replies = each.replies(0, to_the_end=True)
                assert [reply.status for reply in replies[:count]] == [200] * count
                assert replies[-1].closes
            assert idle.closed()
        assert served.process.wait(PATIENCE_S) == 0
        assert "Traceback" not in served.output
