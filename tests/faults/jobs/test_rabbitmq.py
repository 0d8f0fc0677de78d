"""Jobs carried by a RabbitMQ: a node that is killed, falls silent, or carries one job many times; and a web process
that is killed between record, message and answer."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from tests.contract.brokers.rabbit_nodes import RabbitNode
from tests.e2e.server import eventually
from tests.faults.jobs import rigged
from tests.faults.jobs.calls import BrokenError, Caller
from tests.faults.jobs.houses import Kind, house
from tests.faults.jobs.invariants import submitted, witnessing
from tests.faults.jobs.ledger import at_s, tally
from tests.faults.jobs.lengths import repeated
from tests.faults.jobs.load import Load

from forebay.brokers.port import Message
from forebay.jobs.record_store import Carried

RATE_PER_S = 100.0
SILENT_S = 12.0
"""More than two calls may take, one of which waits for the other."""
SETTLED_S = 3.0
"""By then a node has a new queue on its disk. One that is killed before that cannot use the queue ever again."""


@pytest.fixture(scope="module")
def rabbit() -> Iterator[RabbitNode]:
    with RabbitNode() as started:
        yield started


@repeated(20)
@pytest.mark.timeout(900)
def test_a_node_that_is_killed_under_load_loses_nothing_and_is_used_again_at_once(
    tmp_path: Path, rabbit: RabbitNode, rounds: int
) -> None:
    with (
        house(tmp_path, "over RabbitMQ", rabbit=rabbit) as found,
        witnessing(found) as witness,
        Caller(found.port) as caller,
    ):
        processes = [found.web.process.pid, found.worker.process.pid]
        with Load(found.port, witness.ledger, 2 * RATE_PER_S):
            witness.more(50)
            time.sleep(SETTLED_S)
            for _ in range(rounds):
                witness.more(50)
                rabbit.kill()
                witness.more_refused()
                rabbit.start()
                back_s = time.time()
                value = witness.ledger.value()

                def taken(value: float = value) -> str:
                    reply = caller.submit(value)
                    return str(reply.json()["id"]) if reply.status == 202 else ""

                entry = witness.ledger.accept(eventually(taken, "a job is accepted again"), value)
                assert at_s(caller.show(entry.id, 20)["finished_at"]) < back_s + 5
        assert [found.web.process.pid, found.worker.process.pid] == processes
        witness.check(60)


@pytest.mark.timeout(600)
def test_while_the_node_is_silent_submissions_are_refused_in_time(tmp_path: Path, rabbit: RabbitNode) -> None:
    with (
        house(tmp_path, "over RabbitMQ", rabbit=rabbit) as found,
        witnessing(found) as witness,
        ThreadPoolExecutor(8) as pool,
    ):
        with Load(found.port, witness.ledger, RATE_PER_S):
            witness.more(50)
            rabbit.send(signal.SIGSTOP)
            try:
                values = [witness.ledger.value() for _ in range(8)]

                def post(value: float) -> int:
                    with Caller(found.port) as caller:
                        return caller.submit(value, f"key-{value:.0f}").status

                refused = pool.map(post, values)
                time.sleep(SILENT_S)
            finally:
                rabbit.send(signal.SIGCONT)
            # Nothing was promised to them, but those that were taken all the same are found by their keys.
            assert 503 in refused
            with Caller(found.port) as caller:
                for value in values:

                    def kept(value: float = value) -> str:
                        reply = caller.submit(value, f"key-{value:.0f}")
                        return str(reply.json()["id"]) if reply.status in (200, 202) else ""

                    witness.ledger.accept(eventually(kept, "a job is accepted again"), value)
            witness.more(100)
        witness.settle(60)
        assert {len(tally(found.folder)[value]) for value in values} == {1}
        witness.check()


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_node_that_cannot_be_reached_for_a_minute_is_noticed_and_used_again(
    tmp_path: Path, rabbit: RabbitNode
) -> None:
    with house(tmp_path, "over RabbitMQ", rabbit=rabbit) as found, witnessing(found) as witness:
        processes = [found.web.process.pid, found.worker.process.pid]
        with Load(found.port, witness.ledger, RATE_PER_S):
            witness.more(50)
            rabbit.send(signal.SIGSTOP)
            try:
                eventually(lambda: found.worker.logged("RabbitMQ at"), "it is noticed", 30)
                time.sleep(30)
            finally:
                rabbit.send(signal.SIGCONT)
            witness.more(100)
        assert [found.web.process.pid, found.worker.process.pid] == processes
        witness.check(60)


@pytest.mark.parametrize("kind", ["over RabbitMQ", pytest.param("over SQS", marks=pytest.mark.full)])
@repeated(20)
@pytest.mark.timeout(600)
def test_a_job_that_is_published_a_hundred_times_runs_once(tmp_path: Path, kind: Kind, rounds: int) -> None:
    with (
        house(tmp_path, kind) as found,
        witnessing(found) as witness,
        Caller(found.port) as caller,
    ):
        assert found.carrier is not None
        for _ in range(rounds):
            with found.held():
                entries = submitted(witness, caller, 5)
                again = [Message(entry.id, "tallied", msgspec.msgpack.encode(Carried(entry.id))) for entry in entries]
                found.carrier.publish(again, 100)
            found.carrier.publish(again, 100)
        witness.settle(30)
        runs = tally(found.folder)
        assert {len(runs[entry.value]) for entry in witness.ledger.entries.values()} == {1}
        witness.check()


@pytest.mark.parametrize("kind", ["over RabbitMQ", pytest.param("over SQS", marks=pytest.mark.full)])
@pytest.mark.parametrize("call", ["create", pytest.param("submit", marks=pytest.mark.full)])
@repeated(10)
@pytest.mark.timeout(600)
def test_a_key_finds_the_job_whose_record_stands_with_its_message_and_without(
    tmp_path: Path, kind: Kind, call: str, rounds: int
) -> None:
    """`create`: there is a record and no message; `submit`: there are both, and no answer."""
    notes = tmp_path / "notes"
    rig: rigged.Rig = {"call": call, "when": "after", "number": 2, "notes": str(notes)}
    with house(tmp_path, kind, rig=rig, rigs="web") as found, witnessing(found) as witness:
        for number in range(rounds):
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
            if number + 1 < rounds:
                found.kill_part("web")
                found.begin("web", rig)
                found.wait_ready()
        witness.check()
