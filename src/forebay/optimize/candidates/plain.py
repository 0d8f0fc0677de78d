"""Trees and classic models as an ONNX graph in place of their own library."""

from __future__ import annotations

import shutil

from forebay.optimize.candidates.port import Artefact, Work

FILE = "model.onnx"


class AsOnnx:
    """The graph as it was converted. The runtimes of these models already choose between both forms at load, so that
    it seldom wins; it needs nothing but ONNX Runtime where it is served.
    """

    name = "onnx"
    meaning = "the model as an ONNX graph"
    runtime = "onnx"
    kinds: tuple[str, ...] = ("xgboost", "lightgbm", "sklearn")
    modules: tuple[str, ...] = ("onnx",)
    extra = "trees"
    isa_bound = False

    def build(self, work: Work) -> Artefact:
        """See `Candidate.build`."""
        assert work.graph is not None
        shutil.copyfile(work.graph, work.folder / FILE)
        return Artefact(FILE)
