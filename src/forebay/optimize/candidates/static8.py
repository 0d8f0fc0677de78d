"""Weights and activations in 8 bits, with ranges that calibration samples fixed beforehand (QDQ)."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from forebay.core.tensors import Array
from forebay.optimize.candidates.port import FILE, Artefact, GraphRecipe, NotApplicableError, Work
from forebay.optimize.candidates.weights8 import with_weights8
from forebay.optimize.exclusion import exclude, rank
from forebay.optimize.graphs import COMPUTE, PASSED_THROUGH, compute_nodes, has, prepare, saturates
from forebay.optimize.report import LayerError
from forebay.optimize.samples import Row, batch_of
from forebay.optimize.smoothing import smooth

CALIBRATED_ROWS = 128
_RANKING = "static8-ranking.json"


class Ranking(msgspec.Struct, frozen=True):
    """Error of each part alone, as `Judge.error` gives it, with the loudest channels in floating point or not."""

    loud: bool
    errors: dict[str, float]


class Found(msgspec.Struct, frozen=True):
    """What a search for layers to leave out came to."""

    note: str
    layers: list[LayerError]


class Static8(GraphRecipe):
    """ONNX Runtime's static quantisation as it comes: every operator that it knows."""

    name = "static-int8"
    meaning = "weights and activations in 8 bits by calibrated ranges, every operator"

    def build(self, work: Work) -> Artefact:
        """See `Candidate.build`."""
        import onnx

        quantizer = StaticQuantizer(work, everything=True)
        made = quantizer.quantized([])
        if not has(made, ("QuantizeLinear",)):
            raise NotApplicableError("ONNX Runtime leaves every layer of this graph in floating point")
        onnx.save(made, str(work.folder / FILE))
        return Artefact(FILE, f"{len(quantizer.parts)} layers")


class Static8Excluded(GraphRecipe):
    """Only layers with weights, and of these only as many as the gate bears: the layers are ranked by what each alone
    does to the output, and left in floating point from the worst one on until the calibration samples hold the gate.
    """

    name = "static-int8-excluded"
    meaning = "as static-int8, layers with weights only, without those that hurt"
    fills = False
    """Whether excluded MatMuls get 8-bit weights instead of staying in floating point."""

    def build(self, work: Work) -> Artefact:
        """See `Candidate.build`."""
        file, found = self.found(work)
        shutil.copyfile(file, work.folder / FILE)
        return Artefact(FILE, found.note, found.layers)

    def found(self, work: Work) -> tuple[Path, Found]:
        """The graph as an ONNX file, and what the search for it came to; it is done once for all recipes."""
        stem = "static8-filled" if self.fills else "static8-excluded"
        file, note = work.shared / f"{stem}.onnx", work.shared / f"{stem}.json"
        if note.is_file():
            return file, msgspec.json.decode(note.read_bytes(), type=Found)
        found = self._searched(work, file)
        note.write_bytes(msgspec.json.encode(found))
        return file, found

    def _searched(self, work: Work, file: Path) -> Found:
        import onnx

        assert work.graph is not None
        work.judge.original(work.graph)
        quantizer, errors = self._ranked(work)
        ranking = rank(errors)
        work.progress(f"excluding layers, {len(ranking)} ranked")
        found = exclude(ranking, lambda excluded: work.judge.holds(self._made(quantizer, excluded).SerializeToString()))
        if not found.holds:
            raise NotApplicableError("no layer can be in 8 bits without missing the goal on the calibration samples")
        onnx.save(self._made(quantizer, found.excluded), str(file))
        note = f"{len(found.excluded)} of {len(ranking)} layers left out after {found.tried} tries"
        if quantizer.loud:
            note += f", the loudest channels of {len(quantizer.loud)} in floating point"
        layers = [
            LayerError(name=name, kind=quantizer.parts[name], error=errors[name], excluded=name in found.excluded)
            for name in ranking
        ]
        return Found(note, layers)

    def _made(self, quantizer: StaticQuantizer, excluded: Sequence[str]) -> Any:
        model = quantizer.quantized(excluded)
        return with_weights8(model, sorted(quantizer.loud)) if self.fills else model

    def _ranked(self, work: Work) -> tuple[StaticQuantizer, dict[str, float]]:
        """The quantiser, and the error of each part alone; both are found once a search. Loud channels are taken out
        only where the goal is missed without.
        """
        file = work.shared / _RANKING
        if file.is_file():
            known = msgspec.json.decode(file.read_bytes(), type=Ranking)
            return StaticQuantizer(work, everything=False, loud=known.loud), known.errors
        quantizer = StaticQuantizer(work, everything=False)
        loud = not work.judge.holds(quantizer.quantized([]).SerializeToString())
        if loud:
            quantizer = StaticQuantizer(work, everything=False, loud=True)
        errors: dict[str, float] = {}
        for number, part in enumerate(quantizer.parts, 1):
            work.progress(f"error of layer {number} of {len(quantizer.parts)}")
            others = [name for name in quantizer.parts if name != part]
            errors[part] = work.judge.error(quantizer.quantized(others).SerializeToString())
        file.write_bytes(msgspec.json.encode(Ranking(loud, errors)))
        return quantizer, errors


class Static8Filled(Static8Excluded):
    """The same, and MatMuls that are left out get 8-bit weights, which bear more: they round by row and block."""

    name = "static-int8-filled"
    meaning = "as static-int8-excluded, with weights-int8 where layers are left out"
    modules = ("onnx", "onnx_ir")
    fills = True


class StaticQuantizer:
    """One model and the calibrated ranges of its tensors. `parts`: what can be excluded by itself, and its operator;
    `loud`: MatMuls that are never in 8 bits.

    everything: whatever ONNX Runtime knows, MatMuls of two activations too; else what holds weights, and what lies
    between convolutions. loud: the loudest channels may be taken out.
    """

    def __init__(self, work: Work, *, everything: bool, loud: bool = False) -> None:
        import onnx
        from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator
        from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

        assert work.graph is not None
        self._model = prepare(work.graph)
        self.loud: frozenset[str] = frozenset()
        if not everything:
            work.progress("smoothing")
            smoothed = smooth(self._model, work.calibration[:CALIBRATED_ROWS], loud=loud)
            self._model, self.loud = smoothed.model, smoothed.loud
        self.parts = {node.name: node.op_type for node in compute_nodes(self._model) if node.name not in self.loud}
        if not self.parts:
            raise NotApplicableError("no Conv, Gemm or MatMul has constant weights")
        between = PASSED_THROUGH if has(self._model, ("Conv",)) else ()
        self._kinds = sorted({*QDQRegistry, *QLinearOpsRegistry}) if everything else [*COMPUTE, *between]
        self._options = {} if everything else {"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]}
        # Products of two activations (attention) gain little and lose much.
        names = [node.name for node in self._model.graph.node if node.op_type in COMPUTE]
        self._never = [] if everything else [name for name in names if name not in self.parts]
        work.progress("calibrating")
        with tempfile.TemporaryDirectory() as folder:
            plain, augmented = Path(folder, "plain.onnx"), Path(folder, "augmented.onnx")
            onnx.save(self._model, str(plain))
            calibrator = create_calibrator(
                plain, self._kinds, augmented_model_path=str(augmented), calibrate_method=CalibrationMethod.MinMax
            )
            calibrator.collect_data(_Reader(work.calibration[:CALIBRATED_ROWS]))
            self._ranges = calibrator.compute_data()
            del calibrator

    def quantized(self, excluded: Sequence[str]) -> Any:
        """The model in 8 bits but the parts in `excluded`."""
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        quantizer = QDQQuantizer(
            copy.deepcopy(self._model),
            True,  # by channel
            saturates(),
            QuantType.QInt8,
            QuantType.QUInt8,  # with QInt8 ONNX Runtime on x86 has no quick kernel
            self._ranges,
            [],
            [*excluded, *self._never],
            self._kinds,
            dict(self._options),
        )
        quantizer.quantize_model()
        return quantizer.model.model


class _Reader:
    """Rows one by one, as ONNX Runtime's calibrator reads them."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows: Iterator[Row] = iter(rows)

    def get_next(self) -> dict[str, Array] | None:
        """The next batch of one row; None at the end."""
        row = next(self._rows, None)
        return None if row is None else batch_of([row])
