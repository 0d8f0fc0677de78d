"""Trees and classic models as an ONNX graph in place of their own library."""

from __future__ import annotations

import shutil

from forebay.optimize.candidates.port import FILE, Artefact, GraphRecipe, Work


class AsOnnx(GraphRecipe):
    """The graph as it was converted. The runtimes of these models already choose between both forms at load, so that
    it seldom wins; it needs nothing but ONNX Runtime where it is served.
    """

    name = "onnx"
    meaning = "the model as an ONNX graph"
    kinds = ("xgboost", "lightgbm", "sklearn")
    extra = "trees"
    isa_bound = False

    def build(self, work: Work) -> Artefact:
        """See `Candidate.build`."""
        assert work.graph is not None
        shutil.copyfile(work.graph, work.folder / FILE)
        return Artefact(FILE)
