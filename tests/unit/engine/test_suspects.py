"""The requests of failed batches, run again until the guilty stand alone: with a batcher, without processes."""

from __future__ import annotations

import pytest
from tests.unit.engine.requests import request

from forebay.batching import Batch, Batcher, DispatchReason, LatencyModel, Policy
from forebay.core.errors import DeadlineExceeded, ExecutionError, ForebayError
from forebay.core.request import Request
from forebay.engine.flight import Flight, nobody
from forebay.engine.isolate import Group
from forebay.engine.suspects import LONE_KILLS, Suspects
from forebay.models.signature import Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "FP32", (1,)),), (TensorSpec("y", "FP32", (1,)),))


class Bench:
    """Stands in for an engine with one instance: what is sent is ended by the test."""

    def __init__(self) -> None:
        self.sent: list[Flight] = []
        self.failed: list[tuple[Request, ForebayError]] = []
        self.forgiven = 0
        self.batcher: Batcher[Request] = Batcher(Policy(), LatencyModel())
        self.batcher.add_instance(0, 0.0)
        self.suspects = Suspects(self._send, self._fail, self._piece_done, self._forgive)
        self.suspects.learn(SIGNATURE, True)

    def _send(self, batch: Batch[Request], group: Group[Request]) -> None:
        self.sent.append(Flight(batch, group))

    def _fail(self, item: Request, error: ForebayError) -> None:
        if item.on_done is not nobody:
            item.on_done = nobody
            self.failed.append((item, error))

    def _piece_done(self, piece: Request) -> None:
        raise AssertionError("nobody ends pieces here")

    def _forgive(self, deaths: int) -> None:
        self.forgiven += deaths

    def accuse(self, items: list[Request], code: str, *, killed: bool = False) -> None:
        """A batch of these fails."""
        rows = sum(item.rows for item in items)
        batch = Batch(items, rows, 0, None, DispatchReason.idle)
        self.suspects.accuse(Flight(batch, None), ExecutionError("the first failure", code=code), killed=killed)

    def run(self, code: str | None, *, killed: bool = False) -> list[Request]:
        """The next group runs and fails with this code, or passes."""
        self.suspects.send(self.batcher, 1.0)
        flight = self.sent.pop()
        group = flight.group
        assert group is not None
        self.batcher.aborted(flight.batch, 1.0)
        if code is None:
            for item in group.items:
                item.on_done = nobody
            self.suspects.passed(group)
        else:
            self.suspects.accuse(flight, ExecutionError("again", code=code), killed=killed)
        return flight.batch.items

    @property
    def idle(self) -> bool:
        return not self.suspects.groups and not self.sent


@pytest.fixture
def bench() -> Bench:
    return Bench()


def items(count: int) -> list[Request]:
    return [request([[float(n)]], [(1,)]) for n in range(count)]


def test_a_lone_request_that_raises_is_blamed_at_once(bench: Bench) -> None:
    (item,) = items(1)
    bench.accuse([item], "model_error")
    assert [(failed, error.code) for failed, error in bench.failed] == [(item, "model_error")]
    assert (bench.idle, bench.forgiven) == (True, 0)


def test_a_lone_request_whose_process_died_is_run_once_more(bench: Bench) -> None:
    (item,) = items(1)
    bench.accuse([item], "instance_crashed")
    assert bench.run(None) == [item]
    assert (bench.failed, bench.idle) == ([], True)


def test_one_that_dies_alone_a_second_time_is_blamed_and_the_model_forgiven(bench: Bench) -> None:
    (item,) = items(1)
    bench.accuse([item], "instance_crashed")
    bench.run("instance_crashed")
    assert [(failed, error.code) for failed, error in bench.failed] == [(item, "instance_crashed")]
    assert (bench.idle, bench.forgiven) == (True, 1)


def test_one_who_kills_every_replacement_at_once_harms_no_request(bench: Bench) -> None:
    (item,) = items(1)
    bench.accuse([item], "instance_crashed", killed=True)
    for _ in range(LONE_KILLS - 2):
        assert bench.run("instance_crashed", killed=True) == [item]
    assert bench.run(None) == [item]
    assert (bench.failed, bench.idle) == ([], True)


def test_a_request_that_gets_its_process_killed_each_time_is_blamed_in_the_end(bench: Bench) -> None:
    (item,) = items(1)
    bench.accuse([item], "instance_crashed", killed=True)
    for _ in range(LONE_KILLS - 1):
        assert bench.failed == []
        bench.run("instance_crashed", killed=True)
    assert [failed for failed, _ in bench.failed] == [item]
    assert (bench.idle, bench.forgiven) == (True, 1)


@pytest.mark.parametrize("place", range(4))
def test_a_kill_from_outside_in_the_middle_of_the_search_blames_nobody(bench: Bench, place: int) -> None:
    bench.accuse(items(4), "instance_crashed")
    bench.run("instance_crashed")  # one half
    bench.run(None)  # the other half
    singles = 0
    while not bench.idle:
        bench.run("instance_crashed" if singles == place else None)
        singles += 1
    assert bench.failed == []


def test_one_that_really_kills_is_found_among_its_mates(bench: Bench) -> None:
    mates = items(8)
    bench.accuse(mates, "instance_crashed")
    while not bench.idle:
        bench.run("instance_crashed" if mates[5] in bench.suspects.groups[0].items else None)
    assert [failed for failed, _ in bench.failed] == [mates[5]]
    assert bench.forgiven == 1


def test_each_guilty_one_is_told_its_own_error(bench: Bench) -> None:
    first, second = items(2)
    bench.accuse([first, second], "model_error")
    bench.run("output_mismatch")
    bench.run("model_error")
    assert {id(item): error.code for item, error in bench.failed} == {
        id(first): "output_mismatch",
        id(second): "model_error",
    }


def test_those_who_have_left_are_not_run_again(bench: Bench) -> None:
    mates = items(4)
    bench.accuse(mates, "model_error")
    for item in mates:
        item.on_done = nobody
    bench.suspects.send(bench.batcher, 1.0)
    assert bench.idle
    assert bench.failed == []


def test_a_request_of_many_rows_that_does_not_fit_into_memory_is_halved(bench: Bench) -> None:
    large = request([[1.0, 2.0, 3.0]], [(1,)], 3)
    bench.accuse([large], "out_of_memory")
    assert [[piece.rows for piece in group.items] for group in bench.suspects.groups] == [[2], [1]]
    assert bench.failed == []


def test_a_retry_that_comes_too_late(bench: Bench) -> None:
    late, patient = items(2)
    late.deadline, patient.deadline = 5.0, 9.0
    bench.accuse([late, patient], "model_error")
    assert bench.suspects.sweep(4.0) == 5.0
    assert bench.suspects.sweep(5.0) == 9.0
    ((failed, error),) = bench.failed
    assert failed is late
    assert isinstance(error, DeadlineExceeded)
    assert error.stage == "executing"


def test_all_can_be_taken_back(bench: Bench) -> None:
    mates = items(3)
    bench.accuse(mates, "model_error")
    assert sorted(map(id, bench.suspects.take_all())) == sorted(map(id, mates))
    assert bench.idle
    assert bench.suspects.sweep(1e9) == float("inf")
