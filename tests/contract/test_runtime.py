"""What every runtime promises, whatever library runs behind it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.contract.models import echo, sum_and_difference

from forebay.core.errors import ExecutionError, SetupError
from forebay.core.tensors import NUMPY_TYPES, Array, bytes_array
from forebay.engine import measure
from forebay.models.source import ModelSource
from forebay.runtimes.port import Runtime, load_runtime
from forebay.runtimes.stream import Ended, StreamingRuntime

PLATFORMS = {
    "onnx": "onnxruntime_onnx",
    "openvino": "openvino_ir",
    "python": "python",
    "torch": "pytorch_export",
}
NO_TEXT = ("openvino", "torch")


@pytest.fixture(params=sorted(PLATFORMS))
def kind(request: pytest.FixtureRequest) -> str:
    """Each runtime in turn."""
    name: str = request.param
    return name


@pytest.fixture
def both(tmp_path: Path, kind: str) -> Runtime:
    return load_runtime(sum_and_difference(tmp_path, kind), "cpu", 1)


def values(kind: str, datatype: str, rows: int) -> Array:
    """Rows of two elements, extreme ones among them: the most that a runtime takes."""
    dtype = NUMPY_TYPES[datatype]
    if kind == "openvino" and datatype in ("INT64", "UINT64"):
        least = -(1 << 31) if datatype == "INT64" else 0
        return np.resize(np.array([least, (1 << 31) - 1, 0, 1], dtype), (rows, 2))
    if datatype == "BYTES":
        texts = [b"", "ünïcode".encode(), b"a" * 5000, b"line\nbreak"]
        return bytes_array([texts[i % 4] for i in range(2 * rows)], [rows, 2])
    if dtype.kind == "f":
        special = [np.nan, np.inf, -np.inf, -0.0, float(np.finfo(dtype).max), float(np.finfo(dtype).tiny)]
        return np.resize(np.array(special, dtype), (rows, 2))
    if dtype.kind == "b":
        return np.resize(np.array([True, False, False]), (rows, 2))
    limits = np.iinfo(dtype)
    return np.resize(np.array([limits.min, limits.max, 0, 1], dtype), (rows, 2))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("datatype", NUMPY_TYPES)
def test_every_datatype_comes_back_as_it_went_in(tmp_path: Path, kind: str, datatype: str, rows: int) -> None:
    if datatype == "BYTES" and kind in NO_TEXT:
        pytest.skip(f"{kind} has no text")
    runtime = load_runtime(echo(tmp_path, kind, datatype), "cpu", 1)
    (x,), (y,) = runtime.signature.inputs, runtime.signature.outputs
    assert (x.name, x.datatype, x.row_shape) == ("x", datatype, (2,))
    assert (y.name, y.datatype, y.row_shape) == ("y", datatype, (2,))
    assert runtime.signature.batched
    given = values(kind, datatype, rows)
    (answer,) = runtime.run({"x": given.copy()}, rows)
    assert answer.shape == (rows, 2)
    if datatype == "BYTES":
        texts = [value if isinstance(value, bytes) else value.encode() for value in answer.reshape(-1).tolist()]
        assert texts == given.reshape(-1).tolist()
    else:
        assert answer.dtype == given.dtype
        np.testing.assert_array_equal(answer, given)


def test_outputs_come_in_the_order_of_the_signature(both: Runtime, kind: str) -> None:
    assert both.platform == PLATFORMS[kind]
    assert [spec.name for spec in both.signature.inputs] == ["a", "b"]
    assert [spec.name for spec in both.signature.outputs] == ["sum", "difference"]
    assert [spec.row_shape for spec in both.signature.outputs] == [(-1,), (-1,)]
    a, b = np.array([[5.0, 7.0]], "<f4"), np.array([[1.0, 2.0]], "<f4")
    assert [array.tolist() for array in both.run({"b": b, "a": a}, 1)] == [[[6.0, 9.0]], [[4.0, 5.0]]]


def test_an_answer_is_changed_neither_by_the_next_run_nor_with_what_was_given(both: Runtime) -> None:
    a, b = np.array([[5.0, 7.0]], "<f4"), np.array([[1.0, 2.0]], "<f4")
    answers = both.run({"a": a, "b": b}, 1)
    a[:], b[:] = 9.0, 9.0
    both.run({"a": a * 2, "b": b}, 1)
    both.run({"a": np.zeros((4, 2), "<f4"), "b": np.zeros((4, 2), "<f4")}, 4)
    assert [array.tolist() for array in answers] == [[[6.0, 9.0]], [[4.0, 5.0]]]


def test_what_was_given_is_left_as_it_was_and_let_go(both: Runtime) -> None:
    memory = bytearray(np.arange(4, dtype="<f4").tobytes())
    both.run({"a": np.frombuffer(memory, "<f4").reshape(2, 2), "b": np.frombuffer(memory, "<f4").reshape(2, 2)}, 2)
    assert np.frombuffer(bytes(memory), "<f4").tolist() == [0.0, 1.0, 2.0, 3.0]
    memory.clear()  # raises BufferError while anything still looks at the memory


@pytest.mark.parametrize("length", [0, 1, 300])
def test_variable_axes_take_any_length(both: Runtime, length: int) -> None:
    rows = np.ones((2, length), "<f4")
    assert [array.shape for array in both.run({"a": rows, "b": rows}, 2)] == [(2, length), (2, length)]


def test_inputs_that_may_not_be_written_to_are_fine(both: Runtime) -> None:
    frozen = np.frombuffer(np.ones(4, "<f4").tobytes(), "<f4").reshape(2, 2)
    assert not frozen.flags.writeable
    assert both.run({"a": frozen, "b": frozen}, 2)[0].tolist() == [[2.0, 2.0], [2.0, 2.0]]


def test_what_the_library_raises_is_a_model_error_and_the_next_run_is_well(both: Runtime) -> None:
    good, bad = np.ones((1, 2), "<f4"), np.ones((1, 3), "<f4")
    for _ in range(2):
        with pytest.raises(ExecutionError) as caught:
            both.run({"a": good, "b": bad}, 1)
        assert caught.value.code == "model_error"
        assert caught.value.message
        assert both.run({"a": good, "b": good}, 1)[0].tolist() == [[2.0, 2.0]]


def test_rows_together_are_rows_alone(both: Runtime) -> None:
    assert measure.check_batchable(both, measure.Samples(both)) == (True, "")


def test_examples_and_settings_are_there_if_empty(both: Runtime) -> None:
    assert list(both.examples()) == []
    assert dict(both.settings) == {}


def test_a_runtime_that_can_stream_gives_what_run_gives(both: Runtime, kind: str) -> None:
    assert isinstance(both, StreamingRuntime) == (kind == "python")
    if not isinstance(both, StreamingRuntime):
        return
    assert not both.streams, "nothing in this model is a generator"
    rows = np.arange(6, dtype="<f4").reshape(3, 2)
    stream = both.stream({"a": rows, "b": rows * 2}, 3)
    ended: dict[int, list[Array]] = {}
    while (events := stream.events()) is not None:
        ended.update({event.row: event.outputs for event in events if isinstance(event, Ended)})
    assert sorted(ended) == [0, 1, 2]
    for index, whole in enumerate(both.run({"a": rows, "b": rows * 2}, 3)):
        np.testing.assert_array_equal(np.concatenate([ended[row][index] for row in range(3)]), whole)


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("onnx", "onnx"),
        ("openvino", "xml"),
        ("torch", "pt2"),
        ("python", "py"),
        ("xgboost", "json"),
        ("xgboost", "ubj"),
        ("lightgbm", "txt"),
        ("sklearn", "skops"),
        ("sklearn", "pkl"),
    ],
)
def test_a_missing_or_broken_file_names_itself(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"broken.{suffix}"
    path.write_bytes(b"\x00 this is no model")
    with pytest.raises(SetupError, match=r"broken\.") as caught:
        load_runtime(ModelSource("m", kind, str(path), "M"), "cpu", 1)
    assert caught.value.code == "model_load_error"
    assert "model m" in caught.value.message


def test_an_unknown_runtime_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no runtime is called 'fortran'"):
        load_runtime(ModelSource("m", "fortran", str(tmp_path)), "cpu", 1)
