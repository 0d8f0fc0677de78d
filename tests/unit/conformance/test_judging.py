"""Judging needs no server: canned answers in, verdicts out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from forebay.conformance.answers import outputs_of, refused, strict_json
from forebay.conformance.check import Check, Got, Level, Sent, Skip, Steps, Verdict, Violation, check, expect, judge
from forebay.conformance.sources import OIP
from forebay.conformance.subject import Subject
from forebay.conformance.suite import AREAS, CHECKS

PLAIN = {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}


def answered(outputs: Sequence[dict[str, Any]], tail: bytes = b"", header: bool = False, **members: Any) -> Got:
    """An inference answer; `tail` is its binary data."""
    head = json.dumps({"model_name": "m", "outputs": list(outputs), **members}).encode()
    headers = (("inference-header-content-length", str(len(head))),) if header else ()
    return Got(200, (("content-type", "application/json"), *headers), head + tail)


def a_check(run: Callable[[Subject], Steps], level: Level = Level.MUST, extension: str | None = None) -> Check:
    run.__doc__ = "What it asks."
    return check("area.name", level, "A sentence  of\nthe text.", OIP, extension)(run)


def never(sent: Sent) -> Got:
    raise AssertionError(f"nothing should be sent: {sent}")


def test_a_check_passes_fails_observes_or_skips() -> None:
    def asks(subject: Subject) -> Steps:
        got = yield Sent("GET", "/v2")
        expect(got.status == 200, "status 200")
        return "a note"

    def skips(subject: Subject) -> Steps:
        raise Skip("no reason")
        yield Sent("GET", "/v2")

    subject = Subject("m")
    passed = judge(a_check(asks), subject, lambda sent: Got(200))
    assert (passed.verdict, passed.came, passed.quote) == (Verdict.PASS, "a note", "A sentence of the text.")
    failed = judge(a_check(asks), subject, lambda sent: Got(500, body=b"oh"))
    assert (failed.verdict, failed.sent, failed.expected, failed.came) == (
        Verdict.FAIL,
        "GET /v2",
        "status 200",
        "500 oh",
    )
    assert failed.grave
    assert not judge(a_check(asks, Level.SHOULD), subject, lambda sent: Got(500)).grave
    assert judge(a_check(asks, Level.OBSERVE), subject, lambda sent: Got(500)).verdict is Verdict.OBSERVED
    assert judge(a_check(skips), subject, never).verdict is Verdict.SKIPPED
    assert judge(a_check(asks, extension="trace"), subject, never).verdict is Verdict.NOT_ANNOUNCED


def test_a_server_that_does_not_answer_fails() -> None:
    subject = Subject("m")
    found = judge(CHECKS[0], subject, lambda sent: Got(0, failure="ConnectionRefusedError"))
    assert (found.verdict, found.came) == (Verdict.FAIL, "no answer: ConnectionRefusedError")


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"\xff\xfe", b'{"outputs": 3}', b'{"outputs":[{"name":{}}]}', b"[" * 5000]
)
def test_no_answer_is_too_odd_to_be_judged(body: bytes) -> None:
    """Every check ends in a verdict, whatever the server says; none passes on a body that says nothing."""
    subject = Subject("m", frozenset(one.extension for one in CHECKS if one.extension), may_unload=True)
    for one in CHECKS:
        found = judge(one, subject, lambda sent: Got(200, (), body))
        assert found.verdict in Verdict
        if one.area in ("config", "statistics", "trace", "repository"):
            assert found.verdict is not Verdict.PASS, one.id


def test_outputs_are_read_from_json_and_from_what_follows() -> None:
    binary = {"name": "z", "datatype": "UINT8", "shape": [2], "parameters": {"binary_data_size": 2}}
    one, two = outputs_of(answered([PLAIN, binary], b"\x07\x08", header=True))
    assert (one.array.tolist(), one.binary) == ([[1.0, 2.0]], False)
    assert (two.array.tolist(), two.binary) == ([7, 8], True)


@pytest.mark.parametrize(
    ("got", "told"),
    [
        (Got(201, (), b"{}"), "status 200"),
        (Got(200, (), b"{"), "a JSON document"),
        (Got(200, (), b"[]"), "a JSON object"),
        (Got(200, (), b"{}"), '"outputs" to be an array'),
        (answered([{**PLAIN, "name": 3}]), '"name" to be a string'),
        (answered([{**PLAIN, "datatype": "float32"}]), "a datatype of the specification"),
        (answered([{**PLAIN, "shape": [-1, 2]}]), "whole numbers"),
        (answered([{**PLAIN, "shape": [3]}]), "data of output y"),
        (answered([{"name": "y", "datatype": "FP32", "shape": [1]}]), '"data" of y'),
        (answered([{**PLAIN, "parameters": {"binary_data_size": 8}}], b"\0" * 8), "a JSON document"),
        (answered([{**PLAIN, "parameters": {"binary_data_size": 8}}]), "the header Inference-Header"),
        (answered([{**PLAIN, "parameters": {"binary_data_size": 9}}], b"\0" * 8, header=True), "9 bytes of y"),
        (answered([{**PLAIN, "parameters": {"binary_data_size": 4}}], b"\0" * 4, header=True), "data of output y"),
        (answered([PLAIN], b"more", header=True), "binary_data_size to add up"),
        (Got(200, (("Inference-Header-Content-Length", "x"),), b"{}"), "a number in"),
        (Got(200, (("Inference-Header-Content-Length", "9"),), b"{}"), "within the body"),
    ],
)
def test_an_answer_that_breaks_the_form_is_told(got: Got, told: str) -> None:
    with pytest.raises(Violation) as found:
        outputs_of(got)
    assert told in found.value.expected


@pytest.mark.parametrize(
    "got",
    [
        Got(200, (), b'{"error":"x"}'),
        Got(400, (), b'{"detail":"x"}'),
        Got(400, (), b'{"error":""}'),
        Got(400, (), b'{"error":{}}'),
        Got(400, (), b"x"),
        Got(400),
        Got(0, failure="gone"),
    ],
)
def test_only_an_error_status_with_the_error_object_is_a_refusal(got: Got) -> None:
    with pytest.raises(Violation):
        refused(got)
    refused(Got(400, (), b'{"error":"x"}'))
    refused(Got(503, (), b'{"error":"x","code":"y"}'))


def test_strict_json_knows_no_nan() -> None:
    assert strict_json(b'{"a":[1]}') == {"a": [1]}
    for body in (b"[NaN]", b"[Infinity]", b"[-Infinity]", b"\xff"):
        with pytest.raises(Violation):
            strict_json(body)


def test_every_check_tells_where_it_comes_from() -> None:
    assert len(CHECKS) >= 60
    assert len({one.id for one in CHECKS}) == len(CHECKS)
    for one in CHECKS:
        assert one.area in AREAS
        assert len(one.quote) > 15, one.id
        assert one.source.url.startswith("https://"), one.id
        assert one.title, one.id
        assert not one.title.endswith("."), one.id
