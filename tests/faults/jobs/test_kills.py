"""kill -9 of a worker in the middle of a batch, and of the store under load; and SIGTERM, which is no kill."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.e2e.server import eventually
from tests.faults.jobs.calls import Caller
from tests.faults.jobs.houses import GROUP_S, LEASE_S, Kind, house
from tests.faults.jobs.invariants import witnessing
from tests.faults.jobs.ledger import at_s, tally
from tests.faults.jobs.lengths import lengths
from tests.faults.jobs.load import Load

RATE_PER_S = 100.0


@lengths(("web and worker", 1), 20, carried=True)
@pytest.mark.timeout(600)
def test_jobs_of_a_worker_that_is_killed_run_again_once(tmp_path: Path, kind: Kind, rounds: int) -> None:
    with house(tmp_path, kind) as found, witnessing(found) as witness:
        for _ in range(rounds):
            with Load(found.port, witness.ledger, RATE_PER_S), found.held() as let_go:
                eventually(lambda: len(witness.running()) >= 16 and witness.begun(), "jobs run")
                running, begun = witness.running(), witness.begun()
                found.kill_part("worker")
                let_go()
                found.restart("worker")
                ready_s = time.time()
            witness.settle(30)
            runs = tally(found.folder)
            for id in running:
                entry = witness.ledger.entries[id]
                assert entry.seen is not None, f"{id} is lost"
                assert entry.seen["attempt"] == 2
                assert at_s(entry.seen["started_at"]) < ready_s + LEASE_S + (GROUP_S if kind == "over Kafka" else 2)
                assert len(runs[entry.value]) == (2 if id in begun else 1)
        witness.check()


@lengths(("serve", 2), 20)
@pytest.mark.timeout(600)
def test_a_store_that_is_killed_under_load_loses_nothing_and_is_used_again_at_once(
    tmp_path: Path, kind: Kind, rounds: int
) -> None:
    with house(tmp_path, kind) as found, witnessing(found) as witness, Caller(found.port) as caller:
        processes = [found.web.process.pid, found.worker.process.pid]
        with Load(found.port, witness.ledger, 2 * RATE_PER_S):
            for _ in range(rounds):
                witness.more(50)
                found.kill_store()
                if found.node is not None:
                    witness.more_refused()
                    found.node.start()
                found.wait_store()
                back_s = time.time()
                eventually(found.ready, "all is ready again")
                value = witness.ledger.value()
                entry = witness.ledger.accept(caller.submit(value).json()["id"], value)
                document = caller.show(entry.id, 20)
                assert at_s(document["finished_at"]) < back_s + 5
        assert [found.web.process.pid, found.worker.process.pid] == processes
        witness.check()


@lengths(("web and worker", 1), 20, carried=True)
@pytest.mark.timeout(600)
def test_a_worker_that_is_told_to_end_leaves_nothing_to_wait_for(tmp_path: Path, kind: Kind, rounds: int) -> None:
    with house(tmp_path, kind, lease_s=600.0) as found, witnessing(found) as witness:
        for number in range(rounds):
            with Load(found.port, witness.ledger, 3 * RATE_PER_S, seed=100 * number):
                witness.more(100)
                eventually(witness.begun, "jobs run")
                found.worker.stop()
                found.ended("worker")
                # What it had not begun is another's at once, though its lease would go on for minutes.
                found.restart("worker")
                witness.more(50)
            witness.settle(60)
        documents = [entry.seen for entry in witness.ledger.entries.values() if entry.seen is not None]
        assert {document["attempt"] for document in documents} == {1}
        runs = tally(found.folder)
        assert {len(runs[entry.value]) for entry in witness.ledger.entries.values()} == {1}
        witness.check()
