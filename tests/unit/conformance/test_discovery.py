"""What is under test is found out from metadata, and valid requests are built from it; no server is needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from forebay.conformance.check import Got, Sent, Verdict
from forebay.conformance.run import discover, run
from forebay.conformance.suite import CHECKS
from forebay.core.errors import SetupError

SERVER = {"name": "s", "version": "1", "extensions": ["statistics"]}
MODEL = {
    "name": "m",
    "versions": ["1"],
    "platform": "x",
    "inputs": [
        {"name": "x", "datatype": "FP32", "shape": [-1, -1, 2]},
        {"name": "t", "datatype": "BYTES", "shape": [2]},
    ],
    "outputs": [{"name": "y", "datatype": "BOOL", "shape": [-1]}],
}
ANSWER = {"model_name": "m", "outputs": [{"name": "y", "datatype": "BOOL", "shape": [1], "data": [True]}]}


def server(seen: list[Sent] | None = None, **answers: Any) -> Callable[[Sent], Got]:
    """Answers by the last part of the path; a `Got` as it is, anything else as JSON."""
    known = {"v2": SERVER, "m": MODEL, "infer": ANSWER, "index": [{"name": "m", "state": "READY"}], **answers}

    def exchange(sent: Sent) -> Got:
        if seen is not None:
            seen.append(sent)
        found = known.get(sent.path.rpartition("/")[2], Got(404, (), b'{"error":"no"}'))
        return found if isinstance(found, Got) else Got(200, (), json.dumps(found).encode())

    return exchange


def test_a_valid_request_is_built_from_metadata() -> None:
    seen: list[Sent] = []
    subject = discover(server(seen), None)
    assert subject.model == "m"
    assert subject.extensions == {"statistics"}
    body = json.loads(seen[-1].body)
    assert [(one["name"], one["shape"], len(one["data"])) for one in body["inputs"]] == [
        ("x", [1, 4, 2], 8),
        ("t", [2], 2),
    ]
    assert [tensor.name for tensor in subject.baseline] == ["y"]
    assert subject.deterministic


@pytest.mark.parametrize("refused", ["v2", "index", "m", "infer"])
def test_a_key_that_is_refused_is_told_as_that(refused: str) -> None:
    answers: dict[str, Any] = {refused: Got(401, (), b'{"error":"unknown API key"}')}
    with pytest.raises(SetupError, match=r"refuses .*/.* 401 .*unknown API key.*--api-key"):
        discover(server(None, **answers), None)


def test_an_example_goes_before_metadata() -> None:
    example = {"inputs": [{"name": "q", "shape": [1], "datatype": "INT64", "data": [7]}]}
    seen: list[Sent] = []
    subject = discover(server(seen), "m", example)
    assert json.loads(seen[-1].body)["inputs"][0]["data"] == [7]
    assert subject.given


@pytest.mark.parametrize(
    "example",
    [
        [],
        {},
        {"inputs": []},
        {"inputs": [{"name": "q"}]},
        {"inputs": [{"name": "q", "shape": [2], "datatype": "INT8", "data": [1]}]},
    ],
)
def test_an_example_that_is_none_is_told(example: Any) -> None:
    with pytest.raises(SetupError, match="example request"):
        discover(server(), "m", example)


def test_a_model_that_fails_on_made_up_inputs_is_told_and_asks_for_an_example() -> None:
    subject = discover(server(infer=Got(500, (), b'{"error":"index out of range"}')), "m")
    results = {one.id: one for one in run(CHECKS, subject, server())}
    found = results["infer.id"]
    assert found.verdict is Verdict.SKIPPED
    assert "index out of range" in found.came
    assert "--inputs" in found.came


def test_metadata_without_inputs_asks_for_an_example() -> None:
    subject = discover(server(m={**MODEL, "inputs": []}), "m")
    results = {one.id: one for one in run(CHECKS, subject, server(m={**MODEL, "inputs": []}))}
    assert results["infer.works"].verdict is Verdict.SKIPPED
    assert results["model.inputs"].verdict is Verdict.FAIL


def test_a_model_must_be_named_where_there_are_several() -> None:
    several = [{"name": "a", "state": "READY"}, {"name": "b", "state": "READY"}]
    with pytest.raises(SetupError, match="a, b"):
        discover(server(index=several), None)
    with pytest.raises(SetupError, match="does not list its models"):
        discover(server(index=Got(404)), None)
    with pytest.raises(SetupError, match="no model 'z'"):
        discover(server(), "z")
    with pytest.raises(SetupError, match="no server answers"):
        discover(lambda sent: Got(0, failure="refused"), "m")


def test_a_model_that_answers_differently_each_time_is_not_compared() -> None:
    flags = iter([True, False] * 1000)

    def exchange(sent: Sent) -> Got:
        if sent.path.endswith("/infer"):
            outputs = [{"name": "y", "datatype": "BOOL", "shape": [1], "data": [next(flags)]}]
            return Got(200, (), json.dumps({"model_name": "m", "outputs": outputs}).encode())
        return server()(sent)

    subject = discover(exchange, "m")
    assert not subject.deterministic
    results = {one.id: one for one in run(CHECKS, subject, exchange)}
    assert results["infer.nested"].verdict is Verdict.SKIPPED
    assert results["infer.works"].verdict is Verdict.PASS
