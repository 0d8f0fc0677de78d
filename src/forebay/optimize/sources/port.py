"""What a source becomes before the search."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from forebay.core.errors import SetupError
from forebay.models.source import LoadOptions
from forebay.models.source_files import SourceFile

NO_OPTIONS = LoadOptions()
"""Trusts nothing."""


@dataclass(frozen=True)
class Original:
    """A source, opened. `model`: what candidates are measured against, as a MODEL argument of `forebay serve`."""

    name: str
    kind: str
    """`onnx`, `huggingface`, `torch`, `xgboost`, `lightgbm` or `sklearn`."""
    path: Path
    """File or folder that the digest is taken of."""
    model: str
    graph: Path | None
    """The same function as an ONNX file; None where it cannot be said in ONNX."""
    note: str = ""
    sha256: str = ""
    """Of `path`, taken before anything was read of it."""
    files: tuple[SourceFile, ...] = ()
    """What it depends on besides: files that the source reads, and those that the user named."""
    trust: LoadOptions = NO_OPTIONS
    """What its file may make when it is loaded."""

    @property
    def servable(self) -> bool:
        """Whether `forebay serve` takes the source as it is."""
        return self.kind not in ("huggingface", "torch")


def missing(what: str, extra: str, error: ImportError) -> SetupError:
    """The one error of a missing extra."""
    return SetupError(f"{what} needs a library that is not here ({error}); pip install 'forebay[{extra}]'")
