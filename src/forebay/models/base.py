"""The base class of a Python model, usable without a server in a unit test."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class Model:
    """Subclass this, name inputs and outputs, write `predict`.

    `inputs` and `outputs` give the datatype and the shape of one *row*; the batch axis is added. Example:

        class Mlp(forebay.Model):
            inputs = {"x": ("FP32", [16])}
            outputs = {"y": ("FP32", [3])}
            files = ["w.npy"]                  # beside this file

            def load(self, device):
                self.w = np.load(Path(__file__).with_name("w.npy"))

            def predict(self, x):          # x: float32 [rows, 16]
                return x @ self.w          # float32 [rows, 3]

    BYTES inputs arrive as object arrays of `bytes`. Settings of the model (`max_batch_rows`, `slo_ms`, ...) may stand
    as class attributes. `load` runs once in each instance's own process.
    """

    inputs: ClassVar[Mapping[str, tuple[str, Sequence[int]]]] = {}
    outputs: ClassVar[Mapping[str, tuple[str, Sequence[int]]]] = {}

    joins: ClassVar[Mapping[str, str]] = {}
    """Of a model that streams: how the pieces of an output become its whole, `"join"` or `"last"`. By default BYTES and
    outputs with a variable axis are joined, and of others the last piece counts."""

    files: Sequence[str | os.PathLike[str]] = ()
    """Files and folders that `load` reads, such as `["weights.npz"]`: relative to the folder of the model's file, in a
    repository to that of the version. They are part of the model's digest, so that nothing is answered from what was
    computed with other weights. `load` may set it where only then it is known. In a repository every file in the
    version's folder counts, declared or not."""

    threads: int = 1
    """Threads that this instance may use (set before `load`)."""

    def load(self, device: str) -> None:
        """Load weights. `device` is `cpu`, `cuda:0`, ..."""

    # `*_` is never passed: with it, type checkers allow an override that names its inputs, such as `predict(self, x)`.
    def predict(self, *_: Any, **inputs: Any) -> Any:
        """Rows in, rows out: an array (one output), a tuple in the order of `outputs`, or a dict by name.

        A generator streams. Each such value that it yields is a piece of the answers of all rows; `Partial` is a piece
        of one row, and may end it; `Progress` says how far it is; a list of these goes out at once. Rows that have not
        ended do so when the generator does. `yield` gives back the set of rows whose callers have left (`yield []` does
        only that; a plain `for` loop sends None); when nobody waits any more, the generator is closed.
        """
        raise NotImplementedError(f"{type(self).__name__} has no predict method")

    def examples(self) -> Sequence[Mapping[str, Any]]:
        """Example rows (input name to one row's value), used to warm up and to measure cost. Default: none."""
        return ()
