"""The server and model under test as the kit knows them, and the requests built for them. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from forebay.conformance.answers import HEADER_LENGTH, document, outputs_of
from forebay.conformance.check import Got, Sent, Skip, Violation, clip
from forebay.conformance.tensors import NUMPY, Tensor, concrete, from_json, make, pack, same

JSON_TYPE = ("Content-Type", "application/json")
ABSENT = "forebay-conformance-absent"
"""A name that no model, input or output has."""


class Subject(msgspec.Struct):
    """What discovery found out. `inputs` empty: no valid request is known, and `trouble` says why."""

    model: str
    extensions: frozenset[str] = frozenset()
    metadata: dict[str, Any] = {}
    """The model's metadata as it came; checks of it judge the form."""
    inputs: list[Tensor] = []
    given: bool = False
    """The inputs were given by the user, not made from metadata."""
    baseline: list[Tensor] = []
    """The outputs of `inputs`; empty: inference does not work."""
    deterministic: bool = True
    may_unload: bool = False
    trouble: str = ""

    # -- what is known -------------------------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """The model's path."""
        return f"/v2/models/{self.model}"

    @property
    def versions(self) -> list[str]:
        """The versions that the metadata tells."""
        found = self.metadata.get("versions")
        return [version for version in found if isinstance(version, str)] if isinstance(found, list) else []

    def tensors(self, side: str) -> list[dict[str, Any]]:
        """The well-formed entries of `inputs` or `outputs` in the metadata."""
        entries = self.metadata.get(side)
        return [entry for entry in entries if well_formed(entry)] if isinstance(entries, list) else []

    def needs_inputs(self) -> list[Tensor]:
        """The inputs of a valid request. Raises `Skip` where none are known."""
        if not self.inputs:
            raise Skip(self.trouble or "no inputs are known; give --inputs FILE")
        return self.inputs

    def needs_baseline(self) -> dict[str, Tensor]:
        """What a valid request is answered with, by name. Raises `Skip` where it is not answered well."""
        self.needs_inputs()
        if not self.baseline:
            raise Skip(f"a plain request is not answered well ({self.trouble}); --inputs FILE gives a better one")
        return {tensor.name: tensor for tensor in self.baseline}

    def needs_fixed_values(self) -> dict[str, Tensor]:
        """The same, where equal requests give equal answers. Raises `Skip` where they do not."""
        found = self.needs_baseline()
        if not self.deterministic:
            raise Skip("the model answers equal requests differently, so values cannot be compared")
        return found

    def repeats(self) -> list[tuple[int, str]]:
        """(place of an input, name of an output that repeats its values)."""
        return [
            (place, output.name)
            for place, tensor in enumerate(self.inputs)
            for output in self.baseline
            if tensor.array.size and same(tensor, output)
        ]

    # -- requests ------------------------------------------------------------------------------------------------------

    def body(self, inputs: Sequence[Tensor] | None = None, nested: bool = False, **members: Any) -> dict[str, Any]:
        """A request body in JSON; `members` stand beside `inputs`. Raises `Skip` where no inputs are known."""
        chosen = self.needs_inputs() if inputs is None else inputs
        return {**members, "inputs": [tensor.json(nested) for tensor in chosen]}

    def infer(
        self, body: Any = None, *, model: str = "", version: str = "", headers: Sequence[tuple[str, str]] = ()
    ) -> Sent:
        """An inference request; `body` None: a plain valid one, bytes: as they are, anything else: as JSON."""
        document = self.body() if body is None else body
        raw = document if isinstance(document, bytes) else json.dumps(document).encode()
        return Sent("POST", infer_path(model or self.model, version), (JSON_TYPE, *headers), raw)

    def infer_binary(
        self,
        inputs: Sequence[Tensor] | None = None,
        *,
        json_names: Sequence[str] = (),
        header: str | None = "",
        header_name: str = HEADER_LENGTH,
        sizes: Mapping[str, int] | None = None,
        tail: bytes = b"",
        cut_bytes: int = 0,
        **members: Any,
    ) -> Sent:
        """An inference request with binary inputs, whole or broken on purpose.

        `json_names`: inputs that stay JSON. `header`: the value of the length header; "" the right one, None: not sent.
        `sizes`: other values of binary_data_size by input name. `tail` is appended, `cut_bytes` cut off at the end.
        """
        entries: list[dict[str, Any]] = []
        pieces: list[bytes] = []
        for tensor in self.needs_inputs() if inputs is None else inputs:
            if tensor.name in json_names:
                entries.append(tensor.json())
                continue
            pieces.append(pack(tensor))
            size = {"binary_data_size": (sizes or {}).get(tensor.name, len(pieces[-1]))}
            about = {"name": tensor.name, "shape": tensor.shape, "datatype": tensor.datatype}
            entries.append({**about, "parameters": size})
        head = json.dumps({**members, "inputs": entries}).encode()
        body = b"".join((head, *pieces, tail))
        length = () if header is None else ((header_name, header or str(len(head))),)
        kind = ("Content-Type", "application/octet-stream")
        return Sent("POST", infer_path(self.model), (kind, *length), body[: len(body) - cut_bytes])


def infer_path(model: str, version: str = "") -> str:
    """The path of the inference endpoint."""
    return f"/v2/models/{model}{'/versions/' + version if version else ''}/infer"


def well_formed(entry: Any) -> bool:
    """Whether a metadata tensor has a name, a datatype and a shape of whole numbers."""
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and isinstance(entry.get("datatype"), str)
        and isinstance(entry.get("shape"), list)
        and all(type(axis) is int for axis in entry["shape"])
    )


def inputs_from_metadata(subject: Subject) -> list[Tensor]:
    """Valid inputs of plain values. Raises `ValueError` where the metadata does not tell enough."""
    entries = subject.metadata.get("inputs")
    if not isinstance(entries, list) or not entries:
        raise ValueError("the model's metadata lists no inputs")
    if not all(well_formed(entry) for entry in entries):
        raise ValueError("the model's metadata lists inputs without name, datatype or shape")
    return [
        make(entry["name"], entry["datatype"], concrete(entry["shape"]), place) for place, entry in enumerate(entries)
    ]


def inputs_from_example(example: Any) -> list[Tensor]:
    """The inputs of an example request. Raises `ValueError` where it is none, or not in JSON form."""
    entries = example.get("inputs") if isinstance(example, dict) else None
    if not isinstance(entries, list) or not entries:
        raise ValueError('it must be an inference request: an object with "inputs"')
    found = []
    for entry in entries:
        if not well_formed(entry) or entry["datatype"] not in NUMPY or "data" not in entry:
            raise ValueError("each input must have name, shape, datatype and data")
        found.append(from_json(entry["name"], entry["datatype"], entry["shape"], entry["data"]))
    return found


def settle(subject: Subject, first: Got, second: Got) -> None:
    """Takes the baseline from two answers to the same plain request."""
    try:
        outputs, again = outputs_of(first), outputs_of(second)
    except Violation as found:
        subject.trouble = clip(f"expected {found.expected}, got {found.came or first.show()}")
        return
    subject.baseline = outputs
    subject.deterministic = len(outputs) == len(again) and all(map(same, outputs, again))


def read_extensions(got: Got) -> frozenset[str]:
    """The extensions of the server's metadata; none where it cannot be read."""
    try:
        found = document(got).get("extensions")
    except Violation:
        return frozenset()
    return frozenset(str(name) for name in found) if isinstance(found, list) else frozenset()
