"""Many jobs of one model in one request: `{"jobs": [...]}`, each with its own options, answered one by one."""

from __future__ import annotations

import asyncio
import json
import re
from functools import partial
from itertools import takewhile
from typing import Any

import msgspec
from msgspec import Raw

from forebay.api.elements import kind
from forebay.api.encode import JSON_HEADERS
from forebay.api.endpoint import Endpoint
from forebay.api.general import json_errors, parse_json
from forebay.api.idempotency import REPLAYED, item_key
from forebay.api.job_answers import Accepted
from forebay.api.job_documents import encoded_job
from forebay.api.jobs import Asked, Jobs
from forebay.api.problems import Answer, detailed
from forebay.core.errors import AdmissionError, DependencyError, RequestError

MOST_JOBS = 1000
_JOBS_A_TURN = 16
"""Bodies read before other work has its turn: about a tenth of a millisecond."""
_SMALL_BYTES = 64 << 10
"""What is not JSON to the letter is parsed in one go up to here."""


# An array of at most so many: of a longer one no more is decoded, whereas a list is, whole, before its length is known.
_Jobs: Any = msgspec.defstruct(
    "_Jobs", [(f"job_{place}", Raw, Raw()) for place in range(MOST_JOBS)], array_like=True, forbid_unknown_fields=True
)


class _Batch(msgspec.Struct, forbid_unknown_fields=True):
    jobs: _Jobs


_decode = msgspec.json.Decoder(_Batch).decode
_decoder = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")
_NO_LIST = "the body must have the one member jobs, a list of jobs"


async def submit_batch(jobs: Jobs, endpoint: Endpoint, asked: Asked, base: str) -> Answer:
    """202 with a job or a problem for each, in their order. Where the store takes none of them, its error.

    An Idempotency-Key holds for each place in the list. Raises `RequestError` for what is no list of jobs, and
    `AdmissionError` or `DependencyError`.
    """
    if asked.header_length is not None:
        raise RequestError("a batch of jobs is JSON; Inference-Header-Content-Length needs a job of its own")
    bodies = await read_bodies(asked.body)
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


async def read_bodies(body: bytes) -> list[bytes]:
    """The bodies of a batch. Raises `RequestError`."""
    try:
        found = list(takewhile(bool, map(bytes, msgspec.structs.astuple(_decode(body).jobs))))
    except (msgspec.DecodeError, ValueError, RecursionError):  # NaN and the like, or something that is wrong
        found = _parsed(body) if len(body) <= _SMALL_BYTES else await _split(body)
    if not found:
        raise RequestError("jobs is empty")
    return found


def _parsed(body: bytes) -> list[bytes]:
    document = parse_json(body)
    if type(document) is not dict:
        raise RequestError(f"the body must be a JSON object, got {kind(document)}")
    if set(document) != {"jobs"}:
        raise RequestError(_NO_LIST)
    listed = document["jobs"]
    if type(listed) is not list:
        raise RequestError(f"jobs must be a list, got {kind(listed)}")
    if len(listed) > MOST_JOBS:
        raise _too_many()
    return [json.dumps(one, separators=(",", ":")).encode() for one in listed]


async def _split(body: bytes) -> list[bytes]:
    """A large body, job by job, between which other work has its turn."""
    with json_errors():
        text = body.decode()
        position = _behind(text, _behind(text, 0, "{"), '"jobs"')
        position = _behind(text, _behind(text, position, ":"), "[")
        found: list[bytes] = []
        turn = 0
        while not found or text[position : position + 1] == ",":
            if len(found) == MOST_JOBS:
                raise _too_many()
            begin = _past_space(text, position + bool(found))
            _, end = _decoder.raw_decode(text, begin)
            found.append(text[begin:end].encode())
            turn += end - begin
            if turn > _SMALL_BYTES:
                turn = 0
                await asyncio.sleep(0)
            position = _past_space(text, end)
        if _behind(text, _behind(text, position, "]"), "}") != len(text):
            raise RequestError(_NO_LIST)
    return found


def _behind(text: str, position: int, wanted: str) -> int:
    """Behind these characters and the space around them. Raises `RequestError` where others stand there."""
    begin = _past_space(text, position)
    if not text.startswith(wanted, begin):
        raise RequestError(_NO_LIST)
    return _past_space(text, begin + len(wanted))


def _past_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    assert found is not None  # it matches nothing, too
    return found.end()


def _too_many() -> RequestError:
    return RequestError(f"jobs must have at most {MOST_JOBS} items")


def _settle(done: asyncio.Future[Accepted | Exception], found: Accepted | Exception) -> None:
    if not done.done():
        done.set_result(found)


def _item(endpoint: Endpoint, found: Accepted | Exception, base: str) -> bytes:
    if isinstance(found, Accepted):
        return encoded_job(found.record, base)
    return detailed(endpoint.refuse(found)).body
