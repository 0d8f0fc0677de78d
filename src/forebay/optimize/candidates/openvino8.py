"""8 bits for OpenVINO: by NNCF, and of the graph that static-int8-excluded found."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

from forebay.models.artefact import ServedWith
from forebay.optimize.candidates.openvino import FILE, Openvino, has_bf16, read_for_rounding, run_of, save
from forebay.optimize.candidates.port import Artefact, NotApplicableError, Work
from forebay.optimize.candidates.static8 import CALIBRATED_ROWS, Static8Excluded
from forebay.optimize.graphs import SUM, saturates
from forebay.optimize.samples import Row, batch_of

GROUPS = (128, 64, 32)
"""Channels that share a scale, the quickest first."""


class OpenvinoWeights8(Openvino):
    """Weights by channel; activations are rounded as they come, each row by itself, group by group. Groups are as large
    as the calibration samples bear.
    """

    name = "openvino-weights-int8"
    meaning = "OpenVINO, weights in 8 bits, activations by row and group"
    modules = ("onnx", "openvino", "nncf")
    extra = "nncf"
    isa_bound = True

    def build(self, work: Work) -> Artefact:
        """See `Candidate.build`."""
        assert work.graph is not None
        model = compressed(read_for_rounding(work.graph))
        if not any(node.get_element_type().get_type_name() == "i8" for node in model.get_ops()):
            raise NotApplicableError("no MatMul has constant weights")
        work.judge.original(work.graph)
        for group in GROUPS:
            work.progress(f"groups of {group}")
            # OpenVINO reads this when it loads the model.
            model.set_rt_info(str(group), ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"])
            if group == GROUPS[-1] or work.judge.holds(run_of(model, work.judge.output, ServedWith())):
                break
        save(model, work.folder)
        return Artefact(FILE, f"groups of {group} channels")


class OpenvinoInt8(Openvino):
    """NNCF's quantisation after training: SmoothQuant and a corrected bias, every layer."""

    name = "openvino-int8"
    meaning = "OpenVINO, weights and activations in 8 bits by NNCF"
    modules = ("onnx", "openvino", "nncf")
    extra = "nncf"
    isa_bound = True

    def build(self, work: Work) -> Artefact:
        """See `Candidate.build`."""
        assert work.graph is not None
        model = quantized(read_for_rounding(work.graph), work.calibration[:CALIBRATED_ROWS])
        ranges = sum(node.get_type_name() == "FakeQuantize" for node in model.get_ops())
        if not ranges:
            raise NotApplicableError("NNCF finds nothing in this graph that can be in 8 bits")
        save(model, work.folder)
        return Artefact(FILE, f"{ranges} ranges of activations")


class OpenvinoInt8Excluded(Static8Excluded):
    """The graph of static-int8-excluded, computed by OpenVINO. What is not in 8 bits, attention too, is bfloat16 where
    the processor has that and the calibration samples bear it.
    """

    name = "openvino-int8-excluded"
    meaning = "OpenVINO, 8 bits of layers with weights, without those that hurt"
    runtime = "openvino"
    modules = ("onnx", "openvino")
    extra = "openvino"

    def build(self, work: Work) -> Artefact:
        """See `Candidate.build`."""
        file, found = self.found(work)
        model = read_for_rounding(file)
        save(model, work.folder)
        served_with = ServedWith(inference_precision="bf16")
        if not has_bf16() or not self._holds(work, model, served_with):
            served_with = ServedWith()
        return Artefact(FILE, found.note, found.layers, served_with)

    def _holds(self, work: Work, model: Any, served_with: ServedWith) -> bool:
        assert work.graph is not None
        work.progress("trying bfloat16 for the rest")
        work.judge.original(work.graph)
        return work.judge.holds(run_of(model, work.judge.output, served_with))


def compressed(model: Any) -> Any:
    """An OpenVINO model with the weights of its products in 8 bits; tables that are looked up stay as they are."""
    nncf = nncf_library()
    tables = nncf.IgnoredScope(types=["Gather"], validate=False)
    return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM, ignored_scope=tables)


def quantized(model: Any, rows: Sequence[Row]) -> Any:
    """An OpenVINO model in 8 bits by calibration rows."""
    nncf = nncf_library()
    transformer = not any(node.get_type_name().endswith("Convolution") for node in model.get_ops())
    overflow = nncf.OverflowFix.ENABLE if saturates() else nncf.OverflowFix.DISABLE
    return nncf.quantize(
        model,
        nncf.Dataset(rows, lambda row: batch_of([row])),
        subset_size=len(rows),
        model_type=nncf.ModelType.TRANSFORMER if transformer else None,
        ignored_scope=nncf.IgnoredScope(patterns=[f"{SUM}.*"], validate=False),
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=overflow),
    )


def nncf_library() -> Any:
    """NNCF, told to keep to itself that it is used."""
    os.environ["NNCF_CI"] = "1"  # else it reports its use to Intel; it looks when it is imported
    import nncf

    # Not by its `set_log_level`, which raises the level of every handler that it finds, other people's too.
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf
