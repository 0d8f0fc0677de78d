"""The answers of one batch are taken into the cache together, and still each caller is told once, and its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.unit.engine.cached_rig import SIGNATURE, Rig, y

from forebay.batching.item import Batch, DispatchReason
from forebay.core.caching import CacheAsk
from forebay.core.errors import AdmissionError
from forebay.core.request import Outputs, Request, payload_array
from forebay.engine.answers import Answers
from forebay.engine.flight import nobody
from forebay.engine.record import Recorder
from forebay.telemetry.metrics import ModelMetrics


class BatchRig(Rig):
    """`run` answers all that the engine holds as one batch, as the engine does."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.on_told: Callable[[Request], None] = nobody
        self.inner.cancel = self._cancel  # type: ignore[method-assign]
        self.answers = Answers("m", Recorder(ModelMetrics("m", "1", dict)))

    def _cancel(self, request: Request) -> None:
        self.inner.canceled.append(request)
        if request.on_done is not nobody:
            request.on_done = nobody
            self.answers.canceled(request)

    def _end(self, request: Request) -> None:
        super()._end(request)
        self.on_told(request)

    def run(self, took_s: float = 0.0) -> None:
        self.now += took_s
        held, self.inner.held = self.inner.held or [], []
        rows = [payload_array(request.inputs[0], "FP32", (request.rows, 1)) for request in held]
        array = 2 * np.concatenate(rows)
        outputs = Outputs(["y"], ["FP32"], [array], len(array))
        self.answers.in_flight = sum(request.on_done is not nobody for request in held)
        self.answers.deliver(Batch(held, len(array), 0, None, DispatchReason.idle), outputs, self.now)
        assert self.answers.in_flight == 0


def test_each_gets_its_own_and_all_are_kept() -> None:
    rig = BatchRig()
    asked = [rig.ask(float(value)) for value in range(5)]
    rig.run()
    assert rig.ended == asked
    assert [y(request) for request in asked] == [0, 2, 4, 6, 8]
    assert {rig.told(request) for request in asked} == {"miss"}
    again = [rig.ask(float(value)) for value in (3, 0, 4, 2, 1)]
    assert [(y(request), rig.told(request)) for request in again] == [(2 * v, "exact") for v in (3, 0, 4, 2, 1)]
    assert (rig.runs, rig.engine.counts.misses, rig.engine.counts.hits) == (5, 5, 5)


async def test_those_who_wait_beside_one_of_them_are_told_too() -> None:
    rig = BatchRig()
    asked = [rig.ask(float(value)) for value in (0, 1, 2, 1, 1)]
    rig.run()
    assert len(rig.ended) == 5
    assert [y(request) for request in asked] == [0, 2, 4, 2, 2]
    assert [rig.told(request) for request in asked] == ["miss", "miss", "miss", "coalesced", "coalesced"]
    assert (rig.engine.counts.misses, rig.engine.counts.coalesced) == (3, 2)


def test_one_with_tags_among_them_keeps_its_tags() -> None:
    rig = BatchRig()
    tagged = CacheAsk(tags=("x",))
    for place in range(3):
        rig.ask(1.0)
        rig.ask(2.0, tagged)
        rig.ask(3.0)
        if place == 0:
            rig.run()
    assert (rig.runs, len(rig.cache.memory)) == (3, 3)
    assert rig.cache.memory.drop(lambda entry: "x" in entry.tags) == 1
    assert [rig.told(rig.ask(value)) for value in (1.0, 3.0)] == ["exact", "exact"]


def test_tags_count_with_all_that_they_take() -> None:
    rig = BatchRig()
    rig.ask(1.0, CacheAsk(tags=("x",)))
    rig.run()
    before = rig.cache.memory.nbytes
    tags = tuple(chr(0x1F600 + number) * 128 for number in range(16))
    rig.ask(2.0, CacheAsk(tags=tags))
    rig.run()
    assert rig.cache.memory.nbytes - before > 16 * 128 * 8  # beyond the BMP, and once more as UTF-8


@pytest.mark.parametrize("leaver", [0, 1, 2])
def test_whoever_has_left_is_not_told(leaver: int) -> None:
    rig = BatchRig()
    asked = [rig.ask(float(value)) for value in range(3)]
    rig.engine.cancel(asked[leaver])
    rig.run()
    assert rig.ended == [request for request in asked if request is not asked[leaver]]
    for value in range(3):
        assert y(rig_answer(rig, float(value))) == 2 * value


def rig_answer(rig: BatchRig, value: float) -> Request:
    asked = rig.ask(value)
    if rig.inner.held:
        rig.run()
    return asked


def test_one_who_leaves_while_the_batch_is_answered_is_not_told() -> None:
    rig = BatchRig()
    asked = [rig.ask(float(value)) for value in range(3)]
    rig.on_told = lambda request: rig.engine.cancel(asked[2]) if request is asked[0] else None
    rig.run()
    assert rig.ended == asked[:2]
    assert [y(request) for request in asked[:2]] == [0, 2]


def test_what_is_asked_while_the_batch_is_answered_is_not_computed_again() -> None:
    rig = BatchRig()
    asked = [rig.ask(float(value)) for value in range(3)]
    rig.on_told = lambda request: None if request is not asked[0] else asked.append(rig.ask(2.0))
    rig.run()
    assert [y(request) for request in asked] == [0, 2, 4, 4]
    assert (rig.runs, len(rig.ended)) == (3, 4)
    assert rig.told(asked[3]) == "exact"


def test_what_is_cleared_while_the_batch_is_answered_is_gone() -> None:
    rig = BatchRig()
    asked = [rig.ask(float(value)) for value in range(3)]

    def clear(request: Request) -> None:
        if request is asked[1]:
            rig.cache.memory.drop(lambda entry: True)

    rig.on_told = clear
    rig.run()
    assert len(rig.ended) == 3
    assert len(rig.cache.memory) == 0


def test_what_was_begun_before_a_clear_is_not_kept() -> None:
    rig = BatchRig()
    rig.ask(1.0)
    rig.cache.memory.drop(lambda entry: True)
    rig.ask(2.0)
    rig.run()
    assert len(rig.ended) == 2
    assert [rig.told(rig.ask(2.0)), rig.runs] == ["exact", 2]
    rig.ask(1.0)
    assert rig.runs == 3


def test_what_was_begun_with_other_files_is_not_kept() -> None:
    rig = BatchRig()
    rig.ask(1.0)
    rig.inner.digest = "other"
    rig.ask(2.0)
    rig.run()
    assert [y(request) for request in rig.ended] == [2, 4]
    assert [rig.told(rig.ask(2.0)), rig.runs] == ["exact", 2]
    rig.ask(1.0)
    assert rig.runs == 3


def test_what_ran_on_other_files_is_not_kept() -> None:
    rig = BatchRig()
    asked = [rig.ask(float(value)) for value in range(3)]
    for request in asked[:2]:
        request.ran_on = "other"
    rig.run()
    assert [y(request) for request in asked] == [0, 2, 4]
    assert [rig.told(rig.ask(2.0)), len(rig.cache.memory)] == ["exact", 1]


async def test_one_that_is_to_be_computed_anew_runs_beside_the_first() -> None:
    rig = BatchRig()
    asked = [rig.ask(1.0), rig.ask(1.0, CacheAsk(use="refresh")), rig.ask(1.0)]
    rig.run()
    assert (rig.runs, len(rig.ended)) == (2, 3)
    assert [y(request) for request in asked] == [2, 2, 2]
    assert len(rig.cache.memory) == 1
    assert rig.told(rig.ask(1.0)) == "exact"


def test_what_the_engine_does_not_take_is_refused_and_can_be_asked_again() -> None:
    rig = BatchRig()
    rig.inner.submit, submit = _full, rig.inner.submit  # type: ignore[method-assign]
    with pytest.raises(AdmissionError):
        rig.ask(1.0)
    rig.inner.submit = submit  # type: ignore[method-assign]
    asked = rig.ask(1.0)
    rig.run()
    assert (rig.ended, y(asked), rig.told(asked)) == ([asked], 2, "miss")


def _full(request: Request) -> None:
    raise AdmissionError("planted")


async def test_an_answer_that_cannot_be_kept_is_given(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = BatchRig()
    asked = [rig.ask(float(value)) for value in (1, 2, 1)]
    with monkeypatch.context() as patched:
        patched.setattr(rig.engine, "_arrived", _broken)
        rig.run()
    assert len(rig.ended) == 3
    assert [y(request) for request in asked] == [2, 4, 2]
    assert "could not be kept" in caplog.text
    assert len(rig.cache.memory) == 0


def _broken(*_: object) -> None:
    raise RuntimeError("planted")


def test_a_callback_that_raises_costs_no_other_its_answer(caplog: pytest.LogCaptureFixture) -> None:
    rig = BatchRig()
    asked = [rig.ask(float(value)) for value in range(3)]

    def raises(request: Request) -> None:
        if request is asked[0]:
            raise RuntimeError("planted")

    rig.on_told = raises
    rig.run()
    assert rig.ended == asked
    assert len(rig.cache.memory) == 3
    assert "could not be delivered" in caplog.text


def test_rows_of_several_are_kept_beside_single_ones() -> None:
    rig = BatchRig()
    wide = Request([[5.0, 6.0]], SIGNATURE_SHAPES, 2, nbytes=8, deadline=rig.now + 9, arrived=rig.now, on_done=nobody)
    wide.cache = CacheAsk()
    first = rig.ask(1.0)
    rig.engine.submit(wide)
    last = rig.ask(2.0)
    held = rig.inner.held
    assert held is not None
    rig.inner.held = []
    outputs = Outputs(["y"], ["FP32"], [np.array([[2], [10], [12], [4]], np.float32)], 4)
    rig.answers.in_flight = 3
    rig.answers.deliver(Batch(held, 4, 0, None, DispatchReason.idle), outputs, rig.now)
    assert [y(first), y(last)] == [2, 4]
    assert [y(rig.ask(1.0)), y(rig.ask(2.0))] == [2, 4]
    assert rig.runs == 3


SIGNATURE_SHAPES = tuple(spec.row_shape for spec in SIGNATURE.inputs)
