"""The user's function that says what of a row may be written.

It gets a dict with `inputs`, `outputs` and `parameters`, each a dict by name, and returns such a dict, or None to drop
the row. A text is a `str` (`bytes` where it is not UTF-8), other BYTES are arrays of these, numbers are arrays. What it
does not return is not written. Whatever goes wrong, the row is not written either, and no error tells of its values.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from forebay.core.errors import SetupError
from forebay.core.tensors import Array
from forebay.models.references import module_of
from forebay.request_log.row import Row

Redact = Callable[[dict[str, Any]], Any]
_PARTS: Final = ("inputs", "outputs", "parameters")


class RedactionError(Exception):
    """The function raised, or returned what cannot be written. The text holds nothing of the row."""


def load_redaction(model: str, text: str) -> Redact:
    """The function that FILE.py:NAME or MODULE:NAME names. Raises `SetupError`."""
    where, _, name = text.rpartition(":")
    try:
        module = module_of(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    except SyntaxError as error:
        raise refused(model, text, f"it has a syntax error at line {error.lineno}", "mend it") from None
    except (Exception, SystemExit) as error:
        raise refused(
            model, text, f"{where} cannot be imported: {type(error).__name__}: {error}", "name a file, or a module"
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        has = "has no function" if found is None else "has something else than a function called"
        raise refused(model, text, f"{where} {has} {name}", f"write def {name}(row): ... in it")
    redact: Redact = found
    return redact


def refused(model: str, text: str, why: str, mend: str) -> SetupError:
    """The error for a function that cannot be had."""
    return SetupError(f"model {model}: request_log_redact cannot be {text!r}: {why}; {mend} (docs/request-log.md)")


def redacted(redact: Redact, row: Row) -> Row | None:
    """What may be written of a row; None: nothing. The row's own arrays are left as they are.

    Raises `RedactionError`.
    """
    shown = {
        "inputs": {name: _shown(array) for name, array in row.inputs.items()},
        "outputs": {name: _shown(array) for name, array in row.outputs.items()},
        "parameters": msgspec.json.decode(msgspec.json.encode(row.parameters)) if row.parameters else {},
    }
    try:
        found = redact(shown)
    except BaseException as error:  # sys.exit() would end the process that writes
        raise RedactionError(f"it raised {type(error).__name__}{_place(error)}") from None
    if found is None:
        return None
    if not isinstance(found, Mapping) or found.keys() - set(_PARTS):
        raise RedactionError("it returned something else than None or a dict of inputs, outputs, parameters")
    parameters = found.get("parameters", {})
    try:
        parameters = msgspec.to_builtins(dict(parameters))
        msgspec.json.encode(parameters)
    except Exception:
        raise RedactionError("the parameters that it returned are no JSON") from None
    inputs, outputs = (
        _taken(part, original, found.get(part, {}))
        for part, original in (("inputs", row.inputs), ("outputs", row.outputs))
    )
    return Row(row.at, inputs, outputs, parameters)


def _place(error: BaseException) -> str:
    """Where in the user's file; never what was said there, which may be the value itself."""
    trace = error.__traceback__
    last = trace.tb_next if trace is not None else None
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return "" if last is None else f" at {Path(last.tb_frame.f_code.co_filename).name}:{last.tb_lineno}"


def _shown(array: Array) -> Any:
    """A value as the function gets it: a copy."""
    if array.dtype != object:
        return array.copy()
    texts = [_text(value) for value in array.reshape(-1).tolist()]
    if len(texts) == 1:
        return texts[0]
    found = np.empty(len(texts), dtype=object)
    found[:] = texts
    return found.reshape(array.shape)


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _taken(part: str, original: Mapping[str, Array], returned: Any) -> dict[str, Array]:
    if not isinstance(returned, Mapping):
        raise RedactionError(f"its {part} are no dict")
    if returned.keys() - original.keys():
        raise RedactionError(f"its {part} have names that the row has not")
    # In the order of the row, since others may depend on it.
    return {name: _as_array(part, name, array, returned[name]) for name, array in original.items() if name in returned}


def _as_array(part: str, name: str, original: Array, value: Any) -> Array:
    try:
        if original.dtype == object:
            return _as_bytes_array(original, value)
        array = np.asarray(value)
        if array.dtype.kind not in "biuf" or array.ndim != original.ndim:
            raise ValueError
        if array.dtype == original.dtype:
            return np.ascontiguousarray(array).reshape(array.shape)
        with np.errstate(all="ignore"):
            return np.ascontiguousarray(array.astype(original.dtype)).reshape(array.shape)
    except Exception:
        raise RedactionError(f"{part} {name!r} is not what it was: the same datatype and number of axes") from None


def _as_bytes_array(original: Array, value: Any) -> Array:
    if isinstance(value, str | bytes):
        value = np.array([value], dtype=object).reshape((1,) * original.ndim)
    array = np.asarray(value, dtype=object)
    if array.ndim != original.ndim:
        raise ValueError
    found = np.empty(array.size, dtype=object)
    for place, item in enumerate(array.reshape(-1).tolist()):
        if not isinstance(item, str | bytes):
            raise ValueError
        found[place] = item.encode() if isinstance(item, str) else item
    return found.reshape(array.shape)
