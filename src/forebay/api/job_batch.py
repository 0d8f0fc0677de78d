"""Many jobs of one model in one request: `{"jobs": [...]}`, each with its own options, answered one by one."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

import msgspec
from msgspec import Raw

from forebay.api.elements import kind
from forebay.api.encode import JSON_HEADERS
from forebay.api.endpoint import Endpoint
from forebay.api.general import parse_json
from forebay.api.idempotency import REPLAYED, item_key
from forebay.api.job_answers import Accepted
from forebay.api.job_documents import encoded_job
from forebay.api.jobs import Asked, Jobs
from forebay.api.problems import Answer, detailed
from forebay.core.errors import AdmissionError, DependencyError, RequestError

MOST_JOBS = 1000
_JOBS_A_TURN = 16
"""Bodies read before other work has its turn: about a tenth of a millisecond."""


class _Batch(msgspec.Struct, forbid_unknown_fields=True):
    jobs: list[Raw]


_decode = msgspec.json.Decoder(_Batch).decode


async def submit_batch(jobs: Jobs, endpoint: Endpoint, asked: Asked, base: str) -> Answer:
    """202 with a job or a problem for each, in their order. Where the store takes none of them, its error.

    An Idempotency-Key holds for each place in the list. Raises `RequestError` for what is no list of jobs, and
    `AdmissionError` or `DependencyError`.
    """
    if asked.header_length is not None:
        raise RequestError("a batch of jobs is JSON; Inference-Header-Content-Length needs a job of its own")
    bodies = read_bodies(asked.body)
    outcomes: list[asyncio.Future[Accepted | Exception]] = []
    loop = asyncio.get_running_loop()
    for position, body in enumerate(bodies):
        done: asyncio.Future[Accepted | Exception] = loop.create_future()
        outcomes.append(done)
        one = asked._replace(body=body, content_type=None, key=item_key(asked.key, position))
        jobs.post(endpoint, one, partial(_settle, done))
        if position % _JOBS_A_TURN == _JOBS_A_TURN - 1:
            await asyncio.sleep(0)
    found = [await done for done in outcomes]
    first = found[0]
    if isinstance(first, AdmissionError | DependencyError) and all(type(one) is type(first) for one in found):
        raise first
    items = [_item(endpoint, one, base) for one in found]
    headers = list(JSON_HEADERS)
    if all(isinstance(one, Accepted) and one.replayed for one in found):
        headers.append(REPLAYED)
    return Answer(202, headers, b'{"jobs":[%b]}' % b",".join(items))


def read_bodies(body: bytes) -> list[bytes]:
    """The bodies of a batch. Raises `RequestError`."""
    try:
        found = [bytes(raw) for raw in _decode(body).jobs]
    except (msgspec.DecodeError, ValueError, RecursionError):
        found = [json.dumps(one, separators=(",", ":")).encode() for one in _patiently(body)]
    if not found:
        raise RequestError("jobs is empty")
    if len(found) > MOST_JOBS:
        raise RequestError(f"jobs must have at most {MOST_JOBS} items, got {len(found)}")
    return found


def _patiently(body: bytes) -> list[Any]:
    """For NaN and the like, and for what is wrong."""
    document = parse_json(body)
    if type(document) is not dict:
        raise RequestError(f"the body must be a JSON object, got {kind(document)}")
    if set(document) != {"jobs"}:
        raise RequestError("the body must have the one member jobs, a list of jobs")
    listed = document["jobs"]
    if type(listed) is not list:
        raise RequestError(f"jobs must be a list, got {kind(listed)}")
    return listed


def _settle(done: asyncio.Future[Accepted | Exception], found: Accepted | Exception) -> None:
    if not done.done():
        done.set_result(found)


def _item(endpoint: Endpoint, found: Accepted | Exception, base: str) -> bytes:
    if isinstance(found, Accepted):
        return encoded_job(found.record, base)
    return detailed(endpoint.refuse(found)).body
