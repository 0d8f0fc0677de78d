from __future__ import annotations

import json

import numpy as np
import pytest

from forebay.bench.bodies import (
    Endpoint,
    ModelMetadata,
    TensorMetadata,
    holds_outputs,
    http_request,
    infer_request,
    pool_from_metadata,
    random_text,
)
from forebay.bench.connection import Answer
from forebay.core.errors import SetupError
from forebay.core.tensors import from_buffer

ENDPOINT = Endpoint("127.0.0.1", 8000)


def split(request: bytes) -> tuple[str, bytes]:
    head, _, body = request.partition(b"\r\n\r\n")
    return head.decode(), body


def test_json_body_holds_the_protocol_fields_and_the_timeout_in_microseconds() -> None:
    array = np.arange(4, dtype=np.float32).reshape(1, 4)
    head, body = split(infer_request(ENDPOINT, "m", [("x", "FP32", array)], timeout_ms=105))
    assert head.startswith("POST /v2/models/m/infer HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n")
    assert f"Content-Length: {len(body)}" in head
    assert json.loads(body) == {
        "inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0.0, 1.0, 2.0, 3.0]}],
        "parameters": {"timeout": 105_000},
    }


def test_binary_body_is_json_then_raw_bytes() -> None:
    array = np.arange(6, dtype=np.uint8).reshape(1, 6)
    head, body = split(infer_request(ENDPOINT, "m", [("x", "UINT8", array)], binary=True))
    length = int(head.split("Inference-Header-Content-Length: ")[1].split("\r\n")[0])
    message = json.loads(body[:length])
    assert message["inputs"][0]["parameters"] == {"binary_data_size": 6}
    assert message["parameters"]["binary_data_output"] is True
    assert np.array_equal(from_buffer(body[length:], "UINT8", [1, 6]), array)


def test_pool_follows_the_metadata_and_has_no_two_alike() -> None:
    metadata = ModelMetadata("m", [TensorMetadata("x", "FP32", [-1, -1]), TensorMetadata("t", "BYTES", [-1, 1])])
    pool = pool_from_metadata(ENDPOINT, metadata, count=200, rows=2, longest=8)
    assert len(set(pool)) == 200
    lengths = set()
    for request in pool:
        x, text = json.loads(split(request)[1])["inputs"]
        assert x["shape"][0] == 2
        assert len(x["data"]) == 2 * x["shape"][1]
        assert text["shape"] == [2, 1]
        assert all(isinstance(value, str) for value in text["data"])
        lengths.add(x["shape"][1])
    assert lengths == set(range(1, 9))


def test_texts_have_5_to_200_words_and_a_long_tail() -> None:
    generator = np.random.default_rng(0)
    counts = np.array([len(random_text(generator).split()) for _ in range(4000)])
    assert counts.min() >= 5
    assert counts.max() <= 200
    assert 30 <= np.median(counts) <= 34
    assert 43 <= counts.mean() <= 51


@pytest.mark.parametrize("url", ["https://host:1", "ftp://x", "http://"])
def test_other_urls_are_refused_with_the_mend(url: str) -> None:
    with pytest.raises(SetupError, match="http://HOST:PORT"):
        Endpoint.parse(url)


def test_url_forms() -> None:
    assert Endpoint.parse("127.0.0.1:80") == Endpoint("127.0.0.1", 80)
    assert Endpoint.parse("http://h:8000/base/") == Endpoint("h", 8000, "/base")


def test_an_address_of_ip_6_has_its_brackets_in_the_request() -> None:
    head, _ = split(http_request(Endpoint.parse("http://[::1]:8000"), "/v2", b""))
    assert "Host: [::1]:8000\r\n" in head


@pytest.mark.parametrize("url", ["http://h:99999", "http://h:x", "http://["])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(SetupError, match="not a URL"):
        Endpoint.parse(url)


@pytest.mark.parametrize(
    ("body", "headers", "right"),
    [
        (b'{"outputs":[{"name":"y"}]}', {}, True),
        (b'{"outputs":[{"name":"y"}]}\x00\x01', {b"inference-header-content-length": b"26"}, True),
        (b'{"outputs":[]}', {}, False),
        (b'{"error":"no"}', {}, False),
        (b"nonsense", {}, False),
    ],
)
def test_what_counts_as_an_answer(body: bytes, headers: dict[bytes, bytes], right: bool) -> None:
    assert holds_outputs(0, Answer(200, headers, body)) is right
