"""The port of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from forebay.core.errors import ForebayError
from forebay.models.artefact import ServedWith
from forebay.optimize.judge import Judge
from forebay.optimize.report import LayerError
from forebay.optimize.samples import Row

FILE = "model.onnx"
"""The model file of artefacts that are served by ONNX Runtime."""
NETWORKS: tuple[str, ...] = ("onnx", "huggingface", "torch")
"""Kinds of source that are no trees and no classic models."""


class NotApplicableError(ForebayError):
    """The recipe has nothing to do in this model."""


@dataclass(frozen=True)
class Work:
    """What a recipe works from."""

    model: str
    """The original as a MODEL argument of `forebay serve`."""
    graph: Path | None
    """The same function as an ONNX file. None: there is none."""
    kind: str
    """Kind of the source: `onnx`, `huggingface`, `torch`, `xgboost`, `lightgbm` or `sklearn`."""
    calibration: Sequence[Row]
    folder: Path
    """Where the artefact goes; it exists and is empty."""
    shared: Path
    """A folder that all recipes of a search share, for what is costly to find out."""
    judge: Judge
    """Says on the calibration rows how near answers are; the gate's own samples are never seen here."""
    progress: Callable[[str], None]


@dataclass(frozen=True)
class Artefact:
    """What a recipe made, and the settings with which it is measured and served."""

    model: str
    """A MODEL argument relative to the folder, such as `model.onnx`."""
    note: str = ""
    layers: Sequence[LayerError] = ()
    served_with: ServedWith = field(default_factory=ServedWith)


class Candidate(Protocol):
    """A recipe. It is made without arguments, in the search's process to be listed and in a builder's to build."""

    name: str
    """Stable: letters, digits and `-`."""
    meaning: str
    """One line for a person."""
    runtime: str
    """What serves the artefact, as in `ModelSource.runtime`."""
    kinds: tuple[str, ...]
    """Kinds of source that it is for; empty: any that has a graph."""
    modules: tuple[str, ...]
    """Modules that it cannot do without."""
    extra: str
    """The extra of Forebay that brings them."""
    isa_bound: bool
    """Whether its answers may depend on the processor's instruction sets."""

    def build(self, work: Work) -> Artefact:
        """Writes the artefact. Runs in a process of its own. Raises `NotApplicableError`, or anything else: the
        candidate is then rejected, with the exception's text as the reason.
        """
        ...


class GraphRecipe:
    """What most recipes have in common: any graph in ONNX in, ONNX for ONNX Runtime out, integer kernels in use."""

    runtime = "onnx"
    kinds: tuple[str, ...] = ()
    modules: tuple[str, ...] = ("onnx",)
    extra = "optimize"
    isa_bound = True
