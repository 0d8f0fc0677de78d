"""LightGBM models (text files): in LightGBM itself and as an ONNX tree ensemble.

Outputs, by objective:

    binary                        label INT64 [rows], probabilities FP32 [rows, 2]
    multiclass, multiclassova     label INT64 [rows], probabilities FP32 [rows, classes]; those of multiclassova do not
                                  add up to 1, as in LightGBM
    all others                    prediction FP32 [rows] or [rows, outputs], as Booster.predict gives it

All trees of the file answer; LightGBM's `save_model` writes those up to the best iteration.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from forebay.core.tensors import Array
from forebay.models.signature import TensorSpec
from forebay.models.source import LoadOptions, ModelSource
from forebay.runtimes import forms, tabular
from forebay.runtimes.ensemble import Ensemble, NotConvertibleError, telling_rows
from forebay.runtimes.lightgbm_trees import Header, read_ensemble
from forebay.runtimes.likely import quickest_graph
from forebay.runtimes.port import load_error, missing_library


class LightgbmRuntime(tabular.TabularRuntime):
    """One Booster, and the same trees in ONNX Runtime."""

    platform = "lightgbm"

    def __init__(self, source: ModelSource, device: str, threads: int, options: LoadOptions) -> None:
        super().__init__(source, device)
        try:
            import lightgbm
        except ImportError as error:
            raise missing_library(source, error, "trees") from error
        try:
            text = Path(source.path).read_text(encoding="utf-8")
            header = Header(text)
            booster = lightgbm.Booster(model_str=text)
        except (lightgbm.basic.LightGBMError, OSError, ValueError, KeyError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise load_error(source, f"LightGBM cannot load {source.path}: {reason}") from error
        ensemble: Ensemble | None = None
        reason = ""
        try:
            ensemble = read_ensemble(text)
        except NotConvertibleError as error:
            reason = str(error)

        def convert() -> forms.Graph:
            if ensemble is None:
                raise NotConvertibleError(reason)
            return quickest_graph(ensemble)

        count = tabular.COMPARED_ROWS
        rows = telling_rows(ensemble, count) if ensemble else _small_numbers(count, header.features)
        specs, native = _native(booster, header, threads)
        self._settle(specs, native, convert, rows, threads, options)


def _small_numbers(count: int, features: int) -> Array:
    """Rows that are also legal codes of categories."""
    return np.random.default_rng(0).integers(0, 2, (count, features)).astype(np.float32)


def _native(booster: Any, header: Header, threads: int) -> tuple[list[TensorSpec], forms.Run]:
    """Outputs and how to get them from the Booster."""

    def values(x: Array) -> Array:
        return np.asarray(booster.predict(x, num_threads=threads))

    if header.kind == "binary":
        return tabular.classifier_specs(2), lambda x: tabular.binary(values(x))
    if header.kind == "classes":
        return tabular.classifier_specs(header.classes), lambda x: tabular.several(values(x))
    row_shape = () if header.outputs == 1 else (header.outputs,)
    return (
        tabular.prediction_spec(header.outputs),
        lambda x: [values(x).reshape(-1, *row_shape).astype(np.float32)],
    )
