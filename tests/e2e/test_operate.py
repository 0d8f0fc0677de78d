"""What an operator looks at: health, readiness, metrics, documents, the log, bounded queues."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from tests.e2e.server import Served, eventually, model, quick, serving, values

SHOWN = {
    "forebay_requests",
    "forebay_refused",
    "forebay_canceled",
    "forebay_request_seconds",
    "forebay_queue_seconds",
    "forebay_compute_seconds",
    "forebay_batch_rows",
    "forebay_dispatch",
    "forebay_padding_rows",
    "forebay_in_flight_requests",
    "forebay_queue_depth_rows",
    "forebay_queue_depth_bytes",
    "forebay_instances_ready",
    "forebay_instance_deaths",
}


def test_health_needs_no_key_and_says_what_it_means(house: Served) -> None:
    for path in ("/healthz", "/v2/health/live"):
        assert house.http.get(path).json() == {"live": True}
    for path in ("/readyz", "/v2/health/ready"):
        assert house.http.get(path).json() == {"ready": True, "reasons": []}
    assert house.http.get("/v2/models/mlp/ready").json() == {"name": "mlp", "ready": True, "reasons": []}
    for path in ("/healthz", "/v2/health/ready", "/v2/models/mlp"):
        answer = house.http.head(path)
        assert (answer.status_code, answer.content) == (200, b"")


def test_metrics_are_prometheus_and_complete(house: Served) -> None:
    assert values(house.infer("ragged", [1.0])) == [1.0]
    answer = house.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    families = {family.name for family in text_string_to_metric_families(answer.text)}
    assert families >= SHOWN


def test_metrics_count_each_answer_once(house: Served) -> None:
    before = house.metric("forebay_requests_total", "ragged")
    refused = house.metric("forebay_refused_total", "sleep")
    for number in range(7):
        house.infer("ragged", [float(number)])
    house.infer("ragged", [[1.0]] * 600)  # split into batches, still one request
    house.infer("sleep", [[1.0]], timeout=1000)
    assert house.metric("forebay_requests_total", "ragged") - before == 8
    assert house.metric("forebay_refused_total", "sleep") - refused == 1


def test_the_documentation_is_served(house: Served) -> None:
    assert house.http.get("/docs").status_code == 200
    document = house.http.get("/openapi.json").json()
    assert "/v2/models/{model}/infer" in document["paths"]


def test_the_log_says_what_is_served_and_where(house: Served) -> None:
    served = [record for record in house.records() if record["message"].startswith("serving ")]
    assert len(served) == 1
    assert served[0]["port"] == house.port
    ready = {record["model"] for record in house.records() if "is ready: " in record["message"]}
    assert ready == {"mlp", "sleep", "echo", "texts", "ragged", "centred", "settings", "pause"}
    house.wait_logged("x FP32[-1, 16] -> y FP32[-1, 3]")
    house.wait_logged("of a row alone and in a batch of two differs")


def test_a_full_queue_is_a_503_with_a_hint_and_empties_again(lane: str, tmp_path: Path) -> None:
    bounded = [*quick(*model("faulty.py", "Pause")), "--set", "pause.max_queue_rows=10", "--express-lane", lane]
    with serving(tmp_path, *bounded) as served, ThreadPoolExecutor(24) as pool:
        running = pool.submit(served.infer, "pause", [1200.0])
        eventually(lambda: served.in_flight("pause") == 1, "one runs")
        answers = list(pool.map(lambda _: served.infer("pause", [1.0]), range(23)))
        codes = [answer.status_code for answer in answers]
        full = [answer for answer in answers if answer.status_code == 503]
        assert codes.count(200) >= 10
        assert full
        for answer in full:
            assert answer.json()["code"] == "queue_full"
            assert int(answer.headers["retry-after"]) >= 1
        assert values(running.result()) == [1200.0]
        assert values(served.infer("pause", [1.0] * 10)) == [1.0] * 10
        never = served.infer("pause", [1.0] * 11)
        assert (never.status_code, never.json()["code"]) == (413, "payload_too_large"), "it would never fit"
        assert "retry-after" not in never.headers


def test_two_servers_share_a_folder(tmp_path: Path) -> None:
    models = quick(*model("plain.py", "Ragged"))
    with serving(tmp_path, *models) as first, serving(tmp_path, *models) as second:
        assert first.port != second.port
        assert values(first.infer("ragged", [1.0])) == values(second.infer("ragged", [1.0])) == [1.0]
