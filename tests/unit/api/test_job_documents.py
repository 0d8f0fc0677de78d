"""A job as JSON: what stands in it in each state, and in which form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from forebay.api.job_documents import encoded_job, page_of, time_of
from forebay.api.job_openapi import schemas
from forebay.jobs.record import JobError, JobRecord, JobSpec, Output

ID = "019ab5f0-1234-7abc-8def-0123456789ab"


def spec(**more: Any) -> JobSpec:
    return JobSpec(id=ID, model="mlp", tenant="me", **more)


def shown(record: JobRecord, base: str = "") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(encoded_job(record, base))
    return found


def test_a_new_job() -> None:
    assert shown(JobRecord(spec=spec(), state="queued", created_ms=1_764_063_707_123)) == {
        "id": ID,
        "model": "mlp",
        "status": "queued",
        "created_at": "2025-11-25T09:41:47.123Z",
        "started_at": None,
        "finished_at": None,
        "attempt": 0,
        "max_attempts": 3,
        "cached": False,
        "metrics": {},
        "urls": {
            "self": f"/v1/jobs/{ID}",
            "result": f"/v1/jobs/{ID}/result",
            "events": f"/v1/jobs/{ID}/events",
            "ws": f"/v1/jobs/{ID}/ws",
            "cancel": f"/v1/jobs/{ID}/cancel",
        },
    }


def test_a_job_that_has_succeeded() -> None:
    record = JobRecord(
        spec=spec(version="2", metadata={"user": "é"}),
        state="succeeded",
        attempt=2,
        created_ms=1_764_063_707_000,
        started_ms=1_764_063_708_001,
        finished_ms=1_764_063_709_999,
        output=Output(b'{"outputs":[1.50, 1e400]}'),
        metrics={"batch_rows": 4, "queue_ms": 1.5},
    )
    # The output is embedded to the letter: its numbers are as the encoder wrote them.
    assert b'"output":{"outputs":[1.50, 1e400]},' in encoded_job(record)
    document = shown(record, "/models")
    assert document["version"] == "2"
    assert document["metadata"] == {"user": "é"}
    assert (document["started_at"], document["finished_at"]) == ("2025-11-25T09:41:48.001Z", "2025-11-25T09:41:49.999Z")
    assert (document["attempt"], document["metrics"]) == (2, {"batch_rows": 4, "queue_ms": 1.5})
    assert document["urls"]["self"] == f"/models/v1/jobs/{ID}"


def test_a_binary_output_stands_only_at_the_result() -> None:
    record = JobRecord(spec=spec(), state="succeeded", output=Output(b"{}\x00", "application/octet-stream", "2"))
    assert "output" not in shown(record)


def test_a_job_that_has_failed_or_runs() -> None:
    record = JobRecord(spec=spec(), state="failed", error=JobError("model_error", "boom"))
    assert shown(record)["error"] == {"code": "model_error", "message": "boom"}
    record = JobRecord(spec=spec(), state="expired", error=JobError("deadline_exceeded", "late", "queued"))
    assert shown(record)["error"]["stage"] == "queued"
    running = shown(JobRecord(spec=spec(), state="running", attempt=1, progress=0.25))
    assert (running["status"], running["attempt"], running["progress"]) == ("running", 1, 0.25)
    assert "error" not in running


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1, "1970-01-01T00:00:00.001Z"),
        (1_764_063_707_999, "2025-11-25T09:41:47.999Z"),
        (4_102_444_799_001, "2099-12-31T23:59:59.001Z"),
    ],
)
def test_times(ms: int, text: str) -> None:
    assert time_of(ms) == text


def test_every_millisecond_is_its_own_time() -> None:
    start = 1_764_063_707_000
    assert [time_of(start + ms)[-4:-1] for ms in range(1000)] == [f"{ms:03d}" for ms in range(1000)]


def test_pages() -> None:
    assert page_of([], "") == b'{"jobs":[],"cursor":null}'
    assert json.loads(page_of([b'{"a":1}', b"{}"], 'c"')) == {"jobs": [{"a": 1}, {}], "cursor": 'c"'}


def test_the_schema_knows_every_member() -> None:
    record = JobRecord(
        spec=spec(version="2", metadata={}, replay_of=ID),
        state="running",
        progress=0.5,
        output=Output(b"{}"),
        error=JobError("internal", "no"),
    )
    assert list(shown(record)) == list(schemas()["Job"]["properties"])


def test_whatever_a_caller_may_choose_is_escaped() -> None:
    record = JobRecord(
        spec=JobSpec(id=ID, model='a"b\\é', version='"', tenant="me", metadata={'"': "\n"}), state="queued"
    )
    document = shown(record, '/"mounted')
    assert (document["model"], document["version"], document["metadata"]) == ('a"b\\é', '"', {'"': "\n"})
    assert document["urls"]["cancel"] == f'/"mounted/v1/jobs/{ID}/cancel'
