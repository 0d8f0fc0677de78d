"""What is peculiar to Python models: what `predict` may return, and what is said where it returns something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.contract.models import python_source

from forebay.core.errors import ExecutionError, SetupError
from forebay.core.tensors import Array, bytes_array
from forebay.runtimes.python import PythonRuntime

X = np.array([[1.0, 2.0], [3.0, 4.0]], "<f4")


def model(folder: Path, body: str, outputs: str = '{"y": ("FP32", [2])}', attributes: str = "") -> PythonRuntime:
    text = f"""
class M(forebay.Model):
    inputs = {{"x": ("FP32", [2])}}
    outputs = {outputs}
    {attributes}

    def predict(self, x):
        {body}
"""
    return PythonRuntime(python_source(folder / "m.py", text, "M"), "cpu", 1)


def run(runtime: PythonRuntime) -> list[Array]:
    return runtime.run({"x": X.copy()}, 2)


TWO = '{"a": ("FP32", [2]), "b": ("INT64", [])}'


@pytest.mark.parametrize(
    "body",
    [
        "return x, [1, 2]",
        'return {"b": [1, 2], "a": x}',
        "return x.tolist(), np.array([1, 2], 'i1')",
        "return x.astype('f8'), (1, 2)",
        "return (x, [True, 2])",
    ],
)
def test_forms_of_two_outputs(tmp_path: Path, body: str) -> None:
    a, b = run(model(tmp_path, body, TWO))
    assert (a.dtype, a.tolist()) == (np.dtype("<f4"), X.tolist())
    assert (b.dtype, b.tolist()) == (np.dtype("<i8"), [1, 2])


@pytest.mark.parametrize("body", ["return x", "return x.tolist()", "return (x,)", 'return {"y": x}', "return [*x]"])
def test_forms_of_one_output(tmp_path: Path, body: str) -> None:
    assert run(model(tmp_path, body))[0].tolist() == X.tolist()


@pytest.mark.parametrize(
    "value", ["[['a'], [b'b']]", "np.array([['a'], ['b']])", "np.array([[b'a'], [b'b']])", "(['a'], ['b'])"]
)
def test_forms_of_bytes(tmp_path: Path, value: str) -> None:
    body = f"return {{'y': {value}}}"
    (answer,) = run(model(tmp_path, body, '{"y": ("BYTES", [1])}'))
    texts = [v.encode() if isinstance(v, str) else bytes(v) for v in answer.reshape(-1).tolist()]
    assert (answer.shape, texts) == ((2, 1), [b"a", b"b"])


@pytest.mark.parametrize(
    ("body", "outputs", "message"),
    [
        ("return x, x", '{"y": ("FP32", [2])}', "2 outputs, declared are"),
        ('return {"z": x}', '{"y": ("FP32", [2])}', r"\['z'\], declared are \['y'\]"),
        ("return x[:1]", '{"y": ("FP32", [2])}', r"shape \[1, 2\]; its first axis must be the batch's 2 rows"),
        ("return x.sum()", '{"y": ("FP32", [2])}', r"shape \[\]; its first axis"),
        ("return x[:, :1]", '{"y": ("FP32", [2])}', r"rows of shape \[1\], declared is \[2\]"),
        ("return x[:, :, None]", '{"y": ("FP32", [-1])}', r"rows of shape \[2, 1\], declared is \[-1\]"),
        ("return None", '{"y": ("FP32", [2])}', "'y'"),
        ("return [['a', 'b'], ['c', 'd']]", '{"y": ("FP32", [2])}', "'y' is not FP32"),
        ("return [[1.0], [1.0, 2.0]]", '{"y": ("FP32", [2])}', "'y' is not FP32"),
        ("return x + 0.5", '{"y": ("INT64", [2])}', "'y' is not INT64: its values are float32"),
        ("return x * 1j", '{"y": ("BOOL", [2])}', "'y' is not BOOL"),
        ("return [[10 ** 30, 1], [1, 1]]", '{"y": ("UINT8", [2])}', "'y' is not UINT8"),
        ("return np.array([[300, 1], [1, -1]])", '{"y": ("UINT8", [2])}', "values that this datatype cannot hold"),
        ("return np.full((2, 2), 2**31)", '{"y": ("INT32", [2])}', "values that this datatype cannot hold"),
        ("return np.full((2, 2), 2**63, 'u8')", '{"y": ("INT64", [2])}', "values that this datatype cannot hold"),
        ("return np.array([[1, 2], [3, 1.5]], object)", '{"y": ("INT64", [2])}', "cannot hold"),
    ],
)
def test_what_does_not_fit_the_declaration(tmp_path: Path, body: str, outputs: str, message: str) -> None:
    with pytest.raises(ExecutionError, match=message) as caught:
        run(model(tmp_path, body, outputs))
    assert caught.value.code == "output_mismatch"


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("raise KeyError('vocab')", "model_error", "KeyError: 'vocab'"),
        ("raise SystemExit(3)", "model_error", "SystemExit: 3"),
        ("raise MemoryError()", "out_of_memory", "MemoryError"),
        ("return np.empty((1 << 50,), 'f8')", "out_of_memory", "MemoryError"),
        ("raise RuntimeError('CUDA out of memory. Tried to allocate 2 GiB')", "out_of_memory", "CUDA"),
        ("raise RuntimeError('std::bad_alloc')", "out_of_memory", "bad_alloc"),
        ("raise type('OutOfMemoryError', (RuntimeError,), {})('x')", "out_of_memory", "OutOfMemoryError"),
    ],
)
def test_what_predict_raises(tmp_path: Path, body: str, code: str, message: str) -> None:
    with pytest.raises(ExecutionError, match=message) as caught:
        run(model(tmp_path, body))
    assert caught.value.code == code


def test_no_rows_of_another_type_are_no_loss(tmp_path: Path) -> None:
    assert model(tmp_path, "return np.empty((0, 2))", '{"y": ("INT64", [2])}').run({"x": X[:0]}, 0)[0].shape == (0, 2)


def test_bytes_arrive_as_bytes(tmp_path: Path) -> None:
    text = """
class M(forebay.Model):
    inputs = {"t": ("BYTES", [1])}
    outputs = {"size": ("INT32", [1])}

    def predict(self, t):
        assert t.dtype == object and all(type(row[0]) is bytes for row in t)
        return [[len(row[0])] for row in t]
"""
    runtime = PythonRuntime(python_source(tmp_path / "m.py", text, "M"), "cpu", 1)
    assert runtime.run({"t": bytes_array([b"", b"\xff\xff"], [2, 1])}, 2)[0].tolist() == [[0], [2]]


def test_load_is_told_the_device_and_the_threads(tmp_path: Path) -> None:
    text = """
class M(forebay.Model):
    inputs = {"x": ("FP32", [])}
    outputs = {"y": ("BYTES", [])}

    def load(self, device):
        self.seen = f"{device} {self.threads}"

    def predict(self, x):
        return {"y": [self.seen] * len(x)}
"""
    runtime = PythonRuntime(python_source(tmp_path / "m.py", text, "M"), "cuda:1", 3)
    assert runtime.run({"x": np.ones(2, "<f4")}, 2)[0].tolist() == ["cuda:1 3", "cuda:1 3"]


@pytest.mark.parametrize("error", ["ValueError('no weights')", "SystemExit('no licence')"])
def test_a_load_that_fails(tmp_path: Path, error: str) -> None:
    text = f"""
class M(forebay.Model):
    inputs = {{"x": ("FP32", [])}}
    outputs = {{"y": ("FP32", [])}}

    def load(self, device):
        raise {error}
"""
    with pytest.raises(SetupError, match=r"model m: M\.load\('cpu'\) failed: \w+: no ") as caught:
        PythonRuntime(python_source(tmp_path / "m.py", text, "M"), "cpu", 1)
    assert caught.value.code == "model_load_error"


def test_settings_and_examples_of_the_class(tmp_path: Path) -> None:
    runtime = model(
        tmp_path, "return x", attributes="max_batch_rows = 8\n    def examples(self): return [{'x': [1, 2]}]"
    )
    assert runtime.settings == {"max_batch_rows": 8}
    assert runtime.examples() == [{"x": [1, 2]}]


def test_a_class_without_predict(tmp_path: Path) -> None:
    text = 'class M(forebay.Model):\n    inputs = {"x": ("FP32", [2])}\n    outputs = {"y": ("FP32", [2])}\n'
    runtime = PythonRuntime(python_source(tmp_path / "m.py", text, "M"), "cpu", 1)
    with pytest.raises(ExecutionError, match="M has no predict method"):
        run(runtime)
