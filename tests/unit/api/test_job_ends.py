"""How jobs end over HTTP, and who sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from tests.unit.api.job_site import JOBS, MLP, UNKNOWN, JobSite, check_problem, submitted

from forebay.api.auth import Keys, key_line
from forebay.api.inference import Inference
from forebay.core.errors import DeadlineExceeded, ExecutionError
from forebay.jobs.record import JobError
from forebay.jobs.store import Finish

MakeInference = Callable[..., Inference]


@pytest.fixture
def http(site: JobSite) -> httpx.AsyncClient:
    return site.http


async def test_a_result_that_is_not_there_yet_is_202(http: httpx.AsyncClient) -> None:
    id = await submitted(http)
    answer = await http.get(f"/v1/jobs/{id}/result")
    assert (answer.status_code, answer.headers["retry-after"]) == (202, "1")
    assert answer.headers["location"] == f"/v1/jobs/{id}"
    assert (answer.json()["id"], answer.json()["status"]) == (id, "queued")


@pytest.mark.parametrize(
    ("error", "status", "members"),
    [
        (ExecutionError("boom"), 500, {"code": "model_error", "detail": "boom"}),
        (ExecutionError("no", code="out_of_memory"), 500, {"code": "out_of_memory"}),
        (DeadlineExceeded("late", stage="executing"), 504, {"code": "deadline_exceeded", "stage": "executing"}),
    ],
)
async def test_a_job_that_failed(
    site: JobSite, http: httpx.AsyncClient, engines: Any, error: Any, status: int, members: dict[str, str]
) -> None:
    id = await submitted(http)
    engines["mlp"].fail_with = error
    await site.work()
    job = (await http.get(f"/v1/jobs/{id}")).json()
    assert (job["status"], job["error"]["code"]) == ("failed", error.code)
    problem = check_problem(await http.get(f"/v1/jobs/{id}/result"), status, error.code)
    assert members.items() <= problem.items()
    assert problem["instance"] == f"/v1/jobs/{id}"


@pytest.mark.parametrize("code", ["request_canceled", "nobody_knows"])
async def test_no_failure_has_a_status_that_http_does_not_know(
    site: JobSite, http: httpx.AsyncClient, code: str
) -> None:
    id = await submitted(http)
    (job,) = await site.leased()
    await site.store.finish([Finish(job, "failed", error=JobError(code, "x"))])
    check_problem(await http.get(f"/v1/jobs/{id}/result"), 500, code)


async def test_a_job_that_expired(site: JobSite, http: httpx.AsyncClient) -> None:
    id = await submitted(http, ttl_s=1)
    site.store.now += 1001
    assert await site.work() == 0
    assert (await http.get(f"/v1/jobs/{id}")).json()["status"] == "expired"
    problem = check_problem(await http.get(f"/v1/jobs/{id}/result"), 504, "deadline_exceeded")
    assert problem["stage"] == "queued"


async def test_canceling_is_idempotent(site: JobSite, http: httpx.AsyncClient) -> None:
    id = await submitted(http)
    for _ in range(2):
        answer = await http.post(f"/v1/jobs/{id}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (200, "canceled")
    problem = check_problem(await http.get(f"/v1/jobs/{id}/result"), 409, "request_canceled")
    assert problem["title"] == "Conflict"
    assert await site.work() == 0

    id = await submitted(http)
    await site.work()
    answer = await http.post(f"/v1/jobs/{id}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
    assert answer.json()["output"]


async def test_deleting(site: JobSite, http: httpx.AsyncClient) -> None:
    for done in (False, True):
        id = await submitted(http)
        if done:
            await site.work()
        answer = await http.delete(f"/v1/jobs/{id}")
        assert (answer.status_code, answer.content) == (204, b"")
        for again in (await http.delete(f"/v1/jobs/{id}"), await http.get(f"/v1/jobs/{id}")):
            check_problem(again, 404, "job_not_found")
    assert await site.work() == 0


async def test_a_job_past_its_retention_is_410(site: JobSite, http: httpx.AsyncClient) -> None:
    id = await submitted(http, retention_s=10)
    await site.work()
    site.store.now += 11_000
    for path in ("", "/result"):
        check_problem(await http.get(f"/v1/jobs/{id}{path}"), 410, "job_gone")
    check_problem(await http.post(f"/v1/jobs/{id}/cancel"), 410, "job_gone")
    check_problem(await http.delete(f"/v1/jobs/{id}"), 410, "job_gone")


@pytest.mark.parametrize(
    "id",
    [
        UNKNOWN,
        "x",
        "1",
        "{s0}",
        "*",
        "..%2F..",
        "%00",
        "%F0%9F%98%80",
        UNKNOWN[:-1],
        UNKNOWN + "0",
        UNKNOWN.replace("-", ""),
        "a" * 5000,
    ],
)
async def test_an_unknown_job_is_404(http: httpx.AsyncClient, id: str) -> None:
    for answer in (
        await http.get(f"/v1/jobs/{id}"),
        await http.get(f"/v1/jobs/{id}/result"),
        await http.post(f"/v1/jobs/{id}/cancel"),
        await http.delete(f"/v1/jobs/{id}"),
    ):
        assert answer.status_code == 404
        assert answer.json()["code"] in ("job_not_found", "not_found")
        assert len(answer.content) < 1000


async def test_an_id_may_be_in_upper_case(http: httpx.AsyncClient) -> None:
    id = await submitted(http)
    assert (await http.get(f"/v1/jobs/{id.upper()}")).json()["id"] == id


async def test_heads_only(http: httpx.AsyncClient) -> None:
    id = await submitted(http)
    assert (await http.head(f"/v1/jobs/{id}")).status_code == 200
    assert (await http.head(f"/v1/jobs/{UNKNOWN}")).status_code == 404


MINE, OTHER = "fb_" + "m" * 43, "fb_" + "o" * 43


async def test_jobs_and_keys_are_seen_only_by_their_tenant(make_inference: MakeInference) -> None:
    site = JobSite(make_inference(Keys.parse(f"{key_line('me', MINE)}\n{key_line('other', OTHER)}", "test")))
    http = site.http
    mine, other = ({"authorization": f"Bearer {secret}"} for secret in (MINE, OTHER))
    key = {"idempotency-key": "k"}
    id = (await http.post(JOBS, json=MLP, headers={**mine, **key})).json()["id"]
    for again in (False, True):
        for method, path in (("GET", ""), ("GET", "/result"), ("POST", "/cancel"), ("DELETE", "")):
            check_problem(await http.request(method, f"/v1/jobs/{id}{path}", headers=other), 404, "job_not_found")
            check_problem(await http.request(method, f"/v1/jobs/{id}{path}"), 401, "unauthorized")
        assert (await http.get("/v1/jobs", headers=other)).json()["jobs"] == []
        if not again:
            await site.work()
    assert [job["id"] for job in (await http.get("/v1/jobs", headers=mine)).json()["jobs"]] == [id]
    assert (await http.get(f"/v1/jobs/{id}", headers=mine)).json()["status"] == "succeeded"
    answer = await http.post(JOBS, json={**MLP, "id": "different"}, headers={**other, **key})
    assert answer.status_code == 202
    assert answer.json()["id"] != id
    site.store.now += 2 * 86_400_000
    for caller, status, code in ((mine, 410, "job_gone"), (other, 404, "job_not_found")):
        check_problem(await http.get(f"/v1/jobs/{id}", headers=caller), status, code)
    for answer in (await http.post(JOBS, json=MLP), await http.get("/v1/jobs"), await http.post(f"{JOBS}/batch")):
        check_problem(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"].startswith("Bearer")
    await site.close()


async def test_a_quota_is_429(make_inference: MakeInference) -> None:
    site = JobSite(make_inference(requests_per_s=1.0))
    await submitted(site.http)
    for answer in (await site.http.post(JOBS, json=MLP), await site.http.get("/v1/jobs")):
        check_problem(answer, 429, "over_quota")
        assert answer.headers["retry-after"] == "1"
    await site.close()
