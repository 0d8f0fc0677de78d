"""Inference with JSON tensors: what a good request is answered with."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from forebay.conformance.answers import document, is_json_type, named, ok, outputs_of, strict_json
from forebay.conformance.check import Level, Skip, Steps, check, clip, expect
from forebay.conformance.sources import OIP, REQUIRED, RFC8259
from forebay.conformance.subject import Subject
from forebay.conformance.tensors import Tensor, same

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
        expect(same(came, tensor), f"{name} as in a plain request: {show(tensor)}", show(came))


def show(tensor: Tensor) -> str:
    """A tensor for the report: datatype, shape, its first eight elements."""
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


CHECKS = (
    *(works, content_type, strict, model_name, model_version, unversioned, id_returned, id_text, id_absent),
    *(all_outputs, known_outputs, datatypes, shapes, data_fits, nested, one_output, only_requested, all_requested),
    *(output_order, no_outputs, empty_parameters, unknown_parameter, unknown_member, version, input_order),
    *(member_order, spaced, two_rows, same_again),
)
