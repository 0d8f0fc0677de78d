"""What the worker is given: jobs as requests, and answers in the form that their callers asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import pytest
from tests.unit.api.conftest import FunctionEngine, build_engines
from tests.unit.api.job_site import MLP

from forebay.api.inference import Inference
from forebay.api.job_codec import InferenceCodec
from forebay.core.errors import DeadlineExceeded, ExecutionError, ForebayError, RequestError
from forebay.core.request import Outputs
from forebay.jobs.record import JobError, JobSpec, Output
from forebay.worker.codec import JobCodec, Opened

ID = "019ab5f0-1234-7abc-8def-0123456789ab"


@pytest.fixture
def inference(make_inference: Callable[..., Inference]) -> Inference:
    return make_inference()


@pytest.fixture
def codec(inference: Inference) -> InferenceCodec:
    return InferenceCodec(inference, lambda: 100.0)


def spec(body: bytes, model: str = "mlp", **more: Any) -> JobSpec:
    return JobSpec(id=ID, model=model, tenant="me", body=body, **more)


def ran(codec: InferenceCodec, opened: Opened) -> Output | JobError:
    engine, request = opened
    assert isinstance(engine, FunctionEngine)
    engine.run(request)
    return codec.close(request)


def last_of(steps: Generator[None, None, Opened]) -> Opened:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            opened: Opened = end.value
            return opened


def test_it_is_the_workers_port(codec: InferenceCodec, inference: Inference) -> None:
    port: JobCodec = codec
    assert port.served() is inference.engines
    told: list[None] = []
    port.watch(lambda: told.append(None))
    engine = build_engines()["mlp"]
    engine.version = "2"
    inference.publish(engine)
    assert told
    assert port.served()["mlp"] is engine


def test_json_in_and_out(codec: InferenceCodec) -> None:
    ended: list[Any] = []
    engine, request = codec.open(spec(json.dumps(MLP).encode()), ended.append)
    assert (engine.name, request.arrived, request.on_done) == ("mlp", 100.0, ended.append)
    output = ran(codec, (engine, request))
    assert isinstance(output, Output)
    assert (output.content_type, output.header_length) == ("application/json", "")
    assert json.loads(output.body)["outputs"][0]["data"] == [2.0, 4.0]


def test_every_form_of_a_body(codec: InferenceCodec) -> None:
    shorthand = ran(codec, codec.open(spec(b'{"input": {"x": [1, 2, 3, 4]}, "id": "a"}'), print))
    assert isinstance(shorthand, Output)
    assert json.loads(shorthand.body)["output"] == {"y": [2.0, 4.0]}
    assert json.loads(shorthand.body)["id"] == "a"

    entry = {"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}
    head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    body = head + np.arange(4, dtype=np.float32).tobytes()
    binary = ran(codec, codec.open(spec(body, header_length=str(len(head))), print))
    assert isinstance(binary, Output)
    assert binary.content_type == "application/octet-stream"
    length = int(binary.header_length)
    assert np.frombuffer(binary.body[length:], np.float32).tolist() == [0.0, 2.0]
    assert json.loads(binary.body[:length])["model_name"] == "mlp"

    image = ran(codec, codec.open(spec(b"abc", "text", content_type="image/*"), print))
    assert isinstance(image, Output)
    assert json.loads(image.body)["output"] == {"upper": ["ABC"]}


def test_a_large_body_in_steps(codec: InferenceCodec) -> None:
    rows = 5000
    body = {"inputs": [{"name": "x", "shape": [rows, 4], "datatype": "FP32", "data": [0.5] * (4 * rows)}]}
    steps = codec.open_in_steps(spec(json.dumps(body).encode()), print)
    next(steps)
    output = ran(codec, last_of(steps))
    assert isinstance(output, Output)
    assert json.loads(output.body)["outputs"][0]["shape"] == [rows, 2]


def test_the_version_that_was_asked_for(codec: InferenceCodec, inference: Inference) -> None:
    engine = build_engines()["mlp"]
    engine.version = "2"
    inference.publish(engine)
    body = json.dumps(MLP).encode()
    assert [codec.open(spec(body, version=version), print)[0].version for version in ("", "1", "2")] == ["2", "1", "2"]
    # A request is answered by the version that ran it, also when that has gone.
    opened = codec.open(spec(body, version="1"), print)
    old = opened[0]
    inference.retract(old)
    output = ran(codec, opened)
    assert isinstance(output, Output)
    assert json.loads(output.body)["model_version"] == "1"
    for unknown in (spec(body, version="1"), spec(body, "none")):
        with pytest.raises(RequestError) as caught:
            codec.open(unknown, print)
        assert caught.value.code == "model_not_found"


def test_a_body_that_does_not_fit_any_more_is_an_error(codec: InferenceCodec) -> None:
    with pytest.raises(RequestError, match="expected shape"):
        codec.open(spec(b'{"inputs": [{"name": "x", "shape": [1, 5], "datatype": "FP32", "data": [1]}]}'), print)


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (ExecutionError("boom"), JobError("model_error", "boom")),
        (DeadlineExceeded("late", stage="executing"), JobError("deadline_exceeded", "late", "executing")),
        (ExecutionError("died", code="instance_crashed"), JobError("instance_crashed", "died")),
    ],
)
def test_errors(codec: InferenceCodec, error: ForebayError, found: JobError) -> None:
    _, request = codec.open(spec(json.dumps(MLP).encode()), print)
    request.error = error
    assert codec.close(request) == found


def test_an_output_that_cannot_be_encoded_is_an_error(
    codec: InferenceCodec, engines: Any, caplog: pytest.LogCaptureFixture
) -> None:
    engines["text"].function = lambda t: [np.array([[b"\xff"]], dtype=object)]
    found = ran(codec, codec.open(spec(b'{"input": {"text": "a"}}', "text"), print))
    assert isinstance(found, JobError)
    assert (found.code, "UTF-8" in found.message) == ("invalid_request", True)
    engines["mlp"].function = lambda x: []
    found = ran(codec, codec.open(spec(json.dumps(MLP).encode()), print))
    assert isinstance(found, JobError)
    assert found.code == "internal"
    assert "IndexError" in caplog.text


def test_pieces_are_those_of_a_stream_with_their_row(codec: InferenceCodec) -> None:
    _, request = codec.open(spec(json.dumps({**MLP, "id": "a"}).encode()), print)
    piece = codec.piece(request, 3, Outputs(["y"], ["FP32"], [np.array([[1.0, 2.5]], np.float32)], 1))
    assert json.loads(piece) == {"row": 3, "id": "a", "model_name": "mlp", "model_version": "1", "y": [1.0, 2.5]}
