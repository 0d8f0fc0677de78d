"""The statistics extension: the fields, and whether the counts add up."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from forebay.conformance.answers import document, is_json_type, refused
from forebay.conformance.check import Got, Level, Sent, Skip, Steps, check, expect, violated
from forebay.conformance.sources import STATISTICS
from forebay.conformance.subject import ABSENT, Subject

NAME = "statistics"
REQUESTS = 5
_TRIES = 20
_PAUSE_S = 0.05
DURATIONS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")

Reading = Generator[Sent, Got, dict[str, Any]]
STATS = '$stats_model_response = { "model_stats" : [ $model_stat, ... ] }'


def _entries(got: Got) -> list[dict[str, Any]]:
    found = document(got).get("model_stats")
    expect(isinstance(found, list) and all(isinstance(one, dict) for one in found), '"model_stats": an array', found)
    return list(found or [])


def _read(subject: Subject, delay_s: float = 0.0) -> Reading:
    """The model's statistics, summed over its versions."""
    entries = _entries((yield Sent("GET", f"{subject.path}/stats", delay_s=delay_s)))
    expect(bool(entries), "an entry for the model", entries)
    total = entries[0]
    for entry in entries[1:]:
        total = _sum(total, entry)
    return total


def _sum(one: Any, other: Any) -> Any:
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: _sum(one.get(key), other.get(key)) for key in {**one, **other}}
    if isinstance(one, list) and isinstance(other, list):
        return one + other
    if isinstance(one, int) and isinstance(other, int):
        return one + other
    return other if one is None else one


def _count(entry: dict[str, Any], *keys: str) -> int:
    value: Any = entry
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    if type(value) is not int:
        violated(f"a whole number at {'.'.join(keys)}", value)
    return int(value)


def _rise(subject: Subject, keys: tuple[str, ...], wanted: int) -> Steps:
    """Sends the plain request 5 times; the count must rise by `wanted`. It may lag behind the answers a little."""
    subject.needs_baseline()
    before = _count((yield from _read(subject)), *keys)
    for _ in range(REQUESTS):
        yield subject.infer()
    rise = 0
    for _ in range(_TRIES):
        rise = _count((yield from _read(subject, _PAUSE_S)), *keys) - before
        if rise >= wanted:
            break
    name = ".".join(keys)
    expect(rise == wanted, f"{name} to rise by {wanted} with {REQUESTS} requests (nobody else may use it)", f"{rise}")
    return None


@check(
    "statistics.model",
    Level.MUST,
    "A successful statistics request is indicated by a 200 HTTP status code.",
    STATISTICS,
    NAME,
)
def model(subject: Subject) -> Steps:
    """A model's statistics name it"""
    got = yield Sent("GET", f"{subject.path}/stats")
    entries = _entries(got)
    is_json_type(got)
    expect(bool(entries) and all(one.get("name") == subject.model for one in entries), f"entries of {subject.model}")
    return None


EVERY = "if not provided Triton will return the statistics for all versions of all models."


@check("statistics.all", Level.MUST, EVERY, STATISTICS, NAME)
def every_model(subject: Subject) -> Steps:
    """The statistics of all models hold this one"""
    entries = _entries((yield Sent("GET", "/v2/models/stats")))
    names = [one.get("name") for one in entries]
    expect(subject.model in names, f"an entry of {subject.model}", names)
    return None


VERSION = "The $version field is optional for servers that do not support versions."


@check(
    "statistics.version",
    Level.MUST,
    f"GET v2/models[/${{MODEL_NAME}}[/versions/${{MODEL_VERSION}}]]/stats {VERSION}",
    STATISTICS,
    NAME,
)
def of_version(subject: Subject) -> Steps:
    """A version has statistics of its own"""
    if not subject.versions:
        raise Skip("the model tells no versions, which are optional")
    version = subject.versions[-1]
    entries = _entries((yield Sent("GET", f"{subject.path}/versions/{version}/stats")))
    told = [one.get("version") for one in entries]
    expect(told == [version], f"one entry of version {version!r}", told)
    return None


FIELDS = (
    '$model_stat = { "name" : $string, ..., "inference_stats" : $inference_stats, "batch_stats" : [ $batch_stat, ...'
    " ] }"
)


@check("statistics.fields", Level.MUST, FIELDS, STATISTICS, NAME)
def fields(subject: Subject) -> Steps:
    """Every count and duration is there, as a whole number of at least 0"""
    yield subject.infer()
    found = yield from _read(subject)
    for key in ("last_inference", "inference_count", "execution_count"):
        expect(_count(found, key) >= 0, f"{key} of at least 0", found.get(key))
    for key in DURATIONS:
        for part in ("count", "ns"):
            expect(_count(found, "inference_stats", key, part) >= 0, f"{key}.{part} of at least 0")
    batches = found.get("batch_stats")
    expect(isinstance(batches, list), "batch_stats to be an array", batches)
    for batch in batches or []:
        expect(_count(batch, "batch_size") >= 0, "batch_size", batch)
        for key in ("compute_input", "compute_infer", "compute_output"):
            expect(_count(batch, key, "count") >= 0 and _count(batch, key, "ns") >= 0, f"{key}", batch)
    return None


SUCCESS = "“success” : The count and cumulative duration for all successful inference requests."


@check("statistics.success", Level.MUST, SUCCESS, STATISTICS, NAME)
def success(subject: Subject) -> Steps:
    """success counts each request"""
    return (yield from _rise(subject, ("inference_stats", "success", "count"), REQUESTS))


@check(
    "statistics.queue",
    Level.MUST,
    "“queue” : The count and cumulative duration that inference requests wait",
    STATISTICS,
    NAME,
)
def queue(subject: Subject) -> Steps:
    """queue counts each request"""
    return (yield from _rise(subject, ("inference_stats", "queue", "count"), REQUESTS))


INFERENCES = (
    '"inference_count" : The cumulative count of successful inference requests made for this model. Each inference in '
    "a batched request is counted as an individual inference."
)


def _rows(subject: Subject) -> int:
    """The rows of the plain request. Raises `Skip` where they cannot be known."""
    told = subject.tensors("inputs")
    inputs = subject.needs_inputs()
    if told and all(entry["shape"] and entry["shape"][0] == -1 for entry in told):
        return inputs[0].shape[0]
    raise Skip("not every input has a variable first axis, so what counts as an inference is not known")


@check("statistics.inferences", Level.MUST, INFERENCES, STATISTICS, NAME)
def inferences(subject: Subject) -> Steps:
    """inference_count counts each row"""
    return (yield from _rise(subject, ("inference_count",), REQUESTS * _rows(subject)))


EXECUTIONS = '"execution_count" : The cumulative count of the number of successful inference executions performed'


@check("statistics.executions", Level.MUST, EXECUTIONS, STATISTICS, NAME)
def executions(subject: Subject) -> Steps:
    """execution_count rises by one for each of requests sent one after the other"""
    return (yield from _rise(subject, ("execution_count",), REQUESTS))


BATCHES = "The batch statistics indicate how many actual model executions were performed"


@check("statistics.batches", Level.MUST, BATCHES, STATISTICS, NAME)
def batches(subject: Subject) -> Steps:
    """The executions of all batch sizes add up to execution_count"""
    subject.needs_baseline()
    yield subject.infer()
    summed = counted = 0
    for _ in range(_TRIES):
        found = yield from _read(subject, _PAUSE_S)
        entries = found.get("batch_stats")
        expect(isinstance(entries, list), "batch_stats to be an array", entries)
        summed = sum(_count(one, "compute_infer", "count") for one in entries or [])
        counted = _count(found, "execution_count")
        if summed == counted:
            break
    expect(summed == counted, f"counts that add up to execution_count, {counted}", summed)
    return None


LAST = (
    '"last_inference" : The timestamp of the last inference request made for this model, as milliseconds since the '
    "epoch."
)
_YEAR_2000_MS = 946_684_800_000
_YEAR_3000_MS = 32_503_680_000_000


@check("statistics.last", Level.MUST, LAST, STATISTICS, NAME)
def last(subject: Subject) -> Steps:
    """last_inference is in milliseconds since the epoch and does not go back"""
    subject.needs_baseline()
    yield subject.infer()
    one = _count((yield from _read(subject, _PAUSE_S)), "last_inference")
    yield subject.infer()
    other = _count((yield from _read(subject, _PAUSE_S)), "last_inference")
    expect(_YEAR_2000_MS < one < _YEAR_3000_MS, "milliseconds since the epoch", one)
    expect(other >= one, f"at least {one} after a further request", other)
    return None


@check("statistics.time", Level.MUST, '"ns" : The total duration for the statistic in nanoseconds.', STATISTICS, NAME)
def time(subject: Subject) -> Steps:
    """Durations grow with the requests"""
    subject.needs_baseline()
    before = _count((yield from _read(subject)), "inference_stats", "success", "ns")
    for _ in range(REQUESTS):
        yield subject.infer()
    after = before
    for _ in range(_TRIES):
        after = _count((yield from _read(subject, _PAUSE_S)), "inference_stats", "success", "ns")
        if after > before:
            break
    expect(after > before, f"success.ns above {before}", after)
    return None


@check(
    "statistics.failures",
    Level.OBSERVE,
    "“fail” : The count and cumulative duration for all failed inference requests.",
    STATISTICS,
    NAME,
)
def failures(subject: Subject) -> Steps:
    """Whether a refused request counts as failed"""
    before = _count((yield from _read(subject)), "inference_stats", "fail", "count")
    yield subject.infer({"inputs": []})
    after = _count((yield from _read(subject, _PAUSE_S)), "inference_stats", "fail", "count")
    return f"fail.count rose by {after - before}"


FAILED = (
    "A failed statistics request will be indicated by an HTTP error status (typically 400). The HTTP body must contain "
    "the $repository_statistics_error_response object."
)


@check("statistics.unknown", Level.MUST, FAILED, STATISTICS, NAME)
def unknown(subject: Subject) -> Steps:
    """Statistics of an unknown model: an error status and the error object"""
    refused((yield Sent("GET", f"/v2/models/{ABSENT}/stats")))
    return None


CHECKS = (
    *(model, every_model, of_version, fields, success, queue, inferences, executions, batches, last, time, failures),
    unknown,
)
