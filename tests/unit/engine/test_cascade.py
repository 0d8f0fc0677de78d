"""A student answers the rows that it is sure of, the teacher the others, and everybody is answered once."""

from __future__ import annotations

import math
import random
import time

import pytest
from tests.unit.engine.cascade_rig import REFUSING, STUDENT, TEACHER, Rig, request_of, said
from tests.unit.engine.semantic_rig import soon

from forebay.core.errors import AdmissionError, DeadlineExceeded, ExecutionError, RequestError
from forebay.core.request import Background, Listener, Request
from forebay.engine.flight import nobody

SURE, UNSURE = 7.9, 7.6


async def answered(request: Request) -> Request:
    await soon(lambda: request.wire)
    return request


async def test_what_the_student_is_sure_of_the_teacher_never_sees() -> None:
    rig = Rig()
    request = await answered(rig.submit(SURE))
    assert (said(request), request.answered_by, rig.teacher.seen) == ([STUDENT], "student", [])
    assert (request.batch_rows, request.dispatch_reason, request.queue_s) == (1, "idle", 0.0015)


async def test_what_it_is_not_sure_of_the_teacher_answers() -> None:
    rig = Rig()
    request = await answered(rig.submit(UNSURE, UNSURE + 1))
    assert (said(request), request.answered_by) == ([TEACHER, TEACHER], "teacher")
    assert rig.teacher.seen[0] is request


async def test_of_several_rows_each_is_answered_by_whom_it_concerns() -> None:
    rig = Rig()
    request = await answered(rig.submit(SURE, UNSURE, SURE + 100, UNSURE + 100))
    assert (said(request), request.answered_by) == ([STUDENT, TEACHER, STUDENT, TEACHER], "both")
    assert request.outputs is not None
    assert request.outputs.arrays[1].argmax(axis=1).tolist() == [0, 0, 1, 1]
    assert [one.inputs for one in rig.teacher.seen] == [[[UNSURE, UNSURE + 100]]]
    assert rig.cascade.counts.rows == {"student": 2, "teacher": 2}
    assert rig.cascade.counts.requests == {"student": 0, "teacher": 0, "both": 1}


@pytest.mark.parametrize("parameter", [False, "off"])
async def test_a_caller_may_want_the_teacher(parameter: object) -> None:
    rig = Rig()
    request = await answered(rig.submit(SURE, parameters={"cascade": parameter}))
    assert (said(request), rig.student.seen) == ([TEACHER], [])


async def test_an_answer_in_pieces_is_the_teachers() -> None:
    rig = Rig()
    listener = Listener(lambda row, outputs: None, lambda row, fraction: None)
    request = await answered(rig.submit(SURE, listener=listener))
    assert (said(request), rig.student.seen) == ([TEACHER], [])


async def test_while_it_is_shut_the_teacher_answers() -> None:
    rig = Rig()
    rig.cascade.shut("for a reason")
    assert said(await answered(rig.submit(SURE))) == [TEACHER]
    assert rig.cascade.facts["cascade"] == "off: for a reason"


@pytest.mark.parametrize("error", [AdmissionError("full", code="queue_full"), RequestError("no NaN")])
async def test_what_the_student_refuses_the_teacher_answers(error: AdmissionError | RequestError) -> None:
    rig = Rig()
    rig.student.refuse_with = error
    assert said(await answered(rig.submit(SURE))) == [TEACHER]


async def test_what_the_teacher_refuses_nobody_answers() -> None:
    rig = Rig(signature=REFUSING)
    with pytest.raises(RequestError, match=r"input 'x': the value at \[1, 0\] is NaN, which this model does not take"):
        rig.submit(SURE, math.nan)
    assert (rig.student.seen, rig.cascade.pending) == ([], 0)
    assert said(await answered(rig.submit(SURE))) == [STUDENT]


async def test_where_the_student_fails_the_teacher_answers() -> None:
    rig = Rig()
    rig.student.fail_with = ExecutionError("it died", code="instance_crashed")
    assert said(await answered(rig.submit(SURE))) == [TEACHER]


async def test_a_deadline_that_passed_at_the_student_is_told_at_once() -> None:
    rig = Rig()
    rig.student.fail_with = DeadlineExceeded("too late", stage="queued")
    request = await answered(rig.submit(SURE))
    assert request.error is rig.student.fail_with
    assert rig.teacher.seen == []


@pytest.mark.parametrize("rows", [(UNSURE,), (SURE, UNSURE)])
async def test_what_the_teacher_refuses_then_is_an_answer_too(rows: tuple[float, ...]) -> None:
    rig = Rig()
    rig.teacher.refuse_with = AdmissionError("full", code="queue_full")
    request = await answered(rig.submit(*rows))
    assert request.error is rig.teacher.refuse_with
    assert rig.cascade.pending == 0


async def test_what_the_teacher_cannot_do_then_is_an_answer_too() -> None:
    rig = Rig()
    rig.teacher.fail_with = ExecutionError("bad row", code="model_error")
    assert (await answered(rig.submit(SURE, UNSURE))).error is rig.teacher.fail_with


async def test_what_the_teacher_refuses_at_once_is_raised() -> None:
    rig = Rig()
    rig.student.refuse_with = rig.teacher.refuse_with = AdmissionError("full", code="queue_full")
    with pytest.raises(AdmissionError, match="full"):
        rig.submit(SURE)


async def test_a_caller_that_leaves_while_the_student_is_asked_is_forgotten() -> None:
    rig = Rig()
    rig.student.held = []
    request = rig.submit(UNSURE)
    assert rig.cascade.waits(request)
    assert rig.cascade.pending == 1
    (first,) = rig.student.held
    rig.cascade.cancel(request)
    assert rig.student.canceled[0] is first
    rig.student.finish(first)  # it was too late to cancel
    assert (rig.cascade.pending, request.wire, rig.teacher.seen) == (0, [], [])


async def test_a_caller_that_leaves_while_the_teacher_is_asked_is_forgotten() -> None:
    rig = Rig()
    rig.teacher.held = []
    request = rig.submit(SURE, UNSURE)
    await soon(lambda: rig.teacher.held)
    (rest,) = rig.teacher.held
    rig.cascade.cancel(request)
    assert rig.teacher.canceled[0] is rest
    rig.teacher.finish(rest)
    assert request.wire == []
    assert request.on_done is nobody


async def test_at_the_end_what_the_student_was_asked_goes_to_the_teacher() -> None:
    rig = Rig()
    rig.student.held = []
    request = rig.submit(SURE)
    rig.cascade.hasten()
    assert said(await answered(request)) == [TEACHER]
    assert (rig.cascade.pending, len(rig.student.canceled)) == (0, 1)
    rig.student.finish(rig.student.held[0])
    assert len(request.wire) == 1


async def test_a_job_tells_when_it_began() -> None:
    rig = Rig()
    rig.student.held = []
    request = rig.submit(SURE, background=Background(5.0), deadline=float("inf"))
    (first,) = rig.student.held
    assert first.background is not None
    assert first.background is not request.background
    first.background.began, first.background.compute_s = 12.0, 0.5
    rig.student.finish(first)
    assert request.background is not None
    assert (request.background.began, request.background.compute_s) == (12.0, 0.5)


async def test_answers_are_not_kept_under_the_teachers_name() -> None:
    rig = Rig()
    assert rig.cascade.digest != rig.teacher.digest
    rig.cascade.shut("for a reason")
    assert rig.cascade.digest == rig.teacher.digest


async def test_where_a_teacher_changes_it_takes_over() -> None:
    rig = Rig(shadow_rate=1.0)
    for place in range(20):
        await answered(rig.submit(SURE + place))
    await soon(lambda: rig.watch.compared == 20)
    assert (rig.watch.disagreed, rig.fallen) == (0, [])
    assert all(one.background is not None for one in rig.teacher.seen), "compared behind all that somebody waits for"
    before = rig.teacher.function
    rig.teacher.function = lambda x: [before(x)[0], before(x)[1][:, ::-1]]
    for _ in range(30):
        await answered(rig.submit(SURE))
    await soon(lambda: rig.fallen)
    assert said(await answered(rig.submit(SURE))) == [TEACHER]
    assert rig.cascade.reading(rig.watch).off


async def test_where_a_teacher_changes_requests_of_which_it_has_a_part_tell_so_too() -> None:
    rig = Rig(shadow_rate=1.0)
    for _ in range(20):
        await answered(rig.submit(UNSURE, SURE, SURE + 100))
    await soon(lambda: rig.watch.compared == 40)
    assert (rig.watch.disagreed, rig.fallen) == (0, [])
    compared = [one for one in rig.teacher.seen if one.background is not None]
    assert [(one.inputs, one.rows) for one in compared] == [([[SURE, SURE + 100]], 2)] * 20
    before = rig.teacher.function
    rig.teacher.function = lambda x: [before(x)[0], before(x)[1][:, ::-1]]
    for _ in range(30):
        await answered(rig.submit(UNSURE, SURE, SURE + 100))
    await soon(lambda: rig.fallen)
    assert said(await answered(rig.submit(UNSURE, SURE))) == [TEACHER, TEACHER]


async def test_comparisons_do_not_pile_up() -> None:
    rig = Rig(shadow_rate=1.0)
    rig.teacher.held = []
    for _ in range(200):
        await answered(rig.submit(SURE))
    assert len(rig.teacher.held) == 64


def some_of(held: list[Request] | None, canceled: list[Request], rng: random.Random) -> Request | None:
    """One that is taken out; None where its caller has left meanwhile, or there is none."""
    assert held is not None
    if not held:
        return None
    one = held.pop(rng.randrange(len(held)))
    return None if any(one is gone for gone in canceled) else one


@pytest.mark.parametrize("seed", range(10))
async def test_in_any_order_everybody_is_answered_once(seed: int) -> None:
    rng = random.Random(seed)
    rig = Rig()
    rig.teacher.held, rig.student.held = [], []
    asked: list[tuple[Request, tuple[float, ...]]] = []
    left: list[Request] = []
    for _ in range(300):
        action = rng.random()
        if action < 0.4:
            values = tuple(rng.choice([SURE, UNSURE]) for _ in range(rng.randint(1, 4)))
            request = request_of(values, deadline=time.monotonic() + 30)
            rig.cascade.submit(request)
            asked.append((request, values))
        elif action < 0.5 and asked:
            place = rng.randrange(len(asked))
            if not asked[place][0].wire:
                request, _ = asked.pop(place)
                left.append(request)
                rig.cascade.cancel(request)
        else:
            engine = rng.choice([rig.teacher, rig.student])
            if (one := some_of(engine.held, engine.canceled, rng)) is not None:
                engine.finish(one)
    while rig.student.held or rig.teacher.held:
        for engine in (rig.student, rig.teacher):
            if (one := some_of(engine.held, engine.canceled, rng)) is not None:
                engine.finish(one)
    for request, values in asked:
        assert len(request.wire) == 1
        assert said(request) == [STUDENT if value == SURE else TEACHER for value in values]
    assert all(request.wire == [] for request in left)
    assert rig.cascade.pending == 0
