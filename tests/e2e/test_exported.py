"""OpenVINO models and programs of torch behind the real command: the answers are those of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
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


def test_a_file_that_is_no_model_ends_the_start_in_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "alone.xml").write_bytes((folder / "mlp_ov.xml").read_bytes())
    (tmp_path / "page.xml").write_text("<html/>")
    (tmp_path / "script.pt").write_bytes(b"PK\x03\x04")
    (tmp_path / "broken.pt2").write_bytes(b"PK\x03\x04")
    for name, message in (
        ("alone.xml", "its weights are not there"),
        ("page.xml", "is not an OpenVINO model"),
        ("script.pt", "export the module in Python: torch.export.save("),
        ("broken.pt2", "is no program of torch.export.save"),
    ):
        done = run_once(tmp_path, "serve", str(tmp_path / name), "--port", "0")
        assert done.returncode == 2, name
        assert message in " ".join(done.stderr.split()), done.stderr
        assert "Traceback" not in done.stderr
