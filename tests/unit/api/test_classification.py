"""The classification extension: `value:index[:label]`, best first, a list a row."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.api.test_encode import ONE, WHOLE, finished

from forebay.api.classification import classify
from forebay.api.encode import AnswerEncoder
from forebay.api.parameters import ReplyForm
from forebay.core.request import Request
from forebay.core.tensors import Array, unpack_bytes


def best(values: Any, count: int, *labels: str, dtype: Any = np.float32) -> list[str]:
    return classify(np.array([values], dtype=dtype), count, labels)


def test_the_examples_of_the_specification() -> None:
    assert best([1, 5, 10, 4], 2, dtype=np.int32) == ["10:2", "5:1"]
    assert best([1, 5, 10, 4], 2, "pear", "pickle", "apple", dtype=np.uint8) == ["10:2:apple", "5:1:pickle"]
    assert best([1.1, 3.3, 0.5, 2.4], 2) == ["3.3:1", "2.4:3"]


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint8, np.uint64, np.float16, np.float32, np.float64])
def test_every_numeric_datatype_is_compared_as_itself(dtype: Any) -> None:
    assert best([0, 2, 1], 3, dtype=dtype)[0].endswith(":1")
    info = np.finfo(dtype) if np.issubdtype(dtype, np.floating) else np.iinfo(dtype)
    order = [text.split(":")[1] for text in best([info.min, info.max, 0 if info.min else 1], 3, dtype=dtype)]
    assert order == ["1", "2", "0"]


def test_equal_values_keep_their_order_and_nan_is_last() -> None:
    assert best([1, 1, 1], 3) == ["1.0:0", "1.0:1", "1.0:2"]
    assert [text.split(":")[1] for text in best([math.nan, -1, math.inf, 2], 4)] == ["2", "3", "1", "0"]
    assert best([math.nan, 1], 1) == ["1.0:1"]


def test_a_class_without_a_label_has_none() -> None:
    assert best([3, 2, 1], 3, "a", "") == ["3.0:0:a", "2.0:1", "1.0:2"]


@given(
    rows=st.integers(1, 4).flatmap(
        lambda width: st.lists(st.lists(st.integers(-3, 3), min_size=width * 9, max_size=width * 9), max_size=3)
    ),
    count=st.integers(1, 40),
)
def test_any_count_is_the_head_of_the_full_order(rows: list[list[int]], count: int) -> None:
    array = np.array(rows, dtype=np.int16).reshape(len(rows), len(rows[0]) if rows else 9)
    count = min(count, array.shape[1])
    wanted = []
    for row in rows:
        order = sorted(range(len(row)), key=lambda index: (-row[index], index))
        wanted += [f"{row[index]}:{index}" for index in order[:count]]
    assert classify(array, count, ()) == wanted


def answered(request: Request, signature: Any = ONE, labels: tuple[str, ...] = ()) -> tuple[dict[bytes, bytes], bytes]:
    headers, body = AnswerEncoder("m", "1", signature, labels).encode(request)
    return dict(headers), body


def batch() -> Array:
    return np.array([[9, 9], [1, 2], [4, 3], [7, 7]], np.float32)


def test_each_row_of_a_batch_is_classified() -> None:
    form = ReplyForm(binary=(False,), classes=(1,))
    _, body = answered(finished(ONE, [batch()], 2, 1, requested=(0,), wire=form), labels=("no", "yes"))
    (output,) = json.loads(body)["outputs"]
    assert output == {"name": "y", "datatype": "BYTES", "shape": [2, 1], "data": ["2.0:1:yes", "4.0:0:no"]}


def test_more_classes_than_there_are_means_all() -> None:
    form = ReplyForm(binary=(False,), classes=(99,))
    _, body = answered(finished(ONE, [batch()], 1, 1, requested=(0,), wire=form))
    (output,) = json.loads(body)["outputs"]
    assert (output["shape"], output["data"]) == ([1, 2], ["2.0:1", "1.0:0"])


def test_classes_leave_in_binary_form_where_asked() -> None:
    form = ReplyForm(binary=(True,), classes=(2,))
    headers, body = answered(finished(ONE, [batch()], 2, 1, requested=(0,), wire=form), labels=("z\u00fc",))
    cut = int(headers[b"inference-header-content-length"])
    (output,) = json.loads(body[:cut])["outputs"]
    assert output["shape"] == [2, 2]
    assert output["parameters"]["binary_data_size"] == len(body) - cut
    assert [text.decode() for text in unpack_bytes(body[cut:], 4)] == ["2.0:1", "1.0:0:zü", "4.0:0:zü", "3.0:1"]


def test_without_a_batch_axis_the_whole_tensor_is_one_row() -> None:
    form = ReplyForm(binary=(False,), classes=(2,))
    _, body = answered(finished(WHOLE, [batch()], 1, requested=(0,), wire=form), WHOLE)
    (output,) = json.loads(body)["outputs"]
    assert (output["shape"], output["data"]) == ([2], ["9.0:0", "9.0:1"])


def test_no_rows_and_no_elements() -> None:
    form = ReplyForm(binary=(False,), classes=(2,))
    _, body = answered(finished(ONE, [batch()], 0, requested=(0,), wire=form))
    assert json.loads(body)["outputs"][0]["shape"] == [0, 2]
    _, body = answered(finished(WHOLE, [np.zeros((0, 2), np.float32)], 1, requested=(0,), wire=form), WHOLE)
    assert json.loads(body)["outputs"][0] == {"name": "y", "datatype": "BYTES", "shape": [0], "data": []}
