"""XGBoost models (.json, .ubj): in XGBoost itself and as an ONNX tree ensemble.

Outputs, by objective:

    binary:logistic                 label INT64 [rows], probabilities FP32 [rows, 2]
    multi:softprob, multi:softmax   label INT64 [rows], probabilities FP32 [rows, classes]
    binary:hinge                    label INT64 [rows]
    all others                      prediction FP32 [rows] or [rows, outputs], as Booster.inplace_predict gives it

A file that was saved from a scikit-learn wrapper (XGBClassifier, ...) answers as the wrapper does: with early stopping,
by the rounds up to the best one. Any other file answers as `Booster.inplace_predict` does: by all rounds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from forebay.core.tensors import Array
from forebay.models.signature import TensorSpec
from forebay.models.source import LoadOptions, ModelSource
from forebay.runtimes import forms, tabular
from forebay.runtimes.ensemble import Ensemble, NotConvertibleError, telling_rows, to_onnx
from forebay.runtimes.likely import quickest_graph
from forebay.runtimes.port import load_error, missing_library
from forebay.runtimes.xgboost_trees import link_of, read_ensemble


class XgboostRuntime(tabular.TabularRuntime):
    """One Booster, and the same trees in ONNX Runtime."""

    platform = "xgboost"

    def __init__(self, source: ModelSource, device: str, threads: int, options: LoadOptions) -> None:
        super().__init__(source, device)
        booster, document = _load(source, threads)
        features = booster.num_features()
        rounds = _rounds(booster)
        objective = document["learner"]["objective"]["name"]
        specs, native = _native(booster, objective, features, rounds)
        ensemble: Ensemble | None = None
        reason = ""
        try:
            ensemble = read_ensemble(document, rounds)
        except NotConvertibleError as error:
            reason = str(error)
        del document  # tens of times the size of the file

        def convert() -> forms.Graph:
            if ensemble is None:
                raise NotConvertibleError(reason)
            return quickest_graph(ensemble)

        count = tabular.COMPARED_ROWS
        rows = telling_rows(ensemble, count) if ensemble else _zeros_and_ones(count, features)
        self._settle(specs, native, convert, rows, threads, options)
        if rounds:
            self.note += f"; the first {rounds} of {booster.num_boosted_rounds()} rounds, up to the best one"


def to_graph(source: ModelSource) -> bytes:
    """The same trees as an ONNX model, serialised. Raises `SetupError` (`model_load_error`), `NotConvertibleError`."""
    booster, document = _load(source, 1)
    return to_onnx(read_ensemble(document, _rounds(booster)))


def _load(source: ModelSource, threads: int) -> tuple[Any, dict[str, Any]]:
    """The Booster, and what its file says as JSON."""
    try:
        import xgboost
    except ImportError as error:
        raise missing_library(source, error, "trees") from error
    try:
        booster = xgboost.Booster({"nthread": threads})
        booster.load_model(bytearray(Path(source.path).read_bytes()))
        booster.set_param({"nthread": threads})
        document: dict[str, Any] = json.loads(booster.save_raw("json"))
    except (xgboost.core.XGBoostError, OSError, ValueError, TypeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise load_error(source, f"XGBoost cannot load {source.path}: {reason}") from error
    if document["learner"]["gradient_booster"]["name"] == "gblinear":
        raise load_error(
            source,
            f"{source.path} is a linear model (gblinear), which XGBoost cannot run in place; export it as ONNX",
        )
    return booster, document


def _rounds(booster: Any) -> int:
    """How many rounds answer; 0: all."""
    best, wrapper = booster.attr("best_iteration"), booster.attr("scikit_learn")
    return int(best) + 1 if best is not None and wrapper is not None else 0


def _zeros_and_ones(count: int, features: int) -> Array:
    """Rows that are also legal codes of categories."""
    return np.random.default_rng(0).integers(0, 2, (count, features)).astype(np.float32)


def _native(booster: Any, objective: str, features: int, rounds: int) -> tuple[list[TensorSpec], forms.Run]:
    """Outputs and how to get them from the Booster."""
    predict = booster.inplace_predict
    extent = (0, rounds)

    def values(x: Array) -> Array:
        return np.asarray(predict(x, iteration_range=extent, validate_features=False))

    def margins(x: Array) -> Array:
        return np.asarray(
            predict(x, iteration_range=extent, validate_features=False, predict_type="margin", strict_shape=True)
        )

    link = link_of(objective)
    if link == "binary":
        return tabular.classifier_specs(2), lambda x: tabular.binary(values(x))
    row = np.zeros((1, features), np.float32)
    if link == "softmax":
        # softmax gives a class only; its probabilities are those of softprob.
        run = values if objective == "multi:softprob" else lambda x: tabular.softmax(margins(x))
        return tabular.classifier_specs(run(row).shape[1]), lambda x: tabular.several(run(x))
    if link == "hinge":
        return [TensorSpec(tabular.LABEL, "INT64", ())], lambda x: [values(x).astype(np.int64)]
    shape = values(row).shape[1:]
    outputs = shape[0] if shape else 1
    row_shape = () if outputs == 1 else (outputs,)
    return tabular.prediction_spec(outputs), lambda x: [values(x).reshape(-1, *row_shape)]
