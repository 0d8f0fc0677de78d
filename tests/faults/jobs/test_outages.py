"""A store that falls silent, is away, or cannot be reached by some: what was accepted waits for it, and nothing is
thrown away that may still be told."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.e2e.server import eventually
from tests.faults.jobs.calls import Caller
from tests.faults.jobs.houses import Kind, house, node, second
from tests.faults.jobs.invariants import late_results, submitted, witnessing
from tests.faults.jobs.ledger import tally
from tests.faults.jobs.lengths import ON_A_NODE, lengths
from tests.faults.jobs.load import Load
from tests.faults.jobs.way import way

RATE_PER_S = 100.0
LONG_LEASE = {"lease_s": 120.0}


# Those that come while a call hangs wait for its end, 5 s, and then for their own.
@lengths(("web and worker", 11.0), 14.0, name="seconds")
@pytest.mark.timeout(600)
def test_while_the_store_is_silent_submissions_are_refused_in_time(tmp_path: Path, kind: Kind, seconds: float) -> None:
    with house(tmp_path, kind) as found, witnessing(found) as witness, ThreadPoolExecutor(8) as pool:
        with Load(found.port, witness.ledger, RATE_PER_S):
            witness.more(50)
            store = found.store_process()
            store.send_signal(signal.SIGSTOP)
            try:
                values = [witness.ledger.value() for _ in range(8)]

                def post(value: float) -> int:
                    with Caller(found.port) as caller:
                        return caller.submit(value, f"key-{value:.0f}").status

                refused = pool.map(post, values)
                time.sleep(seconds)
            finally:
                store.send_signal(signal.SIGCONT)
            # Nothing was promised to them, but those that were taken all the same are found by their keys.
            assert 503 in refused
            with Caller(found.port) as caller:
                for value in values:
                    witness.ledger.accept(caller.submit(value, f"key-{value:.0f}").json()["id"], value)
            witness.more(100)
        witness.settle(60)
        assert {len(tally(found.folder)[value]) for value in values} == {1}
        witness.check()


@lengths(("serve on a node", 2.0), 30.0, ON_A_NODE, "seconds", carried=True)
@pytest.mark.timeout(600)
def test_results_are_kept_while_the_store_is_down(tmp_path: Path, kind: Kind, seconds: float) -> None:
    with house(tmp_path, kind, **LONG_LEASE) as found, witnessing(found) as witness, Caller(found.port) as caller:
        assert found.node is not None
        with found.held() as let_go:
            entries = submitted(witness, caller, 100)
            eventually(lambda: any(entry.value in tally(found.folder) for entry in entries), "jobs run")
            found.node.kill()
            let_go()
            eventually(lambda: found.metric("forebay_jobs_results_held") > 0, "results are held")
            leased = found.metric("forebay_jobs_leased_total")
            time.sleep(seconds)
            assert found.metric("forebay_jobs_leased_total") == leased
            found.node.start()
        witness.settle(60)
        assert [entry.id for entry in entries if entry.seen is None] == [], "a claim whose answer was lost is no end"
        runs = tally(found.folder)
        assert {entry.seen["attempt"] for entry in entries if entry.seen is not None} == {1}
        assert {len(runs[entry.value]) for entry in entries} == {1}
        assert caller.submit(witness.ledger.value()).status == 202
        witness.check()


@lengths(("web and worker", 0.0), 60.0, ("web and worker",), "seconds")
@pytest.mark.timeout(600)
def test_a_worker_that_is_cut_off_is_replaced_and_comes_back(tmp_path: Path, kind: Kind, seconds: float) -> None:
    with (
        node() as store,
        way(tmp_path / "way", store.socket) as to_store,
        house(tmp_path, kind, store=store, worker_url=to_store.url) as found,
        witnessing(found) as witness,
        Caller(found.port) as caller,
    ):
        worker = found.worker.process.pid
        with found.held() as let_go:
            submitted(witness, caller, 16)
            eventually(lambda: len(witness.running()) == 16 and witness.begun(), "jobs run")
            begun = witness.begun()
            refused = late_results(found)
            to_store.cut()
            with second(found) as witness.house:
                witness.taken_over(begun)
                let_go()
                witness.settle(30)
                eventually(lambda: found.metric("forebay_job_store_errors_total") > 0, "it is noticed", 30)
                eventually(lambda: not found.worker.ready(), "and told", 30)
                time.sleep(seconds)
                to_store.mend()
                witness.late_results(found, refused + len(begun))
            witness.house = found
        eventually(found.ready, "all is ready again")
        assert found.worker.process.pid == worker
        with Load(found.port, witness.ledger, RATE_PER_S):
            witness.more(100)
        witness.check()
