"""Small trained models of every library that has a runtime of its own, as files."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import skops.io
import xgboost
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from forebay.core.tensors import Array
from forebay.models.source import LoadOptions, ModelSource, open_source
from forebay.runtimes.port import Runtime, load_runtime

TREE = "sklearn.tree._tree.Tree"


@cache
def digits() -> tuple[Array, Array]:
    """1,797 pictures of 64 numbers, ten classes."""
    x, y = load_digits(return_X_y=True)
    return np.asarray(x, np.float32), np.asarray(y)


@cache
def cancer() -> tuple[Array, Array]:
    """569 rows of 30 numbers, two classes."""
    x, y = load_breast_cancer(return_X_y=True)
    return np.asarray(x, np.float32), np.asarray(y)


@cache
def diabetes() -> tuple[Array, Array]:
    """442 rows of 10 numbers, one number to predict, all of them positive."""
    x, y = load_diabetes(return_X_y=True)
    return np.asarray(x, np.float32), np.asarray(y)


def holes(x: Array, seed: int = 0) -> Array:
    """The same rows, a tenth of their values missing."""
    holed = x.copy()
    holed[np.random.default_rng(seed).random(x.shape) < 0.1] = np.nan
    return holed


def any_rows(features: int, like: Array, count: int = 300, seed: int = 7) -> Array:
    """Rows as real ones mixed up, and among them missing values, infinities, zeros and large numbers."""
    random = np.random.default_rng(seed)
    rows = np.stack([random.choice(like[:, column], count) for column in range(features)], axis=1).astype(np.float32)
    odd = random.random(rows.shape)
    for share, value in ((0.10, np.nan), (0.12, np.inf), (0.14, -np.inf), (0.2, 0.0), (0.22, 1e30), (0.24, -1e-38)):
        rows[(odd < share) & (odd >= share - 0.02)] = value
    return rows


def xgb(path: Path, x: Array, y: Array, rounds: int = 12, **parameters: Any) -> xgboost.Booster:
    """Train and save a Booster."""
    booster = xgboost.train({"max_depth": 4, "nthread": 1, **parameters}, xgboost.DMatrix(x, y), rounds)
    booster.save_model(path)
    return booster


def lgb(
    path: Path, x: Array, y: Array, rounds: int = 12, *, categories: Sequence[int] | None = None, **parameters: Any
) -> lightgbm.Booster:
    """Train and save a LightGBM Booster."""
    data = lightgbm.Dataset(x, y, free_raw_data=False, categorical_feature=categories or "auto")
    booster = lightgbm.train({"verbose": -1, "num_threads": 1, "num_leaves": 15, **parameters}, data, rounds)
    booster.save_model(path)
    return booster


def dump(path: Path, estimator: Any) -> Any:
    """Save a fitted estimator by skops."""
    skops.io.dump(estimator, path)
    return estimator


def load(path: Path, **options: Any) -> Any:
    """The runtime of a file, with the trust that the test gives. Warnings of the libraries are not the subject."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_runtime(open_source(str(path)), "cpu", 1, LoadOptions(**options))


def a_model(folder: Path, kind: str) -> tuple[Runtime, ModelSource]:
    """One model of a kind: loaded, and its source."""
    options: dict[str, Any]
    if kind == "xgboost classifier":
        xgb(folder / "m.ubj", *cancer(), objective="binary:logistic")
        path, options = folder / "m.ubj", {}
    elif kind == "xgboost regressor":
        xgb(folder / "m.json", *diabetes())
        path, options = folder / "m.json", {}
    elif kind == "lightgbm classifier":
        lgb(folder / "m.txt", *digits(), objective="multiclass", num_class=10)
        path, options = folder / "m.txt", {}
    elif kind == "lightgbm regressor":
        lgb(folder / "m.lgb", *diabetes(), objective="regression")
        path, options = folder / "m.lgb", {}
    elif kind == "sklearn forest":
        dump(folder / "m.skops", RandomForestClassifier(10, max_depth=5, random_state=0).fit(*digits()))
        path, options = folder / "m.skops", {"trusted_types": (TREE,)}
    elif kind == "sklearn words":
        x, y = cancer()
        words = np.array(["benign", "malignant"])[y]
        dump(folder / "m.skops", make_pipeline(StandardScaler(), LogisticRegression()).fit(x, words))
        path, options = folder / "m.skops", {}
    else:
        dump(folder / "m.skops", Ridge().fit(*diabetes()))
        path, options = folder / "m.skops", {}
    runtime: Runtime = load(path, **options)
    return runtime, open_source(str(path))


KINDS = (
    "xgboost classifier",
    "xgboost regressor",
    "lightgbm classifier",
    "lightgbm regressor",
    "sklearn forest",
    "sklearn words",
    "sklearn regressor",
)
