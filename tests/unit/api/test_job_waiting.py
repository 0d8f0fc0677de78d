"""Waiting for a job with `Prefer: wait`, and inference that prefers to be a job."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from tests.unit.api.job_site import INFER, JOBS, MLP, UNREACHED, JobSite, check_problem, submitted, waiting

from forebay.api.inference import LEAVING, Inference, Leaving
from forebay.core.errors import ExecutionError

MakeInference = Callable[..., Inference]


@pytest.fixture
def http(site: JobSite) -> httpx.AsyncClient:
    return site.http


async def test_a_job_that_is_done_in_time_is_200(site: JobSite, http: httpx.AsyncClient) -> None:
    posting = asyncio.ensure_future(http.post(JOBS, json=MLP, headers={"prefer": "wait=30"}))
    await waiting(site)
    await site.work()
    answer = await posting
    assert (answer.status_code, answer.headers["preference-applied"]) == (200, "wait=30")
    assert "retry-after" not in answer.headers
    job = answer.json()
    assert answer.headers["location"] == job["urls"]["self"]
    assert (job["status"], job["output"]["outputs"][0]["data"]) == ("succeeded", [2.0, 4.0])


async def test_a_job_that_is_not_done_in_time_is_202(http: httpx.AsyncClient) -> None:
    for wait in (0, 1):
        answer = await http.post(JOBS, json=MLP, headers={"prefer": f"wait={wait}"})
        assert (answer.status_code, answer.headers["preference-applied"]) == (202, f"wait={wait}")
        assert answer.json()["status"] == "queued"
    looked = await http.get(answer.headers["location"], headers={"prefer": "wait=1"})
    assert (looked.status_code, looked.headers["preference-applied"]) == (200, "wait=1")
    assert looked.json()["status"] == "queued"


async def test_looking_waits_for_the_end(site: JobSite, http: httpx.AsyncClient) -> None:
    id = await submitted(http)
    paths = [f"/v1/jobs/{id}", f"/v1/jobs/{id}/result"]
    looking = [asyncio.ensure_future(http.get(path, headers={"prefer": "wait=30"})) for path in paths]
    await waiting(site)
    await asyncio.sleep(0)
    await site.work()
    shown, result = await asyncio.gather(*looking)
    assert shown.json()["status"] == "succeeded"
    assert (result.status_code, result.json()) == (200, shown.json()["output"])
    assert {answer.headers["preference-applied"] for answer in (shown, result)} == {"wait=30"}
    again = await http.get(paths[0], headers={"prefer": "wait=30"})
    assert again.json() == shown.json()


async def test_an_accepted_job_stays_accepted_when_the_store_is_lost(
    site: JobSite, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    posting = asyncio.ensure_future(http.post(JOBS, json=MLP, headers={"prefer": "wait=1"}))
    await waiting(site)
    site.store.fail_with = UNREACHED
    answer = await posting
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")


async def test_a_job_that_is_deleted_meanwhile(site: JobSite, http: httpx.AsyncClient) -> None:
    id = await submitted(http)
    looking = asyncio.ensure_future(http.get(f"/v1/jobs/{id}", headers={"prefer": "wait=30"}))
    await waiting(site)
    assert (await http.delete(f"/v1/jobs/{id}")).status_code == 204
    check_problem(await looking, 404, "job_not_found")


async def call(site: JobSite, path: str, receive: Any, **scope: Any) -> list[Any]:
    """One GET through bare ASGI, with `Prefer: wait=60`."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"", **scope}
    scope |= {"headers": [(b"prefer", b"wait=60")], "http_version": "1.1", "scheme": "http", "root_path": ""}
    await site.app(scope, receive, send)
    return sent


async def test_a_client_that_leaves_waits_no_longer(site: JobSite, http: httpx.AsyncClient) -> None:
    path = f"/v1/jobs/{await submitted(http)}"
    messages: asyncio.Queue[Any] = asyncio.Queue()
    messages.put_nowait({"type": "http.request", "body": b""})
    calling = asyncio.ensure_future(call(site, path, messages.get))
    await waiting(site)
    messages.put_nowait({"type": "http.disconnect"})
    await calling
    assert len(site.hub) == 0

    leaving = Leaving()
    calling = asyncio.ensure_future(call(site, path, messages.get, **{LEAVING: leaving}))
    await waiting(site)
    leaving.happen()
    await calling
    assert (len(site.hub), leaving.tell) == (0, set())
    # One that had left before it began to wait.
    await call(site, path, messages.get, **{LEAVING: leaving})
    assert len(site.hub) == 0


async def test_a_server_that_stops_ends_the_waiting(site: JobSite, http: httpx.AsyncClient) -> None:
    path = f"/v1/jobs/{await submitted(http)}"
    calling = asyncio.ensure_future(call(site, path, asyncio.Event().wait, **{LEAVING: Leaving()}))
    await waiting(site)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert len(site.hub) == 0


@pytest.mark.parametrize("path", [INFER, "/v2/models/mlp/versions/1/infer"])
async def test_inference_may_prefer_to_be_a_job(site: JobSite, http: httpx.AsyncClient, path: str) -> None:
    parameters: dict[str, Any] = {
        "ttl_s": 60,
        "timeout_s": 5,
        "metadata": {"a": [1]},
        "webhook": "https://example.com",
        "priority": 1,
        "own": 3,
    }
    body: dict[str, Any] = {**MLP, "parameters": parameters}
    answer = await http.post(path, json=body, headers={"prefer": "respond-async"})
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "respond-async")
    assert answer.headers["location"] == answer.json()["urls"]["self"]
    assert answer.headers["retry-after"] == "1"
    (job,) = await site.leased()
    spec = job.spec
    assert (spec.id, spec.version) == (answer.json()["id"], "1" if "versions" in path else "")
    assert (spec.ttl_s, spec.timeout_s, spec.level, spec.metadata) == (60.0, 5.0, 0, {"a": [1]})
    assert json.loads(spec.body)["parameters"] == {"priority": 1, "own": 3}


async def test_inference_that_is_done_in_time_is_answered_as_ever(
    site: JobSite, http: httpx.AsyncClient, engines: Any
) -> None:
    plain = await http.post(INFER, json=MLP)
    prefer = {"prefer": "respond-async, wait=30"}
    posting = asyncio.ensure_future(http.post(INFER, json=MLP, headers=prefer))
    await waiting(site)
    await site.work()
    answer = await posting
    assert (answer.status_code, answer.content) == (200, plain.content)
    assert answer.headers["preference-applied"] == "wait=30"
    place = answer.headers["content-location"]
    assert (await http.get(place)).content == plain.content

    keyed = {**prefer, "idempotency-key": "k"}
    posting = asyncio.ensure_future(http.post(INFER, json=MLP, headers=keyed))
    await waiting(site)
    await site.work()
    first, second = await posting, await http.post(INFER, json=MLP, headers=keyed)
    assert (second.status_code, second.content) == (200, plain.content)
    assert second.headers["content-location"] == first.headers["content-location"]
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"

    engines["mlp"].fail_with = ExecutionError("boom")
    posting = asyncio.ensure_future(http.post(INFER, json=MLP, headers=prefer))
    await waiting(site)
    await site.work()
    answer = await posting
    assert (answer.status_code, answer.json()) == (500, {"error": "boom", "code": "model_error"})
    assert answer.headers["content-type"] == "application/json"


async def test_errors_of_inference_keep_their_form(make_inference: MakeInference) -> None:
    site = JobSite(make_inference(), max_queued=1)
    prefer = {"prefer": "respond-async", "idempotency-key": "k"}
    bad = await site.http.post(INFER, json={**MLP, "parameters": {"ttl_s": -1}}, headers=prefer)
    assert (bad.status_code, bad.json()["code"]) == (400, "invalid_request")
    assert "ttl_s" in bad.json()["error"]
    assert (await site.http.post(INFER, json=MLP, headers=prefer)).status_code == 202
    answer = await site.http.post(INFER, json={**MLP, "id": "x"}, headers=prefer)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    answer = await site.http.post(INFER, json=MLP, headers={"prefer": "respond-async"})
    assert (answer.status_code, answer.json()["code"]) == (503, "queue_full")
    assert int(answer.headers["retry-after"]) >= 1
    answer = await site.http.post(INFER, json=MLP, headers=prefer)
    assert (answer.status_code, answer.headers["idempotent-replayed"]) == (202, "true")
    await site.close()


async def test_other_preferences_change_nothing_of_inference(http: httpx.AsyncClient) -> None:
    for prefer in ("wait=5", "return=minimal", ""):
        answer = await http.post(INFER, json=MLP, headers={"prefer": prefer})
        assert (answer.status_code, "preference-applied" in answer.headers) == (200, False)


async def test_torchserves_predictions_are_never_jobs(make_inference: MakeInference) -> None:
    site = JobSite(make_inference(torchserve_api=True))
    answer = await site.http.post("/predictions/mlp", json=[1, 2, 3, 4], headers={"prefer": "respond-async"})
    assert (answer.status_code, answer.json()) == (200, {"y": [2.0, 4.0]})
    await site.close()
