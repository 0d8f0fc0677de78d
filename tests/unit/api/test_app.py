"""The HTTP surface over a test engine, through ASGI: statuses, headers and bodies of every endpoint."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from forebay.api.app import create_app
from forebay.api.auth import Keys, key_line
from forebay.api.inference import Inference
from forebay.core.errors import AdmissionError, DeadlineExceeded, ExecutionError

SECRET = "fb_" + "s" * 43
MLP = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
INFER = "/v2/models/mlp/infer"

MakeInference = Callable[..., Inference]


def app_of(inference: Inference, reasons: list[str] | None = None) -> FastAPI:
    return create_app(inference, metrics_text=lambda: b"forebay_up 1\n", ready=lambda: reasons or [])


def client_of(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


@pytest.fixture
async def client(make_inference: MakeInference) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app_of(make_inference())) as http:
        yield http


async def test_infer(client: httpx.AsyncClient) -> None:
    for path in (INFER, "/v2/models/mlp/versions/1/infer"):
        answer = await client.post(path, json={**MLP, "id": "r"})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json() == {
            "id": "r",
            "model_name": "mlp",
            "model_version": "1",
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [2.0, 4.0]}],
        }


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/octet-stream", "application/json"])
async def test_the_content_type_does_not_matter(client: httpx.AsyncClient, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    assert (await client.post(INFER, content=json.dumps(MLP).encode(), headers=headers)).status_code == 200


async def test_binary_in_and_out(client: httpx.AsyncClient) -> None:
    entry = {"name": "x", "shape": [2, 4], "datatype": "FP32", "parameters": {"binary_data_size": 32}}
    head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    content = head + np.arange(8, dtype=np.float32).tobytes()
    answer = await client.post(INFER, content=content, headers={"inference-header-content-length": str(len(head))})
    assert answer.headers["content-type"] == "application/octet-stream"
    length = int(answer.headers["inference-header-content-length"])
    assert json.loads(answer.content[:length])["outputs"][0]["parameters"] == {"binary_data_size": 16}
    assert np.frombuffer(answer.content[length:], np.float32).tolist() == [0, 2, 8, 10]


async def test_the_one_row_form_and_images(client: httpx.AsyncClient) -> None:
    answer = await client.post(INFER, json={"input": {"x": [1, 2, 3, 4]}, "parameters": {"explain": True}})
    assert answer.json()["output"] == {"y": [2.0, 4.0]}
    assert answer.json()["parameters"]["dispatch_reason"] == "idle"
    answer = await client.post("/v2/models/text/infer", content=b"abc", headers={"content-type": "image/png"})
    assert answer.json()["output"] == {"upper": ["ABC"]}
    answer = await client.post(INFER, content=b"abc", headers={"content-type": "image/png"})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


async def test_several_models_and_datatypes(client: httpx.AsyncClient) -> None:
    inputs = [
        {"name": "a", "shape": [1, 3], "datatype": "INT32", "data": [1, 2, 3]},
        {"name": "b", "shape": [1, 3], "datatype": "FP64", "data": [0.5, 0.5, 0.5]},
    ]
    answer = await client.post("/v2/models/two/infer", json={"inputs": inputs, "outputs": [{"name": "count"}]})
    assert answer.json()["outputs"] == [{"name": "count", "datatype": "INT64", "shape": [1], "data": [3]}]
    entry = {"name": "m", "shape": [2, 3], "datatype": "UINT8", "data": [1, 2, 3, 4, 5, 6]}
    answer = await client.post("/v2/models/whole/infer", json={"inputs": [entry]})
    assert answer.json()["outputs"][0]["shape"] == [3, 2]
    assert answer.json()["outputs"][0]["data"] == [1, 4, 2, 5, 3, 6]


@pytest.mark.parametrize(
    ("path", "content", "headers", "status", "code"),
    [
        (INFER, b"{", {}, 400, "invalid_request"),
        (INFER, b"", {}, 400, "invalid_request"),
        (INFER, b"{}", {"inference-header-content-length": "x"}, 400, "invalid_request"),
        (INFER, b"{}", {"content-encoding": "gzip"}, 400, "invalid_request"),
        (INFER, b"{}", {"content-encoding": "br"}, 415, "unsupported_encoding"),
        (INFER, json.dumps({**MLP, "parameters": {"sequence_id": 1}}).encode(), {}, 501, "unsupported"),
        (INFER, b"x", [("transfer-encoding", "gzip"), ("transfer-encoding", "chunked")], 501, "unsupported"),
        (INFER, b"x", {"transfer-encoding": "gzip, chunked"}, 501, "unsupported"),
        ("/v2/models/none/infer", b"{}", {}, 404, "model_not_found"),
        ("/v2/models/mlp/versions/7/infer", b"{}", {}, 404, "model_not_found"),
        ("/v2/models/mlp/other", b"{}", {}, 404, "not_found"),
    ],
)
async def test_refusals(
    client: httpx.AsyncClient, path: str, content: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    answer = await client.post(path, content=content, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["error"]
    assert answer.headers["content-type"] == "application/json"


async def test_a_wrong_method_is_405(client: httpx.AsyncClient) -> None:
    answer = await client.get(INFER)
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("error", "status", "members", "headers"),
    [
        (AdmissionError("full", retry_after_s=1.2), 503, {"code": "queue_full"}, {"retry-after": "2"}),
        (AdmissionError("late", code="deadline_unreachable", retry_after_s=0.01), 503, {}, {"retry-after": "1"}),
        (DeadlineExceeded("late", stage="queued"), 504, {"code": "deadline_exceeded", "stage": "queued"}, {}),
        (ExecutionError("boom"), 500, {"code": "model_error", "error": "boom"}, {}),
        (ExecutionError("boom", code="instance_crashed"), 500, {"code": "instance_crashed"}, {}),
        (ValueError("secret detail"), 500, {"code": "internal"}, {}),
    ],
)
async def test_errors_of_the_engine(
    engines: Any,
    client: httpx.AsyncClient,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    status: int,
    members: dict[str, str],
    headers: dict[str, str],
) -> None:
    if isinstance(error, ExecutionError | DeadlineExceeded):
        engines["mlp"].fail_with = error
    else:
        engines["mlp"].refuse_with = error
    with caplog.at_level(logging.ERROR):
        answer = await client.post(INFER, json=MLP)
    assert answer.status_code == status
    assert members.items() <= answer.json().items()
    assert headers.items() <= dict(answer.headers).items()
    assert "secret detail" not in answer.text
    assert any("ValueError" in record.getMessage() for record in caplog.records) == isinstance(error, ValueError)


async def test_an_answer_that_cannot_be_encoded_is_an_answer(engines: Any, client: httpx.AsyncClient) -> None:
    engines["text"].function = lambda t: [np.array([[b"\xff"]], dtype=object)]
    answer = await client.post("/v2/models/text/infer", json={"input": {"text": "a"}})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    engines["mlp"].function = lambda x: []
    answer = await client.post(INFER, json=MLP)
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")


@pytest.mark.parametrize(
    ("state", "code"), [("starting", "model_not_ready"), ("failed", "model_not_ready"), ("draining", "draining")]
)
async def test_a_model_that_is_not_ready(engines: Any, client: httpx.AsyncClient, state: str, code: str) -> None:
    engines["mlp"].state, engines["mlp"].reason = state, "warming up"
    answer = await client.post(INFER, json=MLP)
    assert (answer.status_code, answer.json()["code"]) == (503, code)
    assert answer.headers["retry-after"] == "1"
    for path in ("/v2/models/mlp/ready", "/v2/models/mlp/versions/1/ready"):
        answer = await client.get(path)
        assert answer.status_code == 503
        reasons = [f"model mlp is {state}: warming up"]
        assert answer.json() == {"name": "mlp", "ready": False, "reasons": reasons}


async def test_keys_guard_inference_and_metadata(make_inference: MakeInference) -> None:
    app = app_of(make_inference(Keys.parse(key_line("me", SECRET), "test")))
    guarded = ["/v2", "/v2/models/mlp", "/v2/models/mlp/config", "/v2/models/mlp/stats", "/v2/models/stats"]
    open_paths = ["/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/metrics", "/v2/models/mlp/ready"]
    async with client_of(app) as http:
        refused = [await http.get(path) for path in guarded]
        refused += [await http.post(INFER, json=MLP), await http.post("/v2/models/none/infer", json=MLP)]
        refused.append(await http.post(INFER, json=MLP, headers={"authorization": "Bearer wrong"}))
        assert {answer.status_code for answer in refused} == {401}
        assert all(answer.headers["www-authenticate"].startswith("Bearer") for answer in refused)
        assert {(await http.get(path)).status_code for path in open_paths} == {200}
        http.headers["authorization"] = f"Bearer {SECRET}"
        assert (await http.post(INFER, json=MLP)).status_code == 200
        assert {(await http.get(path)).status_code for path in guarded} == {200}


async def test_a_quota_is_429(make_inference: MakeInference) -> None:
    async with client_of(app_of(make_inference(requests_per_s=0.5))) as http:
        assert (await http.post(INFER, json=MLP)).status_code == 200
        answer = await http.post(INFER, json=MLP)
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (429, "over_quota", "2")


async def test_a_large_body_is_refused_by_its_length_unread(make_inference: MakeInference) -> None:
    pulled = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal pulled
        for _ in range(50):
            pulled += 1
            yield b"x" * 100

    async with client_of(app_of(make_inference(max_body_bytes=1000))) as http:
        answer = await http.post(INFER, content=pieces(), headers={"content-length": "5000"})
        assert (answer.status_code, answer.json()["code"], pulled) == (413, "payload_too_large", 0)
        assert answer.headers["connection"] == "close"
        answer = await http.post(INFER, content=pieces())
        assert (answer.status_code, answer.json()["code"], pulled) == (413, "payload_too_large", 11)


async def test_a_body_in_pieces_and_off_the_loop(make_inference: MakeInference) -> None:
    content = json.dumps(MLP).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(content), 7):
            yield content[at : at + 7]

    async with client_of(app_of(make_inference(decode_off_loop_bytes=10))) as http:
        assert (await http.post(INFER, content=pieces())).json()["outputs"][0]["data"] == [2.0, 4.0]


async def call(app: FastAPI, receive: Any) -> list[Any]:
    """One POST of inference through bare ASGI."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": INFER, "raw_path": INFER.encode(), "query_string": b""}
    scope |= {"headers": [], "http_version": "1.1", "scheme": "http", "root_path": "", "server": ("test", 80)}
    await app(scope, receive, send)
    return sent


async def test_a_client_that_leaves_cancels_its_request(engines: Any, make_inference: MakeInference) -> None:
    engines["mlp"].held = []
    messages = [{"type": "http.request", "body": json.dumps(MLP).encode()}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return messages.pop(0)

    await call(app_of(make_inference()), receive)
    assert engines["mlp"].canceled == engines["mlp"].held
    assert len(engines["mlp"].canceled) == 1


async def test_a_client_that_leaves_while_sending(engines: Any, make_inference: MakeInference) -> None:
    messages = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return messages.pop(0)

    await call(app_of(make_inference()), receive)
    assert engines["mlp"].seen == []


async def test_a_body_that_does_not_come_is_408(make_inference: MakeInference) -> None:
    async def receive() -> Any:
        await asyncio.Event().wait()

    sent = await call(app_of(make_inference(body_timeout_s=0.01)), receive)
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]
    assert json.loads(sent[1]["body"])["code"] == "body_timeout"


async def test_server_and_model_metadata(client: httpx.AsyncClient) -> None:
    server = (await client.get("/v2")).json()
    assert server["name"] == "forebay"
    assert "binary_tensor_data" in server["extensions"]
    for path in ("/v2/models/two", "/v2/models/two/versions/1"):
        assert (await client.get(path)).json() == {
            "name": "two",
            "versions": ["1"],
            "platform": "python",
            "inputs": [
                {"name": "a", "datatype": "INT32", "shape": [-1, -1]},
                {"name": "b", "datatype": "FP64", "shape": [-1, -1]},
            ],
            "outputs": [
                {"name": "sum", "datatype": "FP64", "shape": [-1, -1]},
                {"name": "count", "datatype": "INT64", "shape": [-1]},
            ],
        }
    for path in ("/v2/models/none", "/v2/models/two/versions/2", "/v2/models/none/config", "/v2/models/none/ready"):
        answer = await client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "model_not_found")


async def test_configuration(client: httpx.AsyncClient) -> None:
    config = (await client.get("/v2/models/text/config")).json()
    assert (config["name"], config["max_batch_size"], config["backend"]) == ("text", 64, "python")
    assert (config["input"][0]["data_type"], config["input"][0]["dims"]) == ("TYPE_STRING", [1])
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 500
    assert config["instance_group"][0]["count"] == 2
    assert config["parameters"] == {"forebay.batching": {"string_value": "batches of up to 64 rows"}}
    whole = (await client.get("/v2/models/whole/versions/1/config")).json()
    assert (whole["max_batch_size"], whole["input"][0]["dims"]) == (0, [2, -1])
    assert "dynamic_batching" not in whole


async def test_statistics(client: httpx.AsyncClient) -> None:
    await client.post(INFER, json=MLP)
    (stats,) = (await client.get("/v2/models/mlp/stats")).json()["model_stats"]
    assert (stats["name"], stats["version"], stats["inference_count"]) == ("mlp", "1", 1)
    assert stats["inference_stats"]["success"] == {"count": 1, "ns": 2_000_000}
    assert stats["inference_stats"]["compute_infer"] == {"count": 1, "ns": 1_000_000}
    every = (await client.get("/v2/models/stats")).json()["model_stats"]
    assert [entry["name"] for entry in every] == ["mlp", "two", "text", "whole"]


async def test_repository_index(engines: Any, client: httpx.AsyncClient) -> None:
    engines["two"].state, engines["two"].reason = "failed", "no such file"
    index = (await client.post("/v2/repository/index")).json()
    assert index[1] == {"name": "two", "version": "1", "state": "UNAVAILABLE", "reason": "no such file"}
    ready = (await client.post("/v2/repository/index", json={"ready": True})).json()
    assert [entry["name"] for entry in ready] == ["mlp", "text", "whole"]
    assert (await client.post("/v2/repository/index", content=b"{")).status_code == 400


async def test_health_and_metrics(make_inference: MakeInference) -> None:
    async with client_of(app_of(make_inference(), ["model mlp is starting"])) as http:
        for path in ("/healthz", "/v2/health/live"):
            assert (await http.get(path)).json() == {"live": True}
        for path in ("/readyz", "/v2/health/ready"):
            answer = await http.get(path)
            assert (answer.status_code, answer.json()["reasons"]) == (503, ["model mlp is starting"])
        answer = await http.get("/metrics")
        assert answer.text == "forebay_up 1\n"
        assert answer.headers["content-type"].startswith("text/plain")


def refs_of(node: Any) -> set[str]:
    """Every component that a part of the document refers to."""
    if isinstance(node, dict):
        found = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return found.union(*map(refs_of, node.values()))
    return set().union(*map(refs_of, node)) if isinstance(node, list) else set()


async def test_the_openapi_document_is_whole(client: httpx.AsyncClient) -> None:
    assert (await client.get("/docs")).status_code == 200
    document = (await client.get("/openapi.json")).json()
    assert refs_of(document) <= {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    infer = document["paths"]["/v2/models/{model}/infer"]["post"]
    statuses = {"200", "400", "401", "404", "408", "413", "415", "429", "500", "501", "503", "504"}
    assert set(infer["responses"]) == statuses
    assert set(infer["requestBody"]["content"]) == {"application/json", "application/octet-stream", "image/*"}
    for path, operations in document["paths"].items():
        named = {part["name"] for operation in operations.values() for part in operation.get("parameters", [])}
        assert {part[1:-1] for part in path.split("/") if part.startswith("{")} <= named
