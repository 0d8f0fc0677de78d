"""A call from its first try to its answer or error, under a clock of its own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from tests.unit.client.world import METADATA, Event, World, answer, refusal, reply

from forebay.client.errors import InvalidAnswerError, UnreachableError
from forebay.client.steps import Failure, Reply
from forebay.core.errors import AdmissionError, DeadlineExceeded, ExecutionError, RequestError, SetupError

X = {"x": np.zeros((1, 2), "f4")}
FULL = refusal(503, "queue_full", retry_after="2")
REFUSED = Failure("connection refused")


def test_a_good_answer_is_one_request() -> None:
    world = World(Event(answer(3.0)))
    result = world.run(world.calls().infer("m", X, {}))
    assert (result["y"].tolist(), result.attempts) == ([3.0], 1)
    assert [(step.method, step.path) for step in world.sent] == [("POST", "/v2/models/m/infer")]
    assert world.slept == []


def test_names_and_versions_are_quoted_in_the_path() -> None:
    world = World(Event(answer()))
    world.run(world.calls().infer("a/b ?", X, {"version": "1/2"}))
    assert world.sent[0].path == "/v2/models/a%2Fb%20%3F/versions/1%2F2/infer"


def test_a_full_server_is_asked_again_when_it_said_so_with_the_time_that_is_left() -> None:
    world = World(Event(FULL, 0.5), Event(FULL, 0.5), Event(answer(), 0.5))
    assert world.run(world.calls(timeout_s=20.0).infer("m", X, {})).attempts == 3
    assert world.slept == [2.0, 2.0]
    assert [d["parameters"]["timeout"] for d in world.documents()] == [20_000_000, 17_500_000, 15_000_000]
    assert [step.deadline for step in world.sent] == [20.0] * 3


def test_retry_after_as_a_date_counts_from_the_time_of_day() -> None:
    busy = refusal(503, "draining", retry_after="Tue, 01 Jan 2030 00:00:09 GMT")
    world = World(Event(busy, 4.0), Event(answer()))
    world.run(world.calls().infer("m", X, {}))
    assert world.slept == [5.0]


def test_the_last_error_is_raised_where_no_time_is_left_for_what_the_server_asks() -> None:
    world = World(Event(FULL, 0.5), Event(FULL, 0.5))
    with pytest.raises(AdmissionError) as caught:
        world.run(world.calls(timeout_s=4.0).infer("m", X, {}))
    error = caught.value
    assert (error.code, error.status, error.retryable, error.retry_after_s) == ("queue_full", 503, True, 2.0)
    assert world.now < 4.0


def test_attempts_are_bounded() -> None:
    world = World(*[Event(FULL)] * 9)
    with pytest.raises(AdmissionError):
        world.run(world.calls(timeout_s=None).infer("m", X, {}))
    assert len(world.sent) == 3


def test_a_broken_connection_is_tried_again_and_then_told() -> None:
    world = World(Event(REFUSED), Event(Failure("reset")), Event(answer()), chance=0.5)
    assert world.run(world.calls().infer("m", X, {})).attempts == 3
    assert world.slept == [0.5, 1.0]
    world = World(*[Event(REFUSED)] * 3)
    with pytest.raises(UnreachableError, match="connection refused") as caught:
        world.run(world.calls().infer("m", X, {}))
    assert caught.value.status is None
    assert caught.value.retryable


def test_what_cannot_be_sent_is_not_tried_again() -> None:
    world = World(Event(Failure("bad header", final=True)))
    with pytest.raises(UnreachableError) as caught:
        world.run(world.calls().infer("m", X, {}))
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("refused", "kind"),
    [
        (refusal(400, "invalid_request"), RequestError),
        (refusal(401, "unauthorized"), AdmissionError),
        (refusal(500, "model_error"), ExecutionError),
        (refusal(500, "instance_crashed", retry_after="1"), ExecutionError),
        (refusal(413, None), RequestError),
    ],
)
def test_what_would_fail_again_is_told_at_once(refused: Reply, kind: type[Exception]) -> None:
    world = World(Event(refused))
    with pytest.raises(kind):
        world.run(world.calls().infer("m", X, {}))
    assert len(world.sent) == 1


def test_a_504_is_tried_again_only_while_time_is_left() -> None:
    late = refusal(504, "deadline_exceeded")
    world = World(Event(late, 5.0), Event(answer()))
    assert world.run(world.calls(timeout_s=9.0).infer("m", X, {})).attempts == 2
    world = World(Event(late, 9.0))
    with pytest.raises(DeadlineExceeded) as caught:
        world.run(world.calls(timeout_s=9.0).infer("m", X, {}))
    assert caught.value.status == 504
    assert len(world.sent) == 1


def test_a_call_that_is_late_says_so_itself() -> None:
    world = World(Event(Failure("the answer was not complete", late=True), 9.0))
    with pytest.raises(DeadlineExceeded, match="not complete") as caught:
        world.run(world.calls(timeout_s=9.0).infer("m", X, {}))
    assert caught.value.status is None


def test_a_timeout_of_the_call_goes_before_the_clients_and_none_is_none() -> None:
    world = World(*[Event(answer())] * 3)
    calls = world.calls(timeout_s=9.0)
    world.run(calls.infer("m", X, {}))
    world.run(calls.infer("m", X, {"timeout_s": 2.0}))
    world.run(calls.infer("m", X, {"timeout_s": None}))
    assert [step.deadline for step in world.sent] == [9.0, 2.0, math.inf]
    assert [d["parameters"].get("timeout") for d in world.documents()] == [9_000_000, 2_000_000, None]


@pytest.mark.parametrize("wrong", [0, -1.0, math.nan, math.inf])
def test_a_timeout_that_cannot_be_is_refused(wrong: float) -> None:
    world = World()
    with pytest.raises(SetupError, match="timeout_s"):
        world.calls(timeout_s=wrong)
    with pytest.raises(SetupError, match="timeout_s"):
        world.run(world.calls().infer("m", X, {"timeout_s": wrong}))


def test_an_unknown_option_is_refused_by_name() -> None:
    world = World()
    wrong: Any = {"timeout": 3}
    with pytest.raises(TypeError, match="infer has no option timeout"):
        world.run(world.calls().infer("m", X, wrong))


def test_metadata_is_asked_for_once_and_only_where_it_is_needed() -> None:
    world = World(Event(METADATA), Event(answer()), Event(answer()), Event(answer()))
    calls = world.calls()
    world.run(calls.infer("m", [[1, 2]], {}))
    world.run(calls.infer("m", {"x": np.zeros((1, 2))}, {"casting": "same_kind"}))
    world.run(calls.infer("m", {"x": np.zeros((1, 2))}, {}))
    assert [step.path for step in world.sent] == ["/v2/models/m", *["/v2/models/m/infer"] * 3]
    assert [d["inputs"][0]["datatype"] for d in world.documents()] == ["FP32", "FP32", "FP64"]


def test_a_refused_request_forgets_the_metadata_since_the_model_may_be_another() -> None:
    world = World(Event(METADATA), Event(refusal(400, "invalid_request")), Event(METADATA), Event(answer()))
    calls = world.calls()
    with pytest.raises(RequestError):
        world.run(calls.infer("m", [[1, 2]], {}))
    world.run(calls.infer("m", [[1, 2]], {}))
    assert [step.method for step in world.sent] == ["GET", "POST", "GET", "POST"]


def test_metadata_shares_the_calls_deadline_and_is_tried_again_too() -> None:
    world = World(Event(FULL, 1.0), Event(METADATA, 1.0), Event(answer()))
    world.run(world.calls(timeout_s=10.0).infer("m", [[1, 2]], {}))
    assert world.documents()[0]["parameters"]["timeout"] == 6_000_000
    world = World(Event(METADATA, 11.0))
    with pytest.raises(DeadlineExceeded, match="before anything was sent"):
        world.run(world.calls(timeout_s=10.0).infer("m", [[1, 2]], {}))


def test_a_200_that_is_no_answer_is_not_tried_again() -> None:
    world = World(Event(reply(200, {"hello": 1})))
    with pytest.raises(InvalidAnswerError):
        world.run(world.calls().infer("m", X, {}))


def test_health_is_one_look_and_no_answer_is_no() -> None:
    world = World(Event(reply(200, {})), Event(reply(503, {})), Event(REFUSED), Event(reply(404, {})))
    calls = world.calls()
    looks = [calls.healthy("live", None, None), calls.healthy("ready", None, None)]
    looks += [calls.healthy("ready", "m", None), calls.healthy("ready", "m", "2")]
    assert [world.run(look) for look in looks] == [True, False, False, False]
    paths = ["/v2/health/live", "/v2/health/ready", "/v2/models/m/ready", "/v2/models/m/versions/2/ready"]
    assert [step.path for step in world.sent] == paths


def test_waiting_ends_when_it_is_ready() -> None:
    world = World(Event(REFUSED), Event(reply(503, {})), Event(reply(200, {})))
    world.run(world.calls().wait_until_ready(None, None, 10.0))
    assert world.slept == [0.05, 0.1]


def test_waiting_ends_at_its_time_and_says_what_was_seen() -> None:
    world = World(*[Event(reply(503, {"reasons": ["loading"]}))] * 99)
    with pytest.raises(DeadlineExceeded, match=r"model 'm' was not ready within 3 s; last: status 503.*loading"):
        world.run(world.calls().wait_until_ready("m", None, 3.0))
    assert world.now == pytest.approx(3.0)


def test_documents_are_at_their_paths() -> None:
    world = World(*[Event(reply(200, {"name": "m"}))] * 3)
    calls = world.calls()
    for steps in (calls.document("/v2"), calls.model_document("m", None, ""), calls.model_document("m", "1", "/stats")):
        assert world.run(steps) == {"name": "m"}
    assert [step.path for step in world.sent] == ["/v2", "/v2/models/m", "/v2/models/m/versions/1/stats"]


def test_a_model_without_a_name_is_refused_here() -> None:
    world = World()
    with pytest.raises(RequestError, match="empty"):
        world.run(world.calls().infer("", X, {}))
