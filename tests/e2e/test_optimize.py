"""`forebay optimize` as a stranger runs it: search, then serve what it found; refusals with one line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import httpx
import numpy as np
import onnx
import onnxruntime as ort
import psutil
import pytest
from examples.minilm import build as minilm_build
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tests.contract.tabular import dump
from tests.e2e.server import COMMAND, ROOT, Served, environment, eventually, gone, quick, run_once, serving
from tests.unit.optimize.digits import SEEN, cnn, digits, write_samples

from forebay.core.tensors import Array
from forebay.optimize.candidates.gpu import gpu_here
from forebay.optimize.candidates.openvino import has_bf16

PATH = os.pathsep.join(map(str, (ROOT, ROOT / "src")))
"""With the tests' own recipes."""


def run(folder: Path, *words: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "optimize", *words],
        cwd=folder,
        env=environment(PYTHONPATH=PATH),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def test_a_network_is_optimised_served_as_it_was_measured_and_refused_once_its_source_changes(tmp_path: Path) -> None:
    onnx.save(cnn(), str(tmp_path / "digits.onnx"))
    write_samples(tmp_path / "seen.npz", 120, (1, 8, 8), labels=True)
    # Which of two tiny models is faster is noise here; what they answer is not.
    ended = run(
        tmp_path, "digits.onnx", "--samples", "seen.npz", "--out", "faster", "--rounds", "1", "--min-speedup", "0",
        "--max-drop", "0.05", "--json", "--candidate", "openvino-int8-excluded", "--candidate", "weights-int8",
        "--candidate", "fp16",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr + ended.stdout
    assert "openvino-int8-excluded is in faster" in ended.stderr
    assert "labels are judged by --head argmax: the place of the largest value" in ended.stderr
    report = json.loads(ended.stdout)
    assert report == json.loads((tmp_path / "faster" / "report.json").read_text())
    found = {one["name"]: one for one in report["candidates"]}
    chosen = found["openvino-int8-excluded"]
    precision = "bf16" if has_bf16() else "fp32"
    assert (report["chosen"], chosen["served_with"]["inference_precision"]) == ("openvino-int8-excluded", precision)
    assert report["goals"]["metric"] == "accuracy"
    assert (chosen["reason"], found["weights-int8"]["reason"]) == (None, "not_applicable")
    if not gpu_here():
        assert (found["fp16"]["reason"], found["fp16"]["detail"]) == (
            "not_applicable",
            "there is no NVIDIA GPU on this machine",
        )
    assert (tmp_path / "faster" / "report.html").stat().st_size > 4000
    settings = (tmp_path / "faster" / "digits" / "model.toml").read_text()
    assert ('inference_precision = "bf16"' in settings) == has_bf16()

    rows = digits()[0][SEEN : SEEN + 20].reshape(-1, 1, 8, 8)
    with serving(tmp_path, *quick("faster")) as served:
        forms = served.http.get("/v2/models/digits/config").json()["parameters"].get("forebay.forms")
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()}]}
        answer = served.http.post("/v2/models/digits/infer", json=body).json()["outputs"][0]
    assert forms == ({"string_value": "computes in bf16"} if has_bf16() else None)
    original = onnx.load(str(tmp_path / "digits.onnx"))
    got = np.reshape(answer["data"], answer["shape"])
    (expected,) = ort.InferenceSession(original.SerializeToString()).run(None, {"x": rows})
    assert np.mean(got.argmax(axis=1) == expected.argmax(axis=1)) > 0.9

    original.producer_name = "somebody else"
    onnx.save(original, str(tmp_path / "digits.onnx"))
    refused = run_once(tmp_path, "serve", "faster/digits/1/model.xml", "--port", "0")
    assert refused.returncode == 2
    assert "has changed since; run forebay optimize on it again" in refused.stderr


@pytest.mark.full
def test_an_artefact_refuses_the_values_that_its_original_refuses(tmp_path: Path) -> None:
    x, y = digits()
    dump(tmp_path / "m.skops", make_pipeline(StandardScaler(), LogisticRegression()).fit(x[:SEEN], y[:SEEN]))
    np.savez(tmp_path / "samples.npz", allow_pickle=False, input=x[SEEN:])
    words = (
        "--samples",
        "samples.npz",
        "--out",
        "faster",
        "--rounds",
        "1",
        "--min-speedup",
        "0",
        "--candidate",
        "onnx",
    )
    ended = run(tmp_path, "m.skops", *words)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    note = json.loads((tmp_path / "faster" / "m" / "1" / "artefact.json").read_text())
    assert (note["candidate"], note["refuses"]) == ("onnx", {"input": ["nan", "inf"]})
    for served_from in ("m.skops", "faster"):
        with serving(tmp_path, *quick(served_from)) as served:
            assert ask_for(served, x[SEEN]).status_code == 200
            for value, called in ((np.nan, "NaN"), (np.inf, "infinite")):
                refused = ask_for(served, np.full(64, value, np.float32))
                assert refused.status_code == 400, (served_from, refused.text)
                assert f"the value at [0, 0] is {called}, which this model does not take" in refused.json()["error"]


def ask_for(served: Served, row: Array) -> httpx.Response:
    """A request with a binary tensor: JSON has no NaN."""
    data = np.ascontiguousarray(row, np.float32).tobytes()
    one = {"name": "input", "datatype": "FP32", "shape": [1, 64], "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [one]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return served.http.post("/v2/models/m/infer", content=head + data, headers=headers)


NET = """\
from pathlib import Path

import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(64, 10)

    def forward(self, x):
        return {"scores": self.linear(x), "sum": x.sum(dim=1)}


def factory():
    net = Net()
    net.load_state_dict(torch.load(Path(__file__).with_name("weights.pt")))
    return net, {"x": torch.zeros(2, 64)}
"""


def train(file: Path, seed: int) -> None:
    """Other weights for each seed."""
    torch = pytest.importorskip("torch", reason="torch comes with an extra")
    torch.manual_seed(seed)
    torch.save({f"linear.{name}": value for name, value in torch.nn.Linear(64, 10).state_dict().items()}, file)


def test_a_torch_module_is_served_until_its_weights_are_trained_anew(tmp_path: Path) -> None:
    train(tmp_path / "weights.pt", seed=0)
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "notes.md").write_text("what the weights were trained on")
    write_samples(tmp_path / "seen.npz", 60)
    ended = run(
        tmp_path, "net.py:factory", "--samples", "seen.npz", "--out", "faster", "--rounds", "1", "--min-speedup", "0",
        "--metric", "top1", "--candidate", "torch", "--depends-on", "notes.md",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr + ended.stdout
    assert "it depends on net.py and on notes.md, weights.pt" in ended.stdout
    report = json.loads((tmp_path / "faster" / "report.json").read_text())
    assert (report["original"]["runtime"], report["chosen"]) == ("onnx", "torch")
    assert report["source"]["note"].startswith("export differs from torch by ")
    assert [one["name"] for one in report["original"]["others"]] == ["sum"]
    assert [one["path"] for one in report["source"]["files"]] == ["notes.md", "weights.pt"]
    with serving(tmp_path, *quick("faster")) as served:
        described = served.http.get("/v2/models/net").json()
    assert [one["name"] for one in described["inputs"]] == ["x"]
    assert [(one["name"], one["shape"]) for one in described["outputs"]] == [("scores", [-1, 10]), ("sum", [-1])]

    train(tmp_path / "weights.pt", seed=1)
    refused = run_once(tmp_path, "serve", "faster/net/1/model.pt2", "--port", "0")
    assert refused.returncode == 2
    assert f"depends on {tmp_path / 'weights.pt'}, and that has changed since; run forebay optimize" in refused.stderr


def test_a_faulty_recipe_of_ones_own_is_rejected_and_the_exit_code_says_so(tmp_path: Path) -> None:
    onnx.save(cnn(), str(tmp_path / "digits.onnx"))
    write_samples(tmp_path / "seen.npz", 40, (1, 8, 8))
    ended = run(
        tmp_path, "digits.onnx", "--samples", "seen.npz", "--out", "faster", "--rounds", "1", "--json",
        "--plugin", "tests.models.candidates:OtherModel", "--candidate", "other-model",
    )  # fmt: skip
    assert ended.returncode == 1, ended.stderr
    report = json.loads(ended.stdout)
    assert [one["reason"] for one in report["candidates"]] == ["disagrees"]
    assert report["chosen"] is None
    assert "disagrees" in ended.stderr
    assert not (tmp_path / "faster" / "digits").exists()


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.full), signal.SIGTERM])
def test_a_search_that_is_stopped_leaves_neither_processes_nor_files(tmp_path: Path, number: signal.Signals) -> None:
    onnx.save(cnn(), str(tmp_path / "digits.onnx"))
    write_samples(tmp_path / "seen.npz", 40, (1, 8, 8))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    words = ("--plugin", "tests.models.subtle:NeverEnds", "--candidate", "never-ends", "--out", "faster")
    process = subprocess.Popen(
        [*COMMAND, "optimize", "digits.onnx", "--samples", "seen.npz", "--rounds", "1", *words],
        cwd=tmp_path,
        env=environment(PYTHONPATH=PATH, TMPDIR=str(scratch)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        running = psutil.Process(process.pid)
        helpers = eventually(
            lambda: [one for one in running.children(recursive=True) if "time.sleep(600)" in " ".join(one.cmdline())],
            "it builds with the help of another process",
            120,
        )
        children = running.children(recursive=True)
        assert len(children) > len(helpers)
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "stopped; nothing was written to faster" in said
    assert "Traceback" not in said
    gone(children)
    assert list(scratch.glob("forebay*")) == []
    assert not (tmp_path / "faster").exists()


def sentences(count: int) -> list[str]:
    """English of many lengths: the project's own documentation."""
    text = " ".join(file.read_text() for file in sorted((ROOT / "docs").glob("*.md")))
    plain = re.sub(r"```.*?```|[|`*#>\[\]]", " ", text, flags=re.DOTALL)
    found = [" ".join(part.split()) for part in re.split(r"(?<=[.:;]) ", plain)]
    return [part for part in dict.fromkeys(found) if 3 <= len(part.split()) <= 40][:count]


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_minilm_becomes_faster_and_keeps_its_embeddings(tmp_path: Path) -> None:
    model = minilm_build.build(tmp_path / "minilm")
    (tmp_path / "texts.txt").write_text("\n".join(sentences(200)))
    ended = run(tmp_path, str(model), "--samples", "texts.txt", "--out", "faster", timeout_s=1500)
    assert ended.returncode == 0, ended.stderr
    report = json.loads((tmp_path / "faster" / "report.json").read_text())
    found = {one["name"]: one for one in report["candidates"]}
    assert found["static-int8"]["reason"] == "disagrees"
    assert found["dynamic-int8"]["reason"] == "disagrees"
    assert not found["dynamic-int8"]["invariance"]["holds"]
    rounding = ["static-int8-excluded", "static-int8-filled", "openvino-weights-int8", "openvino-int8-excluded"]
    for name in rounding:
        assert found[name]["agreement"]["mean_cosine"] >= 0.999, name
        assert found[name]["invariance"]["holds"], name
    if has_bf16():
        bf16 = found["openvino-bf16"]
        assert bf16["agreement"]["mean_cosine"] >= 0.999
        # Seen: on a processor with AMX it depends on the batch, on one with AVX-512 alone it does not.
        assert bf16["invariance"]["holds"] or bf16["reason"] == "batch_variant"
    assert report["chosen"] in rounding
    chosen = found[report["chosen"]]
    assert chosen["agreement"]["mean_cosine"] >= 0.999
    assert chosen["invariance"]["holds"]
    layers = found["static-int8-excluded"]["layers"]
    assert len(layers) == 36
    assert sum(layer["excluded"] for layer in layers) < 9
    assert "the loudest channels" in found["static-int8-excluded"]["note"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("gone.onnx", "--samples", "seen.npz"), "there is no file or folder"),
        (("digits.onnx", "--samples", "gone.npz"), "gone.npz"),
        (("digits.onnx", "--samples", "seen.npz", "--slo", "soon"), "--slo soon"),
        (("notes.md", "--samples", "seen.npz"), "cannot be optimised"),
        (("digits.onnx", "--samples", "seen.npz", "--depends-on", "gone.pt"), "--depends-on gone.pt: there is no such"),
    ],
)
def test_what_cannot_begin_is_one_line_and_exit_code_2(tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    onnx.save(cnn(), str(tmp_path / "digits.onnx"))
    write_samples(tmp_path / "seen.npz", 40, (1, 8, 8))
    (tmp_path / "notes.md").write_text("not a model")
    ended = run(tmp_path, *words)
    assert ended.returncode == 2, ended.stdout
    assert len(ended.stderr.strip().splitlines()) == 1
    assert told in ended.stderr
