"""Every error code has its status, and nothing of an unforeseen error reaches the client."""

from __future__ import annotations

import json
import logging

import pytest

from forebay.api.problems import INTERNAL_MESSAGE, STATUSES, problem_of
from forebay.core.errors import (
    AdmissionError,
    CacheMiss,
    DeadlineExceeded,
    DependencyError,
    ExecutionError,
    ForebayError,
    RequestError,
)


@pytest.mark.parametrize(
    "family", [RequestError, AdmissionError, DeadlineExceeded, CacheMiss, ExecutionError, DependencyError]
)
def test_every_code_has_a_status(family: type[ForebayError]) -> None:
    assert set(family.codes()) <= set(STATUSES)


@pytest.mark.parametrize("code", [code for code in AdmissionError.CODES if code != "unauthorized"])
def test_refusals_at_the_door_say_when_to_come_back(code: str) -> None:
    answer = problem_of(AdmissionError("no", code=code, retry_after_s=2.01))
    assert answer.status in (429, 503)
    assert dict(answer.headers)[b"retry-after"] == b"3"


def test_a_missing_key_is_challenged() -> None:
    answer = problem_of(AdmissionError("no", code="unauthorized"))
    assert answer.status == 401
    assert dict(answer.headers)[b"www-authenticate"] == b'Bearer realm="forebay"'
    assert b"retry-after" not in dict(answer.headers)


def test_an_unforeseen_error_keeps_its_text() -> None:
    answer = problem_of(KeyError("password"))
    assert (answer.status, json.loads(answer.body)) == (500, {"error": INTERNAL_MESSAGE, "code": "internal"})


@pytest.mark.parametrize("code", DependencyError.CODES)
def test_where_the_store_and_the_broker_are_is_logged_once_and_not_told(
    code: str, caplog: pytest.LogCaptureFixture
) -> None:
    words = f"RabbitMQ at amqp://10.0.0.6/jobs: user 'forebay' lacks a permission ({code})"
    with caplog.at_level(logging.WARNING, "forebay.api"):
        answers = [problem_of(DependencyError(words, code=code, retry_after_s=2.0)) for _ in range(3)]
    for answer in answers:
        told = json.loads(answer.body)
        assert (answer.status, told["code"], dict(answer.headers)[b"retry-after"]) == (503, code, b"2")
        assert told["error"].endswith("cannot be reached; try again")
    assert [record.message for record in caplog.records] == [f"requests are answered 503: {words}"]


def test_what_is_meant_for_clients_is_told(caplog: pytest.LogCaptureFixture) -> None:
    error = DependencyError("repeat the request with its Idempotency-Key", code="broker_unavailable", public=True)
    assert json.loads(problem_of(error.anew()).body)["error"] == "repeat the request with its Idempotency-Key"
    assert not caplog.records
