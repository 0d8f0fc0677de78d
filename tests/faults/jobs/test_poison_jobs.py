"""A job that spoils its batch fails alone; it costs nobody else an attempt."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.server import eventually
from tests.faults.jobs.calls import Caller
from tests.faults.jobs.houses import Kind, house
from tests.faults.jobs.invariants import Witness, witnessing
from tests.faults.jobs.ledger import Entry, Expected, batches_with
from tests.faults.jobs.lengths import lengths
from tests.models.tallied import CROWDED, HANGS, KILLS, RAISES, STARVES

COMPANY = 31
ATTEMPTS = 2
POISONS: list[tuple[float, Expected, int, dict[str, Any]]] = [
    (RAISES, "model_error", 1, {}),
    (KILLS, "instance_crashed", ATTEMPTS, {}),
    (STARVES, "out_of_memory", ATTEMPTS, {}),
    (HANGS, "deadline_exceeded", 1, {"timeout_s": 1.5}),
    # Half a batch with it fits into memory.
    (CROWDED, CROWDED * 2 + 1, 1, {}),
]
"""Values, and how each must end: with which error or number, in which attempt; and options of its job."""


def in_one_batch(witness: Witness, poison: float, expected: Expected, **options: Any) -> tuple[Entry, list[Entry]]:
    """The poison and those that it was submitted among, once all have ended: they waited together."""
    found, ledger = witness.house, witness.ledger
    with Caller(found.port) as caller, found.held() as let_go:

        def submit(value: float, expected: Expected | None = None, **options: Any) -> Entry:
            return ledger.accept(caller.submit(value, **options).json()["id"], value, expected)

        # Two that hold the place of the running and of the next batch, while the others gather.
        ahead = submit(ledger.value())
        eventually(lambda: ahead.id in found.running(), "one runs")
        behind = submit(ledger.value())
        eventually(lambda: behind.id in found.running(), "one is next")
        company = [submit(ledger.value()) for _ in range(COMPANY // 2)]
        guilty = submit(poison, expected, **options)
        company += [submit(ledger.value()) for _ in range(COMPANY - len(company))]
        let_go()
    witness.settle(60)
    assert guilty.seen is not None
    return guilty, company


@lengths(("serve", 1), 10)
@pytest.mark.timeout(600)
def test_a_job_that_spoils_its_batch_fails_alone(tmp_path: Path, kind: Kind, rounds: int) -> None:
    with house(tmp_path, kind, "--jobs-max-attempts", str(ATTEMPTS)) as found, witnessing(found) as witness:
        for _ in range(rounds):
            for poison, expected, attempt, options in POISONS:
                guilty, company = in_one_batch(witness, poison, expected, **options)
                assert guilty.seen is not None
                assert guilty.seen["attempt"] == attempt
                assert {entry.seen["attempt"] for entry in company if entry.seen is not None} == {1}
                eventually(found.ready, "all is ready again")
        first, *more = batches_with(found.folder, [RAISES])
        assert len(first) > 1
        assert len(more) <= 2 * math.log2(len(first)) * rounds
        assert not found.worker.logged("keeps crashing")
        witness.check()
