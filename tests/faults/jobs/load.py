"""Load: clients that submit jobs at a steady rate, half of them with an Idempotency-Key, and look at earlier ones."""

from __future__ import annotations

import random
import threading
import time
from types import TracebackType

from tests.e2e.wire import Reply
from tests.faults.jobs.calls import BrokenError, Caller
from tests.faults.jobs.ledger import Ledger

CLIENTS = 4
RETRY_S = 0.05


class Load:
    """Runs within a `with`. `rate_per_s`: jobs, of all clients together."""

    def __init__(self, port: int, ledger: Ledger, rate_per_s: float, seed: int = 0) -> None:
        self._port, self._ledger = port, ledger
        self._every_s = CLIENTS / rate_per_s
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._client, args=(seed + n,)) for n in range(CLIENTS)]
        self._failures: list[BaseException] = []

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self._threads), "a client hangs"
        if self._failures and error is None:
            raise self._failures[0]

    def _client(self, seed: int) -> None:
        rng = random.Random(seed)
        try:
            with Caller(self._port) as caller:
                due = time.monotonic() + rng.random() * self._every_s
                while not self._stop.wait(max(0.0, due - time.monotonic())):
                    # Late is late: what could not be sent during an outage is not made up for.
                    due = max(due + self._every_s, time.monotonic() - self._every_s)
                    self._post(caller, rng)
                    self._look(caller, rng)
        except BaseException as error:
            self._failures.append(error)

    def _post(self, caller: Caller, rng: random.Random) -> None:
        value = self._ledger.value()
        key = f"key-{value:.0f}" if rng.random() < 0.5 else ""
        while not self._stop.is_set():
            try:
                if self._settled(value, caller.submit(value, key)):
                    return
            except BrokenError:
                if not key:
                    self._ledger.unknown += 1
                    self._stop.wait(RETRY_S)
                    return
            if not key:
                return
            self._stop.wait(RETRY_S)

    def _settled(self, value: float, reply: Reply) -> bool:
        """Whether the job is accepted now."""
        if reply.status == 202 or (reply.status == 200 and reply.headers.get("idempotent-replayed") == "true"):
            self._ledger.accept(reply.json()["id"], value)
            return True
        self._ledger.refused += 1
        if reply.status != 503 or int(reply.headers.get("retry-after", "0")) < 1:
            self._ledger.wrong.append(f"a submission was answered {reply.status}: {reply.body!r}, {reply.headers}")
        return False

    def _look(self, caller: Caller, rng: random.Random) -> None:
        """At one of the last hundred: as soon as a result can be seen, it must be the last one."""
        recent = list(self._ledger.entries.values())[-100:]
        if not recent:
            return
        entry = rng.choice(recent)
        if entry.seen is not None:
            return
        asked_s = time.monotonic()
        try:
            reply = caller.ask(f"/v1/jobs/{entry.id}")
        except BrokenError:
            return
        if reply.status == 200:
            self._ledger.see(entry, reply.json(), asked_s)
        elif reply.status != 503:
            self._ledger.wrong.append(f"job {entry.id} was accepted, and now: {reply.status} {reply.body!r}")
