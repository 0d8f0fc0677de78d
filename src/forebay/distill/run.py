"""One distillation from its order to its folder: the composition of everything here."""

from __future__ import annotations

import hashlib
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import numpy as np

from forebay.core.errors import SetupError
from forebay.core.tensors import Array
from forebay.distill import measures, output
from forebay.distill.augment import made_up
from forebay.distill.judge import Asked as AskedOfGate
from forebay.distill.judge import Judge, Judged, TimedTeacher, disagreement, doubt
from forebay.distill.kept import Answers, KeptAnswers
from forebay.distill.losses import no_labels
from forebay.distill.report import (
    Epoch,
    GateReport,
    Quality,
    Report,
    StudentReport,
    TeacherReport,
    TransferReport,
)
from forebay.distill.students.port import Plan, Student, Subject, Trained, is_text
from forebay.distill.students.registry import check_suits, open_student
from forebay.distill.target import Target, Wanted, check_wanted, find_target, probabilities_of
from forebay.distill.teacher import Asked, Teacher, ask_all, key_of
from forebay.distill.transfer import LEAST_JUDGED, Part, Transfer, labels_as_places, part_of, split
from forebay.models.signature import Signature
from forebay.optimize.run import machine_report

_NORMAL = 1.96
"""Of a 95 % interval."""


class Watcher(Protocol):
    """Who follows it."""

    def says(self, text: str) -> None:
        """What is at work now."""
        ...

    def asking(self, done: int, total: int, rows_per_s: float) -> None:
        """How far the teacher is."""
        ...

    def epoch(self, epoch: Epoch) -> None:
        """How far training is."""
        ...


@dataclass(frozen=True)
class Lesson:
    """What there is to learn from: the teacher, or only its answers, and the rows.

    `name`: the student's, where the order has none. `test`: rows that judge, in place of a part of the transfer set.
    `kept`: where answers are on disk. `path`: the folder of a Hugging Face teacher. `tokenizer`: for students of texts.
    """

    name: str
    signature: Signature
    digest: str
    transfer: Transfer
    teacher: Teacher | None = None
    test: Transfer | None = None
    kept: KeptAnswers | None = None
    path: Path | None = None
    tokenizer: Path | None = None
    max_tokens: int = 256

    @property
    def teacher_name(self) -> str:
        """The teacher's own name, whatever the student is called."""
        return self.name if self.teacher is None else self.teacher.name


@dataclass(frozen=True)
class Order:
    """A distillation as it was asked for."""

    kind: str
    out: Path
    name: str = ""
    """Empty: the teacher's."""
    plan: Plan = field(default_factory=Plan)
    wanted: Wanted = field(default_factory=Wanted)
    gate: AskedOfGate = field(default_factory=AskedOfGate)
    held_out: float = 0.1
    made_up: int = 0
    """So many texts are made of each text of the transfer set, for the teacher to answer too."""


@dataclass(frozen=True)
class _Parts:
    train: Part
    stop: Part
    test: Part


def check_order(order: Order, lesson: Lesson) -> Order:
    """The order with its name, once the teacher is known; what can be told before anything is asked is told here.

    Raises `SetupError`.
    """
    order = order if order.name else replace(order, name=lesson.name)
    output.check_target(order.out, order.name)
    if not lesson.signature.batched:
        raise SetupError(
            f"{lesson.teacher_name}: its inputs and outputs share no leading variable axis, so that it has no rows"
        )
    check_suits(order.kind, lesson.signature, lesson.path)
    if order.plan.vectors is not None and is_text(lesson.signature) and lesson.tokenizer is None:
        raise SetupError(
            f"--vectors {order.plan.vectors}: a tokenizer.json says whose vectors they are, and there is none in that "
            "folder; name it with --tokenizer"
        )
    check_wanted(lesson.signature.outputs, order.wanted)
    if order.made_up and (lesson.teacher is None or not is_text(lesson.signature)):
        why = "needs the teacher itself" if lesson.teacher is None else "is for texts (one BYTES input)"
        raise SetupError(f"--augment {order.made_up} {why}; leave it away")
    if "labels" in order.plan.losses and not lesson.transfer.labels:
        raise no_labels()
    return order


def distill(order: Order, lesson: Lesson, watcher: Watcher) -> Report:
    """Ask, train, judge, write. Raises `SetupError` where it cannot begin or its result not be written."""
    started, at = time.monotonic(), datetime.now(UTC)
    order = check_order(order, lesson)
    lesson, asked, tested = _asked(lesson, watcher)
    target = _target(order, lesson, asked, tested)
    subject = Subject(lesson.signature, target, lesson.tokenizer, lesson.max_tokens, lesson.path)
    parts = _parts(order, lesson, asked, tested, target)
    _check_tells(order, target, parts.test)
    student = open_student(order.kind, subject, order.plan)
    parts, more = _with_made_up(order, lesson, target, parts, watcher)
    watcher.says(f"training {order.kind} on {len(parts.train):,} rows")
    began = time.monotonic()
    trained = student.fit(parts.train, parts.stop, watcher.epoch)
    train_s = time.monotonic() - began
    with tempfile.TemporaryDirectory(prefix="forebay-distill-") as folder:
        files = Path(folder, "student")
        files.mkdir()
        watcher.says("writing the student as ONNX")
        model = student.write(files)
        judged = _judged(order, lesson, subject, student, parts.test, files / model, Path(folder), watcher)
        quality = _quality(target, parts.test, judged)
        _check_agreement(judged.gate, target, quality, order)
        report = Report(
            started_at=at.isoformat(timespec="seconds"),
            seconds=time.monotonic() - started,
            name=order.name,
            teacher=_teacher(lesson, target),
            transfer=_transfer(order, lesson, asked, tested, more, parts),
            student=_student(order, student, trained, train_s, model, files, judged),
            quality=quality,
            gate=judged.gate,
            machine=machine_report(order.gate.threads),
        )
        output.write(report, order.out, files)
    return report


def _asked(lesson: Lesson, watcher: Watcher) -> tuple[Lesson, Asked, Asked | None]:
    """Answers to the transfer set and to the test rows. Rows that judge are not learned."""
    test = lesson.test
    transfer = lesson.transfer
    if test is not None:
        transfer = transfer.without({key_of(row) for row in test.rows})
    watcher.says(f"asking {lesson.teacher_name} about {len(transfer.rows):,} rows")
    asked = ask_all(lesson.teacher, transfer.rows, transfer.known, lesson.kept, watcher)
    tested = None
    if test is not None:
        watcher.says(f"asking {lesson.teacher_name} about {len(test.rows):,} rows to judge by")
        tested = ask_all(lesson.teacher, test.rows, transfer.known, lesson.kept, watcher)
    return replace(lesson, transfer=transfer), asked, tested


def _target(order: Order, lesson: Lesson, asked: Asked, tested: Asked | None) -> Target:
    answers: list[Answers] = [one for one in [*asked.answers, *(tested.answers if tested else ())] if one is not None]
    if not answers:
        raise SetupError(
            f"{lesson.transfer.source} holds no row that {lesson.teacher_name} answers; look at the samples"
        )
    stacked: dict[str, Array] = {}
    for spec in lesson.signature.outputs:
        values = [answer[spec.name] for answer in answers if spec.name in answer]
        if len(values) != len(answers) or len({value.shape for value in values}) != 1:
            if spec.name == order.wanted.output or len(lesson.signature.outputs) == 1:
                raise SetupError(f"output {spec.name!r} differs in shape between rows, and students learn one shape")
            continue
        stacked[spec.name] = np.stack(values)
    outputs = [spec for spec in lesson.signature.outputs if spec.name in stacked]
    if len(outputs) < len(lesson.signature.outputs) and order.wanted.output is None:
        left = ", ".join(spec.name for spec in lesson.signature.outputs if spec.name not in stacked)
        raise SetupError(f"output {left} differs in shape between rows; choose one to learn with --output")
    labels = [*lesson.transfer.labels, *(lesson.test.labels if lesson.test else ())]
    return find_target(outputs, stacked, order.wanted, labels)


def _parts(order: Order, lesson: Lesson, asked: Asked, tested: Asked | None, target: Target) -> _Parts:
    whole = _part(lesson.transfer, asked, target)
    apart = lesson.test is not None
    by_class = target.by_class
    train, stop, test = split(
        lesson.transfer, whole, order.held_out, order.plan.seed, by_class=by_class, tested_apart=apart
    )
    if lesson.test is not None and tested is not None:
        test = _part(lesson.test, tested, target)
        least = LEAST_JUDGED if by_class else 2
        if len(test) < least:
            raise SetupError(
                f"--test {lesson.test.source} holds {len(test)} rows that differ and that the teacher answered; give "
                f"at least {least}, better some hundreds"
            )
    assert test is not None
    return _Parts(train, stop, test)


def _part(transfer: Transfer, asked: Asked, target: Target) -> Part:
    places = [place for place, answer in enumerate(asked.answers) if answer is not None]
    wanted = [np.asarray(asked.answers[place][target.name], np.float32).reshape(-1) for place in places]  # type: ignore[index]
    labels = np.full(len(transfer.rows), -1, np.int64)
    if transfer.labels and target.by_class:
        labels = labels_as_places(transfer.labels, target, transfer.source)
    whole = Part(transfer.rows, np.zeros((len(transfer.rows), target.width), np.float32), labels)
    chosen = part_of(whole, places)
    return Part(chosen.rows, np.stack(wanted) if wanted else chosen.wanted, chosen.labels)


def _check_tells(order: Order, target: Target, test: Part) -> None:
    """Raises `SetupError` where a student that looks at nothing would pass."""
    constant = measures.constant_agreement(target, test.wanted)
    if constant >= order.gate.min_agreement:
        raise SetupError(
            f"these rows tell nothing: a student that answers one and the same to everything would agree in "
            f"{constant:.1%}, and --min-agreement is {order.gate.min_agreement:g}. Give rows of all "
            "kinds, or a higher --min-agreement"
        )


def _with_made_up(
    order: Order, lesson: Lesson, target: Target, parts: _Parts, watcher: Watcher
) -> tuple[_Parts, Asked | None]:
    """Training rows with texts that were made of them, as the teacher answers these."""
    if not order.made_up:
        return parts, None
    rows = made_up(parts.train.rows, order.made_up, order.plan.seed)
    barred = {key_of(row) for row in [*parts.train.rows, *parts.stop.rows, *parts.test.rows]}
    found = Transfer("made up", "", rows).without(barred)
    watcher.says(f"asking {lesson.teacher_name} about {len(found.rows):,} texts that were made of others")
    asked = ask_all(lesson.teacher, found.rows, {}, lesson.kept, watcher)
    more = _part(found, asked, target)
    train = Part(
        [*parts.train.rows, *more.rows],
        np.concatenate([parts.train.wanted, more.wanted]),
        np.concatenate([parts.train.labels, more.labels]),
    )
    return _Parts(train, parts.stop, parts.test), asked


def _judged(
    order: Order,
    lesson: Lesson,
    subject: Subject,
    student: Student,
    test: Part,
    model: Path,
    work: Path,
    watcher: Watcher,
) -> Judged:
    judge = Judge(subject, order.gate, test.rows, work, watcher)
    teacher = lesson.teacher
    timed = None if teacher is None else TimedTeacher(teacher.argument, teacher.served_with)
    judged = judge.judge(str(model), student.answer(test.rows), timed)
    # A file that does not run has no answers: what was trained shows at least how well that was learned.
    return judged if judged.answers is not None else Judged(judged.gate, student.answer(test.rows), judged.peak_bytes)


def _quality(target: Target, test: Part, judged: Judged) -> Quality:
    answers = judged.answers
    assert answers is not None
    agreed = measures.agreement(target, test.wanted, answers)
    labels = test.labels if target.by_class and test.labelled else None
    quality = {
        "rows": len(test),
        "agreement": agreed,
        "agreement_low": wilson_low(agreed, len(test)) if target.by_class else agreed,
        "constant": measures.constant_agreement(target, test.wanted),
        "classes": measures.by_class(target, test.wanted, answers, labels) if target.by_class else [],
        "disagreements": measures.disagreements(target, test.wanted, answers, labels, test.shown()),
    }
    if labels is None:
        return Quality(**quality)  # type: ignore[arg-type]
    of_teacher, of_student = measures.accuracy(test.wanted, labels), measures.accuracy(answers, labels)
    return Quality(
        **quality,  # type: ignore[arg-type]
        teacher_accuracy=of_teacher,
        student_accuracy=of_student,
        share_kept=of_student / of_teacher if of_teacher else None,
        teacher_calibration_error=measures.calibration_error(probabilities_of(target, test.wanted), labels),
        student_calibration_error=measures.calibration_error(probabilities_of(target, answers), labels),
    )


def wilson_low(share: float, rows: int) -> float:
    """Lower end of the 95 % interval of a share (Wilson)."""
    z2 = _NORMAL**2
    middle = share + z2 / (2 * rows)
    half = _NORMAL * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows**2))
    return max(0.0, (middle - half) / (1 + z2 / rows))


def _check_agreement(gate: GateReport, target: Target, quality: Quality, order: Order) -> None:
    """What the file does wrong is graver than how little it has learned."""
    detail = disagreement(target, quality.agreement, order.gate.min_agreement, quality.rows)
    if detail and gate.reason in (None, "slower", "not_timed"):
        gate.reason, gate.detail = "disagrees", detail
    if gate.reason is None:
        gate.doubt = doubt(quality.agreement_low, order.gate.min_agreement, quality.rows)


def _teacher(lesson: Lesson, target: Target) -> TeacherReport:
    return TeacherReport(
        name=lesson.teacher_name,
        model=lesson.teacher.argument if lesson.teacher is not None else "",
        digest=lesson.digest,
        output=target.name,
        form=target.form,
        classes=target.classes,
    )


def _transfer(
    order: Order, lesson: Lesson, asked: Asked, tested: Asked | None, more: Asked | None, parts: _Parts
) -> TransferReport:
    made = sum(answer is not None for answer in more.answers) if more is not None else 0
    return TransferReport(
        source=lesson.transfer.source,
        sha256=lesson.transfer.sha256,
        rows=len(lesson.transfer.rows),
        train=len(parts.train) - made,
        stop=len(parts.stop),
        test=len(parts.test),
        test_source=lesson.test.source if lesson.test is not None else "",
        labelled=bool(lesson.transfer.labels),
        seed=order.plan.seed,
        asked=asked.asked + (more.asked if more is not None else 0),
        known=asked.known + (more.known if more is not None else 0),
        duplicates=lesson.transfer.duplicates,
        passed_over=lesson.transfer.passed_over,
        failed=sum(len(one.failed) for one in (asked, tested, more) if one is not None),
        made_up=made,
    )


def _student(
    order: Order, student: Student, trained: Trained, train_s: float, model: str, files: Path, judged: Judged
) -> StudentReport:
    digests = {
        file.relative_to(files).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in _files(files)
    }
    return StudentReport(
        kind=order.kind,
        about=student.about,
        parameters=student.parameters,
        losses=student.losses,
        temperature=order.plan.temperature,
        best_epoch=trained.best_epoch,
        stopped_early=trained.stopped_early,
        epochs=trained.epochs,
        train_s=train_s,
        model=model,
        model_sha256=digests.get(model.partition(":")[0], ""),
        size_bytes=sum(file.stat().st_size for file in _files(files)),
        peak_memory_bytes=judged.peak_bytes,
        files=digests,
    )


def _files(folder: Path) -> Sequence[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
