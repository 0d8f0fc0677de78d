"""Replaying a failed job over HTTP: once, as a new job, by its owner."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from tests.unit.api.job_site import UNKNOWN, UNREACHED, JobSite, check_problem, submitted

from forebay.api.auth import Keys, key_line
from forebay.api.inference import Inference
from forebay.core.errors import ExecutionError

MakeInference = Callable[..., Inference]
MINE, OTHER = "fb_" + "m" * 43, "fb_" + "o" * 43


@pytest.fixture
def http(site: JobSite) -> httpx.AsyncClient:
    return site.http


async def failed(site: JobSite, engines: Any, **more: Any) -> str:
    """The id of a job that has failed; the next one does not."""
    id = await submitted(site.http, **more)
    engines["mlp"].fail_with = ExecutionError("boom")
    await site.work()
    engines["mlp"].fail_with = None
    return id


async def test_a_failed_job_is_run_again_as_a_new_one(site: JobSite, http: httpx.AsyncClient, engines: Any) -> None:
    options = {"metadata": {"a": 1}, "retention_s": 500, "priority": 1}
    old = await failed(site, engines, **options)
    answer = await http.post(f"/v1/jobs/{old}/replay")
    assert answer.status_code == 202, answer.text
    new = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{new['id']}"
    assert (new["replay_of"], new["status"], new["attempt"], new["metadata"]) == (old, "queued", 0, {"a": 1})
    assert new["id"] != old
    (before,), (after,) = await site.store.asked([old]), await site.store.asked([new["id"]])
    assert before is not None
    assert after is not None
    assert (after.body, after.level, after.retention_s) == (before.body, 0, 500)
    assert await site.work() == 1
    done = (await http.get(f"/v1/jobs/{new['id']}")).json()
    assert (done["status"], done["replay_of"]) == ("succeeded", old)
    assert done["output"]
    # The old one's answer stands.
    assert (await http.get(f"/v1/jobs/{old}")).json()["status"] == "failed"


async def test_however_often_it_is_replayed_there_is_one_replay(
    site: JobSite, http: httpx.AsyncClient, engines: Any
) -> None:
    old = await failed(site, engines)
    answers = await asyncio.gather(*(http.post(f"/v1/jobs/{old}/replay") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {202}
    [new] = {answer.json()["id"] for answer in answers}
    assert sorted(answer.headers.get("idempotent-replayed", "") for answer in answers)[:2] == ["", "true"]
    assert await site.work() == 1
    again = await http.post(f"/v1/jobs/{old}/replay")
    assert (again.status_code, again.json()["id"], again.json()["status"]) == (200, new, "succeeded")
    assert await site.work() == 0
    # Once that one is forgotten, it can be replayed anew.
    await http.delete(f"/v1/jobs/{new}")
    assert (await http.post(f"/v1/jobs/{old}/replay")).json()["id"] != new


async def test_a_replay_that_fails_can_be_replayed_itself(site: JobSite, http: httpx.AsyncClient, engines: Any) -> None:
    old = await failed(site, engines)
    new = (await http.post(f"/v1/jobs/{old}/replay")).json()["id"]
    engines["mlp"].fail_with = ExecutionError("boom")
    await site.work()
    newest = (await http.post(f"/v1/jobs/{new}/replay")).json()
    assert newest["replay_of"] == new
    listed = (await http.get("/v1/jobs", params={"status": "failed"})).json()["jobs"]
    assert [job["id"] for job in listed] == [new, old]


async def test_only_failed_jobs_can_be_replayed(site: JobSite, http: httpx.AsyncClient) -> None:
    queued, canceled, done = await submitted(http), await submitted(http), await submitted(http)
    await http.post(f"/v1/jobs/{canceled}/cancel")
    problem = check_problem(await http.post(f"/v1/jobs/{queued}/replay"), 409, "job_not_failed")
    assert "is queued; only a failed one can be replayed" in problem["detail"]
    await site.work()
    for id in (canceled, done):
        check_problem(await http.post(f"/v1/jobs/{id}/replay"), 409, "job_not_failed")
    check_problem(await http.post(f"/v1/jobs/{UNKNOWN}/replay"), 404, "job_not_found")
    check_problem(await http.post("/v1/jobs/x/replay"), 404, "job_not_found")
    assert await site.work() == 0


async def test_a_job_that_is_forgotten_cannot_be_replayed(site: JobSite, http: httpx.AsyncClient, engines: Any) -> None:
    gone = await failed(site, engines, retention_s=10)
    site.store.now += 11_000
    check_problem(await http.post(f"/v1/jobs/{gone}/replay"), 410, "job_gone")
    deleted = await failed(site, engines)
    await http.delete(f"/v1/jobs/{deleted}")
    check_problem(await http.post(f"/v1/jobs/{deleted}/replay"), 404, "job_not_found")


async def test_a_job_that_vanishes_meanwhile_is_gone(
    site: JobSite, http: httpx.AsyncClient, engines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(ids: list[str]) -> list[None]:
        return [None for _ in ids]

    old = await failed(site, engines)
    monkeypatch.setattr(site.store, "asked", nothing)
    check_problem(await http.post(f"/v1/jobs/{old}/replay"), 410, "job_gone")


async def test_a_replay_needs_its_model_and_the_store(
    site: JobSite, http: httpx.AsyncClient, engines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await failed(site, engines)
    with monkeypatch.context() as patched:
        patched.setattr(site.inference, "_endpoints", {})
        check_problem(await http.post(f"/v1/jobs/{old}/replay"), 404, "model_not_found")
    site.store.fail_with = UNREACHED
    check_problem(await http.post(f"/v1/jobs/{old}/replay"), 503, "store_unavailable")
    site.store.fail_with = None
    assert await site.work() == 0


async def test_a_replay_is_only_its_tenants(make_inference: MakeInference, engines: Any) -> None:
    site = JobSite(make_inference(Keys.parse(f"{key_line('me', MINE)}\n{key_line('other', OTHER)}", "test")))
    mine, other = ({"authorization": f"Bearer {secret}"} for secret in (MINE, OTHER))
    site.http.headers.update(mine)
    old = await failed(site, engines)
    check_problem(await site.http.post(f"/v1/jobs/{old}/replay", headers=other), 404, "job_not_found")
    check_problem(await site.http.post(f"/v1/jobs/{old}/replay", headers={"authorization": ""}), 401, "unauthorized")
    new = (await site.http.post(f"/v1/jobs/{old}/replay")).json()["id"]
    assert [job["id"] for job in (await site.http.get("/v1/jobs")).json()["jobs"]] == [new, old]
    assert (await site.http.get("/v1/jobs", headers=other)).json()["jobs"] == []
    await site.close()
