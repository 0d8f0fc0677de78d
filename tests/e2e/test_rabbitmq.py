"""Jobs carried by a RabbitMQ, or by an SQS, as an operator sets it up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contract.brokers.rabbit_nodes import rabbitmq_url
from tests.e2e.roles import House, announced, ended, house, submit
from tests.e2e.server import eventually, model, quick, run_once, serving
from tests.faults.jobs.carriers import Carrier
from tests.faults.jobs.sqs_carriers import SqsCarrier

PAUSE = model("faulty.py", "Pause")


@pytest.fixture(params=["RabbitMQ", "SQS"])
def broker(request: pytest.FixtureRequest) -> Iterator[str]:
    """A URL with queues of its own."""
    carrier = SqsCarrier() if request.param == "SQS" else Carrier(rabbitmq_url(), "pause")
    yield carrier.url
    assert carrier.left() == {}


@pytest.fixture
def built(tmp_path: Path) -> Iterator[House]:
    with house(tmp_path) as found:
        yield found


@pytest.mark.full
def test_one_process_with_a_broker(tmp_path: Path, broker: str) -> None:
    with serving(tmp_path, *quick(*PAUSE), "--broker", broker) as served:
        small = [submit(served, "pause", [float(number)], priority=number % 3) for number in range(20)]
        # Too large for a message: it stays in the store.
        body = b'{"input": {"x": [7.0]}' + b" " * 300_000 + b"}"
        answer = served.http.post("/v1/models/pause/jobs", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 202, answer.text
        large = answer.json()["id"]
        served.wait_logged(f"jobs are carried by {'SQS' if broker.startswith('sqs') else 'RabbitMQ'}")
        for number, id in enumerate(small):
            found = ended(served, id)
            assert (found["status"], found["output"]["output"]) == ("succeeded", {"y": [float(number)]})
        assert ended(served, large)["output"]["output"] == {"y": [7.0]}
        eventually(lambda: 'forebay_jobs_waiting{model="pause"} 0' in served.http.get("/metrics").text, "it is counted")


def test_web_and_worker_with_a_broker(broker: str, built: House) -> None:
    web = built.web("web", "--broker", broker)
    web.wait_listening()
    worker = built.worker("worker", *PAUSE, "--broker", broker)
    announced(web, "pause")
    done = ended(web, submit(web, "pause", [3.0]))
    assert (done["status"], done["attempt"]) == ("succeeded", 1)
    worker.stop()
    waiting = [submit(web, "pause", [float(number)]) for number in range(5)]
    eventually(lambda: 'forebay_jobs_waiting{model="pause"} 5' in web.http.get("/metrics").text, "they wait")
    built.worker("another", *PAUSE, "--broker", broker)
    assert {ended(web, id)["status"] for id in waiting} == {"succeeded"}


@pytest.mark.parametrize("role", ["serve", "web", "worker"])
def test_a_broker_that_refuses_ends_the_start(tmp_path: Path, role: str) -> None:
    host = rabbitmq_url().rpartition("@")[2]
    with house(tmp_path / "house") as found:
        models = quick(*PAUSE) if role != "web" else []
        done = run_once(tmp_path, role, *models, *found.where, "--broker", f"amqp://guest:s3cret@{host}")
    said = " ".join(done.stderr.split())
    assert done.returncode == 2, said
    assert "refuses user 'guest' or the password; mend the broker's URL" in said
    assert "s3cret" not in said
    assert "Traceback" not in said


def test_without_its_library_the_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "aio_pika.py").write_text("raise ModuleNotFoundError('No module named aio_pika')\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = run_once(tmp_path, "web", "--store", "redis://localhost", "--broker", "amqp://me:s3cret@h", PYTHONPATH=path)
    said = " ".join(done.stderr.split())
    assert done.returncode == 2
    assert "pip install 'forebay[rabbitmq]'" in said
    assert "s3cret" not in said
