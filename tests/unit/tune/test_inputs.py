"""What is sent: rows of one's own in any of three forms, examples, zeros, made-up ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forebay.bench.bodies import ModelMetadata, TensorMetadata
from forebay.core.errors import SetupError
from forebay.models.source import open_source
from forebay.tune.inputs import DIFFERENT, Tokenizer, build, read_rows, rows_of

NUMBERS = ModelMetadata("m", [TensorMetadata("x", "FP32", [-1, 2])])
TEXTS = ModelMetadata("m", [TensorMetadata("text", "BYTES", [-1, 1])])
TOKENS = ModelMetadata("m", [TensorMetadata("ids", "INT64", [-1, -1])])


def sent(request: bytes) -> Any:
    return json.loads(request.partition(b"\r\n\r\n")[2])["inputs"]


def test_rows_of_a_json_lines_file_become_requests(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"x": [1, 2.5]}\n\n{"x": [[3, 4]]}\n')
    found = build(NUMBERS, read_rows(file), "rows")
    assert [sent(request)[0]["data"] for request in found.requests] == [[1, 2.5], [3, 4]]
    assert sent(found.requests[0])[0]["shape"] == [1, 2]
    assert found.lengths == (0, 0)


def test_arrays_of_an_npz_file_are_rows_along_their_first_axis(tmp_path: Path) -> None:
    file = tmp_path / "rows.npz"
    np.savez(file, x=np.arange(6, dtype=np.float32).reshape(3, 2))
    found = build(NUMBERS, read_rows(file), "rows")
    assert [sent(request)[0]["data"] for request in found.requests] == [[0, 1], [2, 3], [4, 5]]


def test_lines_of_a_text_file_are_the_one_input_and_their_bytes_are_the_length(tmp_path: Path) -> None:
    file = tmp_path / "rows.txt"
    file.write_text("a line\nzwölf\n", "utf-8")
    found = build(TEXTS, read_rows(file), "rows")
    assert [sent(request)[0]["data"] for request in found.requests] == [["a line"], ["zwölf"]]
    assert found.lengths == (6, 6)


def test_made_up_rows_differ_and_have_lengths_where_the_model_has() -> None:
    found = build(TOKENS, None, "made-up inputs")
    assert len(found.requests) == DIFFERENT
    assert len(set(found.requests)) > 0.9 * DIFFERENT
    assert len(set(found.lengths)) > 10
    assert [sent(request)[0]["shape"] for request in found.requests] == [[1, length] for length in found.lengths]


def test_zeros_are_zeros() -> None:
    assert sent(build(NUMBERS, None, "zeros").requests[0])[0]["data"] == [0, 0]
    assert sent(build(TEXTS, None, "zeros").requests[0])[0]["data"] == [""]


def test_a_timeout_goes_out_in_microseconds() -> None:
    (request,) = build(NUMBERS, [{"x": [1, 2]}], "rows", timeout_ms=50.0).requests
    assert json.loads(request.partition(b"\r\n\r\n")[2])["parameters"]["timeout"] == 50_000


@pytest.mark.parametrize(
    ("row", "message"),
    [({"y": [1, 2]}, "has no 'x'; it has y"), ({"x": [1, 2, 3]}, "does not fit"), ({"x": "words"}, "does not fit")],
)
def test_a_row_that_does_not_fit_is_an_error_that_names_it(row: dict[str, Any], message: str) -> None:
    with pytest.raises(SetupError, match=message) as caught:
        build(NUMBERS, [{"x": [1, 2]}, row], "rows")
    assert "row 2" in caught.value.message


def word_tokenizer(folder: Path, most: int = 8) -> Tokenizer:
    """Words as numbers."""
    from tokenizers import Tokenizer as Library
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    library = Library(WordLevel({"[UNK]": 0, "one": 1, "two": 2, "three": 3}, "[UNK]"))
    library.pre_tokenizer = Whitespace()
    library.save(str(folder / "tokenizer.json"))
    return Tokenizer(str(folder / "tokenizer.json"), most)


BERT = ModelMetadata(
    "m", [TensorMetadata("input_ids", "INT64", [-1, -1]), TensorMetadata("attention_mask", "INT64", [-1, -1])]
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "one two\n\nthree\n"),
        ("a.csv", 'text,label\n"one two",x\nthree,y\n'),
        ("a.jsonl", '{"text": "one two", "label": 0}\n{"text": "three", "label": 1}\n'),
    ],
)
def test_texts_become_tokens_where_the_model_takes_those(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    rows = read_rows(tmp_path / name)
    found = build(BERT, rows, name, tokenizer=word_tokenizer(tmp_path))
    assert [[tensor["data"] for tensor in sent(request)] for request in found.requests] == [
        [[1, 2], [1, 1]],
        [[3], [1]],
    ]
    assert found.lengths == (2, 1)
    assert [sent(r)[0]["data"] for r in build(TEXTS, rows, name, tokenizer=word_tokenizer(tmp_path)).requests] == [
        ["one two"],
        ["three"],
    ]
    with pytest.raises(SetupError, match="--tokenizer"):
        build(BERT, rows, name)


def test_a_text_is_cut_and_padding_of_an_array_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one two three\n")
    (request,) = build(BERT, read_rows(tmp_path / "a.txt"), "a", tokenizer=word_tokenizer(tmp_path, 2)).requests
    assert sent(request)[0]["data"] == [1, 2]
    np.savez(tmp_path / "a.npz", input_ids=[[5, 6, 0], [7, 8, 9]], attention_mask=[[1, 1, 0], [1, 1, 1]], labels=[0, 1])
    found = build(BERT, read_rows(tmp_path / "a.npz"), "a")
    assert [sent(request)[0]["data"] for request in found.requests] == [[5, 6], [7, 8, 9]]


def test_a_table_of_numbers_is_the_one_input(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("first,label,second\n1,9,2.5\n3,9,4\n")
    found = build(NUMBERS, read_rows(tmp_path / "a.csv"), "rows")
    assert [sent(request)[0]["data"] for request in found.requests] == [[1, 2.5], [3, 4]]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "one,two\n1,many"),
        ("a.csv", "one,two\n1,2\n3"),
        ("a.dat", "1,2"),
        ("a.jsonl", "[1]"),
        ("a.jsonl", ""),
        ("a.npz", "x"),
    ],
)
def test_a_file_of_another_form_is_an_error_that_names_it(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(SetupError, match=name):
        read_rows(tmp_path / name)


def test_examples_of_a_model_are_used_where_there_are_some_and_asked_for_in_vain_otherwise(tmp_path: Path) -> None:
    (tmp_path / "with_some.py").write_text(
        "import forebay\nclass A(forebay.Model):\n    def examples(self):\n        return [{'x': [1, 2]}]\n"
    )
    (tmp_path / "without.py").write_text("import forebay\nclass B(forebay.Model):\n    pass\n")
    some, none = open_source(f"{tmp_path}/with_some.py:A"), open_source(f"{tmp_path}/without.py:B")
    assert rows_of(None, some) == ([{"x": [1, 2]}], "the model's examples")
    assert rows_of("zeros", some) == (None, "zeros")
    assert rows_of(None, none) == (None, "made-up inputs")
    with pytest.raises(SetupError, match="has no examples"):
        rows_of("examples", none)


def test_rows_that_a_table_had_to_fill_up_are_sent_as_they_were(tmp_path: Path) -> None:
    ragged = [np.arange(count, dtype=np.int64) for count in (2, 5, 3)]
    filled = np.zeros((3, 5), np.int64)
    for row, values in zip(filled, ragged, strict=True):
        row[: len(values)] = values
    np.savez(tmp_path / "A.NPZ.npz", allow_pickle=False, **{"ids": filled, "_shape.ids": np.array([[2], [5], [3]])})
    (tmp_path / "A.NPZ.npz").rename(tmp_path / "A.NPZ")
    assert [len(row["ids"]) for row in read_rows(tmp_path / "A.NPZ")] == [2, 5, 3]
