"""The request's `parameters` and `outputs`: what they may hold, and the form of the answer that they ask for.

Sources: Triton's schedule policy, parameters, sequence, classification, shared memory and binary data extensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from forebay.api.classification import UNCLASSIFIABLE
from forebay.api.elements import kind, show
from forebay.core.errors import RequestError

MAX_INTEGER = (1 << 63) - 1
MAX_TIMEOUT_US = 1 << 53


class ReplyForm(NamedTuple):
    """How the caller wants the answer; it rides in `Request.wire` (None there: protocol v2, all JSON)."""

    shorthand: bool = False
    """Answer `{"output": {name: value}}` for one row."""
    binary: tuple[bool, ...] = ()
    """For each answered output in order, whether it goes out in binary form. Empty: none."""
    classes: tuple[int, ...] = ()
    """For each answered output in order, as how many classes it goes out; 0: as it is. Empty: all as they are."""


SHORTHAND: Final = ReplyForm(shorthand=True)
"""Always this object, so that it is known by identity."""


class Asked(NamedTuple):
    """One entry of the `outputs` member: the model's output by index, its own `binary_data` if given, its
    `classification` (0: none)."""

    output: int
    binary: bool | None = None
    classes: int = 0


class Options(NamedTuple):
    """What `parameters` said. `timeout_s` None: the model's default. `rest`: parameters that Forebay does not know."""

    priority: int = 0
    timeout_s: float | None = None
    explain: bool = False
    binary_data_output: bool = False
    rest: dict[str, Any] | None = None


NO_OPTIONS = Options()


def read_parameters(parameters: Mapping[str, Any]) -> Options:
    """The request's `parameters`. Raises `RequestError`: invalid_request, or unsupported for sequences."""
    priority, timeout_s, explain, binary = 0, None, False, False
    rest: dict[str, Any] | None = None
    for key, value in parameters.items():
        if key == "priority":
            priority = _integer(key, value, MAX_INTEGER)
        elif key == "timeout":
            timeout_s = _integer(key, value, MAX_TIMEOUT_US) / 1e6 or None
        elif key == "explain":
            explain = _boolean(key, value)
        elif key == "binary_data_output":
            binary = _boolean(key, value)
        else:
            _check_unknown(key, value)
            if rest is None:
                rest = {}
            rest[key] = value
    return Options(priority, timeout_s, explain, binary, rest)


def _check_unknown(key: str, value: Any) -> None:
    if key.startswith("sequence_"):
        raise RequestError(f"parameter {show(key)}: sequences are not supported", code="unsupported")
    if key.startswith("triton_") or key == "headers":
        raise RequestError(f"parameter {show(key)} is reserved by the protocol")
    if type(value) not in (str, int, float, bool):
        raise RequestError(f"parameter {show(key)} must be a string, number or boolean, got {kind(value)}")
    if type(value) is int and not -MAX_INTEGER - 1 <= value <= MAX_INTEGER:
        raise RequestError(f"parameter {show(key)} must fit in 64 bits, got {show(value)}")
    if type(value) is float and value - value != 0.0:
        raise RequestError(f"parameter {show(key)} must be finite, got {show(value)}")
    for text in (key, value):
        if isinstance(text, str):
            check_text(text, f"parameter {show(key)}")


def check_text(text: str, what: str) -> None:
    """Raises `RequestError` where `text` cannot be written as UTF-8 (it holds half of a surrogate pair)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RequestError(f"{what} is not Unicode text: {show(text)}") from None


def _integer(key: str, value: Any, most: int) -> int:
    if type(value) is not int:
        raise RequestError(f"parameter {show(key)} must be an integer, got {show(value)}")
    if not 0 <= value <= most:
        raise RequestError(f"parameter {show(key)} must be from 0 to {most}, got {show(value)}")
    return value


def _boolean(key: str, value: Any) -> bool:
    if type(value) is not bool:
        raise RequestError(f"parameter {show(key)} must be true or false, got {show(value)}")
    return value


def read_requested(outputs: Any, specs: Mapping[str, tuple[int, str]]) -> list[Asked]:
    """The `outputs` member, in the order asked. `specs`: the model's outputs by name, as index and datatype.

    Raises `RequestError`: invalid_request, or unsupported for shared memory.
    """
    if type(outputs) is not list:
        raise RequestError(f"outputs must be a list, got {kind(outputs)}")
    asked: list[Asked] = []
    for position, item in enumerate(outputs):
        where = f"outputs[{position}]"
        if type(item) is not dict:
            raise RequestError(f"{where} must be an object, got {kind(item)}")
        name = item.get("name")
        if type(name) is not str:
            raise RequestError(f"{where}: name must be a string, got {'nothing' if name is None else show(name)}")
        spec = specs.get(name)
        if spec is None:
            raise RequestError(f"{where}: the model has no output {show(name)}; it has {', '.join(specs)}")
        index, datatype = spec
        entry = _read_form(item.get("parameters"), where, index)
        if entry.classes and datatype in UNCLASSIFIABLE:
            raise RequestError(f"{where}: classification is not available for datatype {datatype}")
        asked.append(entry)
    return asked


def _read_form(parameters: Any, where: str, index: int) -> Asked:
    if parameters is None:
        return Asked(index)
    if type(parameters) is not dict:
        raise RequestError(f"{where}: parameters must be an object, got {kind(parameters)}")
    classes = parameters.get("classification", 0)
    if type(classes) is not int or classes < 0:
        raise RequestError(f"{where}: classification must be an integer of at least 0, got {show(classes)}")
    if any(key.startswith("shared_memory_") for key in parameters):
        raise RequestError(f"{where}: shared memory is not supported", code="unsupported")
    binary = parameters.get("binary_data")
    if binary is not None and type(binary) is not bool:
        raise RequestError(f"{where}: binary_data must be true or false, got {show(binary)}")
    return Asked(index, binary, classes)


def reply_form(asked: Sequence[Asked], binary_default: bool) -> tuple[tuple[int, ...], ReplyForm | None]:
    """(`Request.requested`, `Request.wire`). An output's own `binary_data` goes before the request's default.

    Raises `RequestError` where an output is asked for twice.
    """
    requested = tuple(entry.output for entry in asked)
    if len(set(requested)) != len(requested):
        raise RequestError("outputs names an output twice")
    binary = tuple(binary_default if entry.binary is None else entry.binary for entry in asked)
    classes = tuple(entry.classes for entry in asked)
    if not any(binary) and not any(classes):
        return requested, None
    return requested, ReplyForm(binary=binary, classes=classes if any(classes) else ())
