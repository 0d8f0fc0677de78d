"""Streams of events from their opening to their end, under a clock of their own."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from tests.unit.client.test_job_calls import REFUSED, document, met, problem
from tests.unit.client.world import Event, World

from forebay.client.errors import InvalidAnswerError, UnreachableError
from forebay.client.job_calls import IDLE_S
from forebay.client.retries import Retries
from forebay.client.steps import Failure, Open, Opened, Reply
from forebay.core.errors import DeadlineExceeded, RequestError


def event(kind: str, sequence: int, **members: Any) -> bytes:
    told = {"type": kind, "id": "j", "sequence": sequence, "attempt": 1, **members}
    return f"id: {sequence}\nevent: {kind}\ndata: {json.dumps(told)}\n\n".encode()


def done(sequence: int, status: str = "succeeded") -> bytes:
    return f"id: {sequence}\nevent: done\ndata: {json.dumps(document(status=status, attempt=1))}\n\n".encode()


def test_events_are_told_as_they_come() -> None:
    first = b"retry: 3000\n\n" + event("status", 1, status="running")
    pieces = [first[:40], first[40:] + event("progress", 2, progress=0.5), b": keep-alive\n\n"]
    more = [event("output", 3, output={"row": 0}) + event("later", 4, x=1) + done(5)]
    world = World(Event(Opened()), *met([*pieces, *more]))
    found = world.follow(world.calls().stream("j", 0, None))
    assert [(one.kind, one.sequence) for one in found] == [("status", 1), ("progress", 2), ("output", 3), ("done", 5)]
    assert (found[0].status, found[1].progress, found[2].output) == ("running", 0.5, {"row": 0})
    assert found[3].job is not None
    assert (found[3].job.id, found[3].status) == ("j", "succeeded")
    [opening] = world.sent
    assert isinstance(opening, Open)
    assert (opening.path, opening.idle_s, opening.deadline) == ("/v1/jobs/j/events", IDLE_S, math.inf)
    assert opening.headers == {"accept": "text/event-stream"}


def test_a_broken_stream_goes_on_behind_the_last_whole_event() -> None:
    cut = event("status", 2, status="running") + event("progress", 3, progress=0.5)
    world = World(
        *met([Opened(), b"retry: 3000\n\n" + event("status", 1, status="queued") + cut[:-9], Failure("reset")]),
        Event(REFUSED),
        Event(problem(503, "draining", retry_after="7")),
        *met([Opened(), b"retry: 500\n\n", b""]),
        *met([Opened(), event("progress", 3, progress=0.5) + done(4)]),
    )
    found = world.follow(world.calls().stream("j", 0, None))
    assert [one.sequence for one in found] == [1, 2, 3, 4]
    assert [step.headers.get("last-event-id") for step in world.sent] == [None, "2", "2", "2", "2"]
    # What the server said last, on the connection that broke; where there was none, only the pause.
    assert world.slept == [3.0, 0.0, 7.0, 0.5]


def test_who_has_had_every_event_is_told_none() -> None:
    world = World(Event(Reply(204, {}, b"")))
    assert world.follow(world.calls().stream("j", 9, None)) == []
    assert world.sent[0].headers["last-event-id"] == "9"


def test_a_stream_ends_at_its_deadline() -> None:
    for last in (Failure("late", late=True), b": keep-alive\n\n", Failure("reset")):
        world = World(Event(Opened()), Event(event("status", 1, status="queued"), 4.0), Event(last, 6.0))
        world.events += [Event(Failure("late", late=True))] * 3
        with pytest.raises(DeadlineExceeded, match="had not ended within 10 s"):
            world.follow(world.calls().stream("j", 0, 10.0))
        assert world.sent[0].deadline == 10.0


def test_a_stream_outlasts_an_outage_but_not_for_ever() -> None:
    talks = [Event(Opened()), Event(b": keep-alive\n\n"), Event(Failure("reset"))]
    world = World(*(talks * 60), Event(Opened()), Event(done(1)), chance=1.0)
    calls = world.calls(retries=Retries(longest_outage_s=5.0))
    assert len(world.follow(calls.stream("j", 0, None))) == 1
    world = World(*talks, *[Event(REFUSED, 1.0)] * 100)
    with pytest.raises(UnreachableError, match="refused"):
        world.follow(world.calls(retries=Retries(longest_outage_s=5.0)).stream("j", 0, None))
    world = World(*talks)
    with pytest.raises(UnreachableError, match="reset"):
        world.follow(world.calls(retries=Retries(attempts=1)).stream("j", 0, None))


def test_a_stream_is_refused_or_ended_by_a_problem() -> None:
    world = World(Event(problem(404, "job_not_found")))
    with pytest.raises(RequestError) as caught:
        world.follow(world.calls().stream("j", 0, None))
    assert (caught.value.code, caught.value.status) == ("job_not_found", 404)
    told = json.dumps({"status": 410, "detail": "why", "code": "job_gone"})
    world = World(Event(Opened()), Event(f"event: problem\ndata: {told}\n\n".encode()))
    with pytest.raises(RequestError, match="why") as caught:
        world.follow(world.calls().stream("j", 0, None))
    assert (caught.value.code, caught.value.status) == ("job_gone", 410)


@pytest.mark.parametrize("data", ["[]", "{}", '{"sequence": "x"}', "<"])
def test_an_event_that_tells_nothing_is_an_invalid_answer(data: str) -> None:
    for kind in ("status", "done"):
        world = World(Event(Opened()), Event(f"event: {kind}\ndata: {data}\n\n".encode()))
        with pytest.raises(InvalidAnswerError):
            world.follow(world.calls().stream("j", 0, None))
