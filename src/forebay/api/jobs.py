"""Jobs of one server: from a request's body to a job in the store. The steps that the express lane and the ASGI
endpoints share.

Body -> `Jobs.read` -> `Jobs.submit` -> `job_answers.accepted`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from functools import partial
from typing import Any, NamedTuple, Protocol

from msgspec import structs

from forebay.api.endpoint import Endpoint, in_turns
from forebay.api.idempotency import fingerprint, replay_key
from forebay.api.job_answers import Accepted, gone
from forebay.api.job_options import NO_OPTIONS, JobBody, OptionLimits, level_of, read_job_body
from forebay.api.job_submit import CARRIED_JOBS, MOST_JOBS, Outcome, Sending, Submitter
from forebay.core.caching import USUAL_ASK, CacheAsk
from forebay.core.errors import AdmissionError, CacheMiss, DependencyError, RequestError
from forebay.core.request import Request
from forebay.core.settings import JobSettings, ServerSettings
from forebay.engine.cached import missing
from forebay.jobs.ids import JobIds, shard_bits_of
from forebay.jobs.record import JobRecord, JobSpec
from forebay.jobs.store import Bounds, JobQueue, JobReader, Look, NewJob, Submission

Then = Callable[[Accepted | Exception], None]
AT_ONCE_S = 2.0
"""Longest time to wait for a job whose answer is in the cache."""


class Waiting(Protocol):
    """Who reads jobs for many at once, and knows when they end."""

    async def until_final(self, id: str, timeout_s: float) -> Look:
        """The record with its output, as soon as the job is finished, or as it is after `timeout_s`. Raises
        `DependencyError`."""
        ...

    async def read(self, id: str) -> Look:
        """The record with its output. Raises `DependencyError`."""
        ...


class Asked(NamedTuple):
    """A request for a job. The header values are as they came, or None; `key`: its Idempotency-Key, or empty.

    version: empty for the one that is served when it runs. in_parameters: the options stand among the parameters.
    headers: those that may say what is wanted of the cache.
    """

    tenant: str
    body: bytes
    content_type: bytes | None = None
    header_length: bytes | None = None
    key: str = ""
    version: str = ""
    in_parameters: bool = False
    headers: Iterable[tuple[bytes, bytes]] = ()


class Jobs:
    """The store of jobs as the HTTP side uses it. All calls are made on one event loop."""

    def __init__(
        self,
        settings: JobSettings,
        server: ServerSettings,
        queue: JobQueue,
        reader: JobReader,
        hub: Waiting,
        *,
        ready: Callable[[], Awaitable[None]] | None = None,
        private_webhooks: bool = False,
        webhooks: bool = True,
        carried: bool = False,
    ) -> None:
        """ready: awaited before every use of the store; starts one that is not started yet, and raises
        `DependencyError`. private_webhooks: webhooks may go to addresses that are not public. webhooks: there is
        something to sign them with. carried: by a broker beside the store."""
        self.settings = settings
        self.reader = reader
        self.hub = hub
        self.ready: Callable[[], Awaitable[None]] = ready or _started
        bounds, worth_jobs = (
            Bounds(settings.max_queued, settings.max_queued_bytes),
            CARRIED_JOBS if carried else MOST_JOBS,
        )
        self.submitter = Submitter(queue, bounds, self.ready, worth_jobs)
        self._large_bytes = server.decode_off_loop_bytes
        retention_s = max(settings.max_retention_s, settings.retention_s)
        self._limits = OptionLimits(retention_s, server.max_json_depth, private_webhooks, webhooks)
        self._ids = JobIds()
        self._looking: set[asyncio.Task[None]] = set()

    # -- from a body to a job -----------------------------------------------------------------------------------------

    def read(self, endpoint: Endpoint, asked: Asked) -> NewJob:
        """A small body as a job. It is checked as `/infer` checks it. Raises `RequestError` and `CacheMiss`."""
        found = self._options(endpoint, asked)
        request = endpoint.read(found.body, 0.0, _never, asked.content_type, found.header_length)
        return self._job(endpoint, asked, found, request)

    def read_in_steps(self, endpoint: Endpoint, asked: Asked) -> Generator[None, None, NewJob]:
        """The same for a large body, in short steps, each of which yields."""
        found = self._options(endpoint, asked)
        yield
        request = yield from endpoint.read_in_steps(found.body, 0.0, _never, asked.content_type, found.header_length)
        return self._job(endpoint, asked, found, request)

    def _options(self, endpoint: Endpoint, asked: Asked) -> JobBody:
        if asked.header_length is None and endpoint.is_image(asked.content_type):
            return JobBody(NO_OPTIONS, asked.body, None)
        return read_job_body(asked.body, asked.header_length, self._limits, in_parameters=asked.in_parameters)

    def _job(self, endpoint: Endpoint, asked: Asked, found: JobBody, request: Request) -> NewJob:
        options, key, model = found.options, asked.key, endpoint.engine.name
        image = asked.header_length is None and endpoint.is_image(asked.content_type)
        settings, ask = self.settings, _wanted(endpoint, asked, options.cache)
        spec = JobSpec(
            id=self._ids.new(shard_bits_of(asked.tenant, key) if key else None),
            model=model,
            version=asked.version,
            tenant=asked.tenant,
            level=level_of(request.priority if options.priority is None else options.priority),
            body=bytes(found.body),
            content_type=_IMAGE if image else "",
            header_length="" if found.header_length is None else found.header_length.decode("latin-1"),
            ttl_s=options.ttl_s,
            timeout_s=options.timeout_s,
            retention_s=settings.retention_s if options.retention_s is None else options.retention_s,
            max_attempts=settings.max_attempts,
            webhook=options.webhook,
            metadata=options.metadata,
            cache=options.cache or ("" if ask.use == "use" else ask.use),
            max_age_s=ask.max_age_s,
            tags=ask.tags,
        )
        known = False
        if endpoint.recall is not None:
            request.cache = endpoint.recall.ask_of_job(spec)
            known = endpoint.recall.knows(request)
            if request.cache.use == "only" and not known:
                raise missing()
        elif options.cache not in (None, "off"):
            raise RequestError(
                f"cache is not supported: model {model!r} has none (its setting cache)", code="unsupported"
            )
        if not key:
            return NewJob(spec, known=known)
        header = asked.header_length or b""
        parts = (model.encode(), asked.version.encode(), b"image" if image else b"", header, asked.body)
        return NewJob(spec, key, fingerprint(*parts), known)

    async def read_again(self, record: JobRecord) -> NewJob:
        """A failed job as a new one, which refers to it. It is the same new one however often it is asked for.

        Raises `RequestError` (job_not_failed, job_gone) and `DependencyError`.
        """
        id = record.spec.id
        if record.state != "failed":
            raise RequestError(
                f"job {id} is {record.state}; only a failed one can be replayed, others are submitted anew",
                code="job_not_failed",
            )
        (asked,) = await self.reader.asked([id])
        if asked is None:
            raise gone(id)
        key = replay_key(id)
        new = self._ids.new(shard_bits_of(asked.tenant, key))
        return NewJob(structs.replace(asked, id=new, replay_of=id, max_attempts=self.settings.max_attempts), key)

    # -- to the store -------------------------------------------------------------------------------------------------

    def post(self, endpoint: Endpoint, asked: Asked, then: Then) -> None:
        """Read and submit. `then` is called once, perhaps before this returns, with the job or with what is wrong."""
        if len(asked.body) > self._large_bytes:
            in_turns(self.read_in_steps(endpoint, asked), partial(self._submit_read, then))
            return
        try:
            new = self.read(endpoint, asked)
        except Exception as error:
            then(error)
        else:
            self._submit_read(then, new)

    def _submit_read(self, then: Then, read: NewJob | Exception) -> None:
        if isinstance(read, Exception):
            then(read)
            return
        try:
            self.submit(read, then)
        except Exception as error:
            then(error)

    def submit(self, new: NewJob, then: Then) -> Sending:
        """Submit a job; `then` is called once, later. Raises `AdmissionError`."""
        return self.submitter.submit(new, partial(self._submitted, new, then))

    async def posted(self, endpoint: Endpoint, asked: Asked) -> Accepted:
        """Read and submit, and wait for what comes of it. Raises `ForebayError`."""
        done: asyncio.Future[Accepted] = asyncio.get_running_loop().create_future()
        self.post(endpoint, asked, partial(_settle, done))
        return await done

    async def submitted(self, new: NewJob) -> Accepted:
        """Submit, and wait for what comes of it. Raises `ForebayError`."""
        done: asyncio.Future[Accepted] = asyncio.get_running_loop().create_future()
        sending = self.submit(new, partial(_settle, done))
        try:
            return await done
        finally:
            sending.withdraw()

    def _submitted(self, new: NewJob, then: Then, outcome: Outcome) -> None:
        if isinstance(outcome, Exception):
            then(outcome)
        elif outcome.outcome == "created" or (outcome.outcome == "replayed" and outcome.id == new.spec.id):
            record = JobRecord(spec=new.spec, state="queued", created_ms=outcome.created_ms)
            if new.known:
                self._look(self._at_once(record, then))
            else:
                then(Accepted(record))
        elif outcome.outcome == "replayed":
            self._look(self._replay(outcome, then))
        else:
            then(_refusal(new, outcome))

    def _look(self, looks: Coroutine[Any, Any, None]) -> None:
        looking = asyncio.get_running_loop().create_task(looks)
        self._looking.add(looking)
        looking.add_done_callback(self._looking.discard)

    async def _at_once(self, record: JobRecord, then: Then) -> None:
        """A job that is in the store, when it is done, which takes no computing; or else as it was accepted."""
        found: Accepted | Exception = Accepted(record)
        try:
            look = await self.hub.until_final(record.spec.id, AT_ONCE_S)
            if isinstance(look, JobRecord):
                # Known here, but the answer went before the job came to it, or whoever ran it has none.
                lost = look.error is not None and look.error.code == CacheMiss.code
                found = missing() if lost else Accepted(look)
        except DependencyError:
            pass  # it is accepted, whatever happens to the store now
        finally:
            then(found)

    async def _replay(self, outcome: Submission, then: Then) -> None:
        """The job of an earlier request, as it is now."""
        found: Accepted | Exception
        try:
            look = await self.hub.read(outcome.id)
            found = Accepted(look, replayed=True) if isinstance(look, JobRecord) else gone(outcome.id)
        except asyncio.CancelledError:
            then(DependencyError("the server stopped while the job was looked up", public=True))
            raise
        except Exception as error:
            found = error
        then(found)

    async def close(self) -> None:
        """Send what is waiting to be sent; take nothing more."""
        await self.submitter.close()
        await asyncio.gather(*self._looking, return_exceptions=True)


_IMAGE = "image/*"
"""All that decoding must know of a content type."""


def _wanted(endpoint: Endpoint, asked: Asked, said: str | None) -> CacheAsk:
    """What the headers want of the cache. `said`: the job's own word, which goes before Cache-Control. A model without
    a cache passes them over, as it does at `/infer`. Raises `RequestError`."""
    if endpoint.recall is None:
        return USUAL_ASK
    ask = endpoint.recall.ask(asked.headers, asked.tenant)
    return ask if said is None else CacheAsk(tags=ask.tags)


def _settle(done: asyncio.Future[Accepted], found: Accepted | Exception) -> None:
    if done.done():
        return
    if isinstance(found, Exception):
        done.set_exception(found)
    else:
        done.set_result(found)


def _refusal(new: NewJob, outcome: Submission) -> Exception:
    if outcome.outcome == "mismatch":
        return RequestError(
            f"this Idempotency-Key was used for another request, job {outcome.id}; take a new key for a new request",
            code="idempotency_key_reused",
        )
    if outcome.outcome == "unconfirmed":
        return DependencyError(
            "the broker did not confirm the job; it may run all the same: repeat the request with its Idempotency-Key",
            code="broker_unavailable",
            public=True,
        )
    return AdmissionError(
        f"the queue of model {new.spec.model!r} is full", code="queue_full", retry_after_s=outcome.retry_after_s
    )


def _never(request: Request) -> None:
    """A body is read to check it; what came of it is not run here."""


async def _started() -> None:
    pass
