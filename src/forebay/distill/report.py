"""What a distillation found, as it is written to `report.json`. Names and meanings are stable within a `format`."""

from __future__ import annotations

from typing import Literal

import msgspec

from forebay.optimize.report import Invariance, MachineReport, Speed

FORMAT = 1

Reason = Literal[
    "export_differs",
    "wrong_signature",
    "crashed",
    "timed_out",
    "not_finite",
    "batch_variant",
    "not_repeatable",
    "disagrees",
    "slower",
    "not_timed",
]
"""Why a student is not served. `export_differs`: the file answers otherwise than the student that was trained;
`not_timed`: how fast its teacher is could not be found out.
"""


class TeacherReport(msgspec.Struct, frozen=True, kw_only=True):
    """Who was learned from. `model` is empty where only a file of its answers was there."""

    name: str
    model: str
    digest: str
    output: str
    form: str
    classes: tuple[str, ...] = ()


class TransferReport(msgspec.Struct, frozen=True, kw_only=True):
    """The rows, and where their answers came from."""

    source: str
    sha256: str
    rows: int
    train: int
    stop: int
    """Rows that decided when to stop."""
    test: int
    """Rows that neither training nor stopping has seen: all figures of the report are of these."""
    test_source: str
    labelled: bool
    seed: int
    asked: int
    """Rows of the transfer set, and texts that were made up, that the teacher was asked in this run; the rest was
    known."""
    known: int
    duplicates: int = 0
    passed_over: int = 0
    """Rows of a log that do not fit the model as it is now."""
    failed: int = 0
    """Rows that the teacher could not answer, or only with NaN or infinity; they were left out."""
    made_up: int = 0
    """Texts that were made of others, besides."""


class Epoch(msgspec.Struct, frozen=True, kw_only=True):
    """One step of training: mean loss of the training rows; loss and agreement of the rows that stop it."""

    number: int
    loss: float
    held_out_loss: float
    agreement: float
    seconds: float = 0.0
    note: str = ""
    """What this step tried, where steps are no epochs: `max_leaf_nodes=64`."""


class StudentReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was trained and how. `best_epoch`: the one that was kept."""

    kind: str
    about: str
    parameters: int
    losses: dict[str, float]
    temperature: float
    best_epoch: int
    stopped_early: bool
    epochs: list[Epoch]
    train_s: float
    model: str = ""
    model_sha256: str = ""
    size_bytes: int = 0
    peak_memory_bytes: int = 0
    files: dict[str, str] = {}
    """SHA-256 of each file of the artefact."""


class ClassReport(msgspec.Struct, frozen=True, kw_only=True):
    """One class of the test rows: the share of its rows that teacher and student find. Without labels a class is what
    the teacher says."""

    name: str
    rows: int
    teacher: float
    student: float
    drop: float


class Disagreement(msgspec.Struct, frozen=True, kw_only=True):
    """A test row on which they differ. `gap`: largest difference of a probability or number, or 1 minus the cosine."""

    row: int
    shown: str
    gap: float
    teacher: list[float]
    student: list[float]
    teacher_class: str = ""
    student_class: str = ""
    label: str = ""


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """Test rows. None: does not apply. `share_kept`: the student's accuracy over the teacher's."""

    rows: int
    agreement: float
    agreement_low: float
    """Lower end of the 95 % interval of the agreement of classes (Wilson); else the agreement."""
    constant: float
    """Agreement of a model that answers one and the same to everything."""
    teacher_accuracy: float | None = None
    student_accuracy: float | None = None
    share_kept: float | None = None
    teacher_calibration_error: float | None = None
    student_calibration_error: float | None = None
    classes: list[ClassReport] = []
    disagreements: list[Disagreement] = []


class GateReport(msgspec.Struct, kw_only=True):
    """Whether the student is served. `reason` None: it passed. `export_error`: of the file against what was trained,
    as a share of the largest value."""

    min_agreement: float
    min_speedup: float
    batch_tolerance: float
    reason: Reason | None = None
    detail: str = ""
    doubt: str = ""
    """Of a student that passed: why it may agree less than was asked for."""
    export_error: float | None = None
    invariance: Invariance | None = None
    speed: Speed | None = None
    """Against the teacher; without one at hand, against itself."""
    teacher_rows_per_s: float | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """`report.json`. `command` tells it from the reports of other commands."""

    command: Literal["distill"] = "distill"
    format: int = FORMAT
    started_at: str
    """UTC, ISO 8601."""
    seconds: float
    name: str
    teacher: TeacherReport
    transfer: TransferReport
    student: StudentReport
    quality: Quality
    gate: GateReport
    machine: MachineReport

    @property
    def passed(self) -> bool:
        """Whether there is a student to serve."""
        return self.gate.reason is None


def encoded(report: Report) -> bytes:
    """`report.json`, for people and programs."""
    return msgspec.json.format(msgspec.json.encode(report)) + b"\n"
