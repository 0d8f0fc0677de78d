"""Mistakes that servers of the protocol make, each with the check that must find it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.e2e.mutating import After, Before, Mutation, Reply, Request

Edit = Callable[[Any], Any]


def on(path: str, edit: Edit, status: int = 200) -> After:
    """Edits the JSON of answers to GET of paths that end so."""

    def after(request: Request, reply: Reply) -> Reply:
        if request.method == "GET" and request.path.endswith(path) and reply.status == status:
            document = reply.json()
            return reply.with_json(edit(document) or document)
        return reply

    return after


def answer(edit: Edit) -> After:
    """Edits the JSON of inference answers."""

    def after(request: Request, reply: Reply) -> Reply:
        if request.infers and reply.status == 200:
            document = reply.json()
            return reply.with_json(edit(document) or document)
        return reply

    return after


def output(name: str, edit: Edit) -> After:
    """Edits one output of inference answers that hold it in JSON form."""

    def change(document: Any) -> None:
        for entry in document["outputs"]:
            if entry["name"] == name and "data" in entry:
                edit(entry)

    return answer(change)


def refusal(change: Callable[[Reply], Reply]) -> After:
    """Changes refusals of inference requests."""
    return lambda request, reply: change(reply) if request.infers and reply.status >= 400 else reply


def asking(edit: Edit) -> Before:
    """Edits inference requests that are JSON objects."""

    def before(request: Request) -> Request:
        document = request.json() if request.infers else None
        if isinstance(document, dict):
            edit(document)
            return request.with_json(document)
        return request

    return before


def status_of(path: str, status: int) -> After:
    """Another status for GET of this path."""
    return lambda request, reply: replace(reply, status=status) if request.path == path else reply


def accepts(wrong: Callable[[Request], bool]) -> After:
    """Answers such requests with the first good answer that passed by."""
    good: list[Reply] = []

    def after(request: Request, reply: Reply) -> Reply:
        if request.infers and reply.status == 200 and not good:
            good.append(reply)
        return good[0] if good and request.infers and reply.status >= 400 and wrong(request) else reply

    return after


def binary(change: Callable[[Reply], Reply]) -> After:
    """Changes answers with binary data."""
    return lambda request, reply: change(reply) if "inference-header-content-length" in reply.headers else reply


def _first_input(request: Request) -> dict[str, Any]:
    document = request.json()
    found = document.get("inputs") if isinstance(document, dict) else None
    return found[0] if isinstance(found, list) and found and isinstance(found[0], dict) else {}


def _too_few(request: Request) -> bool:
    first = _first_input(request)
    return isinstance(first.get("data"), list) and len(first["data"]) == 1


def _rename_shape(entry: dict[str, Any]) -> None:
    entry["shape"] = entry["shape"][::-1]


def _in_model_order(request: Request, reply: Reply) -> Reply:
    """Names in the order asked for, data in the model's: only seen where the client asks in another order."""
    if not (
        request.infers and reply.status == 200 and isinstance(request.json(), dict) and "outputs" in request.json()
    ):
        return reply
    document = reply.json()
    entries = document["outputs"]
    by_name = {entry["name"]: entry for entry in entries}
    if {"out_uint16", "out_uint32"} <= set(by_name) and entries[0]["name"] != "out_bool":
        one, other = by_name["out_uint16"], by_name["out_uint32"]
        one["data"], other["data"] = other["data"], one["data"]
    return reply.with_json(document)


def _swap_pieces(reply: Reply) -> Reply:
    """The first two binary outputs in the wrong order behind the JSON."""
    sizes = [entry["parameters"]["binary_data_size"] for entry in reply.json()["outputs"] if "parameters" in entry]
    if len(sizes) < 2:
        return reply
    start, middle, end = reply.split, reply.split + sizes[0], reply.split + sizes[0] + sizes[1]
    body = reply.body
    return replace(reply, body=body[:start] + body[middle:end] + body[start:middle] + body[end:])


def _big_endian(reply: Reply) -> Reply:
    rest = reply.body[reply.split :]
    place, pieces = 0, []
    for entry in reply.json()["outputs"]:
        size = entry.get("parameters", {}).get("binary_data_size", 0)
        piece = rest[place : place + size]
        place += size
        wide = entry["datatype"] == "FP32"
        pieces.append(b"".join(piece[at : at + 4][::-1] for at in range(0, size, 4)) if wide else piece)
    return replace(reply, body=reply.body[: reply.split] + b"".join(pieces))


def _longer(reply: Reply) -> Reply:
    length = int(reply.headers["inference-header-content-length"]) + 1
    return reply.with_header("inference-header-content-length", str(length))


def _wrong_size(reply: Reply) -> Reply:
    document = reply.json()
    for entry in document["outputs"]:
        if entry["datatype"] == "FP64" and "parameters" in entry:
            entry["parameters"]["binary_data_size"] //= 2
    return reply.with_json(document)


def _no_output_flags(document: Any) -> None:
    for entry in document.get("outputs") or []:
        if isinstance(entry, dict):
            entry.pop("parameters", None)


def _frozen() -> After:
    """Statistics that stay as they were first."""
    kept: dict[str, bytes] = {}

    def after(request: Request, reply: Reply) -> Reply:
        if not request.path.endswith("/stats") or reply.status != 200:
            return reply
        return replace(reply, body=kept.setdefault(request.path, reply.body))

    return after


def _sulking() -> After:
    """After three refusals every inference fails."""
    refused: list[int] = []

    def after(request: Request, reply: Reply) -> Reply:
        if request.infers and reply.status >= 400:
            refused.append(reply.status)
        return reply.with_json({"error": "broken"}, 500) if request.infers and len(refused) > 3 else reply

    return after


def stats(edit: Edit) -> After:
    """Edits each model's entry in the statistics."""
    return on("/stats", lambda document: [edit(entry) for entry in document["model_stats"]] and None)


def _double(entry: dict[str, Any]) -> None:
    entry["inference_stats"]["success"]["count"] *= 2


def _any_case(request: Request) -> Request:
    return replace(request, path=request.path.lower())


def _set(**members: Any) -> Edit:
    def edit(document: Any) -> None:
        document.update(members)

    return edit


def _drop(*names: str) -> Edit:
    def edit(document: Any) -> None:
        for name in names:
            document.pop(name, None)

    return edit


def _tensor(**members: Any) -> Edit:
    """Sets members of the first input in model metadata."""

    def edit(document: Any) -> None:
        document["inputs"][0].update(members)

    return edit


def _rounded(entry: dict[str, Any]) -> None:
    entry["data"] = [int(float(value)) for value in entry["data"]]


def _short(entry: dict[str, Any]) -> None:
    entry["data"] = [round(value, 3) for value in entry["data"]]


def _cut_at_nul(entry: dict[str, Any]) -> None:
    entry["data"] = [value.partition("\x00")[0] for value in entry["data"]]


def _ascii_id(document: Any) -> None:
    if "id" in document:
        document["id"] = document["id"].encode("ascii", "replace").decode()


def _config_dims(document: Any) -> None:
    for entry in document["input"]:
        entry["dims"] = [-1, *entry["dims"]]


def _config_type(document: Any) -> None:
    for entry in document["output"]:
        entry["data_type"] = entry["data_type"].removeprefix("TYPE_")


def _refuse_nested(request: Request, reply: Reply) -> Reply:
    data = _first_input(request).get("data")
    nested = isinstance(data, list) and bool(data) and isinstance(data[0], list)
    return reply.with_json({"error": "data must be flat"}, 400) if nested else reply


def _get_infers(request: Request, reply: Reply) -> Reply:
    return replace(reply, status=200) if request.method == "GET" and request.path.endswith("/infer") else reply


def _cut_body(request: Request, reply: Reply) -> Reply:
    return replace(reply, length=len(reply.body) + 10) if request.infers and reply.status == 200 else reply


def _lives_on(request: Request, reply: Reply) -> Reply:
    return replace(reply, closes=False)


def _reject_unversioned(request: Request, reply: Reply) -> Reply:
    versioned = request.infers and "/versions/" in request.path
    return reply.with_json({**reply.json(), "model_version": "7"}) if versioned and reply.status == 200 else reply


ABSENT = "/v2/models/forebay-conformance-absent"
INFERRED = "/v2/models/echo"

MUTATIONS = (
    Mutation("live is 503", "server.live", status_of("/v2/health/live", 503)),
    Mutation("ready is 500", "server.ready", status_of("/v2/health/ready", 500)),
    Mutation("metadata without extensions", "server.extensions", on("/v2", _drop("extensions"))),
    Mutation("server version is a number", "server.version", on("/v2", _set(version=1.0))),
    Mutation(
        "metadata as text/html", "server.metadata_type", lambda _, reply: reply.with_header("content-type", "text/html")
    ),
    Mutation("metadata names another model", "model.name", on(INFERRED, _set(name="other"))),
    Mutation("no platform", "model.platform", on(INFERRED, _drop("platform"))),
    Mutation("versions are numbers", "model.versions", on(INFERRED, _set(versions=[1]))),
    Mutation("a variable axis is null", "model.shapes", on(INFERRED, _tensor(shape=[None, 2]))),
    Mutation("numpy's name of a datatype", "model.datatypes", on(INFERRED, _tensor(datatype="float32"))),
    Mutation("ready does not name the model", "model.ready_body", on("/echo/ready", _drop("name"))),
    Mutation("an unknown model has metadata", "model.unknown", status_of(ABSENT, 200)),
    Mutation("no error key", "model.unknown", on(ABSENT, lambda _: {"detail": "not found"}, 404)),
    Mutation("an unknown model is ready", "model.unknown_ready", status_of(f"{ABSENT}/ready", 200)),
    Mutation("model names in any case", "model.case", before=_any_case),
    Mutation("the id is lost", "infer.id", answer(_drop("id"))),
    Mutation("the id is made ASCII", "infer.id_text", answer(_ascii_id)),
    Mutation("wrong model_name", "infer.model_name", answer(_set(model_name="model"))),
    Mutation("model_version is missing", "infer.model_version", answer(_drop("model_version"))),
    Mutation("model_version is a number", "infer.model_version", answer(_set(model_version=1))),
    Mutation("another version answers", "infer.version", _reject_unversioned),
    Mutation("wrong shape", "infer.shapes", output("out_fp32", _rename_shape)),
    Mutation("wrong datatype", "infer.datatypes", output("out_fp32", _set(datatype="FP64"))),
    Mutation("an element is lost", "infer.data_fits", output("out_int8", lambda entry: entry["data"].pop() and None)),
    Mutation("whole numbers as floats", "infer.data_fits", output("out_int8", _set(data=[1.5, 2.5]))),
    Mutation("an output is lost", "infer.all_outputs", answer(lambda document: document["outputs"].pop() and None)),
    Mutation("requested outputs are ignored", "infer.only_requested", before=asking(_drop("outputs"))),
    Mutation("data in another order than names", "infer.all_requested", _in_model_order),
    Mutation("nested data is refused", "infer.nested", _refuse_nested),
    Mutation("INT64 through a double", "infer.whole_numbers", output("out_int64", _rounded)),
    Mutation("floats with three digits", "infer.floats", output("out_fp64", _short)),
    Mutation("texts end at a NUL", "infer.texts", output("out_bytes", _cut_at_nul)),
    Mutation(
        "success is 201", "infer.works", lambda request, reply: replace(reply, status=201) if request.infers else reply
    ),
    Mutation("malformed JSON is accepted", "refuse.cut_json", accepts(lambda request: request.json() is None)),
    Mutation("too few elements are accepted", "refuse.few_elements", accepts(_too_few)),
    Mutation(
        "an unknown input is accepted",
        "refuse.wrong_name",
        accepts(lambda request: _first_input(request).get("name") == ABSENT.rpartition("/")[2]),
    ),
    Mutation(
        "an unknown datatype is accepted",
        "refuse.unknown_datatype",
        accepts(lambda request: _first_input(request).get("datatype") == "FP33"),
    ),
    Mutation("500 instead of 400", "refuse.status", refusal(lambda reply: replace(reply, status=500))),
    Mutation("errors with status 200", "refuse.cut_json", refusal(lambda reply: replace(reply, status=200))),
    Mutation(
        "errors as text/html",
        "refuse.content_type",
        refusal(lambda reply: reply.with_header("content-type", "text/html")),
    ),
    Mutation(
        "errors as a page", "refuse.cut_json", refusal(lambda reply: replace(reply, body=b"<h1>Bad Request</h1>"))
    ),
    Mutation(
        "error is an object", "refuse.no_inputs", refusal(lambda reply: reply.with_json({"error": {"message": "x"}}))
    ),
    Mutation("refusals harm later requests", "refuse.unharmed", _sulking()),
    Mutation("length header off by one", "binary.output_header", binary(_longer)),
    Mutation(
        "no length header",
        "binary.output_header",
        binary(lambda reply: reply.with_header("inference-header-content-length", None)),
    ),
    Mutation("wrong binary_data_size", "binary.output_size", binary(_wrong_size)),
    Mutation("binary data in another order", "binary.output_order", binary(_swap_pieces)),
    Mutation("big-endian numbers", "binary.output", binary(_big_endian)),
    Mutation(
        "binary answers as JSON type",
        "binary.output_type",
        binary(lambda reply: reply.with_header("content-type", "application/json")),
    ),
    Mutation("an output's own flag is ignored", "binary.override_off", before=asking(_no_output_flags)),
    Mutation("binary_data_output is ignored", "binary.output_all", before=asking(_drop("parameters"))),
    Mutation("statistics stand still", "statistics.success", _frozen()),
    Mutation("requests are counted twice", "statistics.success", stats(_double)),
    Mutation(
        "last_inference in seconds",
        "statistics.last",
        stats(lambda entry: entry.update(last_inference=entry["last_inference"] // 1000)),
    ),
    Mutation("batch_stats are empty", "statistics.batches", stats(_set(batch_stats=[]))),
    Mutation("no inference_stats", "statistics.fields", stats(_drop("inference_stats"))),
    Mutation("dims with the batch axis", "config.tensors", on("/config", _config_dims)),
    Mutation("data types without TYPE_", "config.tensors", on("/config", _config_type)),
    Mutation("a body shorter than its length", "http.length", _cut_body),
    Mutation("405 without Allow", "http.allow", lambda _, reply: reply.with_header("allow", None)),
    Mutation("one request a connection", "http.keep_alive", lambda _, reply: replace(reply, closes=True)),
    Mutation("Connection: close is ignored", "http.close", _lives_on),
    Mutation("GET infers", "http.get_infer", _get_infers),
)
