"""A LightGBM model file (text), read as an ensemble.

Source: `Tree::ToString`, `Tree::NumericalDecision` and `GBDT::SaveModelToString` in
https://github.com/microsoft/LightGBM/tree/master/src (include/LightGBM/tree.h for the bits of decision_type).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from forebay.core.tensors import Array
from forebay.runtimes.ensemble import Ensemble, Link, NotConvertibleError, Tree

_CATEGORICAL, _DEFAULT_LEFT = 1, 2
_NO_MISSING, _ZERO_IS_MISSING, _NAN_IS_MISSING = 0, 1, 2
_ZERO = np.float32(1e-35)
"""kZeroThreshold of include/LightGBM/meta.h."""
_IDENTITY = frozenset(
    {"regression", "regression_l1", "huber", "fair", "quantile", "mape", "lambdarank", "rank_xendcg", "custom", ""}
)
_EXPONENTIAL = frozenset({"poisson", "gamma", "tweedie"})


class Header:
    """What a model file says before its trees."""

    def __init__(self, text: str) -> None:
        head = text.partition("\nTree=")[0]
        self.values = dict(line.partition("=")[::2] for line in head.splitlines() if "=" in line)
        self.averaged = "average_output" in head.splitlines()
        words = self.values.get("objective", "").split()
        self.objective = words[0] if words else ""
        self.options = dict(word.partition(":")[::2] for word in words[1:])
        self.outputs = int(self.values["num_tree_per_iteration"])
        self.features = int(self.values["max_feature_idx"]) + 1
        self.classes = int(self.values["num_class"])

    @property
    def kind(self) -> Literal["binary", "classes", "values"]:
        """What the answers are: a probability, one a class, or numbers."""
        if self.objective == "binary":
            return "binary"
        return "classes" if self.objective in ("multiclass", "multiclassova") else "values"

    def link(self) -> Link:
        """Raises `NotConvertibleError` for an objective that is not known."""
        if self.objective in ("binary", "multiclass", "multiclassova"):
            return {"binary": "binary", "multiclass": "softmax", "multiclassova": "one-vs-all"}[self.objective]  # type: ignore[return-value]
        if self.objective == "cross_entropy":
            return "sigmoid"
        if self.objective in _EXPONENTIAL:
            return "exp"
        if self.objective in _IDENTITY and "sqrt" not in self.options:
            return "identity"
        raise NotConvertibleError(f"its objective {self.values.get('objective')} is not known here")


def read_ensemble(text: str) -> Ensemble:
    """All trees of a model file. Raises `NotConvertibleError`."""
    header = Header(text)
    if header.averaged:
        raise NotConvertibleError("its trees are averaged (a random forest)")
    link = header.link()
    scale = float(header.options.get("sigmoid", 1.0)) if link in ("binary", "one-vs-all") else 1.0
    blocks = text.partition("\nend of trees")[0].split("\nTree=")[1:]
    return Ensemble(
        features=header.features,
        trees=[_tree(dict(line.partition("=")[::2] for line in block.splitlines()), scale) for block in blocks],
        target=[place % header.outputs for place in range(len(blocks))],
        base=[0.0] * header.outputs,
        mode="BRANCH_LEQ",
        link=link,
    )


def _tree(fields: Mapping[str, str], scale: float) -> Tree:
    """Inner nodes first, then the leaves; LightGBM writes leaf i as child ~i."""
    if fields.get("is_linear", "0") != "0":
        raise NotConvertibleError("its leaves are linear models")
    leaves = int(fields["num_leaves"])
    inner = leaves - 1
    value = np.array(fields["leaf_value"].split(), np.float64) * scale
    none = np.full(leaves, -1, np.int64)
    no = np.zeros(leaves, np.bool_)
    if not inner:
        return Tree(np.zeros(1, np.int64), value.astype(np.float32), none, none, no, np.ones(1))
    threshold = np.array(fields["threshold"].split(), np.float64)
    left, right = (_children(fields[f"{side}_child"], inner) for side in ("left", "right"))
    return Tree(
        feature=np.concatenate([np.array(fields["split_feature"].split(), np.int64), np.zeros(leaves, np.int64)]),
        threshold=np.concatenate([around_zero(not_above(threshold)), value.astype(np.float32)]),
        left=np.concatenate([left, none]),
        right=np.concatenate([right, none]),
        nan_left=np.concatenate([_nan_left(fields["decision_type"], threshold), no]),
        cover=_cover(fields, inner, leaves),
    )


def _cover(fields: Mapping[str, str], inner: int, leaves: int) -> Array | None:
    """Rows of training by node; None where the file lacks them."""
    counts = [*fields.get("internal_count", "").split(), *fields.get("leaf_count", "").split()]
    return np.array(counts, np.float64) if len(counts) == inner + leaves else None


def _children(text: str, inner: int) -> Array:
    children = np.array(text.split(), np.int64)
    return np.where(children < 0, inner + ~children, children)


def not_above(threshold: Array) -> Array:
    """The largest float32 that is not above each float64: a float32 is <= the one where it is <= the other."""
    with np.errstate(over="ignore"):
        near = threshold.astype(np.float32)
        return np.where(near > threshold, np.nextafter(near, np.float32(-np.inf)), near)


def around_zero(threshold: Array) -> Array:
    """Float32 thresholds as LightGBM compares with them: to it, what is no further from 0 than `_ZERO` is 0."""
    below = np.nextafter(-_ZERO, np.float32(-np.inf))
    moved = np.where((threshold >= -_ZERO) & (threshold < 0), below, threshold)
    return np.where((moved >= 0) & (moved < _ZERO), _ZERO, moved)


def _nan_left(text: str, threshold: Array) -> Array:
    """Where NaN goes. A split that does not know missing values takes NaN for 0."""
    decision = np.array(text.split(), np.int64)
    missing = decision >> 2 & 3
    if np.any(decision & _CATEGORICAL):
        raise NotConvertibleError("it splits on categories")
    if np.any(missing == _ZERO_IS_MISSING):
        raise NotConvertibleError("it takes zeros for missing values (zero_as_missing)")
    return np.where(missing == _NAN_IS_MISSING, (decision & _DEFAULT_LEFT) != 0, threshold >= 0)
