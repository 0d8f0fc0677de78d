"""What a search found, as it is written to `report.json`. Names and meanings are stable within a `format`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from forebay.models.artefact import ServedWith
from forebay.models.source_files import SourceFile

FORMAT = 1
ORIGINAL = "fp32"
"""Name of the original, which is measured like a candidate."""

Reason = Literal[
    "not_applicable",
    "missing_library",
    "build_failed",
    "crashed",
    "timed_out",
    "wrong_signature",
    "not_finite",
    "disagrees",
    "batch_variant",
    "not_repeatable",
    "slower",
    "misses_slo",
    "remembers",
    "not_movable",
]
"""Why a candidate was rejected. `not_applicable` and `missing_library`: it was not built. `not_repeatable`: the same
sample is answered differently later. `remembers`: it is quick only with rows that it has seen. `not_movable`: it works
only in the folder in which it was made."""


Metric = Literal["cosine", "top1", "max_error", "accuracy", "own"]
"""`own`: a function of the user's."""
METRICS: tuple[Metric, ...] = ("cosine", "top1", "max_error", "accuracy")
"""Those that have a name."""


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """Answers of a candidate against the original's, each held-out sample alone. None: does not apply.

    Errors are absolute, and `scale` is the largest absolute value that the original answered.
    """

    samples: int
    finite: bool
    mean_cosine: float | None = None
    min_cosine: float | None = None
    length_error: float | None = None
    """Mean share by which vectors are longer or shorter than the original's, which a cosine does not see."""
    top1: float | None = None
    max_error: float | None = None
    scale: float | None = None
    distance: float | None = None
    """Of all answers together, as a share of the original's length; of floats only."""
    accuracy: float | None = None
    """Share of labels that are right: by the largest output, or by the head."""
    own: float | None = None
    """What the user's own metric says."""
    own_failed: str = ""
    """Why it says nothing."""


class Invariance(msgspec.Struct, frozen=True, kw_only=True):
    """A sample alone against the same sample in batches with others, over `compared` such pairs."""

    compared: int
    max_error: float
    min_cosine: float | None
    tolerance: float
    """Largest `max_error` that counts as the same answer."""
    holds: bool
    finite: bool = True
    """No answer in a batch holds NaN or infinity."""
    output: str = ""
    """Which output this is about, where it is not the one that is compared."""


class OtherOutput(msgspec.Struct, frozen=True, kw_only=True):
    """An output besides the one that is compared. It has to hold a looser goal: that it is still the same output."""

    name: str
    metric: Metric
    max_drop: float
    agreement: Agreement


class BatchSpeed(msgspec.Struct, frozen=True, kw_only=True):
    """Batches of `rows` rows on one instance: medians over interleaved rounds."""

    rows: int
    batch_ms: float
    rows_per_s: float
    ratio: float
    """Rows a second against the original's in the same rounds."""


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """`speedup`: the candidate's highest rows a second against the original's, within the SLO if there is one."""

    batches: list[BatchSpeed]
    rows_per_s: float
    speedup: float


class LayerError(msgspec.Struct, frozen=True, kw_only=True):
    """What one part of the graph costs when it alone is in 8 bits: error of the model's output against the original."""

    name: str
    kind: str
    """Operator."""
    error: float
    excluded: bool
    """It stayed in floating point."""


class WorstSample(msgspec.Struct, frozen=True, kw_only=True):
    """A held-out sample on which a candidate and the original differ most."""

    sample: int
    """Its number in the file, from 1."""
    shown: str
    """Its text, or its first numbers."""
    error: float | None
    """None: its answer is not finite."""
    original: list[float]
    candidate: list[float]
    """The first values of the compared output, for both."""


class CandidateReport(msgspec.Struct, kw_only=True):
    """One candidate: what it is, what was measured, and why it was rejected (`reason` None: it passed)."""

    name: str
    meaning: str
    runtime: str
    reason: Reason | None = None
    detail: str = ""
    note: str = ""
    model: str = ""
    """As a MODEL argument; of a candidate, and of an original that was exported, the file's name in its folder."""
    model_sha256: str = ""
    served_with: ServedWith = ServedWith()
    size_bytes: int = 0
    peak_memory_bytes: int = 0
    load_s: float = 0.0
    build_s: float = 0.0
    agreement: Agreement | None = None
    others: list[OtherOutput] = []
    invariance: Invariance | None = None
    speed: Speed | None = None
    layers: list[LayerError] = []
    worst: list[WorstSample] = []


class Goals(msgspec.Struct, frozen=True, kw_only=True):
    """What a candidate has to hold."""

    metric: Metric
    max_drop: float
    """cosine, top1: 1 minus the mean; max_error: absolute; accuracy, own: the original's minus the candidate's."""
    function: str = ""
    """`module:function` or `file.py:function` where the metric is the user's own."""
    batch_invariance: bool = True
    batch_tolerance: float = 1e-4
    """Share of the original's largest absolute value."""
    min_speedup: float = 1.03
    slo_ms: float | None = None

    @property
    def metric_name(self) -> str:
        """As it was asked for."""
        return self.function or self.metric


class SourceReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was optimised."""

    name: str
    path: str
    kind: str
    sha256: str
    note: str = ""
    files: tuple[SourceFile, ...] = ()
    """What it depends on besides: files that a factory was seen to read, and those that were named."""
    refuses: Mapping[str, tuple[str, ...]] = {}
    """Input name to those of "nan" and "inf" that it takes nowhere there; every form of it refuses them, too."""


class SampleReport(msgspec.Struct, frozen=True, kw_only=True):
    """The samples and how they were split."""

    path: str
    sha256: str
    calibration: int
    held_out: int
    labelled: bool
    seed: int
    head: str
    """How labels are judged: `` (no labels), `argmax`, `threshold` or `ridge`."""
    duplicates: int = 0
    """Samples of the file that were left out, since others are the same."""
    shortest: int = 0
    longest: int = 0
    """Elements of all inputs of the held-out samples: nothing is known of longer ones."""
    tokenizer: str = ""
    """File that made tokens of texts, and the most that it makes of one; empty: none was needed."""
    max_tokens: int = 0


class MachineReport(msgspec.Struct, frozen=True, kw_only=True):
    """Where it was measured. `threads`: of one instance."""

    processor: str
    isa: tuple[str, ...]
    cores: int
    threads: int
    versions: Mapping[str, str]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """`report.json`. `chosen`: the candidate that is served; None: none passed the gate."""

    format: int = FORMAT
    started_at: str
    """UTC, ISO 8601."""
    seconds: float
    source: SourceReport
    samples: SampleReport
    goals: Goals
    machine: MachineReport
    output: str
    """The output of the model that was compared."""
    original: CandidateReport
    candidates: list[CandidateReport]
    chosen: str | None


def megabytes(count: int) -> str:
    """Bytes for a table, with digits enough for a model of a few thousand; empty: they are not known."""
    millions = count / 1e6
    return "" if not count else f"{millions:.1f}" if millions >= 1 else f"{millions:.2g}"


def read_report(content: bytes) -> Report:
    """A report of this format. Raises `ValueError` for any other bytes."""
    report = msgspec.json.decode(content, type=Report)
    if report.format != FORMAT:
        raise ValueError(f"the report has format {report.format}, this version of Forebay reads {FORMAT}")
    return report


class _Head(msgspec.Struct):
    command: str = ""


def is_of_others(content: bytes) -> bool:
    """Whether a report is one of another command, which says so in it."""
    try:
        return bool(msgspec.json.decode(content, type=_Head).command)
    except msgspec.MsgspecError:
        return False
