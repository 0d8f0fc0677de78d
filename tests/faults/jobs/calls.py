"""Calls about jobs over one connection, made again when it breaks. Cheap enough to be the load."""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any

from tests.e2e.wire import Reply, Wire, request

ANSWER_S = 20.0
"""Longer than any answer may take, with the store paused too."""


class BrokenError(Exception):
    """The connection broke, or there was none: nobody knows whether the call took effect."""


class Caller:
    """One client. Closed at the end of a `with`."""

    def __init__(self, port: int, timeout_s: float = ANSWER_S) -> None:
        self._port, self._timeout_s = port, timeout_s
        self._wire: Wire | None = None

    def __enter__(self) -> Caller:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drop()

    def _drop(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def ask(self, path: str, payload: Any = None, *headers: str, method: str = "") -> Reply:
        """One request. Raises `BrokenError`, and `TimeoutError` where there is no answer at all."""
        try:
            if self._wire is None:
                self._wire = Wire(self._port, self._timeout_s)
            reply = self._wire.send(request(path, payload, *headers, method=method)).reply()
        except TimeoutError:
            self._drop()
            raise
        except (OSError, ValueError, IndexError, AssertionError) as error:
            # The connection ended within an answer, or before it.
            self._drop()
            raise BrokenError(repr(error)) from None
        if reply.headers.get("connection") == "close":
            self._drop()
        return reply

    def submit(self, value: float, key: str = "", *, model: str = "tallied", **options: Any) -> Reply:
        """A job of one row."""
        headers = [f"Idempotency-Key: {key}"] if key else []
        return self.ask(f"/v1/models/{model}/jobs", {"input": {"x": [value]}, **options}, *headers)

    def show(self, id: str, wait_s: int = 0) -> dict[str, Any]:
        """The job as it is now, or once it has ended or `wait_s` has passed."""
        reply = self.ask(f"/v1/jobs/{id}", None, *([f"Prefer: wait={wait_s}"] if wait_s else []))
        assert reply.status == 200, reply.body
        found: dict[str, Any] = reply.json()
        return found

    def events(self, id: str, after: int = 0) -> list[tuple[int, str, dict[str, Any]]]:
        """All events of a finished job: sequence, kind, data."""
        reply = self.ask(f"/v1/jobs/{id}/events", None, *([f"Last-Event-ID: {after}"] if after else []))
        assert reply.status in (200, 204), reply.body
        found = []
        for block in reply.body.decode().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
            if "data" in fields and "id" in fields:
                found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
        return found
