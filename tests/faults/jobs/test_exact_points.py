"""kill -9 right before and right after what matters: the commit of results, and the acceptance of a job."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.faults.jobs import rigged
from tests.faults.jobs.calls import BrokenError, Caller
from tests.faults.jobs.houses import Kind, house
from tests.faults.jobs.invariants import witnessing
from tests.faults.jobs.ledger import tally
from tests.faults.jobs.lengths import lengths
from tests.faults.jobs.load import Load

RATE_PER_S = 200.0


@lengths(("web and worker", 1), 10, carried=True)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.timeout(600)
def test_a_result_that_was_committed_is_not_worked_out_again(
    tmp_path: Path, kind: Kind, when: str, rounds: int
) -> None:
    notes = tmp_path / "notes"
    rig: rigged.Rig = {"call": "finish", "when": when, "number": 5, "notes": str(notes)}
    with house(tmp_path, kind, rig=rig) as found, witnessing(found) as witness:
        for number in range(rounds):
            with Load(found.port, witness.ledger, RATE_PER_S, seed=1000 * number):
                found.ended("worker")
                committed = rigged.noted(notes)
                found.restart("worker")
            witness.settle(30)
            runs = tally(found.folder)
            entries = [witness.ledger.entries[id] for id in committed if id in witness.ledger.entries]
            assert entries
            for entry in entries:
                assert entry.seen is not None
                assert entry.seen["attempt"] == len(runs[entry.value]) == (1 if when == "after" else 2)
            if number + 1 < rounds:
                found.kill_part("worker")
                found.begin("worker", rig)
                found.wait_ready()
        witness.check()


@lengths(("serve", 1), 10)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.timeout(600)
def test_a_key_finds_the_job_whose_acceptance_was_never_told(
    tmp_path: Path, kind: Kind, when: str, rounds: int
) -> None:
    notes = tmp_path / "notes"
    rig: rigged.Rig = {"call": "submit", "when": when, "number": 2, "notes": str(notes)}
    with house(tmp_path, kind, rig=rig, rigs="web") as found, witnessing(found) as witness:
        for number in range(rounds):
            with Caller(found.port) as caller:
                first = witness.ledger.value()
                witness.ledger.accept(caller.submit(first).json()["id"], first)
                value = witness.ledger.value()
                with pytest.raises(BrokenError):
                    caller.submit(value, f"key-{value:.0f}")
                found.ended("web")
                found.restart("web")
                (id,) = rigged.noted(notes)
                reply = caller.submit(value, f"key-{value:.0f}")
                assert reply.status in (200, 202)
                entry = witness.ledger.accept(reply.json()["id"], value)
                assert (entry.id == id) is (when == "after")
                assert reply.headers.get("idempotent-replayed") == ("true" if when == "after" else None)
                again = caller.submit(value, f"key-{value:.0f}")
                assert (again.json()["id"], again.headers["idempotent-replayed"]) == (entry.id, "true")
            witness.settle(30)
            # The process that was killed may have begun to run what it had accepted.
            with Caller(found.port) as caller:
                attempts = caller.show(entry.id)["attempt"]
            assert 1 <= len(tally(found.folder)[value]) <= attempts <= (2 if when == "after" else 1)
            if number + 1 < rounds:
                found.kill_part("web")
                found.begin("web", rig)
                found.wait_ready()
        witness.check()
