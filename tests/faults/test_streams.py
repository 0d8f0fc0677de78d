"""Streams that break: a killed instance, a poison row, clients that leave or never read. Each ends once, rightly."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
from tests.e2e.server import Served, eventually, gone, model, quick, serving
from tests.e2e.streams import RawStream, begin_notes, notes


@pytest.fixture
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("streams"), *quick(*model("streaming.py", "Count"))) as found:
        begin_notes(found)
        yield found


def stream(served: Served, n: int) -> tuple[int, list[dict[str, Any]], bool]:
    """Status, every event, and whether the stream ended well."""
    raw = RawStream(served, "count", {"n": n})
    status, _ = raw.head()
    events = [data for _, data in raw.events()]
    raw.leave()
    return status, events, raw.complete


def right(events: list[dict[str, Any]], n: int) -> bool:
    """Whether these are all the pieces of a count, each once and in order."""
    return [event.get("last") for event in events] == list(range(1, n + 1))


def test_a_killed_instance_ends_begun_streams_with_one_error_and_runs_the_others_again(served: Served) -> None:
    with ThreadPoolExecutor(16) as pool:
        held = pool.submit(stream, served, 20)
        eventually(lambda: "begin 1" in notes(served), "one runs")
        streams = [pool.submit(stream, served, 60) for _ in range(4)]
        wholes = [pool.submit(served.http.post, "/v2/models/count/generate", json={"n": 60}) for _ in range(3)]
        eventually(lambda: served.metric("forebay_first_piece_seconds_count", "count") >= 2, "another has begun")
        (victim,) = served.instances()
        victim.kill()
        gone([victim])
        broken = 0
        for future, n in [(held, 20), *((future, 60) for future in streams)]:
            status, events, complete = future.result()
            assert (status, complete) == (200, True)
            if not right(events, n):
                broken += 1
                assert events[-1]["code"] == "instance_crashed"
                assert len(events) > 1, "a stream that had not begun is run again"
                assert right(events[:-1], len(events) - 1), "nothing twice, and one error at the end"
        assert broken
        for answer in wholes:
            assert answer.result().json()["last"] == 60
    assert served.in_flight("count") == 0


@pytest.mark.parametrize(("poison", "code"), [(-1, "instance_crashed"), (-2, "model_error")])
def test_a_poison_row_midway_costs_those_that_have_begun_and_nobody_else(
    served: Served, poison: int, code: str
) -> None:
    with ThreadPoolExecutor(16) as pool:
        held = pool.submit(stream, served, 20)
        eventually(lambda: "begin 1" in notes(served), "one runs")
        guilty = pool.submit(stream, served, poison)
        wholes = [pool.submit(served.http.post, "/v2/models/count/generate", json={"n": 5}) for _ in range(4)]
        assert right(held.result()[1], 20)
        status, events, complete = guilty.result()
        assert (status, complete, [event.get("last") for event in events]) == (200, True, [1, 2, None])
        assert events[-1]["code"] == code
        assert [answer.result().json()["last"] for answer in wholes] == [5] * 4
    assert right(stream(served, 3)[1], 3)


def test_clients_that_leave_free_the_instance_at_once(served: Served) -> None:
    for number in range(20):
        raw = RawStream(served, "count", {"n": 100_000, "timeout": 60_000_000})
        if number % 2:
            raw.head()
            next(raw.events())
        raw.leave()
    assert right(stream(served, 3)[1], 3)
    eventually(lambda: served.in_flight("count") == 0, "nothing is left of them")
    assert 10 <= served.metric("forebay_canceled_total", "count") <= 20, "some may have left before they were heard"


def test_a_client_that_never_reads_takes_no_memory_and_no_time(served: Served) -> None:
    web = psutil.Process(served.process.pid)
    before_bytes = web.memory_info().rss
    lazy = [RawStream(served, "count", {"n": -3, "timeout": 60_000_000}, receive_bytes=4096) for _ in range(5)]
    eventually(lambda: served.metric("forebay_canceled_total", "count") == 5, "they are given up")
    assert served.in_flight("count") == 0
    eventually(lambda: notes(served)[-1].startswith("closed"), "their run is broken off")
    assert right(stream(served, 3)[1], 3)
    assert web.memory_info().rss - before_bytes < 64 << 20
    raw = lazy[0]
    assert raw.head()[0] == 200
    events = [data for _, data in raw.events()]
    assert events[-1]["code"] == "request_canceled"
    assert right(events[:-1], len(events) - 1)
    for raw in lazy:
        raw.leave()
