"""The generate extension's JSON: inputs as members of one object, outputs as members of the answer or of each event.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_generate.md. A request is
one row. An output of one element a row (row shape [] or all ones) is a plain value, any other nests as its row shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from forebay.api.decode import OnDone
from forebay.api.elements import kind, show
from forebay.api.encode import explanation, nest
from forebay.api.general import check_depth, parse_json, read_value
from forebay.api.parameters import NO_OPTIONS, check_text, read_parameters
from forebay.core.errors import RequestError
from forebay.core.json_numbers import write_numbers
from forebay.core.request import Outputs, Payload, Request, output_array
from forebay.core.tensors import NUMPY_TYPES, Array
from forebay.models.signature import Signature

_encode = msgspec.json.Encoder().encode


class GenerateForm:
    """Bodies to requests and outputs to JSON, for one model; made once. Its methods raise `RequestError` only."""

    def __init__(
        self, name: str, version: str, signature: Signature, *, default_timeout_s: float, max_json_depth: int
    ) -> None:
        self._signature = signature
        self._default_timeout_s = default_timeout_s
        self._max_json_depth = max_json_depth
        self._model = b'"model_name":%b,"model_version":%b' % (_encode(name), _encode(version))
        self._inputs = {spec.name for spec in signature.inputs}
        self._single = {spec.name for spec in signature.outputs if all(axis == 1 for axis in spec.row_shape)}

    def read(self, body: bytes, arrived: float, on_done: OnDone) -> Request:
        """A body as a request of one row. `arrived`: monotonic seconds, from which its timeout counts.

        Members named like inputs are tensors, here and inside `parameters`; `id` is the request's id; other members
        are parameters.
        """
        document = parse_json(body)
        if type(document) is not dict:
            raise RequestError(f"the body must be a JSON object, got {kind(document)}")
        check_depth(document, self._max_json_depth)
        tensors, parameters, identity = self._sort(document)
        payloads: list[Payload] = []
        shapes: list[tuple[int, ...]] = []
        nbytes = 0
        for spec in self._signature.inputs:
            if spec.name not in tensors:
                raise RequestError(f"input {show(spec.name)} is missing; give it as a member of the body")
            value = tensors[spec.name]
            if type(value) is list and len(value) == 1 and not spec.row_shape:
                value = value[0]
            shape, payload = read_value(value, spec, self._signature)
            payloads.append(payload)
            shapes.append(shape[1:] if self._signature.batched else shape)
            wide = NUMPY_TYPES[spec.datatype].itemsize if type(payload) is list else 1
            nbytes += len(payload) * wide
        options = read_parameters(parameters) if parameters else NO_OPTIONS
        if options.binary_data_output:
            raise RequestError("generate answers in JSON only; ask /infer for binary_data_output")
        timeout_s = self._default_timeout_s if options.timeout_s is None else options.timeout_s
        return Request(
            payloads,
            tuple(shapes),
            1,
            nbytes=nbytes,
            deadline=arrived + timeout_s,
            arrived=arrived,
            on_done=on_done,
            id=identity,
            priority=options.priority,
            explain=options.explain,
            parameters=options.rest,
        )

    def _sort(self, document: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], str]:
        """The members as (tensors, parameters, id)."""
        named = document.get("parameters")
        if named is not None and type(named) is not dict:
            raise RequestError(f"parameters must be an object, got {kind(named)}")
        members = {key: value for key, value in document.items() if key != "parameters"}
        identity = members.pop("id", "") if "id" not in self._inputs else ""
        if type(identity) is not str:
            raise RequestError(f"id must be a string, got {show(identity)}")
        check_text(identity, "id")
        tensors: dict[str, Any] = {}
        parameters: dict[str, Any] = {}
        for key, value in [*members.items(), *(named or {}).items()]:
            if key in tensors or key in parameters:
                raise RequestError(f"{show(key)} is given twice, in the body and in its parameters")
            if key in self._inputs:
                tensors[key] = value
            elif type(value) in (list, dict):
                raise RequestError(f"the model has no input {show(key)}; it has {', '.join(sorted(self._inputs))}")
            else:
                parameters[key] = value
        return tensors, parameters, identity

    def whole(self, request: Request) -> bytes:
        """The answer to a request that is done, as one JSON object."""
        outputs = request.outputs
        assert outputs is not None
        batched = self._signature.batched
        arrays = [output_array(request, index, batched) for index in range(len(outputs.names))]
        explained = explanation(request) if request.explain else None
        return self._object(request, self._members(outputs, arrays, batched), explained)

    def piece(self, request: Request, outputs: Outputs) -> bytes:
        """A piece of the answer as JSON; `outputs` has one row."""
        return self._object(request, self._members(outputs, outputs.arrays, batched=True))

    def progress(self, request: Request, fraction: float) -> bytes:
        """How far the request is, 0 to 1, as JSON."""
        return self._object(request, [b'"progress":%b' % _encode(fraction)])

    def _object(self, request: Request, members: Iterable[bytes], explained: dict[str, Any] | None = None) -> bytes:
        head = b'"id":%b,%b' % (_encode(request.id), self._model) if request.id else self._model
        if explained is not None:
            head += b',"parameters":' + _encode(explained)
        return b"{%b}" % b",".join((head, *members))

    def _members(self, outputs: Outputs, arrays: Sequence[Array], batched: bool) -> Iterable[bytes]:
        for name, array in zip(outputs.names, arrays, strict=True):
            if batched:
                array = array.reshape(array.shape[1:])
            if name in self._single:
                array = array.reshape(())
            if array.dtype == object:
                text = _encode(nest([_text(name, value) for value in array.reshape(-1).tolist()], array.shape))
            else:
                text = write_numbers(array)
            yield b"%b:%b" % (_encode(name), text)


def _text(name: str, value: Any) -> str:
    try:
        return value if isinstance(value, str) else bytes(value).decode()
    except UnicodeDecodeError:
        raise RequestError(
            f"output {show(name)} is not UTF-8 text, which JSON cannot carry; ask /infer for it with binary_data"
        ) from None
