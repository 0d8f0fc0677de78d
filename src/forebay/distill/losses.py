"""What a student is trained by: a weighted sum of how far it is from its teacher, and from labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from forebay.core.errors import SetupError
from forebay.core.tensors import Array
from forebay.distill.target import Target, logits_of

NAMES = ("kl", "mse", "cosine", "labels")
_MEANT = "--loss NAME=WEIGHT,..., such as kl=1,labels=0.5; names are kl, mse, cosine, labels"

Weights = Mapping[str, float]


def parse_losses(text: str) -> dict[str, float]:
    """`kl=1,labels=0.5`: names to weights, without those of 0. Raises `SetupError`."""
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = part.strip().partition("=")
        if name not in NAMES or name in weights:
            wrong = f"{name!r} is given twice" if name in weights else f"there is no loss {name!r}"
            raise SetupError(f"--loss {text}: {wrong}; write {_MEANT}")
        try:
            weight = float(number) if equals else 1.0
        except ValueError:
            weight = -1.0
        if not 0.0 <= weight < float("inf"):
            raise SetupError(f"--loss {text}: the weight of {name} is {number!r}; write {_MEANT}")
        weights[name] = weight
    weights = {name: weight for name, weight in weights.items() if weight}
    if not weights:
        raise SetupError(f"--loss {text}: all weights are 0; write {_MEANT}")
    return weights


def usual_losses(target: Target) -> dict[str, float]:
    """What suits the output."""
    if target.by_class:
        return {"kl": 1.0}
    if target.form == "vectors":
        return {"cosine": 1.0} if target.unit else {"cosine": 1.0, "mse": 1.0}
    return {"mse": 1.0}


def check_losses(weights: Weights, target: Target, *, labelled: bool) -> None:
    """Raises `SetupError` for a loss that does not go with what is learned."""
    for name in ("kl", "labels"):
        if name in weights and not target.by_class:
            raise SetupError(
                f"--loss {name} is for classes, and {target.name!r} is taken for {target.form}; use mse"
                f"{' or cosine' if target.width > 1 else ''}, or say --task classes"
            )
    if "cosine" in weights and target.width < 2:
        raise SetupError(f"--loss cosine needs several numbers a row, {target.name!r} is one; use mse")
    if "labels" in weights and not labelled:
        raise no_labels()


def no_labels() -> SetupError:
    """What to say where the loss of labels is asked for."""
    return SetupError("--loss labels needs labels in the samples: an array `labels`, or a column `label`")


class TorchLoss:
    """The sum for batches of tensors.

    kl: KL divergence of softened probabilities times T squared (Hinton et al. 2015). mse and cosine: of the outputs as
    clients see them; numbers in units of their spread, vectors in units of their mean square. labels: cross-entropy of
    the rows that have one.
    """

    def __init__(self, weights: Weights, temperature: float, target: Target) -> None:
        import torch

        self._torch, self._f = torch, torch.nn.functional
        self._weights, self._temperature, self._target = weights, temperature, target

    def __call__(self, raw: Any, wanted: Any, labels: Any = None) -> Any:
        """raw: the student's values [rows, width] before they are finished. wanted: the teacher's answers. labels:
        int64, -1 where there is none.
        """
        total = raw.new_zeros(())
        for name, weight in self._weights.items():
            total = total + weight * getattr(self, f"_{name}")(raw, wanted, labels)
        return total

    def _kl(self, raw: Any, wanted: Any, labels: Any) -> Any:
        t = self._temperature
        logits = wanted.clamp_min(1e-7).log() if self._target.form == "probabilities" else wanted
        soft = self._f.log_softmax(logits / t, dim=1)
        mine = self._f.log_softmax(raw / t, dim=1)
        return self._f.kl_div(mine, soft, reduction="batchmean", log_target=True) * t * t

    def _mse(self, raw: Any, wanted: Any, labels: Any) -> Any:
        if self._target.form == "numbers":
            mean, spread = (raw.new_tensor(one) for one in (self._target.mean, self._target.spread))
            return self._f.mse_loss(raw, (wanted - mean) / spread)
        error = self._f.mse_loss(finish(raw, self._target), wanted)
        return error / (wanted * wanted).mean().clamp_min(1e-12) if self._target.form == "vectors" else error

    def _cosine(self, raw: Any, wanted: Any, labels: Any) -> Any:
        return (1.0 - self._f.cosine_similarity(finish(raw, self._target), wanted, dim=1)).mean()

    def _labels(self, raw: Any, wanted: Any, labels: Any) -> Any:
        if labels is None or not bool((labels >= 0).any()):
            return raw.new_zeros(())
        return self._f.cross_entropy(raw, labels, ignore_index=-1)


def finish(raw: Any, target: Target) -> Any:
    """A student's raw values as the output means them, in torch; see `target.finished`."""
    if target.form == "probabilities":
        return raw.softmax(dim=1)
    if target.form == "numbers":
        return raw * raw.new_tensor(target.spread) + raw.new_tensor(target.mean)
    if target.unit:
        # A sum of squares, not torch's norm: both sides then round alike.
        return raw / (raw * raw).sum(dim=1, keepdim=True).sqrt().clamp_min(1e-12)
    return raw


def soft_targets(temperature: float, target: Target, wanted: Array) -> Array:
    """The teacher's softened probabilities, float64 [rows, classes]."""
    logits = logits_of(target, wanted) / temperature
    soft = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(soft / soft.sum(axis=1, keepdims=True))
