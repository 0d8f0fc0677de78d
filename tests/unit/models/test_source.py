"""MODEL arguments, Python files and their attributes, digests."""

# A model writes `inputs = {...}` as the documentation shows it.
# ruff: noqa: RUF012

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import forebay
from forebay.core.errors import SetupError
from forebay.core.settings_sources import load_settings
from forebay.models.source import ModelSource, attributes_of, digest_of, load_class, open_source


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    return tmp_path


def write(folder: Path, name: str, text: str = "") -> Path:
    path = folder / name
    path.write_text("import forebay\n" + text if name.endswith(".py") else text)
    return path


def test_a_file_is_named_by_its_stem(folder: Path) -> None:
    path = write(folder, "net.v2.onnx")
    assert open_source("net.v2.onnx") == ModelSource("net.v2", "onnx", str(path), "")
    assert open_source("net.v2.onnx", "other").name == "other"


def test_a_class_is_named_in_lower_case(folder: Path) -> None:
    path = write(folder, "nets.py")
    assert open_source("nets.py:MyNet") == ModelSource("mynet", "python", str(path), "MyNet")
    assert open_source(f"{path}:MyNet", "other").name == "other"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nets.py", r"names no class; write nets\.py:Class"),
        ("nets.py:", r"names no class; write nets\.py:Class"),
        ("nets.bin", r"there is no file or folder 'nets\.bin'.*; a model is an \.onnx file, a Python model "),
        (
            "net",
            r"there is no file or folder 'net' \(looked in .*; a model is an \.onnx file, .*or a repository folder",
        ),
        ("", r"no file that can be served; that is an \.onnx file"),
        ("config.json", r"is not an XGBoost model: it begins with b'\{\"a\": 1\}'; .*save_model\('model\.ubj'\)"),
        ("notes.txt", r"is not a LightGBM model: it begins with b'hello'; .*save_model\('model\.txt'\)"),
        ("gone.skops", r"there is no file 'gone\.skops'"),
        ("empty.skops", r"is not a skops file: it begins with b''"),
        ("gone.onnx", r"there is no file 'gone\.onnx' \(looked in "),
        ("gone.py:Net", r"there is no file 'gone\.py'"),
        ("folder.onnx", r"there is no file 'folder\.onnx'"),
    ],
)
def test_what_is_no_model_is_told_with_the_mend(folder: Path, text: str, message: str) -> None:
    write(folder, "nets.py")
    write(folder, "config.json", '{"a": 1}')
    write(folder, "notes.txt", "hello")
    write(folder, "empty.skops")
    (folder / "folder.onnx").mkdir()
    with pytest.raises(SetupError, match=message) as caught:
        open_source(text)
    assert caught.value.code == "config_error"
    assert repr(text) in caught.value.message


@pytest.mark.parametrize(
    ("name", "head", "runtime"),
    [
        ("m.json", b'{"learner": {', "xgboost"),
        ("m.json", b'\n{"version": [3, 0, 0], "learner": {', "xgboost"),
        ("m.UBJ", b"{L\x00\x00\x00\x00\x00\x00\x00\x07learner{", "xgboost"),
        ("m.txt", b"tree\nversion=v4\n", "lightgbm"),
        ("m.lgb", b"tree\r\nversion=v4\r\n", "lightgbm"),
        ("m.skops", b"PK\x03\x04", "sklearn"),
        ("m.pkl", b"\x80\x05", "sklearn"),
        ("m.joblib", b"\x80\x05", "sklearn"),
    ],
)
def test_a_model_file_is_known_by_its_suffix_and_its_beginning(
    folder: Path, name: str, head: bytes, runtime: str
) -> None:
    (folder / name).write_bytes(head)
    assert open_source(name) == ModelSource("m", runtime, str(folder / name), "")


def test_settings_beside_the_model(folder: Path) -> None:
    write(folder, "net.onnx")
    write(folder, "nets.py")
    assert open_source("net.onnx").sidecar is None
    assert open_source("nets.py:Net").sidecar is None
    general = write(folder, "model.toml")
    assert open_source("net.onnx").sidecar is None
    assert open_source("nets.py:Net").sidecar == general
    own = write(folder, "nets.toml")
    assert open_source("nets.py:Net").sidecar == own
    assert open_source("net.onnx").sidecar is None
    assert write(folder, "net.toml") == open_source("net.onnx").sidecar


def test_a_class_is_found_and_may_import_its_neighbours(folder: Path) -> None:
    write(folder, "neighbour_of_net.py", "VALUE = 7\n")
    write(folder, "nets.py", "from neighbour_of_net import VALUE\nclass Net(forebay.Model):\n    slo_ms = VALUE\n")
    found = load_class(open_source("nets.py:Net"))
    assert issubclass(found, forebay.Model)
    assert open_source("nets.py:Net").class_attributes() == {"slo_ms": 7}
    sys.modules.pop("neighbour_of_net")


def test_a_dataclass_in_a_models_file_works(folder: Path) -> None:
    text = (
        "from __future__ import annotations\nimport forebay\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Part:\n    size: int\nclass Net(forebay.Model):\n    part = Part(3)\n"
    )
    (folder / "nets.py").write_text(text)
    assert load_class(open_source("nets.py:Net")).part.size == 3  # type: ignore[attr-defined]


def test_a_file_named_as_a_library_does_not_take_its_place(folder: Path) -> None:
    before = sys.modules["json"]
    write(folder, "json.py", "class Net(forebay.Model):\n    pass\n")
    load_class(open_source("json.py:Net"))
    assert sys.modules["json"] is before


def test_loading_twice_leaves_the_path_once(folder: Path) -> None:
    write(folder, "nets.py", "class Net(forebay.Model):\n    pass\n")
    for _ in range(3):
        load_class(open_source("nets.py:Net"))
    assert sys.path.count(str(folder)) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 / 0", r"importing .*nets\.py failed: ZeroDivisionError: division by zero"),
        ("import no_such_module_xyz", r"ModuleNotFoundError: No module named 'no_such_module_xyz'"),
        ("def f(:", r"SyntaxError: "),
        ("raise SystemExit(2)", r"SystemExit: 2"),
    ],
)
def test_a_file_that_cannot_be_imported(folder: Path, text: str, message: str) -> None:
    write(folder, "nets.py", text)
    with pytest.raises(SetupError, match=message) as caught:
        load_class(open_source("nets.py:Net"))
    assert caught.value.code == "model_load_error"
    assert "forebay_model_nets" not in sys.modules


@pytest.mark.parametrize("name", ["Nett", "helper", "Plain", "missing"])
def test_a_class_that_is_none(folder: Path, name: str) -> None:
    text = "class Net(forebay.Model): pass\nclass Other(Net): pass\nclass Plain: pass\ndef helper(): pass\n"
    write(folder, "nets.py", text)
    message = f"has no forebay.Model subclass {name!r}; it has: Net, Other"
    with pytest.raises(SetupError, match=re.escape(message)):
        load_class(open_source(f"nets.py:{name}"))


class Base(forebay.Model):
    inputs = {"x": ("FP32", [2])}
    outputs = {"y": ("FP32", [2])}
    max_batch_rows = 4
    slo_ms = 10.0


class Derived(Base):
    max_batch_rows = 8
    max_batch_row = 9
    devices = ("cpu", "cuda:0")
    labels = ["cat", "dog"]
    pad = None
    batching = "off"
    _private = 1
    table = {"a": 1}
    weights = np.ones(3)
    half = np.float64(0.5)
    huge = 10**30
    mixed = [1, {"a": 2}]
    kind = int

    @property
    def size(self) -> int:
        return 1


def test_public_plain_attributes_are_returned_and_can_be_sent() -> None:
    found = attributes_of(Derived)
    assert found == {
        "max_batch_rows": 8,
        "max_batch_row": 9,
        "slo_ms": 10.0,
        "devices": ("cpu", "cuda:0"),
        "labels": ["cat", "dog"],
        "pad": None,
        "batching": "off",
    }
    assert set(msgspec.msgpack.decode(msgspec.msgpack.encode(found))) == set(found)


def test_an_attribute_that_hides_a_plain_one_hides_it() -> None:
    class Hidden(Base):
        slo_ms = property(lambda self: 5.0)

    assert "slo_ms" not in attributes_of(Hidden)


def test_a_misspelt_setting_is_an_error_and_other_attributes_are_not(tmp_path: Path) -> None:
    loaded = load_settings(config_file=None, environ={}, flags={}, sets=[], folder=tmp_path)
    assert loaded.model("base", attributes_of(Base), None).max_batch_rows == 4
    with pytest.raises(SetupError, match="unknown setting 'max_batch_row'; did you mean 'max_batch_rows'"):
        loaded.model("derived", attributes_of(Derived), None)


def linear(folder: Path, *names: str) -> ModelSource:
    """An ONNX file whose weights lie in files of these names beside it, or inside it if there are none."""
    weights = [numpy_helper.from_array(np.full((4, 4), i, "<f4"), f"w{i}") for i in range(max(1, len(names)))]
    nodes = [helper.make_node("MatMul", [f"h{i}" if i else "x", f"w{i}"], [f"h{i + 1}"]) for i in range(len(weights))]
    axes: list[int | str] = ["N", 4]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, axes)],
        [helper.make_tensor_value_info(f"h{len(weights)}", TensorProto.FLOAT, axes)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for name, tensor in zip(names, model.graph.initializer, strict=False):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(tensor.raw_data)
        onnx.external_data_helper.set_external_data(tensor, name)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
    path = folder / "linear.onnx"
    path.write_bytes(model.SerializeToString())
    return ModelSource("linear", "onnx", str(path))


def test_the_digest_of_a_whole_file_is_its_sha256(tmp_path: Path) -> None:
    source = linear(tmp_path)
    assert digest_of(source) == hashlib.sha256(Path(source.path).read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["w", "linear.onnx.data", "weights.bin", "sub/weights.bin", "ü" * 80, "w" * 200])
def test_a_change_of_external_data_changes_the_digest(tmp_path: Path, name: str) -> None:
    source = linear(tmp_path, name)
    before = digest_of(source)
    assert digest_of(source) == before
    (tmp_path / "unrelated.bin").write_bytes(b"x")
    assert digest_of(source) == before
    (tmp_path / name).write_bytes(b"other weights" * 5)
    assert digest_of(source) != before


def test_every_external_file_counts(tmp_path: Path) -> None:
    source = linear(tmp_path, "first", "second")
    seen = {digest_of(source)}
    for name in ("first", "second"):
        (tmp_path / name).write_bytes(b"x")
        seen.add(digest_of(source))
    assert len(seen) == 3


def test_an_external_file_that_is_gone_is_left_to_the_runtime(tmp_path: Path) -> None:
    source = linear(tmp_path, "weights.bin")
    before = digest_of(source)
    (tmp_path / "weights.bin").unlink()
    assert digest_of(source) != before


@pytest.mark.parametrize(
    "content", [b"", b"\x0a\x08location\x12", b"\x0a\x08location\x12\x05a\x00b\xff\xfe", b"\x0a\x08location\x12\x01."]
)
def test_any_bytes_have_a_digest(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert digest_of(ModelSource("m", "onnx", str(path))) == hashlib.sha256(content).hexdigest()


def test_a_link_keeps_its_own_name_and_what_lies_beside_it(folder: Path) -> None:
    for name in ("blobs", "snapshot"):
        (folder / name).mkdir()
    blob = write(folder, "blobs/abc123")
    link = folder / "snapshot" / "net.onnx"
    link.symlink_to(blob)
    settings = write(folder, "snapshot/net.toml")
    source = open_source(str(link))
    assert (source.name, source.path, source.sidecar) == ("net", str(link), settings)
