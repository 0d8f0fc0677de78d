"""Outputs to what is kept of them, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.unit.cache.made import ONE, request

from forebay.cache.entry import Entry, OutputForm, Shapes
from forebay.core.request import Outputs, Request, output_array
from forebay.core.tensors import Array
from forebay.models.signature import Signature, TensorSpec

SEVERAL = Signature(
    ONE.inputs, (TensorSpec("n", "FP32", (2,)), TensorSpec("t", "BYTES", (-1,)), TensorSpec("b", "BOOL", ()))
)

WHOLE = Signature(ONE.inputs, (TensorSpec("y", "INT64", (-1, 2)),), batched=False)


def answered(arrays: list[Array], rows: int = 1, start: int = 0, **more: Any) -> Request:
    """A request whose batch had these outputs."""
    made = request([b"12345678"], [(2,)], rows, **more)
    made.outputs, made.row_start = Outputs([], [], arrays, len(arrays[0])), start
    return made


def again(signature: Signature, asked: Request) -> Request:
    """Another request, answered with what was kept of the first."""
    form = OutputForm(signature)
    shapes, data, size_bytes = form.kept(asked)
    entry = Entry(b"k", ("m", "1"), "", (), asked.rows, shapes, data, size_bytes)
    other = request([b"12345678"], [(2,)], asked.rows)
    form.answer(entry, other)
    return other


@pytest.mark.parametrize("start", range(4))
def test_one_row_of_a_batch(start: int) -> None:
    batch = np.arange(8, dtype=np.float32).reshape(4, 2)
    asked = answered([batch.copy()], start=start)
    assert output_array(again(ONE, asked), 0, True).tolist() == [batch[start].tolist()]


def test_rows_of_different_batches() -> None:
    form = OutputForm(ONE)
    kept = []
    for number in range(3):
        batch = np.full((2, 2), number, np.float32)
        kept += [form.kept(answered([batch], start=0))[1], form.kept(answered([batch], start=1))[1]]
    assert [np.frombuffer(bytes(data), np.float32)[0] for data in kept] == [0, 0, 1, 1, 2, 2]  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [1, 2])
def test_outputs_are_kept_apart_from_their_batch(rows: int) -> None:
    batch = np.arange(12, dtype=np.float32).reshape(6, 2)
    asked = answered([batch], rows, 3)
    form = OutputForm(ONE)
    shapes, data, size_bytes = form.kept(asked)
    batch[:] = 0
    assert (shapes, size_bytes) == (((rows, 2),), 8 * rows)
    assert np.frombuffer(data, np.float32).tolist() == list(map(float, range(6, 6 + 2 * rows)))  # type: ignore[arg-type]


def test_several_outputs_of_every_kind() -> None:
    texts = np.array([[b"a", b""], [b"\xff\x00", b"long" * 100]], object)
    arrays: list[Array] = [np.array([[1, -0.0], [np.nan, 2]], np.float32), texts, np.array([True, False])]
    other = again(SEVERAL, answered(arrays, 2))
    assert other.outputs is not None
    assert [array.tobytes() for array in other.outputs.arrays[::2]] == [array.tobytes() for array in arrays[::2]]
    assert other.outputs.arrays[1].tolist() == texts.tolist()


def test_of_outputs_only_those_that_were_asked_for_are_kept() -> None:
    arrays: list[Array] = [np.ones((1, 2), np.float32), np.array([[b"x"]], object), np.array([True])]
    shapes, data, size_bytes = OutputForm(SEVERAL).kept(answered(arrays, requested=(2,)))
    assert shapes == ((0,), (0,), (1,))
    assert (data, size_bytes) == ((b"", b"", b"\x01"), 1)


def test_a_model_without_batches() -> None:
    array = np.arange(6).reshape(3, 2)
    other = again(WHOLE, answered([array]))
    assert output_array(other, 0, False).tolist() == array.tolist()


def test_an_output_of_another_type_than_the_signature_says_is_not_cut_by_bytes() -> None:
    batch = np.arange(8, dtype=np.float64).reshape(4, 2)
    shapes, data, _ = OutputForm(ONE).kept(answered([batch], start=1))
    assert np.frombuffer(data, np.float64).tolist() == [2.0, 3.0]  # type: ignore[arg-type]
    assert shapes == ((1, 2),)


def test_texts_count_with_their_lengths() -> None:
    texts: list[Array] = [np.array([[b"x" * 1000]], object)]
    form = OutputForm(Signature(ONE.inputs, (TensorSpec("t", "BYTES", (1,)),)))
    assert form.kept(answered(texts))[2] == 1004


def test_an_answer_leaves_nothing_in_its_entry() -> None:
    form = OutputForm(ONE)
    entry = Entry(b"k", ("m", "1"), "", (), 1, *form.kept(answered([np.ones((1, 2), np.float32)])))
    first, second = request([b"12345678"], [(2,)]), request([b"12345678"], [(2,)])
    form.answer(entry, first)
    form.answer(entry, second)
    assert first.outputs is not second.outputs
    assert first.outputs is not None
    assert not first.outputs.arrays[0].flags.writeable


def kept_of_several(shapes: Shapes, data: tuple[bytes, ...], rows: int = 2) -> Entry:
    return Entry(b"k", ("m", "1"), "", (), rows, shapes, data, 0)


SHAPES: Shapes = ((2, 2), (2, 1), (2,))
TEXTS = b"\x01\0\0\0a\0\0\0\0"
DATA = (bytes(16), TEXTS, b"\0\1")


def test_what_comes_from_elsewhere_fits_where_it_can_be_given() -> None:
    form, asked = OutputForm(SEVERAL), request([b"12345678"], [(2,)], 2)
    assert form.fits(kept_of_several(SHAPES, DATA), asked)
    assert OutputForm(WHOLE).fits(Entry(b"k", ("m", "1"), "", (), 2, ((3, 2),), bytes(48), 0), asked)
    assert form.fits(kept_of_several(((0,), (0,), (2,)), (b"", b"", b"\0\1")), requested(asked, 2))


@pytest.mark.parametrize(
    ("shapes", "data", "rows"),
    [
        (SHAPES[:2], DATA[:2], 2),
        ((*SHAPES, (2,)), (*DATA, b"\0\1"), 2),
        (SHAPES, DATA, 1),
        (((2, 3), *SHAPES[1:]), DATA, 2),
        (((4,), *SHAPES[1:]), DATA, 2),
        (((2, 1, 2), *SHAPES[1:]), DATA, 2),
        (((2, 0), *SHAPES[1:]), (b"", *DATA[1:]), 2),
        ((SHAPES[0], SHAPES[1], (2, 1)), DATA, 2),
        (((-1, 2), *SHAPES[1:]), DATA, 2),
        (((2, 1 << 70), *SHAPES[1:]), DATA, 2),
        (SHAPES, (bytes(15), *DATA[1:]), 2),
        (SHAPES, (DATA[0], TEXTS[:-1], DATA[2]), 2),
        (SHAPES, (DATA[0], TEXTS + bytes(4), DATA[2]), 2),
        (((0,), *SHAPES[1:]), (b"", *DATA[1:]), 2),
    ],
)
def test_what_comes_from_elsewhere_and_cannot_be_given_does_not_fit(
    shapes: Shapes, data: tuple[bytes, ...], rows: int
) -> None:
    assert not OutputForm(SEVERAL).fits(kept_of_several(shapes, data, rows), request([b"12345678"], [(2,)], 2))


@pytest.mark.parametrize("compute_s", [float("nan"), float("inf"), -1.0])
def test_what_cannot_have_been_the_time_that_it_took_does_not_fit(compute_s: float) -> None:
    entry = kept_of_several(SHAPES, DATA)
    entry.compute_s = compute_s
    assert not OutputForm(SEVERAL).fits(entry, request([b"12345678"], [(2,)], 2))


def test_an_output_that_was_not_asked_for_is_empty() -> None:
    asked = requested(request([b"12345678"], [(2,)], 2), 1, 2)
    assert not OutputForm(SEVERAL).fits(kept_of_several(SHAPES, DATA), asked)


def requested(asked: Request, *outputs: int) -> Request:
    asked.requested = outputs
    return asked
