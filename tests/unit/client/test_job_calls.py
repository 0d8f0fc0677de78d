"""Calls about jobs from their first try to their end, under a clock of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from tests.unit.client.world import METADATA, Event, World, answer, document_of, reply

from forebay.client.errors import InvalidAnswerError, UnreachableError
from forebay.client.job_calls import LONGEST_POLL_S, POLL_GRACE_S
from forebay.client.jobs import Job
from forebay.client.retries import Retries
from forebay.client.steps import Failure, Opened, Reply
from forebay.core.errors import AdmissionError, DeadlineExceeded, ExecutionError, ForebayError, RequestError, SetupError

X = {"x": np.zeros((1, 2), "f4")}
REFUSED = Failure("connection refused")
SILENT = Failure("GET: ReadTimeout", late=True)


def document(**more: Any) -> dict[str, Any]:
    return {
        "id": "j",
        "model": "m",
        "status": "queued",
        "created_at": "2025-11-25T09:41:47.123Z",
        "started_at": None,
        "finished_at": None,
        "attempt": 0,
        "max_attempts": 3,
        "cached": False,
        "metrics": {},
        "urls": {"self": "/v1/jobs/j"},
        **more,
    }


def job(answered: int = 200, **more: Any) -> Reply:
    return reply(answered, document(**more), retry_after="1")


def problem(status: int, code: str, instance: str = "", **headers: str) -> Reply:
    found = {"type": "about:blank", "title": "x", "status": status, "detail": "why", "code": code}
    return reply(status, {**found, **({"instance": instance} if instance else {})}, **headers)


def met(outcomes: Sequence[Reply | Failure | Opened | bytes]) -> list[Event]:
    return [Event(outcome) for outcome in outcomes]


NOT_YET = job(202)


# -- submit -----------------------------------------------------------------------------------------------------------


def test_a_job_is_submitted_with_its_options_and_a_key_of_its_own() -> None:
    world = World(Event(job(202)), Event(job(202)))
    options: Any = {"ttl_s": 5.0, "timeout_s": 6.0, "retention_s": 7.0, "priority": 1, "webhook": "http://h/"}
    more: Any = {"metadata": {"a": 1}, "outputs": ["y"], "request_id": "r", "parameters": {"k": 1}, "binary": False}
    calls = world.calls()
    made = world.run(calls.submit("a/b", X, options | more))
    assert (made.id, made.status, made.ended) == ("j", "queued", False)
    assert made.created_at == datetime(2025, 11, 25, 9, 41, 47, 123000, UTC)
    world.run(calls.submit("m", X, {"ttl_s": None, "webhook": None}))
    first, second = world.sent
    assert (first.method, first.path) == ("POST", "/v1/models/a%2Fb/jobs")
    assert (first.headers["idempotency-key"], second.headers["idempotency-key"]) == ('"key-1"', '"key-2"')
    sent = document_of(first)
    assert options.items() <= sent.items()
    assert (sent["metadata"], sent["outputs"], sent["id"]) == ({"a": 1}, [{"name": "y"}], "r")
    assert sent["parameters"] == {"k": 1}
    assert second.headers["content-type"] == "application/octet-stream"
    assert set(document_of(second)) == {"inputs", "parameters"}


def test_a_retry_carries_the_same_key() -> None:
    world = World(Event(REFUSED), Event(problem(503, "store_unavailable", retry_after="2")), Event(job(200)))
    world.run(world.calls().submit("m", X, {}))
    assert {step.headers["idempotency-key"] for step in world.sent} == {'"key-1"'}
    assert len({step.body for step in world.sent}) == 1
    assert world.slept == [0.0, 2.0]


@pytest.mark.parametrize(("key", "header"), [("k", '"k"'), ("a b,c", '"a b,c"'), ('q"\\', '"q\\"\\\\"')])
def test_a_key_is_sent_as_a_quoted_string(key: str, header: str) -> None:
    world = World(Event(job(202)), Event(job(202)))
    world.run(world.calls().submit("m", X, {"idempotency_key": key}))
    world.run(world.calls().submit_body("m", "{}", "application/json", key))
    assert [step.headers["idempotency-key"] for step in world.sent] == [header, header]


@pytest.mark.parametrize("key", ["\u00e9", "a\nb", "\x7f"])
def test_a_key_that_no_header_can_hold_is_refused(key: str) -> None:
    world = World()
    with pytest.raises(RequestError, match="idempotency_key must be printable ASCII"):
        world.run(world.calls().submit("m", X, {"idempotency_key": key}))


def test_lists_ask_for_the_models_metadata() -> None:
    world = World(Event(METADATA), Event(job(202)))
    world.run(world.calls().submit("m", [[1, 2]], {"binary": False}))
    assert world.sent[0].path == "/v2/models/m"
    assert document_of(world.sent[1])["inputs"][0]["datatype"] == "FP32"


def test_unknown_options_and_models_without_a_name_are_refused() -> None:
    world = World()
    with pytest.raises(TypeError, match="submit has no option tll_s"):
        world.run(world.calls().submit("m", X, {"tll_s": 1.0}))  # type: ignore[typeddict-unknown-key]
    for steps in (world.calls().submit("", X, {}), world.calls().submit_body("", b"", "a/b", None)):
        with pytest.raises(RequestError, match="name is empty"):
            world.run(steps)
    for call in (world.calls().job, world.calls().cancel, world.calls().delete, world.calls().replay):
        with pytest.raises(RequestError, match="id is empty"):
            world.run(call(""))
    assert world.sent == []


def test_many_jobs_go_in_few_requests_that_are_the_same_for_the_same_jobs() -> None:
    def batch(count: int) -> Event:
        return Event(reply(202, {"jobs": [document(id=f"{number}") for number in range(count)]}))

    world = World(batch(1000), batch(1000), batch(5))
    found = world.run(world.calls().submit_many("m", [X] * 2005, {"metadata": {"a": 1}}))
    assert len(found) == 2005
    assert [len(document_of(step)["jobs"]) for step in world.sent] == [1000, 1000, 5]
    assert {step.path for step in world.sent} == {"/v1/models/m/jobs/batch"}
    assert [step.headers["idempotency-key"] for step in world.sent] == ['"key-1"', '"key-1.1"', '"key-1.2"']
    assert all(one["metadata"] == {"a": 1} for step in world.sent for one in document_of(step)["jobs"])

    large = {"x": np.zeros((1, 700_000), "f4")}  # 2.8 MB of JSON each
    world = World(batch(2), batch(2), batch(1))
    assert len(world.run(world.calls().submit_many("m", [large] * 5, {}))) == 5


def test_each_of_many_is_a_job_or_its_error() -> None:
    refused = {"type": "about:blank", "title": "x", "status": 503, "detail": "why", "code": "queue_full"}
    world = World(Event(reply(202, {"jobs": [document(), refused]})))
    good, bad = world.run(world.calls().submit_many("m", [X, X], {}))
    assert isinstance(good, Job)
    assert isinstance(bad, AdmissionError)
    assert (bad.code, bad.status, bad.message) == ("queue_full", 503, "why")
    world = World(Event(reply(202, {"jobs": [document()]})))
    with pytest.raises(InvalidAnswerError, match="2 jobs were submitted, the answer has 1"):
        world.run(world.calls().submit_many("m", [X, X], {}))


def test_one_of_many_that_cannot_be_sent_is_an_error_in_its_place() -> None:
    world = World(Event(METADATA), Event(reply(202, {"jobs": [document(id="a"), document(id="b")]})))
    first, bad, second = world.run(world.calls().submit_many("m", [X, {"x": [["word"]]}, X], {}))
    assert isinstance(bad, RequestError)
    assert bad.message == "input 'x': 'word' does not fit datatype FP32"
    assert isinstance(first, Job)
    assert isinstance(second, Job)
    assert (first.id, second.id) == ("a", "b")
    world = World(Event(problem(404, "model_not_found")))
    with pytest.raises(RequestError, match="why"):
        world.run(world.calls().submit_many("m", [{"x": [[1.0]]}], {}))


def test_jobs_that_were_accepted_are_told_though_those_of_a_later_request_are_refused() -> None:
    batch = Event(reply(202, {"jobs": [document(id=f"{number}") for number in range(1000)]}))
    world = World(batch, *[Event(problem(503, "queue_full"))] * 3)
    found = world.run(world.calls().submit_many("m", [X] * 1003, {}))
    assert [one.id for one in found[:1000] if isinstance(one, Job)] == [f"{number}" for number in range(1000)]
    assert [one.code for one in found[1000:] if isinstance(one, AdmissionError)] == ["queue_full"] * 3
    world = World(*[Event(problem(503, "queue_full"))] * 3)
    with pytest.raises(AdmissionError):
        world.run(world.calls().submit_many("m", [X] * 1003, {}))


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"{}", b'{"id": 1}', b"<html>"])
def test_an_answer_that_tells_of_no_job_is_an_invalid_one(body: bytes) -> None:
    for call in (World().calls().job, World().calls().cancel):
        world = World(Event(Reply(200, {}, body)))
        with pytest.raises(InvalidAnswerError):
            world.run(call("j"))


# -- look, change -----------------------------------------------------------------------------------------------------


def test_a_job_that_has_failed_carries_its_error() -> None:
    told = {"code": "deadline_exceeded", "message": "late", "stage": "executing"}
    world = World(Event(job(status="failed", error=told, attempt=2, started_at="2025-11-25T09:41:48Z")))
    found = world.run(world.calls().job("j"))
    assert isinstance(found.error, DeadlineExceeded)
    assert (found.error.stage, found.error.retryable, found.error.status) == ("executing", False, None)
    assert (found.ended, found.attempt) == (True, 2)
    assert world.sent[0].path == "/v1/jobs/j"


def test_a_deletion_whose_answer_was_lost_is_done() -> None:
    gone = problem(404, "job_not_found")
    world = World(Event(REFUSED), Event(gone))
    world.run(world.calls().delete("a/b"))
    assert [(step.method, step.path) for step in world.sent] == [("DELETE", "/v1/jobs/a%2Fb")] * 2
    world = World(Event(gone))
    with pytest.raises(RequestError) as caught:
        world.run(world.calls().delete("j"))
    assert caught.value.code == "job_not_found"
    world = World(Event(Reply(204, {}, b"")))
    world.run(world.calls().delete("j"))


def test_pages_are_asked_for_by_their_cursor() -> None:
    world = World(
        Event(reply(200, {"jobs": [document()], "cursor": "c"})), Event(reply(200, {"jobs": [], "cursor": None}))
    )
    found, cursor = world.run(world.calls().page("a b", "failed", ""))
    assert ([one.id for one in found], cursor) == (["j"], "c")
    assert world.run(world.calls().page("", "", "c")) == ([], "")
    assert [step.path for step in world.sent] == [
        "/v1/jobs?model=a+b&status=failed&limit=200",
        "/v1/jobs?cursor=c&limit=200",
    ]


# -- wait -------------------------------------------------------------------------------------------------------------


def test_waiting_polls_long_until_the_result_is_there() -> None:
    world = World(Event(NOT_YET, 30.0), Event(NOT_YET, 30.0), Event(answer(7.0), 3.0))
    result = world.run(world.calls().wait("j", None))
    assert (result["y"].tolist(), result.attempts) == ([7.0], 3)
    assert {step.path for step in world.sent} == {"/v1/jobs/j/result"}
    assert {step.headers["prefer"] for step in world.sent} == {f"wait={LONGEST_POLL_S}"}
    assert [step.deadline for step in world.sent] == [start + LONGEST_POLL_S + POLL_GRACE_S for start in (0, 30, 60)]
    assert world.slept == []


def test_a_server_that_does_not_wait_is_asked_again_when_it_says() -> None:
    slow = reply(202, document(), retry_after="4")
    world = World(Event(slow, 0.5), Event(Reply(202, {}, b"{}"), 0.25), Event(answer()))
    world.run(world.calls().wait("j", None))
    assert world.slept == [3.5, 0.75]


def test_waiting_ends_at_its_deadline() -> None:
    world = World(Event(NOT_YET, 30.0), Event(NOT_YET, 12.0), Event(SILENT, 0.5))
    with pytest.raises(DeadlineExceeded, match=r"job j had not ended within 42.5 s; it goes on") as caught:
        world.run(world.calls().wait("j", 42.5))
    assert caught.value.stage == "waiting"
    assert [step.headers["prefer"] for step in world.sent] == ["wait=30", "wait=12", "wait=1"]
    assert [step.deadline for step in world.sent] == [40.0, 42.5, 42.5]
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(SetupError, match="timeout_s"):
            world.run(world.calls().wait("j", wrong))


def test_the_error_of_the_job_is_told_from_that_of_the_request() -> None:
    """A job may fail with a code that a request may also be refused with: only the job's names it."""
    refused = problem(504, "deadline_exceeded")
    failed = problem(504, "deadline_exceeded", "/base/v1/jobs/j")
    world = World(Event(refused), Event(failed))
    with pytest.raises(DeadlineExceeded, match="why") as caught:
        world.run(world.calls().wait("j", None))
    assert (caught.value.status, caught.value.retryable) == (504, False)
    assert len(world.sent) == 2
    world = World(Event(problem(500, "model_error", "/v1/jobs/j")))
    with pytest.raises(ExecutionError):
        world.run(world.calls().wait("j", None))


@pytest.mark.parametrize("code", ["job_not_found", "unauthorized", "job_gone"])
def test_what_no_patience_mends_ends_the_wait(code: str) -> None:
    statuses = {"job_not_found": 404, "unauthorized": 401, "job_gone": 410}
    for call in ("wait", "ended"):
        world = World(Event(problem(statuses[code], code)))
        with pytest.raises(ForebayError) as caught:
            world.run(getattr(world.calls(), call)("j", None))
        assert caught.value.code == code


def test_waiting_outlasts_an_outage_however_many_tries_that_takes() -> None:
    away = [Event(REFUSED, 0.1)] * 40
    busy = [Event(problem(503, "store_unavailable", retry_after="2"))] * 3
    world = World(*away, *busy, Event(NOT_YET, 30.0), *away, Event(SILENT, 40.0), Event(answer()), chance=0.5)
    calls = world.calls(retries=Retries(attempts=2, longest_outage_s=300.0))
    assert world.run(calls.wait("j", None))["y"].tolist() == [1.0]
    assert world.slept[0] == 0.1
    assert max(world.slept) == 2.0 + 2.5  # half of the longest pause


@pytest.mark.parametrize(("attempts", "least_s"), [(6, 100.0), (1, 0.0)])
def test_an_outage_that_lasts_too_long_is_raised(attempts: int, least_s: float) -> None:
    for call in ("wait", "ended"):
        world = World(*[Event(REFUSED, 1.0)] * 500, chance=1.0)
        calls = world.calls(retries=Retries(attempts=attempts, longest_outage_s=100.0))
        with pytest.raises(UnreachableError, match="refused"):
            world.run(getattr(calls, call)("j", None))
        assert least_s <= world.now <= least_s + 10.0


def test_a_connection_on_which_nothing_comes_is_an_outage() -> None:
    world = World(*[Event(SILENT, 40.0)] * 20)
    with pytest.raises(UnreachableError, match="nothing came for too long"):
        world.run(world.calls(retries=Retries(longest_outage_s=100.0)).wait("j", None))
    assert len(world.sent) == 3


def test_a_job_that_has_ended_is_given_whatever_its_end() -> None:
    for status in ("succeeded", "failed", "canceled", "expired"):
        world = World(Event(job(), 30.0), Event(job(status="running"), 30.0), Event(job(status=status)))
        assert world.run(world.calls().ended("j", None)).status == status
        assert {step.path for step in world.sent} == {"/v1/jobs/j"}


@pytest.mark.parametrize(
    ("output", "wanted"),
    [
        ([[1, 2]], np.array([[1, 2]])),
        (1.5, np.array(1.5)),
        ("a\0", np.array(b"a\0", dtype=object)),
        ([["\u00e9"]], np.array([["\u00e9".encode()]], dtype=object)),
        ([True], np.array([True])),
        ([], np.array([])),
    ],
)
def test_the_one_row_form_has_the_types_that_numpy_chooses(output: Any, wanted: Any) -> None:
    world = World(Event(reply(200, {"model_name": "m", "output": {"y": output}})))
    result = world.run(world.calls().wait("j", None))
    assert result.model_name == "m"
    assert result["y"].dtype == wanted.dtype
    assert result["y"].tolist() == wanted.tolist()


@pytest.mark.parametrize("output", [[1, "a"], [[1], [1, 2]], None, {"a": 1}])
def test_a_one_row_answer_that_is_no_array_is_an_invalid_one(output: Any) -> None:
    world = World(Event(reply(200, {"output": {"y": output}})))
    with pytest.raises(InvalidAnswerError, match="'y'"):
        world.run(world.calls().wait("j", None))
