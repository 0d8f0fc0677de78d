"""A server's error arrives as the same class with the same code, whatever server it is."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.client.world import MIDNIGHT

from forebay.api.problems import STATUSES, problem_of
from forebay.client.answers import read_error
from forebay.client.errors import error_of
from forebay.client.steps import Reply
from forebay.core.errors import (
    AdmissionError,
    CacheMiss,
    DeadlineExceeded,
    DependencyError,
    ExecutionError,
    ForebayError,
    RequestError,
)

EVERY: list[ForebayError] = [
    *(RequestError("why", code=code) for code in RequestError.codes()),
    *(AdmissionError("why", code=code, retry_after_s=3.0) for code in AdmissionError.codes()),
    *(ExecutionError("why", code=code) for code in ExecutionError.codes()),
    *(DependencyError("why", code=code, retry_after_s=3.0, public=True) for code in DependencyError.codes()),
    DeadlineExceeded("why", stage="queued"),
    CacheMiss("why"),
]


@pytest.mark.parametrize("error", EVERY, ids=lambda e: e.code)
def test_every_error_of_the_server_comes_back_as_itself(error: ForebayError) -> None:
    answer = problem_of(error)
    headers = {name.decode(): value.decode() for name, value in answer.headers}
    found, retry_after_s = read_error(Reply(answer.status, headers, answer.body), MIDNIGHT)
    assert type(found) is type(error)
    assert (found.code, found.message, found.status) == (error.code, "why", STATUSES[error.code])
    if isinstance(error, AdmissionError | DependencyError) and error.code != "unauthorized":
        assert retry_after_s == 3.0
        assert isinstance(found, AdmissionError | DependencyError)
        assert found.retry_after_s == 3.0
    if isinstance(error, DeadlineExceeded):
        assert isinstance(found, DeadlineExceeded)
        assert found.stage == "queued"
    # No other key opens by itself; all else is as the server has it.
    assert found.retryable == (error.retryable and error.code != "unauthorized")


def test_an_internal_error_is_no_particular_one() -> None:
    found = error_of(500, {"error": "oh", "code": "internal"})
    assert type(found) is ForebayError
    assert (found.code, found.status, found.retryable) == ("internal", 500, False)


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (418, RequestError, False),
        (429, AdmissionError, True),
        (500, ExecutionError, False),
        (502, ForebayError, True),
        (503, AdmissionError, True),
        (504, DeadlineExceeded, True),
        (302, ForebayError, False),
    ],
)
def test_an_unknown_code_is_kept_on_the_class_of_its_status(
    status: int, kind: type[ForebayError], retryable: bool
) -> None:
    found = error_of(status, {"error": "new", "code": "from_the_future"})
    assert type(found) is kind
    assert (found.code, found.message, found.status) == ("from_the_future", "new", status)
    assert found.retryable is retryable


@pytest.mark.parametrize(
    ("status", "document", "text", "code", "message"),
    [
        (400, {"error": "Triton says no"}, "", "invalid_request", "Triton says no"),
        (404, {"detail": "Not Found"}, "", "model_not_found", "Not Found"),
        (422, {"detail": [{"loc": ["body"]}]}, "", "http_422", "[{'loc': ['body']}]"),
        (503, None, "<html>busy</html>", "http_503", "<html>busy</html>"),
        (500, None, "", "http_500", "the server answered 500"),
        (400, {"error": "x", "code": 7}, "", "invalid_request", "x"),
    ],
)
def test_servers_of_another_make_are_understood(
    status: int, document: dict[str, Any] | None, text: str, code: str, message: str
) -> None:
    found = error_of(status, document, text)
    assert (found.code, found.message, found.status) == (code, message, status)


def test_a_page_of_megabytes_is_no_message() -> None:
    assert len(error_of(500, None, "x" * 10_000_000).message) <= 2000


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"text"', b"\xff\xfe", b"[" * 100_000])
def test_an_error_without_a_document_is_an_error_all_the_same(body: bytes) -> None:
    found, retry_after_s = read_error(Reply(503, {}, body), MIDNIGHT)
    assert isinstance(found, AdmissionError)
    assert found.retryable
    assert retry_after_s is None
