"""The rest of the protocol over real sockets: raw binary bodies, codings, limits at their boundaries, large tensors."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tests.e2e.server import Served, body, model, quick, run_once, serving
from tests.e2e.wire import request, wire

from forebay.core.tensors import pack_bytes, unpack_bytes

MIB = 1 << 20
LIMIT_BYTES = 64 * MIB
RAGGED = "/v2/models/ragged/infer"
TEXTS = "/v2/models/texts/infer"


def binary_parts(answer: Any) -> tuple[dict[str, Any], bytes]:
    """The JSON of a binary answer, and what follows it."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    cut = int(answer.headers["inference-header-content-length"])
    document: dict[str, Any] = json.loads(answer.content[:cut])
    return document, answer.content[cut:]


# -- raw binary requests ----------------------------------------------------------------------------------------------


def test_a_raw_binary_body_is_one_row_and_is_answered_in_binary_form(house: Served) -> None:
    x = np.arange(5, dtype=np.float32)
    headers = {"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"}
    for path in (RAGGED, "/v2/models/ragged/versions/1/infer"):
        document, tail = binary_parts(house.http.post(path, content=x.tobytes(), headers=headers))
        assert [(o["name"], o["shape"]) for o in document["outputs"]] == [("same", [1, 5]), ("total", [1, 1])]
        np.testing.assert_array_equal(np.frombuffer(tail, np.float32), [0, 1, 2, 3, 4, 10])


@pytest.mark.parametrize("raw", [b"427", b"", b"a\0b\0", b"\x01\0\0\0x", bytes(range(97))])
def test_a_raw_binary_body_of_text_is_the_element_itself(house: Served, raw: bytes) -> None:
    document, tail = binary_parts(house.http.post(TEXTS, content=raw, headers={"Inference-Header-Content-Length": "0"}))
    upper, size = document["outputs"]
    assert unpack_bytes(tail[: upper["parameters"]["binary_data_size"]], 1) == [raw.upper()]
    assert struct.unpack("<i", tail[-size["parameters"]["binary_data_size"] :]) == (len(raw),)


def test_a_raw_binary_body_that_does_not_fit_is_refused(house: Served) -> None:
    headers = {"Inference-Header-Content-Length": "0"}
    for path, content, words in (
        ("/v2/models/mlp/infer", bytes(63), "takes 64 bytes, its binary data has 63"),
        ("/v2/models/mlp/infer", bytes(128), "takes 64 bytes, its binary data has 128"),
        (RAGGED, bytes(7), "takes 4 bytes, its binary data has 7"),
        ("/v2/models/echo/infer", bytes(8), "needs a model with one input"),
    ):
        answer = house.http.post(path, content=content, headers=headers)
        assert answer.status_code == 400
        assert words in answer.json()["error"]


# -- what is answered in which form -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("whole", "same", "total", "binary"),
    [
        (None, None, None, []),
        (True, None, None, ["same", "total"]),
        (False, None, None, []),
        (True, False, None, ["total"]),
        (True, False, False, []),
        (False, True, None, ["same"]),
        (None, True, False, ["same"]),
        (False, True, True, ["same", "total"]),
    ],
)
def test_an_outputs_own_flag_goes_before_the_requests(
    house: Served, whole: bool | None, same: bool | None, total: bool | None, binary: list[str]
) -> None:
    outputs = []
    for name, flag in (("same", same), ("total", total)):
        outputs.append({"name": name} if flag is None else {"name": name, "parameters": {"binary_data": flag}})
    parameters: dict[str, Any] = {} if whole is None else {"binary_data_output": whole}
    asked = {**body([[1.0, 2.0]], **parameters), "outputs": outputs}
    answer = house.http.post(RAGGED, json=asked)
    if binary:
        document, tail = binary_parts(answer)
    else:
        document, tail = answer.json(), b""
        assert "inference-header-content-length" not in answer.headers
    assert [o["name"] for o in document["outputs"] if "data" not in o] == binary
    values = {"same": [1.0, 2.0], "total": [3.0]}
    assert tail == b"".join(np.array(values[name], np.float32).tobytes() for name in binary)
    assert all(o["data"] == values[o["name"]] for o in document["outputs"] if "data" in o)


# -- content codings --------------------------------------------------------------------------------------------------


def large(columns: int = 60_000) -> bytes:
    return json.dumps(body([[float(i % 100) for i in range(columns)]])).encode()


@pytest.mark.parametrize(
    ("accept", "coding", "undo"),
    [
        ("gzip", "gzip", gzip.decompress),
        ("deflate", "deflate", zlib.decompress),
        ("gzip, deflate", "gzip", gzip.decompress),
        ("br;q=1.0, gzip;q=0.2, deflate;q=0.4", "deflate", zlib.decompress),
        ("*", "gzip", gzip.decompress),
        ("identity;q=0, *", "gzip", gzip.decompress),
        ("identity", None, bytes),
        ("br", None, bytes),
        (None, None, bytes),
    ],
)
def test_a_large_answer_has_the_coding_that_was_asked_for(
    house: Served, accept: str | None, coding: str | None, undo: Any
) -> None:
    lines = [] if accept is None else [f"Accept-Encoding: {accept}"]
    with wire(house.port) as connection:
        for _ in range(2):
            reply = connection.send(request(RAGGED, large(), *lines)).reply()
            assert (reply.status, reply.headers.get("content-encoding")) == (200, coding)
            assert reply.headers["vary"] == "accept-encoding"
            assert json.loads(undo(reply.body))["outputs"][0]["data"][:3] == [0.0, 1.0, 2.0]


def test_the_answers_of_a_connection_stay_in_order_whatever_their_coding(house: Served) -> None:
    short = json.dumps(body([[1.0]])).encode()
    with wire(house.port) as connection:
        accept = "Accept-Encoding: gzip"
        connection.send(request(RAGGED, large(), accept), request(RAGGED, short, accept))
        connection.send(request(RAGGED, large()), request(RAGGED, short))
        codings = [connection.reply().headers.get("content-encoding") for _ in range(4)]
    assert codings == ["gzip", None, None, None]


def test_a_small_answer_stays_as_it_is(house: Served) -> None:
    answer = house.http.post(RAGGED, json=body([[1.0]]), headers={"Accept-Encoding": "gzip, identity;q=0"})
    assert answer.status_code == 200
    assert not {"content-encoding", "vary"} & set(answer.headers)


@pytest.mark.parametrize(("coding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_coded_body_is_read(house: Served, coding: str, compress: Any) -> None:
    headers = {"Content-Encoding": coding}
    answer = house.http.post(RAGGED, content=compress(large()), headers=headers)
    assert answer.json()["outputs"][0]["shape"] == [1, 60_000]
    x = np.arange(8, dtype=np.float32)
    entry: dict[str, Any] = {"name": "x", "shape": [1, 8], "datatype": "FP32", "parameters": {"binary_data_size": 32}}
    head = json.dumps({"inputs": [entry]}).encode()
    # The length of the JSON is that without the coding.
    headers["Inference-Header-Content-Length"] = str(len(head))
    answer = house.http.post(RAGGED, content=compress(head + x.tobytes()), headers=headers)
    assert answer.json()["outputs"][1]["data"] == [28.0]


def test_unknown_codings_are_a_415_that_names_the_known(house: Served) -> None:
    for coding in ("br", "gzip, deflate", "compress"):
        answer = house.http.post(RAGGED, content=b"x", headers={"Content-Encoding": coding})
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_encoding")
        assert answer.headers["accept-encoding"] == "gzip, deflate"


def test_damaged_data_is_a_400_and_the_connection_goes_on(house: Served) -> None:
    whole = gzip.compress(json.dumps(body([[1.0]])).encode())
    with wire(house.port) as connection:
        for damaged in (b"", b"plain", whole[:-1], whole + b"more", whole[:20] + b"\0" * 9 + whole[29:]):
            reply = connection.send(request(RAGGED, damaged, "Content-Encoding: gzip")).reply()
            assert (reply.status, reply.json()["code"]) == (400, "invalid_request")
        assert connection.send(request(RAGGED, whole, "Content-Encoding: gzip")).reply().status == 200


# -- limits -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def roomy(lane: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of its own for the largest bodies, with the default limits but for the queue's bytes."""
    models = quick(*model("plain.py", "Ragged", "Texts", "Words"))
    with serving(tmp_path_factory.mktemp("roomy"), *models, "--express-lane", lane) as served:
        yield served


def padded(size_bytes: int) -> bytes:
    """A correct body of exactly so many bytes."""
    plain = json.dumps(body([[1.0]])).encode()
    return plain + b" " * (size_bytes - len(plain))


def test_a_body_of_exactly_the_limit_is_taken_and_one_byte_more_is_not(roomy: Served) -> None:
    assert roomy.http.post(RAGGED, content=padded(LIMIT_BYTES)).status_code == 200
    answer = roomy.http.post(RAGGED, content=padded(LIMIT_BYTES + 1))
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
    assert roomy.http.post(RAGGED, json=body([[1.0]])).status_code == 200


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_the_limit_counts_bytes_without_their_coding(roomy: Served, compress: Any) -> None:
    headers = {"Content-Encoding": "gzip" if compress is gzip.compress else "deflate"}
    assert roomy.http.post(RAGGED, content=compress(padded(LIMIT_BYTES), 1), headers=headers).status_code == 200
    answer = roomy.http.post(RAGGED, content=compress(padded(LIMIT_BYTES + 1), 1), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")


def test_ten_times_the_limit_is_refused_unread(roomy: Served) -> None:
    with wire(roomy.port) as connection:
        head = request(RAGGED, b"", f"Content-Length: {10 * LIMIT_BYTES}").replace(b"Content-Length: 0\r\n", b"")
        reply = connection.send(head).reply()  # not one byte of the body has been sent
        assert (reply.status, reply.headers["connection"]) == (413, "close")


def test_chunks_are_refused_once_they_are_too_many(roomy: Served) -> None:
    piece = b"100000\r\n" + b" " * MIB + b"\r\n"
    with wire(roomy.port) as connection:
        connection.send(f"POST {RAGGED} HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        connection.send(piece * (LIMIT_BYTES // MIB + 1))
        # The body has not come to its end, and need not.
        reply = connection.reply()
        assert (reply.status, reply.headers["connection"]) == (413, "close")
    assert roomy.http.post(RAGGED, json=body([[1.0]])).status_code == 200


def test_a_bomb_is_stopped_early(roomy: Served) -> None:
    bomb = gzip.compress(bytes(10 * LIMIT_BYTES), 9)
    process = psutil.Process(roomy.process.pid)
    before = process.memory_info().rss
    for _ in range(3):
        answer = roomy.http.post(RAGGED, content=bomb, headers={"Content-Encoding": "gzip"})
        assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
    assert process.memory_info().rss - before < 3 * LIMIT_BYTES


def test_a_slow_coded_body_is_timed_like_any_other(tmp_path: Path) -> None:
    models = quick(*model("plain.py", "Ragged"))
    with serving(tmp_path, *models, "--body-timeout-s", "0.5") as served, wire(served.port) as connection:
        data = gzip.compress(json.dumps(body([[1.0]])).encode())
        connection.send(request(RAGGED, data, "Content-Encoding: gzip")[:-5])
        assert connection.reply().status == 408
        assert connection.closed()


# -- large and odd tensors --------------------------------------------------------------------------------------------


def test_text_with_nuls_in_json_and_binary(house: Served) -> None:
    values = ["", "\0", "a\0b", "\0\0\0\0", "x" * 70_000 + "\0"]
    entry: dict[str, Any] = {"name": "text", "shape": [5, 1], "datatype": "BYTES", "data": values}
    answer = house.http.post(TEXTS, json={"inputs": [entry]})
    upper, size = answer.json()["outputs"]
    assert upper["data"] == [value.upper() for value in values]
    assert size["data"] == [len(value) for value in values]
    packed = pack_bytes(values)
    entry = {"name": "text", "shape": [5, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(packed)}}
    head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    document, tail = binary_parts(house.http.post(TEXTS, content=head + packed, headers=headers))
    size_bytes = document["outputs"][0]["parameters"]["binary_data_size"]
    assert unpack_bytes(tail[:size_bytes], 5) == [value.upper().encode() for value in values]


def test_ten_million_numbers(roomy: Served) -> None:
    count = 10_000_000
    x = np.arange(count, dtype=np.float32)
    entry: dict[str, Any] = {
        "name": "x",
        "shape": [1, count],
        "datatype": "FP32",
        "parameters": {"binary_data_size": 4 * count},
    }
    outputs = [{"name": "same", "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": [entry], "outputs": outputs}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    _, tail = binary_parts(roomy.http.post(RAGGED, content=head + x.tobytes(), headers=headers))
    np.testing.assert_array_equal(np.frombuffer(tail, np.float32), x)
    text = b"[" + b",".join(b"%d" % (i % 1000) for i in range(count)) + b"]"
    plain = b'{"inputs":[{"name":"x","shape":[1,%d],"datatype":"FP32","data":%b}],"outputs":[{"name":"same"}]}'
    answer = roomy.http.post(RAGGED, content=plain % (count, text))
    data = answer.json()["outputs"][0]["data"]
    assert (len(data), data[:3], data[-1]) == (count, [0.0, 1.0, 2.0], 999.0)


def words(count: int, rows: int, name: str) -> tuple[bytes, dict[str, str]]:
    """A binary request of `count` texts, all empty but the last, which is a NUL."""
    packed = struct.pack("<I", 0) * (count - 1) + pack_bytes([b"\0"])
    entry: dict[str, Any] = {"name": name, "shape": [rows, count // rows], "datatype": "BYTES"}
    entry["parameters"] = {"binary_data_size": len(packed)}
    head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    return head + packed, {"Inference-Header-Content-Length": str(len(head))}


@pytest.mark.full
def test_ten_million_texts(roomy: Served) -> None:
    content, headers = words(10_000_000, 1, "words")
    _, tail = binary_parts(roomy.http.post("/v2/models/words/infer", content=content, headers=headers))
    assert struct.unpack("<ii", tail) == (10_000_000, 1)


def test_ten_million_rows_are_more_than_a_queue_holds(roomy: Served) -> None:
    content, headers = words(10_000_000, 10_000_000, "text")
    answer = roomy.http.post(TEXTS, content=content, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
    assert "the request has 10000000 rows" in answer.json()["error"]
    assert roomy.http.post(RAGGED, json=body([[1.0]])).status_code == 200


# -- labels -----------------------------------------------------------------------------------------------------------


def test_labels_that_cannot_be_read_stop_the_start(mlp: Path, tmp_path: Path) -> None:
    ended = run_once(tmp_path, "serve", str(mlp), "--set", "mlp.labels=missing.txt", "--port", "0")
    assert ended.returncode != 0
    assert "cannot read labels" in ended.stderr
    assert "missing.txt" in ended.stderr


def test_the_allow_header_names_every_method(house: Served) -> None:
    for path, allowed in (("/v2/logging", "GET, HEAD, POST"), ("/v2/models/mlp", "GET, HEAD"), (RAGGED, "POST")):
        answer = house.http.delete(path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
