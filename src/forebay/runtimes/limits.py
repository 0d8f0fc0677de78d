"""What a model of rows of numbers takes beside finite ones, found by asking it.

A library refuses NaN or infinity before it computes; the same model in ONNX computes something of it. A library's own
flags do not say it for a pipeline, where one step may fill in what the next would refuse.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from forebay.core.tensors import Array
from forebay.runtimes.forms import Run

VALUES = {"nan": np.nan, "inf": np.inf}
ASKED_COLUMNS = 1024
"""With more columns a model is not asked about each: what it refuses it then says at the time."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of `VALUES` those that a model takes in every column, those that it takes in none; the others it judges."""

    taken: tuple[str, ...]
    refused: tuple[str, ...]

    @property
    def doubtful(self) -> Callable[[Array], bool] | None:
        """Which rows only the library itself can judge. None: there are none, but for those that are refused."""
        known = {*self.taken, *self.refused}
        if known >= VALUES.keys():
            return None
        if "nan" in known:
            return lambda x: bool(np.isinf(x).any())
        if "inf" in known:
            return lambda x: bool(np.isnan(x).any())
        return lambda x: not np.isfinite(x).all()


def find_limits(run: Run, rows: Array) -> Limits:
    """Run one of the rows with each of `VALUES` in all columns at once, then in one after the other until it is taken.

    The rows are such as the model takes.
    """
    taken: list[str] = []
    refused: list[str] = []
    columns = rows.shape[1]
    for name, value in VALUES.items():
        if _runs(run, np.full((1, columns), value, np.float32)):
            taken.append(name)
        elif columns <= ASKED_COLUMNS and not any(_takes(run, rows[:1], column, value) for column in range(columns)):
            refused.append(name)
    return Limits(tuple(taken), tuple(refused))


def _takes(run: Run, row: Array, column: int, value: float) -> bool:
    odd = row.copy()
    odd[0, column] = value
    return _runs(run, odd)


def _runs(run: Run, row: Array) -> bool:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            run(row)
        except Exception:  # the libraries have no error of their own for it
            return False
    return True


def scatter(rows: Array, names: tuple[str, ...]) -> None:
    """Put these of `VALUES` into a tenth of every fourth row each, in place."""
    random = np.random.default_rng(1)
    for place, name in enumerate(VALUES):
        if name in names:
            chosen = (random.random(rows.shape) < 0.1) & (np.arange(len(rows)) % 4 == place)[:, None]
            rows[chosen] = VALUES[name] * random.choice((-1.0, 1.0), int(chosen.sum()))
