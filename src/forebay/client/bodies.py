"""The body of an inference request. All but the time that is left is encoded once; that is written anew for each try.

Sources: Open Inference Protocol v2 (inference request); Triton's binary tensor, schedule policy and parameters
extensions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from forebay.client.options import InferOptions
from forebay.client.tensors import Tensor
from forebay.core.errors import RequestError
from forebay.core.tensors import to_buffer

_OWN = ("timeout", "priority", "explain", "binary_data_output")
"""Parameters that have an option of their own."""


class InferBody:
    """One inference request, ready to be sent with any time left."""

    def __init__(
        self, tensors: Sequence[Tensor], options: InferOptions, binary: bool, members: Mapping[str, Any] | None = None
    ) -> None:
        """`members` stand beside the inputs. Raises `RequestError` for parameters or values that cannot be sent."""
        self._tail = b""
        pieces: list[bytes] = []
        document: dict[str, Any] = {**(members or {}), "inputs": [_entry(tensor, pieces, binary) for tensor in tensors]}
        self._tail = b"".join(pieces)
        self._binary = binary
        if options.get("request_id"):
            document = {"id": options["request_id"], **document}
        wanted = options.get("outputs")
        if wanted is not None:
            if isinstance(wanted, str):
                raise RequestError(f"outputs must be a list of names, got the text {wanted!r}")
            # Nothing beyond the protocol's core where JSON is wanted: JSON is what it answers by itself.
            form = {"parameters": {"binary_data": True}} if binary else {}
            document["outputs"] = [{"name": name, **form} for name in wanted]
        self._parameters = _parameters(options, binary and wanted is None)
        self._document = _dumps(document)

    def encode(self, left_s: float) -> tuple[dict[str, str], bytes]:
        """(headers, body) that tell the server how many seconds are left (infinite: no limit)."""
        parameters = dict(self._parameters)
        if left_s != float("inf"):
            parameters["timeout"] = max(1, int(left_s * 1e6))
        head = self._document
        if parameters:
            head = b'{"parameters":%b,%b' % (_dumps(parameters), head[1:])
        if not self._binary:
            return {"content-type": "application/json"}, head
        headers = {
            "content-type": "application/octet-stream",
            "inference-header-content-length": str(len(head)),
        }
        return headers, head + self._tail


def _entry(tensor: Tensor, pieces: list[bytes], binary: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": tensor.name,
        "datatype": tensor.datatype,
        "shape": list(tensor.array.shape),
    }
    if binary:
        piece = to_buffer(tensor.array, tensor.datatype)
        pieces.append(piece)
        entry["parameters"] = {"binary_data_size": len(piece)}
        return entry
    values = np.asarray(tensor.array).reshape(-1).tolist()
    if tensor.datatype == "BYTES":
        values = [_text(value, index, tensor.name) for index, value in enumerate(values)]
    entry["data"] = values
    return entry


def _text(value: bytes, index: int, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise RequestError(
            f"input {name!r}: element {index} is not UTF-8 text, which JSON cannot carry; send it with binary=True, "
            "a job by itself"
        ) from None


def _parameters(options: InferOptions, binary_outputs: bool) -> dict[str, Any]:
    further: Mapping[str, Any] = options.get("parameters") or {}
    for name in further:
        if name in _OWN:
            option = {"timeout": "timeout_s", "binary_data_output": "binary"}.get(name, name)
            raise RequestError(f"parameters: {name!r} has an option of its own: {option}=")
    found = dict(further)
    if options.get("priority"):
        found["priority"] = options["priority"]
    if options.get("explain"):
        found["explain"] = True
    if binary_outputs:
        found["binary_data_output"] = True
    return found


def _dumps(document: Any) -> bytes:
    """JSON in which NaN and infinities are the tokens that Python's json writes, as servers of the protocol do."""
    try:
        return json.dumps(document, separators=(",", ":"), ensure_ascii=True).encode()
    except (TypeError, ValueError) as error:
        raise RequestError(f"the request cannot be written as JSON: {error}") from None
