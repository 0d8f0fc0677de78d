"""Requests with NaN or infinities for a model that takes none are refused by themselves, before they share a batch."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite

import numpy as np

from forebay.core.errors import RequestError
from forebay.core.request import Payload, Request, payload_array
from forebay.core.tensors import NUMPY_TYPES
from forebay.models.signature import Signature, TensorSpec


def finite_check(signature: Signature) -> Callable[[Request], None] | None:
    """What raises `RequestError` for a request with a value that the model refuses; None where it refuses none."""
    watched = [(place, spec) for place, spec in enumerate(signature.inputs) if spec.refuses]
    if not watched:
        return None

    def check(request: Request) -> None:
        for place, spec in watched:
            payload = request.inputs[place]
            if not _finite(payload, spec):
                shape = request.shapes[place]
                _refuse(payload, spec, (request.rows, *shape) if signature.batched else shape)

    return check


def _finite(payload: Payload, spec: TensorSpec) -> bool:
    """Whether a quick look settles it: a sum is finite where all of it is, but for one that is too large."""
    if isinstance(payload, list):
        return isfinite(sum(payload))
    return bool(np.isfinite(np.frombuffer(payload, NUMPY_TYPES[spec.datatype])).all())


def _refuse(payload: Payload, spec: TensorSpec, shape: tuple[int, ...]) -> None:
    array = payload_array(payload, spec.datatype, shape)
    for value, found in (("nan", np.isnan(array)), ("inf", np.isinf(array))):
        if value in spec.refuses and found.any():
            place = [int(axis) for axis in np.argwhere(found)[0]]
            called = "NaN" if value == "nan" else "infinite"
            raise RequestError(f"input {spec.name!r}: the value at {place} is {called}, which this model does not take")
