"""What a caller may give as an input, and that nothing changes in silence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from forebay.client.errors import InvalidAnswerError
from forebay.client.options import Casting
from forebay.client.tensors import Spec, make_tensors, needs_specs, read_specs
from forebay.core.errors import RequestError
from forebay.core.tensors import NUMPY_TYPES


def one(value: Any, spec: Spec | None = None, casting: Casting = "no") -> Any:
    (tensor,) = make_tensors({"x": value}, None if spec is None else {"x": spec}, casting)
    return tensor


@pytest.mark.parametrize("datatype", NUMPY_TYPES)
def test_an_arrays_own_type_is_its_datatype(datatype: str) -> None:
    array = np.array([b"a"] if datatype == "BYTES" else [1], dtype=NUMPY_TYPES[datatype])
    assert one(array).datatype == datatype


def test_arrays_need_no_metadata_and_anything_else_does() -> None:
    array = np.zeros(3)
    assert not needs_specs({"x": array, "z": np.float32(1)}, "no")
    assert needs_specs({"x": array}, "safe")
    assert needs_specs(array, "no")
    assert needs_specs({"x": [1.0]}, "no")
    assert needs_specs({"x": "text"}, "no")


def test_an_array_is_never_cast_unless_that_is_asked_for() -> None:
    spec = Spec("FP32", (-1,))
    assert one(np.zeros(2, "f8"), spec).datatype == "FP64"
    cast = one(np.array([1.5, np.nan, np.inf]), spec, "same_kind")
    assert cast.datatype == "FP32"
    assert cast.array.dtype == np.float32
    np.testing.assert_array_equal(cast.array, [1.5, np.nan, np.inf])


@pytest.mark.parametrize(
    ("array", "datatype", "casting"),
    [
        (np.zeros(1, "f8"), "FP32", "safe"),
        (np.zeros(1, "i8"), "INT32", "safe"),
        (np.zeros(1, "f4"), "INT32", "same_kind"),
        (np.zeros(1, "i4"), "BOOL", "same_kind"),
        (np.zeros(1, "f4"), "BYTES", "same_kind"),
        (np.array([b"1"]), "INT32", "same_kind"),
    ],
)
def test_a_cast_beyond_the_rule_is_refused(array: Any, datatype: str, casting: Casting) -> None:
    with pytest.raises(RequestError, match=f"'x'.*{datatype}.*convert it first"):
        one(array, Spec(datatype, (-1,)), casting)


@pytest.mark.parametrize(
    ("value", "datatype"),
    [
        (np.array([1, 300]), "UINT8"),
        (np.array([-1]), "UINT64"),
        (np.array([2**63], "u8"), "INT64"),
        (np.array([1e39]), "FP32"),
        (np.array([70000.0], "f4"), "FP16"),
        ([300], "UINT8"),
        ([-1], "UINT32"),
        ([1e39], "FP32"),
        ([[1.5]], "INT64"),
        ([2**70], "INT64"),
        ([2], "BOOL"),
        (["a"], "FP32"),
        ([None], "FP32"),
    ],
)
def test_no_value_is_changed_to_fit(value: Any, datatype: str) -> None:
    with pytest.raises(RequestError, match=r"'x'"):
        one(value, Spec(datatype, (-1,)), "same_kind")


def test_a_cast_that_loses_nothing_is_safe() -> None:
    cast = one(np.array([1, 2], "i4"), Spec("FP64", (-1,)), "safe")
    assert (cast.datatype, cast.array.tolist()) == ("FP64", [1.0, 2.0])
    assert one(np.array([0, 255]), Spec("UINT8", (-1,)), "same_kind").array.tolist() == [0, 255]


@pytest.mark.parametrize(
    ("value", "spec", "wanted", "shape"),
    [
        ([1, 2], Spec("FP32", (-1,)), [1.0, 2.0], (2,)),
        ([[1, 2], [3, 4]], Spec("INT64", (-1, 2)), [[1, 2], [3, 4]], (2, 2)),
        ([True, False], Spec("BOOL", (-1,)), [True, False], (2,)),
        (3, Spec("INT32", (-1, 1)), [[3]], (1, 1)),
        (3, Spec("INT32", ()), 3, ()),
        ([3, 4], Spec("INT32", (-1, 1)), [[3], [4]], (2, 1)),
        ([], Spec("INT32", (-1,)), [], (0,)),
        ([[]], Spec("FP16", (-1, -1)), [[]], (1, 0)),
        ("h\u00e9", Spec("BYTES", (-1, 1)), [["h\u00e9".encode()]], (1, 1)),
        (b"\x00a\x00", Spec("BYTES", (-1, 1)), [[b"\x00a\x00"]], (1, 1)),
        (["a", b"b\x00"], Spec("BYTES", (-1, 1)), [[b"a"], [b"b\x00"]], (2, 1)),
        ([["a"], ["bc"]], Spec("BYTES", (-1, 1)), [[b"a"], [b"bc"]], (2, 1)),
        ([2**63], Spec("UINT64", (-1,)), [2**63], (1,)),
        ((1.0, float("nan")), Spec("FP64", (-1,)), [1.0, float("nan")], (2,)),
    ],
)
def test_lists_numbers_and_text_take_the_models_datatype(
    value: Any, spec: Spec, wanted: Any, shape: tuple[int, ...]
) -> None:
    tensor = one(value, spec)
    assert tensor.datatype == spec.datatype
    assert tensor.array.dtype == NUMPY_TYPES[spec.datatype]
    assert tensor.array.shape == shape
    np.testing.assert_equal(tensor.array.tolist(), wanted)


def test_text_arrays_become_bytes_whatever_numpy_calls_them() -> None:
    for array in (np.array(["a", "\u00e9"]), np.array([b"a", "\u00e9".encode()]), np.array(["a", "\u00e9"], dtype="T")):
        tensor = one(array)
        assert (tensor.datatype, tensor.array.tolist()) == ("BYTES", [b"a", "\u00e9".encode()])


@pytest.mark.parametrize("value", [None, 3, 1.5, ["a"]])
def test_what_is_no_text_is_not_made_text(value: Any) -> None:
    array = np.empty(1, dtype=object)
    array[0] = value
    with pytest.raises(RequestError, match="element 0 must be bytes or text"):
        one(array)


def test_big_endian_and_strided_arrays_are_taken() -> None:
    assert one(np.arange(3, dtype=">f4")).datatype == "FP32"
    assert one(np.arange(6, dtype="f4")[::2]).array.tolist() == [0, 2, 4]


@pytest.mark.parametrize("dtype", ["complex64", "datetime64[s]", "longdouble"])
def test_a_numpy_type_without_a_datatype_is_refused(dtype: str) -> None:
    with pytest.raises(RequestError, match=r"'x'.*has no datatype"):
        one(np.zeros(1, dtype))


def test_one_array_is_enough_for_a_model_of_one_input() -> None:
    specs = {"x": Spec("FP32", (-1,))}
    assert make_tensors(np.zeros(2, "f4"), specs, "no")[0].name == "x"
    with pytest.raises(RequestError, match="unless the model has one: it has a, b"):
        make_tensors(np.zeros(2), {"a": specs["x"], "b": specs["x"]}, "no")
    with pytest.raises(RequestError, match="metadata lists no inputs"):
        make_tensors(np.zeros(2), {}, "no")


def test_mistakes_are_named() -> None:
    specs = {"x": Spec("FP32", (-1, 2)), "z": Spec("BF16", (-1,))}
    for inputs, text in (
        ({"y": [1.0]}, "no input 'y'; it has x, z"),
        ({"x": [[1.0], [1.0, 2.0]]}, "not all of one length"),
        ({"z": [1.0]}, "no type for BF16"),
        ({7: [1.0]}, "names must be text"),
    ):
        with pytest.raises(RequestError, match=text):
            make_tensors(inputs, specs, "no")
    with pytest.raises(RequestError, match="give a numpy array"):
        make_tensors({"x": [1.0]}, {}, "no")


def test_metadata_in_another_form_is_the_servers_fault() -> None:
    assert read_specs({}) == {}
    assert read_specs({"inputs": None}) == {}
    for wrong in ([{"name": "x"}], [3], {"x": 1}, [{"name": "x", "datatype": "FP32", "shape": ["a"]}]):
        with pytest.raises(InvalidAnswerError):
            read_specs({"inputs": wrong})
