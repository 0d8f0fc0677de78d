"""A web process and a worker answer as one server does."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from tests.e2e.roles import MLP_ROW, announced, ended, house, submit
from tests.e2e.server import ROOT, Served, model, quick, run_once, serving

SLEEP = f"{ROOT / 'examples' / 'sleep.py'}:Sleep"


class Pair(NamedTuple):
    """A web process with a worker behind it, and a server of the same models."""

    web: Served
    local: Served


@pytest.fixture(scope="module")
def pair(mlp: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("roles")
    models = [str(mlp), *model("plain.py", "Echo", "Texts", "Ragged"), *model("streaming.py", "Count")]
    with house(folder) as built, serving(folder / "local", *quick(*models)) as local:
        web = built.web()
        built.worker("worker", *models)
        web.wait_ready()
        yield Pair(web, local)


def numbers(rows: int, **more: Any) -> dict[str, Any]:
    data = [((row * 31 + place) % 97) / 97 for row in range(rows) for place in range(16)]
    return {"inputs": [{"name": "x", "shape": [rows, 16], "datatype": "FP32", "data": data}], **more}


def ragged(width: int) -> dict[str, Any]:
    data = [value / 7 for value in range(2 * width)]
    return {"inputs": [{"name": "x", "shape": [2, width], "datatype": "FP32", "data": data}]}


TEXT = {"inputs": [{"name": "text", "shape": [2, 1], "datatype": "BYTES", "data": ["grün", "no"]}]}
BODIES = {
    "one row": ("mlp", {"input": {"x": MLP_ROW}}),
    "with an id": ("mlp", numbers(1, id="7")),
    "several rows": ("mlp", numbers(5)),
    "more rows than a batch has": ("mlp", numbers(700)),
    "no rows": ("mlp", numbers(0)),
    "one of two outputs": ("Texts", {**TEXT, "outputs": [{"name": "size"}]}),
    "text": ("Texts", TEXT),
    "classes": ("mlp", numbers(2, outputs=[{"name": "y", "parameters": {"classification": 2}}])),
    "binary": ("mlp", numbers(3, parameters={"binary_data_output": True})),
    "a large answer": ("Ragged", ragged(50_000)),
    "a large binary answer": ("Ragged", {**ragged(50_000), "parameters": {"binary_data_output": True}}),
    "a wrong shape": ("mlp", {"input": {"x": MLP_ROW[1:]}}),
    "a streaming model's whole answer": ("Count", {"input": {"n": 3}}),
}


def same(one: httpx.Response, other: httpx.Response) -> None:
    assert one.status_code == other.status_code, (one.text[:300], other.text[:300])
    assert one.content == other.content
    mine, its = ({k: v for k, v in answer.headers.items() if k != "date"} for answer in (one, other))
    assert mine == its


@pytest.mark.parametrize("case", BODIES)
def test_an_answer_through_the_store_is_that_of_a_local_server_byte_for_byte(pair: Pair, case: str) -> None:
    name, payload = BODIES[case]
    name = {"Texts": "texts", "Ragged": "ragged", "Count": "count"}.get(name, name)
    same(*(served.http.post(f"/v2/models/{name}/infer", json=payload) for served in pair))


def test_binary_inputs_travel_as_they_are(pair: Pair) -> None:
    head = json.dumps(
        {
            "inputs": [
                {"name": "x", "shape": [2, 16], "datatype": "FP32", "parameters": {"binary_data_size": 128}}
            ]
        }
    ).encode()  # fmt: skip
    body = head + struct.pack("<32f", *MLP_ROW, *MLP_ROW)
    headers = {"Inference-Header-Content-Length": str(len(head))}
    same(*(served.http.post("/v2/models/mlp/infer", content=body, headers=headers) for served in pair))


def test_every_datatype_comes_back_as_it_went(pair: Pair) -> None:
    kinds = {"BOOL": [True, False], "FP16": [0.5, -2.0], "UINT64": [1, 2**63], "INT8": [-128, 127], "BYTES": ["a", ""]}
    described = pair.local.http.get("/v2/models/echo").json()["inputs"]
    inputs = [
        {"name": one["name"], "shape": [1, 2], "datatype": one["datatype"], "data": kinds.get(one["datatype"], [1, 2])}
        for one in described
    ]
    same(*(served.http.post("/v2/models/echo/infer", json={"inputs": inputs}) for served in pair))


def test_an_explained_answer_tells_of_the_batch_at_the_worker(pair: Pair) -> None:
    payload = numbers(2, parameters={"explain": True})
    mine, its = (served.http.post("/v2/models/mlp/infer", json=payload).json() for served in pair)
    assert mine["parameters"].pop("queue_ms") > 0
    its["parameters"].pop("queue_ms")
    assert mine == its


@pytest.mark.parametrize(
    "path", ["/v2/models/mlp", "/v2/models/texts", "/v2/models/mlp/versions/1", "/v2/models/mlp/ready"]
)
def test_what_is_told_of_a_model_is_what_its_worker_tells(pair: Pair, path: str) -> None:
    same(*(served.http.get(path) for served in pair))


def test_the_configuration_is_the_workers(pair: Pair) -> None:
    mine, its = (served.http.get("/v2/models/mlp/config").json() for served in pair)
    for one in (mine, its):
        one.pop("parameters")  # what was measured at load
        one.pop("version_policy")  # a worker's own affair
    assert mine == its


def test_a_short_deadline_is_kept_through_the_store(pair: Pair) -> None:
    answer = pair.web.http.post(
        "/v2/models/count/infer", json={"input": {"n": 500}, "parameters": {"timeout": 300_000}}
    )
    assert answer.status_code == 504
    assert answer.json()["stage"] in ("executing", "waiting")


def test_jobs_run_at_the_worker(pair: Pair) -> None:
    ids = [submit(pair.web, "mlp", [place / 16] * 16) for place in range(16)]
    for place, id in enumerate(ids):
        done = ended(pair.web, id)
        direct = pair.web.http.post("/v2/models/mlp/infer", json={"input": {"x": [place / 16] * 16}}).json()
        assert done["status"] == "succeeded"
        assert done["output"] == direct


def test_answers_in_pieces_are_refused_with_what_to_do_instead(pair: Pair) -> None:
    answer = pair.web.http.post("/v2/models/count/generate_stream", json={"n": 2})
    assert answer.status_code == 501
    assert "send a job" in answer.json()["error"]


def test_load_and_unload_are_refused_where_no_model_is_loaded(pair: Pair) -> None:
    for operation in ("load", "unload"):
        answer = pair.web.http.post(f"/v2/repository/models/mlp/{operation}")
        assert (answer.status_code, answer.json()["code"]) == (501, "unsupported")
        assert "where workers run" in answer.json()["error"]


def test_statistics_and_metrics_count_what_went_through(pair: Pair) -> None:
    before = pair.web.metric("forebay_requests_total", "mlp")
    assert pair.web.http.post("/v2/models/mlp/infer", json=numbers(2)).status_code == 200
    assert pair.web.metric("forebay_requests_total", "mlp") == before + 1
    assert pair.web.statistics("mlp")["inference_count"] >= 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["web"], "forebay serve needs none"),
        (["worker", SLEEP], "--store redis://HOST:PORT"),
        (["web", "--store", "redis://localhost", "--broker", "amqp://u:secret@rabbit/?odd=1"], "unknown option 'odd'"),
        (["web", "--store", "redis://localhost", "--broker", "nats://u:secret@k"], "neither the store nor a RabbitMQ"),
        (["worker", SLEEP, "--store", "redis://localhost", "--broker", "redis://other"], "nor a RabbitMQ"),
        (["serve", SLEEP, "--broker", "redis://other"], "neither the store nor a RabbitMQ"),
        (["web", "--store", "http://localhost"], "store cannot be 'http://localhost'"),
    ],
)
def test_what_a_role_lacks_is_said_in_one_line(tmp_path: Path, arguments: list[str], said: str) -> None:
    ended = run_once(tmp_path, *arguments)
    assert ended.returncode == 2
    assert said in " ".join(ended.stderr.split())
    assert "secret" not in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_settings_of_roles_are_shown(tmp_path: Path) -> None:
    shown = run_once(
        tmp_path, "config", "show", "--json", "--broker", "redis://:secret@h", "--store", "redis://:secret@h"
    )
    rows = {row["key"]: row["value"] for row in json.loads(shown.stdout)}
    assert rows["jobs.broker"] == rows["jobs.store"] == "redis://:***@h"


@pytest.mark.parametrize("role", ["web", "worker"])
def test_each_role_explains_itself(tmp_path: Path, role: str) -> None:
    said = run_once(tmp_path, role, "--help")
    assert said.returncode == 0
    assert "forebay web" in said.stdout
    assert "Examples:" in said.stdout


def test_a_model_is_announced_to_a_web_process_that_waits(pair: Pair) -> None:
    announced(pair.web, "mlp")
    pair.web.wait_logged("mlp version 1 is announced by workers")
