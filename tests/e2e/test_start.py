"""Starting `forebay serve`: one command is enough, and what cannot work is one clear line and exit code 2."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.e2e.server import MODELS, Served, eventually, gone, model, quick, run_once, serving, values


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The message of a start that failed as it should."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    return last


def test_one_command_serves_a_file_and_everything_comes_from_it(tmp_path: Path, mlp: Path) -> None:
    with serving(tmp_path, str(mlp)) as served:
        document = served.http.get("/v2/models/mlp").json()
        assert document["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 16]}]
        assert document["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}]
        assert document["platform"] == "onnxruntime_onnx"
        weights = np.load(mlp.with_suffix(".npz"))
        row = np.linspace(-1, 1, 16, dtype=np.float32)
        hidden = np.maximum(row @ weights["w1"] + weights["b1"], 0)
        scores = hidden @ weights["w2"] + weights["b2"]
        wanted = np.exp(scores) / np.exp(scores).sum()
        answer = served.http.post("/v2/models/mlp/infer", json={"input": {"x": row.tolist()}}).json()
        np.testing.assert_allclose(answer["output"]["y"], wanted, rtol=1e-4)
        cores = len(os.sched_getaffinity(0))
        assert 1 <= len(served.instances()) <= cores
    assert list((tmp_path / ".forebay" / "latency").glob("*.json")), "what was measured is kept"


def test_name_replaces_the_stem(tmp_path: Path, mlp: Path) -> None:
    with serving(tmp_path, *quick(str(mlp)), "--name", "waves") as served:
        assert served.http.get("/v2/models/waves").json()["name"] == "waves"
        assert served.http.get("/v2/models/mlp").status_code == 404


def test_settings_come_from_the_class_then_its_file_then_the_command(tmp_path: Path) -> None:
    copy = tmp_path / "plain.py"
    copy.write_text((MODELS / "plain.py").read_text())
    source = f"{copy}:Settings"
    with serving(tmp_path / "a", source, "--set", "*.warm_up_s=0.1") as served:
        assert served.http.get("/v2/models/settings/config").json()["max_batch_size"] == 4
        assert len(served.instances()) == 1
    (tmp_path / "plain.toml").write_text("max_batch_rows = 6\n")
    with serving(tmp_path / "b", source, "--set", "*.warm_up_s=0.1") as served:
        assert served.http.get("/v2/models/settings/config").json()["max_batch_size"] == 6
    (tmp_path / "plain.toml").unlink()
    (tmp_path / "model.toml").write_text("max_batch_rows = 7\n")
    with serving(tmp_path / "c", source, "--set", "*.warm_up_s=0.1") as served:
        assert served.http.get("/v2/models/settings/config").json()["max_batch_size"] == 7
    with serving(tmp_path / "d", *quick(source), "--set", "settings.max_batch_rows=8") as served:
        assert served.http.get("/v2/models/settings/config").json()["max_batch_size"] == 8
        answer = served.infer("settings", list(range(8)), explain=True)
        assert values(answer) == list(range(8))
        assert answer.json()["parameters"]["batch_rows"] == 8


def test_a_file_beside_an_onnx_model_sets_it(tmp_path: Path, mlp: Path) -> None:
    copy = tmp_path / "net.onnx"
    copy.write_bytes(mlp.read_bytes())
    copy.with_suffix(".toml").write_text("max_batch_rows = 5\ninstances = 1\nwarm_up_s = 0\n")
    with serving(tmp_path / "work", str(copy)) as served:
        assert served.http.get("/v2/models/net/config").json()["max_batch_size"] == 5
        assert len(served.instances()) == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Fails", ["weights.npy is not there", "fails"]),
        ("Exits", ["exit code 5", "exits", "loads.py"]),
        ("Quits", ["no licence", "quits"]),
        ("BadExamples", ["examples.json", "badexamples"]),
        ("NoType", ["'FLOAT'", "FP32", "notype"]),
        ("NoInputs", ["inputs", "noinputs"]),
        ("Missing", ["'Missing'", "Fails"]),
    ],
)
def test_a_model_that_does_not_load_is_told_in_one_line(tmp_path: Path, name: str, said: list[str]) -> None:
    message = refused(run_once(tmp_path, "serve", *model("loads.py", name), "--port", "0"))
    for part in said:
        assert part in message


def test_a_python_file_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import no_such_module_here\n")
    message = refused(run_once(tmp_path, "serve", f"{broken}:Model", "--port", "0"))
    assert "no_such_module_here" in message
    assert str(broken) in message


def test_a_file_that_is_no_onnx_is_named(tmp_path: Path) -> None:
    torn = tmp_path / "torn.onnx"
    torn.write_bytes(b"not a model")
    assert str(torn) in refused(run_once(tmp_path, "serve", str(torn), "--port", "0"))


def test_an_onnx_type_that_the_protocol_lacks_is_named(tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    kinds = [helper.make_tensor_value_info(name, TensorProto.BFLOAT16, ["N", 2]) for name in "xy"]
    graph = helper.make_graph([node], "bf16", [kinds[0]], [kinds[1]])
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    built.ir_version = 8
    onnx.save(built, tmp_path / "bf16.onnx")
    message = refused(run_once(tmp_path, "serve", str(tmp_path / "bf16.onnx"), "--port", "0"))
    assert "bfloat16" in message


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no model to serve"),
        (["nothing.onnx"], "nothing.onnx"),
        (["notes.txt"], "notes.txt"),
        (["MLP", "MLP"], "two models are called 'mlp'"),
        (["MLP", "SLEEP", "--name", "one"], "exactly one"),
        (["MLP", "--set", "mlp.max_batch_row=4"], "max_batch_rows"),
        (["MLP", "--set", "nlp.threads=1"], "nlp"),
        (["MLP", "--set", "mlp.threads=none"], "threads"),
        (["MLP", "--host", "0.0.0.0"], "--insecure-no-auth"),
        (["MLP", "--express-lane", "on"], "auto"),
    ],
)
def test_a_wrong_command_is_told_in_one_line(tmp_path: Path, mlp: Path, arguments: list[str], said: str) -> None:
    names = {"MLP": str(mlp), "SLEEP": f"{MODELS / 'plain.py'}:Centred"}
    given = [names.get(argument, argument) for argument in arguments]
    assert said in refused(run_once(tmp_path, "serve", *given))


def test_a_misspelt_variable_is_told_with_the_right_one(tmp_path: Path, mlp: Path) -> None:
    message = refused(run_once(tmp_path, "serve", str(mlp), FOREBAY_MODELS__MLP__SLO="5"))
    assert "FOREBAY_MODELS__MLP__SLO" in message
    assert "slo_ms" in message


def test_a_port_in_use_is_known_before_models_load(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = refused(run_once(tmp_path, "serve", *model("faulty.py", "Loading"), "--port", str(port)))
    assert f"127.0.0.1:{port}" in message
    assert not (tmp_path / "loading").exists(), "the model was loaded for nothing"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_a_model_loads_ends_at_once_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "slow").touch()
    served = Served(tmp_path, *model("faulty.py", "Loading"))
    try:
        eventually((tmp_path / "loading").exists, "the model begins to load")
        children = served.instances()
        assert len(children) == 1
        served.process.send_signal(number)
        # Nothing is admitted yet, so there is nothing to drain.
        assert served.process.wait(30) == 0
        gone(children)
        assert "Traceback" not in served.output
    finally:
        (tmp_path / "slow").unlink()
        served.close()


def test_ctrl_c_to_the_group_while_a_process_starts_prints_no_traceback(tmp_path: Path) -> None:
    served = Served(tmp_path, *model("plain.py", "Centred"), group=True)
    try:
        children = eventually(served.instances, "an instance process starts")
        if sys.platform == "linux":
            status = Path(f"/proc/{children[0].pid}/status").read_text()
            masks = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigBlk", "SigIgn"))]
            for number in (signal.SIGINT, signal.SIGTERM):
                assert (masks[0] | masks[1]) >> (number - 1) & 1, "the process can be hit before it is set up"
        os.killpg(served.process.pid, signal.SIGINT)
        assert served.process.wait(30) in (0, -signal.SIGINT)
        gone(children)
    finally:
        served.close()
    assert "Traceback" not in served.output
    assert "KeyboardInterrupt" not in served.output


def test_measured_costs_are_kept_for_the_next_start(tmp_path: Path) -> None:
    for _ in range(2):
        with serving(tmp_path, *quick(*model("plain.py", "Centred"))) as served:
            assert values(served.infer("centred", [1.0])) == [0.0]
    assert list((tmp_path / ".forebay").rglob("*.json"))
