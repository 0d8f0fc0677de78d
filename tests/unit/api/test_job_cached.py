"""Jobs of a model that has a cache, where who takes the job and who runs it do not have the same answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from tests.unit.api.conftest import FunctionEngine
from tests.unit.api.job_site import INFER, JOBS, MLP, JobSite, check_problem, waiting

from forebay.api.auth import Gate, Keys, Quota
from forebay.api.inference import Inference
from forebay.cache.answer_cache import AnswerCache
from forebay.core.caching import CacheRules
from forebay.core.settings import ServerSettings
from forebay.jobs.record import JobError, Output
from forebay.jobs.store import Finish

ONLY = {"cache-control": "only-if-cached"}


@pytest.fixture
async def site(engines: dict[str, FunctionEngine]) -> AsyncIterator[JobSite]:
    mlp = engines["mlp"]
    mlp.digest, mlp.caching = "d", CacheRules(60.0)
    gate = Gate(Keys({}), Quota(None, time.monotonic))
    site = JobSite(Inference({"mlp": mlp}, ServerSettings(), gate, AnswerCache(1 << 20, 1 << 16)))
    assert (await site.http.post(INFER, json=MLP)).status_code == 200
    yield site
    await site.close()


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_an_answer_that_is_gone_when_the_job_runs_is_a_miss(site: JobSite, asynchronous: bool) -> None:
    path, headers = (INFER, {**ONLY, "prefer": "respond-async"}) if asynchronous else (JOBS, ONLY)
    posting = asyncio.ensure_future(site.http.post(path, json=MLP, headers=headers))
    await waiting(site)
    (job,) = await site.leased()
    assert job.spec.cache == "only"  # whoever runs it is told, and so does not
    await site.store.finish([Finish(job, "failed", error=JobError("cache_miss", "it is gone"))])
    answer = await posting
    if asynchronous:
        assert (answer.status_code, answer.json()["code"]) == (504, "cache_miss")
    else:
        check_problem(answer, 504, "cache_miss")


async def test_a_worker_that_does_not_say_how_has_no_headers(site: JobSite) -> None:
    """One of an earlier release."""
    posting = asyncio.ensure_future(site.http.post(JOBS, json=MLP))
    await waiting(site)
    (job,) = await site.leased()
    await site.store.finish([Finish(job, "succeeded", output=Output(b"{}"), metrics={"cached": True})])
    answer = await posting
    assert (answer.status_code, answer.json()["cached"], "x-cache" in answer.headers) == (200, True, False)


async def test_a_job_of_an_earlier_request_has_no_headers(site: JobSite) -> None:
    """Its answer was so old when it was given, and is older now."""
    keyed = {"idempotency-key": "k"}
    posting = asyncio.ensure_future(site.http.post(JOBS, json=MLP, headers=keyed))
    await waiting(site)
    (job,) = await site.leased()
    told = {"cached": "exact", "entry": "id", "age_s": 7.5}
    await site.store.finish([Finish(job, "succeeded", output=Output(b"{}"), metrics=told)])
    first, again = await posting, await site.http.post(JOBS, json=MLP, headers=keyed)
    assert [first.headers[name] for name in ("x-cache", "x-cache-entry", "age")] == ["exact", "id", "7"]
    assert (again.headers["idempotent-replayed"], "x-cache" in again.headers) == ("true", False)
