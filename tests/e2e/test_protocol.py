"""The Open Inference Protocol over HTTP as stock clients speak it. Held with the express lane and without."""

from __future__ import annotations

import json
import math
import struct
import urllib.request
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tests.e2e.server import Served, body, values
from tritonclient.utils import InferenceServerException

from forebay.core.tensors import NUMPY_TYPES

EXAMPLES: dict[str, list[Any]] = {
    "BOOL": [True, False],
    "UINT8": [0, 255],
    "UINT16": [0, 65535],
    "UINT32": [0, 2**32 - 1],
    "UINT64": [0, 2**64 - 1],
    "INT8": [-128, 127],
    "INT16": [-(2**15), 2**15 - 1],
    "INT32": [-(2**31), 2**31 - 1],
    "INT64": [-(2**63), 2**63 - 1],
    "FP16": [-65504.0, 0.5],
    "FP32": [-3.5, 1e30],
    "FP64": [-1e300, 0.1],
    "BYTES": [b"", "caf\u00e9".encode()],
}


@pytest.fixture(scope="session", params=["auto", "off"])
def lane(request: pytest.FixtureRequest) -> str:
    """Both, in the short form too."""
    value: str = request.param
    return value


def tensor(name: str, array: np.ndarray[Any, Any], datatype: str, binary: bool = True) -> Any:
    entry = triton.InferInput(name, list(array.shape), datatype)
    entry.set_data_from_numpy(array, binary_data=binary)
    return entry


def every_datatype(rows: int, binary: bool) -> tuple[list[Any], dict[str, np.ndarray[Any, Any]]]:
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    inputs = []
    for datatype, pair in EXAMPLES.items():
        # A stock client has no JSON form of FP16, so that one always travels as bytes.
        array = np.array([pair] * rows, dtype=NUMPY_TYPES[datatype])
        arrays[f"out_{datatype.lower()}"] = array
        inputs.append(tensor(f"in_{datatype.lower()}", array, datatype, binary or datatype == "FP16"))
    return inputs, arrays


def as_sent(datatype: str, array: np.ndarray[Any, Any]) -> list[Any]:
    flat: list[Any] = array.reshape(-1).tolist()
    return [v.encode() if isinstance(v, str) else v for v in flat] if datatype == "BYTES" else flat


@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("binary_in", [True, False])
def test_every_datatype_comes_back_unchanged(client: Any, binary_in: bool, binary_out: bool) -> None:
    inputs, wanted = every_datatype(3, binary_in)
    names = [name for name in wanted if binary_out or name != "out_fp16"]
    asked = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in names]
    result = client.infer("echo", inputs, outputs=asked)
    for name in names:
        datatype = name.removeprefix("out_").upper()
        assert as_sent(datatype, result.as_numpy(name)) == as_sent(datatype, wanted[name]), name
        assert result.get_output(name)["shape"] == [3, 2]
        assert result.get_output(name)["datatype"] == datatype


def test_a_stock_client_that_asks_for_nothing_special_gets_all_outputs(client: Any) -> None:
    inputs, wanted = every_datatype(1, True)
    result = client.infer("echo", inputs)
    for name, array in wanted.items():
        assert as_sent(name[4:].upper(), result.as_numpy(name)) == as_sent(name[4:].upper(), array)


def test_only_the_outputs_asked_for_come_back_in_their_order(client: Any) -> None:
    text = tensor("text", np.array([[b"ab"], [b"c"]], dtype=object), "BYTES")
    asked = [triton.InferRequestedOutput("size"), triton.InferRequestedOutput("upper", binary_data=False)]
    result = client.infer("texts", [text], outputs=asked)
    assert [output["name"] for output in result.get_response()["outputs"]] == ["size", "upper"]
    assert result.as_numpy("size").tolist() == [[2], [1]]
    only = client.infer("texts", [text], outputs=asked[:1])
    assert [output["name"] for output in only.get_response()["outputs"]] == ["size"]


def test_a_stock_client_reads_what_it_needs_before_it_starts(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mlp")
    assert not client.is_model_ready("nothing")
    assert client.get_server_metadata()["name"] == "forebay"
    assert client.get_model_metadata("mlp")["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 16]}]
    config = client.get_model_config("mlp")
    assert config["max_batch_size"] > 1
    assert config["input"][0]["dims"] == [16]
    assert config["input"][0]["data_type"] == "TYPE_FP32"
    assert {entry["name"]: entry["state"] for entry in client.get_model_repository_index()}["mlp"] == "READY"


def test_statistics_count_what_was_answered(client: Any, house: Served) -> None:
    before = house.statistics("mlp")
    client.infer("mlp", [tensor("x", np.zeros((5, 16), np.float32), "FP32")])
    after = client.get_inference_statistics("mlp")["model_stats"][0]
    assert after["inference_count"] - before["inference_count"] == 5
    assert after["execution_count"] - before["execution_count"] == 1
    assert after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"] == 1
    sizes = {entry["batch_size"] for entry in after["batch_stats"]}
    assert 5 in sizes


def test_a_model_whose_rows_depend_on_each_other_says_that_it_does_not_batch(house: Served) -> None:
    assert house.http.get("/v2/models/centred/config").json()["max_batch_size"] == 0
    answers = house.many("centred", [float(i) for i in range(32)], explain=True)
    assert [values(answer) for answer in answers] == [[0.0]] * 32
    assert {answer.json()["parameters"]["batch_rows"] for answer in answers} == {1}
    # A caller's own batch is still one call: the mean is over these three.
    assert values(house.infer("centred", [1.0, 2.0, 6.0])) == [-2.0, -1.0, 3.0]


def test_a_request_without_content_type_or_any_other_header_is_understood(house: Served) -> None:
    raw = json.dumps(body([1.5])).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{house.port}/v2/models/ragged/infer", data=raw, method="POST")
    request.add_header("Content-Type", "application/x-www-form-urlencoded")  # what curl -d sends
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert json.loads(answer.read())["outputs"][0]["data"] == [1.5]


def test_the_id_comes_back_and_only_where_there_was_one(house: Served) -> None:
    given = {**body([1.0]), "id": "caf\u00e9 \u2603"}
    assert house.http.post("/v2/models/ragged/infer", json=given).json()["id"] == "caf\u00e9 \u2603"
    assert "id" not in house.http.post("/v2/models/ragged/infer", json=body([1.0])).json()


def test_the_version_may_stand_in_the_path(house: Served) -> None:
    answer = house.http.post("/v2/models/ragged/versions/1/infer", json=body([1.0]))
    assert values(answer) == [1.0]
    assert house.http.post("/v2/models/ragged/versions/2/infer", json=body([1.0])).status_code == 404


def test_one_row_may_be_asked_for_in_short(house: Served) -> None:
    answer = house.http.post("/v2/models/texts/infer", json={"input": {"text": ["hi"]}})
    assert answer.status_code == 200
    assert answer.json()["output"] == {"upper": ["HI"], "size": [2]}


def test_explain_says_how_a_request_was_batched(house: Served) -> None:
    told = house.infer("ragged", [1.0], explain=True).json()["parameters"]
    assert told["batch_rows"] == 1
    assert told["dispatch_reason"] == "idle"
    assert told["queue_ms"] >= 0
    assert told["padding_waste"] == 0
    assert "parameters" not in house.infer("ragged", [1.0]).json()


@pytest.mark.parametrize("binary", [True, False])
def test_nan_and_infinities_go_both_ways(house: Served, client: Any, binary: bool) -> None:
    odd = [[math.nan, math.inf, -math.inf, -0.0]]
    if binary:
        result = client.infer("ragged", [tensor("x", np.array(odd, np.float32), "FP32")])
        got = result.as_numpy("same").reshape(-1).tolist()
    else:
        raw = json.dumps(body(odd))  # Python's json writes NaN and Infinity
        answer = house.http.post("/v2/models/ragged/infer", content=raw)
        assert answer.status_code == 200, answer.text
        got = json.loads(answer.text)["outputs"][0]["data"]
    assert math.isnan(got[0])
    assert got[1:3] == [math.inf, -math.inf]
    assert math.copysign(1, got[3]) == -1


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_tensors_without_elements_are_answered(client: Any, shape: tuple[int, int], binary: bool) -> None:
    result = client.infer("ragged", [tensor("x", np.zeros(shape, np.float32), "FP32", binary)])
    assert result.as_numpy("total").shape == (shape[0], 1)
    assert not result.as_numpy("total").any()
    assert result.as_numpy("same").size == 0


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"[]", "object"),
        (b"{}", "inputs"),
        (b'{"inputs": []}', "x"),
        (b'{"inputs": [{"name": "z", "shape": [1, 1], "datatype": "FP32", "data": [1]}]}', "z"),
        (b'{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1]}]}', "x"),
        (b'{"inputs": [{"name": "x", "shape": [1, 1, 1], "datatype": "FP32", "data": [1]}]}', "shape"),
        (b'{"inputs": [{"name": "x", "shape": [1, -1], "datatype": "FP32", "data": [1]}]}', "shape"),
        (b'{"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [1]}]}', "FP32"),
        (b'{"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": ["a"]}]}', "number"),
        (b'{"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32"}]}', "data"),
        (b'\xff\xfe{"inputs"', "UTF-8"),
        (b"[" * 1000, "deep"),
    ],
)
def test_malformed_input_is_a_400_that_says_what_was_wrong(house: Served, payload: bytes, said: str) -> None:
    answer = house.http.post("/v2/models/ragged/infer", content=payload)
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] == "invalid_request"
    assert said in answer.json()["error"]


@pytest.mark.parametrize("length", ["3", "100000", "-1", "x", "99999999999999999999"])
def test_a_wrong_binary_header_length_is_a_400(house: Served, length: str) -> None:
    raw = json.dumps(body([1.0])).encode()
    answer = house.http.post(
        "/v2/models/ragged/infer", content=raw, headers={"Inference-Header-Content-Length": length}
    )
    assert answer.status_code == 400, answer.text


def test_binary_data_of_a_wrong_size_is_a_400(house: Served) -> None:
    for size, sent in ((4, 8), (8, 4), (5, 5)):
        entry = {"name": "x", "shape": [1, 1], "datatype": "FP32", "parameters": {"binary_data_size": size}}
        head = json.dumps({"inputs": [entry]}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        answer = house.http.post("/v2/models/ragged/infer", content=head + bytes(sent), headers=headers)
        assert answer.status_code == 400, (size, sent, answer.text)


def test_what_is_not_there_or_not_allowed_says_so(house: Served) -> None:
    for answer, status, code in (
        (house.infer("nothing", [1.0]), 404, "model_not_found"),
        (house.http.get("/v2/models/nothing"), 404, "model_not_found"),
        (house.http.get("/nothing"), 404, "not_found"),
        (house.http.get("/v2/models/mlp/infer"), 405, "method_not_allowed"),
        (house.http.post("/v2/models/mlp", json={}), 405, "method_not_allowed"),
    ):
        assert answer.status_code == status, answer.text
        assert answer.json()["code"] == code
        assert answer.json()["error"]


def test_what_forebay_cannot_do_is_a_501(house: Served) -> None:
    assert house.infer("ragged", [1.0], sequence_id=7).status_code == 501
    asked = {**body([1.0]), "outputs": [{"name": "total", "parameters": {"shared_memory_region": "r"}}]}
    assert house.http.post("/v2/models/ragged/infer", json=asked).status_code == 501
    assert house.http.post("/v2/trace/setting", json={"trace_level": ["TIMESTAMPS"]}).status_code == 501
    for path in ("systemsharedmemory/status", "cudasharedmemory/region/r/status"):
        assert house.http.get(f"/v2/{path}").status_code == 501
    for path in ("systemsharedmemory/region/r/register", "cudasharedmemory/unregister"):
        answer = house.http.post(f"/v2/{path}", json={})
        assert (answer.status_code, answer.json()["code"]) == (501, "unsupported")
        assert "shared memory is not supported" in answer.json()["error"]


def test_a_stock_client_sees_the_error_as_text(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="shape") as caught:
        client.infer("mlp", [tensor("x", np.zeros((1, 3), np.float32), "FP32")])
    assert caught.value.status() == "400"


def test_large_tensors_travel_whole(client: Any) -> None:
    # 16 MB: above the limits for decoding on the loop and for frames; its answer comes back by shared memory too.
    array = np.arange(4_000_000, dtype=np.float32).reshape(2, -1)
    result = client.infer("ragged", [tensor("x", array, "FP32")])
    np.testing.assert_array_equal(result.as_numpy("same"), array)


def test_large_json_bodies_travel_whole(house: Served) -> None:
    row = [float(i % 1000) for i in range(100_000)]
    answer = house.http.post("/v2/models/ragged/infer", json=body([row, row]))
    assert values(answer) == row + row


def test_fp16_in_json_is_numbers_like_any_other(house: Served) -> None:
    entries = [
        {
            "name": f"in_{name.lower()}",
            "shape": [1, 2],
            "datatype": name,
            "data": [v.decode() if isinstance(v, bytes) else v for v in pair],
        }
        for name, pair in EXAMPLES.items()
    ]
    answer = house.http.post("/v2/models/echo/infer", json={"inputs": entries})
    assert answer.status_code == 200, answer.text
    for sent, got in zip(entries, answer.json()["outputs"], strict=True):
        if sent["datatype"] in ("FP16", "FP32"):
            # In the digits that they need: 65500 stands for 65504, the FP16 next to it.
            dtype = np.float16 if sent["datatype"] == "FP16" else np.float32
            assert np.array_equal(np.array(got["data"], dtype), np.array(sent["data"], dtype))
        else:
            assert got["data"] == sent["data"]


def test_bytes_that_are_not_text_travel_in_binary_form(house: Served, client: Any) -> None:
    raw = struct.pack("<I", 2) + b"\xff\xfe"
    text = tensor("text", np.array([[raw[4:]]], dtype=object), "BYTES")
    asked = [triton.InferRequestedOutput("upper", binary_data=True)]
    assert client.infer("texts", [text], outputs=asked).as_numpy("upper").tolist() == [[b"\xff\xfe"]]
