"""The search: every recipe is built, measured and judged, each in processes of its own."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from forebay.core.errors import SetupError
from forebay.core.tensors import Array
from forebay.models.artefact import ServedWith
from forebay.models.source import digest_of, open_source
from forebay.optimize import agreement, gate, heads, invariance, processes, speed, wire
from forebay.optimize.builder import open_candidate
from forebay.optimize.candidates.port import Candidate
from forebay.optimize.goals import Asked, goals_for
from forebay.optimize.processes import CandidateError, Probe
from forebay.optimize.report import ORIGINAL, CandidateReport, Invariance
from forebay.optimize.samples import Split, length_of
from forebay.optimize.sources.port import Original

_INVARIANCE_SAMPLES = 64
"""Held-out samples that are run in company; each in a dozen batches."""
_LOAD_TIMEOUT_S = 120.0
_BUILD_TIMEOUT_S = 1800.0
_FLOATS = ("FP16", "FP32", "FP64")


class Watcher(Protocol):
    """Is told how the search goes on."""

    def begins(self, name: str, meaning: str) -> None:
        """A candidate's turn."""
        ...

    def says(self, name: str, text: str) -> None:
        """What it is at."""
        ...

    def ends(self, report: CandidateReport) -> None:
        """It was measured and judged."""
        ...


class Search:
    """One search over candidates (`module:Class`). `work`: an empty folder, in which artefacts are left."""

    def __init__(self, original: Original, split: Split, asked: Asked, work: Path, watcher: Watcher) -> None:
        """Opens and measures the original. Raises `SetupError` where that cannot be."""
        self._source, self._split, self._threads = original, split, asked.threads
        self._effort, self._work, self._watcher = asked.effort, work, watcher
        self._rows = work / "rows.msgpack"
        self._calibration = work / "calibration.msgpack"
        held, calibration = split.held_out, split.calibration
        wire.write_rows(self._rows, [*held.rows, *calibration.rows])
        wire.write_rows(self._calibration, calibration.rows)
        self._probe = self._open_original(original)
        try:
            self.output, self._place = _compared_output(self._probe, asked.output)
            started = time.monotonic()
            self._alone = self._answers(self._probe, range(len(held)))
            self._timeout_s = 60.0 + 30.0 * (time.monotonic() - started)
            self.head: heads.Head | None = None
            if held.labels:
                fitted = self._answers(self._probe, range(len(held), len(held) + len(calibration)))
                self.head = heads.choose_head(asked.head, fitted, calibration.labels)
            self.goals = goals_for(asked, self.output, self._alone, labelled=bool(held.labels))
            self._batches = invariance.company(min(len(held), _INVARIANCE_SAMPLES), max(self._effort.sizes), split.seed)
            self._plan = speed.plan([length_of(row) for row in held.rows], self._effort.sizes)
            self.original = self._report_original()
        except CandidateError as error:
            self.close()
            raise SetupError(f"the original cannot be measured: {error.detail}", code="model_load_error") from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the original's process."""
        self._probe.close()

    def run(self, references: Sequence[str]) -> list[CandidateReport]:
        """Judge candidates one after the other."""
        (self._work / "shared").mkdir(exist_ok=True)
        return [self._judged(reference) for reference in references]

    def folder_of(self, report: CandidateReport) -> Path:
        """Where a candidate's artefact is."""
        return self._work / report.name

    def _judged(self, reference: str) -> CandidateReport:
        candidate = open_candidate(reference)
        report = CandidateReport(name=candidate.name, meaning=candidate.meaning, runtime=candidate.runtime)
        self._watcher.begins(report.name, report.meaning)
        try:
            self._build(reference, candidate, report)
            self._measure(report)
        except CandidateError as error:
            report.reason, report.detail = error.reason, error.detail
        verdict = gate.check(self.goals, self.original, report)
        if verdict is not None:
            report.reason, report.detail = verdict
        self._watcher.ends(report)
        return report

    def _build(self, reference: str, candidate: Candidate, report: CandidateReport) -> None:
        source = self._source
        if candidate.kinds and source.kind not in candidate.kinds:
            raise CandidateError("not_applicable", f"it is for {', '.join(candidate.kinds)}")
        if not candidate.kinds and source.graph is None:
            raise CandidateError("not_applicable", source.note or "there is no ONNX graph")
        lacking = [name for name in candidate.modules if find_spec(name) is None]
        if lacking:
            raise CandidateError("missing_library", f"{', '.join(lacking)}; pip install 'forebay[{candidate.extra}]'")
        folder = self.folder_of(report)
        folder.mkdir(parents=True)
        request = wire.Build(
            candidate=reference,
            model=source.model,
            graph=str(source.graph or ""),
            kind=source.kind,
            rows=str(self._calibration),
            labels=self._split.calibration.labels,
            head=self.head.name if self.head else "",
            folder=str(folder),
            shared=str(self._work / "shared"),
            output=self.output,
            goals=self.goals,
            path=sys.path,
        )
        started = time.monotonic()
        self._watcher.says(report.name, "building")
        made = processes.build(request, _BUILD_TIMEOUT_S, lambda text: self._watcher.says(report.name, text))
        report.build_s = time.monotonic() - started
        report.model, report.note, report.layers = made.model, made.note, made.layers
        report.served_with = made.served_with
        report.size_bytes = size_of(folder)
        try:
            report.model_sha256 = digest_of(open_source(str(folder / made.model)))
        except (SetupError, OSError) as error:
            raise CandidateError("build_failed", str(error)) from None

    def _measure(self, report: CandidateReport) -> None:
        self._watcher.says(report.name, "loading")
        load = self._load(str(self.folder_of(report) / report.model), report.served_with)
        with Probe(load, max(_LOAD_TIMEOUT_S, self._timeout_s)) as probe:
            report.load_s = probe.loaded.seconds
            _same_signature(self._probe.loaded, probe.loaded)
            self._watcher.says(report.name, "comparing answers")
            held = self._split.held_out
            alone = self._answers(probe, range(len(held)))
            for mine, theirs in zip(alone, self._alone, strict=True):
                if mine.shape != theirs.shape:
                    raise CandidateError("wrong_signature", f"a row is {list(mine.shape)}, not {list(theirs.shape)}")
            report.agreement = agreement.compare(self._alone, alone, held.labels, self.head)
            report.worst = agreement.worst_samples(
                self._alone, alone, [held.shown(index) for index in range(len(held))]
            )
            report.peak_memory_bytes = probe.peak_bytes
            if not report.agreement.finite:
                return
            self._watcher.says(report.name, "looking for batch variance")
            report.invariance = self._invariance(probe, alone)
            self._watcher.says(report.name, "timing against the original")
            rounds = self._effort.rounds
            if gate.check(self.goals, self.original, report) is not None:
                rounds = self._effort.rounds_rejected
            rates = speed.measure(self._probe.time, probe.time, self._plan, rounds, self._effort.round_s)
            report.speed = speed.summarise(*rates, self.goals.slo_ms)
            report.peak_memory_bytes = probe.peak_bytes

    def _report_original(self) -> CandidateReport:
        held = self._split.held_out
        report = CandidateReport(
            name=ORIGINAL,
            meaning="the original",
            runtime=open_source(self._source.model).runtime,
            model=self._source.model,
        )
        self._watcher.begins(report.name, report.meaning)
        report.load_s = self._probe.loaded.seconds
        report.model_sha256 = digest_of(open_source(self._source.model))
        report.size_bytes = size_of(Path(self._source.model))
        report.agreement = agreement.compare(self._alone, self._alone, held.labels, self.head)
        if not report.agreement.finite:
            raise SetupError("the original itself answers NaN or infinity on these samples; there is nothing to keep")
        report.invariance = self._invariance(self._probe, self._alone)
        rates = speed.alone(self._probe.time, self._plan, self._effort.round_s)
        report.speed = speed.summarise(rates, rates, self.goals.slo_ms)
        report.peak_memory_bytes = self._probe.peak_bytes
        self._watcher.ends(report)
        return report

    def _open_original(self, original: Original) -> Probe:
        try:
            return Probe(self._load(original.model, ServedWith()), _LOAD_TIMEOUT_S)
        except CandidateError as error:
            raise SetupError(f"{original.path}: {error.detail}", code="model_load_error") from None

    def _load(self, model: str, served_with: ServedWith) -> wire.Load:
        return wire.Load(model, self._threads, served_with, str(self._rows), sys.path)

    def _answers(self, probe: Probe, indices: Sequence[int]) -> list[Array]:
        """The compared output of samples, each run alone."""
        return [outputs[self._place][0] for outputs in probe.answer([[index] for index in indices])]

    def _invariance(self, probe: Probe, alone: Sequence[Array]) -> Invariance:
        answers = [outputs[self._place] for outputs in probe.answer(self._batches)]
        tolerance = self.goals.batch_tolerance * agreement.scale_of(self._alone) if alone[0].dtype.kind == "f" else 0.0
        return invariance.judge(alone, self._batches, answers, tolerance)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _compared_output(probe: Probe, wanted: str | None) -> tuple[str, int]:
    """Name and place of the output that is compared: the one asked for, else the first of floats, else the first.

    Raises `SetupError` for a name that is not there.
    """
    names = list(probe.loaded.outputs)
    if wanted is not None:
        if wanted not in names:
            raise SetupError(f"--output {wanted}: the model has {', '.join(names)}")
        return wanted, names.index(wanted)
    floats = [name for name, (datatype, _) in probe.loaded.outputs.items() if datatype in _FLOATS]
    name = (floats or names)[0]
    return name, names.index(name)


def _same_signature(original: wire.Loaded, candidate: wire.Loaded) -> None:
    """Raises `CandidateError` where a client would notice the change."""
    for what, mine, theirs in (
        ("inputs", original.inputs, candidate.inputs),
        ("outputs", original.outputs, candidate.outputs),
    ):
        had = {name: (datatype, len(shape)) for name, (datatype, shape) in mine.items()}
        has = {name: (datatype, len(shape)) for name, (datatype, shape) in theirs.items()}
        if had != has:
            raise CandidateError("wrong_signature", f"{what} are {theirs}, the original's {mine}")
