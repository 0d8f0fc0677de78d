"""The search: every recipe is built, measured and judged, each in processes of its own."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import msgspec

from forebay.core.errors import SetupError
from forebay.core.tensors import Array
from forebay.models.artefact import ServedWith
from forebay.models.references import importable
from forebay.models.repository import PYTHON_FILE
from forebay.models.source import digest_of, model_files, open_source
from forebay.optimize import agreement, gate, heads, invariance, processes, speed, usable, wire
from forebay.optimize.builder import open_candidate
from forebay.optimize.candidates.port import Candidate
from forebay.optimize.compared import Answers, Compared, others_of, told
from forebay.optimize.goals import Asked, goals_for
from forebay.optimize.metric import check_original, open_metric
from forebay.optimize.processes import CandidateError, Probe
from forebay.optimize.report import ORIGINAL, CandidateReport
from forebay.optimize.samples import Split, length_of, shape_of
from forebay.optimize.signatures import check_same, compared_output
from forebay.optimize.sources.port import Original

_AGAIN = 64
"""Held-out samples that are run in company, and once more at the end."""
_MOVED = 8
"""Of them, those that are run again where the artefact is to be served from."""
_LOAD_TIMEOUT_S = 120.0
_BUILD_TIMEOUT_S = 1800.0


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
        self.rows = work / "rows.msgpack"  # those that were held out first
        self._calibration = work / "calibration.msgpack"
        held, calibration = split.held_out, split.calibration
        wire.write_rows(self.rows, [*held.rows, *calibration.rows])
        wire.write_rows(self._calibration, calibration.rows)
        self._moved: dict[str, list[Array]] = {}
        self._probe = self._open_original(original)
        try:
            self._take_measure(asked)
            self.original = self._report_original()
        except CandidateError as error:
            self.close()
            raise SetupError(
                f"{original.path}: the original cannot be measured with these samples: {error.detail}",
                code="model_load_error",
            ) from None
        except BaseException:
            self.close()
            raise

    def _take_measure(self, asked: Asked) -> None:
        """What the original answers, and with that the goals, the batches and the time that is fair."""
        held, calibration = self._split.held_out, self._split.calibration
        names = list(self._probe.loaded.outputs)
        self.output = compared_output(self._probe.loaded, asked.output)
        place = names.index(self.output)
        usable.check_taken([held, calibration], self.refuses)
        started = time.monotonic()
        self._alone = self._answers(self._probe, range(len(held)))
        took_s = time.monotonic() - started
        self._timeout_s = 60.0 + 30.0 * took_s
        alone = [outputs[place] for outputs in self._alone]
        # By these recipes calibrate: one NaN would spoil the scales of a whole graph unseen.
        also = self._answers(self._probe, range(len(held), len(held) + len(calibration)))
        seen = [outputs[place] for outputs in also]
        usable.check_answers([(held, alone), (calibration, seen)], self.output, "name another output with --output")
        self.head = self._head(asked, seen)
        self.goals = goals_for(asked, self.output, alone, labelled=bool(held.labels))
        labels = held.labels if self.head is not None else ()
        own = open_metric(self.goals.function, held.labels) if self.goals.metric == "own" else None
        if own is not None:
            check_original(own, alone)
        self._compared = Compared(self.output, place, self.goals, alone, labels, self.head, own)
        if blind := self._compared.blind():
            raise SetupError(
                f"these samples tell nothing: a model that answers one and the same to everything would pass ({blind}, "
                f"by --metric {self.goals.metric_name}, --max-drop {self.goals.max_drop:g}). Give samples of all kinds "
                "and labels that are the model's, a smaller --max-drop, or another --metric"
            )
        self._others = [] if asked.output is not None else others_of(asked, names, self.output, self._alone)
        for one in self._others:
            mend = f"say that nobody uses it: with --output {self.output} that output alone counts"
            usable.check_answers([(held, one.alone)], one.name, mend)
        sizes = speed.sizes_for(self._effort.sizes, took_s / len(held), self._effort.round_s)
        self._batches = invariance.company(min(len(held), _AGAIN), max(sizes), self._split.seed)
        self._plan = speed.plan([length_of(row) for row in held.rows], sizes)
        # Their rows stand behind those that were held out.
        new = speed.plan([length_of(row) for row in calibration.rows], sizes)
        self._new = {size: [[len(held) + i for i in batch] for batch in these] for size, these in new.items()}

    @property
    def refuses(self) -> Mapping[str, tuple[str, ...]]:
        """What the original takes nowhere in an input, see `TensorSpec`."""
        return self._probe.loaded.refuses

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

    def check_moved(self, report: CandidateReport, model: str, rows: Path) -> None:
        """Notes in the report where an artefact does not answer as it did from the place where it is now.

        model: as in the report, there. rows: where the file of rows is now.
        """
        if digest_of(open_source(model)) != report.model_sha256:
            report.reason, report.detail = "not_repeatable", "its model file was written to while it was measured"
            return
        wanted = self._moved[report.name]
        try:
            load = self._load(model, report.served_with, rows)
            with Probe(load, max(_LOAD_TIMEOUT_S, self._timeout_s)) as probe:
                found = self._compared.of(self._answers(probe, range(len(wanted))))
        except CandidateError as error:
            report.reason, report.detail = "not_movable", f"it works only where it was made: {error.detail}"
            return
        gap = max(map(_gap, wanted, found))
        if gap > self._compared.tolerance:
            report.reason, report.detail = "not_movable", f"answers change by up to {gap:.2g} where it is moved"

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
        with importable(reference):
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
            artefact = open_source(str(folder / made.model))
            report.model_sha256 = digest_of(artefact)
        except (SetupError, OSError) as error:
            raise CandidateError("build_failed", str(error)) from None
        if artefact.runtime == "python" and artefact.path != str(folder.absolute() / PYTHON_FILE):
            raise CandidateError("build_failed", f"{made.model}: call the file {PYTHON_FILE}, as a repository takes it")

    def _measure(self, report: CandidateReport) -> None:
        self._watcher.says(report.name, "loading")
        load = self._load(str(self.folder_of(report) / report.model), report.served_with)
        with Probe(load, max(_LOAD_TIMEOUT_S, self._timeout_s)) as probe:
            report.load_s = probe.loaded.seconds
            check_same(self._probe.loaded, probe.loaded)
            self._watcher.says(report.name, "comparing answers")
            held = self._split.held_out
            answers = self._answers(probe, range(len(held)))
            _same_shapes(list(self._probe.loaded.outputs), answers, self._alone)
            alone = self._compared.of(answers)
            report.agreement = self._compared.agreement(alone)
            report.others = [told(one, one.agreement(one.of(answers))) for one in self._others]
            report.worst = agreement.worst_samples(
                self._compared.alone, alone, held.numbers, [held.shown(index) for index in range(len(held))]
            )
            report.peak_memory_bytes = probe.peak_bytes
            if not report.agreement.finite or any(not other.agreement.finite for other in report.others):
                return
            self._watcher.says(report.name, "looking for batch variance")
            self._look_at_batches(probe, answers, report)
            self._watcher.says(report.name, "timing against the original")
            passes = gate.check(self.goals, self.original, report) is None
            rounds = self._effort.rounds if passes else self._effort.rounds_rejected
            rates = speed.measure(self._probe.time, probe.time, self._plan, rounds, self._effort.round_s)
            report.speed = speed.summarise(*rates, self.goals.slo_ms)
            report.peak_memory_bytes = probe.peak_bytes
            if gate.check(self.goals, self.original, report) is None:
                self._watcher.says(report.name, "asking once more")
                self._ask_again(probe, answers)
                self._time_new(probe)
            self._moved[report.name] = alone[:_MOVED]

    def _ask_again(self, probe: Probe, answers: Answers) -> None:
        """Raises `CandidateError` where samples that were answered before are answered differently now."""
        again = self._answers(probe, range(min(len(answers), _AGAIN)))
        for one in [self._compared, *self._others]:
            gap = max(map(_gap, one.of(answers), one.of(again)))
            if not gap <= one.tolerance:
                raise CandidateError(
                    "not_repeatable", f"a sample that is asked again gets another answer, by up to {gap:.2g}"
                )

    def _time_new(self, probe: Probe) -> None:
        """Raises `CandidateError` where rows that it has not seen take much longer, so that its speed is not one."""
        rows = [*self._split.held_out.rows, *self._split.calibration.rows]
        for size in sorted(self._new):
            seen = {shape_of([rows[i] for i in batch]): batch for batch in self._plan.get(size, ())}
            shapes = [(shape_of([rows[i] for i in batch]), batch) for batch in self._new[size]]
            pairs = [(seen[shape], batch) for shape, batch in shapes if shape in seen]
            if len(pairs) >= speed.PAIRS:
                slowed = speed.slowed_by_new(self._probe.time, probe.time, speed.spread(pairs, speed.PAIRS))
                if slowed > speed.SLOWED_BY_NEW:
                    raise CandidateError(
                        "remembers", f"new rows take {slowed:.1f} times as long as rows that it has seen before"
                    )
                return

    def _look_at_batches(self, probe: Probe, alone: Answers, report: CandidateReport) -> None:
        answers = self._run(probe, self._batches)
        try:
            found = self._compared.invariance(self._compared.of(alone), self._batches, answers)
            for one in self._others:
                other = one.invariance(one.of(alone), self._batches, answers)
                if found.holds and not other.holds:
                    found = other
        except ValueError as error:
            raise CandidateError("wrong_signature", str(error)) from None
        report.invariance = found

    def _report_original(self) -> CandidateReport:
        report = CandidateReport(
            name=ORIGINAL,
            meaning="the original",
            runtime=open_source(self._source.model).runtime,
            # Of an export the path ends with the search: its file's name stays, as of a candidate.
            model=self._source.model if self._source.servable else Path(self._source.model).name,
        )
        self._watcher.begins(report.name, report.meaning)
        report.load_s = self._probe.loaded.seconds
        report.model_sha256 = digest_of(open_source(self._source.model))
        report.size_bytes = size_of(*model_files(open_source(self._source.model)))
        report.agreement = self._compared.agreement(self._compared.alone)
        report.others = [told(one, one.agreement(one.alone)) for one in self._others]
        self._look_at_batches(self._probe, self._alone, report)
        rates = speed.alone(self._probe.time, self._plan, self._effort.round_s)
        report.speed = speed.summarise(rates, rates, self.goals.slo_ms)
        report.peak_memory_bytes = self._probe.peak_bytes
        self._moved[report.name] = list(self._compared.alone[:_MOVED])
        self._watcher.ends(report)
        return report

    def _open_original(self, original: Original) -> Probe:
        try:
            load = self._load(original.model, ServedWith())
            return Probe(msgspec.structs.replace(load, trust=original.trust), _LOAD_TIMEOUT_S)
        except CandidateError as error:
            raise SetupError(f"{original.path}: {error.detail}", code="model_load_error") from None

    def _load(self, model: str, served_with: ServedWith, rows: Path | None = None) -> wire.Load:
        return wire.Load(model, self._threads, served_with, str(rows or self.rows), sys.path)

    def _head(self, asked: Asked, fitted: Sequence[Array]) -> heads.Head | None:
        """fitted: the compared output of the calibration samples."""
        held, calibration = self._split.held_out, self._split.calibration
        if not held.labels:
            if asked.head != "auto":
                raise SetupError(f"--head {asked.head} judges by labels, and the samples have none; leave it away")
            return None
        try:
            return heads.choose_head(asked.head, fitted, calibration.labels)
        except SetupError:
            if asked.metric in (None, "accuracy"):
                raise
            return None  # the goal is another one, and accuracy would only have been told

    def _answers(self, probe: Probe, indices: Sequence[int]) -> list[list[Array]]:
        """All outputs of samples, each run alone, without the batch axis."""
        # With `...` the one text of a row stays an array.
        return [[output[0, ...] for output in outputs] for outputs in self._run(probe, [[index] for index in indices])]

    def _run(self, probe: Probe, batches: Sequence[Sequence[int]]) -> list[list[Array]]:
        """The outputs of batches, in the order of the original's signature."""
        mine = list(probe.loaded.outputs)
        places = [mine.index(name) for name in self._probe.loaded.outputs]
        return [[outputs[place] for place in places] for outputs in probe.answer(batches)]


def size_of(*paths: Path) -> int:
    """Bytes of files, and of all files in folders. What is not there has none."""
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file())


def _gap(one: Array, other: Array) -> float:
    """Largest difference of two answers; of texts 0 or 1; infinite where their shapes differ."""
    if one.shape != other.shape:
        return float("inf")
    if one.dtype.kind in "OSU":
        return float(one.tolist() != other.tolist())
    return agreement.sample_error(one, other)


def _same_shapes(names: Sequence[str], mine: Answers, theirs: Answers) -> None:
    """Raises `CandidateError` where an output of some sample has not the shape of the original's."""
    for candidate, original in zip(mine, theirs, strict=True):
        for name, value, wanted in zip(names, candidate, original, strict=True):
            if value.shape != wanted.shape:
                raise CandidateError(
                    "wrong_signature", f"output {name!r} of a row is {list(value.shape)}, not {list(wanted.shape)}"
                )
