"""The same arithmetic in fewer, larger operators of ONNX Runtime."""

from __future__ import annotations

from forebay.optimize.candidates.port import FILE, NETWORKS, Artefact, GraphRecipe, NotApplicableError, Work


class Fused(GraphRecipe):
    """onnxscript's fusions: attention, normalisation with its sum, GELU with its bias."""

    name = "fused"
    meaning = "attention, normalisation and GELU as operators of ONNX Runtime"
    kinds = NETWORKS
    modules: tuple[str, ...] = ("onnx", "onnxscript", "onnx_ir")
    isa_bound = False

    def build(self, work: Work) -> Artefact:
        """See `Candidate.build`."""
        import onnx_ir
        from onnxscript.rewriter.ort_fusions import optimize_for_ort

        assert work.graph is not None
        model, counts = optimize_for_ort(onnx_ir.load(str(work.graph)))
        made = {name: count for name, count in counts.items() if count}
        if not made:
            raise NotApplicableError("there is nothing in this graph that these fusions know")
        onnx_ir.save(model, str(work.folder / FILE))
        return Artefact(FILE, ", ".join(f"{count} {name}" for name, count in made.items()))
