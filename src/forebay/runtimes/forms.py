"""A model in two forms, its own library and ONNX Runtime: do they agree, and which is faster at how many rows."""

from __future__ import annotations

import functools
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort

from forebay.core.tensors import NUMPY_TYPES, Array
from forebay.models.signature import TensorSpec

Run = Callable[[Array], list[Array]]
"""float32 [rows, features] to the outputs of the signature, in order."""

Widen = Callable[[Array], Callable[[Array], None]]
"""Given an array for rows as a graph wants them, what fills it from rows as they come."""

RELATIVE, ABSOLUTE = 1e-4, 1e-5
"""How far the two forms may differ: relative, and absolute in units of the output's largest value."""
TIMED_ROWS = 1024
"""Larger batches than this are not timed; the form of the largest one timed runs them."""
BUDGET_S = 0.5
"""Longest time for timing the forms at load."""
_NEARLY = 0.95
"""Another form has to be this much faster before it takes over: switching for less is noise."""
_OUTGROWN = 1.2
"""How much more a row has to cost in a larger batch before batches are run in pieces."""


@dataclass(frozen=True, slots=True)
class Graph:
    """An ONNX model for rows of so many features. `widen` makes its input of them; None: it takes them as they are."""

    content: bytes
    features: int
    widen: Widen | None = None


@dataclass(frozen=True, slots=True)
class Form:
    """One way to run the model."""

    name: str
    run: Run


class Choice:
    """Which form runs how many rows: from `starts[i]` rows on it is `forms[i]`."""

    __slots__ = ("_runs", "_starts", "forms", "starts")

    def __init__(self, starts: Sequence[int], forms: Sequence[Form]) -> None:
        self.starts, self.forms = list(starts), list(forms)
        self._starts, self._runs = self.starts, [form.run for form in forms]

    def run(self, x: Array, rows: int) -> list[Array]:
        """Run the form that was faster at this many rows."""
        return self._runs[bisect_right(self._starts, rows) - 1](x)

    def __str__(self) -> str:
        parts = [f"{form.name} from {start} rows" for start, form in zip(self.starts, self.forms, strict=True)]
        return ", ".join(parts) if len(parts) > 1 else self.forms[0].name


def onnx_run(graph: Graph, specs: Sequence[TensorSpec], threads: int) -> Run:
    """The graph in ONNX Runtime, outputs by the names of `specs`. Its input is called `input`."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = False  # the outputs are small; the arena costs more than it saves
    options.log_severity_level = 3
    session = ort.InferenceSession(graph.content, options, ["CPUExecutionProvider"])
    names = [spec.name for spec in specs]
    run, widen = session.run, graph.widen
    width = session.get_inputs()[0].shape[1]
    one = _one_row(session, specs, widen)
    one_shape = (1, graph.features)
    shapes = [(-1, *spec.row_shape) for spec in specs]
    # One value a row is [rows, 1] in ONNX, [rows] here.
    same = [len(node.shape) for node in session.get_outputs()] == [len(shape) for shape in shapes]

    def plain(x: Array) -> list[Array]:
        if x.shape == one_shape and one is not None:
            return one(x)
        if widen is not None:
            if x.shape[1] != graph.features:  # numpy would repeat a single column
                raise ValueError(f"a row has {graph.features} features, not {x.shape[1]}")
            wide = np.empty((len(x), width), np.float32)
            widen(wide)(x)
            x = wide
        outputs: list[Array] = run(names, {"input": x})
        return outputs if same else [array.reshape(to) for array, to in zip(outputs, shapes, strict=True)]

    return plain


def _one_row(session: Any, specs: Sequence[TensorSpec], widen: Widen | None) -> Run | None:
    """One row through buffers that are bound once: a tenth quicker where trees take 10 us. None for text labels."""
    if any(spec.datatype == "BYTES" for spec in specs):
        return None
    (node,) = session.get_inputs()
    x = np.zeros((1, node.shape[1]), np.float32)
    # ONNX may say [1, 1] for what is [1] here: it is the same memory.
    ranks = {found.name: len(found.shape) for found in session.get_outputs()}
    outputs = [np.zeros((1, *spec.row_shape), NUMPY_TYPES[spec.datatype]) for spec in specs]
    binding = session.io_binding()
    binding.bind_input("input", "cpu", 0, np.float32, x.shape, x.ctypes.data)
    for spec, array in zip(specs, outputs, strict=True):
        shape = array.shape if ranks[spec.name] == array.ndim else (1, array.size)
        binding.bind_output(spec.name, "cpu", 0, array.dtype.type, shape, array.ctypes.data)
    run = session.run_with_iobinding
    fill = widen(x) if widen is not None else functools.partial(np.copyto, x)

    def one(row: Array) -> list[Array]:
        fill(row)
        run(binding)
        return [array.copy() for array in outputs]

    return one


def in_pieces(run: Run, size: int) -> Run:
    """`size` rows at a time, one result. ONNX Runtime's trees are slower by the row once a batch outgrows its cache."""

    def pieces(x: Array) -> list[Array]:
        if len(x) <= size:
            return run(x)
        parts = [run(x[start : start + size]) for start in range(0, len(x), size)]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    return pieces


def disagreement(specs: Sequence[TensorSpec], native: Sequence[Array], other: Sequence[Array]) -> str:
    """Where the outputs of the two forms differ beyond tolerance; empty where they agree.

    A label may differ where the two highest probabilities are as near to each other as the tolerance.
    """
    tied = _ties(specs, native)
    for spec, a, b in zip(specs, native, other, strict=True):
        if a.shape != b.shape:
            return f"{spec.name} has shape {list(b.shape)} in ONNX and {list(a.shape)} without"
        if a.dtype.kind != "f":
            wrong = np.asarray(a != b)
            count = int(np.sum(wrong if tied is None else wrong & ~tied))
            if count:
                return f"{spec.name} differs in {count} of {len(a)} rows"
            continue
        with np.errstate(all="ignore"):
            scale = float(np.max(np.abs(a), initial=0.0, where=np.isfinite(a)))
            if not np.allclose(a, b, rtol=RELATIVE, atol=ABSOLUTE * scale, equal_nan=True):
                gaps = np.abs(a.astype(np.float64) - b)
                worst = float(np.max(gaps, initial=0.0, where=np.isfinite(gaps)))
                return f"{spec.name} differs by up to {worst:.3g} where values go up to {scale:.3g}"
    return ""


def _ties(specs: Sequence[TensorSpec], outputs: Sequence[Array]) -> Array | None:
    for spec, values in zip(specs, outputs, strict=True):
        if spec.name == "probabilities" and values.shape[1] > 1:
            top = np.sort(values, axis=1)[:, -2:]
            return np.asarray(top[:, 1] - top[:, 0] <= 2 * ABSOLUTE)
    return None


def choose(native: Form, graph: Form, rows: Array, max_rows: int, *, single: bool = False) -> Choice:
    """Time both at 1, 2, 3, 4, 6, 8, 12, ... rows up to `max_rows`; the rows are given, and repeat.

    single: one form for every batch size, the one that is faster on one row.
    """
    sizes = _sizes(1 if single else min(max_rows, TIMED_ROWS))
    forms = [graph, native]
    timed: list[tuple[int, list[float]]] = []
    end = time.perf_counter() + BUDGET_S
    for size in sizes:
        if size > 1 and time.perf_counter() > end:
            break
        batches = _batches(rows, size)
        timed.append((size, [_usual_s(form.run, batches, BUDGET_S / 2 / len(sizes) / len(forms)) for form in forms]))
        best, best_s = min(((rows, seconds[0] / rows) for rows, seconds in timed), key=lambda entry: entry[1])
        if len(forms) == 2 and best > 1 and timed[-1][1][0] / size > _OUTGROWN * best_s:
            forms.append(Form(f"{graph.name} by {best} rows", in_pieces(graph.run, best)))
    return _choice(timed, forms)


def _sizes(most: int) -> list[int]:
    sizes = sorted({1, *(1 << power for power in range(1, 11)), *(3 << power for power in range(10))})
    return [size for size in sizes if size <= most]


def _choice(timed: Sequence[tuple[int, list[float]]], forms: Sequence[Form]) -> Choice:
    starts: list[int] = []
    chosen: list[int] = []
    for size, seconds in timed:
        best = min(range(len(seconds)), key=seconds.__getitem__)
        if chosen and seconds[best] > _NEARLY * seconds[chosen[-1]]:
            continue
        if not chosen or best != chosen[-1]:
            starts.append(size)
            chosen.append(best)
    return Choice(starts, [forms[index] for index in chosen])


def _batches(rows: Array, size: int) -> list[Array]:
    """Different ones in turn, as requests bring them: on the same row again a processor foresees every branch."""
    count = max(2, min(len(rows) // size, 512))
    everything = np.resize(rows, (count * size, rows.shape[1]))
    return [np.ascontiguousarray(everything[place * size : (place + 1) * size]) for place in range(count)]


def _usual_s(run: Run, batches: Sequence[Array], budget_s: float) -> float:
    """The median of some runs, in seconds."""
    run(batches[0])
    taken: list[float] = []
    began = now = time.perf_counter()
    while len(taken) < 3 or (now - began < budget_s and len(taken) < 1000):
        run(batches[len(taken) % len(batches)])
        after = time.perf_counter()
        taken.append(after - now)
        now = after
    return sorted(taken)[len(taken) // 2]
