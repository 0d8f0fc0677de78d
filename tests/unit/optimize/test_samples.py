"""Samples: every form that is taken, and one clear line for what is not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from forebay.core.errors import SetupError
from forebay.core.tensors import Array
from forebay.models.signature import Signature, TensorSpec
from forebay.optimize.samples import as_labels, batch_of, read_samples, split

NUMBERS = Signature((TensorSpec("x", "FP32", (3,)),), (TensorSpec("y", "FP32", (2,)),))
TOKENS = Signature(
    (TensorSpec("input_ids", "INT64", (-1,)), TensorSpec("attention_mask", "INT64", (-1,))),
    (TensorSpec("embedding", "FP32", (4,)),),
)


def words(texts: Sequence[str]) -> list[dict[str, Array]]:
    return [
        {"input_ids": np.arange(len(t.split())), "attention_mask": np.ones(len(t.split()), np.int64)} for t in texts
    ]


def test_every_form_gives_the_same_rows(tmp_path: Path) -> None:
    x = np.arange(30, dtype=np.float32).reshape(10, 3)
    labels = [str(number) for number in range(10)]
    np.savez(tmp_path / "a.npz", x=x, labels=np.arange(10))
    lines = [json.dumps({"x": row.tolist(), "label": int(place)}) for place, row in enumerate(x)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    table = ["one,two,three,label", *(",".join(map(str, [*row, place])) for place, row in enumerate(x))]
    (tmp_path / "a.csv").write_text("\n".join(table))
    for name in ("a.npz", "a.jsonl", "a.csv"):
        samples = read_samples(tmp_path / name, NUMBERS, None)
        np.testing.assert_array_equal(np.stack([row["x"] for row in samples.rows]), x)
        assert samples.labels == labels
        assert samples.rows[0]["x"].dtype == np.float32


def test_texts_are_tokenised_and_padded_only_in_company(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("one two three\n\nfour\n")
    (tmp_path / "t.csv").write_text('text,label\n"one two three",a\nfour,b\n')
    for name in ("t.txt", "t.csv"):
        samples = read_samples(tmp_path / name, TOKENS, words)
        assert [len(row["input_ids"]) for row in samples.rows] == [3, 1]
        assert samples.shown(1) == "four"
        batch = batch_of(samples.rows)
        assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    with pytest.raises(SetupError, match="--tokenizer"):
        read_samples(tmp_path / "t.txt", TOKENS, None)


def test_padding_that_an_array_needs_is_cut_off(tmp_path: Path) -> None:
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1]])
    np.savez(tmp_path / "a.npz", input_ids=mask * 7, attention_mask=mask)
    assert [len(row["input_ids"]) for row in read_samples(tmp_path / "a.npz", TOKENS, None).rows] == [2, 4]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.parquet", b"", "is not taken"),
        ("a.jsonl", b'{"x": [1, 2, 3]}\n{"z": 1}\n', "line 2"),
        ("a.jsonl", b'{"x": [1, 2, 3]}\n{"x": [1, 2]}\n', "sample 2: 'x' has the shape"),
        ("a.jsonl", b'{"x": ["a", "b", "c"]}\n', "is no number"),
        ("a.jsonl", b'{"z": [1, 2, 3]}\n', "the model takes x"),
        ("a.jsonl", b"nonsense\n", "line 1"),
        ("a.csv", b"one,two,three\n1,2,many\n", "many"),
        ("a.jsonl", b"\n" + b'{"x": ' + 20_000 * b"[" + 20_000 * b"]" + b"}", "line 1: it is nested too deeply"),
        ("a.csv", b"one,two,three\n1,2\n", "row 2: has 2 values for 3 columns"),
        ("a.npz", b"not a zip", "a.npz"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SetupError, match=told):
        read_samples(tmp_path / name, NUMBERS, None)


def test_the_parts_share_nothing_and_the_seed_decides(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(300, dtype=np.float32).reshape(100, 3))
    samples = read_samples(tmp_path / "a.npz", NUMBERS, None)
    parts = split(samples, 0.25, 40, seed=5)
    assert (len(parts.held_out), len(parts.calibration)) == (10, 30)
    seen = {float(row["x"][0]) for part in (parts.held_out, parts.calibration) for row in part.rows}
    assert len(seen) == 40
    again, other = split(samples, 0.25, 40, seed=5), split(samples, 0.25, 40, seed=6)
    assert [r["x"][0] for r in again.held_out.rows] == [r["x"][0] for r in parts.held_out.rows]
    assert [r["x"][0] for r in other.held_out.rows] != [r["x"][0] for r in parts.held_out.rows]
    with pytest.raises(SetupError, match="at least 8"):
        split(samples.part(range(7)), 0.5, 100, seed=0)


@pytest.mark.parametrize("name", ["a.npz", "a.csv"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_label_that_is_no_number_is_refused_with_its_place(tmp_path: Path, name: str, value: str) -> None:
    x, labels = np.zeros((4, 3), np.float32), np.array([0.0, 1.0, float(value), 1.0])
    np.savez(tmp_path / "a.npz", x=x, labels=labels)
    (tmp_path / "a.csv").write_text("\n".join(["one,two,three,label", *(f"0,0,0,{one}" for one in labels)]))
    with pytest.raises(SetupError, match=rf"{name}, sample 3: its label is {value}; give each sample one number"):
        read_samples(tmp_path / name, NUMBERS, None)


def test_a_table_without_names_is_told_and_columns_that_are_numbered_are_names(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("0.5,1,2\n3,4,5\n")
    with pytest.raises(SetupError, match=r"its first line holds numbers alone, 0\.5,1,2, where the names"):
        read_samples(table, NUMBERS, None)
    for names in ("0,1,2", "1,2,3", "a,1,2"):
        table.write_text(f"{names}\n3,4,5\n")
        assert len(read_samples(table, NUMBERS, None)) == 1


def test_samples_know_their_place_in_the_file(tmp_path: Path) -> None:
    x = np.arange(60, dtype=np.float32).reshape(20, 3)
    np.savez(tmp_path / "a.npz", x=x[[0, 0, *range(1, 20)]])
    parts = split(read_samples(tmp_path / "a.npz", NUMBERS, None), 0.5, 100, 0)
    both = [*zip(parts.calibration.numbers, parts.calibration.rows, strict=True)]
    both += zip(parts.held_out.numbers, parts.held_out.rows, strict=True)
    places = {number: int(row["x"][0]) // 3 for number, row in both}
    assert places == {1: 0, **{place + 2: place for place in range(1, 20)}}


@pytest.mark.parametrize("place", [60, 100, 150])
def test_a_damaged_table_is_an_error_that_names_it(tmp_path: Path, place: int) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.random.default_rng(0).random((64, 3), np.float32))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[place] ^= 0xFF
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(SetupError, match=r"--samples .*a\.npz cannot be read: "):
        read_samples(tmp_path / "a.npz", NUMBERS, None)


def test_whole_numbers_of_a_table_are_what_is_written(tmp_path: Path) -> None:
    wide = Signature((TensorSpec("x", "INT64", (2,)),), ())
    (tmp_path / "a.csv").write_text("one,two\n9007199254740993,1\n9007199254740992,1\n")
    rows = read_samples(tmp_path / "a.csv", wide, None).rows
    assert [row["x"].tolist() for row in rows] == [[9007199254740993, 1], [9007199254740992, 1]]
    (tmp_path / "a.csv").write_text("one,two\n1.5,1\n")
    with pytest.raises(SetupError, match=r"1\.5 does not fit"):
        read_samples(tmp_path / "a.csv", wide, None)


def test_labels_are_what_is_written_but_for_whole_numbers_with_a_point(tmp_path: Path) -> None:
    told = [3, 3.0, "3", "3.0", "-2.00", "007", "1_000", "1e3", "9007199254740993", "2.5", b"a", "a b "]
    wanted = ["3", "3", "3", "3", "-2", "007", "1_000", "1e3", "9007199254740993", "2.5", "a", "a b"]
    assert as_labels(tmp_path, told) == wanted


def test_lines_of_json_as_the_request_log_exports_them(tmp_path: Path) -> None:
    texts = Signature((TensorSpec("t", "BYTES", (-1,)), TensorSpec("x", "FP32", (3,))), ())
    lines = [
        '{"t": "one", "x": [1.0, null, 3.0]}',
        '{"t": ["two", {"base64": "/wA="}], "x": [4.0, 5.0, 6.0]}',
    ]
    (tmp_path / "a.jsonl").write_text("\ufeff" + "\n".join(lines))
    one, two = read_samples(tmp_path / "a.jsonl", texts, None).rows
    assert (one["t"].tolist(), two["t"].tolist()) == (["one"], ["two", b"\xff\x00"])
    assert np.array_equal(one["x"], np.array([1, np.nan, 3], np.float32), equal_nan=True)


def test_a_text_is_a_line_whatever_else_is_in_it(tmp_path: Path) -> None:
    one_text = Signature((TensorSpec("t", "BYTES", (1,)),), ())
    (tmp_path / "a.txt").write_bytes("one\u2028still one\x0c\x85\r\ntwo\n".encode())
    assert read_samples(tmp_path / "a.txt", one_text, None).texts == ["one\u2028still one\x0c\x85", "two"]
