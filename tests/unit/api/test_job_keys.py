"""Idempotency keys of jobs, and their list."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from tests.unit.api.job_site import INFER, JOBS, MLP, UNREACHED, JobSite, check_problem, submitted

from forebay.api.inference import Inference
from forebay.api.jobs import Asked
from forebay.core.errors import DependencyError
from forebay.jobs.store import Gone

MakeInference = Callable[..., Inference]


@pytest.fixture
def http(site: JobSite) -> httpx.AsyncClient:
    return site.http


async def test_a_request_that_is_sent_again_is_the_same_job(site: JobSite, http: httpx.AsyncClient) -> None:
    key = {"idempotency-key": '"order 7"'}
    first = await http.post(JOBS, json=MLP, headers=key)
    again = await http.post(JOBS, json=MLP, headers=key)
    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    assert "idempotent-replayed" not in first.headers
    await site.work()
    done = await http.post(JOBS, json=MLP, headers=key)
    assert (done.status_code, done.json()["status"]) == (200, "succeeded")
    assert done.json()["output"]
    assert await site.work() == 0
    assert await submitted(http) != first.json()["id"]


@pytest.mark.parametrize(
    ("path", "content", "headers"),
    [
        (JOBS, json.dumps({**MLP, "id": "x"}).encode(), {}),
        (JOBS, json.dumps({**MLP, "ttl_s": 5}).encode(), {}),
        ("/v1/models/text/jobs", json.dumps({"input": {"text": "a"}}).encode(), {}),
        (INFER, json.dumps(MLP).encode(), {"prefer": "respond-async"}),
    ],
)
async def test_a_key_for_another_request_is_422(
    http: httpx.AsyncClient, path: str, content: bytes, headers: dict[str, str]
) -> None:
    key = {"idempotency-key": "k"}
    first = await http.post("/v1/models/mlp/jobs", content=json.dumps(MLP).encode(), headers=key)
    answer = await http.post(path, content=content, headers={**headers, **key})
    if path == INFER:
        # The same body of the same model is the same request.
        assert (answer.status_code, answer.json()["id"]) == (202, first.json()["id"])
        return
    assert first.json()["id"] in check_problem(answer, 422, "idempotency_key_reused")["detail"]


async def test_fifty_at_once_are_one_job(site: JobSite, http: httpx.AsyncClient) -> None:
    key = {"idempotency-key": "k"}
    answers = await asyncio.gather(*(http.post(JOBS, json=MLP, headers=key) for _ in range(50)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 49
    assert await site.work() == 1


async def test_a_key_is_forgotten_with_its_job(site: JobSite, http: httpx.AsyncClient) -> None:
    key = {"idempotency-key": "k"}
    first = (await http.post(JOBS, json=MLP, headers=key)).json()["id"]
    await http.delete(f"/v1/jobs/{first}")
    second = await http.post(JOBS, json={**MLP, "id": "other"}, headers=key)
    assert (second.status_code, "idempotent-replayed" in second.headers) == (202, False)
    assert second.json()["id"] != first


async def test_a_replayed_job_that_cannot_be_read(site: JobSite, http: httpx.AsyncClient) -> None:
    key = {"idempotency-key": "k"}
    await http.post(JOBS, json=MLP, headers=key)

    async def unreadable(ids: Any, *, output: bool = True) -> Any:
        raise UNREACHED

    async def gone(ids: Any, *, output: bool = True) -> Any:
        return [Gone("anna") for _ in ids]

    for read, status, code in ((unreadable, 503, "store_unavailable"), (gone, 410, "job_gone")):
        site.store.read = read  # type: ignore[method-assign]
        check_problem(await http.post(JOBS, json=MLP, headers=key), status, code)


async def test_the_list_is_paged_and_filtered(site: JobSite, http: httpx.AsyncClient) -> None:
    ids = [await submitted(http, metadata={"n": number}) for number in range(5)]
    await http.post(f"/v1/jobs/{ids[1]}/cancel")
    text = (await http.post("/v1/models/text/jobs", json={"input": {"text": "a"}})).json()["id"]
    listed = (await http.get("/v1/jobs")).json()
    assert ([job["id"] for job in listed["jobs"]], listed["cursor"]) == ([text, *reversed(ids)], None)
    assert listed["jobs"][-1] == (await http.get(f"/v1/jobs/{ids[0]}")).json()

    async def every(query: str) -> list[str]:
        found: list[str] = []
        cursor = ""
        while True:
            page = (await http.get(f"/v1/jobs?{query}&cursor={cursor}")).json()
            found += [job["id"] for job in page["jobs"]]
            if not (cursor := page["cursor"]):
                return found

    assert await every("limit=2") == [text, *reversed(ids)]
    assert await every("model=mlp&limit=2") == list(reversed(ids))
    assert await every("status=canceled") == [ids[1]]
    assert await every("model=text&status=queued&limit=200") == [text]
    assert await every("model=none") == []
    await site.work("text")
    listed = (await http.get("/v1/jobs?status=succeeded")).json()["jobs"]
    assert [job["id"] for job in listed] == [text]
    assert "output" not in listed[0]


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("limit=0", "limit must be an integer from 1 to 200, got '0'"),
        ("limit=201", "limit"),
        ("limit=-1", "limit"),
        ("limit=x", "limit"),
        ("limit=", "limit"),
        ("limit=%C2%B2", "limit"),
        ("limit=99999999999999", "limit"),
        ("status=done", "status must be one of queued, running"),
        ("state=queued", "no query parameter 'state'.*did you mean 'status'"),
        ("model=a&model=b", "more than once"),
        ("cursor=nonsense", "cursor"),
        ("cursor=%00", "cursor"),
    ],
)
async def test_a_bad_query_is_400(http: httpx.AsyncClient, query: str, reason: str) -> None:
    answer = await http.get(f"/v1/jobs?{query}")
    assert re.search(reason, check_problem(answer, 400, "invalid_request")["detail"])


async def test_a_loop_that_ends_answers_who_looks_for_a_replayed_job(site: JobSite, engines: Any) -> None:
    endpoint = site.inference.find("mlp")
    asked = Asked("anonymous", json.dumps(MLP).encode(), key="k")
    await site.jobs.posted(endpoint, asked)
    read = asyncio.Event()

    async def never(ids: Any, *, output: bool = True) -> Any:
        read.set()
        await asyncio.Event().wait()

    site.store.read = never  # type: ignore[method-assign]
    found: list[Any] = []
    site.jobs.post(endpoint, asked, found.append)
    await read.wait()
    for one in asyncio.all_tasks() - {asyncio.current_task()}:
        one.cancel()
    await site.jobs.close()
    assert [type(one) for one in found] == [DependencyError]
