"""Jobs carried by a Kafka: workers that come and go, a job that is published many times, and a web process that is
killed between record, message and answer. Its stand-in keeps nothing when it ends, so it is not killed here."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest
from tests.faults.jobs import rigged
from tests.faults.jobs.calls import BrokenError, Caller
from tests.faults.jobs.houses import house, second
from tests.faults.jobs.invariants import submitted, witnessing
from tests.faults.jobs.ledger import tally
from tests.faults.jobs.load import Load

from forebay.brokers.port import Message
from forebay.jobs.record_store import Carried

RATE_PER_S = 50.0
GUESTS = 30
PUBLISHED = 20
AT_WORK_S = 2.0


@pytest.mark.full
@pytest.mark.timeout(900)
def test_workers_that_come_and_go_lose_and_double_nothing(tmp_path: Path) -> None:
    with house(tmp_path, "over Kafka") as found, witnessing(found) as witness:
        with Load(found.port, witness.ledger, RATE_PER_S):
            witness.more(50)
            for number in range(GUESTS):
                with second(found, f"guest-{number}"):
                    time.sleep(AT_WORK_S)
                time.sleep(AT_WORK_S)
            witness.more(50)
        witness.settle(60)
        runs = tally(found.folder)
        assert {len(runs[entry.value]) for entry in witness.ledger.entries.values()} == {1}
        witness.check()


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_job_that_is_published_a_hundred_times_runs_once(tmp_path: Path) -> None:
    with house(tmp_path, "over Kafka") as found, witnessing(found) as witness, Caller(found.port) as caller:
        assert found.carrier is not None
        for _ in range(PUBLISHED):
            with found.held():
                entries = submitted(witness, caller, 5)
                again = [Message(entry.id, "tallied", msgspec.msgpack.encode(Carried(entry.id))) for entry in entries]
                found.carrier.publish(again, 100)
            found.carrier.publish(again, 100)
        witness.settle(30)
        runs = tally(found.folder)
        assert {len(runs[entry.value]) for entry in witness.ledger.entries.values()} == {1}
        witness.check()


@pytest.mark.parametrize("call", ["create", pytest.param("submit", marks=pytest.mark.full)])
@pytest.mark.timeout(600)
def test_a_key_finds_the_job_whose_record_stands_with_its_message_and_without(tmp_path: Path, call: str) -> None:
    """`create`: there is a record and no message; `submit`: there are both, and no answer."""
    notes = tmp_path / "notes"
    rig: rigged.Rig = {"call": call, "when": "after", "number": 2, "notes": str(notes)}
    with house(tmp_path, "over Kafka", rig=rig, rigs="web") as found, witnessing(found) as witness:
        with Caller(found.port) as caller:
            submitted(witness, caller, 1)
            value = witness.ledger.value()
            with pytest.raises(BrokenError):
                caller.submit(value, f"key-{value:.0f}")
            found.ended("web")
            found.restart("web")
            (id,) = rigged.noted(notes)
            reply = caller.submit(value, f"key-{value:.0f}")
            assert (reply.json()["id"], reply.headers["idempotent-replayed"]) == (id, "true")
            witness.ledger.accept(id, value)
        witness.settle(30)
        assert len(tally(found.folder)[value]) == 1
        witness.check()
