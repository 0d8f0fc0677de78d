"""How requests share batches, and that sharing changes nobody's answer. Held with the express lane and without."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
from tests.e2e.server import Served, body, eventually, values


def mean_rows(served: Served, model: str, before: dict[str, int]) -> float:
    """Rows of a mean batch since `before` (the model's statistics)."""
    after = served.statistics(model)
    batches: int = after["execution_count"] - before["execution_count"]
    rows: int = after["inference_count"] - before["inference_count"]
    return rows / batches


def batch_rows(answer: httpx.Response) -> int:
    found: int = answer.json()["parameters"]["batch_rows"]
    return found


def test_rows_of_many_clients_share_batches_and_everyone_gets_their_own_answer(house: Served, mlp: Path) -> None:
    random = np.random.default_rng(1)
    rows = random.normal(size=(400, 16)).astype(np.float32)
    weights = np.load(mlp.with_suffix(".npz"))
    hidden = np.maximum(rows @ weights["w1"] + weights["b1"], 0)
    scores = hidden @ weights["w2"] + weights["b2"]
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    wanted = shares / shares.sum(axis=1, keepdims=True)
    answers = house.many("mlp", rows.tolist())
    np.testing.assert_allclose([values(answer) for answer in answers], wanted, rtol=2e-3, atol=1e-5)


def test_explain_shows_that_a_batch_was_shared(house: Served) -> None:
    answers = house.many("sleep", [[float(i)] for i in range(96)], timeout=30_000_000, explain=True)
    assert [values(answer) for answer in answers] == [[float(i)] for i in range(96)]
    assert max(map(batch_rows, answers)) > 1


def test_a_lone_request_does_not_wait_for_company(house: Served) -> None:
    told = house.infer("sleep", [[1.0]], timeout=30_000_000, explain=True).json()["parameters"]
    assert told["batch_rows"] == 1
    assert told["dispatch_reason"] == "idle"


def test_a_thousand_rows_are_split_and_joined_in_order(house: Served) -> None:
    before = house.statistics("ragged")
    rows = [[float(i), float(-i)] for i in range(1000)]
    answer = house.infer("ragged", rows, explain=True)
    assert answer.json()["outputs"][0]["shape"] == [1000, 2]
    assert values(answer) == [value for row in rows for value in row]
    assert answer.json()["outputs"][1]["data"] == [0.0] * 1000
    after = house.statistics("ragged")
    assert after["inference_count"] - before["inference_count"] == 1000
    assert after["execution_count"] - before["execution_count"] >= 1000 // 256
    assert max(entry["batch_size"] for entry in after["batch_stats"]) <= 256


def test_text_rows_are_split_and_joined_in_order(house: Served) -> None:
    texts = ["x" * (i % 37) + str(i) for i in range(700)]
    tensor = {"name": "text", "shape": [700, 1], "datatype": "BYTES", "data": texts}
    answer = house.http.post("/v2/models/texts/infer", json={"inputs": [tensor]})
    assert values(answer) == [text.upper() for text in texts]
    assert answer.json()["outputs"][1]["data"] == [len(text) for text in texts]


def test_more_rows_than_the_cap_run_in_capped_batches(house: Served) -> None:
    answer = house.infer("settings", list(range(11)))
    assert values(answer) == list(range(11))
    assert max(entry["batch_size"] for entry in house.statistics("settings")["batch_stats"]) <= 4


def test_rows_of_different_shapes_never_share_a_batch_where_padding_is_off(house: Served) -> None:
    rows = [[float(i)] * (1 + i % 5) for i in range(200)]
    answers = house.many("ragged", rows)
    for row, answer in zip(rows, answers, strict=True):
        assert values(answer) == row
        assert answer.json()["outputs"][0]["shape"] == [1, len(row)]
        assert answer.json()["outputs"][1]["data"] == [sum(row)]


def test_texts_of_any_length_share_batches(house: Served) -> None:
    texts = [chr(97 + i % 26) * (1 + i * 7 % 300) for i in range(150)]

    def ask(text: str) -> httpx.Response:
        return house.http.post("/v2/models/texts/infer", json={"input": {"text": [text]}})

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(ask, texts))
    assert [answer.json()["output"]["upper"] for answer in answers] == [[text.upper()] for text in texts]


def test_alternating_shapes_still_batch(house: Served) -> None:
    before = house.statistics("sleep")
    rows = [[1.0] * (3 + i % 2) for i in range(320)]
    answers = house.many("sleep", rows, threads=32, timeout=30_000_000)
    assert [values(answer) for answer in answers] == [[float(len(row))] for row in rows]
    assert mean_rows(house, "sleep", before) > 4


def test_models_do_not_mix(house: Served) -> None:
    def ask(number: int) -> bool:
        if number % 2:
            return values(house.infer("pause", [float(number % 5)])) == [number % 5]
        return values(house.infer("ragged", [[float(number), 1.0]])) == [number, 1]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(300)))


def test_requests_of_one_and_of_many_rows_share_an_engine(house: Served) -> None:
    def ask(number: int) -> bool:
        rows = [[float(number), float(row)] for row in range(1 + number % 40)]
        answer = house.infer("ragged", rows, priority=number % 3)
        return values(answer) == [value for row in rows for value in row]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(200)))


def test_a_row_of_higher_priority_goes_first(house: Served) -> None:
    with ThreadPoolExecutor(9) as pool:
        holder = pool.submit(house.infer, "pause", [600.0])
        eventually(lambda: house.in_flight("pause") == 1, "one runs")
        filler = pool.submit(house.infer, "pause", [10.0])
        eventually(lambda: house.in_flight("pause") == 2, "one waits at the instance")
        # Rows of other requests' batches are told apart by their size: these two cannot share one of 256.
        late = pool.submit(house.infer, "pause", [0.0] * 200, explain=True)
        eventually(lambda: house.in_flight("pause") == 3, "200 rows wait")
        early = pool.submit(house.infer, "pause", [0.0] * 200, priority=1, explain=True)
        told = [future.result().json()["parameters"] for future in (early, late)]
        assert values(holder.result()) == [600.0]
        assert values(filler.result()) == [10.0]
    # On a slow machine one may run in parts; a batch that both were in would be full, of 256.
    assert max(entry["batch_rows"] for entry in told) <= 200
    # `early` came later and waited less: it went first.
    assert told[0]["queue_ms"] < told[1]["queue_ms"]


def test_a_request_with_an_unknown_parameter_is_answered(house: Served) -> None:
    answer = house.http.post("/v2/models/ragged/infer", json=body([1.0], mood="good"))
    assert values(answer) == [1.0]
