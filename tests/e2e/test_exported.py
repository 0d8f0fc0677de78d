"""OpenVINO models and programs of torch behind the real command: the answers are those of ONNX Runtime."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from examples.mlp.build import build, wave_rows
from tests.contract.exported import DYNAMIC, Mlp, openvino_source, torch_source
from tests.contract.models import onnx_source
from tests.e2e.server import Served, quick, run_once, serving

PLATFORMS = {"mlp_ov": "openvino_ir", "mlp_pt": "pytorch_export"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network of examples/mlp as ONNX, OpenVINO and torch have it."""
    path = tmp_path_factory.mktemp("models")
    build(path)
    saved = Path(openvino_source(onnx_source(path / "mlp.onnx")).path)
    for suffix in (".xml", ".bin"):
        saved.with_suffix(suffix).rename(path / f"mlp_ov{suffix}")
    with np.load(path / "mlp.npz") as weights:
        module = Mlp(dict(weights))
    torch_source(path / "mlp_pt.pt2", module.eval(), (torch.zeros(2, 16),), {0: DYNAMIC})
    return path


@pytest.fixture(scope="module")
def served(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    models = [str(folder / name) for name in ("mlp.onnx", "mlp_ov.xml", "mlp_pt.pt2")]
    threads = ["--set", "mlp_ov.threads=2", "--set", "mlp_pt.threads=2"]
    with serving(tmp_path_factory.mktemp("served"), *quick(*models, instances=2), *threads) as started:
        yield started


def ask(served: Served, model: str, rows: Any) -> Any:
    answer = served.http.post(
        f"/v2/models/{model}/infer",
        json={"inputs": [{"name": "x", "datatype": "FP32", "shape": list(rows.shape), "data": rows.tolist()}]},
    )
    assert answer.status_code == 200, answer.text
    (output,) = answer.json()["outputs"]
    assert output["name"] == "y"
    return np.reshape(output["data"], output["shape"])


@pytest.mark.parametrize("model", PLATFORMS)
def test_it_is_described_and_batched(served: Served, model: str) -> None:
    document = served.http.get(f"/v2/models/{model}").json()
    assert document["platform"] == PLATFORMS[model]
    assert document["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 16]}]
    assert document["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}]
    told = served.http.get(f"/v2/models/{model}/config").json()["parameters"]
    assert told["forebay.batching"]["string_value"].startswith("batches of up to 256 rows")


@pytest.mark.parametrize("model", PLATFORMS)
@pytest.mark.parametrize("rows", [1, 7, 256, 3000])
def test_it_answers_as_onnx_runtime_does(folder: Path, served: Served, model: str, rows: int) -> None:
    x, _ = wave_rows(rows, seed=rows)
    session = ort.InferenceSession(str(folder / "mlp.onnx"), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(["y"], {"x": x})
    np.testing.assert_allclose(ask(served, model, x), wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ask(served, model, x), ask(served, "mlp", x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", PLATFORMS)
def test_batches_in_shared_memory_keep_their_answers_apart(folder: Path, tmp_path: Path, model: str) -> None:
    suffix = {"mlp_ov": "xml", "mlp_pt": "pt2"}[model]
    (tmp_path / "forebay.toml").write_text("[server]\nshared_memory_bytes = 1024\n")
    arguments = quick(str(folder / f"{model}.{suffix}"))
    session = ort.InferenceSession(str(folder / "mlp.onnx"), providers=["CPUExecutionProvider"])
    with serving(tmp_path, *arguments) as started:
        for seed in range(30):
            x, _ = wave_rows(20 + seed * 7, seed=seed)
            np.testing.assert_allclose(ask(started, model, x), session.run(["y"], {"x": x})[0], rtol=1e-5, atol=1e-6)


def test_versions_of_a_repository_may_be_of_different_kinds(folder: Path, tmp_path: Path) -> None:
    versions = tmp_path / "repository" / "waves"
    for version, names in (("1", ["mlp.onnx"]), ("2", ["mlp_ov.xml", "mlp_ov.bin"]), ("3", ["mlp_pt.pt2"])):
        (versions / version).mkdir(parents=True)
        for name in names:
            (versions / version / f"model{Path(name).suffix}").write_bytes((folder / name).read_bytes())
    (versions / "model.toml").write_text('version_policy = "all"\ninstances = 1\nwarm_up_s = 0.1\n')
    x, _ = wave_rows(5, seed=3)
    with serving(tmp_path, str(tmp_path / "repository")) as started:
        assert sorted(started.http.get("/v2/models/waves").json()["versions"]) == ["1", "2", "3"]
        answers = [ask(started, f"waves/versions/{version}", x) for version in "123"]
        np.testing.assert_allclose(answers[1], answers[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(answers[2], answers[0], rtol=1e-5, atol=1e-6)


def test_a_precision_in_the_models_own_settings_is_taken_and_told(folder: Path, tmp_path: Path) -> None:
    for suffix in ("xml", "bin"):
        (tmp_path / f"rounded.{suffix}").write_bytes((folder / f"mlp_ov.{suffix}").read_bytes())
    (tmp_path / "rounded.toml").write_text('inference_precision = "bf16"\n')
    x, _ = wave_rows(50, seed=9)
    with serving(tmp_path, *quick(str(tmp_path / "rounded.xml"))) as started:
        told = started.http.get("/v2/models/rounded/config").json()["parameters"]["forebay.forms"]["string_value"]
        assert told in ("computes in bf16", "computes in f32: this processor has no bf16")
        np.testing.assert_allclose(ask(started, "rounded", x).sum(axis=1), np.ones(50), atol=1e-2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("alone.xml", "its weights are not there"),
        ("broken.pt2", "is no program of torch.export.save"),
        pytest.param("page.xml", "is not an OpenVINO model", marks=pytest.mark.full),
        pytest.param("script.pt", "export the module in Python: torch.export.save(", marks=pytest.mark.full),
    ],
)
def test_a_file_that_is_no_model_ends_the_start_in_one_line(
    folder: Path, tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "alone.xml").write_bytes((folder / "mlp_ov.xml").read_bytes())
    (tmp_path / "page.xml").write_text("<html/>")
    (tmp_path / "script.pt").write_bytes(b"PK\x03\x04")
    (tmp_path / "broken.pt2").write_bytes(b"PK\x03\x04")
    done = run_once(tmp_path, "serve", str(tmp_path / name), "--port", "0")
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split()), done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def widths(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A model that says of each row its sum, and how long it was as the model saw it; it takes up to 21 numbers."""
    path = tmp_path_factory.mktemp("widths")
    axes: Any = ["N", "L"]
    steps = [
        onnx.helper.make_node("ReduceSum", ["x", "last"], ["sum"], keepdims=1),
        onnx.helper.make_node("Shape", ["x"], ["shape"]),
        onnx.helper.make_node("Gather", ["shape", "one"], ["length"]),
        onnx.helper.make_node("Slice", ["table", "zero", "length"], ["positions"]),
        onnx.helper.make_node("Mul", ["x", "nil"], ["zeros"]),
        onnx.helper.make_node("Add", ["zeros", "positions"], ["seen"]),
        onnx.helper.make_node("ReduceSum", ["seen", "last"], ["width"], keepdims=1),
    ]
    numbers = [
        onnx.numpy_helper.from_array(np.array(value, kind), name)
        for name, value, kind in (
            ("last", [1], np.int64),
            ("one", [1], np.int64),
            ("zero", [0], np.int64),
            ("nil", 0, np.float32),
            ("table", [1] * 21, np.float32),
        )
    ]
    inputs = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, axes)]
    outputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 1]) for name in ("sum", "width")]
    graph = onnx.helper.make_graph(steps, "widths", inputs, outputs, numbers)
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(made, path / "widths.onnx")
    saved = Path(openvino_source(onnx_source(path / "widths.onnx")).path)
    for suffix in (".xml", ".bin"):
        shutil.copy(saved.with_suffix(suffix), path / f"exact{suffix}")
        saved.with_suffix(suffix).rename(path / f"filled{suffix}")
    models = [str(path / name) for name in ("widths.onnx", "exact.xml", "filled.xml")]
    flags = ["--set", "*.pad=true", "--set", "exact.pad_multiple=1"]
    with serving(tmp_path_factory.mktemp("served"), *quick(*models), *flags) as started:
        yield started


def sum_and_width(served: Served, model: str, length: int) -> tuple[float, float]:
    row = [float(value) for value in range(1, 1 + length)]
    answer = served.http.post(
        f"/v2/models/{model}/infer",
        json={"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, length], "data": row}]},
    )
    assert answer.status_code == 200, answer.text
    found = {output["name"]: output["data"][0] for output in answer.json()["outputs"]}
    return found["sum"], found["width"]


@pytest.mark.parametrize(
    ("model", "length", "width"),
    [("filled", 1, 8), ("filled", 8, 8), ("filled", 9, 16), ("exact", 9, 9), ("widths", 9, 9), ("filled", 16, 16)],
)
def test_rows_are_filled_up_to_a_multiple_of_eight_for_openvino(
    widths: Served, model: str, length: int, width: int
) -> None:
    assert sum_and_width(widths, model, length) == (length * (length + 1) / 2, width)


def test_rows_as_long_as_the_model_takes_are_answered(widths: Served) -> None:
    for length in (20, 21, 17, 16, 3):
        total, width = sum_and_width(widths, "filled", length)
        assert (total, width) == (length * (length + 1) / 2, length if length > 16 else -(-length // 8) * 8)


def test_rows_that_are_too_long_fail_alone(widths: Served) -> None:
    with ThreadPoolExecutor(8) as pool:
        lengths = [5, 22, 7, 21, 30, 8, 9, 1]
        answers = [pool.submit(asked_for, widths, length) for length in lengths]
        assert [answer.result() for answer in answers] == [200, 500, 200, 200, 500, 200, 200, 200]


def asked_for(served: Served, length: int) -> int:
    inputs = [{"name": "x", "datatype": "FP32", "shape": [1, length], "data": [1.0] * length}]
    return served.http.post("/v2/models/filled/infer", json={"inputs": inputs}).status_code
