"""A store that loses what it was told: all of it, by a hand that should have known better."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.e2e.server import eventually
from tests.faults.jobs.calls import Caller
from tests.faults.jobs.houses import House, Kind, house
from tests.faults.jobs.invariants import Witness, witnessing
from tests.faults.jobs.lengths import lengths
from tests.faults.jobs.load import Load


def empty(found: House) -> None:
    """Take everything away: the folder beneath the store of `serve`, or all keys."""
    if found.node is None:
        shutil.rmtree(found.folder / ".forebay")
    else:
        found.ask("FLUSHALL")


def lose_all(found: House, witness: Witness, caller: Caller, times: int) -> None:
    """Of jobs that have ended, run and wait, none is known any more, and that is told for the `times`th time."""
    with ThreadPoolExecutor(1) as pool, Caller(found.port) as waiter, found.held() as let_go:
        ids = [caller.submit(witness.ledger.value()).json()["id"] for _ in range(40)]
        eventually(lambda: set(ids) & set(found.running()), "jobs run")
        waiting = pool.submit(waiter.ask, f"/v1/jobs/{ids[0]}", None, "Prefer: wait=60")
        empty(found)
        assert waiting.result().status == 404
        let_go()
    eventually(lambda: found.metric("forebay_jobs_held") == 0, "what ran is let go of")
    for id in [*ids, *witness.ledger.entries]:
        assert caller.ask(f"/v1/jobs/{id}").status == 404
    witness.ledger.entries.clear()

    def alarmed() -> bool:
        return all(found.metric("forebay_job_stores_lost_total", part) == times for part in found.parts)

    eventually(alarmed, "an alarm everywhere")
    if found.apart:
        eventually(lambda: found.ask("EXISTS", "forebay:{roles}:last"), "the model is announced anew")
    eventually(found.ready, "all is ready again")


@lengths(("web and worker", 1), 10)
@pytest.mark.timeout(600)
def test_a_store_that_is_emptied_is_begun_anew(tmp_path: Path, kind: Kind, rounds: int) -> None:
    with house(tmp_path, kind) as found, witnessing(found) as witness, Caller(found.port) as caller:
        processes = [found.web.process.pid, found.worker.process.pid]
        for number in range(rounds):
            with Load(found.port, witness.ledger, 100.0, seed=100 * number):
                witness.more(50)
            witness.settle(30)
            lose_all(found, witness, caller, number + 1)
        for served in (found.web, found.worker):
            served.wait_logged("jobs that were accepted before are lost")
        with Load(found.port, witness.ledger, 200.0):
            witness.more(200)
            found.kill_store()
            if found.node is not None:
                found.node.start()
            witness.more(100)
        assert [found.web.process.pid, found.worker.process.pid] == processes
        witness.check()
