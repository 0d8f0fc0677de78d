"""Stock clients of the protocol, unmodified: every call of theirs that is not about shared memory or repositories."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tests.e2e.server import Served, model, quick, serving
from tests.models.plain import Echo
from tritonclient.utils import InferenceServerException

from forebay.core.tensors import NUMPY_TYPES, Array

LABELS = ["early", "middle", "late"]
CODINGS = [None, "gzip", "deflate"]


@pytest.fixture(scope="module")
def labelled(lane: str, mlp: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose MLP has class names, and which compresses every answer that a client asks for."""
    folder = tmp_path_factory.mktemp("labelled")
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n")
    models = [str(mlp), *model("plain.py", "Echo", "Ragged", "Texts")]
    settings = ["--set", f"mlp.labels={folder / 'labels.txt'}", "--compress-from-bytes", "1"]
    with serving(folder, *quick(*models), *settings, "--express-lane", lane) as served:
        yield served


@pytest.fixture
def stock(labelled: Served) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{labelled.port}") as client:
        yield client


def tensor(name: str, array: Array, datatype: str, binary: bool = True) -> Any:
    entry = triton.InferInput(name, list(array.shape), datatype)
    entry.set_data_from_numpy(array, binary_data=binary)
    return entry


def rows(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, 16)).astype(np.float32)


def examples() -> dict[str, Array]:
    """Two elements of every datatype."""
    found: dict[str, Array] = {}
    for name, dtype in NUMPY_TYPES.items():
        pair: list[Any] = [b"a\0b", b""] if name == "BYTES" else [1, 0]
        found[name] = np.array([pair], dtype=dtype)
    return found


@pytest.mark.parametrize("request_coding", CODINGS)
@pytest.mark.parametrize("response_coding", CODINGS)
@pytest.mark.parametrize("binary", [True, False])
def test_compression_both_ways(
    stock: Any, request_coding: str | None, response_coding: str | None, binary: bool
) -> None:
    x = np.tile(rows(1), (1, 300))
    answer = stock.infer(
        "ragged",
        [tensor("x", x, "FP32", binary)],
        outputs=[triton.InferRequestedOutput("same", binary_data=binary)],
        request_compression_algorithm=request_coding,
        response_compression_algorithm=response_coding,
    )
    np.testing.assert_array_equal(answer.as_numpy("same"), x)


@pytest.mark.parametrize("binary", [True, False])
def test_classes_with_labels(stock: Any, binary: bool) -> None:
    x = rows(5)
    shares = stock.infer("mlp", [tensor("x", x, "FP32")]).as_numpy("y")
    asked = [triton.InferRequestedOutput("y", binary_data=binary, class_count=2)]
    classes = stock.infer("mlp", [tensor("x", x, "FP32")], outputs=asked).as_numpy("y")
    assert classes.shape == (5, 2)
    for share, found in zip(shares, classes.tolist(), strict=True):
        best = np.argsort(-share)[:2].tolist()
        for text, index in zip(found, best, strict=True):
            value, number, label = (text.decode() if isinstance(text, bytes) else text).split(":")
            assert (int(number), label) == (index, LABELS[index])
            assert np.float32(value) == pytest.approx(share[index], rel=1e-4)


def test_classes_of_text_are_refused(stock: Any) -> None:
    asked = [triton.InferRequestedOutput("upper", class_count=1)]
    text = tensor("text", np.array([[b"a"]], dtype=object), "BYTES")
    with pytest.raises(InferenceServerException, match="classification is not available for datatype BYTES") as caught:
        stock.infer("texts", [text], outputs=asked)
    assert caught.value.status() == "400"


def test_every_datatype_in_binary_form(stock: Any) -> None:
    assert set(Echo.inputs) == {f"in_{name.lower()}" for name in NUMPY_TYPES}
    inputs = [tensor(f"in_{name.lower()}", array, name) for name, array in examples().items()]
    for coding in CODINGS:
        answer = stock.infer(
            "echo", inputs, request_compression_algorithm=coding, response_compression_algorithm=coding
        )
        for name, array in examples().items():
            got = answer.as_numpy(f"out_{name.lower()}")
            assert got.dtype == array.dtype
            assert got.tolist() == array.tolist()


def test_every_datatype_in_json(stock: Any) -> None:
    given = examples()
    given["BYTES"] = np.array([[b"text", "\u00fc\0".encode()]], dtype=object)
    # The client itself refuses to write FP16 as JSON.
    inputs = [tensor(f"in_{name.lower()}", array, name, name == "FP16") for name, array in given.items()]
    outputs = [triton.InferRequestedOutput(f"out_{name.lower()}", binary_data=name == "FP16") for name in given]
    answer = stock.infer("echo", inputs, outputs=outputs)
    for name, array in given.items():
        got = [
            [v.encode() if isinstance(v, str) else v for v in row]
            for row in answer.as_numpy(f"out_{name.lower()}").tolist()
        ]
        assert got == array.tolist()


def test_log_settings(stock: Any, labelled: Served) -> None:
    before = stock.get_log_settings()
    assert set(before) == {"log_file", "log_info", "log_warning", "log_error", "log_verbose_level", "log_format"}
    assert (before["log_info"], before["log_verbose_level"]) == (True, 0)
    try:
        changed = stock.update_log_settings({"log_info": False, "log_verbose_level": 1})
        assert changed == {**before, "log_info": False, "log_verbose_level": 1} == stock.get_log_settings()
        with pytest.raises(InferenceServerException, match="log_info must be true or false") as caught:
            stock.update_log_settings({"log_info": "yes", "log_verbose_level": 0})
        assert caught.value.status() == "400"
        assert stock.get_log_settings() == changed
    finally:
        assert stock.update_log_settings({"log_info": True, "log_verbose_level": 0}) == before
    labelled.wait_logged("what is logged was changed over HTTP")


def test_trace_settings(stock: Any) -> None:
    for name in (None, "mlp"):
        assert stock.get_trace_settings(model_name=name)["trace_level"] == ["OFF"]
        assert stock.update_trace_settings(model_name=name, settings={"trace_level": ["OFF"]})["trace_level"] == ["OFF"]
        with pytest.raises(InferenceServerException, match="traces are not supported") as caught:
            stock.update_trace_settings(model_name=name, settings={"trace_level": ["TIMESTAMPS"]})
        assert caught.value.status() == "501"
    with pytest.raises(InferenceServerException) as caught:
        stock.get_trace_settings(model_name="nothing")
    assert caught.value.status() == "404"


def test_shared_memory_is_refused_in_words(stock: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: stock.get_system_shared_memory_status(),
        lambda: stock.get_system_shared_memory_status("region"),
        lambda: stock.register_system_shared_memory("region", "/region", 64),
        lambda: stock.unregister_system_shared_memory(),
        lambda: stock.unregister_system_shared_memory("region"),
        lambda: stock.get_cuda_shared_memory_status(),
        lambda: stock.register_cuda_shared_memory("region", b"handle", 0, 64),
        lambda: stock.unregister_cuda_shared_memory(),
    ]
    for call in calls:
        with pytest.raises(InferenceServerException, match="shared memory is not supported") as caught:
            call()
        assert caught.value.status() == "501"


def test_metadata_by_version(stock: Any) -> None:
    assert {"classification", "logging"} <= set(stock.get_server_metadata()["extensions"])
    assert stock.is_model_ready("mlp", "1")
    assert stock.get_model_metadata("mlp", "1")["versions"] == ["1"]
    config = stock.get_model_config("mlp", "1")
    assert config["output"][0]["label_filename"] == "labels.txt"
    assert "ensemble_scheduling" not in config
    (found,) = stock.get_inference_statistics("mlp", "1")["model_stats"]
    assert found["inference_stats"].keys() >= {
        "success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss",
    }  # fmt: skip
    np.testing.assert_allclose(stock.infer("mlp", [tensor("x", rows(1), "FP32")], "1").as_numpy("y").sum(), 1, 1e-4)
    with pytest.raises(InferenceServerException) as caught:
        stock.infer("mlp", [tensor("x", rows(1), "FP32")], "2")
    assert caught.value.status() == "404"


def test_the_threaded_calls(stock: Any) -> None:
    pending = [
        stock.async_infer("mlp", [tensor("x", rows(3, seed), "FP32")], request_id=str(seed)) for seed in range(20)
    ]
    for seed, each in enumerate(pending):
        answer = each.get_result()
        assert (answer.get_response()["id"], answer.as_numpy("y").shape) == (str(seed), (3, 3))


async def test_the_asyncio_client(labelled: Served) -> None:
    async with triton_aio.InferenceServerClient(f"127.0.0.1:{labelled.port}") as client:
        assert await client.is_server_live()
        assert await client.is_model_ready("mlp")
        for coding in CODINGS:
            answer = await client.infer(
                "mlp",
                [tensor("x", rows(40), "FP32")],
                outputs=[triton.InferRequestedOutput("y", class_count=1)],
                request_compression_algorithm=coding,
                response_compression_algorithm=coding,
            )
            assert answer.as_numpy("y").shape == (40, 1)
        assert (await client.get_log_settings())["log_error"] is True
        assert (await client.get_trace_settings())["trace_level"] == ["OFF"]
        with pytest.raises(InferenceServerException, match="shared memory is not supported"):
            await client.get_system_shared_memory_status()
