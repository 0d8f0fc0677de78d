"""Web processes and workers as an operator runs them, around a store that the test started."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.contract.jobs.redis_servers import Server, free_port, valkey
from tests.e2e.server import Served, eventually, quick

MLP_ROW = [value / 16 for value in range(16)]


class House:
    """A store on a TCP port, and the processes that share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Server(valkey(), free_port(), appendonly="yes")
        self._processes: list[Served] = []

    @property
    def where(self) -> list[str]:
        """Arguments that name the store."""
        return ["--store", self.store.url]

    def web(self, name: str = "web", *arguments: str) -> Served:
        """A web process that listens; it may not be ready."""
        return self._begun(Served(self.folder / name, *self.where, *arguments, role="web"))

    def worker(self, name: str, *models: str, port: int | None = 0) -> Served:
        """A worker that has these models. With a port: when it is ready."""
        given = [*quick(*models), *self.where, "--jobs-lease-s", "2"]
        served = self._begun(Served(self.folder / name, *given, role="worker", port=port))
        return served.wait_ready() if port is not None else served

    def _begun(self, served: Served) -> Served:
        self._processes.append(served)
        return served

    def end(self) -> None:
        """Those that run must end well; whatever happened, none is left."""
        try:
            for served in self._processes:
                if served.process.poll() is None:
                    served.stop()
        finally:
            for served in self._processes:
                served.close()


@contextlib.contextmanager
def house(folder: Path, *, store: bool = True) -> Iterator[House]:
    """A house whose store runs, unless the test will start it."""
    built = House(folder)
    if store:
        built.store.start()
    try:
        yield built
        built.end()
    finally:
        built.end()
        built.store.__exit__(None, None, None)


def announced(web: Served, model: str) -> None:
    """Wait until a web process takes requests for a model."""
    eventually(lambda: web.http.get(f"/v2/models/{model}/ready").status_code == 200, f"{model} is announced")


def submit(web: Served, model: str, row: list[Any], **options: Any) -> str:
    """Accepted: the id of the job."""
    answer = web.http.post(f"/v1/models/{model}/jobs", json={"input": {"x": row}, **options})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def job(web: Served, id: str) -> dict[str, Any]:
    """A job as it is now."""
    found: dict[str, Any] = web.http.get(f"/v1/jobs/{id}").json()
    return found


def ended(web: Served, id: str) -> dict[str, Any]:
    """A job when it has ended."""
    eventually(lambda: job(web, id)["status"] not in ("queued", "running"), "the job ends")
    return job(web, id)
