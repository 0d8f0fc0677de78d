"""Streaming models against the real command: events by hand and by a stock client, leaving, deadlines, drain."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx_sse
import pytest
from tests.e2e.server import ROOT, Served, eventually, model, quick, serving
from tests.e2e.streams import RawStream, begin_notes, notes

LETTERS = f"{ROOT / 'examples' / 'letters.py'}:Letters"


@pytest.fixture(scope="module")
def streaming(lane: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    models = [*model("streaming.py", "Count", "Steps"), LETTERS, f"{ROOT / 'examples' / 'sleep.py'}:Sleep"]
    with serving(tmp_path_factory.mktemp("streaming"), *quick(*models), "--express-lane", lane) as served:
        begin_notes(served)
        yield served


def test_events_come_one_by_one_and_the_stream_ends_well(streaming: Served) -> None:
    raw = RawStream(streaming, "count", {"n": 3, "id": "r"})
    status, headers = raw.head()
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert (headers["cache-control"], headers["transfer-encoding"]) == ("no-cache", "chunked")
    said = [
        ("message", {"id": "r", "model_name": "count", "model_version": "1", "text": f"{n} ", "last": n})
        for n in (1, 2, 3)
    ]
    assert list(raw.events()) == said
    assert raw.complete
    raw.socket.sendall(b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n")
    assert raw.head()[0] == 200, "the connection serves on"
    raw.leave()


def test_the_first_event_comes_while_the_model_still_runs(streaming: Served) -> None:
    raw = RawStream(streaming, "count", {"n": 100_000, "parameters": {"timeout": 60_000_000}})
    assert raw.head()[0] == 200
    events = raw.events()
    assert [next(events)[1]["last"] for _ in range(3)] == [1, 2, 3]
    assert streaming.in_flight("count") == 1
    raw.leave()
    eventually(lambda: streaming.in_flight("count") == 0, "the client's leaving is noticed")
    eventually(lambda: notes(streaming)[-1].startswith("closed"), "the generator is closed")


def test_a_generator_goes_on_while_another_row_is_waited_for(streaming: Served) -> None:
    first = RawStream(streaming, "count", {"n": 30})
    first.head()
    next(first.events())
    pair = [RawStream(streaming, "count", {"n": 100_000, "timeout": 60_000_000}) for _ in range(2)]
    begun = [(raw.head(), next(raw.events())) for raw in pair]
    assert [head[0] for head, _ in begun] == [200, 200]
    assert "begin 2" in notes(streaming)
    closed = sum(note.startswith("closed") for note in notes(streaming))
    pair[0].leave()
    eventually(lambda: streaming.in_flight("count") == 1, "the first has left")
    events = pair[1].events()
    seen = [next(events)[1]["last"] for _ in range(20)]
    assert seen == list(range(seen[0], seen[0] + 20))
    assert sum(note.startswith("closed") for note in notes(streaming)) == closed
    pair[1].leave()
    eventually(lambda: notes(streaming)[-1].startswith("closed"), "now nobody waits")
    first.leave()


def test_a_stock_client_reads_it(streaming: Served) -> None:
    path = "/v2/models/steps/generate_stream"
    with httpx_sse.connect_sse(streaming.http, "POST", path, json={"x": [2.0]}) as source:
        events = [(event.event, event.json()) for event in source.iter_sse()]
    assert [name for name, _ in events] == ["progress", "message"] * 3
    assert [data["progress"] for name, data in events if name == "progress"] == [0, 1 / 3, 2 / 3]
    assert [(data["score"], data["path"]) for name, data in events if name == "message"] == [
        (2.0, [0, 0]),
        (4.0, [1, 1]),
        (6.0, [2, 2]),
    ]


def test_generate_and_infer_give_the_whole(streaming: Served) -> None:
    assert streaming.http.post("/v2/models/count/generate", json={"n": 4}).json() == {
        "model_name": "count",
        "model_version": "1",
        "text": "1 2 3 4 ",
        "last": 4,
    }
    tensor = {"name": "n", "shape": [3], "datatype": "INT64", "data": [2, 1, 3]}
    answer = streaming.http.post("/v2/models/count/infer", json={"inputs": [tensor]}).json()
    assert [output["data"] for output in answer["outputs"]] == [["1 2 ", "1 ", "1 2 3 "], [2, 1, 3]]


def test_many_at_once_get_each_their_own(streaming: Served) -> None:
    def stream(number: int) -> str:
        body = {"text_input": f"{'abcdefgh'[number % 8]}", "max_letters": 5 + number}
        pieces = []
        with httpx_sse.connect_sse(streaming.http, "POST", "/v2/models/letters/generate_stream", json=body) as source:
            for event in source.iter_sse():
                pieces.append(event.json()["text_output"])
        assert len(pieces) == 5 + number
        whole = streaming.http.post("/v2/models/letters/generate", json=body).json()["text_output"]
        assert "".join(pieces) == whole
        return str(whole)

    with ThreadPoolExecutor(16) as pool:
        texts = list(pool.map(stream, range(32)))
    assert [len(text) for text in texts] == list(range(5, 37))
    assert streaming.metric("forebay_first_piece_seconds_count", "letters") == 32


def test_a_model_that_does_not_stream_gives_one_event(streaming: Served) -> None:
    answer = streaming.http.post("/v2/models/sleep/generate_stream", json={"x": [1.0, 2.0, 3.0, 4.0]})
    whole = streaming.http.post("/v2/models/sleep/generate", json={"x": [1.0, 2.0, 3.0, 4.0]})
    assert answer.status_code == whole.status_code == 200, answer.text
    assert answer.text == f"data: {whole.text}\n\n"


def test_a_deadline_ends_a_stream_with_one_error(streaming: Served) -> None:
    body = {"n": 100_000, "parameters": {"timeout": 300_000}}
    raw = RawStream(streaming, "count", body)
    assert raw.head()[0] == 200
    events = [data for _, data in raw.events()]
    assert raw.complete
    assert [data["last"] for data in events[:-1]] == list(range(1, len(events)))
    assert (events[-1]["code"], events[-1]["stage"]) == ("deadline_exceeded", "executing")
    eventually(lambda: notes(streaming)[-1].startswith("closed"), "its run is over too")
    raw.leave()


def test_sigterm_lets_a_stream_end(tmp_path: Path) -> None:
    with serving(tmp_path, *quick(*model("streaming.py", "Count"))) as served:
        raw = RawStream(served, "count", {"n": 100})
        assert raw.head()[0] == 200
        events = raw.events()
        next(events)
        served.process.send_signal(signal.SIGTERM)
        rest = [data for _, data in events]
        assert [data["last"] for data in rest] == list(range(2, 101))
        assert raw.complete
        raw.leave()
        assert served.process.wait(30) == 0
        assert "Traceback" not in served.output
