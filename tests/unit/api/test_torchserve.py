"""TorchServe's two operations, where the operator wants them: one row in its clothes, under the same rules."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import numpy as np
import pytest

from forebay.api.app import create_app
from forebay.api.auth import Keys, key_line
from forebay.api.inference import Inference
from forebay.core.errors import AdmissionError, ForebayError, RequestError
from forebay.core.tensors import Array

SECRET = "fb_" + "s" * 43
MakeInference = Callable[..., Inference]


def client_of(inference: Inference, reasons: list[str] | None = None) -> httpx.AsyncClient:
    app = create_app(inference, metrics_text=lambda: b"", ready=lambda: reasons or [])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


@pytest.fixture
async def client(make_inference: MakeInference) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(make_inference(torchserve_api=True)) as http:
        yield http


async def test_it_is_off_unless_asked_for(make_inference: MakeInference) -> None:
    async with client_of(make_inference()) as http:
        assert (await http.get("/ping")).status_code == 404
        assert (await http.post("/predictions/mlp", json=[1, 2, 3, 4])).status_code == 404


async def test_ping_says_healthy_or_not(client: httpx.AsyncClient, make_inference: MakeInference) -> None:
    answer = await client.get("/ping")
    assert (answer.status_code, answer.json()) == (200, {"status": "Healthy"})
    async with client_of(make_inference(torchserve_api=True), ["loading"]) as http:
        answer = await http.get("/ping")
        assert (answer.status_code, answer.json()) == (500, {"status": "Unhealthy"})


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("path", ["/predictions/mlp", "/predictions/mlp/1"])
@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded", None])
@pytest.mark.parametrize("body", [b'{"x": [1, 2, 3, 4]}', b" [1, 2, 3, 4]"])
async def test_one_row_as_json(
    client: httpx.AsyncClient, method: str, path: str, kind: str | None, body: bytes
) -> None:
    headers = {} if kind is None else {"content-type": kind}
    answer = await client.request(method, path, content=body, headers=headers)
    assert (answer.status_code, answer.json()) == (200, {"y": [2.0, 4.0]})
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.content)


async def test_inputs_by_name_and_outputs_by_name(client: httpx.AsyncClient) -> None:
    answer = await client.post("/predictions/two", json={"a": [1, 2], "b": [0.5, 0.5]})
    assert answer.json() == {"sum": [1.5, 2.5], "count": 2}
    answer = await client.post("/predictions/two", json=[1, 2])
    assert (answer.status_code, answer.json()["type"]) == (400, "BadRequestException")
    assert "names them: a, b" in answer.json()["message"]


async def test_bytes_are_a_row_by_themselves(client: httpx.AsyncClient, engines: dict[str, Any]) -> None:
    seen: list[bytes] = []

    def remember(text: Array) -> list[Array]:
        seen.append(text[0, 0])
        return [np.array([[b"ok"]], dtype=object)]

    engines["text"].function = remember
    raw = b"\xff\xd8\x00jpeg"
    for kind in ("image/jpeg", "application/octet-stream", "text/plain"):
        answer = await client.put("/predictions/text", content=raw, headers={"content-type": kind})
        assert (answer.status_code, answer.json()) == (200, {"upper": ["ok"]})
    answer = await client.post("/predictions/text", json="words")
    assert answer.status_code == 200
    assert seen == [raw, raw, raw, b"words"]


async def test_numbers_that_json_lacks_survive(client: httpx.AsyncClient) -> None:
    answer = await client.post("/predictions/mlp", content=b"[NaN, 1, 1, 1]")
    assert answer.text == '{"y":[NaN,2.0]}'


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("/predictions/nobody", b"[1]", 404, "ModelNotFoundException"),
        ("/predictions/mlp/7", b"[1]", 404, "ModelNotFoundException"),
        ("/predictions/mlp", b"[1, 2]", 400, "BadRequestException"),
        ("/predictions/mlp", b"", 400, "BadRequestException"),
        ("/predictions/mlp", b'{"x": [1, 2, 3, 4]}, "parameters": {"priority": 1}', 400, "BadRequestException"),
        ("/predictions/mlp", b"[" + b"1," * 600 + b"1]", 413, "RequestEntityTooLargeException"),
    ],
)
async def test_errors_in_torchserves_form(
    make_inference: MakeInference, path: str, body: bytes, status: int, kind: str
) -> None:
    async with client_of(make_inference(torchserve_api=True, max_body_bytes=1000)) as http:
        answer = await http.post(path, content=body)
    assert answer.status_code == status
    document = json.loads(answer.text)
    assert (document["code"], document["type"], document.keys()) == (status, kind, {"code", "type", "message"})


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/predictions/mlp", 405, "MethodNotAllowedException"),
        ("DELETE", "/predictions/mlp/1", 405, "MethodNotAllowedException"),
        ("POST", "/ping", 405, "MethodNotAllowedException"),
        ("POST", "/predictions/mlp/1/more", 404, "ModelNotFoundException"),
    ],
)
async def test_what_leads_nowhere_is_told_in_torchserves_form(
    client: httpx.AsyncClient, make_inference: MakeInference, method: str, path: str, status: int, kind: str
) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == status
    assert (answer.json()["code"], answer.json()["type"], len(answer.json())) == (status, kind, 3)
    assert ("allow" in answer.headers) == (status == 405)
    async with client_of(make_inference()) as http:
        assert (await http.request(method, path)).json()["code"] == "not_found", "it is off"


async def test_a_failure_of_our_own_is_told_in_torchserves_form(make_inference: MakeInference) -> None:
    inference = make_inference(torchserve_api=True)
    inference.on_demand = Gone()
    async with client_of(inference) as http:
        answer = await http.post("/predictions/gone", json=[1])
        assert (answer.status_code, answer.json()["type"]) == (404, "ModelNotFoundException")
        answer = await http.post("/predictions/defect", json=[1])
        assert (answer.status_code, answer.json()["type"]) == (500, "InternalServerException")
        assert "a secret" not in answer.text


class Gone:
    """Models whose load fails."""

    def names(self) -> list[str]:
        return ["gone", "defect"]

    def covers(self, model: str) -> bool:
        return model in self.names()

    def refusal(self, model: str) -> ForebayError:
        return RequestError("there is no such model", code="model_not_found")

    async def wake(self, model: str, version: str | None = None) -> None:
        raise self.refusal(model) if model == "gone" else ValueError("a secret")


async def test_every_answer_is_described(make_inference: MakeInference) -> None:
    async with client_of(make_inference(torchserve_api=True)) as http:
        described = (await http.get("/openapi.json")).json()["paths"]["/predictions/{model}"]["post"]
    assert "application/json" in described["requestBody"]["content"]
    for status in (200, 400, 401, 404, 408, 413, 415, 429, 500, 501, 503, 504):
        assert "application/json" in described["responses"][str(status)]["content"], status


async def test_forms_are_refused_by_name(client: httpx.AsyncClient) -> None:
    answer = await client.post("/predictions/mlp", files={"data": b"[1, 2, 3, 4]"})
    assert answer.status_code == 501
    assert "forms are not supported" in answer.json()["message"]


async def test_a_refusal_keeps_its_hint(client: httpx.AsyncClient, engines: dict[str, Any]) -> None:
    engines["mlp"].refuse_with = AdmissionError("full", retry_after_s=3.0)
    answer = await client.post("/predictions/mlp", json=[1, 2, 3, 4])
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")
    assert answer.json() == {"code": 503, "type": "ServiceUnavailableException", "message": "full"}


async def test_a_key_is_needed_before_anything_is_told(make_inference: MakeInference) -> None:
    keys = Keys.parse(key_line("alice", SECRET), "test")
    async with client_of(make_inference(keys, torchserve_api=True)) as http:
        for path in ("/predictions/mlp", "/predictions/nobody"):
            answer = await http.post(path, content=b"not even JSON")
            assert (answer.status_code, answer.json()["type"]) == (401, "InvalidKeyException")
        authorized = {"authorization": f"Bearer {SECRET}"}
        assert (await http.post("/predictions/mlp", json=[1, 2, 3, 4], headers=authorized)).status_code == 200
        assert (await http.get("/ping")).status_code == 200


async def test_a_coded_body_is_read_and_the_answer_stays_plain(make_inference: MakeInference) -> None:
    inference = make_inference(torchserve_api=True, compress_from_bytes=1)
    async with client_of(inference) as http:
        body = gzip.compress(b"[1, 2, 3, 4]")
        headers = {"content-type": "application/json", "content-encoding": "gzip", "accept-encoding": "gzip"}
        answer = await http.post("/predictions/mlp", content=body, headers=headers)
        assert (answer.status_code, answer.json()) == (200, {"y": [2.0, 4.0]})
        answer = await http.post("/predictions/mlp", content=body, headers={**headers, "content-encoding": "br"})
        assert (answer.status_code, answer.json()["code"]) == (415, 415)
