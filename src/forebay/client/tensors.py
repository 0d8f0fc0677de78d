"""From what a caller has (arrays, lists, text) to the protocol's tensors.

Arrays go as they are: their numpy type is their datatype. What has no type of its own (lists, numbers, text) takes the
datatype that the model's metadata names. Nothing is ever cast in silence, and never to a value out of range.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from forebay.client.errors import InvalidAnswerError
from forebay.client.options import Casting
from forebay.core.errors import RequestError
from forebay.core.tensors import NUMPY_TYPES, Array, bytes_array, datatype_of


class Spec(NamedTuple):
    """One input as the model's metadata has it; -1 in `shape` is a variable axis."""

    datatype: str
    shape: tuple[int, ...]


class Tensor(NamedTuple):
    """One input as it is sent. The array of a BYTES tensor is an object array of `bytes`."""

    name: str
    datatype: str
    array: Array


def read_specs(metadata: Mapping[str, Any]) -> dict[str, Spec]:
    """The inputs of a model's metadata; empty where it names none. Raises `InvalidAnswerError` for another form."""
    inputs = metadata.get("inputs") or []
    try:
        return {item["name"]: Spec(str(item["datatype"]), tuple(map(int, item["shape"]))) for item in inputs}
    except (TypeError, KeyError, ValueError):
        raise InvalidAnswerError("the model's metadata does not list its inputs as the protocol has it") from None


def needs_specs(inputs: Any, casting: Casting) -> bool:
    """Whether the model's metadata is needed: for an input without a name or a type of its own, or for casting."""
    if not isinstance(inputs, Mapping):
        return True
    return casting != "no" or not all(hasattr(value, "__array__") for value in inputs.values())


def make_tensors(inputs: Any, specs: Mapping[str, Spec] | None, casting: Casting) -> list[Tensor]:
    """The inputs of a call as tensors. `specs`: from the metadata, where `needs_specs`; empty: the server tells none.

    Raises `RequestError` that names the input and what is wrong.
    """
    if isinstance(inputs, Mapping):
        named = dict(inputs)
    else:
        if specs is None or len(specs) != 1:
            has = f"it has {', '.join(specs)}" if specs else "the server's metadata lists no inputs"
            raise RequestError(f"inputs must be given by name, as {{name: array}}, unless the model has one: {has}")
        named = {next(iter(specs)): inputs}
    return [_tensor(name, value, specs, casting) for name, value in named.items()]


def _tensor(name: Any, value: Any, specs: Mapping[str, Spec] | None, casting: Casting) -> Tensor:
    if not isinstance(name, str):
        raise RequestError(f"input names must be text, got {name!r}")
    if specs and name not in specs:
        raise RequestError(f"the model has no input {name!r}; it has {', '.join(specs)}")
    spec = specs[name] if specs else None
    if spec is not None and spec.datatype not in NUMPY_TYPES:
        raise RequestError(f"input {name!r}: numpy has no type for {spec.datatype}", code="unsupported")
    if hasattr(value, "__array__"):
        array = np.asarray(value)
        array = _texts(array, name) if array.dtype.kind in "OSUT" else array
        try:
            own = datatype_of(array)
        except ValueError as error:
            raise RequestError(f"input {name!r}: {error}") from None
        if spec is None or casting == "no" or own == spec.datatype:
            return Tensor(name, own, array)
        return Tensor(name, spec.datatype, _cast(array, name, own, spec.datatype, casting))
    if spec is None:
        raise RequestError(
            f"input {name!r}: a {type(value).__name__} has no datatype, and the server's metadata lists no inputs; "
            "give a numpy array"
        )
    return Tensor(name, spec.datatype, _typed(value, name, spec))


def _texts(array: Array, name: str) -> Array:
    """An array of text or bytes as one of `bytes`; text becomes UTF-8."""
    values: list[bytes] = []
    for index, value in enumerate(array.reshape(-1).tolist()):
        if isinstance(value, str):
            try:
                value = value.encode()
            except UnicodeEncodeError:
                raise RequestError(f"input {name!r}: element {index} is not Unicode text: {value!r}") from None
        elif not isinstance(value, bytes | bytearray | memoryview):
            raise RequestError(f"input {name!r}: element {index} must be bytes or text, got {type(value).__name__}")
        values.append(bytes(value))
    return bytes_array(values, array.shape)


def _typed(value: Any, name: str, spec: Spec) -> Array:
    """A number, a text or nested lists as an array of the model's datatype.

    A single value fills as many axes of length 1 as the input has. A list that lacks only a last axis of length 1 gets
    it: ["a", "b"] for a BYTES input of shape [-1, 1].
    """
    rank = len(spec.shape)
    try:
        loose = np.array(value, dtype=object) if spec.datatype == "BYTES" else np.array(value)
    except ValueError:
        raise RequestError(f"input {name!r}: its lists are not all of one length") from None
    if spec.datatype == "BYTES":
        array = _texts(loose, name)
    elif loose.size == 0:
        array = loose.astype(NUMPY_TYPES[spec.datatype])
    elif loose.dtype.kind not in "biuf":
        raise RequestError(f"input {name!r}: {_unfit(value)} does not fit datatype {spec.datatype}")
    else:
        array = _cast(loose, name, "a list's values", spec.datatype, "same_kind")
    if not isinstance(value, list | tuple):
        return array.reshape((1,) * rank)
    if array.ndim == rank - 1 and spec.shape[-1] == 1:
        return array[..., np.newaxis]
    return array


def _unfit(value: Any) -> str:
    """The first value that is no number, or one of more than 64 bits."""
    for item in np.array(value, dtype=object).reshape(-1).tolist():
        if not isinstance(item, int | float) or (isinstance(item, int) and not -(1 << 63) <= item < 1 << 64):
            return repr(item)[:60]
    return "what it holds, negative numbers beside some above 2^63,"


def _cast(array: Array, name: str, own: str, datatype: str, casting: Casting) -> Array:
    """Raises `RequestError` where the rule forbids it or a value would not survive."""
    target = NUMPY_TYPES[datatype]
    # To numpy signed to unsigned is no "same kind"; whether each value fits is checked below.
    integers = casting == "same_kind" and array.dtype.kind in "iu" and target.kind in "iu"
    if datatype == "BYTES" or array.dtype.kind == "O" or not (integers or np.can_cast(array.dtype, target, casting)):
        raise RequestError(
            f"input {name!r}: the model takes {datatype}, got {own} ({array.dtype}), which casting={casting!r} does "
            "not turn into it; convert it first"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(target)
    if target.kind in "iu":
        lost = cast != array
    else:
        lost = np.isinf(cast) & np.isfinite(array)
    if np.any(lost):
        worst = array.reshape(-1)[int(np.argmax(lost))]
        raise RequestError(f"input {name!r}: {worst} is out of range for {datatype}")
    return cast
