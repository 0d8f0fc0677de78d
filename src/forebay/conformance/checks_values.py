"""Inference with JSON tensors: what becomes of extreme, odd and missing values."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from forebay.conformance.answers import named, outputs_of
from forebay.conformance.check import Level, Skip, Steps, check, expect
from forebay.conformance.checks_infer import show
from forebay.conformance.sources import OIP, RFC8259
from forebay.conformance.subject import Subject
from forebay.conformance.tensors import Tensor, make, same


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
            expect(exact, f"{name} exactly {sent.array.reshape(-1)[:1].tolist()} ({given.datatype})", show(came))
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


CHECKS = (whole_numbers, floats, texts, not_a_number, no_rows, coerced)
