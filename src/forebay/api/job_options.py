"""The body of a job: what `/infer` takes, and beside it what is only for jobs.

The options are taken out, so that what is kept and run is a plain body of `/infer`, and decodes as fast. Of the usual
body, which has none, nothing is changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET, Raw, UnsetType

from forebay.api.binary import parse_header_length, split_body
from forebay.api.elements import kind, show
from forebay.api.general import parse_json
from forebay.api.parameters import MAX_INTEGER
from forebay.api.webhook_url import check_webhook
from forebay.core.errors import RequestError
from forebay.core.settings_values import did_you_mean

MOST_METADATA_BYTES = 16 << 10
MOST_SECONDS = 10 * 366 * 86_400.0
"""Of `ttl_s` and `timeout_s`."""
CACHE_WORDS = ("off", "use", "refresh")

_NEVER_IN_PARAMETERS = "priority"
"""It stands there anyway, as the protocol's own."""


class JobOptions(NamedTuple):
    """What a caller wants of a job. None: the server's default; of `priority`, what the body's parameters say."""

    ttl_s: float | None = None
    timeout_s: float | None = None
    retention_s: float | None = None
    priority: int | None = None
    webhook: str = ""
    metadata: dict[str, Any] | None = None
    cache: str | None = None
    """One of `CACHE_WORDS`."""


NO_OPTIONS = JobOptions()
OPTIONS = ("ttl_s", "timeout_s", "retention_s", "priority", "cache", "webhook", "metadata")


class OptionLimits(NamedTuple):
    """What options may ask for. `private_webhooks`: webhooks may go to addresses that are not public. `webhooks`: there
    is something to sign them with."""

    retention_s: float
    json_depth: int
    private_webhooks: bool
    webhooks: bool = True


class JobBody(NamedTuple):
    """A job's options, and its body as `/infer` takes it, with the header that says how long its JSON is."""

    options: JobOptions
    body: bytes
    header_length: bytes | None


class _Body(msgspec.Struct, gc=False):
    """Of a body of `/infer` each member as it came; those that it does not know are passed over."""

    inputs: Raw | UnsetType = UNSET
    input: Raw | UnsetType = UNSET
    id: Raw | UnsetType = UNSET
    parameters: Raw | UnsetType = UNSET
    outputs: Raw | UnsetType = UNSET


class _JobBody(_Body, forbid_unknown_fields=True, gc=False):
    ttl_s: Any = UNSET
    timeout_s: Any = UNSET
    retention_s: Any = UNSET
    priority: Any = UNSET
    cache: Any = UNSET
    webhook: Any = UNSET
    metadata: Any = UNSET


MEMBERS = tuple(field.name for field in msgspec.structs.fields(_Body))
_decode_body = msgspec.json.Decoder(_Body).decode
_decode_job_body = msgspec.json.Decoder(_JobBody).decode
_encode = msgspec.json.Encoder().encode
_FAILED = (msgspec.DecodeError, ValueError, RecursionError)


def read_job_body(
    body: bytes, header_length: bytes | None, limits: OptionLimits, *, in_parameters: bool = False
) -> JobBody:
    """Takes a job's options out of its body.

    in_parameters: they stand among the request's parameters, as for `Prefer: respond-async`, else beside `inputs`.
    Only options are checked here, and members that a job does not have; what is no JSON object is passed on.

    Raises `RequestError`: invalid_request, or unsupported for `webhook`.
    """
    length = parse_header_length(header_length)
    if length == 0:  # a raw row: there is no JSON
        return JobBody(NO_OPTIONS, body, header_length)
    head: bytes | memoryview = body if length is None else split_body(body, length)[0]
    try:
        options, plain = _quickly_in_parameters(head, limits) if in_parameters else _quickly(head, limits)
    except _FAILED:
        options, plain = _patiently(head, limits, in_parameters)
    if plain is None:
        return JobBody(options, body, header_length)
    if length is None:
        return JobBody(options, plain, None)
    return JobBody(options, plain + memoryview(body)[length:], b"%d" % len(plain))


_Taken = tuple[JobOptions, bytes | None]
"""Options, and the JSON without them; None: it holds none."""


def _quickly(head: bytes | memoryview, limits: OptionLimits) -> _Taken:
    members = _decode_job_body(head)
    given = {name: value for name in OPTIONS if (value := getattr(members, name)) is not UNSET}
    if not given and members.parameters is UNSET:
        return NO_OPTIONS, None
    parameters = None if members.parameters is UNSET else msgspec.json.decode(members.parameters)
    options = _with_timeout(read_options(given, limits), parameters)
    if not given:
        return options, None
    plain = _Body(members.inputs, members.input, members.id, members.parameters, members.outputs)
    return options, _encode(plain)


def _quickly_in_parameters(head: bytes | memoryview, limits: OptionLimits) -> _Taken:
    members = _decode_body(head)
    if members.parameters is UNSET:
        return NO_OPTIONS, None
    parameters = msgspec.json.decode(members.parameters)
    given = _take_from(parameters)
    options = _with_timeout(read_options(given, limits), parameters)
    if not given:
        return options, None
    members.parameters = Raw(_encode(parameters))
    return options, _encode(members)


def _patiently(head: bytes | memoryview, limits: OptionLimits, in_parameters: bool) -> _Taken:
    """For NaN and the like, for members that there are not, and for what is wrong."""
    document = parse_json(head)
    if type(document) is not dict:
        return NO_OPTIONS, None
    parameters = document.get("parameters")
    if in_parameters:
        given = _take_from(parameters)
    else:
        given = {name: document.pop(name) for name in OPTIONS if name in document}
        for name in document:
            if name not in MEMBERS:
                known = (*MEMBERS, *OPTIONS)
                raise RequestError(
                    f"a job has no member {show(name)}; it has {', '.join(known)}{did_you_mean(name[:40], known)}"
                )
    options = _with_timeout(read_options(given, limits), parameters)
    if not given:
        return options, None
    return options, json.dumps(document, separators=(",", ":")).encode()


def _take_from(parameters: Any) -> dict[str, Any]:
    """Removes the options from a request's parameters, where those are an object."""
    if type(parameters) is not dict:
        return {}
    names = [name for name in OPTIONS if name != _NEVER_IN_PARAMETERS and name in parameters]
    return {name: parameters.pop(name) for name in names}


def _with_timeout(options: JobOptions, parameters: Any) -> JobOptions:
    """The protocol's own `timeout` (microseconds) bounds the run of a job too, where `timeout_s` does not."""
    timeout_us = parameters.get("timeout") if type(parameters) is dict else None
    if options.timeout_s is not None or type(timeout_us) is not int or timeout_us <= 0:
        return options  # one that is wrong is found where the whole body is read
    return options._replace(timeout_s=min(timeout_us / 1e6, MOST_SECONDS))


def read_options(given: Mapping[str, Any], limits: OptionLimits) -> JobOptions:
    """Options from their JSON values; null is as if it was not given.

    Raises `RequestError`: invalid_request, or unsupported for `webhook`.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        return NO_OPTIONS
    return JobOptions(
        ttl_s=_seconds("ttl_s", given, MOST_SECONDS),
        timeout_s=_seconds("timeout_s", given, MOST_SECONDS),
        retention_s=_seconds("retention_s", given, limits.retention_s),
        priority=_priority(given["priority"]) if "priority" in given else None,
        webhook=_webhook(given["webhook"], limits) if "webhook" in given else "",
        metadata=_metadata(given["metadata"], limits.json_depth) if "metadata" in given else None,
        cache=_cache(given["cache"]) if "cache" in given else None,
    )


def _cache(word: Any) -> str:
    if word not in CACHE_WORDS:
        raise RequestError(f"cache must be one of {', '.join(CACHE_WORDS)}, got {show(word)}")
    return str(word)


def _webhook(url: Any, limits: OptionLimits) -> str:
    if not limits.webhooks:
        raise RequestError(
            "webhook is not supported: this server has no secret to sign it with; the setting jobs.webhook_secrets "
            "names a file of them, and `forebay keys webhook` makes one",
            code="unsupported",
        )
    return check_webhook(url, limits.private_webhooks)


def _seconds(name: str, given: Mapping[str, Any], most_s: float) -> float | None:
    value = given.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 < value <= most_s:
        raise RequestError(f"{name} must be a number of seconds above 0 and at most {most_s:.10g}, got {show(value)}")
    return float(value)


def _priority(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_INTEGER:
        raise RequestError(
            f"priority must be an integer from 0 to {MAX_INTEGER} (1 is the highest, 0 the default), got {show(value)}"
        )
    return value


def _metadata(value: Any, json_depth: int) -> dict[str, Any]:
    if type(value) is not dict:
        raise RequestError(f"metadata must be an object, got {kind(value)}")
    if _deeper(value, json_depth):
        raise RequestError(f"metadata is nested deeper than {json_depth}")
    try:
        size_bytes = len(json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode())
        msgspec.msgpack.encode(value)
    except UnicodeEncodeError:
        raise RequestError("metadata holds a string that is not Unicode text") from None
    except (ValueError, OverflowError):
        raise RequestError("metadata holds a number that is not finite, or an integer beyond 64 bits") from None
    if size_bytes > MOST_METADATA_BYTES:
        raise RequestError(f"metadata must have at most {MOST_METADATA_BYTES} bytes of JSON, got {size_bytes}")
    return value


def _deeper(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for node in level
            for inner in (node.values() if type(node) is dict else node)
            if type(inner) in (dict, list)
        ]
        if not level:
            return False
    return True


def level_of(priority: int) -> int:
    """The protocol's priority (1 is the highest, 0 the default) as one of the queue's levels."""
    return (1, 0)[priority] if priority < 2 else 2
