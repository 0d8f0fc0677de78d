"""The binary tensor data extension, both ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from forebay.conformance.answers import (
    HEADER_LENGTH,
    document,
    json_part,
    named,
    ok,
    outputs_of,
    refused,
    strict_json,
)
from forebay.conformance.check import Check, Got, Level, Sent, Skip, Steps, check, clip, expect
from forebay.conformance.sources import BINARY
from forebay.conformance.subject import Subject
from forebay.conformance.tensors import Tensor, make, pack, same

NAME = "binary_tensor_data"
FAILED = "A failed inference request must be indicated by an HTTP error status (typically 400)."
SIZE = '"binary_data_size" : int64 parameter indicating the size of the tensor binary data, in bytes.'
HEADER = (
    "If any binary data is present in the request or response the Inference-Header-Content-Length header must be "
    "provided to give the length of the JSON object, and Content-Length continues to give the full body length"
)
ORDER = (
    "the HTTP body of the request or response will contain the JSON inference request or response object followed by "
    "the binary tensor data in the same order as the order of the input or output tensors are specified in the JSON."
)
IN = "the input or output tensor is communicated as binary data"
OUT = '"binary_data" : bool parameter that is true if the output should be returned as binary data'
OUT_FALSE = '"binary_data" : [...] false (or not given) if the tensor should be returned as JSON.'
OUT_ALL = '"binary_data_output" : bool parameter that is true if all outputs should be returned as binary data'
OVERRIDE = 'If "binary_data" is specified on an output it overrides this setting.'


def _agree(got: Got, wanted: dict[str, Tensor], binary: dict[str, bool] | None = None) -> list[Tensor]:
    """Raises `Violation` unless the outputs have the wanted values, each in the wanted form where that is given."""
    found = outputs_of(got)
    by_name = named(found)
    for name, tensor in wanted.items():
        expect(name in by_name, f"output {name}", sorted(by_name))
        came = by_name[name]
        expect(same(came, tensor), f"the values of {name} as in JSON", clip(came.array.reshape(-1)[:8].tolist()))
        if binary is not None:
            form = "binary" if binary[name] else "JSON"
            expect(came.binary == binary[name], f"{name} in {form} form", "the other form")
    return found


def _asked(subject: Subject, binary: dict[str, bool | None], **parameters: Any) -> Sent:
    """A request in JSON that asks for outputs with their own flags, None: no flag."""
    asked = [
        {"name": name, **({} if flag is None else {"parameters": {"binary_data": flag}})}
        for name, flag in binary.items()
    ]
    body = subject.body(outputs=asked)
    return subject.infer({**body, "parameters": parameters} if parameters else body)


@check("binary.input", Level.MUST, IN, BINARY, NAME)
def binary_input(subject: Subject) -> Steps:
    """Binary inputs give the same outputs as JSON ones"""
    wanted = subject.needs_fixed_values()
    _agree((yield subject.infer_binary()), wanted)
    return None


@check("binary.input_mixed", Level.MUST, IN, BINARY, NAME)
def mixed(subject: Subject) -> Steps:
    """One input in JSON, the others binary"""
    wanted = subject.needs_fixed_values()
    if len(subject.inputs) < 2:
        raise Skip("the model has one input only")
    _agree((yield subject.infer_binary(json_names=[subject.inputs[0].name])), wanted)
    return None


@check("binary.input_order", Level.MUST, ORDER, BINARY, NAME)
def input_order(subject: Subject) -> Steps:
    """Binary data belongs to the inputs in the order of the JSON, whatever the model's"""
    wanted = subject.needs_fixed_values()
    if len(subject.inputs) < 2:
        raise Skip("the model has one input only")
    _agree((yield subject.infer_binary(subject.inputs[::-1])), wanted)
    return None


@check("binary.header_case", Level.MUST, f"{HEADER} (header names have no case: RFC 9110, 5.1)", BINARY, NAME)
def header_case(subject: Subject) -> Steps:
    """The length header is known in small letters too"""
    wanted = subject.needs_fixed_values()
    _agree((yield subject.infer_binary(header_name=HEADER_LENGTH.lower())), wanted)
    return None


@check("binary.json_header", Level.MUST, "to give the length of the JSON object", BINARY, NAME)
def json_with_header(subject: Subject) -> Steps:
    """A request all in JSON may carry the length header too"""
    wanted = subject.needs_fixed_values()
    body = json.dumps(subject.body()).encode()
    _agree((yield subject.infer(body, headers=[(HEADER_LENGTH, str(len(body)))])), wanted)
    return None


@check("binary.output", Level.MUST, OUT, BINARY, NAME)
def binary_output(subject: Subject) -> Steps:
    """Outputs asked for with binary_data come in binary form, with the right values"""
    wanted = subject.needs_fixed_values()
    got = yield _asked(subject, dict.fromkeys(wanted, True))
    _agree(got, wanted, dict.fromkeys(wanted, True))
    return None


@check("binary.output_header", Level.MUST, HEADER, BINARY, NAME)
def output_header(subject: Subject) -> Steps:
    """The length header of an answer gives exactly its JSON"""
    got = yield _asked(subject, dict.fromkeys(subject.needs_baseline(), True))
    ok(got)
    expect(got.header(HEADER_LENGTH) is not None, f"the header {HEADER_LENGTH}", got.headers)
    strict_json(json_part(got))
    return None


@check("binary.output_size", Level.MUST, SIZE, BINARY, NAME)
def output_size(subject: Subject) -> Steps:
    """binary_data_size of each output is the size of its tensor, and no data stands beside it"""
    wanted = subject.needs_baseline()
    found = document((yield _asked(subject, dict.fromkeys(wanted, True))))
    entries = found.get("outputs")
    for entry in entries if isinstance(entries, list) else []:
        if entry["name"] in wanted and wanted[entry["name"]].datatype != "BYTES":
            size = (entry.get("parameters") or {}).get("binary_data_size")
            right = len(pack(wanted[entry["name"]]))
            expect(size == right, f"binary_data_size {right} for {entry['name']}", size)
        expect("data" not in entry, f"no data beside the binary form of {entry['name']}", entry)
    return None


@check("binary.output_length", Level.MUST, "Content-Length continues to give the full body length", BINARY, NAME)
def output_length(subject: Subject) -> Steps:
    """Content-Length of a binary answer counts JSON and tensors"""
    got = yield _asked(subject, dict.fromkeys(subject.needs_baseline(), True))
    ok(got)
    value = got.header("Content-Length")
    if value is None:
        raise Skip("the answer is sent in chunks")
    expect(value == str(len(got.body)), f"Content-Length {len(got.body)}", value)
    return None


@check("binary.output_type", Level.SHOULD, "HTTP/1.1 200 OK Content-Type: application/octet-stream", BINARY, NAME)
def output_type(subject: Subject) -> Steps:
    """An answer with binary data is sent as application/octet-stream"""
    got = yield _asked(subject, dict.fromkeys(subject.needs_baseline(), True))
    ok(got)
    kind = (got.header("Content-Type") or "none").partition(";")[0]
    expect(kind == "application/octet-stream", "application/octet-stream", kind)
    return None


@check("binary.output_not", Level.MUST, OUT_FALSE, BINARY, NAME)
def not_binary(subject: Subject) -> Steps:
    """binary_data false, or not given, means JSON"""
    wanted = subject.needs_fixed_values()
    no = dict.fromkeys(wanted, False)
    _agree((yield _asked(subject, dict.fromkeys(wanted, False))), wanted, no)
    _agree((yield _asked(subject, dict.fromkeys(wanted, None))), wanted, no)
    return None


@check("binary.output_all", Level.MUST, OUT_ALL, BINARY, NAME)
def all_binary(subject: Subject) -> Steps:
    """binary_data_output makes every output binary"""
    wanted = subject.needs_fixed_values()
    got = yield subject.infer(subject.body(parameters={"binary_data_output": True}))
    _agree(got, wanted, dict.fromkeys(wanted, True))
    return None


@check("binary.output_all_named", Level.MUST, OUT_ALL, BINARY, NAME)
def all_named(subject: Subject) -> Steps:
    """binary_data_output holds for outputs that are asked for without a flag of their own"""
    wanted = subject.needs_fixed_values()
    got = yield _asked(subject, dict.fromkeys(wanted, None), binary_data_output=True)
    _agree(got, wanted, dict.fromkeys(wanted, True))
    return None


@check("binary.override_off", Level.MUST, OVERRIDE, BINARY, NAME)
def override_off(subject: Subject) -> Steps:
    """binary_data false on an output goes before binary_data_output true"""
    wanted = subject.needs_fixed_values()
    chosen = {name: place != 0 for place, name in enumerate(wanted)}
    got = yield _asked(
        subject, {name: None if flag else False for name, flag in chosen.items()}, binary_data_output=True
    )
    _agree(got, wanted, chosen)
    return None


@check("binary.override_on", Level.MUST, OVERRIDE, BINARY, NAME)
def override_on(subject: Subject) -> Steps:
    """binary_data true on an output goes before binary_data_output false"""
    wanted = subject.needs_fixed_values()
    chosen = {name: place == 0 for place, name in enumerate(wanted)}
    got = yield _asked(subject, {name: flag or None for name, flag in chosen.items()}, binary_data_output=False)
    _agree(got, wanted, chosen)
    return None


@check("binary.output_order", Level.MUST, ORDER, BINARY, NAME)
def output_order(subject: Subject) -> Steps:
    """Binary data belongs to the outputs in the order of the answer's JSON, in whatever order they were asked for"""
    wanted = subject.needs_fixed_values()
    if len(wanted) < 2:
        raise Skip("the model has one output only")
    got = yield _asked(subject, dict.fromkeys(reversed(wanted), True))
    _agree(got, wanted, dict.fromkeys(wanted, True))
    return None


@check("binary.both_ways", Level.MUST, ORDER, BINARY, NAME)
def both_ways(subject: Subject) -> Steps:
    """Binary in and out, with id and model_name as in JSON"""
    wanted = subject.needs_fixed_values()
    got = yield subject.infer_binary(id="kit-43", parameters={"binary_data_output": True})
    _agree(got, wanted, dict.fromkeys(wanted, True))
    found = document(got)
    expect(found.get("id") == "kit-43", 'id "kit-43"', found.get("id"))
    expect(found.get("model_name") == subject.model, f"model_name {subject.model!r}", found.get("model_name"))
    return None


BYTES = (
    "For BYTES type an element is represented by a 4-byte unsigned integer giving the length followed by the actual "
    "bytes."
)


@check("binary.bytes", Level.MUST, BYTES, BINARY, NAME)
def any_bytes(subject: Subject) -> Steps:
    """BYTES that are no text, and empty ones, come back unchanged"""
    subject.needs_fixed_values()
    pairs = [pair for pair in subject.repeats() if subject.inputs[pair[0]].datatype == "BYTES"]
    if not pairs:
        raise Skip("no BYTES output of the model repeats an input")
    for place, name in pairs:
        for value in (b"", b"\x00\xff\xfe", bytes(range(256))):
            given = subject.inputs[place]
            inputs = list(subject.inputs)
            inputs[place] = Tensor(given.name, "BYTES", np.full(given.shape, value, dtype=object))
            asked = [{"name": name, "parameters": {"binary_data": True}}]
            came = named(outputs_of((yield subject.infer_binary(inputs, outputs=asked))))[name]
            right = all(one == value for one in came.array.reshape(-1))
            expect(right and came.shape == given.shape, f"{value[:20]!r}", came.array.reshape(-1)[:1].tolist())
    return None


BOOL = "For BOOL type element true is a single byte with value 1 and false is a single byte with value 0."


@check("binary.bool", Level.MUST, BOOL, BINARY, NAME)
def booleans(subject: Subject) -> Steps:
    """BOOL outputs are bytes of 0 and 1"""
    wanted = {name: one for name, one in subject.needs_fixed_values().items() if one.datatype == "BOOL"}
    if not wanted:
        raise Skip("the model has no BOOL output")
    _agree((yield _asked(subject, dict.fromkeys(wanted, True))), wanted, dict.fromkeys(wanted, True))
    return None


@check("binary.no_elements", Level.OBSERVE, SIZE, BINARY, NAME)
def no_elements(subject: Subject) -> Steps:
    """What tensors without elements do (binary_data_size 0)"""
    told = subject.tensors("inputs")
    if not told or any(not entry["shape"] or entry["shape"][0] != -1 for entry in told):
        raise Skip("not every input has a variable first axis")
    empty = [make(one.name, one.datatype, [0, *one.shape[1:]]) for one in subject.needs_inputs()]
    got = yield subject.infer_binary(empty, parameters={"binary_data_output": True})
    return got.show()


def _wrong(id_: str, level: Level, quote: str, title: str, build: Callable[[Subject], Sent]) -> Check:
    """A check that a broken binary request is refused."""

    def run(subject: Subject) -> Steps:
        subject.needs_inputs()
        refused((yield build(subject)))
        return None

    run.__doc__ = title
    return check(f"binary.{id_}", level, f"{quote} {FAILED}", BINARY, NAME)(run)


def _last_size(subject: Subject) -> tuple[str, int]:
    """The last input with elements, and the size of its binary form."""
    tensor = next((one for one in reversed(subject.needs_inputs()) if one.array.size), None)
    if tensor is None:
        raise Skip("no input has elements")
    return tensor.name, len(pack(tensor))


def _declared(by_bytes: int) -> Callable[[Subject], Sent]:
    """A `binary_data_size` that is wrong by so many bytes; the body has as many as it says."""

    def build(subject: Subject) -> Sent:
        name, size = _last_size(subject)
        tail, cut_bytes = b"\x01" * max(by_bytes, 0), max(-by_bytes, 0)
        return subject.infer_binary(sizes={name: size + by_bytes}, tail=tail, cut_bytes=cut_bytes)

    return build


CHECKS = (
    *(binary_input, mixed, input_order, header_case, json_with_header, binary_output, output_header, output_size),
    *(output_length, output_type, not_binary, all_binary, all_named, override_off, override_on, output_order),
    *(both_ways, any_bytes, booleans, no_elements),
    _wrong("size_large", Level.MUST, SIZE, "A tensor of more bytes than its shape takes is refused", _declared(3)),
    _wrong("size_small", Level.MUST, SIZE, "A tensor of fewer bytes than its shape takes is refused", _declared(-1)),
    _wrong(
        "short_body",
        Level.MUST,
        SIZE,
        "A body that ends before its tensors is refused",
        lambda subject: subject.infer_binary(cut_bytes=min(1, _last_size(subject)[1])),
    ),
    _wrong(
        "long_body",
        Level.SHOULD,
        SIZE,
        "A body that goes on behind its tensors is refused",
        lambda subject: subject.infer_binary(tail=b"more"),
    ),
    _wrong(
        "no_header",
        Level.MUST,
        HEADER,
        "Binary data without the length header is refused",
        lambda subject: subject.infer_binary(header=None),
    ),
    _wrong(
        "header_large",
        Level.MUST,
        HEADER,
        "A length header beyond the body is refused",
        lambda subject: subject.infer_binary(header="99999999"),
    ),
    _wrong(
        "header_small",
        Level.MUST,
        HEADER,
        "A length header that cuts the JSON is refused",
        lambda subject: subject.infer_binary(header="20"),
    ),
    _wrong(
        "header_text",
        Level.MUST,
        HEADER,
        "A length header that is no number is refused",
        lambda subject: subject.infer_binary(header="many"),
    ),
    _wrong(
        "negative_size",
        Level.MUST,
        SIZE,
        "A negative binary_data_size is refused",
        lambda subject: subject.infer_binary(sizes={_last_size(subject)[0]: -1}),
    ),
)
