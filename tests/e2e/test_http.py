"""HTTP itself: framings, connections, slow clients, clients that leave. Held with the express lane and without."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.server import Served, body, eventually, model, quick, serving, values
from tests.e2e.wire import Reply, request, wire

RAGGED, PAUSE = "/v2/models/ragged/infer", "/v2/models/pause/infer"
KEY = "fb_a_key_for_tests"


def first(reply: Reply) -> list[float]:
    assert reply.status == 200, reply.body
    data: list[float] = reply.json()["outputs"][0]["data"]
    return data


@pytest.fixture(scope="session", params=["auto", "off"])
def lane(request: pytest.FixtureRequest) -> str:
    """Both, in the short form too."""
    value: str = request.param
    return value


@pytest.fixture(scope="module")
def strict(lane: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with API keys, a small body limit and little patience."""
    folder = tmp_path_factory.mktemp("strict")
    (folder / "keys.txt").write_text(f"alice:{hashlib.sha256(KEY.encode()).hexdigest()}\n")
    flags = ["--api-keys", "keys.txt", "--max-body-bytes", "10000", "--head-timeout-s", "1", "--body-timeout-s", "1"]
    with serving(folder, *quick(*model("faulty.py", "Pause")), *flags, "--express-lane", lane) as served:
        served.http.headers["authorization"] = f"Bearer {KEY}"
        yield served


# -- framings ---------------------------------------------------------------------------------------------------------


def test_a_connection_is_kept_and_used_again(house: Served) -> None:
    with wire(house.port) as connection:
        for number in range(5):
            assert first(connection.send(request(RAGGED, body([float(number)]))).reply()) == [number]


def test_a_connection_is_closed_where_the_client_asks_for_it(house: Served) -> None:
    with wire(house.port) as connection:
        assert first(connection.send(request(RAGGED, body([1.0]), "Connection: close")).reply()) == [1]
        assert connection.closed()


def test_http_1_0_is_answered_and_closed(house: Served) -> None:
    with wire(house.port) as connection:
        assert first(connection.send(request(RAGGED, body([1.0]), version="1.0")).reply()) == [1]
        assert connection.closed()


def test_a_body_in_chunks_is_read(house: Served) -> None:
    raw = json.dumps(body([4.0])).encode()
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (raw[:9], raw[9:10], raw[10:])) + b"0\r\n\r\n"
    with wire(house.port) as connection:
        connection.send(request(RAGGED, b"", "Transfer-Encoding: chunked"), chunks)
        assert first(connection.reply()) == [4]
        assert first(connection.send(request(RAGGED, body([5.0]))).reply()) == [5]


def test_expect_100_continue_is_answered_before_the_body(house: Served) -> None:
    raw = json.dumps(body([6.0])).encode()
    head = request(RAGGED, raw, "Expect: 100-continue").removesuffix(raw)
    with wire(house.port) as connection:
        assert connection.send(head).line().startswith(b"HTTP/1.1 100")
        assert connection.line() == b"\r\n"
        assert first(connection.send(raw).reply()) == [6]


def test_a_request_may_arrive_byte_by_byte(house: Served) -> None:
    with wire(house.port) as connection:
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request(RAGGED, body([7.0])):
            connection.send(bytes([byte]))
        assert first(connection.reply()) == [7]


def test_pipelined_requests_are_answered_in_order_whatever_they_are(house: Served) -> None:
    parts, wanted = [], []
    for number in range(24):
        if number % 5 == 4:
            parts.append(request("/v2/models/ragged"))
            wanted.append("ragged")
        elif number % 7 == 6:
            parts.append(request(RAGGED, b"{"))
            wanted.append("400")
        else:
            # The slow ones come first: an answer that is ready must still wait for its turn.
            parts.append(request(PAUSE, body([float(100 - 4 * number)])))
            wanted.append(str(100 - 4 * number))
    with wire(house.port) as connection:
        connection.send(*parts)
        got = []
        for _ in wanted:
            reply = connection.reply()
            answer = reply.json()
            got.append(answer.get("name") or (str(int(first(reply)[0])) if reply.status == 200 else str(reply.status)))
    assert got == wanted


def test_a_pipelining_client_that_asks_to_close_gets_all_answers_first(house: Served) -> None:
    parts = [request(PAUSE, body([float(n)])) for n in (30, 20, 10)] + [request("/healthz", None, "Connection: close")]
    with wire(house.port) as connection:
        connection.send(*parts)
        assert [first(connection.reply()) for _ in range(3)] == [[30], [20], [10]]
        assert connection.reply().status == 200
        assert connection.closed()


def test_more_pipelined_requests_than_the_limit_are_all_answered(house: Served) -> None:
    with wire(house.port) as connection:
        connection.send(*[request(RAGGED, body([float(number)])) for number in range(200)])
        assert [first(connection.reply())[0] for _ in range(200)] == list(range(200))


def test_what_is_not_http_is_a_400_and_closed(house: Served) -> None:
    with wire(house.port) as connection:
        connection.send(b"\x16\x03\x01 not http at all\r\n\r\n")
        assert connection.reply().status == 400
        assert connection.closed()
    assert house.ready()


def test_two_lengths_that_disagree_are_refused(house: Served) -> None:
    with wire(house.port) as connection:
        connection.send(request(RAGGED, body([1.0]), "Content-Length: 3"))
        assert connection.reply().status == 400
        assert connection.closed()


def test_head_answers_like_get_or_405_without_a_body(house: Served) -> None:
    with wire(house.port) as connection:
        reply = connection.send(request("/healthz", method="HEAD")).reply(head=True)
        assert reply.status in (200, 405)
        assert first(connection.send(request(RAGGED, body([1.0]))).reply()) == [1]


# -- clients that leave or are slow -----------------------------------------------------------------------------------


def test_a_client_that_leaves_takes_its_work_with_it(house: Served) -> None:
    before, calls = house.metric("forebay_canceled_total", "pause"), house.folder / "pause.calls"
    with wire(house.port) as holder, wire(house.port) as leaver:
        holder.send(request(PAUSE, body([1500.0])))
        eventually(lambda: house.in_flight("pause") == 1, "the first runs")
        leaver.send(request(PAUSE, body([1.0])))  # sent early, it waits at the instance
        eventually(lambda: house.in_flight("pause") == 2, "the second waits")
    eventually(lambda: house.in_flight("pause") == 0, "both are forgotten")
    assert house.metric("forebay_canceled_total", "pause") >= before + 2
    assert values(house.infer("pause", [3.0])) == [3.0]
    assert calls.exists()


def test_clients_that_reset_their_connections_leave_nothing(house: Served) -> None:
    for _ in range(50):
        with wire(house.port) as connection:
            linger = struct.pack("ii", 1, 0)
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            connection.send(request(PAUSE, body([40.0])))
    eventually(lambda: house.in_flight("pause") == 0, "nothing is in flight")
    assert values(house.infer("pause", [3.0])) == [3.0]


def test_a_client_that_closes_in_the_middle_of_a_body_leaves_nothing(house: Served) -> None:
    for _ in range(20):
        with wire(house.port) as connection:
            connection.send(request(RAGGED, body([1.0]))[:-5])
    eventually(lambda: house.in_flight("ragged") == 0, "nothing is in flight")
    assert values(house.infer("ragged", [3.0])) == [3.0]


def test_a_head_that_never_ends_is_cut_off(strict: Served) -> None:
    with wire(strict.port, timeout_s=15) as connection:
        connection.send(b"POST /v2/models/pause/infer HTTP/1.1\r\nHost: t\r\n")
        try:
            assert connection.reply().status == 408
        except ConnectionError:
            pass  # closing without a word is as good
        assert connection.closed()


def test_a_body_that_never_ends_is_a_408_and_closed(strict: Served) -> None:
    whole = request(PAUSE, body([1.0]), f"Authorization: Bearer {KEY}")
    with wire(strict.port, timeout_s=15) as connection:
        assert connection.send(whole[:-5]).reply().status == 408
        assert connection.closed()


def test_a_slow_but_steady_client_is_not_cut_off_between_requests(strict: Served) -> None:
    whole = request(PAUSE, body([1.0]), f"Authorization: Bearer {KEY}")
    with wire(strict.port) as connection:
        assert connection.send(whole).reply().status == 200
        time.sleep(1.5)  # longer than the head may take: an idle connection is not a slow one
        assert connection.send(whole).reply().status == 200


def test_a_model_slower_than_the_body_deadline_is_not_cut_off(strict: Served) -> None:
    assert values(strict.infer("pause", [1500.0])) == [1500.0]


# -- limits and keys --------------------------------------------------------------------------------------------------


def test_a_body_above_the_limit_is_a_413_before_it_is_sent(strict: Served) -> None:
    with wire(strict.port) as connection:
        head = request(PAUSE, b"", f"Authorization: Bearer {KEY}").replace(
            b"Content-Length: 0", b"Content-Length: 10001"
        )
        assert connection.send(head).reply().status == 413
        assert connection.closed()


def test_a_chunked_body_above_the_limit_is_a_413(strict: Served) -> None:
    chunk = b"3e8\r\n" + b" " * 1000 + b"\r\n"
    with wire(strict.port) as connection:
        connection.send(request(PAUSE, b"", f"Authorization: Bearer {KEY}", "Transfer-Encoding: chunked"), chunk * 11)
        assert connection.reply().status == 413


def test_a_body_at_the_limit_is_read(strict: Served) -> None:
    raw = json.dumps(body([1.0])).encode()
    assert values(strict.http.post(PAUSE, content=raw + b" " * (10000 - len(raw)))) == [1.0]


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic YWxpY2U6eA==", f"bearer{KEY}", "Bearer ", KEY])
def test_without_a_good_key_there_is_only_health(strict: Served, header: str | None) -> None:
    lines = [] if header is None else [f"Authorization: {header}"]
    with wire(strict.port) as connection:
        for path, payload in ((PAUSE, body([1.0])), ("/v2/models/pause", None), ("/v2", None)):
            reply = connection.send(request(path, payload, *lines)).reply()
            assert reply.status == 401, (path, reply)
            assert reply.headers["www-authenticate"].startswith("Bearer")
            assert reply.json()["code"] == "unauthorized"
        assert connection.send(request("/healthz", None, *lines)).reply().status == 200


def test_a_key_opens_and_is_never_logged(strict: Served) -> None:
    assert values(strict.infer("pause", [1.0])) == [1.0]
    strict.http.post(PAUSE, content=b"{")
    assert KEY not in strict.output


def test_a_quota_is_a_429_with_retry_after(lane: str, tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text(f"alice:{hashlib.sha256(KEY.encode()).hexdigest()}\n")
    flags = ["--api-keys", "keys.txt", "--requests-per-s", "2", "--express-lane", lane]
    with serving(tmp_path, *quick(*model("faulty.py", "Pause")), *flags) as served:
        served.http.headers["authorization"] = f"Bearer {KEY}"
        answers = [served.infer("pause", [1.0]) for _ in range(20)]
        codes = {answer.status_code for answer in answers}
        assert codes == {200, 429}
        over = next(answer for answer in answers if answer.status_code == 429)
        assert int(over.headers["retry-after"]) >= 1
        assert over.json()["code"] == "over_quota"
