"""Weights in 8 bits, each block of 32 with a scale; a row's activations are rounded by themselves, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from forebay.optimize.candidates.port import FILE, Artefact, GraphRecipe, NotApplicableError, Work
from forebay.optimize.graphs import compute_nodes, count_of, name_nodes

BLOCK = 32
"""With 128 ONNX Runtime 1.32 takes another kernel for one row than for several, and answers differ by 5e-3."""


class Weights8(GraphRecipe):
    """MatMulNBits. Rows never share a scale, so that it does not matter who is in the batch."""

    name = "weights-int8"
    meaning = "weights in 8 bits by blocks of 32, products in 8 bits (MatMulNBits)"
    modules: tuple[str, ...] = ("onnx", "onnx_ir")

    def build(self, work: Work) -> Artefact:
        """See `Candidate.build`."""
        import onnx

        assert work.graph is not None
        model = onnx.load(str(work.graph))
        name_nodes(model)
        if not any(node.op_type == "MatMul" for node in compute_nodes(model)):
            raise NotApplicableError("no MatMul has constant weights")
        made = with_weights8(model, [])
        count = count_of(made, "MatMulNBits")
        if not count:
            raise NotApplicableError("ONNX Runtime leaves every MatMul of this graph in floating point")
        onnx.save(made, str(work.folder / FILE))
        return Artefact(FILE, f"{count} MatMul")


def with_weights8(model: Any, excluded: Sequence[str]) -> Any:
    """The model with its MatMuls of constant weights as MatMulNBits, but those nodes."""
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    # Level 4: activations are rounded to 8 bits too. At level 0 they stay floats, which is slower than no change.
    config = DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=True, accuracy_level=4, bits=8)
    quantizer = MatMulNBitsQuantizer(model, algo_config=config, nodes_to_exclude=list(excluded))
    quantizer.process()
    return quantizer.model.model
