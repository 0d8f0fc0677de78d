"""The answers of one batch: each is given once, and those of a long one leave room for what else the loop has to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np

from forebay.batching.item import Batch, DispatchReason
from forebay.core.request import Outputs, Request, output_array
from forebay.engine.answers import TURN_S, Answers
from forebay.engine.flight import nobody
from forebay.engine.record import Recorder
from forebay.telemetry.metrics import ModelMetrics


class Rig:
    """A batch of so many requests under a clock that each answer moves on by `cost_s`."""

    def __init__(self, count: int, cost_s: float) -> None:
        self.now = 0.0
        self.cost_s = cost_s
        self.answers = Answers("m", Recorder(ModelMetrics("m", "1", dict)), lambda: self.now)
        self.answers.in_flight = count
        self.told: list[Request] = []
        self.on_told: Callable[[Request], None] = nobody
        self.requests = [Request([b""], ((1,),), 1 + place % 2, 4, 1.0, 0.0, self._done) for place in range(count)]
        rows = sum(request.rows for request in self.requests)
        self.batch = Batch(list(self.requests), rows, 0, None, DispatchReason.idle)
        self.outputs = Outputs(["y"], ["FP32"], [np.arange(rows, dtype=np.float32)[:, None]], rows)

    def _done(self, request: Request) -> None:
        self.now += self.cost_s
        self.told.append(request)
        self.on_told(request)

    def deliver(self) -> None:
        self.answers.deliver(self.batch, self.outputs, 0.5)


def test_cheap_answers_are_given_in_one_go() -> None:
    rig = Rig(100, TURN_S / 200)
    rig.deliver()
    assert rig.told == rig.requests
    assert rig.answers.in_flight == 0


async def test_others_have_their_turn_between_dear_answers() -> None:
    rig = Rig(30, TURN_S)
    rig.deliver()
    turns = [len(rig.told)]
    while len(rig.told) < 30:
        await asyncio.sleep(0)
        turns.append(len(rig.told))
    assert turns == [4, 8, 12, 16, 20, 24, 28, 30]
    assert rig.told == rig.requests
    first = 0
    for request in rig.requests:
        assert output_array(request, 0, True)[:, 0].tolist() == list(range(first, first + request.rows))
        first += request.rows
    assert rig.answers.in_flight == 0


async def test_who_leaves_between_two_turns_is_not_told_and_counted_once() -> None:
    rig = Rig(12, TURN_S)
    rig.deliver()
    leaver = rig.requests[7]
    leaver.on_done = nobody
    rig.answers.canceled(leaver)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert rig.told == [request for request in rig.requests if request is not leaver]
    assert rig.answers.in_flight == 0


async def test_a_stop_waits_for_the_answers_that_are_left() -> None:
    rig = Rig(12, TURN_S)
    rig.deliver()
    assert rig.answers.in_flight == 8
    await rig.answers.all_given(1.0)
    assert rig.told == rig.requests


async def test_a_callback_that_raises_costs_no_other_its_answer() -> None:
    rig = Rig(10, TURN_S)

    def raises(request: Request) -> None:
        if request in (rig.requests[0], rig.requests[3]):
            raise RuntimeError("planted")

    rig.on_told = raises
    rig.deliver()
    await rig.answers.all_given(1.0)
    assert (rig.told, rig.answers.in_flight) == (rig.requests, 0)
