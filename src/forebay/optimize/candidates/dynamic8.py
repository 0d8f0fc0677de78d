"""Weights in 8 bits by channel; activations are rounded to 8 bits by the range that each batch has as a whole."""

from __future__ import annotations

from forebay.optimize.candidates.port import FILE, Artefact, GraphRecipe, NotApplicableError, Work
from forebay.optimize.graphs import compute_nodes, count_of, name_nodes, saturates


class Dynamic8(GraphRecipe):
    """Of MatMul and Gemm only: dynamic convolutions make ONNX Runtime several times slower.

    Rows of a batch share one range, so that what a row is answered depends on its company.
    """

    name = "dynamic-int8"
    meaning = "weights in 8 bits by channel, activations by the range of each batch"

    def build(self, work: Work) -> Artefact:
        """See `Candidate.build`."""
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic

        assert work.graph is not None
        model = onnx.load(str(work.graph))
        name_nodes(model)
        if not any(node.op_type in ("MatMul", "Gemm") for node in compute_nodes(model)):
            raise NotApplicableError("no MatMul or Gemm has constant weights")
        file = work.folder / FILE
        quantize_dynamic(
            model,
            str(file),
            # It turns each Gemm into a MatMul first, so that "Gemm" here would leave it in floats.
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=saturates(),
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        count = count_of(onnx.load(str(file)), "MatMulInteger")
        if not count:
            raise NotApplicableError("ONNX Runtime leaves every MatMul and Gemm of this graph in floating point")
        return Artefact(FILE, f"{count} products in 8 bits")
