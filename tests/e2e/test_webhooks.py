"""Webhooks as a receiver sees them: signed, called again until it answers, also after the server was killed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.e2e.roles import announced
from tests.e2e.roles import house as house_of
from tests.e2e.server import Served, eventually, gone, quick, run_once, serving

MLP = {"input": {"x": [0.25] * 16}}
TOLERANCE_S = 300


def verified(secret: str, headers: Message, body: bytes) -> bool:
    """Whether a call is signed as in Standard Webhooks, with this secret and lately."""
    id, timestamp = headers["webhook-id"], headers["webhook-timestamp"]
    if abs(time.time() - int(timestamp)) > TOLERANCE_S:
        return False
    key = base64.b64decode(secret.split("_", 1)[1])
    expected = hmac.digest(key, id.encode() + b"." + timestamp.encode() + b"." + body, hashlib.sha256)
    versions = [signature.split(",", 1) for signature in headers["webhook-signature"].split(" ")]
    return any(
        version == "v1" and hmac.compare_digest(base64.b64decode(given), expected) for version, given in versions
    )


class Receiver:
    """An HTTP server that answers each call with the next of `statuses`, and with the last one from then on."""

    def __init__(self, secret: str) -> None:
        self.statuses = [204]
        self.calls: list[tuple[Message, dict[str, Any]]] = []
        self.forged = 0
        outer = self

        class Answering(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if verified(secret, self.headers, body) and not verified(secret, self.headers, body + b" "):
                    outer.calls.append((self.headers, json.loads(body)))
                else:
                    outer.forged += 1
                self.send_response(outer.statuses.pop(0) if len(outer.statuses) > 1 else outer.statuses[0])
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook?token=t0ken"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def of(self, id: str) -> list[dict[str, Any]]:
        """What was sent about a job."""
        return [told for headers, told in list(self.calls) if headers["webhook-id"] == id]

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """A file with one secret, made as an operator makes it."""
    done = run_once(tmp_path, "keys", "webhook", "--file", "webhooks.txt")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "webhooks.txt").read_text().strip() in done.stdout
    return tmp_path / "webhooks.txt"


@pytest.fixture
def receiver(secrets: Path) -> Iterator[Receiver]:
    found = Receiver(secrets.read_text().strip())
    yield found
    found.close()


def submitted(served: Served, receiver: Receiver) -> str:
    """The id of a new job that is to call the receiver."""
    answer = served.http.post("/v1/models/mlp/jobs", json={**MLP, "webhook": receiver.url})
    assert answer.status_code == 202, answer.text
    id: str = answer.json()["id"]
    return id


def test_a_finished_job_is_told_signed_and_again_after_a_failure(
    tmp_path: Path, mlp: Path, secrets: Path, receiver: Receiver
) -> None:
    receiver.statuses = [500, 204]
    with serving(tmp_path / "served", *quick(str(mlp)), "--jobs-webhook-secrets", str(secrets)) as served:
        id = submitted(served, receiver)
        first, again = eventually(lambda: receiver.of(id)[1:] and receiver.of(id), "it is called again", 60)
        assert (first["type"], first["data"]["id"], first["data"]["status"]) == ("job.succeeded", id, "succeeded")
        assert first == again
        assert first["data"] == served.http.get(f"/v1/jobs/{id}").json()
        assert first["data"]["output"]
        answered = {'{kind="retried"} 1.0', '{kind="delivered"} 1.0'}
        lines = [f"forebay_job_webhooks_total{one}" for one in answered]
        eventually(lambda: all(one in served.http.get("/metrics").text for one in lines), "it is counted")
        assert (len(receiver.of(id)), receiver.forged) == (2, 0)
        for secret in ("t0ken", secrets.read_text().strip()):
            assert secret not in served.output


def test_what_is_owed_when_the_server_is_killed_is_told_by_the_next_one(
    tmp_path: Path, mlp: Path, secrets: Path, receiver: Receiver
) -> None:
    receiver.statuses = [500]
    arguments = [*quick(str(mlp)), "--jobs-webhook-secrets", str(secrets)]
    with serving(tmp_path / "served", *arguments) as served:
        ids = [submitted(served, receiver) for _ in range(3)]
        eventually(lambda: all(receiver.of(id) for id in ids), "each is called once")
        eventually(lambda: served.logged("a webhook failed and is called again later"), "it is to be called again")
        # Most likely the failures are noted by then; where they are not, the calls are made again a minute later.
        time.sleep(1.5)
        children = psutil.Process(served.process.pid).children(recursive=True)
        served.process.kill()
        served.process.wait()
        gone(children)
    before = len(receiver.calls)
    receiver.statuses = [204]
    with serving(tmp_path / "served", *arguments) as served:
        eventually(lambda: {h["webhook-id"] for h, _ in receiver.calls[before:]} == set(ids), "each is called", 120)
        assert {told["type"] for _, told in receiver.calls} == {"job.succeeded"}
    assert receiver.forged == 0


def test_without_a_secret_a_webhook_is_refused_and_the_setting_is_named(house: Served) -> None:
    answer = house.http.post("/v1/models/mlp/jobs", json={**MLP, "webhook": "https://example.org/hook"})
    assert (answer.status_code, answer.json()["code"]) == (501, "unsupported")
    assert "jobs.webhook_secrets" in answer.json()["detail"]
    assert house.http.post("/v1/models/mlp/jobs", json=MLP).status_code == 202


def test_a_web_process_calls_for_jobs_that_a_worker_ran(
    tmp_path: Path, mlp: Path, secrets: Path, receiver: Receiver
) -> None:
    with house_of(tmp_path / "house") as built:
        web = built.web("web", "--jobs-webhook-secrets", str(secrets))
        built.worker("worker", str(mlp))
        web.wait_ready()
        announced(web, "mlp")
        id = submitted(web, receiver)
        (told,) = eventually(lambda: receiver.of(id), "it is called")
        assert told["data"] == web.http.get(f"/v1/jobs/{id}").json()
    assert receiver.forged == 0
