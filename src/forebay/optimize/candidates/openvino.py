"""Models for OpenVINO in floating point, and what its other recipes share."""

from __future__ import annotations

import platform
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from forebay.core.tensors import Array
from forebay.models.artefact import ServedWith, isa_here
from forebay.optimize.candidates.port import NETWORKS, Artefact, GraphRecipe, NotApplicableError, Work
from forebay.optimize.graphs import sum_by_products
from forebay.optimize.judge import Run
from forebay.runtimes.openvino import configuration

FILE = "model.xml"
BF16_FLAGS = ("avx512_bf16", "amx_bf16")


class Openvino(GraphRecipe):
    """The graph as it is: OpenVINO fuses and picks its kernels when it loads it."""

    name = "openvino"
    meaning = "OpenVINO in float32"
    runtime = "openvino"
    kinds = NETWORKS
    modules: tuple[str, ...] = ("onnx", "openvino")
    extra = "openvino"
    isa_bound = False

    def build(self, work: Work) -> Artefact:
        """See `Candidate.build`."""
        assert work.graph is not None
        save(read_graph(work.graph), work.folder)
        return Artefact(FILE)


class OpenvinoBf16(Openvino):
    """Computed in bfloat16: the range of float32 with 8 bits of precision."""

    name = "openvino-bf16"
    meaning = "OpenVINO in bfloat16"
    isa_bound = True

    def build(self, work: Work) -> Artefact:
        """See `Candidate.build`."""
        if not has_bf16():
            raise NotApplicableError(
                f"this processor ({platform.machine()}) has no bfloat16 instructions: neither "
                f"{' nor '.join(BF16_FLAGS)}"
            )
        assert work.graph is not None
        save(read_for_rounding(work.graph), work.folder)
        return Artefact(FILE, served_with=ServedWith(inference_precision="bf16"))


def has_bf16() -> bool:
    """Whether the processor has instructions for bfloat16; else it would be emulated, slower than float32."""
    return bool(set(BF16_FLAGS) & set(isa_here()))


def read_for_rounding(graph: Path) -> Any:
    """`read_graph`, with sums that do not depend on a row's company; see `sum_by_products`."""
    import onnx

    model = onnx.load(str(graph))
    sum_by_products(model)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "graph.onnx")
        onnx.save(model, str(file))
        return read_graph(file)


def read_graph(graph: Path) -> Any:
    """The ONNX file as an OpenVINO model, inputs and outputs by the names that they have there. Raises
    `NotApplicableError` for what OpenVINO cannot read.
    """
    import onnx
    import openvino

    core = openvino.Core()
    core.set_property({"ENABLE_MMAP": False})  # the file may be gone before the model is
    try:
        # Not openvino.convert_model, which reports its use to Intel where nobody has said no.
        model = core.read_model(graph)
    except RuntimeError as error:
        raise NotApplicableError(f"OpenVINO cannot read the graph: {_reason(error)}") from None
    for output, value in zip(model.outputs, onnx.load(str(graph), load_external_data=False).graph.output, strict=True):
        output.get_tensor().set_names({value.name})
    return model


def save(model: Any, folder: Path) -> None:
    """Writes `model.xml` and `model.bin`, weights as they are."""
    import openvino

    openvino.save_model(model, folder / FILE, compress_to_fp16=False)


def run_of(model: Any, output: str, served_with: ServedWith) -> Run:
    """Runs a model on one thread as it would be served. One batch at a time."""
    import openvino

    compiled = openvino.Core().compile_model(model, "CPU", configuration(1, served_with.options()))
    request = compiled.create_infer_request()

    def run(batch: dict[str, Array]) -> Array:
        request.infer(batch, share_inputs=False)
        return np.array(request.get_tensor(output).data)

    return run


def _reason(error: Exception) -> str:
    """What is left of OpenVINO's many lines, where it checked what, once."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in reversed(lines) if line), type(error).__name__)
