"""The app behind a real uvicorn: stock clients of the protocol, and framings that only a socket can send."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
import uvicorn
from tritonclient.utils import InferenceServerException

from forebay.api.app import create_app
from forebay.api.inference import Inference

MLP = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}


@pytest.fixture
def port(make_inference: Callable[..., Inference]) -> Iterator[int]:
    app = create_app(make_inference(max_body_bytes=100_000), metrics_text=lambda: b"", ready=list)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join()
    listener.close()


@pytest.fixture
def client(port: int) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as stock:
        yield stock


def tensor(name: str, values: np.ndarray[Any, Any], datatype: str, binary: bool = True) -> Any:
    entry = triton.InferInput(name, list(values.shape), datatype)
    entry.set_data_from_numpy(values, binary_data=binary)
    return entry


def test_what_a_stock_client_reads_first(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mlp")
    assert client.is_model_ready("mlp", "1")
    assert not client.is_model_ready("none")
    assert client.get_server_metadata()["name"] == "forebay"
    assert client.get_model_metadata("mlp", "1")["inputs"][0]["shape"] == [-1, 4]
    assert client.get_model_config("mlp")["max_batch_size"] == 64
    assert [entry["name"] for entry in client.get_model_repository_index()] == ["mlp", "two", "text", "whole"]
    assert len(client.get_inference_statistics()["model_stats"]) == 4
    assert client.get_inference_statistics("mlp")["model_stats"][0]["name"] == "mlp"


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("outputs", ["none", "binary", "json"])
def test_a_stock_client_gets_its_numbers(client: Any, binary_in: bool, outputs: str) -> None:
    values = np.array([[1, 2, 3, 4], [np.nan, np.inf, 5, 6]], np.float32)
    if not binary_in:
        values = values[:1]
    asked = None if outputs == "none" else [triton.InferRequestedOutput("y", binary_data=outputs == "binary")]
    result = client.infer(
        "mlp", [tensor("x", values, "FP32", binary_in)], outputs=asked, request_id="7", timeout=5_000_000, priority=1
    )
    np.testing.assert_array_equal(result.as_numpy("y"), values[:, :2] * 2)
    assert result.get_response()["id"] == "7"


@pytest.mark.parametrize("binary", [True, False])
def test_a_stock_client_sends_text(client: Any, binary: bool) -> None:
    values = np.array([[b"abc"], ["\u00e4".encode()]], dtype=object)
    asked = [triton.InferRequestedOutput("upper", binary_data=binary)]
    result = client.infer("text", [tensor("text", values, "BYTES", binary)], outputs=asked)
    answered = [value if isinstance(value, bytes) else str(value).encode() for value in result.as_numpy("upper")[:, 0]]
    assert answered == [b"ABC", "\u00e4".encode()]


def test_a_stock_client_sends_two_inputs_and_an_empty_tensor(client: Any) -> None:
    inputs = [tensor("b", np.zeros((2, 3)), "FP64"), tensor("a", np.ones((2, 3), np.int32), "INT32", False)]
    result = client.infer("two", inputs)
    np.testing.assert_array_equal(result.as_numpy("sum"), np.ones((2, 3)))
    assert result.as_numpy("count").tolist() == [3, 3]
    inputs = [tensor("a", np.zeros((1, 0), np.int32), "INT32"), tensor("b", np.zeros((1, 0)), "FP64")]
    assert client.infer("two", inputs).as_numpy("sum").shape == (1, 0)


def test_a_stock_client_sees_the_error(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="expected shape") as caught:
        client.infer("mlp", [tensor("x", np.zeros((1, 3), np.float32), "FP32")])
    assert caught.value.status() == "400"


async def test_the_asyncio_client(port: int) -> None:
    async with triton_aio.InferenceServerClient(f"127.0.0.1:{port}") as client:
        values = np.ones((1, 4), np.float32)
        results = await asyncio.gather(*(client.infer("mlp", [tensor("x", values, "FP32")]) for _ in range(20)))
    assert all(result.as_numpy("y").tolist() == [[2.0, 2.0]] for result in results)


def exchange(port: int, *pieces: bytes) -> bytes:
    """Sends raw bytes, each piece after the server has answered or taken the one before; reads to the end."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        received = b""
        for piece in pieces:
            connection.sendall(piece)
            if piece is not pieces[-1]:
                received += connection.recv(65536)
        while block := connection.recv(65536):
            received += block
    return received


def head(*lines: str) -> bytes:
    return "\r\n".join(("POST /v2/models/mlp/infer HTTP/1.1", "Host: t", *lines, "", "")).encode()


def test_a_chunked_body(port: int) -> None:
    content = json.dumps(MLP).encode()
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (content[:9], content[9:])) + b"0\r\n\r\n"
    answer = exchange(port, head("Transfer-Encoding: chunked", "Connection: close") + chunks)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"data":[2.0,4.0]' in answer


def test_expect_100_continue(port: int) -> None:
    content = json.dumps(MLP).encode()
    lines = ("Expect: 100-continue", f"Content-Length: {len(content)}", "Connection: close")
    answer = exchange(port, head(*lines), content)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n")
    assert b"HTTP/1.1 200 OK\r\n" in answer


@pytest.mark.parametrize("expect", [True, False])
def test_a_large_body_is_refused_before_it_is_sent(port: int, expect: bool) -> None:
    lines = ["Content-Length: 100001"] + ["Expect: 100-continue"] * expect
    answer = exchange(port, head(*lines))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"payload_too_large"' in answer
