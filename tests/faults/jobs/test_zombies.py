"""Servers that fall silent and come back, batches that outlast their lease, clocks that disagree."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from tests.e2e.server import eventually
from tests.faults.jobs.calls import Caller
from tests.faults.jobs.houses import LEASE_S, Kind, house, second
from tests.faults.jobs.invariants import late_results, submitted, witnessing
from tests.faults.jobs.ledger import at_s, tally
from tests.faults.jobs.lengths import ON_A_NODE, lengths
from tests.faults.jobs.load import Load


@lengths(("serve on a node", 1), 10, ON_A_NODE)
@pytest.mark.timeout(600)
def test_a_worker_that_was_stopped_for_longer_than_its_lease_commits_nothing(
    tmp_path: Path, kind: Kind, rounds: int
) -> None:
    with house(tmp_path, kind) as found, witnessing(found) as witness:
        for number in range(rounds):
            with Caller(found.port) as caller, found.held() as let_go:
                submitted(witness, caller, 16)
                eventually(witness.begun, "jobs run")  # not all: a worker takes as many as it gets done soon
                begun = witness.begun()
                refused = late_results(found)
                with second(found, f"second {number}") as witness.house:
                    found.worker.process.send_signal(signal.SIGSTOP)
                    try:
                        witness.taken_over(begun)
                        let_go()
                        witness.settle(30)
                    finally:
                        found.worker.process.send_signal(signal.SIGCONT)
                    seen = [witness.ledger.entries[id].seen for id in begun]
                    assert {document["attempt"] for document in seen if document is not None} == {2}
                    witness.late_results(found, refused + len(begun))
                    witness.check()
                witness.house = found
        witness.check()


@lengths(("serve", 1), 5)
@pytest.mark.timeout(600)
def test_a_batch_that_outlasts_its_lease_stays_with_its_worker(tmp_path: Path, kind: Kind, rounds: int) -> None:
    with house(tmp_path, kind) as found, witnessing(found) as witness, Caller(found.port) as caller:
        with found.held():
            entries = submitted(witness, caller, 40)
            eventually(lambda: witness.begun(), "jobs run")
            time.sleep(LEASE_S * 2 * rounds)
        witness.settle(30)
        runs = tally(found.folder)
        assert {entry.seen["attempt"] for entry in entries if entry.seen is not None} == {1}
        assert {len(runs[entry.value]) for entry in entries} == {1}
        witness.check()


@lengths(("serve on a node", 1), 5, ON_A_NODE)
@pytest.mark.timeout(600)
def test_clocks_that_are_two_hours_apart_change_nothing(tmp_path: Path, kind: Kind, rounds: int) -> None:
    with (
        house(tmp_path, kind, rig={"clock_s": 3600.0}) as found,
        second(found, clock_s=-3600.0) as other,
        witnessing(found) as witness,
        Caller(found.port) as ahead,
        Caller(other.port) as behind,
    ):
        for _ in range(rounds):
            with found.held():
                # More than both can hold: the last ones wait, and are leased in their order.
                each = [submitted(witness, caller, 1, ttl_s=60.0)[0] for _ in range(150) for caller in (ahead, behind)]
                time.sleep(LEASE_S * 1.5)
            witness.settle(30)
            seen = [entry.seen for entry in each if entry.seen is not None]
            assert {document["attempt"] for document in seen} == {1}
            for time_of in ("created_at", "started_at"):
                times = [document[time_of] for document in seen]
                assert times == sorted(times)
            assert abs(at_s(seen[0]["created_at"]) - time.time()) < 600
        with Load(found.port, witness.ledger, 100.0), Load(other.port, witness.ledger, 100.0, seed=100):
            witness.more(200)
            other.kill_part("worker")
            other.restart("worker")
            witness.more(100)
        witness.check()
