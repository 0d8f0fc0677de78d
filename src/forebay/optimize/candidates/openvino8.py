"""8 bits for OpenVINO: by NNCF, and of the graph that static-int8-excluded found."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import Any

from forebay.optimize.candidates.openvino import FILE, Openvino, read_graph, save
from forebay.optimize.candidates.port import FILE as ONNX_FILE
from forebay.optimize.candidates.port import Artefact, NotApplicableError, Work
from forebay.optimize.candidates.static8 import CALIBRATED_ROWS, Static8Excluded
from forebay.optimize.graphs import saturates
from forebay.optimize.samples import Row, batch_of


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
        model = quantized(read_graph(work.graph), work.calibration[:CALIBRATED_ROWS])
        quantizers = sum(node.get_type_name() == "FakeQuantize" for node in model.get_ops())
        if not quantizers:
            raise NotApplicableError("NNCF finds nothing in this graph that can be in 8 bits")
        save(model, work.folder)
        return Artefact(FILE, f"{quantizers} ranges of activations")


class OpenvinoInt8Excluded(Static8Excluded):
    """The graph of static-int8-excluded, computed by OpenVINO."""

    name = "openvino-int8-excluded"
    meaning = "OpenVINO, 8 bits of layers with weights, without those that hurt"
    runtime = "openvino"
    modules = ("onnx", "openvino")
    extra = "openvino"

    def build(self, work: Work) -> Artefact:
        """See `Candidate.build`."""
        artefact = super().build(work)
        graph = work.folder / ONNX_FILE
        save(read_graph(graph), work.folder)
        graph.unlink()
        return replace(artefact, model=FILE)


def quantized(model: Any, rows: list[Row]) -> Any:
    """An OpenVINO model in 8 bits by calibration rows."""
    os.environ["NNCF_CI"] = "1"  # else it reports its use to Intel; read when it is imported
    import nncf

    nncf.set_log_level(logging.ERROR)
    transformer = not any(node.get_type_name().endswith("Convolution") for node in model.get_ops())
    overflow = nncf.OverflowFix.ENABLE if saturates() else nncf.OverflowFix.DISABLE
    return nncf.quantize(
        model,
        nncf.Dataset(rows, lambda row: batch_of([row])),
        subset_size=len(rows),
        model_type=nncf.ModelType.TRANSFORMER if transformer else None,
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=overflow),
    )
