"""A job's options are taken out of its body, which is then one of /infer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from forebay.api.job_options import (
    MOST_METADATA_BYTES,
    NO_OPTIONS,
    JobBody,
    JobOptions,
    OptionLimits,
    level_of,
    read_job_body,
    read_options,
)
from forebay.core.errors import RequestError

LIMITS = OptionLimits(retention_s=1000.0, json_depth=8, private_webhooks=False)
INPUTS = '"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1.50,2e0]}]'
EVERY: dict[str, Any] = {
    "ttl_s": 5,
    "timeout_s": 0.5,
    "retention_s": 1000,
    "priority": 1,
    "cache": "off",
    "webhook": "https://example.com/hook",
    "metadata": {"user": 7, "tags": ["a", None, True, 1.5]},
}
FOUND = JobOptions(5.0, 0.5, 1000.0, 1, "https://example.com/hook", EVERY["metadata"], "off")


def read(body: str | bytes, header_length: bytes | None = None, *, in_parameters: bool = False) -> JobBody:
    body = body.encode() if isinstance(body, str) else body
    return read_job_body(body, header_length, LIMITS, in_parameters=in_parameters)


@pytest.mark.parametrize(
    "body",
    [
        "{" + INPUTS + "}",
        " {" + INPUTS + ', "id": "a", "outputs": []} ',
        '{"input": {"x": [1, 2]}}',
        '{"input": {"x": [NaN, 2]}}',
        "{}",
        "[1]",
        "3",
    ],
)
def test_a_body_without_options_stays_as_it_is(body: str) -> None:
    for in_parameters in (False, True):
        assert read(body, in_parameters=in_parameters) == JobBody(NO_OPTIONS, body.encode(), None)


def test_options_beside_inputs_are_taken_out() -> None:
    more = json.dumps(EVERY)[1:-1]
    found = read("{" + more + "," + INPUTS + ', "id": "a", "parameters": {"explain": true}, "outputs": [] }')
    assert found.options == FOUND
    # The other members are what they were, to the letter.
    assert found.body == b'{%b,"id":"a","parameters":{"explain": true},"outputs":[]}' % INPUTS.encode()


def test_options_among_the_parameters_are_taken_out() -> None:
    named = {name: value for name, value in EVERY.items() if name != "priority"}
    parameters = json.dumps({**named, "priority": 1, "own": 3})
    found = read("{" + INPUTS + f', "parameters": {parameters}' + "}", in_parameters=True)
    assert found.options == FOUND._replace(priority=None)
    # The protocol's own priority stays where it is.
    assert json.loads(found.body) == {**json.loads("{" + INPUTS + "}"), "parameters": {"priority": 1, "own": 3}}


def test_parameters_of_a_job_are_the_models() -> None:
    body = "{" + INPUTS + ', "parameters": {"ttl_s": 3, "webhook": "x"}}'
    assert read(body) == JobBody(NO_OPTIONS, body.encode(), None)


def test_options_before_binary_tensors() -> None:
    tail = bytes(range(8))
    entry = '"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":8}}]'
    head = "{" + entry + ', "ttl_s": 5}'
    found = read(head.encode() + tail, b"%d" % len(head))
    plain = b"{%b}" % entry.encode()
    assert found == JobBody(JobOptions(ttl_s=5.0), plain + tail, b"%d" % len(plain))
    head = "{" + entry + "}"
    assert read(head.encode() + tail, b"%d" % len(head)) == JobBody(NO_OPTIONS, head.encode() + tail, b"%d" % len(head))
    assert read(b"\x00\x01", b"0") == JobBody(NO_OPTIONS, b"\x00\x01", b"0")


def test_nan_and_options_in_one_body() -> None:
    found = read('{"input": {"x": [NaN, Infinity, 0.1]}, "ttl_s": 5, "metadata": {"a": 1}}')
    assert found.options == JobOptions(ttl_s=5.0, metadata={"a": 1})
    assert found.body == b'{"input":{"x":[NaN,Infinity,0.1]}}'
    found = read('{"input": {"x": NaN}, "parameters": {"ttl_s": 5, "own": 1}}', in_parameters=True)
    assert found == JobBody(JobOptions(ttl_s=5.0), b'{"input":{"x":NaN},"parameters":{"own":1}}', None)


def test_null_is_as_if_it_was_not_given() -> None:
    found = read("{" + INPUTS + "," + ",".join(f'"{name}":null' for name in EVERY) + "}")
    assert found == JobBody(NO_OPTIONS, b"{%b}" % INPUTS.encode(), None)


def test_the_last_of_two_counts() -> None:
    assert read("{" + INPUTS + ', "ttl_s": 1, "ttl_s": 2}').options.ttl_s == 2.0


@pytest.mark.parametrize(
    ("parameters", "timeout_s"),
    [({"timeout": 2_000_000}, 2.0), ({"timeout": 0}, None), ({"timeout": "x"}, None), ({"timeout": -1}, None)],
)
def test_the_protocols_timeout_bounds_the_run(parameters: dict[str, Any], timeout_s: float | None) -> None:
    body = "{" + INPUTS + f', "parameters": {json.dumps(parameters)}' + "}"
    for in_parameters in (False, True):
        found = read(body, in_parameters=in_parameters)
        assert found == JobBody(JobOptions(timeout_s=timeout_s), body.encode(), None)
    assert read(body[:-1] + ', "timeout_s": 7}').options.timeout_s == 7.0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"ttl_s": 0}, "ttl_s must be a number of seconds above 0"),
        ({"ttl_s": -1}, "ttl_s"),
        ({"ttl_s": "5"}, "got '5'"),
        ({"ttl_s": True}, "got True"),
        ({"ttl_s": 1e300}, "ttl_s"),
        ({"ttl_s": 10**40}, "an integer of 133 bits"),
        ({"timeout_s": [1]}, "timeout_s .* got a list"),
        ({"retention_s": 1000.5}, "retention_s .* at most 1000, got 1000.5"),
        ({"priority": -1}, "priority must be an integer"),
        ({"priority": 1.0}, "priority must be an integer"),
        ({"priority": 1 << 63}, "priority must be an integer"),
        ({"cache": "on"}, "cache must be one of off, use, refresh, got 'on'"),
        ({"cache": 1}, "cache must be one of"),
        ({"cache": ["off"]}, "cache must be one of"),
        ({"webhook": "http://127.0.0.1/"}, "private_webhooks"),
        ({"webhook": ""}, "http or https"),
        ({"metadata": []}, "metadata must be an object, got a list"),
        ({"metadata": "x"}, "metadata must be an object, got a string"),
        ({"metadata": {"a": 1 << 64}}, "beyond 64 bits"),
        ({"metadata": {"a": float("nan")}}, "not finite"),
        ({"metadata": {"a": "\ud800"}}, "not Unicode"),
        ({"metadata": {"\udfff": 1}}, "not Unicode"),
        ({"metadata": {"data": [[[[[[[[1]]]]]]]]}}, "nested deeper than 8"),
        ({"metadata": {"a": "x" * MOST_METADATA_BYTES}}, "at most 16384 bytes of JSON"),
        ({"ttl": 5}, "no member 'ttl'.*did you mean 'ttl_s'"),
        ({"Timeout_s": 5}, "did you mean 'timeout_s'"),
        ({"x" * 10_000: 5}, "no member"),
    ],
)
def test_what_is_wrong_is_said(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as caught:
        read("{" + INPUTS + "," + json.dumps(options)[1:-1] + "}")
    assert caught.value.code == "invalid_request"
    assert len(caught.value.message) < 500


@pytest.mark.parametrize("word", ["use", "refresh", "off"])
def test_what_a_job_wants_of_the_cache(word: str) -> None:
    for in_parameters in (False, True):
        inner = f'"cache":"{word}"'
        body = f'{{"parameters":{{{inner}}}}}' if in_parameters else f"{{{inner}}}"
        found = read_job_body(body.encode(), None, LIMITS, in_parameters=in_parameters)
        assert found.options.cache == word
        assert b"cache" not in found.body


def test_metadata_up_to_its_limit() -> None:
    fits: dict[str, Any] = {"a": "x" * (MOST_METADATA_BYTES - 8), "b": {"c": [[[[[]]]]]}}
    fits["a"] = fits["a"][: MOST_METADATA_BYTES - len(json.dumps({**fits, "a": ""}, separators=(",", ":")))]
    found = read("{" + INPUTS + ',"metadata":' + json.dumps(fits) + "}").options.metadata
    assert found == fits
    assert len(json.dumps(found, separators=(",", ":"))) == MOST_METADATA_BYTES


@pytest.mark.parametrize("body", ["", "{", '{"inputs":}', '{"ttl_s":5', '{"inputs":[]} x', '{"a"', "[" * 5000, "\x00"])
def test_what_is_no_json_is_refused(body: str) -> None:
    for in_parameters in (False, True):
        with pytest.raises(RequestError):
            read(body, in_parameters=in_parameters)
    with pytest.raises(RequestError):
        read(b'{"ttl_s": "\xff"}')


@pytest.mark.parametrize("length", [b"x", b"-1", b"1000", b"1.0"])
def test_a_wrong_length_of_the_json_is_refused(length: bytes) -> None:
    with pytest.raises(RequestError, match="Inference-Header-Content-Length"):
        read("{}", length)


def test_unknown_members_of_inference_are_passed_over() -> None:
    body = "{" + INPUTS + ', "model_name": "mlp", "parameters": {"ttl_s": 5}}'
    assert read(body, in_parameters=True).options.ttl_s == 5.0
    assert read("{" + INPUTS + ', "parameters": [1]}', in_parameters=True).options == NO_OPTIONS


def test_priorities_are_three_levels() -> None:
    assert [level_of(priority) for priority in (0, 1, 2, 3, 1 << 62)] == [1, 0, 2, 2, 2]


def test_a_webhook_is_refused_where_nothing_could_sign_it() -> None:
    limits = LIMITS._replace(webhooks=False)
    with pytest.raises(RequestError, match=r"no secret to sign it with; the setting jobs\.webhook_secrets") as caught:
        read_options({"webhook": "https://example.org/"}, limits)
    assert caught.value.code == "unsupported"
    assert read_options({"webhook": None, "ttl_s": 1}, limits).webhook == ""
