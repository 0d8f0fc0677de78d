"""Health and metadata of server and model."""

from __future__ import annotations

from typing import Any

from forebay.conformance.answers import document, is_json_type, is_shape, lenient_json, ok, refused, text_of
from forebay.conformance.check import Got, Level, Sent, Skip, Steps, Violation, check, clip, expect
from forebay.conformance.sources import OIP, OIP_YAML, REQUIRED, SHARED_MEMORY
from forebay.conformance.subject import ABSENT, Subject
from forebay.conformance.tensors import DATATYPES

HEALTH = "A 200 status code indicates true and a 4xx status code indicates false."
NAMED_EXTENSIONS = "The extensions supported by the server."


@check("server.live", Level.MUST, HEALTH, REQUIRED)
def live(subject: Subject) -> Steps:
    """A live server says so with 200"""
    ok((yield Sent("GET", "/v2/health/live")))
    return None


@check("server.ready", Level.MUST, HEALTH, REQUIRED)
def ready(subject: Subject) -> Steps:
    """A ready server says so with 200"""
    ok((yield Sent("GET", "/v2/health/ready")))
    return None


@check("server.live_body", Level.OBSERVE, '$live_server_response = { "live" : $bool, }', OIP)
def live_body(subject: Subject) -> Steps:
    """The body of live (the texts disagree: KServe's says it should be empty)"""
    got = yield Sent("GET", "/v2/health/live")
    return got.show()


@check("server.ready_body", Level.OBSERVE, '$ready_server_response = { "live" : $bool, }', OIP)
def ready_body(subject: Subject) -> Steps:
    """The body of ready (the texts disagree, and this one has a slip)"""
    got = yield Sent("GET", "/v2/health/ready")
    return got.show()


SERVER = (
    "A successful server metadata request is indicated by a 200 HTTP status code. The server metadata response object, "
    "identified as $metadata_server_response, is returned in the HTTP body."
)


@check("server.metadata", Level.MUST, SERVER, OIP)
def metadata(subject: Subject) -> Steps:
    """Server metadata is a JSON object"""
    document((yield Sent("GET", "/v2")))
    return None


@check("server.metadata_type", Level.MUST, "'200': description: OK content: application/json", OIP_YAML)
def metadata_type(subject: Subject) -> Steps:
    """Server metadata is sent as application/json"""
    is_json_type((yield Sent("GET", "/v2")))
    return None


@check("server.name", Level.MUST, "“name” : A descriptive name for the server.", OIP)
def server_name(subject: Subject) -> Steps:
    """Server metadata has the string name"""
    text_of(document((yield Sent("GET", "/v2"))), "name")
    return None


@check("server.version", Level.MUST, '"version" : The server version.', OIP)
def server_version(subject: Subject) -> Steps:
    """Server metadata has the string version"""
    text_of(document((yield Sent("GET", "/v2"))), "version")
    return None


@check("server.extensions", Level.MUST, NAMED_EXTENSIONS, OIP)
def extensions(subject: Subject) -> Steps:
    """Server metadata has extensions, an array of strings"""
    found = document((yield Sent("GET", "/v2"))).get("extensions")
    expect(isinstance(found, list) and all(isinstance(name, str) for name in found), "an array of strings", found)
    return clip(", ".join(found or []) or "none")


@check(
    "server.shared_memory",
    Level.OBSERVE,
    "Because both of these extensions are supported, Triton reports “system_shared_memory” and “cuda_shared_memory”",
    SHARED_MEMORY,
)
def shared_memory(subject: Subject) -> Steps:
    """Whether shared memory is announced (the kit does not use it)"""
    document((yield Sent("GET", "/v2")))
    named = sorted(name for name in subject.extensions if name.endswith("_shared_memory"))
    return ", ".join(named) or "not announced"


@check("server.slash", Level.OBSERVE, "paths: /v2/: get: summary: Server Metadata", OIP_YAML)
def slash(subject: Subject) -> Steps:
    """Server metadata under /v2/ (the table says v2, the YAML /v2/)"""
    got = yield Sent("GET", "/v2/")
    return got.show()


MODEL = (
    "A successful model metadata request is indicated by a 200 HTTP status code. The metadata response object, "
    "identified as $metadata_model_response, is returned in the HTTP body for every successful model metadata request."
)


@check("model.metadata", Level.MUST, MODEL, OIP)
def model_metadata(subject: Subject) -> Steps:
    """Model metadata is a JSON object"""
    got = yield Sent("GET", subject.path)
    document(got)
    is_json_type(got)
    return None


@check("model.name", Level.MUST, "“name” : The name of the model.", OIP)
def model_name(subject: Subject) -> Steps:
    """Model metadata tells the model's name"""
    found = document((yield Sent("GET", subject.path)))
    expect(found.get("name") == subject.model, f"name {subject.model!r}", found.get("name"))
    return None


VERSIONS = '"versions" : The model versions that may be explicitly requested via the appropriate endpoint.'


@check("model.versions", Level.MUST, VERSIONS, OIP)
def versions(subject: Subject) -> Steps:
    """The versions, where given, are an array of strings"""
    found = document((yield Sent("GET", subject.path)))
    if "versions" not in found:
        raise Skip("it tells no versions, which are optional")
    given = found["versions"]
    expect(isinstance(given, list) and all(isinstance(one, str) for one in given), "an array of strings", given)
    return clip(given)


@check("model.platform", Level.MUST, "“platform” : The framework/backend for the model.", OIP)
def platform(subject: Subject) -> Steps:
    """Model metadata has the string platform"""
    return text_of(document((yield Sent("GET", subject.path))), "platform")


@check("model.platform_form", Level.OBSERVE, "Platform names use the format “<project>_<format>”.", OIP)
def platform_form(subject: Subject) -> Steps:
    """Whether the platform's name is of that form (it is information only)"""
    found = str(document((yield Sent("GET", subject.path))).get("platform"))
    before, line, after = found.partition("_")
    return f"{found!r} is{'' if before and line and after else ' not'} of that form"


TENSOR = "Each model input and output tensors’ metadata is described with a $metadata_tensor object."


def _tensors(found: dict[str, Any], side: str) -> list[dict[str, Any]]:
    entries = found.get(side)
    expect(isinstance(entries, list), f'"{side}" to be an array', entries)
    for entry in entries or []:
        expect(isinstance(entry, dict), f"{side} to be objects", entry)
        text_of(entry, "name")
        text_of(entry, "datatype")
        expect(isinstance(entry.get("shape"), list), f'"shape" of {entry["name"]} to be an array', entry.get("shape"))
    return list(entries or [])


@check("model.inputs", Level.MUST, f"“inputs” : The inputs required by the model. {TENSOR}", OIP)
def inputs(subject: Subject) -> Steps:
    """The inputs have name, datatype and shape"""
    found = _tensors(document((yield Sent("GET", subject.path))), "inputs")
    expect(bool(found), "at least one input", found)
    return None


@check("model.outputs", Level.MUST, f"“outputs” : The outputs produced by the model. {TENSOR}", OIP)
def outputs(subject: Subject) -> Steps:
    """The outputs have name, datatype and shape"""
    found = _tensors(document((yield Sent("GET", subject.path))), "outputs")
    expect(bool(found), "at least one output", found)
    return None


DATATYPE = '"datatype" : The data-type of the tensor elements as defined in Tensor Data Types.'


@check("model.datatypes", Level.MUST, DATATYPE, OIP)
def datatypes(subject: Subject) -> Steps:
    """Datatypes of inputs and outputs are of the specification's table"""
    found = document((yield Sent("GET", subject.path)))
    for entry in (*_tensors(found, "inputs"), *_tensors(found, "outputs")):
        expect(
            entry["datatype"] in DATATYPES, f"one of {', '.join(DATATYPES)}", f"{entry['name']}: {entry['datatype']}"
        )
    return None


SHAPE = '"shape" : The shape of the tensor. Variable-size dimensions are specified as -1.'


@check("model.shapes", Level.MUST, SHAPE, OIP)
def shapes(subject: Subject) -> Steps:
    """Shapes of inputs and outputs are whole numbers of at least -1"""
    found = document((yield Sent("GET", subject.path)))
    for entry in (*_tensors(found, "inputs"), *_tensors(found, "outputs")):
        expect(is_shape(entry["shape"], -1), f"whole numbers of at least -1 for {entry['name']}", entry["shape"])
    return None


@check("model.ready", Level.MUST, HEALTH, REQUIRED)
def model_ready(subject: Subject) -> Steps:
    """A ready model says so with 200"""
    ok((yield Sent("GET", f"{subject.path}/ready")))
    return None


READY = '$ready_model_response = { "name" : $string, "ready": $bool }'


@check("model.ready_body", Level.SHOULD, READY, OIP)
def model_ready_body(subject: Subject) -> Steps:
    """The body of ready, unless empty as KServe's text has it, tells name and ready"""
    got = yield Sent("GET", f"{subject.path}/ready")
    ok(got)
    if not got.body:
        return "empty, as KServe's required_api.md says"
    found = lenient_json(got.body)
    expect(isinstance(found, dict) and found.get("name") == subject.model, f'"name": "{subject.model}"')
    expect(found.get("ready") is True, '"ready": true')
    return None


@check("model.version_metadata", Level.MUST, VERSIONS, OIP)
def version_metadata(subject: Subject) -> Steps:
    """Each version told has metadata under its own URL"""
    for version in _versions(subject):
        found = document((yield Sent("GET", f"{subject.path}/versions/{version}")))
        expect(found.get("name") == subject.model, f"name {subject.model!r}", found.get("name"))
    return None


@check("model.version_ready", Level.MUST, "GET v2/models/${MODEL_NAME}[/versions/${MODEL_VERSION}]/ready", REQUIRED)
def version_ready(subject: Subject) -> Steps:
    """A version has a ready endpoint of its own"""
    statuses = []
    for version in _versions(subject):
        got = yield Sent("GET", f"{subject.path}/versions/{version}/ready")
        statuses.append(got.status)
    expect(200 in statuses, "200 for at least one version, as the model is ready", statuses)
    return None


def _versions(subject: Subject) -> list[str]:
    if not subject.versions:
        raise Skip("the model tells no versions, which are optional")
    return subject.versions


FAILED = (
    "A failed model metadata request must be indicated by an HTTP error status (typically 400). The HTTP body must "
    "contain the $metadata_model_error_response object."
)


@check("model.unknown", Level.MUST, FAILED, OIP)
def unknown(subject: Subject) -> Steps:
    """Metadata of an unknown model: an error status and the error object"""
    refused((yield Sent("GET", f"/v2/models/{ABSENT}")))
    return None


@check("model.unknown_version", Level.MUST, FAILED, OIP)
def unknown_version(subject: Subject) -> Steps:
    """Metadata of an unknown version: an error status and the error object"""
    _versions(subject)
    refused((yield Sent("GET", f"{subject.path}/versions/987654321")))
    return None


@check("model.unknown_ready", Level.MUST, HEALTH, REQUIRED)
def unknown_ready(subject: Subject) -> Steps:
    """An unknown model is not ready: 4xx"""
    got = yield Sent("GET", f"/v2/models/{ABSENT}/ready")
    expect(400 <= got.status < 500, "a 4xx status")
    return None


@check("model.case", Level.MUST, "All strings in all contexts are case-sensitive.", REQUIRED)
def case(subject: Subject) -> Steps:
    """The model's name in other case is another model"""
    other = subject.model.swapcase()
    if other == subject.model:
        raise Skip("the model's name has no letters")
    got = yield Sent("GET", f"/v2/models/{other}")
    if got.status == 200:
        found = document(got)
        raise Violation(f"no metadata for {other!r}", clip(found.get("name")))
    refused(got)
    return None


def _same_as(one: Got, other: Got) -> bool:
    return one.status == other.status and one.body == other.body


@check("model.stable", Level.OBSERVE, MODEL, OIP)
def stable(subject: Subject) -> Steps:
    """Whether metadata is the same before and after inference"""
    before = yield Sent("GET", subject.path)
    yield subject.infer()
    after = yield Sent("GET", subject.path)
    return "the same" if _same_as(before, after) else f"changed: {after.show()}"


CHECKS = (
    *(live, ready, live_body, ready_body, metadata, metadata_type, server_name, server_version, extensions),
    *(shared_memory, slash, model_metadata, model_name, versions, platform, platform_form, inputs, outputs),
    *(datatypes, shapes, model_ready, model_ready_body, version_metadata, version_ready, unknown, unknown_version),
    *(unknown_ready, case, stable),
)
