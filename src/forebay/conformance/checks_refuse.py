"""Inference requests that are wrong: each must be refused with an error status and the protocol's error object."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec

from forebay.conformance.answers import is_json_type, named, outputs_of, refused
from forebay.conformance.check import Check, Level, Sent, Skip, Steps, check, expect
from forebay.conformance.sources import OIP, RFC9110, Source
from forebay.conformance.subject import ABSENT, Subject
from forebay.conformance.tensors import same

FAILED = (
    "A failed inference request must be indicated by an HTTP error status (typically 400). The HTTP body must contain "
    "the $inference_error_response object."
)
REQUIRED_MEMBERS = "#optional indicates an optional JSON field."
FULL = "the shape and data must represent the full shape and contents of the entire batch"
DIMENSION = "Each dimension must be an integer representable as an unsigned 64-bit integer value."
INPUTS = "“inputs” : The inputs required by the model."

Edit = Callable[[dict[str, Any], Subject], None]


class Bad(msgspec.Struct, frozen=True):
    """A wrong request: how it is made from a valid body (`edit`), or the request itself (`request`)."""

    id: str
    title: str
    quote: str = FAILED
    level: Level = Level.MUST
    edit: Edit | None = None
    request: Callable[[Subject], Sent] | None = None

    def build(self, subject: Subject) -> Sent:
        """The request. Raises `Skip` where this model has no such mistake."""
        if self.request is not None:
            return self.request(subject)
        assert self.edit is not None
        body = subject.body()
        self.edit(body, subject)
        return subject.infer(body)


def _first(**members: Any) -> Edit:
    """Sets members of the first input; None takes one away."""

    def edit(body: dict[str, Any], subject: Subject) -> None:
        for key, value in members.items():
            if value is None:
                del body["inputs"][0][key]
            else:
                body["inputs"][0][key] = value

    return edit


def _data(change: Callable[[list[Any]], Any], nested: bool = False) -> Edit:
    """Changes the data of the first input that has some."""

    def edit(body: dict[str, Any], subject: Subject) -> None:
        entry = next((one for one in body["inputs"] if one["data"]), None)
        if entry is None:
            raise Skip("no input has elements")
        entry["data"] = change(entry["data"])

    return edit


def _truncated(subject: Subject) -> Sent:
    return subject.infer(json.dumps(subject.body()).encode()[:-1])


def _raw(body: bytes) -> Callable[[Subject], Sent]:
    def request(subject: Subject) -> Sent:
        subject.needs_inputs()
        return subject.infer(body)

    return request


def _unknown_version(subject: Subject) -> Sent:
    if not subject.versions:
        raise Skip("the model tells no versions, which are optional")
    return subject.infer(version="987654321")


def _missing_input(body: dict[str, Any], subject: Subject) -> None:
    if subject.given and not subject.tensors("inputs"):
        raise Skip("the metadata tells no inputs")
    del body["inputs"][0]


def _fixed_axis(body: dict[str, Any], subject: Subject) -> None:
    """One more element than the metadata's fixed axis has, in shape and data alike."""
    told = {entry["name"]: entry["shape"] for entry in subject.tensors("inputs")}
    for entry in body["inputs"]:
        shape = told.get(entry["name"], [])
        for place in range(len(shape) - 1, -1, -1):
            if shape[place] > 0 and entry["data"]:
                size = entry["shape"][place]
                entry["shape"][place] = size + 1
                entry["data"] = (entry["data"] * 2)[: len(entry["data"]) // size * (size + 1)]
                return
    raise Skip("no input has a fixed axis")


def _rank(body: dict[str, Any], subject: Subject) -> None:
    if not subject.tensors("inputs"):
        raise Skip("the metadata tells no shapes")
    body["inputs"][0]["shape"] = [*body["inputs"][0]["shape"], 1]


def _other_datatype(body: dict[str, Any], subject: Subject) -> None:
    if not subject.tensors("inputs"):
        raise Skip("the metadata tells no datatypes")
    entry = body["inputs"][0]
    entry["datatype"] = "INT32" if entry["datatype"] != "INT32" else "FP64"
    entry["data"] = [1] * len(entry["data"])


def _words(body: dict[str, Any], subject: Subject) -> None:
    entry = next((one for one in body["inputs"] if one["datatype"] != "BYTES" and one["data"]), None)
    if entry is None:
        raise Skip("the model has BYTES inputs only")
    entry["data"] = ["no number", *entry["data"][1:]]


def _ragged(body: dict[str, Any], subject: Subject) -> None:
    for entry, tensor in zip(body["inputs"], subject.inputs, strict=True):
        if len(tensor.shape) >= 2 and tensor.shape[-1] >= 2:
            rows = tensor.json(nested=True)["data"]
            inner = rows
            while isinstance(inner[0][0], list):
                inner = inner[0]
            inner[0] = inner[0][:-1]
            entry["data"] = rows
            return
    raise Skip("no input has rows of two elements or more")


def _extra(body: dict[str, Any], subject: Subject) -> None:
    if not subject.tensors("inputs"):
        raise Skip("the metadata tells no inputs")
    body["inputs"].append({"name": ABSENT, "shape": [1], "datatype": "FP32", "data": [1.0]})


def _set(key: str, value: Any) -> Edit:
    def edit(body: dict[str, Any], subject: Subject) -> None:
        body[key] = value

    return edit


def _negative(body: dict[str, Any], subject: Subject) -> None:
    entry = body["inputs"][0]
    if not entry["shape"]:
        raise Skip("the first input has no axes")
    entry["shape"][0] = -1


def _fraction(body: dict[str, Any], subject: Subject) -> None:
    entry = body["inputs"][0]
    if not entry["shape"]:
        raise Skip("the first input has no axes")
    entry["shape"][0] += 0.5


CHOSEN = '"outputs" : The output tensors requested for this inference.'
BAD = (
    Bad("cut_json", "JSON that ends too early is refused", request=_truncated),
    Bad("no_json", "A body that is no JSON is refused", request=_raw(b"forebay, conformance")),
    Bad("not_utf8", "A body that is not UTF-8 is refused", request=_raw(b'{"id":"\xff\xfe","inputs":[]}')),
    Bad("empty_body", "An empty body is refused", request=_raw(b"")),
    Bad("array_body", "A JSON array is refused", request=_raw(b"[]")),
    Bad("number_body", "A JSON number is refused", request=_raw(b"42")),
    Bad("no_inputs", "A request without inputs is refused", REQUIRED_MEMBERS, edit=lambda body, _: body.pop("inputs")),
    Bad("null_inputs", "Inputs null are refused", REQUIRED_MEMBERS, edit=_set("inputs", None)),
    Bad("empty_inputs", "An empty inputs array is refused", INPUTS, edit=_set("inputs", [])),
    Bad("text_input", "An input that is a text is refused", edit=_set("inputs", ["x"])),
    Bad("unknown_model", "An unknown model is refused", request=lambda subject: subject.infer(model=ABSENT)),
    Bad("unknown_version", "An unknown version is refused", request=_unknown_version),
    Bad("missing_input", "A request that lacks an input is refused", INPUTS, edit=_missing_input),
    Bad("wrong_name", "An input of an unknown name in the place of one is refused", INPUTS, edit=_first(name=ABSENT)),
    Bad("extra_input", "An input too many is refused", INPUTS, Level.SHOULD, edit=_extra),
    Bad("few_elements", "Data with an element too few is refused", FULL, edit=_data(lambda data: data[:-1])),
    Bad("many_elements", "Data with an element too many is refused", FULL, edit=_data(lambda data: [*data, data[0]])),
    Bad("ragged", "Nested data with a row too short is refused", FULL, edit=_ragged),
    Bad("text_data", "Data that is a text is refused", FULL, edit=_data(lambda _: "data")),
    Bad("null_data", "An element null is refused", FULL, edit=_data(lambda data: [None, *data[1:]])),
    Bad(
        "words",
        "A word where a number is needed is refused",
        "The server can decide to coerce each element to the "
        "required type or return an error if an unexpected value is received.",
        edit=_words,
    ),
    Bad("rank", "A shape with an axis too many is refused", "“shape” : The shape of the tensor.", edit=_rank),
    Bad(
        "fixed_axis",
        "A shape other than a fixed axis of the metadata is refused",
        "“shape” : The shape of the tensor. Variable-size dimensions are specified as -1.",
        edit=_fixed_axis,
    ),
    Bad("negative_axis", "A negative axis is refused", DIMENSION, edit=_negative),
    Bad("fraction_axis", "An axis that is no whole number is refused", DIMENSION, edit=_fraction),
    Bad("text_shape", "A shape that is a text is refused", DIMENSION, edit=_first(shape="1")),
    Bad("no_shape", "An input without shape is refused", REQUIRED_MEMBERS, edit=_first(shape=None)),
    Bad("no_datatype", "An input without datatype is refused", REQUIRED_MEMBERS, edit=_first(datatype=None)),
    Bad("no_data", "An input without data is refused", REQUIRED_MEMBERS, edit=_first(data=None)),
    Bad("no_name", "An input without name is refused", REQUIRED_MEMBERS, edit=_first(name=None)),
    Bad(
        "unknown_datatype",
        "A datatype that does not exist is refused",
        "“datatype” : The data-type of the input tensor elements as defined in Tensor Data Types.",
        edit=_first(datatype="FP33"),
    ),
    Bad(
        "lower_datatype",
        "A datatype in small letters is refused",
        "All strings in all contexts are case-sensitive.",
        Level.SHOULD,
        edit=lambda body, _: body["inputs"][0].update(datatype=body["inputs"][0]["datatype"].lower()),
    ),
    Bad(
        "other_datatype",
        "A datatype other than the metadata's is refused",
        "“datatype” : The data-type of the input tensor elements",
        Level.SHOULD,
        edit=_other_datatype,
    ),
    Bad(
        "unknown_output", "An unknown output is refused", CHOSEN, Level.SHOULD, edit=_set("outputs", [{"name": ABSENT}])
    ),
    Bad("text_outputs", "Outputs that are a text are refused", CHOSEN, Level.SHOULD, edit=_set("outputs", "all")),
    Bad(
        "text_parameters",
        "Parameters that are a text are refused",
        "An object containing zero or more parameters",
        Level.SHOULD,
        edit=_set("parameters", "none"),
    ),
    Bad(
        "number_id", "An id that is a number is refused", '"id" : $string #optional', Level.SHOULD, edit=_set("id", 42)
    ),
)


def _refusal(bad: Bad) -> Check:
    def run(subject: Subject) -> Steps:
        refused((yield bad.build(subject)))
        return None

    run.__doc__ = bad.title
    return check(f"refuse.{bad.id}", bad.level, f"{FAILED} {bad.quote}" if bad.quote != FAILED else FAILED, OIP)(run)


CLIENT_ERROR = (
    "The 4xx (Client Error) class of status code indicates that the client seems to have erred. The 5xx (Server Error) "
    "class of status code indicates that the server is aware that it has erred"
)


def _every(id_: str, quote: str, source: Source, title: str, judge_one: Callable[[Any], str]) -> Check:
    """A check of one aspect over every wrong request that is refused."""

    def run(subject: Subject) -> Steps:
        wrong: list[str] = []
        count = 0
        for bad in BAD:
            try:
                sent = bad.build(subject)
            except Skip:
                continue
            got = yield sent
            if got.status != 200:
                count += 1
                fault = judge_one(got)
                wrong += [f"{bad.id}: {fault}"] if fault else []
        if not count:
            raise Skip("no wrong request could be made, or none was refused")
        expect(not wrong, f"so for all of {count} wrong requests", ", ".join(wrong))
        return f"{count} wrong requests"

    run.__doc__ = title
    return check(id_, Level.SHOULD, quote, source)(run)


def _not_4xx(got: Any) -> str:
    return "" if 400 <= got.status < 500 else got.failure or str(got.status)


def _not_json_type(got: Any) -> str:
    value = (got.header("Content-Type") or "none").partition(";")[0]
    return "" if value == "application/json" else value


@check("refuse.missing_model_type", Level.SHOULD, "'400': description: Bad Request content: application/json", OIP)
def missing_model_type(subject: Subject) -> Steps:
    """The error object of an unknown model is sent as application/json"""
    got = yield Sent("GET", f"/v2/models/{ABSENT}")
    is_json_type(got)
    return None


@check("refuse.unharmed", Level.MUST, "A successful inference request is indicated by a 200 HTTP status code.", OIP)
def unharmed(subject: Subject) -> Steps:
    """After the wrong requests a valid one is answered as before"""
    wanted = subject.needs_fixed_values()
    for bad in BAD:
        try:
            yield bad.build(subject)
        except Skip:
            continue
    found = named(outputs_of((yield subject.infer())))
    for name, tensor in wanted.items():
        expect(name in found and same(found[name], tensor), f"{name} as before")
    return None


CHECKS = (
    *(_refusal(bad) for bad in BAD),
    _every("refuse.status", CLIENT_ERROR, RFC9110, "A client's mistake is answered with 4xx, not 5xx", _not_4xx),
    _every(
        "refuse.content_type",
        "'400': description: Bad Request content: application/json",
        OIP,
        "Error objects are sent as application/json",
        _not_json_type,
    ),
    missing_model_type,
    unharmed,
)
