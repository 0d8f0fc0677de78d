"""An XGBoost model's own JSON, read as an ensemble.

Source: https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html (the schema) and `ProbToMargin` of each
objective in https://github.com/dmlc/xgboost/tree/master/src/objective (how base_score becomes a margin).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from forebay.runtimes.ensemble import Ensemble, Link, NotConvertibleError, Tree

_EXPONENTIAL = frozenset({"count:poisson", "reg:gamma", "reg:tweedie", "survival:cox", "survival:aft"})
_LOGISTIC = frozenset({"binary:logistic", "reg:logistic", "binary:logitraw"})
_IDENTITY = frozenset(
    {
        "reg:squarederror",
        "reg:linear",
        "reg:squaredlogerror",
        "reg:pseudohubererror",
        "reg:absoluteerror",
        "reg:quantileerror",
        "binary:logitraw",
        "rank:pairwise",
        "rank:ndcg",
        "rank:map",
    }
)


def link_of(objective: str) -> Link | None:
    """What the objective does to the sums of leaves; None for one that is not known."""
    if objective == "binary:logistic":
        return "binary"
    if objective in ("multi:softprob", "multi:softmax"):
        return "softmax"
    if objective == "reg:logistic":
        return "sigmoid"
    if objective == "binary:hinge":
        return "hinge"
    if objective in _EXPONENTIAL:
        return "exp"
    return "identity" if objective in _IDENTITY else None


def read_ensemble(document: Mapping[str, Any], rounds: int) -> Ensemble:
    """The first `rounds` rounds of boosting (0: all). Raises `NotConvertibleError`."""
    learner = document["learner"]
    booster = learner["gradient_booster"]
    if booster["name"] != "gbtree":
        raise NotConvertibleError(f"its booster is {booster['name']}, not gbtree")
    objective = learner["objective"]["name"]
    link = link_of(objective)
    if link is None:
        raise NotConvertibleError(f"its objective {objective} is not known here")
    parameters = learner["learner_model_param"]
    outputs = max(1, int(parameters.get("num_class", 0)), int(parameters.get("num_target", 1)))
    model = booster["model"]
    trees, target = model["trees"], [int(group) for group in model["tree_info"]]
    if rounds:
        # Older files lack the index; there every round has as many trees.
        index = model.get("iteration_indptr")
        each = outputs * max(1, int(model["gbtree_model_param"].get("num_parallel_tree", 1)))
        end = int(index[rounds]) if index else rounds * each
        trees, target = trees[:end], target[:end]
    return Ensemble(
        features=int(parameters["num_feature"]),
        trees=[_tree(tree) for tree in trees],
        target=target,
        base=_base(parameters["base_score"], objective, outputs),
        mode="BRANCH_LT",
        link=link,
    )


def _tree(tree: Mapping[str, Any]) -> Tree:
    if int(tree["tree_param"].get("size_leaf_vector", 1)) > 1:
        raise NotConvertibleError("its leaves hold vectors (multi_strategy='multi_output_tree')")
    if any(tree.get("split_type", ())):
        raise NotConvertibleError("it splits on categories")
    return Tree(
        feature=np.asarray(tree["split_indices"], np.int64),
        threshold=np.asarray(tree["split_conditions"], np.float32),
        left=np.asarray(tree["left_children"], np.int64),
        right=np.asarray(tree["right_children"], np.int64),
        nan_left=np.asarray(tree["default_left"], np.bool_),
        cover=np.asarray(tree["sum_hessian"], np.float64) if "sum_hessian" in tree else None,
    )


def _base(written: str, objective: str, outputs: int) -> list[float]:
    """`base_score` as margins. It is one number, or since XGBoost 3.1 a list; it is written after the link."""
    scores = [float(part) for part in written.strip("[] ").split(",")]
    margins = [_margin(score, objective) for score in scores]
    return margins * outputs if len(margins) == 1 else margins


def _margin(score: float, objective: str) -> float:
    if objective in _LOGISTIC:
        if not 0.0 < score < 1.0:
            raise NotConvertibleError(f"its base_score {score:g} is not a probability")
        return -math.log(1.0 / score - 1.0)
    if objective in _EXPONENTIAL:
        if score <= 0.0:
            raise NotConvertibleError(f"its base_score {score:g} has no logarithm")
        return math.log(score)
    return score
