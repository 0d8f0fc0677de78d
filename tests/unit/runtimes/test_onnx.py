"""What is peculiar to ONNX files: signatures from the graph, text, devices, errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.contract.models import Axes, Tensor, echo, onnx_source, sum_and_difference, write_onnx

from forebay.core.errors import ExecutionError, SetupError
from forebay.core.tensors import bytes_array
from forebay.engine import measure
from forebay.models.signature import Signature
from forebay.runtimes.onnx import OnnxRuntime

FLOAT = TensorProto.FLOAT


def identity(path: Path, inputs: Axes, outputs: Axes | None = None, kind: int = FLOAT) -> OnnxRuntime:
    tensors: list[Tensor] = [("x", kind, inputs)]
    answers: list[Tensor] = [("y", kind, inputs if outputs is None else outputs)]
    write_onnx(path / "model.onnx", [helper.make_node("Identity", ["x"], ["y"])], tensors, answers)
    return OnnxRuntime(onnx_source(path / "model.onnx"), "cpu", 1)


def shapes(signature: Signature) -> tuple[bool, tuple[int, ...], tuple[int, ...]]:
    return signature.batched, signature.inputs[0].row_shape, signature.outputs[0].row_shape


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        (["N"], (True, (), ())),
        (["N", 4], (True, (4,), (4,))),
        (["N", "T", 3], (True, (-1, 3), (-1, 3))),
        ([1, 4], (False, (1, 4), (1, 4))),
        ([1, "T"], (False, (1, -1), (1, -1))),
        ([], (False, (), ())),
    ],
)
def test_which_axis_batches(tmp_path: Path, axes: Axes, expected: object) -> None:
    assert shapes(identity(tmp_path, axes).signature) == expected


def test_one_output_without_a_variable_axis_is_enough_not_to_batch(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0)]
    write_onnx(tmp_path / "m.onnx", nodes, [("x", FLOAT, ["N", 2])], [("y", FLOAT, ["N", 2]), ("mean", FLOAT, [])])
    runtime = OnnxRuntime(onnx_source(tmp_path / "m.onnx"), "cpu", 1)
    assert shapes(runtime.signature) == (False, (-1, 2), (-1, 2))
    batchable, reason = measure.check_batchable(runtime, measure.Samples(runtime))
    assert (batchable, reason) == (False, "inputs and outputs share no leading variable axis")
    y, mean = runtime.run({"x": np.array([[1, 2], [3, 4]], "<f4")}, 1)
    assert (y.shape, mean.shape, float(mean)) == ((2, 2), (), 2.5)


def test_a_scalar_and_a_fixed_batch_run(tmp_path: Path) -> None:
    assert identity(tmp_path, []).run({"x": np.array(3.0, "<f4")}, 1)[0].shape == ()
    assert identity(tmp_path, [2, 2]).run({"x": np.ones((2, 2), "<f4")}, 1)[0].shape == (2, 2)


def test_a_leading_axis_that_is_no_batch_axis_is_found_out(tmp_path: Path) -> None:
    nodes = [helper.make_node("Concat", ["x", "x"], ["y"], axis=0)]
    write_onnx(tmp_path / "twice.onnx", nodes, [("x", FLOAT, ["N", 2])], [("y", FLOAT, ["M", 2])])
    runtime = OnnxRuntime(onnx_source(tmp_path / "twice.onnx"), "cpu", 1)
    batchable, reason = measure.check_batchable(runtime, measure.Samples(runtime))
    assert not batchable
    assert reason == f"output 'y' has {measure.NO_ROWS}"
    assert shapes(measure.unbatched(runtime.signature)) == (False, (-1, 2), (-1, 2))


@pytest.mark.parametrize("kind", [TensorProto.BFLOAT16, TensorProto.COMPLEX64])
def test_a_type_that_the_protocol_lacks_is_named(tmp_path: Path, kind: int) -> None:
    with pytest.raises(SetupError) as caught:
        identity(tmp_path, ["N", 2], kind=kind)
    assert caught.value.code == "model_load_error"


def test_a_sequence_is_not_a_tensor(tmp_path: Path) -> None:
    write_onnx(
        tmp_path / "s.onnx", [helper.make_node("Identity", ["x"], ["y"])], [("x", FLOAT, ["N"])], [("y", FLOAT, ["N"])]
    )
    model = onnx.load(tmp_path / "s.onnx")
    model.graph.node[0].op_type = "SequenceConstruct"
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_sequence_value_info("y", FLOAT, ["N"]))
    onnx.save(model, tmp_path / "s.onnx")
    with pytest.raises(SetupError, match=r"'y' is seq\(tensor\(float\)\), which the protocol cannot carry; cast it"):
        OnnxRuntime(onnx_source(tmp_path / "s.onnx"), "cpu", 1)


def test_text_that_is_not_utf8_is_replaced(tmp_path: Path) -> None:
    runtime = OnnxRuntime(echo(tmp_path, "onnx", "BYTES"), "cpu", 1)
    given = bytes_array([b"\xff\xfe", b"ok"], [1, 2])
    (answer,) = runtime.run({"x": given}, 1)
    assert answer.tolist() == [["\ufffd\ufffd", "ok"]]
    assert given.tolist() == [[b"\xff\xfe", b"ok"]], "what was given is left as it was"


def test_threads_are_those_asked_for(tmp_path: Path) -> None:
    runtime = OnnxRuntime(sum_and_difference(tmp_path, "onnx"), "cpu", 3)
    options = runtime._session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)


def test_memory_that_ran_out_has_its_own_code(tmp_path: Path) -> None:
    shape: Axes = ["A", "B"]
    node = helper.make_node("Expand", ["x", "shape"], ["y"])
    write_onnx(
        tmp_path / "big.onnx", [node], [("x", FLOAT, [1, 1]), ("shape", TensorProto.INT64, [2])], [("y", FLOAT, shape)]
    )
    runtime = OnnxRuntime(onnx_source(tmp_path / "big.onnx"), "cpu", 1)
    with pytest.raises(ExecutionError) as caught:
        runtime.run({"x": np.ones((1, 1), "<f4"), "shape": np.array([1 << 23, 1 << 23])}, 1)
    assert caught.value.code == "out_of_memory"
