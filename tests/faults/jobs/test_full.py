"""A store that has no more room, in memory or on its disk: nothing more is accepted, all that was accepted ends, and no
hand is needed when there is room again."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.server import eventually
from tests.faults.jobs.calls import Caller
from tests.faults.jobs.houses import House, Kind, house, node
from tests.faults.jobs.invariants import Witness, submitted, witnessing
from tests.faults.jobs.ledger import Entry, tally
from tests.faults.jobs.lengths import lengths
from tests.faults.jobs.load import Load

RATE_PER_S = 100.0
DISK_BYTES = 48 << 20


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of its own in a folder."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=755", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        done = False
    if not done:
        pytest.skip("a file system cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def filled(folder: Path) -> Iterator[None]:
    """While within, the disk that a folder is on has no byte left."""
    ballast = folder / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"b" * 4096)
        yield
    finally:
        ballast.unlink()


def in_a_batch(found: House, witness: Witness, caller: Caller) -> list[Entry]:
    """Jobs that run and wait for `held` to let them go. None of others is left before them."""
    entries = submitted(witness, caller, 16)
    eventually(lambda: any(entry.value in tally(found.folder) for entry in entries), "they run")
    return entries


@lengths(("serve", 1), 10)
@pytest.mark.timeout(600)
def test_at_its_maxmemory_nothing_is_accepted_and_all_that_was_ends(tmp_path: Path, kind: Kind, rounds: int) -> None:
    with house(tmp_path, kind) as found, witnessing(found) as witness, Caller(found.port) as caller:
        for number in range(rounds):
            with found.held() as let_go:
                held = in_a_batch(found, witness, caller)
                with Load(found.port, witness.ledger, RATE_PER_S, seed=100 * number):
                    witness.more(50)
                    found.ask("CONFIG", "SET", "maxmemory", "1")
                    witness.more_refused()
                    refused = caller.submit(witness.ledger.value())
                    assert (refused.status, refused.json()["code"]) == (503, "store_unavailable")
                    assert caller.show(held[0].id)["status"] == "running"
                    let_go()
                    witness.settle(30)
                    assert all(entry.seen is not None for entry in witness.ledger.entries.values())
                    found.ask("CONFIG", "SET", "maxmemory", "0")
                    witness.more(50)
            witness.settle(30)
        witness.check()


@lengths(("serve", 1), 5)
@pytest.mark.timeout(600)
def test_while_its_disk_is_full_results_are_held(tmp_path: Path, kind: Kind, rounds: int) -> None:
    disk = tmp_path / ".forebay"
    with contextlib.ExitStack() as stack:
        stack.enter_context(small_disk(disk))
        store = None
        if kind != "serve":
            # With `always` a server ends where it cannot write.
            store = stack.enter_context(node(appendfsync="everysec", dir=str(disk)))
        found = stack.enter_context(house(tmp_path, kind, store=store, lease_s=120.0))
        witness, caller = stack.enter_context(witnessing(found)), stack.enter_context(Caller(found.port))
        for number in range(rounds):
            with found.held() as let_go:
                held = in_a_batch(found, witness, caller)
                with Load(found.port, witness.ledger, RATE_PER_S, seed=100 * number):
                    with filled(disk):
                        witness.more_refused()
                        refused = caller.submit(witness.ledger.value())
                        assert (refused.status, refused.json()["code"]) == (503, "store_unavailable")
                        let_go()
                        eventually(lambda: found.metric("forebay_jobs_results_held") > 0, "results are held")
                        leased = found.metric("forebay_jobs_leased_total")
                        time.sleep(2.0)
                        assert found.metric("forebay_jobs_leased_total") == leased
                        assert caller.show(held[0].id)["status"] == "running"
                    witness.more(50)
            witness.settle(60)
            assert {entry.seen["attempt"] for entry in held if entry.seen is not None} == {1}
            assert {len(tally(found.folder)[entry.value]) for entry in held} == {1}
        witness.check()
