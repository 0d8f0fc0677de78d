"""`forebay.Client` and `AsyncClient` against the real server: what a caller is promised, failures included."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from examples import client as example
from onnx import TensorProto, helper
from tests.e2e.long import full
from tests.e2e.server import ROOT, Served, eventually, model, quick, serving
from tests.unit.client.both import KINDS, Both

import forebay
from forebay.api.auth import key_line, new_secret
from forebay.client import Retries
from forebay.core.errors import AdmissionError, DeadlineExceeded, ExecutionError, RequestError
from forebay.core.tensors import NUMPY_TYPES, Array

PATIENT = Retries(attempts=200, first_wait_s=0.05, longest_wait_s=0.2)

EXTREMES: dict[str, list[Any]] = {
    "BOOL": [True, False],
    "UINT8": [0, 255],
    "UINT16": [0, 65535],
    "UINT32": [0, 2**32 - 1],
    "UINT64": [0, 2**64 - 1],
    "INT8": [-128, 127],
    "INT16": [-(2**15), 2**15 - 1],
    "INT32": [-(2**31), 2**31 - 1],
    "INT64": [-(2**63), 2**63 - 1],
    "FP16": [65504.0, float("-inf")],
    "FP32": [float("nan"), 1e-45],
    "FP64": [float("nan"), -1e300],
    "BYTES": [b"", b"a\x00b\x00"],
}


def scalar_model(folder: Path) -> Path:
    """`scalar.onnx`: a model without a batch axis whose input and output have no axis at all; y = -x."""
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])],
        "scalar",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
    )
    scalar = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    scalar.ir_version = 8
    onnx.save(scalar, folder / "scalar.onnx")
    return folder / "scalar.onnx"


@pytest.fixture(scope="module")
def served(mlp: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("client")
    models = [
        str(mlp),
        str(scalar_model(folder)),
        f"{ROOT / 'examples' / 'sleep.py'}:Sleep",
        *model("plain.py", "Echo", "Texts", "Ragged"),
        *model("faulty.py", "Pause", "Faulty"),
    ]
    with serving(folder, *quick(*models), "--set", "pause.max_queue_rows=1") as running:
        yield running


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


def url_of(served: Served) -> str:
    return f"http://127.0.0.1:{served.port}"


def extremes(rows: int) -> dict[str, Array]:
    return {f"in_{name.lower()}": np.array([EXTREMES[name]] * rows, NUMPY_TYPES[name]) for name in NUMPY_TYPES}


@pytest.mark.parametrize("binary", [True, False])
async def test_every_datatype_comes_back_unchanged(served: Served, kind: str, binary: bool) -> None:
    sent = extremes(3)
    async with Both(kind, url_of(served), binary=binary) as both:
        result = await both.infer("echo", sent)
    assert len(result) == len(NUMPY_TYPES)
    for name, array in sent.items():
        found = result[name.replace("in_", "out_")]
        assert found.dtype == array.dtype, name
        # NaN is equal to NaN here.
        np.testing.assert_array_equal(found, array)


async def test_bytes_that_are_no_text_travel_both_ways(served: Served, kind: str) -> None:
    values = np.array([[b"\xff\x00\xfe"], [b"\x00" * 70_000], [b""]], dtype=object)
    async with Both(kind, url_of(served)) as both:
        result = await both.infer("texts", {"text": values})
        assert result["upper"].tolist() == [[b"\xff\x00\xfe"], [b"\x00" * 70_000], [b""]]
        assert result["size"].tolist() == [[3], [70_000], [0]]
        with pytest.raises(RequestError, match="not UTF-8"):
            await both.infer("texts", {"text": values}, binary=False)


async def test_a_tensor_without_elements_and_one_without_axes(served: Served, kind: str) -> None:
    async with Both(kind, url_of(served)) as both:
        empty = await both.infer("ragged", np.zeros((2, 0), "f4"))
        assert empty["same"].shape == (2, 0)
        assert empty["total"].tolist() == [[0.0], [0.0]]
        for value in (np.float32(2.5), np.array(2.5, "f4"), 2.5):
            scalar = (await both.infer("scalar", {"x": value}))["y"]
            assert (scalar.shape, scalar.tolist()) == ((), -2.5)


async def test_what_is_no_array_takes_the_models_datatype(served: Served, kind: str) -> None:
    async with Both(kind, url_of(served)) as both:
        assert (await both.infer("texts", "h\u00e9"))["upper"].tolist() == [["h\u00e9".encode().upper()]]
        assert (await both.infer("texts", [b"a", "b"]))["upper"].tolist() == [[b"A"], [b"B"]]
        assert (await both.infer("ragged", [[1, 2, 3]]))["total"].tolist() == [[6.0]]
        with pytest.raises(RequestError, match="expected datatype FP32, got 'FP64'"):
            await both.infer("ragged", np.ones((1, 3)))
        assert (await both.infer("ragged", np.ones((1, 3)), casting="same_kind"))["total"].tolist() == [[3.0]]


async def test_options_reach_the_server(served: Served, kind: str) -> None:
    async with Both(kind, url_of(served)) as both:
        rows = np.ones((2, 2), "f4")
        options: dict[str, Any] = {"outputs": ["total"], "version": "1", "request_id": "r-7", "priority": 1}
        result = await both.infer("ragged", rows, **options, parameters={"k": "v"}, explain=True)
        assert list(result) == ["total"]
        assert (result.model_name, result.model_version, result.id) == ("ragged", "1", "r-7")
        assert result.parameters["batch_rows"] == 2
        assert result.attempts == 1


async def test_what_the_server_tells_about_itself(served: Served, kind: str) -> None:
    async with Both(kind, url_of(served)) as both:
        assert (await both.call("metadata"))["name"] == "forebay"
        assert (await both.call("metadata", "mlp"))["inputs"][0]["name"] == "x"
        assert (await both.call("metadata", "mlp", "1"))["versions"] == ["1"]
        assert (await both.call("config", "mlp"))["name"] == "mlp"
        assert (await both.call("statistics", "mlp"))["model_stats"][0]["name"] == "mlp"
        assert len((await both.call("statistics"))["model_stats"]) == 8
        assert [await both.call("live"), await both.call("ready"), await both.call("ready", "mlp")] == [True] * 3
        assert await both.call("ready", "nobody") is False
        await both.call("wait_until_ready", "mlp", timeout_s=30.0)


@pytest.mark.parametrize(
    ("name", "value", "code", "status"),
    [
        ("nobody", 1.0, "model_not_found", 404),
        ("mlp", 1.0, "invalid_request", 400),
        ("faulty", 13.0, "model_error", 500),
    ],
)
async def test_errors_keep_their_class_code_and_status(
    served: Served, kind: str, name: str, value: float, code: str, status: int
) -> None:
    async with Both(kind, url_of(served)) as both:
        with pytest.raises((RequestError, ExecutionError)) as caught:
            await both.infer(name, {"x": np.array([[value]], "f4")})
    assert (caught.value.code, caught.value.status, caught.value.retryable) == (code, status, False)
    assert caught.value.message


async def test_a_deadline_ends_the_call_and_the_server_drops_it(served: Served, kind: str) -> None:
    async with Both(kind, url_of(served)) as both:
        with pytest.raises(DeadlineExceeded):
            await both.infer("pause", np.array([[900.0]], "f4"), timeout_s=0.3)
        # Known to be hopeless: refused at the door, and there is no time for the second that the server asks for.
        with pytest.raises((AdmissionError, DeadlineExceeded)) as caught:
            await both.infer("sleep", np.ones((1, 2), "f4"), timeout_s=0.005)
        assert caught.value.retryable
        await asyncio.to_thread(eventually, lambda: served.in_flight("pause") == 0, "it is dropped")


async def test_a_full_queue_is_asked_again_no_sooner_than_it_says(served: Served, kind: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        holding: list[Future[httpx.Response]] = []
        # One after the other: some run or wait at the instance, until one is left in the queue, which has one place.
        while served.metric("forebay_queue_depth_rows", "pause") < 1:
            holding.append(pool.submit(served.infer, "pause", [2000.0]))
            eventually(lambda: served.in_flight("pause") == len(holding), "it is let in")
        async with Both(kind, url_of(served), timeout_s=60.0) as both:
            await _come_back(both, served.infer("pause", [1.0]))
        assert {held.result().status_code for held in holding} == {200}


async def _come_back(both: Both, full: httpx.Response) -> None:
    """`full`: what the server answers now."""
    assert full.json()["code"] == "queue_full"
    x = np.ones((1, 1), "f4")
    hasty = asyncio.create_task(both.infer("pause", x, timeout_s=0.9))
    began = time.monotonic()
    result = await both.infer("pause", x)
    # A lower bound that the server sets, no measure of speed.
    assert time.monotonic() - began >= int(full.headers["retry-after"])
    assert result["y"].tolist() == [[1.0]]
    assert result.attempts > 1
    # Less time than the server asks for: its refusal is the call's error, at once.
    with pytest.raises(AdmissionError) as caught:
        await hasty
    assert (caught.value.code, caught.value.status) == ("queue_full", 503)
    assert caught.value.retry_after_s >= 1


@pytest.mark.parametrize("kind", ["async", full("sync")])
async def test_a_call_survives_that_its_server_is_killed_and_started_again(tmp_path: Path, kind: str) -> None:
    arguments = quick(*model("faulty.py", "Pause"))
    first = Served(tmp_path, *arguments)
    try:
        first.wait_ready()
        async with Both(kind, url_of(first), retries=PATIENT, timeout_s=60.0) as both:
            call = asyncio.create_task(both.infer("pause", np.array([[3000.0]], "f4")))
            await asyncio.to_thread(eventually, lambda: first.in_flight("pause") == 1, "it runs")
            first.process.kill()
            first.process.wait(10)
            second = Served(tmp_path, *arguments, port=first.port)
            try:
                await asyncio.to_thread(second.wait_ready)
                result = await call
                assert result["y"].tolist() == [[3000.0]]
                assert result.attempts > 1
                await asyncio.to_thread(second.stop)
            finally:
                second.close()
    finally:
        first.close()


async def test_keys_let_in_and_are_never_tried_twice(mlp: Path, tmp_path: Path) -> None:
    secret = new_secret()
    (tmp_path / "keys.txt").write_text(key_line("alice", secret) + "\n")
    arguments = ["--api-keys", str(tmp_path / "keys.txt"), "--requests-per-s", "5"]
    x = np.zeros((1, 16), "f4")
    with serving(tmp_path, *quick(str(mlp)), *arguments) as served:
        for wrong in (None, "fb_wrong"):
            with forebay.Client(url_of(served), api_key=wrong) as stranger:
                with pytest.raises(AdmissionError) as caught:
                    stranger.infer("mlp", x)
                assert (caught.value.code, caught.value.status, caught.value.retryable) == ("unauthorized", 401, False)
                assert stranger.ready()
        async with forebay.AsyncClient(url_of(served), api_key=secret, timeout_s=60.0) as alice:
            # Twice the quota at once: what is over it comes back when the server says.
            results = await asyncio.gather(*(alice.infer("mlp", {"x": x}) for _ in range(10)))
            assert all(result["y"].shape == (1, 3) for result in results)
            assert max(result.attempts for result in results) > 1


def test_a_hundred_threads_share_one_client(served: Served) -> None:
    wrong: list[Any] = []
    gate = threading.Barrier(100)

    def work(client: forebay.Client, number: int) -> None:
        gate.wait(30)
        for turn in range(5):
            rows = np.full((1 + turn, 1 + number % 7), number, "f4")
            try:
                result = client.infer("ragged", rows, request_id=f"{number}-{turn}")
            except Exception as error:
                wrong.append(error)
                continue
            if not np.array_equal(result["same"], rows) or result.id != f"{number}-{turn}":
                wrong.append((number, turn, result))

    with forebay.Client(url_of(served), max_connections=16, timeout_s=60.0) as client:
        threads = [threading.Thread(target=work, args=(client, number)) for number in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong, wrong[:3]


async def test_a_cancelled_call_leaves_the_server_and_the_client_fit(served: Served) -> None:
    eventually(lambda: served.in_flight("pause") == 0, "nothing runs")
    async with forebay.AsyncClient(url_of(served), max_connections=1) as client:
        call = asyncio.create_task(client.infer("pause", np.array([[800.0]], "f4")))
        await asyncio.to_thread(eventually, lambda: served.in_flight("pause") == 1, "it runs")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.to_thread(eventually, lambda: served.in_flight("pause") == 0, "it is dropped")
        assert (await client.infer("pause", np.ones((1, 1), "f4"), timeout_s=60.0))["y"].tolist() == [[1.0]]


async def test_three_hundred_calls_at_once_share_ten_connections(served: Served) -> None:
    async with forebay.AsyncClient(url_of(served), max_connections=10, timeout_s=100.0) as client:
        rows = [np.full((1, 1), number, "f4") for number in range(300)]
        results = await asyncio.gather(*(client.infer("ragged", row) for row in rows))
    assert [result["total"].item() for result in results] == list(range(300))


async def test_the_example_runs(served: Served) -> None:
    assert (await asyncio.to_thread(example.one, url_of(served))).shape == (1, 3)
    shares = await example.many(url_of(served), 100)
    np.testing.assert_allclose(shares.sum(axis=1), np.ones(100), rtol=1e-5)
