"""When a student answers in place of its teacher, and for which models that was measured."""

from __future__ import annotations

from pathlib import Path

import msgspec

from forebay.agreement.confidence import Form
from forebay.core.errors import SetupError
from forebay.core.settings import ModelSettings
from forebay.models.signature import Signature


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """What `forebay cascade` found, as it stands in its file.

    Of `rows` held-out rows the student is sure of `answered` at `threshold`, and answered `disagreed` of these
    otherwise than the teacher; with 95 % confidence that is below `upper_bound` of all rows. `output` and `form`: by
    what it is told how sure the student is. `teacher`, `student`: the digests of the models that were measured.
    """

    student_name: str
    threshold: float
    agreement: float
    upper_bound: float
    rows: int
    answered: int
    disagreed: int
    output: str
    form: Form
    teacher: str
    student: str


class CascadeRules(msgspec.Struct, frozen=True, kw_only=True):
    """When a model's student answers. `student`: NAME or NAME/VERSION of a served model."""

    student: str
    calibration: Calibration
    shadow_rate: float

    @property
    def allowed(self) -> float:
        """Disagreement among the rows that the student answers at which the agreement is just kept, 0 to 1."""
        found = self.calibration
        return min(1.0, (1.0 - found.agreement) * found.rows / max(1, found.answered))


def read_calibration(path: Path) -> Calibration:
    """A calibration from its file. Raises `SetupError`."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Calibration)
    except (OSError, msgspec.MsgspecError) as error:
        raise SetupError(f"the calibration {path} cannot be read: {error}") from None


def rules_for(model: str, settings: ModelSettings, signature: Signature, *, streams: bool) -> CascadeRules | None:
    """The rules of a model with `cascade`, whose file is read; None: it has no student. What depends on the student
    that is served is left to `check_pair`. Raises `SetupError`."""
    if settings.cascade is None:
        if settings.cascade_student is not None:
            raise SetupError(
                f"{model}: cascade_student = {settings.cascade_student!r} needs a calibration; measure with `forebay "
                'cascade TEACHER STUDENT --samples FILE --out cascade.json` and set cascade = "cascade.json"'
            )
        return None
    calibration = read_calibration(settings.cascade)
    student = settings.cascade_student or calibration.student_name
    if model in (student, student.rpartition("/")[0]):
        raise SetupError(f"{model}: its student is {student!r}, the model itself; set {model}.cascade_student")
    if streams or not signature.batched:
        why = "it yields its answer in pieces" if streams else "it takes one request at a time, without a batch axis"
        raise SetupError(f"{model}: a cascade decides row by row, and {why}")
    if calibration.output not in [spec.name for spec in signature.outputs]:
        raise SetupError(
            f"{model}: the calibration {settings.cascade} is about output {calibration.output!r}, and the model has "
            f"{', '.join(spec.name for spec in signature.outputs)}; calibrate anew"
        )
    return CascadeRules(student=student, calibration=calibration, shadow_rate=settings.cascade_shadow_rate)


def check_measured(model: str, rules: CascadeRules, teacher: str, student: str) -> None:
    """Whether the rules hold for models of these digests. Raises `SetupError`."""
    found = rules.calibration
    for which, measured, served in (("teacher", found.teacher, teacher), ("student", found.student, student)):
        if measured != served:
            raise SetupError(
                f"{model}: the calibration was made with another {which} than the one served; calibrate anew: forebay "
                "cascade TEACHER STUDENT --samples FILE"
            )
