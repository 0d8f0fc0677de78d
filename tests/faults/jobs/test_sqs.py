"""Jobs carried by an SQS: a server that falls silent, and one that loses all that it held."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contract.brokers.moto_servers import MotoServer
from tests.e2e.server import eventually
from tests.faults.jobs.calls import Caller
from tests.faults.jobs.houses import REPUBLISH_AFTER_S, house
from tests.faults.jobs.invariants import submitted, witnessing
from tests.faults.jobs.ledger import at_s
from tests.faults.jobs.lengths import repeated
from tests.faults.jobs.load import Load

RATE_PER_S = 50.0


@pytest.fixture(scope="module")
def server() -> Iterator[MotoServer]:
    with MotoServer() as started:
        yield started


@pytest.mark.parametrize("seconds", [8.0, pytest.param(60.0, marks=pytest.mark.full)])
@pytest.mark.timeout(600)
def test_while_it_is_silent_submissions_are_refused_and_then_all_goes_on(
    tmp_path: Path, server: MotoServer, seconds: float
) -> None:
    with (
        house(tmp_path, "over SQS", sqs=server) as found,
        witnessing(found) as witness,
        Caller(found.port) as caller,
    ):
        processes = [found.web.process.pid, found.worker.process.pid]
        with Load(found.port, witness.ledger, RATE_PER_S):
            witness.more(50)
            server.send(signal.SIGSTOP)
            try:
                eventually(lambda: found.worker.logged("SQS at"), "it is noticed", 30)
                eventually(lambda: caller.submit(witness.ledger.value()).status == 503, "jobs are refused", 30)
                time.sleep(seconds)
            finally:
                server.send(signal.SIGCONT)
            back_s = time.time()
            value = witness.ledger.value()

            def taken() -> str:
                reply = caller.submit(value, f"key-{value:.0f}")
                return str(reply.json()["id"]) if reply.status in (200, 202) else ""

            entry = witness.ledger.accept(eventually(taken, "a job is accepted again"), value)
            assert at_s(caller.show(entry.id, 20)["finished_at"]) < back_s + 10
            witness.more(50)
        assert [found.web.process.pid, found.worker.process.pid] == processes
        witness.check(60)


@repeated(10)
@pytest.mark.timeout(600)
def test_jobs_whose_messages_are_lost_are_published_again(tmp_path: Path, server: MotoServer, rounds: int) -> None:
    with (
        house(tmp_path, "over SQS", sqs=server) as found,
        witnessing(found) as witness,
        Caller(found.port) as caller,
    ):
        for _ in range(rounds):
            with found.held() as let_go:
                entries = submitted(witness, caller, 200)
                eventually(witness.begun, "jobs run")
                # What it confirmed is gone with it, and so are its queues.
                server.kill()
                server.start()
                let_go()
            witness.settle(30 + REPUBLISH_AFTER_S)
            assert all(entry.seen is not None for entry in entries)
        witness.check()
