"""What is peculiar to OpenVINO models: two files, precision, names, numbers beyond 32 bits."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from openvino import opset13 as op
from tests.contract.models import echo, onnx_source, sum_and_difference

from forebay.core.errors import ExecutionError, SetupError
from forebay.engine import measure
from forebay.models.source import LoadOptions, ModelSource, digest_of, files_of, open_source
from forebay.runtimes.openvino import OpenvinoRuntime
from forebay.runtimes.port import load_runtime

WEIGHTS = np.arange(12, dtype="<f4").reshape(4, 3)


def parameter(name: str, shape: Any, kind: Any = openvino.Type.f32) -> Any:
    node = op.parameter(shape, kind, name=name)
    node.output(0).set_names({name})
    return node


def save(path: Path, results: list[Any], parameters: list[Any]) -> ModelSource:
    openvino.save_model(openvino.Model(results, parameters), path, compress_to_fp16=False)
    return open_source(str(path))


def linear(path: Path, weights: Any = WEIGHTS) -> ModelSource:
    """`y` is `x` [rows, 4] times weights."""
    x = parameter("x", [-1, 4])
    y = op.matmul(x, op.constant(weights), False, False)
    y.output(0).set_names({"y"})
    return save(path, [y], [x])


def test_both_files_make_the_digest_and_so_does_what_it_computes_in(tmp_path: Path) -> None:
    source = linear(tmp_path / "m.xml")
    assert [file.name for file in files_of(source)] == ["m.xml", "m.bin"]
    seen = {digest_of(source), digest_of(source, LoadOptions(inference_precision="bf16"))}
    for name in ("m.xml", "m.bin"):
        with (tmp_path / name).open("ab") as file:
            file.write(b" ")
        seen.add(digest_of(source))
    assert len(seen) == 4


def test_a_model_without_its_weights_and_xml_that_is_no_model_are_told(tmp_path: Path) -> None:
    source = linear(tmp_path / "m.xml")
    (tmp_path / "m.bin").rename(tmp_path / "other.bin")
    with pytest.raises(SetupError, match=r"its weights are not there: .*m\.bin; put the \.bin file that was saved"):
        open_source(source.path)
    with pytest.raises(SetupError, match=r"OpenVINO cannot load .*m\.xml: ") as caught:
        OpenvinoRuntime(source, "cpu", 1)
    assert "\n" not in caught.value.message
    (tmp_path / "page.xml").write_text("<?xml version='1.0'?><html/>")
    with pytest.raises(SetupError, match=r"is not an OpenVINO model: .*openvino\.save_model"):
        open_source(str(tmp_path / "page.xml"))


def test_weights_that_are_cut_short_stop_the_start(tmp_path: Path) -> None:
    source = linear(tmp_path / "m.xml")
    (tmp_path / "m.bin").write_bytes(b"\0" * 8)
    with pytest.raises(SetupError, match=r"OpenVINO cannot load .*m\.xml: "):
        OpenvinoRuntime(source, "cpu", 1)


def test_weights_replaced_in_place_do_not_change_a_model_that_is_loaded(tmp_path: Path) -> None:
    runtime = OpenvinoRuntime(linear(tmp_path / "m.xml"), "cpu", 1)
    x = np.ones((2, 4), "<f4")
    with (tmp_path / "m.bin").open("r+b") as file:
        file.write(b"\0" * 48)
        file.truncate(0)
    np.testing.assert_array_equal(runtime.run({"x": x}, 2)[0], x @ WEIGHTS)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ([-1], (True, ())),
        ([-1, 4], (True, (4,))),
        ([-1, -1, 3], (True, (-1, 3))),
        ([(1, 8), 4], (True, (4,))),
        ([1, 4], (False, (1, 4))),
        ([1, -1], (False, (1, -1))),
        ([], (False, ())),
    ],
)
def test_which_axis_batches(tmp_path: Path, shape: list[Any], expected: tuple[bool, tuple[int, ...]]) -> None:
    x = parameter("x", openvino.PartialShape([openvino.Dimension(*a) if isinstance(a, tuple) else a for a in shape]))
    signature = OpenvinoRuntime(save(tmp_path / "m.xml", [op.relu(x)], [x]), "cpu", 1).signature
    assert (signature.batched, signature.inputs[0].row_shape) == expected
    assert signature.outputs[0].row_shape == expected[1]


def test_any_number_of_axes_and_types_that_are_not_carried_are_named(tmp_path: Path) -> None:
    x = parameter("x", openvino.PartialShape.dynamic())
    with pytest.raises(SetupError, match=r"'x' has any number of axes, .*model\.reshape\(\)"):
        OpenvinoRuntime(save(tmp_path / "m.xml", [op.relu(x)], [x]), "cpu", 1)
    x = parameter("x", [-1, 2], openvino.Type.bf16)
    with pytest.raises(SetupError, match=r"'x' is bf16, which is not served from OpenVINO models; convert it .* FP32"):
        OpenvinoRuntime(save(tmp_path / "n.xml", [op.relu(x)], [x]), "cpu", 1)
    with pytest.raises(SetupError, match="'x' is string, which is not served"):
        load_runtime(echo(tmp_path, "openvino", "BYTES"), "cpu", 1)


def test_a_tensor_without_a_name_has_that_of_its_node(tmp_path: Path) -> None:
    x = op.parameter([-1, 2], openvino.Type.f32, name="given")
    several = op.relu(x)
    several.output(0).set_names({"zebra", "ant"})
    signature = OpenvinoRuntime(save(tmp_path / "m.xml", [several], [x]), "cpu", 1).signature
    assert (signature.inputs[0].name, signature.outputs[0].name) == ("given", "ant")


def sizes_of(runtime: OpenvinoRuntime) -> dict[str, Any]:
    compiled = runtime._request.get_compiled_model()
    names = ("INFERENCE_NUM_THREADS", "NUM_STREAMS", "ENABLE_CPU_PINNING", "INFERENCE_PRECISION_HINT")
    return {name: compiled.get_property(name) for name in names}


def test_it_computes_in_float32_unless_the_settings_say_otherwise(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weights, x = random.standard_normal((4, 3)).astype("<f4"), random.standard_normal((64, 4)).astype("<f4")
    source = linear(tmp_path / "m.xml", weights)
    plain = OpenvinoRuntime(source, "cpu", 1)
    assert plain.note == ""
    assert sizes_of(plain)["INFERENCE_PRECISION_HINT"] == openvino.Type.f32
    np.testing.assert_allclose(plain.run({"x": x}, 64)[0], x @ weights, rtol=1e-5, atol=1e-6)
    rounded = OpenvinoRuntime(source, "cpu", 1, LoadOptions(inference_precision="bf16"))
    has_it = sizes_of(rounded)["INFERENCE_PRECISION_HINT"] == openvino.Type.bf16
    assert rounded.note == "computes in bf16" if has_it else "computes in f32: this processor has no bf16"
    error = float(np.abs(rounded.run({"x": x}, 64)[0] - x @ weights).max())
    assert 1e-4 < error < 0.1 if has_it else error < 1e-5


def test_a_precision_is_refused_where_it_would_be_ignored(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"'fp16' is for TensorRT; OpenVINO models .* fp32 or bf16"):
        load_runtime(linear(tmp_path / "m.xml"), "cpu", 1, LoadOptions(inference_precision="fp16"))
    with pytest.raises(SetupError, match="this is a model of torch; leave it away"):
        load_runtime(ModelSource("m", "torch", "m.pt2"), "cpu", 1, LoadOptions(inference_precision="bf16"))


def test_threads_are_those_asked_for_and_are_not_pinned(tmp_path: Path) -> None:
    source = linear(tmp_path / "m.xml")
    for threads in (1, 2):
        told = sizes_of(OpenvinoRuntime(source, "cpu", threads))
        assert (told["INFERENCE_NUM_THREADS"], told["NUM_STREAMS"]) == (threads, 1)
        assert not told["ENABLE_CPU_PINNING"]


@pytest.mark.parametrize("threads", [1, 2])
def test_what_an_operator_raises_is_never_an_answer(tmp_path: Path, threads: int) -> None:
    runtime = load_runtime(sum_and_difference(tmp_path, "openvino"), "cpu", threads)
    good, bad = np.ones((2, 2), "<f4"), np.ones((2, 3), "<f4")
    for _ in range(50):
        with pytest.raises(ExecutionError, match=r"dim index: 1 mismatch$") as caught:
            runtime.run({"a": good, "b": bad}, 2)
        assert caught.value.code == "model_error"
        assert runtime.run({"a": good, "b": good}, 2)[0].tolist() == [[2.0, 2.0], [2.0, 2.0]]


@pytest.mark.parametrize(
    ("datatype", "value"), [("INT64", 1 << 31), ("INT64", -(1 << 31) - 1), ("UINT64", (1 << 64) - 1)]
)
def test_a_number_that_it_would_change_is_refused(tmp_path: Path, datatype: str, value: int) -> None:
    runtime = load_runtime(echo(tmp_path, "openvino", datatype), "cpu", 1)
    dtype = np.int64 if datatype == "INT64" else np.uint64
    with pytest.raises(ExecutionError, match=f"input 'x' holds {value}: OpenVINO computes {datatype} as 32 bits"):
        runtime.run({"x": np.array([[0, value]], dtype)}, 1)
    assert runtime.run({"x": np.array([[0, 1]], dtype)}, 1)[0].tolist() == [[0, 1]]
    assert runtime.run({"x": np.zeros((0, 2), dtype)}, 0)[0].shape == (0, 2)


def test_it_says_that_fp64_is_not_computed_as_such(tmp_path: Path) -> None:
    assert load_runtime(echo(tmp_path, "openvino", "FP64"), "cpu", 1).note == "OpenVINO computes FP64 (x, y) as FP32"


def test_a_leading_axis_that_is_no_batch_axis_is_found_out(tmp_path: Path) -> None:
    x = parameter("x", [-1, 2])
    runtime = OpenvinoRuntime(save(tmp_path / "m.xml", [op.concat([x, x], 0)], [x]), "cpu", 1)
    assert measure.check_batchable(runtime, measure.Samples(runtime))[1].endswith(measure.NO_ROWS)


def test_memory_that_ran_out_has_its_own_code(tmp_path: Path) -> None:
    x, shape = parameter("x", [1, 1]), parameter("shape", [2], openvino.Type.i64)
    runtime = OpenvinoRuntime(save(tmp_path / "m.xml", [op.broadcast(x, shape)], [x, shape]), "cpu", 1)
    with pytest.raises(ExecutionError) as caught:
        runtime.run({"x": np.ones((1, 1), "<f4"), "shape": np.array([1 << 20, 1 << 20])}, 1)
    assert caught.value.code == "out_of_memory"


def test_only_a_cpu_runs_it(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=re.escape("device 'cuda:0' is not usable for OpenVINO models; write cpu")):
        OpenvinoRuntime(linear(tmp_path / "m.xml"), "cuda:0", 1)


@pytest.mark.parametrize(("library", "suffix"), [("openvino", "xml"), ("torch", "pt2")])
def test_a_missing_library_is_one_line_with_what_to_install(tmp_path: Path, library: str, suffix: str) -> None:
    path = tmp_path / f"m.{suffix}"
    path.write_bytes({"xml": b"<net/>", "pt2": b"PK\x03\x04"}[suffix])
    path.with_suffix(".bin").touch()
    code = (
        f"import sys; sys.modules[{library!r}] = None\n"
        "from forebay.models.source import open_source; from forebay.runtimes.port import load_runtime\n"
        f"load_runtime(open_source({str(path)!r}), 'cpu', 1)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f'pip install "forebay[{library}]"' in done.stderr.strip().splitlines()[-1]


def test_serving_other_models_imports_neither_library(tmp_path: Path) -> None:
    source = sum_and_difference(tmp_path, "onnx")
    code = (
        "import sys, forebay.engine.child, forebay.cli.main\n"
        "from forebay.models.source import open_source; from forebay.runtimes.port import load_runtime\n"
        f"load_runtime(open_source({onnx_source(Path(source.path)).path!r}), 'cpu', 1)\n"
        "assert not {'torch', 'openvino'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
