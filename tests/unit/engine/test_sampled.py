"""Which answered requests the engine hands to a request log: each once, whole, with its own rows, and no other."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from tests.unit.engine.requests import request

from forebay.batching import Batch
from forebay.core.errors import ExecutionError
from forebay.core.request import Background, Outputs, Request
from forebay.engine.answers import Answers
from forebay.engine.flight import nobody
from forebay.engine.record import Recorder
from forebay.engine.split import Pieces
from forebay.models.signature import Signature, TensorSpec
from forebay.request_log.sampler import Sampler
from forebay.request_log.wire import Run, Taken
from forebay.telemetry.metrics import ModelMetrics
from forebay.telemetry.request_log_metrics import RequestLogCounts

SIGNATURE = Signature((TensorSpec("x", "FP32", (1,)),), (TensorSpec("y", "FP32", (1,)),))


class Target:
    def __init__(self) -> None:
        self.taken: list[Taken] = []

    def has_room(self, nbytes: int) -> bool:
        return True

    def put(self, taken: Taken | Run) -> None:
        self.taken.extend(taken.one_by_one() if isinstance(taken, Run) else [taken])

    @property
    def pairs(self) -> list[tuple[Any, Any]]:
        """Inputs and outputs of each."""
        return [(one.inputs[0], np.frombuffer(one.outputs[0][1], np.float32).tolist()) for one in self.taken]


@pytest.fixture
def target() -> Target:
    return Target()


@pytest.fixture
async def answers(target: Target) -> Answers:
    made = Answers("m", Recorder(ModelMetrics("m", "1", dict)))
    made.in_flight = 1000
    made.sampler = Sampler(SIGNATURE, 1.0, target, RequestLogCounts())
    return made


def row(*values: float, background: bool = False) -> Request:
    made = request([list(values)], [(1,)], len(values))
    made.background = Background() if background else None
    return made


def batch(*items: Request) -> tuple[Batch[Request], Outputs]:
    """A batch that has doubled its rows."""
    values = [value for item in items for value in item.inputs[0]]
    made: Any = type("B", (), {})()
    made.items, made.rows, made.sent_at, made.padding_waste = list(items), len(values), time.monotonic(), 0.0
    made.reason = type("R", (), {"value": "idle"})()
    outputs = Outputs(["y"], ["FP32"], [np.array([[2 * value] for value in values], np.float32)], len(values))
    return made, outputs


async def test_each_with_its_own_rows(answers: Answers, target: Target) -> None:
    made, outputs = batch(row(1), row(2, 3), row(4))
    answers.deliver(made, outputs, time.monotonic())
    assert target.pairs == [([1], [2]), ([2, 3], [4, 6]), ([4], [8])]


async def test_jobs_too(answers: Answers, target: Target) -> None:
    made, outputs = batch(row(1, background=True), row(2, background=True))
    answers.deliver_behind(made, outputs, time.monotonic(), 0.1)
    assert target.pairs == [([1], [2]), ([2], [4])]


async def test_not_those_whose_caller_has_left(answers: Answers, target: Target) -> None:
    gone = row(2, 3)
    gone.on_done = nobody
    made, outputs = batch(row(1), gone, row(4))
    answers.deliver(made, outputs, time.monotonic())
    assert target.pairs == [([1], [2]), ([4], [8])]


async def test_each_with_its_own_rows_where_neighbours_are_chosen_together(answers: Answers, target: Target) -> None:
    assert answers.sampler is not None
    items = [row(*range(number * 10, number * 10 + 1 + number % 3)) for number in range(40)]
    items[5].on_done = items[20].on_done = nobody
    wanted = [(item.inputs[0], [2 * value for value in item.inputs[0]]) for item in items if item.on_done is not nobody]
    made, outputs = batch(*items)
    answers.deliver(made, outputs, time.monotonic())
    assert target.pairs == wanted


async def test_the_share_is_kept_where_rows_are_counted(target: Target) -> None:
    answers = Answers("m", Recorder(ModelMetrics("m", "1", dict)))
    answers.in_flight = 100_000
    answers.sampler = Sampler(SIGNATURE, 0.1, target, RequestLogCounts(), seed=3)
    for _ in range(500):
        made, outputs = batch(*(row(number, -number) for number in range(40)))
        answers.deliver(made, outputs, time.monotonic())
    assert len(target.taken) == pytest.approx(2000, rel=0.1)
    assert all(outputs == [2 * value for value in inputs] for inputs, outputs in target.pairs)
    assert {int(inputs[0]) for inputs, _ in target.pairs} == set(range(40))


async def test_a_split_request_once_and_whole(answers: Answers, target: Target) -> None:
    whole = row(1, 2)
    pieces = [row(1), row(2)]
    whole.pieces = Pieces(pieces)
    for piece in pieces:
        piece.pieces = whole
    made, outputs = batch(*pieces, row(5))
    answers.deliver(made, outputs, time.monotonic())
    assert target.pairs == [([5], [10])]
    whole.outputs = Outputs(["y"], ["FP32"], [np.array([[2], [4]], np.float32)], 2)
    answers.whole(whole, time.monotonic(), time.monotonic())
    assert target.pairs[1:] == [([1, 2], [2, 4])]


async def test_one_that_ends_before_its_batch(answers: Answers, target: Target) -> None:
    item = row(3)
    made, outputs = batch(item)
    answers.early(made, item, outputs, time.monotonic())
    answers.early(made, item, outputs, time.monotonic())
    assert target.pairs == [([3], [6])]


async def test_no_failures_and_nothing_without_rows(answers: Answers, target: Target) -> None:
    answers.fail(row(1), ExecutionError("no"))
    empty = row()
    empty.outputs = Outputs(["y"], ["FP32"], [np.empty((0, 1), np.float32)], 0)
    answers.whole(empty, time.monotonic(), time.monotonic())
    assert target.pairs == []


async def test_where_nothing_is_logged_nothing_is_asked(answers: Answers, target: Target) -> None:
    answers.sampler = None
    made, outputs = batch(row(1))
    answers.deliver(made, outputs, time.monotonic())
    assert target.pairs == []
