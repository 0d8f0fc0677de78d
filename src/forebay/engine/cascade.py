"""`CascadeEngine`: an engine in front of which a smaller model answers what it is sure of.

Every row goes to the student first. Rows of which it is sure are answered with what it said; the others go to the
teacher, the engine behind this one. Whatever goes wrong with the student is no error: then the teacher answers.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec
import numpy as np

from forebay.agreement.confidence import classes_of, confidence_of
from forebay.agreement.watch import AgreementWatch
from forebay.cascade.policy import CascadeRules
from forebay.core.clock import Clock
from forebay.core.errors import DeadlineExceeded, ExecutionError, ForebayError
from forebay.core.request import Background, Outputs, Payload, Request, output_array
from forebay.core.tensors import Array, element_count
from forebay.engine.assemble import cut
from forebay.engine.client import EngineClient
from forebay.engine.finite import finite_check
from forebay.engine.flight import nobody
from forebay.engine.forwarded import ForwardedEngine
from forebay.engine.joined import give
from forebay.telemetry.cascade_metrics import CascadeCounts, CascadeReading
from forebay.telemetry.logs import fields

log = logging.getLogger("forebay.engine")

PARAMETER = "cascade"
"""A request with this parameter set to false or "off" is the teacher's."""
MOST_COMPARED = 64
"""Comparisons under way at once: they wait behind all that somebody waits for, and must not pile up."""


class Opened(NamedTuple):
    """What it takes to ask the student: it is there, and was measured."""

    student: EngineClient
    watch: AgreementWatch


class Part(NamedTuple):
    """Rows of a request that the teacher is asked, where the student answered the others."""

    request: Request
    answered: Request
    rows: Array


class CascadeEngine(ForwardedEngine):
    """An `EngineClient` around another one. Until it is opened it passes on."""

    def __init__(self, inner: EngineClient, rules: CascadeRules, clock: Clock) -> None:
        """clock: monotonic seconds, that of deadlines."""
        super().__init__(inner)
        self.rules = rules
        self.counts = CascadeCounts()
        self._clock = clock
        self._opened: Opened | None = None
        self._told = "off: not checked yet"
        self._digest = ""
        self._asked: dict[Request, tuple[EngineClient, Request]] = {}
        """By request: who is asked now, and what."""
        self._comparing = 0
        self._output = [spec.name for spec in inner.signature.outputs].index(rules.calibration.output)
        self._last: Outputs | None = None
        self._check = finite_check(self.signature)
        """A student may make something of what the teacher refuses."""
        self._sure: Array = np.empty(0, bool)
        """Of each row of `_last`, the batch that came last: its answers are given one after the other."""

    def open(self, opened: Opened, told: str) -> None:
        """From now on the student is asked first."""
        rules = self.rules.calibration
        self._opened, self._told = opened, told
        self._digest = hashlib.sha256(f"{rules.teacher} {rules.student} {rules.threshold!r}".encode()).hexdigest()

    def shut(self, reason: str) -> None:
        """From now on it is not; what it has been asked already it may answer."""
        self._opened, self._told = None, f"off: {reason}"

    @property
    def told(self) -> str:
        """Whether the student is asked, and if not why."""
        return self._told

    @property
    def digest(self) -> str:
        """Of the files of whoever answers: what both answered is not kept as what the teacher did."""
        return self._digest if self._opened is not None else self.inner.digest

    @property
    def facts(self) -> Mapping[str, str]:
        """What was found out at load, and since."""
        return {**self.inner.facts, "cascade": self.told}

    @property
    def pending(self) -> int:
        """Requests that the student is asked now, and that may yet go to the engine."""
        return sum(asked is not self.inner for asked, _ in self._asked.values())

    # -- in -----------------------------------------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """See `EngineClient.submit`. Raises `RequestError` for a value that the teacher refuses."""
        opened = self._opened
        request.ran_on = self.digest
        if opened is None or self.inner.state != "ready" or not _may_go_to_both(request):
            self._ask_teacher(request)
            return
        if self._check is not None:
            self._check(request)
        first = _copied(request, self._student_done)
        try:
            opened.student.submit(first)
        except ForebayError:
            self._ask_teacher(request)
            return
        self._asked[request] = opened.student, first

    def waits(self, request: Request) -> bool:
        """See `EngineClient.waits`."""
        asked, what = self._asked.get(request, (self.inner, request))
        return asked.waits(what)

    def cancel(self, request: Request) -> None:
        """See `EngineClient.cancel`."""
        asked, what = self._asked.pop(request, (self.inner, request))
        if what is not request:
            request.on_done = nobody
        asked.cancel(what)

    def hasten(self) -> None:
        """The engine is about to take nothing more: what the student was asked goes there while it still may."""
        self.shut(self.inner.reason or "the engine ends")
        for request, (asked, what) in list(self._asked.items()):
            if asked is not self.inner:
                del self._asked[request]
                asked.cancel(what)
                self._or_fail(request, self._ask_teacher)

    def _ask_teacher(self, request: Request) -> None:
        """All of it. Raises what the engine raises."""
        request.answered_by = "teacher"
        self.inner.submit(request)
        self.counts.requests["teacher"] += 1
        self.counts.rows["teacher"] += request.rows

    # -- what the student said ----------------------------------------------------------------------------------------

    def _student_done(self, first: Request) -> None:
        request: Request = first.wire
        if self._asked.pop(request, None) is None:
            return
        self._or_fail(request, lambda request: self._settle(request, first))

    def _or_fail(self, request: Request, step: Callable[[Request], None]) -> None:
        """A step after which the request is answered or with the engine; what goes wrong in it is its answer."""
        try:
            step(request)
            return
        except ForebayError as error:
            request.error = error
        except Exception:
            log.exception("a request could not be handed on", extra=fields(model=self.name))
            request.error = ExecutionError("the request could not be handed on; the log says why", code="model_error")
        self._give(request)

    def _settle(self, request: Request, first: Request) -> None:
        if isinstance(first.error, DeadlineExceeded):
            _tell_of_run(request, first)
            request.error = first.error
            self._give(request)
            return
        if first.error is not None:
            self._ask_teacher(request)
            return
        sure = self._sure_of(first)
        if sure.all():
            self._answer(request, first)
        elif sure.any():
            self._ask_teacher_the_rest(request, first, np.flatnonzero(~sure))
        else:
            self._ask_teacher(request)

    def _sure_of(self, first: Request) -> Array:
        """Of each of its rows. Made for the whole batch, whose other requests come next."""
        outputs, rules = first.outputs, self.rules.calibration
        if outputs is not self._last:
            assert outputs is not None
            self._sure = confidence_of(outputs.arrays[self._output], rules.form) >= rules.threshold
            self._last = outputs
        return self._sure[first.row_start : first.row_start + first.rows]

    def _answer(self, request: Request, first: Request) -> None:
        _tell_of_run(request, first)
        request.outputs, request.row_start = first.outputs, first.row_start
        request.answered_by = "student"
        self.counts.requests["student"] += 1
        self.counts.rows["student"] += request.rows
        self._compare(request)
        self._give(request)

    def _give(self, request: Request) -> None:
        try:
            give(request)
        except Exception:
            log.exception("an answer could not be delivered", extra=fields(model=self.name))

    # -- some rows each -----------------------------------------------------------------------------------------------

    def _ask_teacher_the_rest(self, request: Request, first: Request, unsure: Array) -> None:
        rest = self._of_rows(request, unsure, self._rest_done)
        rest.wire = Part(request, first, unsure)
        self.inner.submit(rest)
        self._asked[request] = self.inner, rest

    def _of_rows(self, request: Request, rows: Array, on_done: Callable[[Request], None]) -> Request:
        part = _copied(request, on_done)
        part.inputs = [
            _rows_of(payload, spec.datatype, element_count(shape), request.rows, rows)
            for payload, spec, shape in zip(request.inputs, self.signature.inputs, request.shapes, strict=True)
        ]
        part.rows, part.nbytes = len(rows), request.nbytes * len(rows) // request.rows
        return part

    def _rest_done(self, rest: Request) -> None:
        part: Part = rest.wire
        if self._asked.pop(part.request, None) is not None:
            self._or_fail(part.request, lambda request: self._join(request, rest, part))

    def _join(self, request: Request, rest: Request, part: Part) -> None:
        _tell_of_run(request, rest)
        if rest.error is not None:
            request.error = rest.error
            self._give(request)
            return
        arrays = []
        for index in range(len(self.signature.outputs)):
            array, others = output_array(part.answered, index, True).copy(), output_array(rest, index, True)
            if array.shape[1:] != others.shape[1:]:
                self._ask_teacher(request)  # answers of any length: they do not fit into one array
                return
            array[part.rows] = others
            arrays.append(array)
        specs = self.signature.outputs
        names, datatypes = [spec.name for spec in specs], [spec.datatype for spec in specs]
        request.outputs, request.row_start = Outputs(names, datatypes, arrays, request.rows), 0
        request.answered_by = "both"
        self.counts.requests["both"] += 1
        self.counts.rows["teacher"] += rest.rows
        self.counts.rows["student"] += request.rows - rest.rows
        self._compare(request, np.delete(np.arange(request.rows), part.rows))
        self._give(request)

    # -- whether it still agrees --------------------------------------------------------------------------------------

    def _compare(self, request: Request, rows: Array | None = None) -> None:
        """Have the teacher answer as well now and then what the student did, behind all that somebody waits for. rows:
        those that it did; None: all."""
        opened = self._opened
        if opened is None or self._comparing >= MOST_COMPARED or not opened.watch.wants():
            return
        form, index, watch = self.rules.calibration.form, self._output, opened.watch
        said = classes_of(output_array(request, index, True)[slice(None) if rows is None else rows], form)

        def compared(again: Request) -> None:
            self._comparing -= 1
            if again.error is None:
                for same in (classes_of(output_array(again, index, True), form) == said).tolist():
                    watch.record(same)

        again = _copied(request, compared) if rows is None else self._of_rows(request, rows, compared)
        timeout_s = self.inner.default_timeout_s
        again.background, again.deadline = Background(timeout_s), self._clock() + timeout_s
        again.listener, again.wire = None, None
        try:
            self.inner.submit(again)
        except ForebayError:
            return  # the next one is compared
        self._comparing += 1

    def reading(self, watch: AgreementWatch) -> CascadeReading:
        """What metrics tell of it."""
        return CascadeReading(self.counts, watch.compared, watch.disagreed, watch.agreement, self._opened is None)


def _may_go_to_both(request: Request) -> bool:
    if request.listener is not None or not request.rows:
        return False
    return not request.parameters or request.parameters.get(PARAMETER) not in (False, "off")


def _copied(request: Request, on_done: Callable[[Request], None]) -> Request:
    """The same for another engine, whose `wire` is the request."""
    background = request.background
    return msgspec.structs.replace(
        request,
        on_done=on_done,
        background=msgspec.structs.replace(background) if background is not None else None,
        wire=request,
        order=None,
        pieces=None,
        lane=None,
        length=0,
        behind_s=0.0,
        cache=None,
        cached=None,
        requested=None,
        outputs=None,
        error=None,
    )


def _tell_of_run(request: Request, ran: Request) -> None:
    """How it was batched, and for a job when it began."""
    request.batch_rows, request.queue_s = ran.batch_rows, ran.queue_s
    request.dispatch_reason, request.padding_waste = ran.dispatch_reason, ran.padding_waste
    if request.background is not None and ran.background is not None:
        request.background.began = request.background.began or ran.background.began
        request.background.compute_s += ran.background.compute_s


def _rows_of(payload: Payload, datatype: str, row_elements: int, rows: int, wanted: Array) -> Payload:
    pieces = cut(payload, datatype, row_elements, range(rows + 1))
    if isinstance(payload, list):
        return [value for row in wanted.tolist() for value in pieces[row]]
    return b"".join(bytes(pieces[row]) for row in wanted.tolist())
