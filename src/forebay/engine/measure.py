"""What an instance finds out about its model at load: does it batch, and what does a batch cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from forebay.core.errors import ExecutionError
from forebay.core.tensors import NUMPY_TYPES, Array, as_bytes
from forebay.models.signature import Signature, TensorSpec
from forebay.runtimes.port import Runtime
from forebay.runtimes.stream import StreamingRuntime

TEXT_LENGTHS_BYTES = (32, 128, 512, 1536)
AXIS_LENGTHS = (16, 64, 256)
SLOWEST_RUN_S = 0.25
"""A size that takes longer than this is not measured further up: waiting for start-up costs more than it tells."""

NO_ROWS = "no row for each input row"
"""How the reason ends where a leading variable axis turned out not to be a batch axis."""

_TEXT = b"the quick brown fox jumps over the lazy dog "
_RELATIVE, _ABSOLUTE = 1e-3, 1e-4
"""Largest difference between a row alone and in a batch (relative, and absolute in units of the largest value)."""


class Samples:
    """Input rows for measuring: the model's own examples where it gives them, else made up from the signature."""

    def __init__(self, runtime: Runtime) -> None:
        self._specs = runtime.signature.inputs
        self._batched = runtime.signature.batched
        self._examples = list(runtime.examples())

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths worth measuring: (0,) where no input has a variable axis or bytes."""
        if any(spec.datatype == "BYTES" for spec in self._specs):
            return TEXT_LENGTHS_BYTES
        return AXIS_LENGTHS if self._batched and any(spec.variable for spec in self._specs) else (0,)

    @property
    def usual_length(self) -> int:
        """The length to try the model with; 0 takes the author's own BYTES, which need not be text, as they are."""
        given = any(spec.datatype == "BYTES" and spec.name in e for spec in self._specs for e in self._examples)
        return 0 if given else self.lengths[0]

    def singly(self, count: int) -> list[dict[str, Array]]:
        """About so many batches of one row each, over all lengths."""
        lengths = self.lengths if self.usual_length else (0,)
        if not self._batched:
            return [self.rows(1, length) for length in lengths]
        each = -(-count // len(lengths))
        batches = [self.rows(each, length) for length in lengths]
        # Lengths in turns, so that the first few are a fair sample too.
        return [{name: array[i : i + 1] for name, array in batch.items()} for i in range(each) for batch in batches]

    def rows(self, count: int, length: int) -> dict[str, Array]:
        """A batch of `count` rows of about `length` on the variable axis. The first two differ, save given ones."""
        return {spec.name: self._column(spec, count, length) for spec in self._specs}

    def _column(self, spec: TensorSpec, count: int, length: int) -> Array:
        given = [example[spec.name] for example in self._examples if spec.name in example]
        if spec.datatype == "BYTES":
            shape = [1 if axis == -1 else axis for axis in spec.row_shape]
            array = np.empty([count, *shape], dtype=object)
            texts = [_leaf(value) for value in given] or [_TEXT[i:] + _TEXT[:i] for i in range(len(_TEXT))]
            for index in range(count):
                array[index] = _stretched(texts[index % len(texts)], length)
            return array if self._batched else array[:1].reshape(shape)
        dtype = NUMPY_TYPES[spec.datatype]
        if given and not spec.variable:
            return np.stack([self._example(spec, given[i % len(given)]) for i in range(count)])
        shape = [max(1, length) if axis == -1 else axis for axis in spec.row_shape]
        if self._batched:
            shape = [count, *shape]
        random = np.random.default_rng(count)
        if dtype.kind == "f":
            return random.standard_normal(shape).astype(dtype)
        numbers = random.integers(0, 2, shape)
        if self._batched and count > 1 and np.array_equal(numbers[0], numbers[1]):
            numbers[1] = 1 - numbers[0]
        return numbers.astype(dtype)

    def _example(self, spec: TensorSpec, value: Any) -> Array:
        try:
            return np.asarray(value, dtype=NUMPY_TYPES[spec.datatype]).reshape(spec.row_shape)
        except (TypeError, ValueError, OverflowError) as error:
            wanted = f"{spec.datatype}{list(spec.row_shape)}"
            raise ValueError(f"examples() gives a {spec.name!r} that is not {wanted}: {error}") from error


def _stretched(text: bytes, length: int) -> bytes:
    return (text * (length // max(1, len(text)) + 1))[:length] if length else text


def _leaf(value: Any) -> bytes:
    while isinstance(value, list | tuple | np.ndarray) and len(value):
        value = value[0]
    return as_bytes(value)


def check_batchable(runtime: Runtime, samples: Samples) -> tuple[bool, str]:
    """Run two rows alone and together. Returns whether they agree, and where not, why."""
    if not runtime.signature.batched:
        return False, "inputs and outputs share no leading variable axis"
    try:
        both = samples.rows(2, samples.usual_length)
        # Copies: a model may write to what it is given.
        together = runtime.run({name: array.copy() for name, array in both.items()}, 2)
        alone = [runtime.run({name: array[i : i + 1].copy() for name, array in both.items()}, 1) for i in range(2)]
    except ExecutionError as error:
        return False, f"a batch of two made-up rows failed: {error.message}"
    for index, spec in enumerate(runtime.signature.outputs):
        if [run[index].shape[:1] for run in (together, *alone)] != [(2,), (1,), (1,)]:
            return False, f"output {spec.name!r} has {NO_ROWS}"
        for row in range(2):
            both_row, single = together[index][row : row + 1], alone[row][index]
            if isinstance(runtime, StreamingRuntime) and runtime.streams:
                single = _filled(single, both_row)
            difference = _difference(spec, both_row, single)
            if difference:
                return False, f"output {spec.name!r} of a row alone and in a batch of two differs: {difference}"
    return True, ""


def _filled(single: Array, like: Array) -> Array:
    """A row of a streamed answer alone, filled up as the rows of a batch are whose pieces ended at different times."""
    if single.ndim != like.ndim or any(axis > most for axis, most in zip(single.shape, like.shape, strict=True)):
        return single
    filled = np.full(like.shape, b"" if like.dtype == object else 0, like.dtype)
    filled[tuple(slice(0, axis) for axis in single.shape)] = single
    return filled


def _difference(spec: TensorSpec, batch: Array, alone: Array) -> str:
    if batch.shape != alone.shape:
        return f"shapes {list(batch.shape[1:])} and {list(alone.shape[1:])}"
    if batch.dtype.kind != "f":
        return "" if np.array_equal(batch, alone) else "values"
    with np.errstate(all="ignore"):
        scale = float(np.max(np.abs(alone), initial=0.0, where=np.isfinite(alone)))
        tolerance = _RELATIVE if spec.datatype != "FP16" else 2e-2
        if np.allclose(batch, alone, rtol=tolerance, atol=_ABSOLUTE * scale, equal_nan=True):
            return ""
        gaps = np.abs(batch - alone)
        gaps = gaps[np.isfinite(gaps)]
        return f"by up to {float(gaps.max(initial=0.0)):.3g}"


def unbatched(signature: Signature) -> Signature:
    """The same signature with the leading axis as an ordinary variable axis, for a model whose outputs have no rows."""
    return Signature(
        tuple(TensorSpec(s.name, s.datatype, (-1, *s.row_shape), s.refuses) for s in signature.inputs),
        tuple(TensorSpec(s.name, s.datatype, (-1, *s.row_shape)) for s in signature.outputs),
        batched=False,
    )


def warm_up(runtime: Runtime, samples: Samples, sizes: Sequence[int]) -> None:
    """Run the sizes once each, so that the first request does not pay for allocation and lazy initialisation."""
    for rows in sizes:
        try:
            runtime.run(samples.rows(rows, samples.usual_length), rows)
        except ExecutionError:
            return


def measure(runtime: Runtime, samples: Samples, max_rows: int, budget_s: float) -> list[tuple[int, int, float]]:
    """Cost as (rows, length, seconds): the median of a few runs, of more and more rows until the budget is spent."""
    end = time.perf_counter() + budget_s
    costs: list[tuple[int, int, float]] = []
    slow: dict[int, int] = {}  # length: rows from which on it takes too long
    sizes = [(1 << power, length) for power in range(max(1, max_rows).bit_length()) for length in samples.lengths]
    # The cheapest first: short rows then tell about large batches before long rows have spent the budget.
    for rows, length in sorted(sizes, key=lambda size: (size[0] * max(1, size[1]), size[0])):
        if rows >= slow.get(length, rows + 1):
            continue
        if time.perf_counter() > end:
            break
        try:
            seconds = _timed(runtime, samples.rows(rows, length), rows, end)
        except ExecutionError:
            break
        costs.append((rows, length, seconds))
        if seconds > SLOWEST_RUN_S:
            slow[length] = rows
    return costs


def _timed(runtime: Runtime, inputs: dict[str, Array], rows: int, end: float) -> float:
    taken: list[float] = []
    began = time.perf_counter()
    while len(taken) < 5 and (len(taken) < 2 or time.perf_counter() < min(end, began + 0.05)):
        start = time.perf_counter()
        runtime.run(dict(inputs), rows)
        taken.append(time.perf_counter() - start)
        if taken[-1] > SLOWEST_RUN_S:
            break
    return sorted(taken)[(len(taken) - 1) // 2]
