"""Smaller extensions: configuration, repository, parameters, schedule policy, classification, generate, "
"logging, trace."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from forebay.conformance.answers import document, lenient_json, named, ok, outputs_of, refused
from forebay.conformance.check import Got, Level, Sent, Skip, Steps, check, clip, expect
from forebay.conformance.sources import (
    CLASSIFICATION,
    CONFIGURATION,
    GENERATE,
    LOGGING,
    PARAMETERS,
    REPOSITORY,
    SCHEDULE,
    TRACE,
)
from forebay.conformance.subject import ABSENT, JSON_TYPE, Subject
from forebay.conformance.tensors import json_data, same

CONFIG = (
    "A successful model configuration request is indicated by a 200 HTTP status code. [...] The contents of the "
    "response will be the JSON representation of the model's configuration described by the ModelConfig message"
)


@check("config.model", Level.MUST, CONFIG, CONFIGURATION, "model_configuration")
def config(subject: Subject) -> Steps:
    """The configuration is a JSON object that names the model"""
    found = document((yield Sent("GET", f"{subject.path}/config")))
    expect(found.get("name") == subject.model, f"name {subject.model!r}", found.get("name"))
    return None


@check("config.tensors", Level.MUST, CONFIG, CONFIGURATION, "model_configuration")
def config_tensors(subject: Subject) -> Steps:
    """Inputs and outputs are those of the metadata: names, data types, and dims behind the batch axis"""
    found = document((yield Sent("GET", f"{subject.path}/config")))
    batched = bool(found.get("max_batch_size"))
    for side in ("input", "output"):
        told = {entry["name"]: entry for entry in subject.tensors(f"{side}s")}
        entries = found.get(side)
        expect(isinstance(entries, list), f'"{side}" to be an array', entries)
        names = sorted(str(entry.get("name")) for entry in entries or [])
        expect(names == sorted(told), f"{side} names {sorted(told)}", names)
        for entry in entries or []:
            wanted = told[entry["name"]]
            kind = "TYPE_STRING" if wanted["datatype"] == "BYTES" else f"TYPE_{wanted['datatype']}"
            expect(entry.get("data_type") == kind, f"data_type {kind} for {entry['name']}", entry.get("data_type"))
            dims = wanted["shape"][1:] if batched else wanted["shape"]
            expect(entry.get("dims") == dims, f"dims {dims} for {entry['name']}", entry.get("dims"))
    return None


@check(
    "config.version",
    Level.MUST,
    "GET v2/models/${MODEL_NAME}[/versions/${MODEL_VERSION}]/config",
    CONFIGURATION,
    "model_configuration",
)
def config_version(subject: Subject) -> Steps:
    """A version has a configuration of its own"""
    if not subject.versions:
        raise Skip("the model tells no versions, which are optional")
    document((yield Sent("GET", f"{subject.path}/versions/{subject.versions[-1]}/config")))
    return None


CONFIG_FAILED = "A failed model configuration request must be indicated by an HTTP error status (typically 400)."


@check("config.unknown", Level.MUST, CONFIG_FAILED, CONFIGURATION, "model_configuration")
def config_unknown(subject: Subject) -> Steps:
    """The configuration of an unknown model: an error status and the error object"""
    refused((yield Sent("GET", f"/v2/models/{ABSENT}/config")))
    return None


# -- model repository --------------------------------------------------------------------------------------------------

INDEX = "The index API returns information about every model available in a model repository"


def _post(path: str, body: Any = None) -> Sent:
    return Sent("POST", path, (JSON_TYPE,), b"" if body is None else json.dumps(body).encode())


def _index(got: Got) -> list[dict[str, Any]]:
    ok(got)
    found = lenient_json(got.body)
    expect(isinstance(found, list) and all(isinstance(one, dict) for one in found), "an array of objects", found)
    for entry in found:
        for key in ("name", "state"):
            expect(isinstance(entry.get(key), str), f'"{key}" to be a string', entry)
        for key in ("version", "reason"):
            expect(isinstance(entry.get(key, ""), str), f'"{key}" to be a string', entry)
    return list(found)


@check("repository.index", Level.MUST, INDEX, REPOSITORY, "model_repository")
def index(subject: Subject) -> Steps:
    """The index lists this model with name, state and reason"""
    found = _index((yield _post("/v2/repository/index", {})))
    states = [entry["state"] for entry in found if entry["name"] == subject.model]
    expect("READY" in states, f"{subject.model} as READY", states or "it is not listed")
    return None


@check(
    "repository.ready", Level.MUST, "If true return only models ready for inferencing.", REPOSITORY, "model_repository"
)
def index_ready(subject: Subject) -> Steps:
    """With ready true only ready models are listed"""
    found = _index((yield _post("/v2/repository/index", {"ready": True})))
    others = [f"{entry['name']}: {entry['state']}" for entry in found if entry["state"] != "READY"]
    expect(not others, "READY models only", others)
    expect(subject.model in [entry["name"] for entry in found], f"{subject.model} among them", found)
    return None


LOAD_FAILED = (
    "A failed load request must be indicated by an HTTP error status (typically 400). The HTTP body must contain the "
    "$repository_load_error_response object."
)


@check("repository.load_unknown", Level.MUST, LOAD_FAILED, REPOSITORY, "model_repository")
def load_unknown(subject: Subject) -> Steps:
    """Loading an unknown model: an error status and the error object"""
    refused((yield _post(f"/v2/repository/models/{ABSENT}/load")))
    return None


UNLOAD = "A successful unload request is indicated by a 200 HTTP status."
_WAITS = 100
_WAIT_S = 0.1


@check("repository.unload", Level.MUST, UNLOAD, REPOSITORY, "model_repository")
def unload(subject: Subject) -> Steps:
    """An unloaded model is not ready and not served; loaded again it is"""
    if not subject.may_unload:
        raise Skip("--unload allows it")
    wanted = subject.needs_fixed_values()
    ok((yield _post(f"/v2/repository/models/{subject.model}/unload", {})))
    ready = yield Sent("GET", f"{subject.path}/ready")
    for _ in range(_WAITS):
        if ready.status != 200:
            break
        ready = yield Sent("GET", f"{subject.path}/ready", delay_s=_WAIT_S)
    answered = yield subject.infer()
    loaded = yield _post(f"/v2/repository/models/{subject.model}/load", {})
    again = yield Sent("GET", f"{subject.path}/ready")
    for _ in range(_WAITS):
        if again.status == 200:
            break
        again = yield Sent("GET", f"{subject.path}/ready", delay_s=_WAIT_S)
    found = named(outputs_of((yield subject.infer())))
    expect(ready.status != 200, "the unloaded model not to be ready", ready.show())
    expect(answered.status >= 400, "the unloaded model not to be served", answered.show())
    expect(loaded.status == 200 and again.status == 200, "200 for load, then ready", f"{loaded.show()}, {again.show()}")
    expect(all(name in found and same(found[name], one) for name, one in wanted.items()), "the same outputs again")
    return None


@check(
    "repository.load",
    Level.MUST,
    "The load API requests that a model be loaded into Triton, or reloaded if the model is already loaded.",
    REPOSITORY,
    "model_repository",
)
def load(subject: Subject) -> Steps:
    """A loaded model can be loaded again and serves on"""
    if not subject.may_unload:
        raise Skip("--unload allows it")
    wanted = subject.needs_fixed_values()
    ok((yield _post(f"/v2/repository/models/{subject.model}/load", {})))
    found = named(outputs_of((yield subject.infer())))
    expect(all(name in found and same(found[name], one) for name, one in wanted.items()), "the same outputs as before")
    return None


# -- parameters and schedule policy ------------------------------------------------------------------------------------

CUSTOM = (
    "The parameters extension allows an inference request to provide custom parameters that cannot be provided as "
    "inputs."
)


@check("parameters.custom", Level.MUST, CUSTOM, PARAMETERS, "parameters")
def custom(subject: Subject) -> Steps:
    """Custom parameters that are strings, numbers and booleans are accepted"""
    wanted = subject.needs_baseline()
    given = {"kit_text": "a", "kit_number": 42, "kit_real": 0.5, "kit_flag": True}
    found = named(outputs_of((yield subject.infer(subject.body(parameters=given)))))
    expect(set(found) >= set(wanted), f"the outputs {sorted(wanted)}", sorted(found))
    return None


PRIORITY = (
    '"priority" : int64 value indicating the priority of the request. Priority value zero indicates that the default'
    " priority level should be used"
)


@check("schedule.priority", Level.MUST, PRIORITY, SCHEDULE, "schedule_policy")
def priority(subject: Subject) -> Steps:
    """Priorities 0, 1 and 2 are accepted"""
    subject.needs_baseline()
    for value in (0, 1, 2):
        outputs_of((yield subject.infer(subject.body(parameters={"priority": value}))))
    return None


TIMEOUT = '"timeout" : int64 value indicating the timeout value for the request, in microseconds.'


@check("schedule.timeout", Level.MUST, TIMEOUT, SCHEDULE, "schedule_policy")
def timeout(subject: Subject) -> Steps:
    """A timeout of 30 s, in microseconds, is kept; 0 means the default"""
    subject.needs_baseline()
    for value in (30_000_000, 0):
        outputs_of((yield subject.infer(subject.body(parameters={"timeout": value}))))
    return None


@check(
    "schedule.missed",
    Level.OBSERVE,
    "If the request cannot be completed within the time Triton will take a model-specific action",
    SCHEDULE,
    "schedule_policy",
)
def missed(subject: Subject) -> Steps:
    """What a timeout of one microsecond does"""
    got = yield subject.infer(subject.body(parameters={"timeout": 1}))
    return "served" if got.status == 200 else got.show()


# -- classification ----------------------------------------------------------------------------------------------------

CLASSES = (
    "For such an output the returned tensor will not be the shape and type produced by the model, but will instead be "
    "type BYTES with shape [ batch-size, <count> ] where each element returns the classification index and label as a "
    "single string."
)


@check("classification.top", Level.MUST, CLASSES, CLASSIFICATION, "classification")
def classes(subject: Subject) -> Steps:
    """The top class of an output is \"value:index\" of its largest element, as BYTES"""
    wanted = subject.needs_fixed_values()
    chosen = [one for one in wanted.values() if one.datatype not in ("BYTES", "BOOL") and one.array.size > 1]
    chosen = [one for one in chosen if len(one.shape) == 2 and np.isfinite(one.array.astype(float)).all()]
    if not chosen:
        raise Skip("no output is a matrix of numbers")
    tensor = chosen[0]
    asked = [{"name": tensor.name, "parameters": {"classification": 1}}]
    found = document((yield subject.infer(subject.body(outputs=asked))))
    entry = next((one for one in found.get("outputs", []) if one.get("name") == tensor.name), None)
    expect(entry is not None, f"output {tensor.name}")
    assert entry is not None
    # The text says BYTES, its own example STRING and leaves the batch axis out.
    expect(entry.get("datatype") in ("BYTES", "STRING"), "datatype BYTES", entry.get("datatype"))
    rows = tensor.shape[0]
    expect(entry.get("shape") in ([rows, 1], [1] if rows == 1 else [rows, 1]), f"shape [{rows}, 1]", entry.get("shape"))
    for text, row in zip(np.ravel(entry["data"]).tolist(), tensor.array, strict=True):
        value, _, rest = str(text).partition(":")
        place = rest.partition(":")[0]
        right = place.isdigit() and int(place) < row.size and row[int(place)] == row.max()
        expect(right, f"the index of {row.max()}, such as {int(row.argmax())}", text)
        expect(abs(float(value) - float(row.max())) <= 1e-3 * max(1.0, abs(float(row.max()))), f"{row.max()}", text)
    return None


# -- generate ----------------------------------------------------------------------------------------------------------


def _prompt(subject: Subject) -> dict[str, Any]:
    """The plain request in the flat form of generate: "additional properties [...] are passed [...] as tensors"."""
    body: dict[str, Any] = {}
    for tensor in subject.needs_inputs():
        data = json_data(tensor)
        body[tensor.name] = data[0] if len(data) == 1 else data
    return body


@check(
    "generate.once",
    Level.MUST,
    "/generate returns exactly 1 response JSON object with a Content-Type of application/json",
    GENERATE,
    "generate",
)
def generate(subject: Subject) -> Steps:
    """generate answers with one JSON object that names the model"""
    subject.needs_baseline()
    got = yield _post(f"{subject.path}/generate", _prompt(subject))
    found = document(got)
    kind = (got.header("Content-Type") or "none").partition(";")[0]
    expect(kind == "application/json", "Content-Type: application/json", kind)
    expect(found.get("model_name") == subject.model, f"model_name {subject.model!r}", found.get("model_name"))
    return None


STREAM = (
    "/generate_stream may return multiple responses based on the inference results, with a Content-Type of "
    "text/event-stream; charset=utf-8."
)


@check("generate.stream", Level.MUST, STREAM, GENERATE, "generate")
def generate_stream(subject: Subject) -> Steps:
    """generate_stream answers with server-sent events, each a JSON object"""
    subject.needs_baseline()
    got = yield _post(f"{subject.path}/generate_stream", _prompt(subject))
    ok(got)
    kind = (got.header("Content-Type") or "none").replace(" ", "").lower()
    expect(kind == "text/event-stream;charset=utf-8", "text/event-stream; charset=utf-8", kind)
    events = [line[5:].strip() for line in got.body.splitlines() if line.startswith(b"data:")]
    expect(bool(events), "at least one data: line")
    for event in events:
        found = lenient_json(event)
        expect(isinstance(found, dict) and "error" not in found, "a JSON object without error", event)
    return f"{len(events)} events"


GENERATE_FAILED = "A failed generate request must be indicated by an HTTP error status (typically 400)."


@check("generate.unknown", Level.MUST, GENERATE_FAILED, GENERATE, "generate")
def generate_unknown(subject: Subject) -> Steps:
    """generate of an unknown model: an error status and the error object"""
    refused((yield _post(f"/v2/models/{ABSENT}/generate", {"text_input": "x"})))
    return None


# -- logging and trace -------------------------------------------------------------------------------------------------

LOG = (
    "The response object, identified as $log_setting_response, is returned in the HTTP body for every successful log"
    " setting request."
)


@check("logging.get", Level.MUST, LOG, LOGGING, "logging")
def logging_get(subject: Subject) -> Steps:
    """The log settings are strings, booleans and whole numbers"""
    found = document((yield Sent("GET", "/v2/logging")))
    wrong = [key for key, value in found.items() if not isinstance(value, str | bool | int)]
    expect(not wrong, "strings, booleans and whole numbers", wrong)
    return clip(", ".join(found))


@check(
    "logging.set",
    Level.MUST,
    "When a $log_setting JSON is received (defined above), only the specified settings will be updated.",
    LOGGING,
    "logging",
)
def logging_set(subject: Subject) -> Steps:
    """Setting one to the value it has changes none"""
    before = document((yield Sent("GET", "/v2/logging")))
    key = next((name for name in ("log_verbose_level", "log_info") if name in before), None)
    if key is None:
        raise Skip("there is neither log_verbose_level nor log_info")
    after = document((yield _post("/v2/logging", {key: before[key]})))
    expect(after == before, f"{before}", after)
    return None


@check(
    "logging.unknown",
    Level.MUST,
    "A failed log setting request will be indicated by an HTTP error status (typically 400).",
    LOGGING,
    "logging",
)
def logging_unknown(subject: Subject) -> Steps:
    """An unknown log setting: an error status and the error object"""
    refused((yield _post("/v2/logging", {ABSENT: True})))
    return None


@check("trace.get", Level.MUST, "$trace_setting = $string : $string | [ $string, ...]", TRACE, "trace")
def trace_get(subject: Subject) -> Steps:
    """The trace settings, of server and model, are strings and arrays of strings"""
    for path in ("/v2/trace", f"{subject.path}/trace"):
        found = document((yield Sent("GET", path)))
        for key, value in found.items():
            texts = value if isinstance(value, list) else [value]
            expect(all(isinstance(text, str) for text in texts), f"{key} to be a string or strings", value)
    return None


CHECKS = (
    *(config, config_tensors, config_version, config_unknown, index, index_ready, load_unknown, load, unload),
    *(custom, priority, timeout, missed, classes, generate, generate_stream, generate_unknown),
    *(logging_get, logging_set, logging_unknown, trace_get),
)
