"""A torch module of the user's own: `file.py:factory`.

    def factory(inputs, outputs):
        return MyNet(outputs["logits"][1][0])

`inputs` and `outputs` are the teacher's, name to (datatype, shape of a row), -1 for an axis that varies. `forward`
takes the inputs by name and returns raw values [rows, width], without softmax: what the output means is added.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from forebay.core.errors import SetupError
from forebay.distill.students.port import Module, Subject, described
from forebay.models.signature import Signature, TensorSpec
from forebay.optimize.samples import Row

_WANTED = "it must be a function (inputs, outputs) that returns a torch.nn.Module"


def check_tensors(text: str, signature: Signature) -> None:
    """Raises `SetupError` where rows are no numbers."""
    if any(spec.datatype == "BYTES" for spec in signature.inputs):
        raise SetupError(
            f"--student {text}: torch has no texts, and the teacher takes {described(signature)}; use "
            "static-embedding, or a teacher that takes tokens"
        )


class Custom:
    """See `Network`."""

    def __init__(self, text: str, subject: Subject) -> None:
        head, _, self._factory = text.rpartition(":")
        self._text, self._path, self._subject = text, Path(head), subject
        if not self._path.is_file():
            raise SetupError(f"--student {text}: there is no file {head!r} (looked in {Path.cwd()})")
        check_tensors(text, subject.signature)
        self.tensors: Sequence[TensorSpec] = subject.signature.inputs
        self.rate, self.batch, self.epochs = 1e-3, 64, 30
        self.about = text

    def made(self, rows: Sequence[Row]) -> Module:
        """See `Network.made`. Runs the user's file."""
        import torch

        signature = self._subject.signature
        try:
            make = getattr(self._imported(), self._factory, None)
            if not callable(make):
                raise SetupError(f"--student {self._text}: {self._path.name} has no function {self._factory!r}")
            found = make(
                {spec.name: (spec.datatype, list(spec.row_shape)) for spec in signature.inputs},
                {spec.name: (spec.datatype, list(spec.row_shape)) for spec in self._subject.target.outputs},
            )
        except SetupError:
            raise
        except (Exception, SystemExit) as error:
            raise SetupError(f"--student {self._text} failed: {type(error).__name__}: {error}; {_WANTED}") from error
        if not isinstance(found, torch.nn.Module):
            raise SetupError(f"--student {self._text} returned {type(found).__name__}; {_WANTED}")
        return found

    def prepare(self, rows: Sequence[Row]) -> list[Row]:
        """See `Network.prepare`."""
        return list(rows)

    def write(self, folder: Path, graph: str) -> str:
        """See `Network.write`."""
        return graph

    def _imported(self) -> object:
        spec = importlib.util.spec_from_file_location(f"forebay_student_{self._path.stem}", self._path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        folder = str(self._path.resolve().parent)
        if folder not in sys.path:
            sys.path.insert(0, folder)
        spec.loader.exec_module(module)
        return module
