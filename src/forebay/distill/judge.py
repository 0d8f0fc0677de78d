"""The gate of a student: its file, in a process as an instance has it, against what was trained, against itself in
company, and against the teacher in time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Protocol, Self, get_args

import numpy as np

from forebay.core.tensors import Array
from forebay.distill.report import GateReport, Reason
from forebay.distill.students.port import Subject
from forebay.distill.target import Target
from forebay.models.artefact import ServedWith
from forebay.optimize import invariance, speed, wire
from forebay.optimize.agreement import sample_error, scale_of
from forebay.optimize.processes import CandidateError, Probe
from forebay.optimize.samples import Row, length_of

EXPORT_TOLERANCE = 1e-3
"""Largest difference of the file's answers from those of what was trained, in units of the largest value."""
_TIMEOUT_S = 120.0
_AGAIN = 64
_ROUND_S = 0.2
_TIMED_ROWS = 512


class JudgeWatcher(Protocol):
    """Who is told what is done."""

    def says(self, text: str) -> None: ...


@dataclass(frozen=True)
class Asked:
    """What a student has to hold. `min_agreement`: in the units of `measures.agreement`. `rounds` 0: it is not
    timed, and may be as slow as it is.
    """

    min_agreement: float = 0.9
    min_speedup: float = 1.0
    batch_tolerance: float = 1e-4
    rounds: int = 5
    threads: int = 1
    round_s: float = _ROUND_S


@dataclass(frozen=True)
class TimedTeacher:
    """A teacher as a MODEL argument, to be timed beside the student."""

    model: str
    served_with: ServedWith


@dataclass(frozen=True)
class Judged:
    """`answers`: of the file to each row alone, float32 [rows, width]; None where it gave none."""

    gate: GateReport
    answers: Array | None
    peak_bytes: int = 0


class Judge:
    """Judges one file of a student. `rows`: those that nobody has seen."""

    def __init__(self, subject: Subject, asked: Asked, rows: Sequence[Row], work: Path, watcher: JudgeWatcher) -> None:
        self._subject, self._asked, self._rows = subject, asked, rows
        self._watcher = watcher
        self._file = work / "rows.msgpack"
        wire.write_rows(self._file, rows)

    def judge(self, model: str, trained: Array, teacher: TimedTeacher | None) -> Judged:
        """model: as a MODEL argument. trained: what the student answered to the rows when it was trained.

        Whether it agrees with the teacher is for the caller to say.
        """
        asked = self._asked
        gate = GateReport(
            min_agreement=asked.min_agreement, min_speedup=asked.min_speedup, batch_tolerance=asked.batch_tolerance
        )
        answers: Array | None = None
        peak = 0
        try:
            with Probe(self._load(model, ServedWith()), _TIMEOUT_S) as probe:
                answers = self._alone(probe, gate, trained)
                took_s = self._company(probe, gate, answers)
                self._again(probe, answers)
                self._time(probe, gate, teacher, took_s)
                peak = probe.peak_bytes
        except CandidateError as error:
            gate.reason, gate.detail = _reason(error), error.detail
        return Judged(gate, answers, peak)

    def _alone(self, probe: Probe, gate: GateReport, trained: Array) -> Array:
        self._watcher.says("comparing the file with what was trained")
        _check_signature(self._subject, probe.loaded)
        outputs = probe.answer([[place] for place in range(len(self._rows))])
        place = list(probe.loaded.outputs).index(self._subject.target.name)
        answers = np.stack([np.asarray(one[place], np.float64).reshape(-1) for one in outputs])
        if not np.isfinite(answers).all():
            raise CandidateError("not_finite", "it answers NaN or infinity to a row alone")
        scale = scale_of([trained])
        gate.export_error = float(np.abs(answers - trained).max()) / scale
        if not gate.export_error <= EXPORT_TOLERANCE:
            differing = float(np.mean(np.abs(answers - trained).max(axis=1) > EXPORT_TOLERANCE * scale))
            raise _DiffersError(
                f"the file answers otherwise than what was trained, in {differing:.2%} of the rows, by up to "
                f"{gate.export_error:.2g} of the largest value; {EXPORT_TOLERANCE:g} is allowed"
            )
        return answers.astype(np.float32)

    def _company(self, probe: Probe, gate: GateReport, answers: Array) -> float:
        """Looks for batch variance; seconds of a row alone."""
        self._watcher.says("looking for batch variance")
        began = time.monotonic()
        some = list(range(min(len(self._rows), _AGAIN)))
        probe.answer([[place] for place in some])
        row_s = (time.monotonic() - began) / len(some)
        sizes = speed.sizes_for(speed.SIZES, row_s / 4, self._asked.round_s)
        batches = invariance.company(len(some), max(sizes), 0)
        place = list(probe.loaded.outputs).index(self._subject.target.name)
        found = [one[place].reshape(len(batch), -1) for one, batch in zip(probe.answer(batches), batches, strict=True)]
        tolerance = self._asked.batch_tolerance * scale_of([answers])
        gate.invariance = invariance.judge([answers[row] for row in some], batches, found, tolerance)
        if not gate.invariance.finite:
            raise CandidateError("not_finite", "answers in batches hold NaN or infinity, alone they do not")
        if not gate.invariance.holds:
            raise CandidateError(
                "batch_variant",
                f"a row alone and in a batch differ by up to {gate.invariance.max_error:.2g}; {tolerance:.2g} is "
                "allowed (--batch-tolerance)",
            )
        return row_s

    def _again(self, probe: Probe, answers: Array) -> None:
        place = list(probe.loaded.outputs).index(self._subject.target.name)
        some = range(min(len(self._rows), _AGAIN))
        again = probe.answer([[row] for row in some])
        gap = max(sample_error(answers[row], one[place].reshape(-1)) for row, one in zip(some, again, strict=True))
        if gap > self._asked.batch_tolerance * scale_of([answers]):
            raise CandidateError("not_repeatable", f"a row that is asked again gets another answer, by up to {gap:.2g}")

    def _time(self, probe: Probe, gate: GateReport, teacher: TimedTeacher | None, row_s: float) -> None:
        if not self._asked.rounds:
            return
        lengths = [length_of(row) for row in self._rows[:_TIMED_ROWS]]
        plan = speed.plan(lengths, speed.sizes_for(speed.SIZES, row_s / 4, self._asked.round_s))
        if teacher is None:
            self._watcher.says("timing")
            rates = speed.alone(probe.time, plan, self._asked.round_s)
            gate.speed = speed.summarise(rates, rates, None)
            return
        self._watcher.says("timing against the teacher")
        with _TeachersTime(teacher, self._load(teacher.model, teacher.served_with)) as other:
            measured = speed.measure(other.time, probe.time, plan, self._asked.rounds, self._asked.round_s)
        gate.speed = speed.summarise(*measured, None)
        gate.teacher_rows_per_s = max(median(rates) for rates in measured[0].values())
        if gate.speed.speedup < self._asked.min_speedup:
            raise CandidateError(
                "slower", f"{gate.speed.speedup:.2f} of the teacher's speed; {self._asked.min_speedup:g} is asked for"
            )

    def _load(self, model: str, served_with: ServedWith) -> wire.Load:
        return wire.Load(model, self._asked.threads, served_with, str(self._file), sys.path)


class _TeachersTime:
    """A teacher's process. Its errors are no student's."""

    def __init__(self, teacher: TimedTeacher, load: wire.Load) -> None:
        self._model = teacher.model
        try:
            self._probe = Probe(load, _TIMEOUT_S)
        except CandidateError as error:
            raise self._not_timed(error) from None

    def time(self, batches: Sequence[Sequence[int]]) -> list[float]:
        try:
            return self._probe.time(batches)
        except CandidateError as error:
            raise self._not_timed(error) from None

    def _not_timed(self, error: CandidateError) -> _NotTimedError:
        return _NotTimedError(
            f"the teacher {self._model} cannot be timed: {error.detail}; --rounds 0 judges a student without"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._probe.close()


class _DiffersError(CandidateError):
    """The export is wrong."""

    def __init__(self, detail: str) -> None:
        super().__init__("disagrees", detail)


class _NotTimedError(CandidateError):
    """The teacher failed, and not the student."""

    def __init__(self, detail: str) -> None:
        super().__init__("crashed", detail)


def _reason(error: CandidateError) -> Reason:
    if isinstance(error, _DiffersError):
        return "export_differs"
    if isinstance(error, _NotTimedError):
        return "not_timed"
    known: tuple[Reason, ...] = get_args(Reason)
    return next((reason for reason in known if reason == error.reason), "crashed")


def _check_signature(subject: Subject, loaded: wire.Loaded) -> None:
    """Raises `CandidateError` where a client would notice the change."""
    inputs = {spec.name: (spec.datatype, [-1, *spec.row_shape]) for spec in subject.signature.inputs}
    outputs = {spec.name: (spec.datatype, [-1, *spec.row_shape]) for spec in subject.target.outputs}
    for what, wanted, found in (("inputs", inputs, loaded.inputs), ("outputs", outputs, loaded.outputs)):
        if found.keys() != wanted.keys() or any(not _fits(wanted[name], found[name]) for name in wanted):
            raise CandidateError("wrong_signature", f"its {what} are {_shown(found)}; the teacher's {_shown(wanted)}")


def _fits(wanted: tuple[str, list[int]], found: tuple[str, list[int]]) -> bool:
    same = wanted[0] == found[0] and len(wanted[1]) == len(found[1])
    return same and all(has in (had, -1) for had, has in zip(wanted[1], found[1], strict=True))


def _shown(tensors: dict[str, tuple[str, list[int]]]) -> str:
    return ", ".join(f"{name} {datatype}{shape}" for name, (datatype, shape) in tensors.items())


def disagreement(target: Target, found: float, asked: float, rows: int) -> str:
    """Why a student that agrees so is not served; empty: it is."""
    if found >= asked:
        return ""
    what = {"vectors": "mean cosine", "numbers": "share of the variance"}.get(target.form, "same class in")
    return f"{what} {found:.2%} of {rows} rows that it has not seen; {asked:.2%} is asked for (--min-agreement)"


def doubt(low: float, asked: float, rows: int) -> str:
    """What is to be said of a student that is served. `low`: the lower end of its agreement's interval."""
    if low >= asked:
        return ""
    return (
        f"{rows} rows cannot tell that it agrees in {asked:.2%} (--min-agreement): on others of their kind it may be "
        f"{low:.2%}, the lower end of the 95 % interval; judge by more rows"
    )
