"""Every call about jobs as steps: submit, wait through restarts, follow, cancel. No I/O in here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

from forebay.client.answers import parse_json, read_document, read_error, read_result
from forebay.client.bodies import InferBody
from forebay.client.calls import Calls, model_path, unanswered
from forebay.client.errors import InvalidAnswerError, UnreachableError
from forebay.client.event_source import EventSource
from forebay.client.jobs import ENDED, Job, JobOrId, id_of, read_batch, read_event, read_job, read_page
from forebay.client.options import ClientOptions, InferOptions, SubmitOptions
from forebay.client.results import Result
from forebay.client.retries import Retries, parse_retry_after
from forebay.client.steps import EventSteps, Failure, Open, Opened, Read, Reply, Send, Sleep, Steps
from forebay.client.tensors import make_tensors, needs_specs
from forebay.core.clock import Clock
from forebay.core.errors import DeadlineExceeded, ForebayError, RequestError, SetupError
from forebay.core.header_values import check_header

LONGEST_POLL_S = 30
"""Below the minute after which something between may cut a connection on which nothing is said."""
POLL_GRACE_S = 10.0
"""How much later than asked for an answer may come before its connection counts as broken."""
IDLE_S = 45.0
"""The same for a stream of events, where the server says something every 15 s."""
MOST_A_BATCH, MOST_BATCH_BYTES = 1000, 8 << 20
PAGE_JOBS = 200
_MEMBERS = ("ttl_s", "timeout_s", "retention_s", "priority", "webhook", "metadata")


class JobCalls(Calls):
    """The calls of one client, those about jobs included."""

    def __init__(
        self,
        options: ClientOptions,
        *,
        clock: Clock,
        chance: Callable[[], float],
        today: Callable[[], datetime],
        new_key: Callable[[], str],
    ) -> None:
        """new_key: makes Idempotency-Keys that nobody else makes. The rest as for `Calls`."""
        super().__init__(options, clock=clock, chance=chance, today=today)
        self._new_key = new_key

    # -- submit -------------------------------------------------------------------------------------------------------

    def submit(self, model: str, inputs: Any, options: SubmitOptions) -> Steps[Job]:
        """One job."""
        binary = options.get("binary", self._binary)
        headers, body = (yield from self._job_body(model, inputs, options, binary)).encode(math.inf)
        key = options.get("idempotency_key") or self._new_key()
        return (yield from self._post(_jobs_path(model), {**headers, **_keyed(key)}, body))

    def submit_body(self, model: str, body: bytes | str, content_type: str, key: str | None) -> Steps[Job]:
        """One job whose body is ready."""
        try:
            check_header("content-type", content_type)
        except SetupError as error:
            raise RequestError(error.message) from None
        headers = {"content-type": content_type, **_keyed(key or self._new_key())}
        content = body.encode() if isinstance(body, str) else bytes(body)
        return (yield from self._post(_jobs_path(model), headers, content))

    def submit_many(self, model: str, inputs: Iterable[Any], options: SubmitOptions) -> Steps[list[Job | ForebayError]]:
        """Many jobs, in as few requests as it takes; for each a job, or why it is none."""
        key = options.get("idempotency_key") or self._new_key()
        refused: list[ForebayError | None] = []
        bodies: list[bytes] = []
        for one in inputs:
            try:
                body = yield from self._job_body(model, one, options, binary=False)
                bodies.append(body.encode(math.inf)[1])
            except RequestError as error:
                if error.status is not None:
                    raise  # the server's, about the model: none of these can be
                refused.append(error)
            else:
                refused.append(None)
        found: list[Job | ForebayError] = []
        for number, batch in enumerate(_batches(bodies)):
            try:
                found += yield from self._submit_batch(model, batch, f"{key}.{number}" if number else key)
            except ForebayError as error:
                if not number:
                    raise
                found += [error] * len(batch)  # what was accepted before is told all the same
        answers = iter(found)
        return [next(answers) if error is None else error for error in refused]

    def _job_body(self, model: str, inputs: Any, options: SubmitOptions, binary: bool) -> Steps[InferBody]:
        unknown = set(options) - set(SubmitOptions.__annotations__)
        if unknown:
            raise TypeError(f"submit has no option {', '.join(sorted(unknown))}")
        casting = options.get("casting", "no")
        path, specs = model_path(model, None), None
        if needs_specs(inputs, casting):
            specs = yield from self._specs_of(path, self._deadline(self._timeout_s))
        asked = InferOptions(outputs=options.get("outputs"), parameters=options.get("parameters"))
        if options.get("request_id"):
            asked["request_id"] = options["request_id"]
        given: Mapping[str, Any] = options
        members = {name: given[name] for name in _MEMBERS if given.get(name) is not None}
        return InferBody(make_tensors(inputs, specs, casting), asked, binary, members)

    def _post(self, path: str, headers: Mapping[str, str], body: bytes) -> Steps[Job]:
        deadline = self._deadline(self._timeout_s)

        def send(left_s: float) -> Send:
            return Send("POST", path, deadline, headers, body)

        reply, _ = yield from self._persist(send, deadline, (200, 202))
        return read_job(parse_json(reply.body))

    def _submit_batch(self, model: str, bodies: list[bytes], key: str) -> Steps[list[Job | ForebayError]]:
        deadline = self._deadline(self._timeout_s)
        headers = {"content-type": "application/json", **_keyed(key)}
        body = b'{"jobs":[%b]}' % b",".join(bodies)

        def send(left_s: float) -> Send:
            return Send("POST", f"{_jobs_path(model)}/batch", deadline, headers, body)

        reply, _ = yield from self._persist(send, deadline, (202,))
        return read_batch(reply.body, len(bodies))

    # -- look, change -------------------------------------------------------------------------------------------------

    def job(self, job: JobOrId) -> Steps[Job]:
        """The job as it is now."""
        document = yield from self.document(_job_path(job))
        return read_job(document)

    def cancel(self, job: JobOrId) -> Steps[Job]:
        """Cancel it, unless it has ended."""
        return (yield from self._post(f"{_job_path(job)}/cancel", {}, b""))

    def replay(self, job: JobOrId) -> Steps[Job]:
        """A failed job, submitted again as a new one."""
        return (yield from self._post(f"{_job_path(job)}/replay", {}, b""))

    def delete(self, job: JobOrId) -> Steps[None]:
        """Forget it."""
        deadline, path, tries = self._deadline(self._timeout_s), _job_path(job), 0

        def send(left_s: float) -> Send:
            nonlocal tries
            tries += 1
            return Send("DELETE", path, deadline)

        try:
            yield from self._persist(send, deadline, (204,))
        except RequestError as error:
            # A try that got no answer may have been the one that did it.
            if tries == 1 or error.code != "job_not_found":
                raise

    def page(self, model: str, status: str, cursor: str) -> Steps[tuple[list[Job], str]]:
        """(jobs, cursor) of one page of the list."""
        asked = {"model": model, "status": status, "cursor": cursor, "limit": PAGE_JOBS}
        path = f"/v1/jobs?{urlencode({name: value for name, value in asked.items() if value})}"
        deadline = self._deadline(self._timeout_s)
        reply, _ = yield from self._persist(lambda left_s: Send("GET", path, deadline), deadline)
        return read_page(reply.body)

    # -- wait ---------------------------------------------------------------------------------------------------------

    def wait(self, job: JobOrId, timeout_s: float | None) -> Steps[Result]:
        """The result of a job, once it is there. Raises the error of a job that has none."""
        path = _job_path(job)

        def ended(reply: Reply) -> bool:
            return reply.status == 200 or _names(reply, path)

        reply, attempts = yield from self._until(id_of(job), f"{path}/result", ended, timeout_s)
        if reply.status == 200:
            return read_result(reply, attempts)
        error, _ = read_error(reply, self._today())
        error.retryable = False
        raise error

    def ended(self, job: JobOrId, timeout_s: float | None) -> Steps[Job]:
        """The job when it has ended, whatever that end is."""

        def ended(reply: Reply) -> bool:
            return reply.status == 200 and read_document(reply).get("status") in ENDED

        reply, _ = yield from self._until(id_of(job), _job_path(job), ended, timeout_s)
        return read_job(parse_json(reply.body))

    def _until(
        self, id: str, path: str, ended: Callable[[Reply], bool], timeout_s: float | None
    ) -> Steps[tuple[Reply, int]]:
        """(the first answer that says that the job has ended, how many it took). The server may restart meanwhile."""
        deadline, tries = self._deadline(timeout_s), 0
        patience = _Patience(self._retries, self._clock, self._chance, deadline)
        while True:
            began = self._clock()
            if began >= deadline:
                raise _not_ended(id, timeout_s)
            poll_s = max(1, int(min(LONGEST_POLL_S, deadline - began)))
            until = min(deadline, began + poll_s + POLL_GRACE_S)
            tries += 1
            outcome = yield Send("GET", path, until, {"prefer": f"wait={poll_s}"})
            if isinstance(outcome, Reply) and ended(outcome):
                return outcome, tries
            if isinstance(outcome, Reply) and outcome.status in (200, 202):
                patience.heard()
                # One that answers sooner than it was asked to does not wait on our behalf.
                asked_s = parse_retry_after(outcome.headers.get("retry-after"), self._today())
                pause_s = (1.0 if asked_s is None else asked_s) - (self._clock() - began)
            else:
                error, retry_after_s = self._error_of(outcome)
                if self._clock() >= deadline:
                    raise _not_ended(id, timeout_s) from error
                pause_s = patience.pause_s(error, retry_after_s)
            if pause_s > 0:
                yield Sleep(min(pause_s, max(0.0, deadline - self._clock())))

    def _error_of(self, outcome: Reply | Opened | bytes | Failure | None) -> tuple[ForebayError, float | None]:
        """The error of a try that did not come to its end, and the seconds of its Retry-After."""
        if isinstance(outcome, Reply):
            return read_error(outcome, self._today())
        if isinstance(outcome, Failure):
            silent = Failure(f"{outcome.reason}: nothing came for too long") if outcome.late else outcome
            return unanswered(silent), None
        return UnreachableError("the stream of events ended before its job did"), None

    # -- follow -------------------------------------------------------------------------------------------------------

    def stream(self, job: JobOrId, after: int, timeout_s: float | None) -> EventSteps:
        """The events of a job behind `after`, to its end. The server may restart meanwhile."""
        id, path = id_of(job), f"{_job_path(job)}/events"
        deadline = self._deadline(timeout_s)
        patience = _Patience(self._retries, self._clock, self._chance, deadline)
        while True:
            headers = {"accept": "text/event-stream", **({"last-event-id": str(after)} if after else {})}
            opening = Open("GET", path, deadline, headers, idle_s=IDLE_S)
            source = EventSource()
            outcome = yield opening
            while isinstance(outcome, Opened) or (isinstance(outcome, bytes) and outcome):
                patience.heard()
                if isinstance(outcome, bytes):
                    for told in source.feed(outcome):
                        event = read_event(told)
                        if event is None:
                            continue
                        after = event.sequence
                        yield event
                        if event.kind == "done":
                            return
                outcome = yield Read(opening)
            if isinstance(outcome, Reply) and outcome.status == 204:
                return
            error, retry_after_s = self._error_of(outcome)
            if self._clock() >= deadline:
                raise _not_ended(id, timeout_s) from error
            yield Sleep(patience.pause_s(error, source.retry_s if retry_after_s is None else retry_after_s))


class _Patience:
    """How long a call that outlasts restarts goes on trying."""

    def __init__(self, retries: Retries, clock: Clock, chance: Callable[[], float], deadline: float) -> None:
        self._retries, self._clock, self._chance, self._deadline = retries, clock, chance, deadline
        self._heard, self._attempt = clock(), 0

    def heard(self) -> None:
        """The server is there."""
        self._heard, self._attempt = self._clock(), 0

    def pause_s(self, error: ForebayError, retry_after_s: float | None) -> float:
        """Seconds to wait before the next try. Raises the error where there should be none."""
        self._attempt += 1
        now = self._clock()
        left_s = self._deadline - now
        pause_s = self._retries.outlast_s(self._attempt, error, retry_after_s, now - self._heard, left_s, self._chance)
        if pause_s is None:
            raise error
        return pause_s


def _not_ended(id: str, timeout_s: float | None) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"job {id} had not ended within {timeout_s:g} s; it goes on, and can be waited for again", stage="waiting"
    )


def _names(reply: Reply, path: str) -> bool:
    """Whether an error is that of the job itself, and not of this request: it names the job (RFC 9457, instance)."""
    try:
        document = parse_json(reply.body)
    except InvalidAnswerError:
        return False
    return isinstance(document, dict) and str(document.get("instance", "")).endswith(path)


def _batches(bodies: list[bytes]) -> Iterator[list[bytes]]:
    """The bodies in requests, the same for the same bodies."""
    batch: list[bytes] = []
    size_bytes = 0
    for body in bodies:
        if batch and (len(batch) >= MOST_A_BATCH or size_bytes + len(body) > MOST_BATCH_BYTES):
            yield batch
            batch, size_bytes = [], 0
        batch.append(body)
        size_bytes += len(body)
    if batch:
        yield batch


def _keyed(key: str) -> dict[str, str]:
    """The header, whose value is a quoted string. Raises `RequestError`."""
    if not (isinstance(key, str) and key.isascii() and key.isprintable()):
        raise RequestError(f"idempotency_key must be printable ASCII, got {repr(key)[:60]}")
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    return {"idempotency-key": f'"{escaped}"'}


def _jobs_path(model: str) -> str:
    return f"/v1{model_path(model, None).removeprefix('/v2')}/jobs"


def _job_path(job: JobOrId) -> str:
    id = id_of(job)
    if not id:
        raise RequestError("the job's id is empty")
    return f"/v1/jobs/{quote(id, safe='')}"
