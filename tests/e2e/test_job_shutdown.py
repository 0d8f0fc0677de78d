"""SIGTERM while clients follow jobs: each is told when to come back before its connection ends."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.e2e.long import full
from tests.e2e.server import Served, eventually, model, quick, serving
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect


class Following:
    """An event stream that is read in a thread of its own."""

    def __init__(self, served: Served, id: str) -> None:
        self.text = ""
        self._url = f"http://127.0.0.1:{served.port}/v1/jobs/{id}/events"
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        with httpx.stream("GET", self._url, timeout=60, trust_env=False) as answer:
            for piece in answer.iter_text():
                self.text += piece

    def ended(self) -> str:
        """All of it; it ended well."""
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.text


@pytest.mark.parametrize("lane", ["auto", full("off")])
def test_followers_are_told_when_to_come_back(tmp_path: Path, lane: str) -> None:
    arguments = [*quick(*model("faulty.py", "Pause")), "--express-lane", lane, "--drain-timeout-s", "3"]
    with serving(tmp_path, *arguments) as served, ThreadPoolExecutor(1) as pool:
        answer = served.http.post("/v1/models/pause/jobs", json={"input": {"x": [60_000.0]}, "timeout_s": 120})
        assert answer.status_code == 202, answer.text
        id = answer.json()["id"]
        following = Following(served, id)
        eventually(lambda: '"running"' in following.text, "the stream says that it runs")
        url, wait = f"http://127.0.0.1:{served.port}/v1/jobs/{id}", {"prefer": "wait=60"}
        polling = pool.submit(httpx.get, url, headers=wait, timeout=60, trust_env=False)
        with connect(f"ws://127.0.0.1:{served.port}/v1/jobs/{id}/ws", proxy=None) as one:
            told: list[Any] = [json.loads(one.recv(timeout=30)) for _ in range(2)]
            assert [message["type"] for message in told] == ["status", "status"]
            served.stop()
            last = json.loads(one.recv(timeout=30))
            assert last["type"] == "retry"
            assert last["retry_ms"] > 0
            with pytest.raises(ConnectionClosed) as closed:
                one.recv(timeout=30)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
        begin, end = following.ended().split("\n\n")[0], following.ended().rstrip("\n").split("\n\n")[-1]
        assert begin.startswith("retry: ")
        assert end.startswith("retry: ")
        assert begin != end
        poll = polling.result(60)
        assert (poll.status_code, poll.json()["status"], poll.headers["retry-after"]) == (200, "running", "1")
        assert not served.logged("WebSocket"), "no line a connection"
        assert not [line for line in served.records() if line["level"] == "error"]
