"""A job that spoils its batch fails alone; it costs nobody else an attempt."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.e2e.server import eventually
from tests.faults.jobs.calls import Caller
from tests.faults.jobs.houses import Kind, house
from tests.faults.jobs.invariants import Witness, witnessing
from tests.faults.jobs.ledger import Entry, Expected, batches_with
from tests.faults.jobs.lengths import lengths
from tests.models.tallied import KILLS

COMPANY = 31


def in_one_batch(witness: Witness, poison: float, expected: Expected) -> tuple[Entry, list[Entry]]:
    """The poison and those that it was submitted among, once all have ended: they waited together."""
    found, ledger = witness.house, witness.ledger
    with Caller(found.port) as caller, found.held() as let_go:

        def submit(value: float, expected: Expected | None = None) -> Entry:
            return ledger.accept(caller.submit(value).json()["id"], value, expected)

        # Two that hold the place of the running and of the next batch, while the others gather.
        ahead = submit(ledger.value())
        eventually(lambda: ahead.id in found.running(), "one runs")
        behind = submit(ledger.value())
        eventually(lambda: behind.id in found.running(), "one is next")
        company = [submit(ledger.value()) for _ in range(COMPANY // 2)]
        guilty = submit(poison, expected)
        company += [submit(ledger.value()) for _ in range(COMPANY - len(company))]
        let_go()
    witness.settle(60)
    assert guilty.seen is not None
    return guilty, company


@lengths(("serve", 1), 10)
@pytest.mark.timeout(600)
def test_a_job_that_kills_the_instance_fails_alone_after_its_attempts(tmp_path: Path, kind: Kind, rounds: int) -> None:
    with house(tmp_path, kind, "--jobs-max-attempts", "2") as found, witnessing(found) as witness:
        for _ in range(rounds):
            guilty, company = in_one_batch(witness, KILLS, "instance_crashed")
            assert guilty.seen is not None
            assert (guilty.seen["status"], guilty.seen["attempt"]) == ("failed", 2)
            assert {entry.seen["attempt"] for entry in company if entry.seen is not None} == {1}
            assert len(batches_with(found.folder, [KILLS])[0]) > 1
            assert found.web.http.get("/v2/models/tallied/ready").status_code == 200
        assert not found.worker.logged("keeps crashing")
        witness.check()
