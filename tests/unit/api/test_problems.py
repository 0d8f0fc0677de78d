"""Every error code has its status, and nothing of an unforeseen error reaches the client."""

from __future__ import annotations

import json

import pytest

from forebay.api.problems import INTERNAL_MESSAGE, STATUSES, problem_of
from forebay.core.errors import AdmissionError, CacheMiss, DeadlineExceeded, ExecutionError, ForebayError, RequestError


@pytest.mark.parametrize("family", [RequestError, AdmissionError, DeadlineExceeded, CacheMiss, ExecutionError])
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
