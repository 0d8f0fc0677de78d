"""Several models on several workers, and workers with other versions of one, around one broker."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contract.brokers.rabbit_nodes import rabbitmq_url
from tests.e2e.long import full
from tests.e2e.repository import put
from tests.e2e.roles import House, announced, ended, house, submit
from tests.e2e.server import Served, eventually
from tests.faults.jobs.carriers import Carrier
from tests.faults.jobs.kafka_carriers import KafkaCarrier
from tests.faults.jobs.sqs_carriers import SqsCarrier

MODELS = ("told", "left", "right")
EACH = 20


@pytest.fixture(params=["the store", *(full(kind) for kind in ("RabbitMQ", "SQS", "Kafka"))])
def carrying(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Arguments that name what carries the jobs. In the end it holds nothing of them."""
    if request.param == "the store":
        yield []
        return
    carrier: Carrier | SqsCarrier | KafkaCarrier
    if request.param == "SQS":
        carrier = SqsCarrier()
    else:
        carrier = KafkaCarrier(*MODELS) if request.param == "Kafka" else Carrier(rabbitmq_url(), *MODELS)
    yield ["--broker", carrier.url]
    assert carrier.left() == {}


@pytest.fixture
def built(carrying: list[str], tmp_path: Path) -> Iterator[House]:
    with house(tmp_path) as found:
        yield found


def sample(web: Served, name: str, model: str) -> float:
    """A gauge of one model's queue; -1: it is not told."""
    found = re.search(rf'^{name}{{model="{model}"}} (\S+)$', web.http.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else -1.0


def answer(web: Served, id: str) -> tuple[float, float]:
    """Of a job that must succeed in its first attempt: its number, and the version that answered."""
    done = ended(web, id)
    assert (done["status"], done["attempt"]) == ("succeeded", 1), done
    output = done["output"]["output"]
    return output["y"][0], output["version"][0]


@pytest.mark.timeout(180)
def test_each_job_is_run_by_a_worker_that_has_its_model_whatever_version_that_has(
    carrying: list[str], built: House, tmp_path: Path
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    put(old, 1)
    put(old, 1, name="left")
    put(new, 2)
    put(new, 1, name="right")
    web = built.web("web", *carrying).wait_listening()
    first = built.worker("first", str(old), *carrying)
    built.worker("second", str(new), *carrying)
    for model in MODELS:
        announced(web, model)
    eventually(lambda: web.http.get("/v2/models/told/versions/2/ready").status_code == 200, "both versions are known")
    ids = {model: [submit(web, model, [float(number)]) for number in range(EACH // 4)] for model in MODELS}
    for model, given in ids.items():
        found = [answer(web, id) for id in given]
        assert [y for y, _ in found] == [float(number) for number in range(len(given))]
        assert {version for _, version in found} <= ({1.0, 2.0} if model == "told" else {1.0})

    # A deployment: the old worker goes, and what it alone had waits for another, and is told of as waiting.
    first.stop()
    began_s = time.monotonic()
    waiting = [submit(web, "left", [float(number)]) for number in range(EACH)]
    path = "/v2/models/told/versions/2/infer"
    asked = web.http.post(path, json={"input": {"x": [7.0]}}, headers={"Prefer": "respond-async"})
    assert asked.status_code == 202, asked.text
    assert answer(web, asked.json()["id"]) == (7.0, 2.0)
    eventually(lambda: sample(web, "forebay_jobs_waiting", "left") == EACH, "they wait")
    oldest_s = eventually(lambda: max(0.0, sample(web, "forebay_jobs_oldest_seconds", "left")), "they grow old")
    assert oldest_s <= time.monotonic() - began_s
    eventually(lambda: sample(web, "forebay_jobs_oldest_seconds", "left") > oldest_s, "they grow older")
    assert sample(web, "forebay_jobs_waiting", "right") == 0
    built.worker("third", str(old), *carrying)
    assert [answer(web, id)[0] for id in waiting] == [float(number) for number in range(EACH)]
    eventually(lambda: sample(web, "forebay_jobs_waiting", "left") == 0, "none waits")
    assert sample(web, "forebay_jobs_oldest_seconds", "left") == 0
