"""A torch module as its exported program, run by torch's own operators."""

from __future__ import annotations

import shutil
from pathlib import Path

from forebay.optimize.candidates.port import Artefact, NotApplicableError, Work

FILE = "model.pt2"


class TorchExport:
    """What `torch.export` wrote when the source was opened. It seldom beats ONNX Runtime on a CPU; where it does, the
    module was made of operators that torch does better.
    """

    name = "torch"
    meaning = "the module as an exported program of torch"
    runtime = "torch"
    kinds: tuple[str, ...] = ("torch",)
    modules: tuple[str, ...] = ("torch",)
    extra = "torch"
    isa_bound = False

    def build(self, work: Work) -> Artefact:
        """See `Candidate.build`."""
        if work.graph is None:
            raise NotApplicableError("the original is that already")
        program = Path(work.model).with_suffix(".pt2")
        if not program.is_file():
            raise NotApplicableError("torch.export cannot write it, or it is not served; see the note on the source")
        shutil.copyfile(program, work.folder / FILE)
        return Artefact(FILE)
