"""Inference with JSON tensors: what a good request is answered with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from forebay.conformance.answers import document, is_json_type, named, ok, outputs_of, strict_json
from forebay.conformance.check import Level, Skip, Steps, check, clip, expect
from forebay.conformance.sources import OIP, REQUIRED, RFC8259
from forebay.conformance.subject import Subject
from forebay.conformance.tensors import Tensor, make, same

SUCCESS = (
    "A successful inference request is indicated by a 200 HTTP status code. The inference response object, identified "
    "as $inference_response, is returned in the HTTP body."
)


@check("infer.works", Level.MUST, SUCCESS, OIP)
def works(subject: Subject) -> Steps:
    """A valid request is answered with 200 and outputs"""
    found = outputs_of((yield subject.infer()))
    expect(bool(found), "at least one output", found)
    return None


@check("infer.content_type", Level.MUST, "HTTP/1.1 200 OK Content-Type: application/json", OIP)
def content_type(subject: Subject) -> Steps:
    """An answer in JSON is sent as application/json"""
    subject.needs_baseline()
    got = yield subject.infer()
    ok(got)
    is_json_type(got)
    return None


@check("infer.strict_json", Level.MUST, "The HTTP/REST API uses JSON because it is widely supported", OIP)
def strict(subject: Subject) -> Steps:
    """An answer is JSON that any parser reads"""
    for tensor in subject.needs_baseline().values():
        if tensor.datatype.startswith("FP") and not np.isfinite(tensor.array).all():
            raise Skip("the model's outputs hold NaN or infinity")
    got = yield subject.infer()
    ok(got)
    strict_json(got.body)
    return None


@check("infer.model_name", Level.MUST, '"model_name" : The name of the model used for inference.', OIP)
def model_name(subject: Subject) -> Steps:
    """The answer tells the model's name"""
    subject.needs_baseline()
    found = document((yield subject.infer()))
    expect(found.get("model_name") == subject.model, f"model_name {subject.model!r}", found.get("model_name"))
    return None


VERSION = (
    '"model_version" : The specific model version used for inference. Inference servers that do not implement '
    "versioning should not provide this field in the response."
)


@check("infer.model_version", Level.MUST, VERSION, OIP)
def model_version(subject: Subject) -> Steps:
    """The answer tells one of the model's versions, as a string"""
    subject.needs_baseline()
    if not subject.versions:
        raise Skip("the model tells no versions, which are optional")
    found = document((yield subject.infer()))
    expect(found.get("model_version") in subject.versions, f"one of {subject.versions}", found.get("model_version"))
    return None


@check("infer.unversioned", Level.SHOULD, VERSION, OIP)
def unversioned(subject: Subject) -> Steps:
    """A model without versions is answered without model_version"""
    subject.needs_baseline()
    if subject.versions:
        raise Skip("the model has versions")
    found = document((yield subject.infer()))
    expect(found.get("model_version") is None, "no model_version", found.get("model_version"))
    return None


ID = "Optional, but if specified this identifier must be returned in the response."


@check("infer.id", Level.MUST, ID, OIP)
def id_returned(subject: Subject) -> Steps:
    """The id comes back"""
    subject.needs_baseline()
    found = document((yield subject.infer(subject.body(id="kit-42"))))
    expect(found.get("id") == "kit-42", 'id "kit-42"', found.get("id"))
    return None


@check("infer.id_text", Level.MUST, ID, OIP)
def id_text(subject: Subject) -> Steps:
    """An id of any characters comes back unchanged"""
    subject.needs_baseline()
    name = 'caf\u00e9 "quoted" \\ / \u4f60\u597d \U0001f980'
    found = document((yield subject.infer(subject.body(id=name))))
    expect(found.get("id") == name, f"id {name!r}", repr(found.get("id")))
    return None


@check("infer.id_absent", Level.OBSERVE, '"id" : The "id" identifier given in the request, if any.', OIP)
def id_absent(subject: Subject) -> Steps:
    """What stands for the id where none was given"""
    found = document((yield subject.infer()))
    return f"id: {found['id']!r}" if "id" in found else "no id"


ALL = (
    "Optional, if not specified all outputs produced by the model will be returned using default $request_output "
    "settings."
)


@check("infer.all_outputs", Level.MUST, ALL, OIP)
def all_outputs(subject: Subject) -> Steps:
    """Without a choice every output of the metadata is returned"""
    subject.needs_baseline()
    wanted = {entry["name"] for entry in _told(subject)}
    found = set(named(outputs_of((yield subject.infer()))))
    expect(found >= wanted, f"the outputs {sorted(wanted)}", sorted(found))
    return None


def _told(subject: Subject) -> list[dict[str, Any]]:
    told = subject.tensors("outputs")
    if not told:
        raise Skip("the metadata tells no outputs")
    return told


@check("infer.known_outputs", Level.MUST, "“outputs” : The outputs produced by the model.", OIP)
def known_outputs(subject: Subject) -> Steps:
    """No output is returned that the metadata does not tell"""
    subject.needs_baseline()
    wanted = {entry["name"] for entry in _told(subject)}
    found = set(named(outputs_of((yield subject.infer()))))
    expect(found <= wanted, f"none but {sorted(wanted)}", sorted(found))
    return None


@check("infer.datatypes", Level.MUST, '"datatype" : The data-type of the output tensor elements', OIP)
def datatypes(subject: Subject) -> Steps:
    """Outputs have the datatypes of the metadata"""
    subject.needs_baseline()
    found = named(outputs_of((yield subject.infer())))
    for entry in _told(subject):
        if entry["name"] in found:
            came = found[entry["name"]].datatype
            expect(came == entry["datatype"], f"{entry['datatype']} for {entry['name']}", came)
    return None


SHAPE = "“shape” : The shape of the tensor. Variable-size dimensions are specified as -1."


@check("infer.shapes", Level.MUST, SHAPE, OIP)
def shapes(subject: Subject) -> Steps:
    """Outputs have shapes that fit the metadata"""
    subject.needs_baseline()
    found = named(outputs_of((yield subject.infer())))
    for entry in _told(subject):
        if entry["name"] in found:
            came, told = found[entry["name"]].shape, entry["shape"]
            fits = len(came) == len(told) and all(want in (-1, axis) for want, axis in zip(told, came, strict=True))
            expect(fits, f"shape {told} for {entry['name']}", came)
    return None


DATA = (
    "If the output is batched, the shape and data represents the full shape of the entire batch. “data”: The contents "
    "of the tensor."
)


@check("infer.data_fits", Level.MUST, DATA, OIP)
def data_fits(subject: Subject) -> Steps:
    """Each output's data fits its datatype and shape"""
    subject.needs_inputs()
    outputs_of((yield subject.infer()))
    return None


NESTED = (
    "Tensor elements may be presented in their nature multi-dimensional representation, or as a flattened "
    "one-dimensional representation."
)


@check("infer.nested", Level.MUST, NESTED, OIP)
def nested(subject: Subject) -> Steps:
    """Data nested as its shape gives the same outputs as flat data"""
    wanted = subject.needs_fixed_values()
    _compare(named(outputs_of((yield subject.infer(subject.body(nested=True))))), wanted)
    return None


def _compare(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Raises `Violation` unless every wanted output came with the same values."""
    for name, tensor in wanted.items():
        expect(name in found, f"output {name}", sorted(found))
        came = found[name]
        expect(same(came, tensor), f"{name} as in a plain request: {_show(tensor)}", _show(came))


def _show(tensor: Tensor) -> str:
    return f"{tensor.datatype} {tensor.shape} {clip(tensor.array.reshape(-1)[:8].tolist())}"


ONE = "For the above request the inference server must return the “output0” output tensor."


@check("infer.one_output", Level.MUST, ONE, OIP)
def one_output(subject: Subject) -> Steps:
    """Each output can be asked for by itself"""
    for name, tensor in subject.needs_fixed_values().items():
        found = named(outputs_of((yield subject.infer(subject.body(outputs=[{"name": name}])))))
        _compare(found, {name: tensor})
    return None


CHOSEN = '"outputs" : The output tensors requested for this inference.'


@check("infer.only_requested", Level.MUST, CHOSEN, OIP)
def only_requested(subject: Subject) -> Steps:
    """Outputs that were not asked for do not come"""
    wanted = list(subject.needs_baseline())
    if len(wanted) < 2:
        raise Skip("the model has one output only")
    found = named(outputs_of((yield subject.infer(subject.body(outputs=[{"name": wanted[-1]}])))))
    expect(list(found) == [wanted[-1]], f"only {wanted[-1]}", list(found))
    return None


@check("infer.all_requested", Level.MUST, CHOSEN, OIP)
def all_requested(subject: Subject) -> Steps:
    """All outputs can be asked for by name, in any order"""
    wanted = subject.needs_fixed_values()
    asked = [{"name": name} for name in reversed(wanted)]
    _compare(named(outputs_of((yield subject.infer(subject.body(outputs=asked))))), wanted)
    return None


@check("infer.output_order", Level.OBSERVE, CHOSEN, OIP)
def output_order(subject: Subject) -> Steps:
    """Whether outputs come in the order asked for"""
    asked = list(reversed(subject.needs_baseline()))
    if len(asked) < 2:
        raise Skip("the model has one output only")
    got = yield subject.infer(subject.body(outputs=[{"name": name} for name in asked]))
    return "as asked" if [tensor.name for tensor in outputs_of(got)] == asked else "in an order of its own"


@check("infer.no_outputs", Level.OBSERVE, CHOSEN, OIP)
def no_outputs(subject: Subject) -> Steps:
    """What an empty outputs array asks for"""
    got = yield subject.infer(subject.body(outputs=[]))
    return f"{len(outputs_of(got))} outputs" if got.status == 200 else got.show()


@check("infer.empty_parameters", Level.MUST, "An object containing zero or more parameters", OIP)
def empty_parameters(subject: Subject) -> Steps:
    """Empty parameters of request, input and output are accepted"""
    wanted = subject.needs_fixed_values()
    body = subject.body(parameters={}, outputs=[{"name": name, "parameters": {}} for name in wanted])
    for entry in body["inputs"]:
        entry["parameters"] = {}
    _compare(named(outputs_of((yield subject.infer(body)))), wanted)
    return None


@check("infer.unknown_parameter", Level.OBSERVE, "Currently no parameters are defined.", OIP)
def unknown_parameter(subject: Subject) -> Steps:
    """What an unknown parameter does"""
    got = yield subject.infer(subject.body(parameters={"forebay_conformance": 1}))
    return "accepted" if got.status == 200 else got.show()


@check("infer.unknown_member", Level.OBSERVE, "$inference_request", OIP)
def unknown_member(subject: Subject) -> Steps:
    """What an unknown member of the request does"""
    got = yield subject.infer(subject.body(forebay_conformance=1))
    return "accepted" if got.status == 200 else got.show()


@check("infer.version", Level.MUST, "POST v2/models/${MODEL_NAME}[/versions/${MODEL_VERSION}]/infer", REQUIRED)
def version(subject: Subject) -> Steps:
    """A version told in the metadata serves under its own URL and says so"""
    subject.needs_baseline()
    if not subject.versions:
        raise Skip("the model tells no versions, which are optional")
    wanted = subject.versions[-1]
    found = document((yield subject.infer(version=wanted)))
    expect(found.get("model_version") == wanted, f"model_version {wanted!r}", found.get("model_version"))
    return None


@check("infer.input_order", Level.MUST, '"name" : The name of the input tensor.', OIP)
def input_order(subject: Subject) -> Steps:
    """Inputs are told apart by name, not by place"""
    wanted = subject.needs_fixed_values()
    if len(subject.inputs) < 2:
        raise Skip("the model has one input only")
    _compare(named(outputs_of((yield subject.infer(subject.body(subject.inputs[::-1]))))), wanted)
    return None


@check(
    "infer.member_order", Level.MUST, "An object is an unordered collection of zero or more name/value pairs", RFC8259
)
def member_order(subject: Subject) -> Steps:
    """The members of the request and its tensors may come in any order"""
    wanted = subject.needs_fixed_values()
    body = subject.body(id="kit")
    inputs = [dict(reversed(entry.items())) for entry in body["inputs"]]
    _compare(named(outputs_of((yield subject.infer({"inputs": inputs, "id": "kit"})))), wanted)
    return None


@check(
    "infer.spaced",
    Level.MUST,
    "Insignificant whitespace is allowed before or after any of the six structural characters.",
    RFC8259,
)
def spaced(subject: Subject) -> Steps:
    """Blanks and escapes that JSON allows change nothing"""
    wanted = subject.needs_fixed_values()
    text = json.dumps(subject.body(id="kit"), indent=3).replace('"inputs"', '"\\u0069nputs"')
    _compare(named(outputs_of((yield subject.infer(f"\r\n\t {text} \n".encode())))), wanted)
    return None


BATCH = "If the input is batched, the shape and data must represent the full shape and contents of the entire batch."


@check("infer.two_rows", Level.SHOULD, BATCH, OIP)
def two_rows(subject: Subject) -> Steps:
    """Where every first axis is variable, two equal rows give two equal rows"""
    wanted = subject.needs_fixed_values()
    told = (*subject.tensors("inputs"), *subject.tensors("outputs"))
    if not told or any(not entry["shape"] or entry["shape"][0] != -1 for entry in told):
        raise Skip("not every input and output has a variable first axis")
    twice = [Tensor(one.name, one.datatype, np.concatenate([one.array, one.array])) for one in subject.inputs]
    doubled = {name: Tensor(name, one.datatype, np.concatenate([one.array, one.array])) for name, one in wanted.items()}
    _compare(named(outputs_of((yield subject.infer(subject.body(twice))))), doubled)
    return None


@check("infer.same_again", Level.OBSERVE, SUCCESS, OIP)
def same_again(subject: Subject) -> Steps:
    """Whether equal requests get equal answers"""
    subject.needs_baseline()
    yield subject.infer()
    return "yes" if subject.deterministic else "no, so values are not compared"


def _extremes(datatype: str, shape: list[int]) -> Iterator[Tensor]:
    """Tensors of numbers that are lost where a server takes a detour over another type."""
    kind = np.dtype({"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}.get(datatype, datatype.lower()))
    if kind.kind == "f":
        limits = np.finfo(kind)
        values = [0.1, -1 / 3, limits.max, limits.tiny, -0.0, limits.smallest_subnormal]
    else:
        whole = np.iinfo(kind)
        values = [whole.max, whole.min, whole.max - 1, whole.max // 3]
    for value in values:
        array = np.full(shape, value, dtype=kind)
        yield Tensor("", datatype, array)


def _round_trip(subject: Subject, kinds: str) -> Steps:
    """Sends extreme values through every output that repeats an input whose datatype starts with one of `kinds`."""
    subject.needs_fixed_values()
    pairs = [pair for pair in subject.repeats() if subject.inputs[pair[0]].datatype[:1] in kinds]
    pairs = [(place, name) for place, name in pairs if subject.inputs[place].datatype not in ("BOOL", "BYTES")]
    if not pairs:
        raise Skip("no output of the model repeats such an input")
    for place, name in pairs:
        given = subject.inputs[place]
        for value in _extremes(given.datatype, given.shape):
            sent = Tensor(given.name, given.datatype, value.array)
            inputs = [sent if at == place else other for at, other in enumerate(subject.inputs)]
            came = named(outputs_of((yield subject.infer(subject.body(inputs, outputs=[{"name": name}])))))[name]
            exact = came.array.tobytes() == sent.array.tobytes()
            expect(exact, f"{name} exactly {sent.array.reshape(-1)[:1].tolist()} ({given.datatype})", _show(came))
    return f"{len(pairs)} outputs"


PRECISE = '"datatype" : The data-type of the input tensor elements as defined in Tensor Data Types.'


@check("infer.whole_numbers", Level.MUST, PRECISE, OIP)
def whole_numbers(subject: Subject) -> Steps:
    """The largest and smallest whole numbers of each datatype come back exactly"""
    return (yield from _round_trip(subject, "IU"))


@check("infer.floats", Level.SHOULD, PRECISE, OIP)
def floats(subject: Subject) -> Steps:
    """0.1, the largest, the smallest and minus zero come back exactly"""
    return (yield from _round_trip(subject, "F"))


@check(
    "infer.texts",
    Level.MUST,
    "Each element of the array may be an integer, floating-point number, string or boolean",
    OIP,
)
def texts(subject: Subject) -> Steps:
    """Texts of any characters come back unchanged"""
    subject.needs_fixed_values()
    pairs = [pair for pair in subject.repeats() if subject.inputs[pair[0]].datatype == "BYTES"]
    if not pairs:
        raise Skip("no BYTES output of the model repeats an input")
    for place, name in pairs:
        for text in ("", 'a "b" \\ \n\t', "caf\u00e9 \u4f60\u597d \U0001f980", "x" * 1000, "nul \x00 inside"):
            given = subject.inputs[place]
            array = np.full(given.shape, text.encode(), dtype=object)
            inputs = list(subject.inputs)
            inputs[place] = Tensor(given.name, "BYTES", array)
            came = named(outputs_of((yield subject.infer(subject.body(inputs, outputs=[{"name": name}])))))[name]
            expect(same(came, Tensor(name, "BYTES", array)), f"{text[:40]!r}", came.array.reshape(-1)[:1].tolist())
    return None


@check(
    "infer.nan",
    Level.OBSERVE,
    "Numeric values that cannot be represented in the grammar below (such as Infinity and NaN) are not permitted.",
    RFC8259,
)
def not_a_number(subject: Subject) -> Steps:
    """What the token NaN does, which no JSON standard knows but many writers emit"""
    places = [place for place, one in enumerate(subject.needs_inputs()) if one.datatype.startswith("FP")]
    if not places:
        raise Skip("the model has no float input")
    given = subject.inputs[places[0]]
    inputs = list(subject.inputs)
    inputs[places[0]] = Tensor(given.name, given.datatype, np.full(given.shape, np.nan, given.array.dtype))
    got = yield subject.infer(subject.body(inputs))
    if got.status != 200:
        return f"refused: {got.show()}"
    written = "NaN" if b"NaN" in got.body else "null" if b"null" in got.body else "no NaN in the answer"
    return f"accepted; answered with {written}"


@check(
    "infer.no_rows",
    Level.OBSERVE,
    "Each dimension must be an integer representable as an unsigned 64-bit integer value.",
    OIP,
)
def no_rows(subject: Subject) -> Steps:
    """What a batch of no rows does"""
    told = subject.tensors("inputs")
    if not told or any(not entry["shape"] or entry["shape"][0] != -1 for entry in told):
        raise Skip("not every input has a variable first axis")
    empty = [make(one.name, one.datatype, [0, *one.shape[1:]]) for one in subject.needs_inputs()]
    got = yield subject.infer(subject.body(empty))
    return got.show()


@check("infer.coerced", Level.OBSERVE, "The server can decide to coerce each element to the required type", OIP)
def coerced(subject: Subject) -> Steps:
    """Whether texts of digits are taken for numbers"""
    body = subject.body()
    entry = next((one for one in body["inputs"] if one["datatype"] not in ("BYTES", "BOOL") and one["data"]), None)
    if entry is None:
        raise Skip("the model has no number input")
    entry["data"] = [str(value) for value in entry["data"]]
    got = yield subject.infer(body)
    return "coerced" if got.status == 200 else got.show()


CHECKS = (
    *(works, content_type, strict, model_name, model_version, unversioned, id_returned, id_text, id_absent),
    *(all_outputs, known_outputs, datatypes, shapes, data_fits, nested, one_output, only_requested, all_requested),
    *(output_order, no_outputs, empty_parameters, unknown_parameter, unknown_member, version, input_order),
    *(member_order, spaced, two_rows, same_again, whole_numbers, floats, texts, not_a_number, no_rows, coerced),
)
