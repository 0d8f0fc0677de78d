"""Who is chosen: each with the same chance, by a count."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from tests.unit.request_log.rig import NUMBERS, TEXTS, answered

from forebay.core.request import Outputs, Request
from forebay.request_log import wire
from forebay.request_log.sampler import Sampler
from forebay.request_log.sampling import Skips
from forebay.request_log.wire import Run, Taken
from forebay.telemetry.request_log_metrics import RequestLogCounts


class Kept:
    """A target that keeps what it gets, as long as it has room."""

    def __init__(self) -> None:
        self.taken: list[Taken] = []
        self.runs = 0
        self.room = True
        self.asked_bytes: list[int] = []

    def has_room(self, nbytes: int) -> bool:
        self.asked_bytes.append(nbytes)
        return self.room

    def put(self, taken: Taken | Run) -> None:
        if isinstance(taken, Run):
            self.runs += 1
            self.taken.extend(wire.decode_run(wire.encode(taken)).one_by_one())
        else:
            self.taken.append(wire.decode_taken(wire.encode(taken)))


def sampler_of(share: float, target: Kept, counts: RequestLogCounts | None = None, **options: object) -> Sampler:
    return Sampler(NUMBERS, share, target, counts or RequestLogCounts(), seed=7, **options)  # type: ignore[arg-type]


def chosen_of(sampler: Sampler, requests: int, batch: int) -> list[int]:
    """Who is chosen where so many are answered together, again and again; the last batch may be smaller."""
    return [
        first + place
        for first in range(0, requests, batch)
        for start, stop in sampler.due(min(batch, requests - first))
        for place in range(start, stop)
    ]


def test_all_are_chosen_at_one() -> None:
    skips = Skips(1.0)
    assert [skips.next() for _ in range(100)] == [0] * 100
    for batch in (1, 3, 8, 50, 64):
        assert chosen_of(sampler_of(1.0, Kept()), 100, batch) == list(range(100))


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01])
@pytest.mark.parametrize("batch", [1, 7, 8, 37, 64])
def test_the_share_is_kept_however_requests_come_together(share: float, batch: int) -> None:
    chosen = chosen_of(sampler_of(share, Kept()), 400_000, batch)
    assert chosen == sorted(set(chosen))
    assert len(chosen) / 400_000 == pytest.approx(share, rel=0.1)


def test_of_a_few_that_are_answered_together_each_is_chosen_by_itself() -> None:
    alone = chosen_of(sampler_of(0.1, Kept()), 1000, 1)
    assert alone == chosen_of(sampler_of(0.1, Kept()), 1000, 7)


@pytest.mark.parametrize(("batch", "run"), [(8, 2), (32, 8), (256, 8)])
def test_of_many_that_are_answered_together_neighbours_are_written_together(batch: int, run: int) -> None:
    sampler = sampler_of(0.05, Kept())
    runs = [one for _ in range(5000) for one in sampler.due(batch)]
    assert {stop - start for start, stop in runs} == {run}
    assert {start % run for start, _ in runs} == {0}
    assert len({start for start, _ in runs}) == batch // run


@pytest.mark.parametrize("batch", [1, 10, 30])
def test_a_period_in_the_traffic_is_none_in_the_log(batch: int) -> None:
    chosen = chosen_of(sampler_of(0.1, Kept()), 150_000, batch)
    assert all(sum(place % 10 == digit for place in chosen) > 1200 for digit in range(10))


def test_the_smallest_share_does_not_overflow() -> None:
    skips = Skips(5e-324, seed=1)
    assert skips.next() > 1 << 60


def test_what_is_taken_belongs_to_nobody_else() -> None:
    target = Kept()
    request, outputs = answered(NUMBERS, [1, 2], [3, 4], tenant="acme", temperature=0.5)
    body = bytearray(b"\0" * 16)
    request.inputs[0] = memoryview(body)
    sampler_of(1.0, target, clock=lambda: 42.0).take(request, outputs, 0)
    body[:] = b"\1" * 16
    outputs.arrays[0][:] = 9.0
    (taken,) = target.taken
    assert (taken.tenant, taken.at, taken.rows) == ("acme", 42.0, 2)
    assert taken.inputs == [b"\0" * 16]
    assert taken.outputs == [((2, 1), np.array([1, 3], np.float32).tobytes())]
    assert taken.parameters == {"temperature": 0.5}


def test_rows_of_the_batch_that_are_anothers_are_not_taken() -> None:
    target = Kept()
    _, outputs = answered(NUMBERS, [1, 0], [2, 0], [3, 0])
    mine, _ = answered(NUMBERS, [2, 0])
    sampler_of(1.0, target).take(mine, outputs, 1)
    assert target.taken[0].outputs == [((1, 1), np.float32(2).tobytes())]


@pytest.mark.parametrize(
    ("reason", "tenant", "most_bytes", "room"),
    [("excluded", "secret", 1000, True), ("too_large", "", 5, True), ("queue_full", "", 1000, False)],
)
def test_what_is_not_taken_is_counted(reason: str, tenant: str, most_bytes: int, room: bool) -> None:
    target, counts = Kept(), RequestLogCounts()
    target.room = room
    sampler = sampler_of(1.0, target, counts, left_out=("secret",), most_bytes=most_bytes)
    request, outputs = answered(NUMBERS, [1, 2], [3, 4], tenant=tenant)
    sampler.take(request, outputs, 0)
    assert not target.taken
    assert (counts.sampled, counts.dropped) == (2, {reason: 2})


def test_what_counts_is_the_memory_that_parameters_and_numbers_take() -> None:
    target, counts = Kept(), RequestLogCounts()
    sampler = sampler_of(1.0, target, counts, most_bytes=10_000)
    sampler.take(*answered(NUMBERS, [1, 2], note="x" * 10_000), 0)
    many: dict[str, Any] = {f"note{number}": number for number in range(1000)}
    sampler.take(*answered(NUMBERS, [1, 2], **many), 0)
    assert counts.dropped == {"too_large": 2}
    sampler.take(*answered(NUMBERS, [1, 2], note="x" * 5000), 0)
    rows = [[number, 0] for number in range(500)]  # 6 kB on disk
    sampler.take(*answered(NUMBERS, *rows), 0)
    assert target.asked_bytes[0] > 5000
    assert target.asked_bytes[1] > 9 * 2 * len(rows)
    assert counts.dropped == {"too_large": 2}


def test_without_a_key_a_caller_can_be_left_out_too() -> None:
    target = Kept()
    sampler = sampler_of(1.0, target, left_out=("anonymous",))
    for tenant in ("", "anonymous", "acme"):
        sampler.take(*answered(NUMBERS, [1, 2], tenant=tenant), 0)
    assert [taken.tenant for taken in target.taken] == ["acme"]


def test_a_fault_of_ours_costs_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    counts = RequestLogCounts()
    request, outputs = answered(NUMBERS, [1, 2])
    request.inputs = [object()]  # type: ignore[list-item]
    sampler_of(1.0, Kept(), counts).take(request, outputs, 0)
    assert counts.dropped == {"stopped": 1}
    assert "a request could not be logged: TypeError" in caplog.text


def batch_of(*rows: list[float], **given: Any) -> tuple[list[Request], Outputs]:
    """Requests of a row each, and what they were answered together."""
    requests = [answered(NUMBERS, row, **given)[0] for row in rows]
    return requests, answered(NUMBERS, *rows)[1]


def taken_of(requests: list[Request], outputs: Outputs, row_start: int = 0, **options: Any) -> tuple[Kept, list[Taken]]:
    """What of them is written, together, and each by itself; what is counted is checked to be the same."""
    together, alone = Kept(), Kept()
    counts, counts_alone = RequestLogCounts(), RequestLogCounts()
    options = {"clock": lambda: 42.0, **options}
    sampler_of(1.0, together, counts, **options).take_run(requests, outputs, row_start)
    one_by_one = sampler_of(1.0, alone, counts_alone, **options)
    for place, request in enumerate(requests):
        one_by_one.take(request, outputs, row_start + place)
    assert (counts.sampled, counts.dropped) == (counts_alone.sampled, counts_alone.dropped)
    return together, alone.taken


def plain(taken: list[Taken]) -> list[Any]:
    return [msgspec.to_builtins(one) for one in taken]


def test_neighbours_are_taken_in_one_step_and_are_what_they_are_one_by_one() -> None:
    requests, outputs = batch_of([1, 2], [3, 4], [5, 6], tenant="acme")
    together, alone = taken_of(requests[1:], outputs, 1)
    assert (together.runs, len(alone)) == (1, 2)
    assert plain(together.taken) == plain(alone)
    assert together.taken[0].outputs == [((1, 1), np.float32(3).tobytes())]


@pytest.mark.parametrize("what", ["tenant", "shape", "rows", "parameters", "excluded", "too large", "texts"])
def test_what_has_not_enough_in_common_is_taken_one_by_one(what: str) -> None:
    requests, outputs = batch_of([1, 2], [3, 4])
    options: dict[str, Any] = {}
    if what == "tenant":
        requests[1].tenant = "acme"
    elif what == "shape":
        requests[1] = answered(NUMBERS, [3, 4, 5])[0]
    elif what == "rows":
        requests[0] = answered(NUMBERS, [1, 2], [1, 2])[0]
        outputs = answered(NUMBERS, [1, 2], [1, 2], [3, 4])[1]
    elif what == "parameters":
        requests[1].parameters = {"temperature": 0.5}
    elif what == "excluded":
        options["left_out"] = ("anonymous",)
    elif what == "too large":
        options["most_bytes"] = 20
    target, counts = Kept(), RequestLogCounts()
    sampler = sampler_of(1.0, target, counts, **options)
    if what == "texts":
        sampler = Sampler(TEXTS, 1.0, target, counts)
        requests, outputs = [answered(TEXTS, word)[0] for word in ("a", "b")], answered(TEXTS, "a", "b")[1]
    sampler.take_run(requests, outputs, 0)
    assert target.runs == 0
    rows = 3 if what == "rows" else 2
    assert counts.sampled == rows
    assert sum(one.rows for one in target.taken) == (0 if what == "excluded" else rows)


def test_one_that_cannot_be_written_costs_its_neighbours_nothing(caplog: pytest.LogCaptureFixture) -> None:
    requests, outputs = batch_of([1, 2], [3, 4], [5, 6])
    requests[1].inputs = [object()]  # type: ignore[list-item]
    target, counts = Kept(), RequestLogCounts()
    sampler_of(1.0, target, counts).take_run(requests, outputs, 0)
    assert [one.inputs for one in target.taken] == [[[1.0, 2.0]], [[5.0, 6.0]]]
    assert (counts.sampled, counts.dropped) == (3, {"stopped": 1})


def test_where_there_is_no_room_for_all_there_may_be_for_some() -> None:
    requests, outputs = batch_of([1, 2], [3, 4], [5, 6])
    target, counts = Kept(), RequestLogCounts()
    target.room = False
    sampler_of(1.0, target, counts).take_run(requests, outputs, 0)
    assert len(target.asked_bytes) == 4
    assert (counts.sampled, counts.dropped) == (3, {"queue_full": 3})
