"""What an instance finds out about its model at load, on models made for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from forebay.core.errors import ExecutionError
from forebay.core.tensors import NUMPY_TYPES, Array, bytes_array
from forebay.engine import measure
from forebay.models.signature import Signature, TensorSpec

Function = Callable[..., Array]


class FunctionRuntime:
    """A runtime around one function of its inputs; remembers what it was asked to run."""

    platform = "python"
    note = ""

    def __init__(
        self,
        function: Function,
        inputs: Sequence[TensorSpec] = (TensorSpec("x", "FP32", (3,)),),
        output: TensorSpec = TensorSpec("y", "FP32", (3,)),  # noqa: B008 - frozen
        *,
        batched: bool = True,
        examples: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.signature = Signature(tuple(inputs), (output,), batched)
        self.settings: Mapping[str, Any] = {}
        self.seen: list[tuple[int, dict[str, Array]]] = []
        self._function = function
        self._examples = examples

    def run(self, inputs: dict[str, Array], rows: int) -> list[Array]:
        self.seen.append((rows, inputs))
        try:
            return [np.asarray(self._function(**inputs))]
        except ValueError as error:
            raise ExecutionError(str(error)) from error

    def examples(self) -> Sequence[Mapping[str, Any]]:
        return self._examples


def check(runtime: FunctionRuntime) -> tuple[bool, str]:
    return measure.check_batchable(runtime, measure.Samples(runtime))


def refuse(x: Array) -> Array:
    raise ValueError("made-up rows make no sense")


def half(x: Array) -> Array:
    return x.astype("<f2") * np.float16(1.0 + 0.005 * (len(x) - 1))


TEXT = TensorSpec("t", "BYTES", (1,))


def lengths(t: Array) -> Array:
    return np.array([[float(len(row[0]))] for row in t], "<f4")


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * 2,
        lambda x: x * (1 + 1e-5 * len(x)),  # rounding differs with the batch's size
        lambda x: np.where(x > 0, np.nan, np.inf),
        lambda x: np.full_like(x, np.nan),
        lambda x: x[:, :0],
        lambda x: x > 0,
    ],
)
def test_rows_that_do_not_mind_their_company_batch(function: Function) -> None:
    assert check(FunctionRuntime(function)) == (True, "")


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: x - x.mean(axis=0), "in a batch of two differs: by up to "),
        (lambda x: x * len(x), "in a batch of two differs: by up to "),
        (lambda x: x[::-1] if len(x) > 1 else x, "differs: by up to "),
        (lambda x: np.where(len(x) > 1, np.nan, x), "differs: by up to 0"),
        (lambda x: np.full((len(x), len(x)), 1.0), r"differs: shapes [2] and [1]"),
        (lambda x: np.full(x.shape, len(x)), "differs: values"),
        (lambda x: x[:1], measure.NO_ROWS),
        (lambda x: np.vstack([x, x]), measure.NO_ROWS),
        (lambda x: x.sum(), measure.NO_ROWS),
        (refuse, "a batch of two made-up rows failed: made-up rows make no sense"),
    ],
)
def test_rows_that_do_not_go_together_are_found_out(function: Function, reason: str) -> None:
    batchable, found = check(FunctionRuntime(function))
    assert not batchable
    assert reason in found


def test_half_precision_may_differ_more() -> None:
    assert check(FunctionRuntime(half, output=TensorSpec("y", "FP16", (3,)))) == (True, "")
    assert not check(FunctionRuntime(lambda x: half(x).astype("<f4")))[0]


@pytest.mark.parametrize("datatype", ["BOOL", "UINT8", "INT64"])
@pytest.mark.parametrize("width", [1, 5])
def test_company_is_noticed_for_whole_numbers_too(datatype: str, width: int) -> None:
    specs = [TensorSpec("x", datatype, (width,))]
    output = TensorSpec("y", datatype, (width,))
    assert check(FunctionRuntime(lambda x: x, specs, output)) == (True, "")
    assert not check(FunctionRuntime(lambda x: x[::-1] if len(x) > 1 else x, specs, output))[0]


def test_company_is_noticed_for_text_too() -> None:
    output = TensorSpec("y", "BYTES", (1,))
    assert check(FunctionRuntime(lambda t: t, [TEXT], output)) == (True, "")
    assert not check(FunctionRuntime(lambda t: t[::-1], [TEXT], output))[0]


def test_a_model_that_writes_to_its_inputs_is_not_misjudged() -> None:
    def double(x: Array) -> Array:
        x *= 2
        return x

    assert check(FunctionRuntime(double)) == (True, "")


def test_a_model_that_does_not_batch_is_not_even_run() -> None:
    runtime = FunctionRuntime(lambda x: x, batched=False)
    assert check(runtime) == (False, "inputs and outputs share no leading variable axis")
    assert runtime.seen == []


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("datatype", NUMPY_TYPES)
@pytest.mark.parametrize("row_shape", [(), (2,), (-1,), (3, -1), (0,)])
def test_made_up_rows_of_every_datatype_and_shape(datatype: str, row_shape: tuple[int, ...], batched: bool) -> None:
    runtime = FunctionRuntime(lambda x: x, [TensorSpec("x", datatype, row_shape)], batched=batched)
    samples = measure.Samples(runtime)
    for count in (1, 2, 5):
        for length in samples.lengths:
            array = samples.rows(count, length)["x"]
            assert array.dtype == NUMPY_TYPES[datatype]
            shape = array.shape[1:] if batched else array.shape
            assert [a for a, want in zip(shape, row_shape, strict=True) if want != -1] == [
                want for want in row_shape if want != -1
            ]
            if batched:
                assert len(array) == count
            if datatype == "BYTES":
                assert {len(value) for value in array.reshape(-1).tolist()} <= {length}
            elif batched and -1 in row_shape:
                assert length in shape


@pytest.mark.parametrize("datatype", NUMPY_TYPES)
def test_the_first_two_rows_differ(datatype: str) -> None:
    samples = measure.Samples(FunctionRuntime(lambda x: x, [TensorSpec("x", datatype, (1,))]))
    first, second = samples.rows(2, samples.usual_length)["x"].tolist()
    assert first != second


def test_the_authors_examples_are_used() -> None:
    specs = [TensorSpec("x", "INT64", (2,)), TEXT]
    given: list[dict[str, Any]] = [{"x": [5, 6], "t": "one"}, {"x": [7, 8], "t": [b"three"]}]
    samples = measure.Samples(FunctionRuntime(lambda x, t: x, specs, examples=given))
    rows = samples.rows(3, samples.usual_length)
    assert rows["x"].tolist() == [[5, 6], [7, 8], [5, 6]]
    assert rows["t"].tolist() == [[b"one"], [b"three"], [b"one"]], "as they are: they need not be text"
    assert samples.rows(1, 8)["t"].tolist() == [[b"oneoneon"]]


def test_an_example_that_does_not_fit_is_named() -> None:
    samples = measure.Samples(FunctionRuntime(lambda x: x, examples=[{"x": [1, 2]}]))
    with pytest.raises(ValueError, match=r"examples\(\) gives a 'x' that is not FP32\[3\]"):
        samples.rows(1, 0)


def test_a_model_that_only_takes_its_examples_is_tried_with_them() -> None:
    def picky(t: Array) -> Array:
        if any(not row[0].startswith(b"\x89PNG") or len(row[0]) < 60 for row in t):
            raise ValueError("not an image")
        return lengths(t)

    picture = b"\x89PNG" + b"p" * 60
    runtime = FunctionRuntime(picky, [TEXT], TensorSpec("y", "FP32", (1,)), examples=[{"t": [picture]}])
    assert check(runtime) == (True, "")
    assert not check(FunctionRuntime(picky, [TEXT], TensorSpec("y", "FP32", (1,))))[0]


def test_costs_grow_by_doubling_up_to_the_limit() -> None:
    runtime = FunctionRuntime(lambda x: x)
    costs = measure.measure(runtime, measure.Samples(runtime), 12, 60.0)
    assert [(rows, length) for rows, length, _ in costs] == [(1, 0), (2, 0), (4, 0), (8, 0)]
    assert all(0 < seconds < 60 for _, _, seconds in costs)
    assert {rows for rows, inputs in runtime.seen} == {1, 2, 4, 8}
    assert all(len(inputs["x"]) == rows for rows, inputs in runtime.seen)


def test_text_is_measured_at_several_lengths() -> None:
    runtime = FunctionRuntime(lengths, [TEXT], TensorSpec("y", "FP32", (1,)))
    costs = measure.measure(runtime, measure.Samples(runtime), 2, 60.0)
    assert {(rows, length) for rows, length, _ in costs} == {
        (rows, length) for rows in (1, 2) for length in measure.TEXT_LENGTHS_BYTES
    }


def test_what_takes_long_is_measured_to_cost_more(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def busy(x: Array) -> Array:
        now[0] += 0.001 + 0.002 * len(x)
        return x

    monkeypatch.setattr("forebay.engine.measure.time.perf_counter", lambda: now[0])
    runtime = FunctionRuntime(busy)
    costs = measure.measure(runtime, measure.Samples(runtime), 16, 60.0)
    assert {rows: round(seconds, 6) for rows, _, seconds in costs} == {
        rows: round(0.001 + 0.002 * rows, 6) for rows in (1, 2, 4, 8, 16)
    }


def test_measuring_ends_when_its_time_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def slow(x: Array) -> Array:
        now[0] += 0.1 * len(x)
        return x

    monkeypatch.setattr("forebay.engine.measure.time.perf_counter", lambda: now[0])
    runtime = FunctionRuntime(slow)
    costs = measure.measure(runtime, measure.Samples(runtime), 1024, 0.5)
    assert costs
    assert max(rows for rows, _, _ in costs) < 16


def test_a_size_that_fails_ends_the_measuring() -> None:
    def up_to_four(x: Array) -> Array:
        if len(x) > 4:
            raise ValueError("too many")
        return x

    runtime = FunctionRuntime(up_to_four)
    costs = measure.measure(runtime, measure.Samples(runtime), 64, 60.0)
    assert [rows for rows, _, _ in costs] == [1, 2, 4]


def test_warming_up_runs_each_size_and_stops_at_an_error() -> None:
    runtime = FunctionRuntime(lambda x: x)
    measure.warm_up(runtime, measure.Samples(runtime), (1, 2, 8))
    assert [rows for rows, _ in runtime.seen] == [1, 2, 8]
    broken = FunctionRuntime(refuse)
    measure.warm_up(broken, measure.Samples(broken), (1, 2, 8))
    assert [rows for rows, _ in broken.seen] == [1]


def test_unbatched_makes_the_leading_axis_an_ordinary_one() -> None:
    found = measure.unbatched(FunctionRuntime(lambda x: x).signature)
    assert (found.batched, found.inputs[0].row_shape, found.outputs[0].row_shape) == (False, (-1, 3), (-1, 3))


def test_bytes_that_are_nested_or_empty_are_found_in_examples() -> None:
    runtime = FunctionRuntime(
        lambda t: t, [TEXT], examples=[{"t": [[b"deep"]]}, {"t": ""}, {"t": bytes_array([b"a"], [1])}]
    )
    rows = measure.Samples(runtime).rows(3, 0)["t"]
    assert rows.reshape(-1).tolist() == [b"deep", b"", b"a"]


def test_single_rows_over_all_lengths_in_turns() -> None:
    samples = measure.Samples(FunctionRuntime(lengths, [TEXT]))
    singles = samples.singly(8)
    assert [len(single["t"][0][0]) for single in singles] == [*measure.TEXT_LENGTHS_BYTES] * 2
    assert singles[0]["t"].shape[0] == 1
    fixed = measure.Samples(FunctionRuntime(lambda x: x)).singly(3)
    assert [single["x"].shape for single in fixed] == [(1, 3)] * 3
    assert not np.array_equal(fixed[0]["x"], fixed[1]["x"])
    given = measure.Samples(FunctionRuntime(lengths, [TEXT], examples=[{"t": "one"}, {"t": "three"}])).singly(3)
    assert [single["t"].tolist() for single in given] == [[[b"one"]], [[b"three"]], [[b"one"]]]
    whole = measure.Samples(FunctionRuntime(lambda x: x, [TensorSpec("x", "FP32", (-1, 2))], batched=False))
    assert all(single["x"].ndim == 2 for single in whole.singly(5))
