"""Jobs as ASGI endpoints: submit, look, wait, cancel, replay, delete, list; and inference that prefers to be a job.

Errors are in the form of RFC 9457 under /v1, and in the protocol's own where inference was asked for.
"""

from __future__ import annotations

import contextlib
from typing import NoReturn

from fastapi import FastAPI
from starlette.requests import Request as HttpRequest

from forebay.api import job_openapi
from forebay.api.elements import show
from forebay.api.encode import JSON_HEADERS
from forebay.api.endpoint import Endpoint
from forebay.api.idempotency import REPLAYED, read_key
from forebay.api.infer_routes import AsJob, as_wanted, awake, let_in, read_body, unless_gone
from forebay.api.inference import Inference
from forebay.api.job_answers import Accepted, accepted, from_cache, gone, result, shown, unknown
from forebay.api.job_batch import submit_batch
from forebay.api.job_documents import encoded_job, job_path, page_of
from forebay.api.job_streams import record_of
from forebay.api.jobs import Asked, Jobs
from forebay.api.prefer import Preferences, applied, read_preferences
from forebay.api.problems import Answer, detailed, detailed_of
from forebay.api.routing import PlainOperation, add
from forebay.core.errors import DependencyError, RequestError
from forebay.core.settings_values import did_you_mean
from forebay.jobs.ids import parse_id
from forebay.jobs.record import MOVES, TERMINAL, JobRecord
from forebay.jobs.store import Gone

MOST_LISTED = 200
LISTED = 50
STATES = (*MOVES, *sorted(TERMINAL))
NEVER_STORED = (b"cache-control", b"no-store")
"""A cache on the way may keep what says nothing of it (RFC 9111, 4.2.2), and whoever polls would see it again."""
_QUERY = ("model", "status", "cursor", "limit")


def add_jobs(app: FastAPI, inference: Inference, jobs: Jobs | None) -> PlainOperation:
    """Adds the operations, and returns that which submits. Without `jobs` they say that there are none here."""
    calls = _Calls(inference, jobs) if jobs is not None else None
    added: dict[str, PlainOperation] = {}
    for name, (method, path, summary, responses, extra) in job_openapi.operations().items():
        operate: PlainOperation = getattr(calls, name) if calls is not None else _none
        added[name] = add(
            app, path, operate, responses, summary, "jobs", method=method, extra=extra, refuse=detailed_of
        )
    return added["submit"]


async def _none(http: HttpRequest) -> NoReturn:
    raise RequestError("jobs are not available on this server", code="unsupported")


class _Calls:
    """The operations. Each is named as `job_openapi.operations` names it."""

    def __init__(self, inference: Inference, jobs: Jobs) -> None:
        self._inference = inference
        self._jobs = jobs

    async def submit(self, http: HttpRequest) -> Answer:
        with await self._let_in(http) as endpoint:
            key = read_key(http.scope["headers"])
            body = await read_body(http, self._inference)
        wish = read_preferences(http.scope["headers"])
        job = await self._jobs.posted(endpoint, _asked(http, self._inference, body, key))
        job = await _waited(http, self._jobs, job, wish)
        return await as_wanted(accepted(job, _base(http), applied(wish.wait_s)), http, self._inference)

    async def submit_batch(self, http: HttpRequest) -> Answer:
        with await self._let_in(http) as endpoint:
            key = read_key(http.scope["headers"])
            body = await read_body(http, self._inference)
        return await submit_batch(self._jobs, endpoint, _asked(http, self._inference, body, key), _base(http))

    async def show(self, http: HttpRequest) -> Answer:
        record, wish = await self._looked_at(http)
        answer = shown(record, _base(http), (NEVER_STORED, *applied(wish.wait_s)))
        return await as_wanted(answer, http, self._inference)

    async def result(self, http: HttpRequest) -> Answer:
        record, wish = await self._looked_at(http)
        answer = result(record, _base(http), (NEVER_STORED, *applied(wish.wait_s)))
        if answer.status >= 400:
            return detailed(answer, job_path(record.spec.id, _base(http)))
        return await as_wanted(answer, http, self._inference)

    async def cancel(self, http: HttpRequest) -> Answer:
        tenant = self._enter(http)
        record = await self._own(http, tenant)
        id = record.spec.id
        if record.state not in TERMINAL:
            (look,) = await self._jobs.reader.cancel([id])
            record = record_of(look, id, tenant)
        return await as_wanted(shown(record, _base(http)), http, self._inference)

    async def replay(self, http: HttpRequest) -> Answer:
        record = await self._own(http, self._enter(http))
        new = await self._jobs.read_again(record)
        # Its body was checked when it was new; the model may have changed, and then it fails again.
        await self._inference.awake(new.spec.model, new.spec.version or None)
        self._inference.find(new.spec.model, new.spec.version or None)
        job = await self._jobs.submitted(new)
        return await as_wanted(accepted(job, _base(http)), http, self._inference)

    async def delete(self, http: HttpRequest) -> Answer:
        record = await self._own(http, self._enter(http))
        if not await self._jobs.reader.delete(record.spec.id):
            raise unknown(record.spec.id)
        return Answer(204, (), b"")

    async def list(self, http: HttpRequest) -> Answer:
        tenant = self._enter(http)
        wanted = _query(http)
        limit, state = _limit(wanted.get("limit")), wanted.get("status", "")
        if state and state not in STATES:
            raise RequestError(f"status must be one of {', '.join(STATES)}, got {show(state)}")
        await self._jobs.ready()
        page = await self._jobs.reader.list(
            tenant, model=wanted.get("model", ""), state=state, cursor=wanted.get("cursor", ""), limit=limit
        )
        documents = [encoded_job(record, _base(http)) for record in page.jobs]
        answer = Answer(200, (*JSON_HEADERS, NEVER_STORED), page_of(documents, page.cursor))
        return await as_wanted(answer, http, self._inference)

    # -- what they share ----------------------------------------------------------------------------------------------

    async def _let_in(self, http: HttpRequest) -> contextlib.AbstractContextManager[Endpoint]:
        headers = dict(http.scope["headers"])
        await awake(http, headers, self._inference)
        return let_in(http, headers, self._inference, as_job=True)

    def _enter(self, http: HttpRequest) -> str:
        return self._inference.gate.enter(_authorization(http))

    async def _own(self, http: HttpRequest, tenant: str) -> JobRecord:
        """The job that the path names. Raises `RequestError` (job_not_found, job_gone)."""
        id = parse_id(http.path_params["id"])
        await self._jobs.ready()
        return record_of(await self._jobs.hub.read(id), id, tenant)

    async def _looked_at(self, http: HttpRequest) -> tuple[JobRecord, Preferences]:
        """The job that the path names, when it has ended or the client's patience has."""
        tenant = self._enter(http)
        record, wish = await self._own(http, tenant), read_preferences(http.scope["headers"])
        if wish.wait_s and record.state not in TERMINAL:
            look = await unless_gone(http, self._jobs.hub.until_final(record.spec.id, wish.wait_s))
            record = record_of(look, record.spec.id, tenant)
        return record, wish


def as_job(inference: Inference, jobs: Jobs) -> AsJob:
    """What answers inference with `Prefer: respond-async`: 202 with the job. Where that is done within `wait`, the
    answer is that of inference."""

    async def operate(http: HttpRequest, endpoint: Endpoint, body: bytes, wish: Preferences) -> Answer:
        key, base = read_key(http.scope["headers"]), _base(http)
        asked = _asked(http, inference, body, key)._replace(
            version=http.path_params.get("version", ""), in_parameters=True
        )
        job = await _waited(http, jobs, await jobs.posted(endpoint, asked), wish)
        if job.record.state not in TERMINAL:
            return accepted(job, base, applied(wish.wait_s, respond_async=True))
        more = [(b"content-location", f"{job_path(job.record.spec.id, base)}/result".encode()), *applied(wish.wait_s)]
        more += from_cache(job)
        if job.replayed:
            more.append(REPLAYED)
        return await as_wanted(result(job.record, base, more), http, inference)

    return operate


async def _waited(http: HttpRequest, jobs: Jobs, job: Accepted, wish: Preferences) -> Accepted:
    """The job when it has ended, or the client's patience has. It is accepted, whatever happens to the store now.

    Raises `RequestError` (job_gone) where it has ended and is no longer kept.
    """
    if not wish.wait_s or job.record.state in TERMINAL:
        return job
    with contextlib.suppress(DependencyError):
        look = await unless_gone(http, jobs.hub.until_final(job.record.spec.id, wish.wait_s))
        if isinstance(look, JobRecord):
            return job._replace(record=look)
        if isinstance(look, Gone):  # it has ended, and was not kept for so long
            raise gone(job.record.spec.id)
    return job


def _asked(http: HttpRequest, inference: Inference, body: bytes, key: str) -> Asked:
    given = http.scope["headers"]
    headers = dict(given)
    tenant = inference.gate.tenant(headers.get(b"authorization"))
    length = headers.get(b"inference-header-content-length")
    return Asked(tenant, body, headers.get(b"content-type"), length, key, headers=given)


def _authorization(http: HttpRequest) -> bytes | None:
    return http.headers.get("authorization", "").encode("latin-1") or None


def _base(http: HttpRequest) -> str:
    base: str = http.scope.get("root_path", "")
    return base


def _query(http: HttpRequest) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in http.query_params.multi_items():
        if name not in _QUERY:
            known = f"{', '.join(_QUERY)}{did_you_mean(name[:40], _QUERY)}"
            raise RequestError(f"there is no query parameter {show(name)}; there are {known}")
        if name in found:
            raise RequestError(f"the query parameter {name} stands more than once")
        found[name] = value
    return found


def _limit(text: str | None) -> int:
    if text is None:
        return LISTED
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= MOST_LISTED):
        raise RequestError(f"limit must be an integer from 1 to {MOST_LISTED}, got {show(text)}")
    return int(text)
