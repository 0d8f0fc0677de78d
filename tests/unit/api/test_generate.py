"""The generate extension over a test engine: bodies, answers, events, and clients that are slow or leave."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from tests.unit.api.conftest import FunctionEngine

from forebay.api import event_stream
from forebay.api.app import create_app
from forebay.api.auth import Keys
from forebay.api.inference import LEAVING, Inference, Leaving
from forebay.core.errors import AdmissionError, DeadlineExceeded, ExecutionError
from forebay.core.request import Outputs, Request
from forebay.core.tensors import bytes_array

MakeInference = Callable[..., Inference]
Engines = dict[str, FunctionEngine]


def app_of(inference: Inference) -> FastAPI:
    return create_app(inference, metrics_text=lambda: b"", ready=list)


@pytest.fixture
async def http(make_inference: MakeInference) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app_of(make_inference())), base_url="http://test"
    ) as client:
        yield client


def texts(*values: bytes) -> Outputs:
    """A piece of the model `text`, one row."""
    return Outputs(["upper"], ["BYTES"], [bytes_array(values, (1, 1))], 1)


async def held(engine: FunctionEngine) -> Request:
    """The request that the engine was given and does not answer by itself."""
    assert engine.held is not None
    while not engine.held:
        await asyncio.sleep(0)
    return engine.held.pop()


# -- bodies and answers -----------------------------------------------------------------------------------------------


async def test_generate(http: httpx.AsyncClient) -> None:
    for path in ("/v2/models/text/generate", "/v2/models/text/versions/1/generate"):
        answer = await http.post(path, json={"text": "ab", "id": "r"})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json() == {"id": "r", "model_name": "text", "model_version": "1", "upper": "AB"}
    answer = await http.post("/v2/models/mlp/generate", json={"x": [1, 2, 3, 4]})
    assert answer.json() == {"model_name": "mlp", "model_version": "1", "y": [2.0, 4.0]}
    answer = await http.post("/v2/models/whole/generate", json={"m": [[1, 2, 3], [4, 5, 6]]})
    assert answer.json()["t"] == [[1, 4], [2, 5], [3, 6]]


async def test_a_large_answer_has_the_coding_that_is_asked_for(make_inference: MakeInference) -> None:
    app = app_of(make_inference(compress_from_bytes=100))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        for length, accept, coding in ((500, "gzip", "gzip"), (500, "identity", None), (5, "gzip", None)):
            sent = {"text": "a" * length}
            answer = await http.post("/v2/models/text/generate", json=sent, headers={"accept-encoding": accept})
            assert answer.json()["upper"] == "A" * length
            assert answer.headers.get("content-encoding") == coding
            assert ("vary" in answer.headers) == (length == 500)


async def test_members_that_are_no_inputs_are_parameters_and_parameters_may_hold_inputs(
    http: httpx.AsyncClient, engines: Engines
) -> None:
    body = {"a": [1, 2], "temperature": 0.5, "parameters": {"b": [0.5, 0.25], "stream": False, "timeout": 2_000_000}}
    answer = await http.post("/v2/models/two/generate", json={**body, "priority": 1, "explain": True})
    assert answer.json() == {
        "model_name": "two",
        "model_version": "1",
        "parameters": {"batch_rows": 1, "queue_ms": 1.5, "dispatch_reason": "idle", "padding_waste": 0.0},
        "sum": [1.5, 2.25],
        "count": 2,
    }
    (seen,) = engines["two"].seen
    assert seen.parameters == {"temperature": 0.5, "stream": False}
    assert (seen.rows, seen.priority, seen.nbytes) == (1, 1, 24)
    assert seen.deadline - seen.arrived == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("model", "body", "says"),
    [
        ("text", b"", "the body is empty"),
        ("text", b"[1]", "must be a JSON object"),
        ("text", b"{", "not JSON"),
        ("text", b"{}", "input 'text' is missing"),
        ("text", b'{"text":1}', "element 0 must be a string, got 1"),
        ("text", b'{"text":"a","more":{"x":1}}', "no input 'more'; it has text"),
        ("text", b'{"text":"a","parameters":[1]}', "parameters must be an object"),
        ("text", b'{"text":"a","parameters":{"text":"b"}}', "'text' is given twice"),
        ("text", b'{"text":"a","id":3}', "id must be a string"),
        ("text", b'{"text":"a","timeout":"soon"}', "timeout"),
        ("text", b'{"text":"a","binary_data_output":true}', "JSON only"),
        ("text", b'{"text":' + b"[" * 80 + b"]" * 80 + b"}", "nested deeper"),
        ("mlp", b'{"x":[1,2,3]}', r"expected one row, nested as shape \[4\]"),
    ],
)
@pytest.mark.parametrize("ending", ["generate", "generate_stream"])
async def test_a_body_that_does_not_fit_is_refused(
    http: httpx.AsyncClient, model: str, body: bytes, says: str, ending: str
) -> None:
    answer = await http.post(f"/v2/models/{model}/{ending}", content=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert answer.headers["content-type"] == "application/json"
    assert re.search(says, answer.json()["error"]), answer.text


async def test_values_that_json_has_no_number_for_and_bytes_that_are_no_text(
    http: httpx.AsyncClient, engines: Engines
) -> None:
    answer = await http.post("/v2/models/mlp/generate", content=b'{"x":[NaN,1,2,3]}')
    assert answer.text == '{"model_name":"mlp","model_version":"1","y":[NaN,2.0]}'
    engines["text"].function = lambda t: [bytes_array([b"\xff"], (1, 1))]
    for ending in ("generate", "generate_stream"):
        answer = await http.post(f"/v2/models/text/{ending}", json={"text": "a"})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
        assert "not UTF-8" in answer.json()["error"]


@pytest.mark.parametrize("ending", ["generate", "generate_stream"])
async def test_what_is_refused_before_it_runs_has_its_status(
    http: httpx.AsyncClient, engines: Engines, make_inference: MakeInference, ending: str
) -> None:
    path = f"/v2/models/text/{ending}"
    engines["text"].refuse_with = AdmissionError("full", code="queue_full", retry_after_s=3)
    answer = await http.post(path, json={"text": "a"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")
    engines["text"].refuse_with = None
    engines["text"].fail_with = DeadlineExceeded("late", stage="queued")
    answer = await http.post(path, json={"text": "a"})
    assert (answer.status_code, answer.json()) == (
        504,
        {"error": "late", "code": "deadline_exceeded", "stage": "queued"},
    )
    assert (await http.post(f"/v2/models/no/{ending}", json={})).status_code == 404
    assert (await http.post(f"/v2/models/text/versions/2/{ending}", json={})).status_code == 404
    assert (await http.post(path, json={}, headers={"content-encoding": "br"})).status_code == 415
    assert (await http.get(path)).status_code == 405
    app = app_of(make_inference(Keys({"me": bytes(32)})))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as guarded:
        assert (await guarded.post(path, json={"text": "a"})).status_code == 401


# -- events -----------------------------------------------------------------------------------------------------------


class Connection:
    """One request to the app as an ASGI server makes it; `paused` holds up what is sent, as a client that reads slowly
    does."""

    def __init__(self, app: FastAPI, path: str, body: Any, *, leaving: bool = True, version: str = "1.1") -> None:
        self.sent: list[dict[str, Any]] = []
        self.leaving = Leaving()
        self.gone = asyncio.Event()
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._body: bytes | None = json.dumps(body).encode()
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": version,
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"host", b"test")],
        }
        if leaving:
            scope[LEAVING] = self.leaving
        self.running = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self.flowing.wait()
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"]) if self.sent else 0

    @property
    def text(self) -> str:
        """The body so far."""
        return b"".join(message.get("body", b"") for message in self.sent[1:]).decode()

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                await asyncio.sleep(0)


@pytest.fixture
def app(make_inference: MakeInference) -> FastAPI:
    return app_of(make_inference())


@pytest.fixture
def engine(engines: Engines) -> FunctionEngine:
    """The model `text`, which answers nothing by itself."""
    engines["text"].held = []
    return engines["text"]


STREAM = "/v2/models/text/generate_stream"
HEAD = '"model_name":"text","model_version":"1"'


async def test_a_model_that_does_not_stream_gives_one_event(http: httpx.AsyncClient) -> None:
    for path in (STREAM, "/v2/models/text/versions/1/generate_stream"):
        answer = await http.post(path, json={"text": "ab"})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.text == f'data: {{{HEAD},"upper":"AB"}}\n\n'


async def test_each_piece_leaves_when_it_comes_and_the_end_adds_nothing(app: FastAPI, engine: FunctionEngine) -> None:
    connection = Connection(app, STREAM, {"text": "a", "id": "r"})
    request = await held(engine)
    assert request.listener is not None
    await asyncio.sleep(0.01)
    assert connection.sent == [], "the status waits for the first event"
    request.listener.progress(0, 0.5)
    await connection.until(lambda: connection.text)
    request.listener.piece(0, texts(b"x"))
    await connection.until(lambda: "x" in connection.text)
    assert not connection.running.done()
    request.listener.piece(0, texts("é\n".encode()))
    request.outputs = texts("xé\n".encode())
    request.on_done(request)
    await connection.running
    head = f'"id":"r",{HEAD}'
    assert connection.status == 200
    assert connection.text == (
        f'event: progress\ndata: {{{head},"progress":0.5}}\n\n'
        f'data: {{{head},"upper":"x"}}\n\n'
        f'data: {{{head},"upper":"é\\n"}}\n\n'
    )
    assert [message["more_body"] for message in connection.sent[1:]][-1] is False
    assert engine.canceled == []
    assert connection.leaving.tell == set()


async def test_an_error_after_the_first_event_is_the_last_event(app: FastAPI, engine: FunctionEngine) -> None:
    connection = Connection(app, STREAM, {"text": "a"})
    request = await held(engine)
    assert request.listener is not None
    request.listener.piece(0, texts(b"x"))
    request.error = ExecutionError("it died", code="instance_crashed")
    request.on_done(request)
    await connection.running
    assert connection.status == 200
    assert connection.text == (
        f'data: {{{HEAD},"upper":"x"}}\n\ndata: {{"error":"it died","code":"instance_crashed"}}\n\n'
    )


async def test_a_piece_that_is_no_text_ends_the_stream_and_its_run(app: FastAPI, engine: FunctionEngine) -> None:
    connection = Connection(app, STREAM, {"text": "a"})
    request = await held(engine)
    assert request.listener is not None
    request.listener.piece(0, texts(b"x"))
    request.listener.piece(0, texts(b"\xff"))
    request.listener.piece(0, texts(b"y"))
    await connection.running
    assert engine.canceled == [request]
    events = connection.text.split("\n\n")
    assert events[0] == f'data: {{{HEAD},"upper":"x"}}'
    assert "not UTF-8" in events[1]
    assert events[2:] == [""]


@pytest.mark.parametrize("leaving", [True, False])
@pytest.mark.parametrize("begun", [True, False])
async def test_a_client_that_leaves_cancels_its_request(
    app: FastAPI, engine: FunctionEngine, leaving: bool, begun: bool
) -> None:
    connection = Connection(app, STREAM, {"text": "a"}, leaving=leaving)
    request = await held(engine)
    assert request.listener is not None
    if begun:
        request.listener.piece(0, texts(b"x"))
        await connection.until(lambda: connection.text)
    connection.gone.set()
    connection.leaving.happen()
    await connection.until(lambda: engine.canceled)
    await connection.running
    assert engine.canceled == [request]
    assert connection.leaving.tell == set()


async def test_a_client_that_has_left_before_is_not_submitted(app: FastAPI, engine: FunctionEngine) -> None:
    connection = Connection(app, STREAM, {"text": "a"})
    connection.leaving.happened = True
    await connection.running
    assert engine.seen == []


@pytest.mark.parametrize("begun", [True, False])
async def test_a_server_that_ends_the_task_cancels_the_request(
    app: FastAPI, engine: FunctionEngine, begun: bool
) -> None:
    connection = Connection(app, STREAM, {"text": "a"})
    request = await held(engine)
    assert request.listener is not None
    if begun:
        request.listener.piece(0, texts(b"x"))
        await connection.until(lambda: connection.text)
    connection.running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connection.running
    assert engine.canceled == [request]


async def test_silence_is_broken_by_comments(
    app: FastAPI, engine: FunctionEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "KEEP_ALIVE_S", 0.01)
    connection = Connection(app, STREAM, {"text": "a"})
    request = await held(engine)
    await connection.until(lambda: connection.text.count(": keep-alive\n\n") >= 2)
    assert connection.status == 200
    request.error = ExecutionError("no")
    request.on_done(request)
    await connection.running
    assert connection.text.endswith('data: {"error":"no","code":"model_error"}\n\n')


async def test_a_client_that_does_not_read_is_given_up_before_its_events_take_much_memory(
    app: FastAPI, engine: FunctionEngine
) -> None:
    connection = Connection(app, STREAM, {"text": "a"})
    request = await held(engine)
    assert request.listener is not None
    connection.flowing.clear()
    given = 0
    while not engine.canceled:
        request.listener.piece(0, texts(b"x" * 10_000))
        given += 1
        await asyncio.sleep(0)
        assert given < 1000
    assert given * 10_000 < 2 * event_stream.MAX_WAITING_BYTES
    request.listener.piece(0, texts(b"late"))
    connection.flowing.set()
    await connection.running
    events = connection.text.split("\n\n")
    assert len(events) == given + 1, "what had been given, less the last, then the error"
    assert json.loads(events[-2].removeprefix("data: "))["code"] == "request_canceled"
    assert "late" not in connection.text


async def test_http_1_0_has_no_chunks(app: FastAPI, engine: FunctionEngine) -> None:
    connection = Connection(app, STREAM, {"text": "a"}, version="1.0")
    await connection.running
    assert connection.status == 501


async def test_both_operations_are_described(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    for base in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        whole, stream = (document["paths"][f"{base}/{ending}"]["post"] for ending in ("generate", "generate_stream"))
        assert list(whole["responses"]["200"]["content"]) == ["application/json"]
        assert list(stream["responses"]["200"]["content"]) == ["text/event-stream"]
        assert "GenerateRequest" in json.dumps(whole["requestBody"])
    assert {"GenerateRequest", "GenerateResponse"} <= set(document["components"]["schemas"])
    assert "generate" in (await http.get("/v2")).json()["extensions"]
