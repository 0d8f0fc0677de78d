"""What a model does not take is refused in its own request, with the place at which it stands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from forebay.core.errors import RequestError
from forebay.core.request import Payload, Request
from forebay.engine.finite import finite_check
from forebay.models.signature import Signature, TensorSpec

WORDS = TensorSpec("words", "BYTES", ())


def request(payload: Payload, shape: tuple[int, ...] = (3,), rows: int = 2) -> Request:
    inputs, shapes = [b"", payload], ((), shape)
    return Request(inputs, shapes, rows, nbytes=0, deadline=0.0, arrived=0.0, on_done=lambda _: None)


def check(payload: Payload, *refuses: str, batched: bool = True) -> None:
    found = finite_check(Signature((WORDS, TensorSpec("x", "FP32", (3,), refuses)), (), batched))
    assert found is not None
    found(request(payload) if batched else request(payload, (2, 3), 1))


def forms(values: list[float]) -> list[Any]:
    return [values, np.array(values, "<f4").tobytes(), memoryview(bytearray(np.array(values, "<f4").tobytes()))]


@pytest.mark.parametrize("form", [0, 1, 2])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize(
    ("value", "called"), [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite")], ids=["nan", "inf", "-inf"]
)
def test_the_value_is_named_by_input_row_and_column(form: int, batched: bool, value: float, called: str) -> None:
    with pytest.raises(RequestError) as caught:
        check(forms([0.0, 1.0, 2.0, 3.0, float(value), 5.0])[form], "nan", "inf", batched=batched)
    assert caught.value.code == "invalid_request"
    assert caught.value.message == f"input 'x': the value at [1, 1] is {called}, which this model does not take"


@pytest.mark.parametrize("form", [0, 1, 2])
def test_what_the_model_takes_passes(form: int) -> None:
    check(forms([3e38] * 6)[form], "nan", "inf")
    check(forms([0.0, float("nan"), 2.0, 3.0, 4.0, 5.0])[form], "inf")
    check(forms([0.0, float("inf"), 2.0, 3.0, 4.0, 5.0])[form], "nan")
    check(forms([])[form], "nan", "inf")


def test_numbers_whose_sum_is_too_large_are_finite() -> None:
    found = finite_check(Signature((WORDS, TensorSpec("x", "FP64", (3,), ("nan", "inf"))), ()))
    assert found is not None
    found(request([1.7e308] * 6))


def test_a_model_that_refuses_nothing_has_no_check() -> None:
    assert finite_check(Signature((WORDS, TensorSpec("x", "FP32", (3,))), ())) is None
