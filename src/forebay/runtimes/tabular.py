"""What the runtimes for trees and classic models share: one `input` of float32 rows, and two forms that agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from forebay.core.errors import ExecutionError
from forebay.core.tensors import Array
from forebay.models.signature import Signature, TensorSpec
from forebay.models.source import LoadOptions, ModelSource
from forebay.runtimes import forms
from forebay.runtimes.ensemble import NotConvertibleError
from forebay.runtimes.port import is_out_of_memory, load_error

INPUT = "input"
LABEL, PROBABILITIES, PREDICTION = "label", "probabilities", "prediction"
COMPARED_ROWS = 512
"""Rows on which the two forms have to agree."""


class TabularRuntime:
    """A model of one input, float32 [rows, features], that runs in its own library, as ONNX, or either by batch size.

    A subclass loads the model, then calls `_settle`.
    """

    platform = ""
    settings: Mapping[str, Any] = {}  # a file brings no class attributes

    def __init__(self, source: ModelSource, device: str) -> None:
        if device != "cpu":
            raise load_error(source, f"device {device!r} is not usable for {self.platform}; write cpu")
        self.signature = Signature((), ())
        self.note = ""
        self.choice = forms.Choice([1], [forms.Form("none", lambda x: [])])
        self._examples: list[dict[str, Array]] = []
        self._native: forms.Run | None = None
        self._doubtful: Callable[[Array], bool] | None = None

    def _settle(
        self,
        specs: Sequence[TensorSpec],
        native: forms.Run,
        convert: Callable[[], forms.Graph],
        rows: Array,
        threads: int,
        options: LoadOptions,
        *,
        refuses: tuple[str, ...] = (),
        doubtful: Callable[[Array], bool] | None = None,
    ) -> None:
        """Fix the signature, convert, compare on `rows` [n, features], time, and choose.

        refuses: see `TensorSpec`. doubtful: which batches are none that `rows` stand for, so that the library has to
        say itself what comes of them.
        """
        self._native, self._doubtful = native, doubtful
        self.signature = Signature((TensorSpec(INPUT, "FP32", (rows.shape[1],), refuses),), tuple(specs))
        self._examples = [{INPUT: row} for row in rows[:64]]
        own = forms.Form(self.platform, native)
        try:
            graph = forms.Form("ONNX", forms.onnx_run(convert(), specs, threads))
            different = forms.disagreement(specs, native(rows), graph.run(rows))
        except Exception as error:  # whatever a converter or a session stumbles over, the model's own library runs it
            reason = str(error) if isinstance(error, NotConvertibleError) else f"{type(error).__name__}: {error}"
            line = (reason.strip() or type(error).__name__).splitlines()[0]
            self._only(own, f"cannot be said in ONNX ({line[:200]})")
            return
        if different:
            self._only(own, f"as ONNX it answers differently: {different}")
            return
        self.choice = forms.choose(own, graph, rows, options.max_batch_rows, single=options.deterministic)
        self.note = f"runs as {self.choice}; both forms agree on {len(rows)} rows"

    def _only(self, form: forms.Form, reason: str) -> None:
        self.choice = forms.Choice([1], [form])
        self.note = f"runs as {form.name} alone: {reason}"

    def run(self, inputs: dict[str, Array], rows: int) -> list[Array]:
        """See `Runtime.run`."""
        try:
            x = inputs[INPUT]
            if self._doubtful is not None and self._native is not None and self._doubtful(x):
                return self._native(x)
            return self.choice.run(x, rows)
        except Exception as error:
            code = "out_of_memory" if is_out_of_memory(error) else "model_error"
            raise ExecutionError(f"{type(error).__name__}: {error}", code=code) from error

    def examples(self) -> Sequence[Mapping[str, Any]]:
        """Rows around the model's own thresholds: what a batch costs depends on how far rows spread over the trees."""
        return self._examples


def binary(positive: Array) -> list[Array]:
    """Label and probabilities of a classifier of two classes, from the probability [rows] of the second."""
    probabilities = np.empty((len(positive), 2), np.float32)
    probabilities[:, 1] = positive
    np.subtract(1.0, probabilities[:, 1], out=probabilities[:, 0])
    return [(positive > 0.5).astype(np.int64), probabilities]


def several(probabilities: Array) -> list[Array]:
    """Label and probabilities of a classifier of more classes."""
    return [probabilities.argmax(axis=1), np.asarray(probabilities, np.float32)]


def softmax(margins: Array) -> Array:
    """Along the last axis."""
    powers = np.exp(margins - margins.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def classifier_specs(classes: int, datatype: str = "INT64") -> list[TensorSpec]:
    """`label` [rows] and `probabilities` [rows, classes]."""
    return [TensorSpec(LABEL, datatype, ()), TensorSpec(PROBABILITIES, "FP32", (classes,))]


def prediction_spec(outputs: int) -> list[TensorSpec]:
    """`prediction` [rows], or [rows, outputs] where there are several."""
    return [TensorSpec(PREDICTION, "FP32", () if outputs == 1 else (outputs,))]
