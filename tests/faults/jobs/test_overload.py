"""More jobs than can be done: the queue is bounded, who comes too late is told when to come back, nothing grows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.e2e.server import eventually
from tests.faults.jobs.calls import Caller
from tests.faults.jobs.houses import BASE, House, Kind, house
from tests.faults.jobs.invariants import Witness, witnessing
from tests.faults.jobs.ledger import tally
from tests.faults.jobs.lengths import lengths
from tests.models.tallied import CAPACITY_PER_S

MOST_QUEUED = 300
A_POST = 50
TOO_SHORT_S = 0.1
"""A full queue takes longer."""
GROWTH_BYTES = 32 << 20


def post_many(caller: Caller, witness: Witness) -> int:
    """Submit some at once; how many were refused, each with a time to come back."""
    values = [witness.ledger.value() for _ in range(A_POST)]
    reply = caller.ask("/v1/models/tallied/jobs/batch", {"jobs": [{"input": {"x": [value]}} for value in values]})
    if reply.status == 503:  # none of them was taken
        assert reply.json()["code"] == "queue_full"
        return A_POST
    assert reply.status == 202, reply.body
    refused = 0
    for value, answer in zip(values, reply.json()["jobs"], strict=True):
        if "id" in answer:
            witness.ledger.accept(answer["id"], value)
        else:
            assert (answer["status"], answer["code"]) == (503, "queue_full"), answer
            refused += 1
    return refused


def waiting(found: House) -> int:
    """Jobs in the queue."""
    return int(found.ask("ZCARD", f"{BASE}q:tallied"))


@lengths(("serve", 4.0), 300.0, name="seconds")
@pytest.mark.timeout(1200)
def test_twice_of_what_can_be_done_is_bounded_and_refused(tmp_path: Path, kind: Kind, seconds: float) -> None:
    with (
        house(tmp_path, kind, "--jobs-max-queued", str(MOST_QUEUED)) as found,
        witnessing(found) as witness,
        Caller(found.port) as caller,
    ):
        web = psutil.Process(found.web.process.pid)
        waits_s: list[int] = []
        short: dict[str, float] = {}
        resident: list[int] = []
        refused, posts, begin = 0, 0, time.monotonic()
        while (passed := time.monotonic() - begin) < seconds:
            refused += post_many(caller, witness)
            posts += 1
            assert waiting(found) <= MOST_QUEUED
            value = witness.ledger.value()
            reply = caller.submit(value, ttl_s=TOO_SHORT_S)
            if reply.status == 202:
                short[reply.json()["id"]] = value
            else:
                assert (reply.status, reply.json()["code"]) == (503, "queue_full")
                waits_s.append(int(reply.headers["retry-after"]))
            if passed > seconds / 3:
                resident.append(web.memory_info().rss)
            time.sleep(max(0.0, begin + posts * A_POST / (2 * CAPACITY_PER_S) - time.monotonic()))
        assert refused > 0.2 * posts * A_POST
        assert max(waits_s) > waits_s[0]
        assert max(waits_s) >= min(60, seconds // 4)
        assert resident[-1] < resident[0] + GROWTH_BYTES
        eventually(lambda: waiting(found) == 0, "the queue is worked off", 60)
        ended: list[dict[str, Any]] = [caller.show(id, 20) for id in short]
        runs = tally(found.folder)
        expired = [document for document in ended if document["status"] == "expired"]
        assert expired
        assert not any(short[document["id"]] in runs for document in expired)
        print(
            f"{refused} of {posts * A_POST} refused, {len(expired)} of {len(ended)} expired, to wait {max(waits_s)} s"
        )
        witness.check()
