"""Exports are taken as samples, hold every value exactly, and say what is wrong where they cannot be made."""

from __future__ import annotations

import builtins
import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from tests.unit.request_log.rig import NUMBERS, TEXTS, Rig

from forebay.core.errors import SetupError
from forebay.core.tensors import pack_bytes
from forebay.models.signature import Signature, TensorSpec
from forebay.optimize.samples import read_samples
from forebay.request_log.export import FORMATS, export
from forebay.request_log.reading import Reading

RAGGED = Signature((TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP32", (1,)),))
CHAT = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]


def exported(rig: Rig, form: str, **chosen: Any) -> tuple[Path, int, list[str]]:
    file = rig.data_dir / f"out.{form}"
    return file, *export(Reading(rig.folder, **chosen), file, form)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def numbers(tmp_path: Path) -> Rig:
    rig = Rig(tmp_path)
    rig.ask([0.1, 2], tenant="acme", temperature=0.5)
    rig.ask([3, 4])
    return rig.close()


@pytest.fixture
def texts(tmp_path: Path) -> Rig:
    rig = Rig(tmp_path, TEXTS)
    rig.ask("grün", "ärger")
    return rig.close()


def test_npz(numbers: Rig) -> None:
    file, rows, lacking = exported(numbers, "npz")
    assert (rows, lacking) == (2, [])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with np.load(file, allow_pickle=False) as found:
        assert found["x"].dtype == np.float32
        assert found["x"].tolist() == np.array([[0.1, 2], [3, 4]], np.float32).tolist()
        assert found["output.y"].tolist() == np.array([[0.1], [3]], np.float32).tolist()
        assert found["_tenant"].tolist() == ["acme", "anonymous"]
        assert found["_parameters"].tolist() == ['{"temperature":0.5}', "{}"]
        assert set(found["_version"]) == {"1"}
        assert found["_at"].dtype == np.float64


def test_npz_of_texts(texts: Rig) -> None:
    file, _, _ = exported(texts, "npz")
    with np.load(file, allow_pickle=False) as found:
        assert found["text"].tolist() == [["grün"], ["ärger"]]


def test_npz_of_rows_that_differ_in_length(tmp_path: Path) -> None:
    rig = Rig(tmp_path, RAGGED)
    rig.ask([1, 2, 3])
    rig.ask([4])
    file, _, _ = exported(rig.close(), "npz")
    with np.load(file, allow_pickle=False) as found:
        assert found["x"].tolist() == [[1, 2, 3], [4, 0, 0]]
        assert found["_shape.x"].tolist() == [[3], [1]]
    samples = read_samples(file, RAGGED, None)
    assert [row["x"].tolist() for row in samples.rows] == [[1, 2, 3], [4]], "what filled it up is no sample"


def test_shapes_that_are_none_are_an_error(tmp_path: Path) -> None:
    file = tmp_path / "wrong.npz"
    arrays: dict[str, Any] = {"x": np.zeros((2, 3), np.float32), "_shape.x": np.zeros((2, 2), np.int64)}
    np.savez(file, **arrays)
    with pytest.raises(SetupError, match="holds the shape of each row"):
        read_samples(file, RAGGED, None)


def test_npz_of_one_long_row_among_many_short_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forebay.request_log.export.MOST_FILLED_BYTES", 4 * 4 * 1000)
    for name, signature, short, long in (("n", RAGGED, [1], [1] * 1000), ("t", TEXTS, "a", "a" * 1000)):
        rig = Rig(tmp_path / name, signature)
        for number in range(5):
            rig.ask(short, number=number)
        rig.ask(long)
        rig.close()
        with pytest.raises(SetupError, match=r"differs so much in length .* parquet or jsonl"):
            exported(rig, "npz")
        assert exported(rig, "jsonl")[1] == 6


@pytest.mark.parametrize("form", ["npz", "jsonl"])
def test_what_is_exported_is_taken_as_samples(numbers: Rig, form: str) -> None:
    samples = read_samples(exported(numbers, form)[0], NUMBERS, None)
    assert [row["x"].tolist() for row in samples.rows] == np.array([[0.1, 2], [3, 4]], np.float32).tolist()
    assert samples.labels == []


@pytest.mark.parametrize("form", ["npz", "jsonl"])
def test_texts_are_taken_as_samples(texts: Rig, form: str) -> None:
    samples = read_samples(exported(texts, form)[0], TEXTS, None)
    assert [row["text"].tolist() for row in samples.rows] == [["grün"], ["ärger"]]


def test_jsonl(numbers: Rig) -> None:
    first, second = lines(exported(numbers, "jsonl")[0])
    assert first["x"] == [0.1, 2.0]  # in the fewest digits that read back to the same float32
    assert first["output.y"] == [0.1]
    assert (first["_tenant"], first["_version"], first["_digest"]) == ("acme", "1", "d1")
    assert json.loads(first["_parameters"]) == {"temperature": 0.5}
    assert second["_parameters"] == "{}"


def test_jsonl_of_what_json_cannot_say(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.ask([float("nan"), float("inf")])
    rig.close()
    other = Rig(tmp_path, TEXTS, version="2")
    other.ask(b"\xff\xfe")
    other.close()
    assert lines(exported(rig, "jsonl", versions=["1"])[0])[0]["x"] == [None, None]
    assert lines(exported(rig, "jsonl", versions=["2"])[0])[0]["text"] == {"base64": "//4="}


def test_parquet(numbers: Rig) -> None:
    file, rows, _ = exported(numbers, "parquet")
    table = pyarrow.parquet.read_table(file)
    assert rows == table.num_rows == 2
    assert str(table.schema.field("x").type) == "list<item: float>" or "float" in str(table.schema.field("x").type)
    assert table["x"].to_pylist() == np.array([[0.1, 2], [3, 4]], np.float32).tolist()
    assert table["_tenant"].to_pylist() == ["acme", "anonymous"]


def test_parquet_of_texts_and_other_bytes(tmp_path: Path) -> None:
    rig = Rig(tmp_path, TEXTS)
    rig.ask("grün")
    rig.ask("b", answer=b"\xff")
    table = pyarrow.parquet.read_table(exported(rig.close(), "parquet")[0])
    assert table["text"].to_pylist() == ["grün", "b"]
    assert table["output.upper"].to_pylist() == ["GRÜN".encode().replace(b"\xc3\x9c", b"\xc3\xbc"), b"\xff"]


def test_parquet_without_its_library(numbers: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SetupError, match=r'pip install "forebay\[parquet\]", or export as npz or jsonl'):
        exported(numbers, "parquet")
    assert [path.name for path in numbers.data_dir.iterdir()] == ["requests"]


def test_chats_of_texts(texts: Rig) -> None:
    first, _ = lines(exported(texts, "chat")[0])
    assert [message["role"] for message in first["messages"]] == ["user", "assistant"]
    assert first["messages"][0]["content"] == "grün"


@pytest.mark.parametrize(
    ("asked", "turns"),
    [
        (json.dumps(CHAT), CHAT),
        (json.dumps({"messages": CHAT, "model": "m"}), CHAT),
        ("[1, 2]", [{"role": "user", "content": "[1, 2]"}]),
        ("{not json", [{"role": "user", "content": "{not json"}]),
        ("[]", [{"role": "user", "content": "[]"}]),
    ],
)
def test_chats_of_chats(tmp_path: Path, asked: str, turns: list[dict[str, str]]) -> None:
    rig = Rig(tmp_path, TEXTS)
    rig.ask(asked, answer=b"hello")
    (found,) = lines(exported(rig.close(), "chat")[0])
    assert found["messages"] == [*turns, {"role": "assistant", "content": "hello"}]


def test_chats_of_a_classifier_say_its_label(tmp_path: Path) -> None:
    signature = Signature((TensorSpec("text", "BYTES", (1,)),), (TensorSpec("p", "FP32", (2,)),))
    rig = Rig(tmp_path, signature, labels=("ham", "spam"))
    request_payload = pack_bytes([b"buy now"])
    from forebay.core.request import Outputs, Request

    request = Request([request_payload], ((1,),), 1, 9, 0.0, 0.0, lambda _: None)
    rig.sampler.take(request, Outputs(["p"], ["FP32"], [np.array([[0.1, 0.9]], np.float32)], 1), 0)
    (found,) = lines(exported(rig.close(), "chat")[0])
    assert found["messages"][-1] == {"role": "assistant", "content": "spam"}


def test_no_chats_of_numbers(numbers: Rig) -> None:
    with pytest.raises(SetupError, match="model m does not take one text a row, so there is no chat: export as jsonl"):
        exported(numbers, "chat")


def test_versions_that_differ_in_form(tmp_path: Path) -> None:
    for version, datatype in (("1", "FP32"), ("2", "INT64")):
        signature = Signature((TensorSpec("x", "FP32", (2,)),), (TensorSpec("y", datatype, (1,)),))
        rig = Rig(tmp_path, signature, version=version)
        from forebay.core.request import Outputs, Request

        request = Request([[1.0, float(version)]], ((2,),), 1, 8, 0.0, 0.0, lambda _: None)
        array = np.array([[1]], np.float32 if version == "1" else np.int64)
        rig.sampler.take(request, Outputs(["y"], [datatype], [array], 1), 0)
        rig.close()
    for form in ("npz", "parquet"):
        with pytest.raises(SetupError, match=r"'output.y' differs in datatype .* choose with --version, or export as"):
            exported(rig, form)
        assert exported(rig, form, versions=["2"])[1] == 1
    assert len(lines(exported(rig, "jsonl")[0])) == 2


def test_columns_that_some_rows_lack_are_told(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.ask([1, 2])
    rig.destination._redact = lambda row: {"inputs": row["inputs"]} if row["inputs"]["x"][0] > 2 else row
    rig.ask([3, 4])
    for form in ("npz", "parquet"):
        assert exported(rig.close(), form)[2] == ["output.y"]
    assert [sorted(line)[-2:] for line in lines(exported(rig, "jsonl")[0])] == [["output.y", "x"], ["_version", "x"]]


@pytest.mark.parametrize("form", FORMATS)
def test_nothing_to_export_is_an_empty_file(tmp_path: Path, form: str) -> None:
    rig = Rig(tmp_path).close()
    file, rows, _ = exported(rig, form)
    assert rows == 0
    assert file.exists()


def test_bytes_that_npz_would_cut_off(tmp_path: Path) -> None:
    rig = Rig(tmp_path, TEXTS)
    rig.ask(b"a\0")
    with pytest.raises(SetupError, match="holds bytes that end in zero"):
        exported(rig.close(), "npz")
