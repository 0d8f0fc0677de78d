"""Submitting jobs over HTTP: every status, its headers and its document."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from tests.unit.api.job_site import INFER, JOBS, MLP, UNKNOWN, UNREACHED, JobSite, check_problem, submitted

from forebay.api.app import create_app
from forebay.api.inference import Inference

MakeInference = Callable[..., Inference]


@pytest.fixture
def http(site: JobSite) -> httpx.AsyncClient:
    return site.http


async def test_a_job_is_accepted_and_runs(site: JobSite, http: httpx.AsyncClient) -> None:
    answer = await http.post(JOBS, json={**MLP, "metadata": {"user": 7}})
    assert (answer.status_code, answer.headers["content-type"]) == (202, "application/json")
    job = answer.json()
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", job["id"])
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}" == job["urls"]["self"]
    assert answer.headers["retry-after"] == "1"
    assert "preference-applied" not in answer.headers
    assert "idempotent-replayed" not in answer.headers
    assert (job["model"], job["status"], job["attempt"], job["metadata"]) == ("mlp", "queued", 0, {"user": 7})
    assert job["created_at"] == "2025-11-25T09:41:47.123Z"

    looked = await http.get(answer.headers["location"])
    assert looked.json() == job
    assert looked.headers["retry-after"] == "1"
    assert await site.work() == 1
    looked = await http.get(answer.headers["location"])
    assert "retry-after" not in looked.headers
    done = looked.json()
    assert (done["status"], done["attempt"], done["metrics"]) == ("succeeded", 1, {"batch_rows": 1})
    assert done["output"]["outputs"][0]["data"] == [2.0, 4.0]
    assert (done["started_at"], done["finished_at"]) == ("2025-11-25T09:41:47.123Z", "2025-11-25T09:41:47.373Z")
    result = await http.get(job["urls"]["result"])
    assert (result.status_code, result.json()) == (200, done["output"])
    assert result.content == (await http.post(INFER, json=MLP)).content
    answers = [looked, result, await http.get("/v1/jobs")]
    assert [one.headers["cache-control"] for one in answers] == ["no-store"] * 3


async def test_what_was_asked_is_what_is_kept(site: JobSite, http: httpx.AsyncClient) -> None:
    plain = json.dumps(MLP).encode()
    await http.post(JOBS, content=plain)
    options = {
        "ttl_s": 60,
        "timeout_s": 5,
        "retention_s": 120,
        "webhook": "https://example.com/h",
        "metadata": {"a": 1},
    }
    await http.post(JOBS, json={**MLP, **options, "priority": 1, "cache": "off"})
    await http.post(JOBS, json={**MLP, "parameters": {"priority": 5, "timeout": 250_000}})
    await http.post(JOBS, json={**MLP, "parameters": {"priority": 5}, "priority": 0})
    jobs = sorted(await site.leased(), key=lambda job: job.spec.id)
    first, second, third, fourth = (job.spec for job in jobs)
    assert (first.body, first.content_type, first.header_length, first.level) == (plain, "", "", 1)
    assert (first.ttl_s, first.timeout_s, first.retention_s, first.max_attempts) == (None, None, 86400.0, 3)
    assert (first.tenant, first.version, first.webhook, first.metadata) == ("anonymous", "", "", None)
    assert json.loads(second.body) == MLP
    assert (second.ttl_s, second.timeout_s, second.retention_s, second.level) == (60.0, 5.0, 120.0, 0)
    assert (second.webhook, second.metadata) == ("https://example.com/h", {"a": 1})
    assert (third.level, third.timeout_s) == (2, 0.25)
    assert fourth.level == 1


async def test_the_settings_are_the_defaults(make_inference: MakeInference) -> None:
    site = JobSite(make_inference(), retention_s=9.0, max_attempts=7, max_retention_s=5.0)
    assert (await site.http.post(JOBS, json={**MLP, "retention_s": 8})).status_code == 202
    answer = await site.http.post(JOBS, json={**MLP, "retention_s": 9.5})
    assert "at most 9" in check_problem(answer, 400, "invalid_request")["detail"]
    assert (await site.http.post(JOBS, json=MLP)).json()["max_attempts"] == 7
    specs = [job.spec for job in await site.leased()]
    assert [(spec.retention_s, spec.max_attempts) for spec in specs] == [(8.0, 7), (9.0, 7)]
    await site.close()


async def test_webhooks_to_this_machine_where_they_are_allowed(make_inference: MakeInference) -> None:
    site = JobSite(make_inference(), private_webhooks_allowed=True)
    assert (await site.http.post(JOBS, json={**MLP, "webhook": "http://127.0.0.1:9/h"})).status_code == 202
    await site.close()


async def test_every_form_of_inference(site: JobSite, http: httpx.AsyncClient) -> None:
    entry = {"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}
    head = json.dumps({"inputs": [entry], "ttl_s": 60, "parameters": {"binary_data_output": True}}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    binary = await http.post(JOBS, content=head + np.arange(4, dtype=np.float32).tobytes(), headers=headers)
    shorthand = await http.post(JOBS, json={"input": {"x": [1, 2, 3, 4]}})
    nan = await http.post(JOBS, content=b'{"input": {"x": [NaN, 2, 3, 4]}, "ttl_s": 60}')
    image = await http.post("/v1/models/text/jobs", content=b"abc", headers={"content-type": "image/png"})
    assert [answer.status_code for answer in (binary, shorthand, nan, image)] == [202] * 4
    await site.work()
    await site.work("text")
    result = await http.get(binary.json()["urls"]["result"])
    assert result.headers["content-type"] == "application/octet-stream"
    length = int(result.headers["inference-header-content-length"])
    assert np.frombuffer(result.content[length:], np.float32).tolist() == [0.0, 2.0]
    assert "output" not in (await http.get(binary.headers["location"])).json()
    assert (await http.get(shorthand.headers["location"])).json()["output"]["output"] == {"y": [2.0, 4.0]}
    assert b"NaN" in (await http.get(nan.json()["urls"]["result"])).content
    assert (await http.get(image.json()["urls"]["result"])).json()["output"] == {"upper": ["ABC"]}


async def test_a_large_body_is_read_in_steps(make_inference: MakeInference) -> None:
    site = JobSite(make_inference(decode_off_loop_bytes=100))
    rows = 3000
    body = {"inputs": [{"name": "x", "shape": [rows, 4], "datatype": "FP32", "data": [0.5] * (4 * rows)}]}
    answer = await site.http.post(JOBS, json={**body, "ttl_s": 60})
    assert answer.status_code == 202
    await site.work()
    assert (await site.http.get(answer.json()["urls"]["result"])).json()["outputs"][0]["shape"] == [rows, 2]
    wrong = {"inputs": [{**body["inputs"][0], "shape": [rows + 1, 4]}]}
    check_problem(await site.http.post(JOBS, json=wrong), 400, "invalid_request")
    await site.close()


@pytest.mark.parametrize(
    ("path", "content", "headers", "status", "code"),
    [
        (JOBS, b"", {}, 400, "invalid_request"),
        (JOBS, b"{", {}, 400, "invalid_request"),
        (JOBS, b"[]", {}, 400, "invalid_request"),
        (JOBS, b"{}", {}, 400, "invalid_request"),
        (JOBS, b"\xff", {}, 400, "invalid_request"),
        (JOBS, json.dumps({**MLP, "inputs": []}).encode(), {}, 400, "invalid_request"),
        (JOBS, json.dumps({**MLP, "ttl": 5}).encode(), {}, 400, "invalid_request"),
        (JOBS, json.dumps({**MLP, "ttl_s": "x"}).encode(), {}, 400, "invalid_request"),
        (JOBS, json.dumps({**MLP, "webhook": "http://[::1]/"}).encode(), {}, 400, "invalid_request"),
        (JOBS, json.dumps({**MLP, "cache": "use"}).encode(), {}, 501, "unsupported"),
        (JOBS, json.dumps({**MLP, "parameters": {"sequence_id": 1}}).encode(), {}, 501, "unsupported"),
        (JOBS, json.dumps(MLP).encode(), {"idempotency-key": "a b"}, 400, "invalid_request"),
        (JOBS, b"{}", {"inference-header-content-length": "x"}, 400, "invalid_request"),
        (JOBS, b"{}", {"inference-header-content-length": "9"}, 400, "invalid_request"),
        (JOBS, b"{}", {"content-encoding": "br"}, 415, "unsupported_encoding"),
        (JOBS, b"{}", {"content-encoding": "gzip"}, 400, "invalid_request"),
        (JOBS, b"{}", {"transfer-encoding": "gzip"}, 501, "unsupported"),
        (JOBS, b"x" * 3000, {}, 413, "payload_too_large"),
        ("/v1/models/none/jobs", b"{}", {}, 404, "model_not_found"),
        ("/v1/models/none/jobs/batch", b"{}", {}, 404, "model_not_found"),
        ("/v1/models/mlp/versions/1/jobs", b"{}", {}, 404, "not_found"),
        ("/v1/elsewhere", b"", {}, 404, "not_found"),
    ],
)
async def test_refusals(
    make_inference: MakeInference, path: str, content: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    site = JobSite(make_inference(max_body_bytes=2000))
    check_problem(await site.http.post(path, content=content, headers=headers), status, code)
    assert site.store.calls == []
    await site.close()


async def test_a_wrong_method_is_405(http: httpx.AsyncClient) -> None:
    answer = await http.put(JOBS)
    check_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"
    answer = await http.post(f"/v1/jobs/{UNKNOWN}")
    check_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "DELETE, GET, HEAD"


@pytest.mark.parametrize(
    ("state", "code"), [("starting", "model_not_ready"), ("failed", "model_not_ready"), ("draining", "draining")]
)
async def test_a_model_that_is_not_ready(engines: Any, http: httpx.AsyncClient, state: str, code: str) -> None:
    engines["mlp"].state = state
    answer = await http.post(JOBS, json=MLP)
    check_problem(answer, 503, code)
    assert answer.headers["retry-after"] == "1"


async def test_a_full_queue_is_503(make_inference: MakeInference) -> None:
    site = JobSite(make_inference(), max_queued=2)
    for _ in range(2):
        await submitted(site.http)
    answer = await site.http.post(JOBS, json=MLP)
    check_problem(answer, 503, "queue_full")
    assert int(answer.headers["retry-after"]) >= 1
    await site.work()
    await submitted(site.http)
    await site.close()


async def test_a_store_that_is_not_reached_is_503(site: JobSite, http: httpx.AsyncClient) -> None:
    id = await submitted(http)
    site.store.fail_with = UNREACHED
    answers = [
        await http.post(JOBS, json=MLP),
        await http.get(f"/v1/jobs/{id}"),
        await http.get(f"/v1/jobs/{id}/result"),
    ]
    answers += [await http.post(f"/v1/jobs/{id}/cancel"), await http.delete(f"/v1/jobs/{id}")]
    answers.append(await http.post(f"{JOBS}/batch", json={"jobs": [MLP, MLP]}))
    for answer in answers:
        check_problem(answer, 503, "store_unavailable")
        assert answer.headers["retry-after"] == "2"
    site.store.fail_with = None
    assert (await http.get(f"/v1/jobs/{id}")).status_code == 200


async def test_a_fault_of_ours_is_500_and_tells_nothing(
    site: JobSite, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    site.store.fail_with = KeyError("secret detail")
    for answer in (await http.post(JOBS, json=MLP), await http.get(f"/v1/jobs/{UNKNOWN}")):
        check_problem(answer, 500, "internal")
        assert "secret detail" not in answer.text
    assert "KeyError" in caplog.text


async def test_the_store_is_started_by_the_first_use(site: JobSite, http: httpx.AsyncClient) -> None:
    await http.post(INFER, json=MLP)
    await http.post(JOBS, json={})
    assert site.starts == 0
    await submitted(http)
    assert site.starts == 1
    for path in (f"/v1/jobs/{UNKNOWN}", "/v1/jobs"):
        before = site.starts
        await http.get(path)
        assert site.starts == before + 1


async def test_jobs_that_come_together_share_a_call(site: JobSite, http: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(http.post(JOBS, json={**MLP, "id": str(number)}) for number in range(50)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 50
    assert sum(site.store.calls) == 50
    assert len(site.store.calls) < 50


async def test_without_jobs_their_operations_say_so(make_inference: MakeInference) -> None:
    app = create_app(make_inference(), metrics_text=lambda: b"", ready=list)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        for method, path in (
            ("POST", JOBS),
            ("POST", f"{JOBS}/batch"),
            ("GET", "/v1/jobs"),
            ("GET", f"/v1/jobs/{UNKNOWN}"),
            ("GET", f"/v1/jobs/{UNKNOWN}/result"),
            ("POST", f"/v1/jobs/{UNKNOWN}/cancel"),
            ("DELETE", f"/v1/jobs/{UNKNOWN}"),
        ):
            check_problem(await http.request(method, path), 501, "unsupported")
        # That inference is to be a job is a wish, which may be passed over (RFC 7240, 2).
        answer = await http.post(INFER, json=MLP, headers={"prefer": "respond-async"})
        assert (answer.status_code, "preference-applied" in answer.headers) == (200, False)


async def test_urls_are_those_of_where_the_app_is_mounted(site: JobSite) -> None:
    transport = httpx.ASGITransport(site.app, root_path="/models")
    async with httpx.AsyncClient(transport=transport, base_url="http://test/models") as http:
        answer = await http.post(JOBS, json=MLP)
        assert answer.headers["location"] == f"/models/v1/jobs/{answer.json()['id']}"
        assert (await http.get(f"/v1/jobs/{answer.json()['id']}")).json() == answer.json()
        check_problem(await http.get("/v1/elsewhere"), 404, "not_found")


async def test_large_documents_are_compressed_for_who_asks(make_inference: MakeInference) -> None:
    site = JobSite(make_inference(compress_from_bytes=1000))
    id = (await site.http.post(JOBS, json={**MLP, "metadata": {"a": "x" * 5000}})).json()["id"]
    for path in (f"/v1/jobs/{id}", "/v1/jobs"):
        answer = await site.http.get(path, headers={"accept-encoding": "gzip"})
        assert answer.headers["content-encoding"] == "gzip"
        assert "x" * 5000 in answer.text
    await site.close()


async def test_the_document_tells_of_jobs(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    paths = document["paths"]
    assert set(paths["/v1/jobs/{id}"]) == {"get", "delete"}
    assert {"200", "202", "400", "422", "503"} <= set(paths["/v1/models/{model}/jobs"]["post"]["responses"])
    assert {"200", "202", "409", "410", "504"} <= set(paths["/v1/jobs/{id}/result"]["get"]["responses"])
    answers = paths[INFER.replace("mlp", "{model}")]["post"]["responses"]
    assert "202" in answers
    submitting = paths["/v1/models/{model}/jobs"]["post"]
    for operation in (submitting, paths[INFER.replace("mlp", "{model}")]["post"]):
        assert {"Cache-Control", "Cache-Tag"} <= {one["name"] for one in operation["parameters"]}
        assert {"X-Cache", "X-Cache-Entry", "Age"} <= set(operation["responses"]["200"]["headers"])
        assert "504" in operation["responses"]
    assert {"Content-Location", "Preference-Applied", "Idempotent-Replayed"} <= set(answers["200"]["headers"])
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert names <= set(document["components"]["schemas"])
