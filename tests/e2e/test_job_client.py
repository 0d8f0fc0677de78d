"""Jobs by `forebay.Client` and `AsyncClient` against the real server: submitted, waited for, followed, looked at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.e2e.server import Served, eventually, model, quick, serving
from tests.e2e.test_client import extremes
from tests.unit.client.both import KINDS, Both

from forebay.api.auth import key_line, new_secret
from forebay.client import Job, JobEvent
from forebay.core.errors import AdmissionError, DeadlineExceeded, ExecutionError, RequestError
from forebay.core.tensors import NUMPY_TYPES


@pytest.fixture(scope="module")
def served(mlp: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    models = [
        str(mlp),
        *model("plain.py", "Echo", "Texts"),
        *model("faulty.py", "Pause", "Faulty"),
        *model("streaming.py", "Count", "Steps"),
    ]
    with serving(tmp_path_factory.mktemp("jobs"), *quick(*models)) as running:
        yield running


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


@pytest.fixture
async def both(served: Served, kind: str) -> AsyncIterator[Both]:
    async with Both(kind, f"http://127.0.0.1:{served.port}") as made:
        yield made


def pause(ms: float) -> dict[str, Any]:
    return {"x": np.array([[ms]], "f4")}


# -- submit and wait --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("binary", [True, False])
async def test_every_datatype_comes_back_unchanged(both: Both, binary: bool) -> None:
    sent = extremes(3)
    job = await both.call("submit", "echo", sent, binary=binary)
    assert isinstance(job, Job)
    result = await both.call("wait", job, timeout_s=60.0)
    for name, array in sent.items():
        found = result[name.replace("in_", "out_")]
        assert found.dtype == array.dtype == NUMPY_TYPES[name.removeprefix("in_").upper()]
        np.testing.assert_array_equal(found, array)
    # It is there for whoever knows its id, as often as is asked.
    again = await both.call("wait", job.id)
    assert list(again) == list(result)


async def test_options_reach_the_server_and_come_back(both: Both) -> None:
    options = {"metadata": {"user": 7}, "retention_s": 100.0, "ttl_s": 90.0, "timeout_s": 80.0, "priority": 1}
    job = await both.call("submit", "pause", pause(1.0), **options, request_id="r-1", outputs=["y"], binary=False)
    assert (job.model, job.metadata, job.attempt, job.max_attempts, job.ended) == ("pause", {"user": 7}, 0, 3, False)
    done = await both.call("ended", job, timeout_s=60.0)
    assert (done.id, done.status, done.ended, done.error, done.attempt) == (job.id, "succeeded", True, None, 1)
    assert done.created_at == job.created_at <= done.started_at <= done.finished_at
    assert done.created_at.tzinfo is not None
    assert done.output["outputs"][0]["data"] == [1.0]
    assert done.output["id"] == "r-1"
    assert done.metrics["batch_rows"] >= 1
    found = await both.call("job", job.id)
    assert (found.status, found.output) == ("succeeded", done.output)


async def test_lists_take_the_models_datatype(both: Both) -> None:
    job = await both.call("submit", "texts", ["a", "b"])
    assert (await both.call("wait", job, timeout_s=60.0))["upper"].tolist() == [[b"A"], [b"B"]]


async def test_a_body_that_is_ready_is_submitted_as_it_is(both: Both) -> None:
    job = await both.call("submit_body", "texts", '{"input": {"text": ["h\u00e9\\u0000"]}, "metadata": {"a": 1}}')
    assert job.metadata == {"a": 1}
    result = await both.call("wait", job, timeout_s=60.0)
    # The one-row form has no datatypes: numpy chooses.
    assert result["upper"].tolist() == ["H\u00e9\x00".encode()]
    assert result["size"].tolist() == [4]
    with pytest.raises(RequestError, match="nothing"):
        await both.call("submit_body", "texts", b'{"nothing": 1}')


async def test_a_job_with_the_same_key_is_the_same_job(both: Both) -> None:
    key = f'a "quoted\\" key {id(both)}'
    first = await both.call("submit", "pause", pause(1.0), idempotency_key=key)
    second = await both.call("submit", "pause", pause(1.0), idempotency_key=key)
    assert second.id == first.id
    with pytest.raises(RequestError) as caught:
        await both.call("submit", "pause", pause(2.0), idempotency_key=key)
    assert (caught.value.code, caught.value.status) == ("idempotency_key_reused", 422)
    others = [await both.call("submit", "pause", pause(1.0)) for _ in range(2)]
    assert len({first.id, *(job.id for job in others)}) == 3


async def test_many_are_submitted_at_once_and_refused_one_by_one(both: Both) -> None:
    rows: list[Any] = [{"text": np.array([[f"{number}"]], dtype=object)} for number in range(1100)]
    rows[700] = {"text": np.zeros((1, 1), "f4")}
    key = f"many-{id(both)}"
    jobs = await both.call("submit_many", "texts", rows, idempotency_key=key, metadata={"batch": 1})
    assert len(jobs) == 1100
    refused = jobs.pop(700)
    assert isinstance(refused, RequestError)
    assert (refused.code, refused.status) == ("invalid_request", 400)
    assert all(isinstance(job, Job) and job.metadata == {"batch": 1} for job in jobs)
    again = await both.call("submit_many", "texts", rows, idempotency_key=key, metadata={"batch": 1})
    del again[700]
    assert [job.id for job in again] == [job.id for job in jobs]
    for number in (0, 1, 1097, 1098):
        row = number if number < 700 else number + 1
        assert (await both.call("wait", jobs[number], timeout_s=60.0))["upper"].tolist() == [[b"%d" % row]]
    assert await both.call("submit_many", "texts", []) == []


async def test_waiting_ends_at_its_time_and_the_job_goes_on(both: Both) -> None:
    job = await both.call("submit", "pause", pause(1500.0))
    for name in ("wait", "ended"):
        with pytest.raises(DeadlineExceeded, match=f"{job.id} had not ended within 0.2 s"):
            await both.call(name, job, timeout_s=0.2)
    with pytest.raises(DeadlineExceeded, match="had not ended"):
        await events_of(both, job, timeout_s=0.2)
    assert (await both.call("wait", job, timeout_s=60.0))["y"].tolist() == [[1500.0]]


# -- errors, cancel, delete, list -------------------------------------------------------------------------------------


async def test_the_error_of_a_job_is_raised_by_who_waits(both: Both) -> None:
    job = await both.call("submit", "faulty", pause(13.0))
    with pytest.raises(ExecutionError, match="13 is not a number") as caught:
        await both.call("wait", job, timeout_s=60.0)
    assert (caught.value.code, caught.value.status, caught.value.retryable) == ("model_error", 500, False)
    ended = await both.call("ended", job)
    assert ended.status == "failed"
    assert isinstance(ended.error, ExecutionError)
    assert (ended.error.code, ended.error.status, ended.error.retryable) == ("model_error", None, False)


async def test_a_run_that_is_too_long_is_no_reason_to_wait_again(both: Both) -> None:
    job = await both.call("submit", "pause", pause(20_000.0), timeout_s=0.3)
    with pytest.raises(DeadlineExceeded) as caught:
        await both.call("wait", job, timeout_s=60.0)
    assert (caught.value.stage, caught.value.status, caught.value.retryable) == ("executing", 504, False)


async def test_canceling_and_deleting(both: Both) -> None:
    job = await both.call("submit", "pause", pause(2000.0))
    for _ in range(2):
        assert (await both.call("cancel", job)).status == "canceled"
    with pytest.raises(RequestError) as caught:
        await both.call("wait", job, timeout_s=60.0)
    assert (caught.value.code, caught.value.status) == ("request_canceled", 409)
    assert await both.call("delete", job) is None
    for name in ("job", "wait", "ended", "cancel", "delete", "replay"):
        with pytest.raises(RequestError) as caught:
            await both.call(name, job.id)
        assert (caught.value.code, caught.value.status) == ("job_not_found", 404), name
    with pytest.raises(RequestError, match=job.id):
        await events_of(both, job)


async def test_a_refused_submission_is_one_clear_error(both: Both) -> None:
    with pytest.raises(RequestError) as caught:
        await both.call("submit", "nobody", pause(1.0))
    assert (caught.value.code, caught.value.status) == ("model_not_found", 404)
    with pytest.raises(RequestError, match="ttl_s must be a number of seconds above 0"):
        await both.call("submit", "pause", pause(1.0), ttl_s=-1.0)


async def test_all_pages_of_the_list_narrowed(both: Both) -> None:
    rows = [{"n": np.array([number % 2 + 1], "i8")} for number in range(450)]
    mine = [job.id for job in await both.call("submit_many", "count", rows)]
    listed = [job.id for job in await collected(both, both.client.jobs(model="count"))]
    assert listed[:450] == mine[::-1]
    assert len(set(listed)) == len(listed)
    failed = await both.call("submit", "faulty", pause(13.0))
    await both.call("ended", failed, timeout_s=60.0)
    dead = await collected(both, both.client.jobs(model="faulty", status="failed"))
    assert dead[0].id == failed.id
    assert {job.status for job in dead} == {"failed"}
    assert await collected(both, both.client.jobs(model="nobody")) == []
    with pytest.raises(RequestError, match="status must be one of"):
        await collected(both, both.client.jobs(status="wrong"))
    await both.call("ended", mine[-1], timeout_s=60.0)


async def test_a_failed_job_is_replayed_once(both: Both) -> None:
    old = await both.call("submit", "faulty", pause(13.0), metadata={"k": "v"})
    await both.call("ended", old, timeout_s=60.0)
    first, second = await both.call("replay", old), await both.call("replay", old)
    assert first.id == second.id != old.id
    assert (first.replay_of, first.metadata) == (old.id, {"k": "v"})
    assert (await both.call("ended", first, timeout_s=60.0)).status == "failed"
    done = await both.call("submit", "faulty", pause(1.0))
    await both.call("ended", done, timeout_s=60.0)
    with pytest.raises(RequestError, match="is succeeded; only a failed one") as caught:
        await both.call("replay", done)
    assert (caught.value.code, caught.value.status) == ("job_not_failed", 409)


async def test_keys_see_their_own_jobs(mlp: Path, tmp_path: Path, kind: str) -> None:
    secrets = [new_secret(), new_secret()]
    (tmp_path / "keys.txt").write_text("".join(key_line(f"k{n}", one) + "\n" for n, one in enumerate(secrets)))
    with serving(tmp_path, *quick(str(mlp)), "--api-keys", str(tmp_path / "keys.txt")) as served:
        url = f"http://127.0.0.1:{served.port}"
        async with Both(kind, url, api_key=secrets[0]) as mine, Both(kind, url, api_key=secrets[1]) as other:
            job = await mine.call("submit", "mlp", np.zeros((1, 16), "f4"))
            assert (await mine.call("wait", job, timeout_s=60.0))["y"].shape == (1, 3)
            with pytest.raises(RequestError) as caught:
                await other.call("wait", job)
            assert caught.value.code == "job_not_found"
            assert await collected(other, other.client.jobs()) == []
            assert [one.id for one in await collected(mine, mine.client.jobs())] == [job.id]
        async with Both(kind, url) as stranger:
            with pytest.raises(AdmissionError) as refused:
                await stranger.call("wait", job)
            assert refused.value.code == "unauthorized"


# -- streams ----------------------------------------------------------------------------------------------------------


async def collected(both: Both, found: Any) -> list[Any]:
    """All that an iterator of either kind gives."""
    if hasattr(found, "__aiter__"):
        return [one async for one in found]
    return await asyncio.to_thread(list, found)


async def events_of(both: Both, job: Any, **options: Any) -> list[JobEvent]:
    events: list[JobEvent] = await collected(both, both.client.stream(job, **options))
    return events


async def test_events_come_in_their_order_and_end_with_done(both: Both) -> None:
    job = await both.call("submit", "steps", {"x": np.array([[2.0]], "f4")}, binary=False)
    events = await events_of(both, job)
    assert [event.sequence for event in events] == sorted({event.sequence for event in events})
    assert (events[0].kind, events[0].status) == ("status", "queued")
    assert [event.status for event in events if event.kind == "status"] == ["queued", "running"]
    assert [event.progress for event in events if event.kind == "progress"] == pytest.approx([0.0, 1 / 3, 2 / 3])
    assert [event.output["score"] for event in events if event.kind == "output"] == [2.0, 4.0, 6.0]
    last = events[-1]
    assert (last.kind, last.status, last.attempt) == ("done", "succeeded", 1)
    assert last.job is not None
    assert last.job.output["outputs"][0]["data"] == [6.0]
    # Behind an event that is known there are only the later ones, and behind the last there is nothing.
    later = await events_of(both, job, after=events[2].sequence)
    assert [event.sequence for event in later] == [event.sequence for event in events[3:]]
    assert await events_of(both, job, after=last.sequence) == []


async def test_a_stream_of_a_job_that_fails_tells_why(both: Both) -> None:
    job = await both.call("submit", "faulty", pause(13.0))
    [*_, last] = await events_of(both, job)
    assert last.job is not None
    assert (last.kind, last.status) == ("done", "failed")
    assert isinstance(last.job.error, ExecutionError)


async def test_pieces_come_while_the_job_runs(served: Served, both: Both) -> None:
    job = await both.call("submit", "count", {"n": np.array([300], "i8")})
    stream = both.client.stream(job)
    piece = await first_piece(stream)
    assert piece.output["last"] == 1
    assert (await both.call("job", job)).status == "running"
    # Who has seen enough closes it; the client's connections are free again.
    await left(stream)
    assert (await both.call("cancel", job)).status == "canceled"


async def each(stream: Any) -> AsyncIterator[JobEvent]:
    """The events of a stream of either kind, as they come."""
    if hasattr(stream, "__aiter__"):
        async for event in stream:
            yield event
    else:
        while (event := await asyncio.to_thread(next, stream, None)) is not None:
            yield event


async def first_piece(stream: Any) -> JobEvent:
    return await anext(event async for event in each(stream) if event.kind == "output")


async def left(stream: Any) -> None:
    if hasattr(stream, "aclose"):
        await stream.aclose()
    else:
        await asyncio.to_thread(stream.close)


async def test_a_stream_that_is_left_gives_its_connection_back(served: Served, kind: str) -> None:
    async with Both(kind, f"http://127.0.0.1:{served.port}", max_connections=1) as both:
        job = await both.call("submit", "count", {"n": np.array([500], "i8")})
        for _ in range(3):
            stream = both.client.stream(job)
            await first_piece(stream)
            await left(stream)
        assert (await both.call("cancel", job)).status == "canceled"


async def test_a_job_that_is_deleted_ends_its_stream(served: Served, both: Both) -> None:
    job = await both.call("submit", "pause", pause(3000.0))
    following = asyncio.create_task(events_of(both, job))
    await asyncio.to_thread(eventually, lambda: "running" in served.http.get(job.urls["self"]).text, "it runs")
    await both.call("delete", job)
    with pytest.raises(RequestError) as caught:
        await following
    assert caught.value.code == "job_not_found"
