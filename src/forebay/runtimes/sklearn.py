"""scikit-learn estimators (.skops; .pkl, .pickle and .joblib where the operator allows it): as they are and as ONNX.

    classifier with predict_proba    label [rows], probabilities FP32 [rows, classes]
    classifier without               label [rows]
    regressor, anything else with predict    prediction [rows] or [rows, outputs]
    transformer                      output FP32 [rows, columns]

`label` is INT64 where the classes are whole numbers, as floats too, or True and False; else BYTES. The columns of
`probabilities` are in the order of the estimator's `classes_`.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forebay.core.errors import SetupError
from forebay.core.tensors import Array
from forebay.models.kinds import PICKLES
from forebay.models.signature import TensorSpec
from forebay.models.source import LoadOptions, ModelSource
from forebay.runtimes import forms, tabular
from forebay.runtimes.ensemble import NotConvertibleError
from forebay.runtimes.limits import Limits, find_limits, scatter
from forebay.runtimes.port import load_error, missing_library

_EXACT = 2.0**53
"""Up to here a float64 is each whole number."""


class SklearnRuntime(tabular.TabularRuntime):
    """One fitted estimator, and the same in ONNX Runtime where skl2onnx can say it."""

    platform = "sklearn"

    def __init__(self, source: ModelSource, device: str, threads: int, options: LoadOptions) -> None:
        super().__init__(source, device)
        estimator = load_estimator(source, options)
        found = _understood(source, estimator)
        features = found.rows.shape[1]
        self._settle(
            found.specs,
            found.run,
            lambda: forms.Graph(_convert(estimator, features, found.specs), features),
            found.rows,
            threads,
            options,
            refuses=found.limits.refused,
            doubtful=found.limits.doubtful,
        )


def to_graph(source: ModelSource, options: LoadOptions) -> bytes:
    """The estimator as an ONNX model, serialised. Raises `SetupError` (`model_load_error`), and `NotConvertibleError`
    where skl2onnx cannot say it.
    """
    estimator = load_estimator(source, options)
    found = _understood(source, estimator)
    try:
        return _convert(estimator, found.rows.shape[1], found.specs)
    except Exception as error:  # skl2onnx has errors of many kinds
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NotConvertibleError(f"{type(error).__name__}: {line}") from error


@dataclass(frozen=True)
class _Understood:
    """An estimator as it is run. `rows`: to compare on, float32 [n, features]. `run` takes float32 rows."""

    rows: Array
    specs: list[TensorSpec]
    run: forms.Run
    limits: Limits


def _understood(source: ModelSource, estimator: Any) -> _Understood:
    """Outputs and how to get them, found by running it. Raises `SetupError`."""
    features = getattr(estimator, "n_features_in_", None)
    if not isinstance(features, int | np.integer):
        raise load_error(source, f"{source.path} holds a {type(estimator).__name__}{_without_features(estimator)}")
    rows = _rows(estimator, tabular.COMPARED_ROWS, int(features))
    try:
        specs, run = _runnable(estimator, rows)
    except SetupError as error:
        raise load_error(source, error.message) from error
    except Exception as error:
        raise load_error(
            source,
            f"{type(estimator).__name__} does not run on rows of {features} numbers: "
            f"{type(error).__name__}: {error}; fit it on an array rather than a table with named columns",
        ) from error
    limits = find_limits(run, rows)
    scatter(rows, limits.taken)
    return _Understood(rows, specs, run, limits)


def _without_features(estimator: Any) -> str:
    """Why something does not say how many numbers it takes, and what to do."""
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return " that is not fitted; fit it before saving"
    except TypeError:
        return ", which is no scikit-learn estimator"
    call = getattr(estimator, "predict", None) or getattr(estimator, "transform", None)
    with contextlib.suppress(Exception):  # whatever else it takes: the last answer stands
        if call is not None:
            call(["some text"])
            return " that takes text, not numbers; serve it as a Python model"
    return ", which does not say of how many numbers a row is (n_features_in_); serve it as a Python model"


def _runnable(estimator: Any, rows: Array) -> tuple[list[TensorSpec], forms.Run]:
    """Outputs, and how to get them from float32 rows.

    As in a notebook, where numbers are float64: some estimators take nothing else. Some that were fitted on float32
    take only that. Raises what the first attempt raises.
    """
    failure: Exception | None = None
    for dtype in (np.float64, np.float32):
        try:
            specs, run = _native(estimator, rows.astype(dtype))
        except SetupError:
            raise
        except Exception as error:
            failure = failure or error
        else:
            return specs, lambda x, dtype=dtype, run=run: run(x.astype(dtype, copy=False))
    assert failure is not None
    raise failure


def load_estimator(source: ModelSource, options: LoadOptions) -> Any:
    """The object in the file. Raises `SetupError` (`model_load_error`), for what is not trusted too."""
    path = Path(source.path)
    pickled = path.suffix.lower() in PICKLES
    if pickled and not options.allow_pickle:
        raise load_error(
            source,
            f"{path} is a pickle, and loading a pickle runs whatever code its writer put into it, with this server's "
            f"rights. Save the estimator with skops.io.dump(estimator, '{path.stem}.skops'); or, if you trust "
            f"everybody who could have written this file, --set {source.name}.allow_pickle=true",
        )
    try:
        return _unpickled(path) if pickled else _from_skops(source, path, options)
    except ImportError as error:
        raise missing_library(source, error, "trees") from error
    except SetupError:
        raise
    except Exception as error:
        raise load_error(source, f"cannot load {path}: {type(error).__name__}: {error}") from error


def _unpickled(path: Path) -> Any:
    import joblib

    return joblib.load(path)  # reads plain pickles too


def _from_skops(source: ModelSource, path: Path, options: LoadOptions) -> Any:
    import sklearn  # noqa: F401 - a missing library is told as such
    import skops.io

    unknown = skops.io.get_untrusted_types(file=path)
    refused = sorted(set(unknown) - set(options.trusted_types))
    if refused:
        raise load_error(
            source,
            f"{path} makes objects of types that are not trusted: {', '.join(refused)}. If you know that these types "
            f"do no harm: --set {source.name}.trusted_types={','.join(sorted(unknown))}",
        )
    return skops.io.load(path, trusted=sorted(unknown))


def _rows(estimator: Any, count: int, features: int) -> Array:
    """Rows to compare on, at several scales."""
    random = np.random.default_rng(0)
    rows = random.standard_normal((count, features)) * random.choice([0.3, 1.0, 5.0, 50.0], (count, 1))
    rows[::3] = np.abs(rows[::3])
    rows = np.asarray(rows, np.float32)
    for column, points in _thresholds(estimator, features).items():
        chosen = random.random(count) < 0.7
        rows[chosen, column] = random.choice(points, count)[chosen]
    return rows


def _thresholds(estimator: Any, features: int) -> dict[int, Array]:
    """Thresholds by feature, of a tree or a forest that sees the input itself."""
    inner = getattr(estimator, "estimators_", None)
    members = np.ravel(np.asarray(inner, dtype=object)).tolist() if inner is not None else [estimator]
    found: dict[int, list[Array]] = {}
    for member in members:
        tree = getattr(member, "tree_", None)
        if tree is None:
            continue
        for feature in range(features):
            found.setdefault(feature, []).append(tree.threshold[tree.feature == feature])
    points = {feature: np.concatenate(parts).astype(np.float32) for feature, parts in found.items()}
    finite = {feature: values[np.isfinite(values)] for feature, values in points.items()}
    return {feature: values for feature, values in finite.items() if len(values)}


def _native(estimator: Any, rows: Array) -> tuple[list[TensorSpec], forms.Run]:
    """Outputs, found by running it on a few rows, and how to get them. Raises `SetupError` for what is not served."""
    from sklearn.base import is_classifier

    few = rows[:4]
    if is_classifier(estimator):
        return _classifier(estimator, few)
    call = getattr(estimator, "predict", None)
    name = tabular.PREDICTION
    if call is None:
        call, name = getattr(estimator, "transform", None), "output"
    if call is None:
        raise SetupError(f"a {type(estimator).__name__} has neither predict nor transform")
    run: Callable[[Array], Any] = call
    answer = np.asarray(run(few))
    if answer.dtype.kind not in "fiub":
        raise SetupError(f"the answers of this {type(estimator).__name__} are {answer.dtype}, not numbers")
    dtype, datatype = (np.float32, "FP32") if answer.dtype.kind == "f" else (np.int64, "INT64")
    return (
        [TensorSpec(name, datatype, tuple(answer.shape[1:]))],
        lambda x: [np.asarray(run(x)).astype(dtype, copy=False)],
    )


def _classifier(estimator: Any, few: Array) -> tuple[list[TensorSpec], forms.Run]:
    classes = getattr(estimator, "classes_", None)
    if classes is None or isinstance(classes, list) or np.ndim(classes) != 1:
        raise SetupError(f"this {type(estimator).__name__} has several outputs; serve one estimator for each")
    classes = np.asarray(classes)
    whole = _are_whole(classes)
    classes = _labels(classes, whole)
    label = TensorSpec(tabular.LABEL, "INT64" if whole else "BYTES", ())
    if not hasattr(estimator, "predict_proba"):
        return [label], lambda x: [_labels(estimator.predict(x), whole)]
    shape = np.asarray(estimator.predict_proba(few)).shape
    if shape != (len(few), len(classes)):
        raise SetupError(f"predict_proba of this {type(estimator).__name__} gives {list(shape)}, not one a class")

    def run(x: Array) -> list[Array]:
        probabilities = np.asarray(estimator.predict_proba(x))
        # predict would run the whole estimator again.
        return [classes[probabilities.argmax(axis=1)], probabilities.astype(np.float32, copy=False)]

    def run_both(x: Array) -> list[Array]:
        probabilities = np.asarray(estimator.predict_proba(x))
        return [_labels(estimator.predict(x), whole), probabilities.astype(np.float32, copy=False)]

    specs = [label, TensorSpec(tabular.PROBABILITIES, "FP32", (len(classes),))]
    return specs, run if _decides_by_probability(estimator) else run_both


def _are_whole(classes: Array) -> bool:
    """Whether classes are whole numbers, whatever their type: a target column that had gaps is one of floats."""
    if classes.dtype.kind == "f":
        return bool(np.all(np.abs(classes) < _EXACT) and np.all(classes == np.floor(classes)))
    return classes.dtype.kind in "iub"


def _decides_by_probability(estimator: Any) -> bool:
    """Whether predict is the most probable class by construction; not so for a tuned threshold, for one."""
    last = estimator[-1] if hasattr(estimator, "steps") else estimator
    return type(last).__module__.split(".")[:2] in (
        ["sklearn", "ensemble"],
        ["sklearn", "tree"],
        ["sklearn", "naive_bayes"],
        ["sklearn", "neural_network"],
    ) and type(last).__name__ not in ("StackingClassifier", "VotingClassifier", "BaggingClassifier")


def _labels(labels: Any, whole: bool) -> Array:
    array = np.asarray(labels)
    return array.astype(np.int64) if whole else np.array([str(value) for value in array], object)


def _convert(estimator: Any, features: int, specs: list[TensorSpec]) -> bytes:
    """The estimator by skl2onnx, its outputs under our names."""
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.base import is_classifier

    types = [(tabular.INPUT, FloatTensorType([None, features]))]
    probable = is_classifier(estimator) and hasattr(estimator, "predict_proba")
    options = {id(estimator): {"zipmap": False}} if probable else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it says of scikit-learn's deprecations is not for the operator
        model = convert_sklearn(estimator, initial_types=types, options=options, target_opset=17)
    _send_missing_values(model, estimator)
    outputs = [node.name for node in model.graph.output]
    # What is called as our outputs are, but is something inside, makes room.
    names = {spec.name: f"{spec.name}_inside" for spec in specs}
    names |= {found: spec.name for found, spec in zip(outputs, specs, strict=False)}
    if len(outputs) < len(specs):
        raise ValueError(f"the graph has outputs {outputs}")
    del model.graph.output[len(specs) :]  # scores, of a classifier that has no probabilities
    for node in model.graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]
        node.input[:] = [names.get(name, name) for name in node.input]
    for node in model.graph.output:
        node.name = names.get(node.name, node.name)
    return bytes(model.SerializeToString())


def _send_missing_values(model: Any, estimator: Any) -> None:
    """Tell a forest's nodes where NaN goes, which skl2onnx leaves out; its ids of trees and nodes are the forest's."""
    inner = getattr(estimator, "estimators_", None)
    members = np.ravel(np.asarray(inner, dtype=object)).tolist() if inner is not None else [estimator]
    left = [getattr(getattr(member, "tree_", None), "missing_go_to_left", None) for member in members]
    for node in model.graph.node:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if node.domain != "ai.onnx.ml" or "nodes_missing_value_tracks_true" not in attributes:
            continue
        trees, nodes = attributes["nodes_treeids"].ints, attributes["nodes_nodeids"].ints
        if any(flags is None for flags in left) or max(trees) != len(left) - 1:
            return
        tracks = [int(left[tree][place]) for tree, place in zip(trees, nodes, strict=True)]
        attributes["nodes_missing_value_tracks_true"].ints[:] = tracks
