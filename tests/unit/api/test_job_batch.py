"""Many jobs in one request: each is accepted or refused by itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.api.job_site import JOBS, MLP, JobSite, check_problem

from forebay.api.inference import Inference
from forebay.api.job_batch import MOST_JOBS

BATCH = f"{JOBS}/batch"
MakeInference = Callable[..., Inference]


async def test_each_is_a_job_or_a_problem_in_their_order(site: JobSite) -> None:
    items: list[Any] = [{**MLP, "metadata": {"n": 0}}, {"inputs": []}, 7, {"input": {"x": [1, 2, 3, 4]}}]
    items += [{**MLP, "cache": "use"}, {**MLP, "ttl_s": 5}]
    answer = await site.http.post(BATCH, json={"jobs": items})
    assert (answer.status_code, answer.headers["content-type"]) == (202, "application/json")
    assert "idempotent-replayed" not in answer.headers
    jobs = answer.json()["jobs"]
    assert ["id" in job for job in jobs] == [True, False, False, True, False, True]
    assert jobs[0]["metadata"] == {"n": 0}
    assert [(job["status"], job["code"]) for job in jobs if "code" in job] == [
        (400, "invalid_request"),
        (400, "invalid_request"),
        (501, "unsupported"),
    ]
    assert await site.work() == 3
    for job in jobs:
        if "id" in job:
            assert (await site.http.get(job["urls"]["self"])).json()["status"] == "succeeded"


async def test_a_thousand_share_few_calls(site: JobSite) -> None:
    answer = await site.http.post(BATCH, json={"jobs": [MLP] * MOST_JOBS})
    ids = [job["id"] for job in answer.json()["jobs"]]
    assert len(set(ids)) == MOST_JOBS
    assert ids == sorted(ids)
    assert len(site.store.calls) < MOST_JOBS / 10


@pytest.mark.parametrize("space", [b"", b" " * 70_000])
async def test_nan_among_them(site: JobSite, space: bytes) -> None:
    content = b'{"jobs": [{"input": {"x": [NaN, 0.1, 3, 4]}},' + space + json.dumps(MLP).encode() + b" ] }"
    answer = await site.http.post(BATCH, content=content)
    assert [job.get("status") for job in answer.json()["jobs"]] == ["queued", "queued"]
    await site.work()
    result = await site.http.get(answer.json()["jobs"][0]["urls"]["result"])
    assert b"[NaN,0.2]" in result.content


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"{", "not JSON"),
        (b"[]", "must be a JSON object"),
        (b"{}", "one member jobs"),
        (b'{"jobs": []}', "jobs is empty"),
        (b'{"jobs": {}}', "must be a list, got an object"),
        (b'{"jobs": null}', "must be a list, got null"),
        (b'{"jobs": [{}], "ttl_s": 5}', "one member jobs"),
        (json.dumps({"jobs": [{}] * (MOST_JOBS + 1)}).encode(), "at most 1000 items"),
        (b'{"jobs": [' + b"0," * 4_000_000 + b"0]}", "at most 1000 items"),
        (b'{"jobs": [' + b"NaN," * 100_000 + b"0]}", "at most 1000 items"),
        (b'{"jobs": [NaN' + b" " * 70_000 + b'], "ttl_s": 5}', "one member jobs"),
        (b'{"jobs": [NaN' + b" " * 70_000 + b"]} more", "one member jobs"),
        (b'{"jobs": [NaN' + b" " * 70_000 + b", ]}", "not JSON"),
        (b'{"jobs": {"a": NaN' + b" " * 70_000 + b"}}", "one member jobs"),
        (b'{"jobs": [NaN, ' + b"[" * 70_000 + b"]}", "nested too deep"),
    ],
)
async def test_what_is_no_list_of_jobs_is_refused(site: JobSite, content: bytes, reason: str) -> None:
    answer = await site.http.post(BATCH, content=content)
    assert reason in check_problem(answer, 400, "invalid_request")["detail"]
    assert site.store.calls == []


async def test_a_batch_is_json(site: JobSite) -> None:
    headers = {"inference-header-content-length": "2"}
    answer = await site.http.post(BATCH, content=b'{"jobs":[]}', headers=headers)
    assert "a batch of jobs is JSON" in check_problem(answer, 400, "invalid_request")["detail"]


async def test_a_key_holds_for_each_place(site: JobSite) -> None:
    key = {"idempotency-key": "k"}
    first = (await site.http.post(BATCH, json={"jobs": [MLP, {"inputs": []}, MLP]}, headers=key)).json()["jobs"]
    single = await site.http.post(JOBS, json=MLP, headers=key)
    assert single.json()["id"] not in {job.get("id") for job in first}
    again = await site.http.post(BATCH, json={"jobs": [MLP, MLP, {**MLP, "id": "x"}]}, headers=key)
    second = again.json()["jobs"]
    assert second[0]["id"] == first[0]["id"]
    assert second[1]["id"] not in {job.get("id") for job in first}
    assert (second[2]["status"], second[2]["code"]) == (422, "idempotency_key_reused")
    assert "idempotent-replayed" not in again.headers
    again = await site.http.post(BATCH, json={"jobs": [MLP, MLP]}, headers=key)
    assert again.headers["idempotent-replayed"] == "true"
    assert [job["id"] for job in again.json()["jobs"]] == [second[0]["id"], second[1]["id"]]


async def test_a_queue_that_takes_some(make_inference: MakeInference) -> None:
    site = JobSite(make_inference(), max_queued=2)
    answer = await site.http.post(BATCH, json={"jobs": [MLP] * 3})
    assert answer.status_code == 202
    assert [job.get("code") for job in answer.json()["jobs"]] == [None, None, "queue_full"]
    answer = await site.http.post(BATCH, json={"jobs": [MLP] * 3})
    check_problem(answer, 503, "queue_full")
    assert int(answer.headers["retry-after"]) >= 1
    await site.close()
