"""Those who look on during a fault: a subscriber to every change of a job, and a client who wants quick answers."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, get_args

from redis import Redis
from redis.exceptions import RedisError
from tests.faults.jobs.calls import BrokenError, Caller
from tests.faults.jobs.ledger import TERMINAL

from forebay.jobs.record import State
from forebay.jobs.redis_codec import changes_of

CHANNEL = "forebay:{s0}:changes"
PROBE_EVERY_S = 0.05
SLOWEST_S = 0.2


class _Thread:
    """One that runs within a `with`, and whose failure is the test's."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._guarded)

    def __enter__(self) -> Any:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._failure is not None and error is None:
            raise self._failure

    def stop(self) -> None:
        """Wait for its end."""
        self.stopped.set()
        self._thread.join(60)

    def _guarded(self) -> None:
        try:
            self._run()
        except BaseException as error:
            self._failure = error

    def _run(self) -> None:
        raise NotImplementedError


class Subscriber(_Thread):
    """Hears of changes as they are published in the store, and misses those of while its connection is broken."""

    def __init__(self, socket: Path) -> None:
        super().__init__()
        self._socket = socket
        self.endings: dict[str, list[tuple[int, str]]] = {}
        """By job, sequence and state of every ending that was heard of."""
        self.after_the_end: list[str] = []
        """Changes of jobs that had ended."""
        self.stands = threading.Event()

    def _run(self) -> None:
        while not self.stopped.is_set():
            with contextlib.suppress(RedisError, OSError), Redis(unix_socket_path=str(self._socket)) as client:
                self._hear(client)
            self.stopped.wait(0.01)

    def _hear(self, client: Redis) -> None:
        with client.pubsub(ignore_subscribe_messages=True) as pubsub:  # type: ignore[no-untyped-call]
            pubsub.subscribe(CHANNEL)
            self.stands.set()
            while not self.stopped.is_set():
                message = pubsub.get_message(timeout=0.2)
                if message is not None:
                    self._note(message["data"])

    def _note(self, data: bytes) -> None:
        changes, _ = changes_of(data, get_args(State))
        for change in changes:
            ended = self.endings.get(change.id)
            if ended:
                self.after_the_end.append(f"{change.id}: {ended}, then {change.sequence} {change.state}")
            if change.state in TERMINAL:
                self.endings.setdefault(change.id, []).append((change.sequence, change.state))


class Probe(_Thread):
    """Asks small things of the web process, as long as it is meant to be there."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port
        self.latencies_s: list[float] = []

    def _run(self) -> None:
        with Caller(self._port) as caller:
            while not self.stopped.wait(PROBE_EVERY_S):
                began = time.monotonic()
                try:
                    reply = caller.ask("/healthz")
                except BrokenError:
                    continue  # it was killed
                assert reply.status == 200, reply
                self.latencies_s.append(time.monotonic() - began)

    def quantile(self, part: float) -> float:
        """Of the latencies, in seconds."""
        found = sorted(self.latencies_s)
        return found[min(len(found) - 1, int(part * len(found)))] if found else 0.0
