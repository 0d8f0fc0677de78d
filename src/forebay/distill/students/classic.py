"""Students of numbers without torch: a linear model, and a decision tree of scikit-learn.

Their epochs are steps of one dial, from the simplest model on: less weight on small weights, more leaves. What agrees
best with the teacher on held-out rows is kept, as with any other student.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from forebay.core.errors import SetupError
from forebay.core.tensors import Array
from forebay.distill.graphs import linear_graph, tree_graph
from forebay.distill.losses import check_losses, soft_targets, usual_losses
from forebay.distill.measures import agreement
from forebay.distill.report import Epoch
from forebay.distill.stopping import Stopping
from forebay.distill.students.port import Plan, Subject, Told, Trained, described, needed
from forebay.distill.target import Target, finished, probabilities_of
from forebay.distill.transfer import Part
from forebay.models.signature import Signature
from forebay.optimize.samples import Row

_ONNX_FILE = "model.onnx"
_PENALTIES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
_LEAVES = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_STEPS = 200
"""Of the optimiser, for one penalty; the next one begins where it ended."""


def features_of(signature: Signature, rows: Sequence[Row]) -> Array:
    """All inputs of each row, one after the other, float32 [rows, features]."""
    return np.stack(
        [
            np.concatenate([np.asarray(row[spec.name], np.float32).reshape(-1) for spec in signature.inputs])
            for row in rows
        ]
    )


def check_numbers(kind: str, signature: Signature) -> None:
    """Raises `SetupError` where rows are no fixed count of numbers."""
    if any(spec.datatype == "BYTES" or spec.variable for spec in signature.inputs):
        raise SetupError(
            f"--student {kind} is for rows of so many numbers; the teacher takes {described(signature)}; for texts use "
            "static-embedding"
        )


def _check_finite(features: Array, signature: Signature, kind: str) -> None:
    """Raises `SetupError` where a number is lacking, as in rows for trees."""
    rows = int((~np.isfinite(features)).any(axis=1).sum())
    if rows:
        names = ", ".join(spec.name for spec in signature.inputs)
        raise SetupError(
            f"{rows} of {len(features)} rows hold NaN or infinity in {names}, of which --student {kind} makes nothing; "
            "fill them up, leave those rows out, or use --student tree"
        )


class Linear:
    """See `Student`. Of classes it is a logistic regression on the teacher's softened probabilities, else a ridge
    regression; the penalty falls from step to step.
    """

    def __init__(self, subject: Subject, plan: Plan) -> None:
        check_numbers("linear", subject.signature)
        try:
            import scipy.optimize  # noqa: F401
        except ImportError as error:
            raise needed("linear", "trees,optimize", error) from None
        self._subject, self._plan = subject, plan
        self.losses = _only(plan, subject.target, ("kl", "labels") if subject.target.by_class else ("mse",), "linear")
        self.parameters = 0
        self.about = "a linear model"
        self._weights = np.zeros((0, 0))
        self._mean, self._spread = np.zeros(0), np.ones(0)

    def fit(self, train: Part, stop: Part, told: Told) -> Trained:
        """See `Student.fit`."""
        check_losses(self.losses, self._subject.target, labelled=bool((train.labels >= 0).any()))
        x = features_of(self._subject.signature, train.rows).astype(np.float64)
        _check_finite(x, self._subject.signature, "linear")
        self._mean = x.mean(axis=0)
        spread = x.std(axis=0)
        self._spread = np.where(spread > 1e-8 * np.maximum(np.abs(x).max(axis=0, initial=0.0), 1e-30), spread, 1.0)
        design = self._design(x)
        self.parameters = design.shape[1] * self._subject.target.width
        self.about = f"a linear model of {x.shape[1]} numbers"
        weights = np.zeros((design.shape[1], self._subject.target.width))
        fit = self._logistic if self._subject.target.by_class else self._ridge

        def step(penalty: float) -> tuple[float, Array]:
            nonlocal weights
            loss, weights = fit(design, train, penalty, weights)
            return loss, weights.copy()

        dial = [(f"penalty {penalty:g}", lambda penalty=penalty: step(penalty)) for penalty in _PENALTIES]
        trained, self._weights = _turned(dial, self._held_out(stop), self._plan.patience, told)
        return trained

    def answer(self, rows: Sequence[Row]) -> Array:
        """See `Student.answer`."""
        x = features_of(self._subject.signature, rows).astype(np.float64)
        return finished(self._subject.target, self._design(x) @ self._weights)

    def write(self, folder: Path) -> str:
        """See `Student.write`."""
        scaled = self._weights[:-1] / self._spread[:, None]
        bias = self._weights[-1] - self._mean @ scaled
        content = linear_graph(self._subject.signature.inputs, self._subject.target, scaled, bias)
        (folder / _ONNX_FILE).write_bytes(content)
        return _ONNX_FILE

    def _design(self, x: Array) -> Array:
        scaled = (x - self._mean) / self._spread
        return np.concatenate([scaled, np.ones((len(x), 1))], axis=1)

    def _held_out(self, stop: Part) -> Callable[[Any], tuple[float, float]]:
        target = self._subject.target
        x = features_of(self._subject.signature, stop.rows).astype(np.float64)
        _check_finite(x, self._subject.signature, "linear")
        design = self._design(x)

        def look(weights: Array) -> tuple[float, float]:
            raw = design @ weights
            return self._loss(raw, stop), agreement(target, stop.wanted, finished(target, raw))

        return look

    def _loss(self, raw: Array, part: Part) -> float:
        if self._subject.target.by_class:
            return self._sloped(part)(raw)[0]
        return float(np.mean((raw - self._numbers(part)) ** 2))

    def _numbers(self, part: Part) -> Array:
        target = self._subject.target
        return np.asarray((part.wanted - np.asarray(target.mean)) / np.asarray(target.spread), np.float64)

    def _sloped(self, part: Part) -> Callable[[Array], tuple[float, Array]]:
        """Loss and slope of raw values for these rows."""
        temperature = self._plan.temperature
        soft = soft_targets(temperature, self._subject.target, part.wanted)
        kl, labels = self.losses.get("kl", 0.0), self.losses.get("labels", 0.0)
        return lambda raw: cross(raw, soft, temperature, part.labels, kl, labels)

    def _logistic(self, design: Array, train: Part, penalty: float, start: Array) -> tuple[float, Array]:
        from scipy.optimize import minimize

        sloped = self._sloped(train)

        shape: tuple[int, ...] = start.shape

        def cost(flat: Array) -> tuple[float, Array]:
            weights = flat.reshape(shape)
            loss, slope = sloped(design @ weights)
            kept = np.array(weights)
            kept[-1] = 0.0  # the constant is free
            return loss + penalty * float(np.sum(kept**2)), (design.T @ slope + 2 * penalty * kept).reshape(-1)

        found = minimize(cost, start.reshape(-1), jac=True, method="L-BFGS-B", options={"maxiter": _STEPS})
        return float(found.fun), np.asarray(found.x).reshape(shape)

    def _ridge(self, design: Array, train: Part, penalty: float, start: Array) -> tuple[float, Array]:
        wanted = self._numbers(train)
        kept = np.eye(design.shape[1]) * penalty * len(design)
        kept[-1, -1] = 0.0
        weights = np.linalg.lstsq(design.T @ design + kept, design.T @ wanted, rcond=None)[0]
        return float(np.mean((design @ weights - wanted) ** 2)), weights


class Tree:
    """See `Student`. One decision tree on the teacher's probabilities or numbers; the leaves grow from step to step."""

    def __init__(self, subject: Subject, plan: Plan) -> None:
        check_numbers("tree", subject.signature)
        try:
            import skl2onnx  # noqa: F401
            import sklearn.tree  # noqa: F401
        except ImportError as error:
            raise needed("tree", "trees,optimize", error) from None
        self._subject, self._plan = subject, plan
        self.losses = _only(plan, subject.target, ("mse",), "tree")
        self.about, self.parameters = "a decision tree", 0
        self._tree: Any = None

    def fit(self, train: Part, stop: Part, told: Told) -> Trained:
        """See `Student.fit`. Classes are learned as probabilities, logits too: a leaf answers their mean."""
        from sklearn.tree import DecisionTreeRegressor

        target = self._subject.target
        x, wanted = features_of(self._subject.signature, train.rows), self._wanted(train)

        def grown(leaves: int) -> tuple[float, Any]:
            tree = DecisionTreeRegressor(max_leaf_nodes=leaves, random_state=self._plan.seed).fit(x, wanted)
            return float(np.mean((_predicted(tree, x, target) - wanted) ** 2)), tree

        held, theirs = features_of(self._subject.signature, stop.rows), self._wanted(stop)

        def look(tree: Any) -> tuple[float, float]:
            found = _predicted(tree, held, target)
            return float(np.mean((found - theirs) ** 2)), agreement(target, stop.wanted, self._finished(found))

        dial = [(f"{leaves} leaves", lambda leaves=leaves: grown(leaves)) for leaves in _LEAVES if leaves <= len(x)]
        trained, self._tree = _turned(dial, look, self._plan.patience, told)
        self.parameters = int(self._tree.tree_.node_count)
        self.about = f"a decision tree of {self._tree.get_n_leaves()} leaves"
        return trained

    def answer(self, rows: Sequence[Row]) -> Array:
        """See `Student.answer`."""
        x = features_of(self._subject.signature, rows)
        return self._finished(_predicted(self._tree, x, self._subject.target))

    def write(self, folder: Path) -> str:
        """See `Student.write`."""
        content = tree_graph(self._subject.signature.inputs, self._subject.target, self._tree)
        (folder / _ONNX_FILE).write_bytes(content)
        return _ONNX_FILE

    def _wanted(self, part: Part) -> Array:
        target = self._subject.target
        return probabilities_of(target, part.wanted) if target.by_class else np.asarray(part.wanted, np.float64)

    def _finished(self, found: Array) -> Array:
        target = self._subject.target
        if target.form == "logits":
            return np.asarray(logits_of_tree(found), np.float32)
        if target.unit:
            return finished(target, found)
        return found.astype(np.float32)


def logits_of_tree(probabilities: Array) -> Array:
    """As the graph has it: a class that no row of the leaf has is very unlikely, not impossible."""
    return np.log(np.maximum(probabilities, 1e-7))


def _predicted(tree: Any, x: Array, target: Target) -> Array:
    return np.asarray(tree.predict(x), np.float64).reshape(len(x), target.width)


def _only(plan: Plan, target: Target, names: Sequence[str], kind: str) -> dict[str, float]:
    usual = usual_losses(target)
    losses = dict(plan.losses) or {name: usual.get(name, 1.0) for name in names[:1]}
    other = [name for name in losses if name not in names]
    if other:
        raise SetupError(
            f"--loss {other[0]}: --student {kind} is trained by {' and '.join(names)} here; leave --loss away, or use "
            "a student of torch"
        )
    return losses


def _turned(
    dial: Sequence[tuple[str, Callable[[], tuple[float, Any]]]],
    look: Callable[[Any], tuple[float, float]],
    patience: int,
    told: Told,
) -> tuple[Trained, Any]:
    """Each step of a dial, until the held-out rows agree no better."""
    stopping, best, epochs = Stopping(patience), None, list[Epoch]()
    for number, (note, step) in enumerate(dial, 1):
        began = time.monotonic()
        loss, model = step()
        held_out, agreed = look(model)
        epoch = Epoch(
            number=number,
            loss=loss,
            held_out_loss=held_out,
            agreement=agreed,
            seconds=time.monotonic() - began,
            note=note,
        )
        epochs.append(epoch)
        if stopping.seen(number, agreed, held_out):
            best = model
        told(epoch)
        if stopping.done:
            break
    if best is None:
        raise SetupError("training came to nothing: the loss is no number at any step; look at the rows")
    return Trained(stopping.best_epoch, stopping.done, epochs), best


def cross(
    raw: Array, soft: Array, temperature: float, labels: Array, soft_weight: float, label_weight: float
) -> tuple[float, Array]:
    """Mean loss of raw values, and its slope: KL with softened probabilities times T squared, and cross-entropy."""
    rows = len(raw)
    log_mine = _log_softmax(raw / temperature)
    kl = float(np.sum(soft * (np.log(np.maximum(soft, 1e-300)) - log_mine))) / rows * temperature**2
    slope = soft_weight * temperature * (np.exp(log_mine) - soft) / rows
    total = soft_weight * kl
    chosen = np.flatnonzero(labels >= 0)
    if label_weight and len(chosen):
        log_hard = _log_softmax(raw[chosen])
        total -= label_weight * float(np.mean(log_hard[np.arange(len(chosen)), labels[chosen]]))
        hard = np.exp(log_hard)
        hard[np.arange(len(chosen)), labels[chosen]] -= 1.0
        slope[chosen] += label_weight * hard / len(chosen)
    return total, slope


def _log_softmax(values: Array) -> Array:
    shifted = values - values.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
