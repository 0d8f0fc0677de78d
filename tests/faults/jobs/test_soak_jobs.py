"""Everything is killed, again and again, under load: no accepted job is lost, done twice or done wrong."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contract.brokers.rabbit_nodes import RabbitNode
from tests.faults.jobs.growth import Growth
from tests.faults.jobs.houses import Kind, house
from tests.faults.jobs.invariants import witnessing
from tests.faults.jobs.load import Load
from tests.models.tallied import CAPACITY_PER_S

SETTLED_S = 3.0
"""By then a RabbitMQ has a new queue on its disk. One that is killed before that cannot use the queue ever again."""


@pytest.fixture
def rabbit(kind: Kind) -> Iterator[RabbitNode | None]:
    """A node that may be killed."""
    if kind != "over RabbitMQ":
        yield None
        return
    with RabbitNode() as started:
        yield started


@pytest.mark.parametrize(
    "kind",
    [
        "web and worker",
        pytest.param("serve", marks=pytest.mark.full),
        pytest.param("over RabbitMQ", marks=pytest.mark.full),
        # Their stand-ins keep nothing when they end, so these are not killed.
        pytest.param("over SQS", marks=pytest.mark.full),
        pytest.param("over Kafka", marks=pytest.mark.full),
    ],
)
@pytest.mark.parametrize(("seconds", "every_s"), [(8, 2.0), pytest.param(300, 5.0, marks=pytest.mark.full)])
@pytest.mark.timeout(600)
def test_no_job_is_lost_whatever_is_killed(
    tmp_path: Path, kind: Kind, seconds: float, every_s: float, rabbit: RabbitNode | None
) -> None:
    rng = random.Random(kind)
    with house(tmp_path, kind, rabbit=rabbit) as found, witnessing(found) as witness:
        kills, growth = 0, Growth(found)
        with Load(found.port, witness.ledger, 0.7 * CAPACITY_PER_S):
            if rabbit is not None:
                witness.more(50)
                time.sleep(SETTLED_S)
            end = time.monotonic() + seconds
            while kills < len(found.roles) or time.monotonic() + every_s < end:
                time.sleep(every_s * rng.uniform(0.5, 1.0))
                found.kill(found.roles[kills] if kills < len(found.roles) else rng.choice(found.roles))
                kills += 1
        # After each kill of a worker the group of a Kafka shares nothing out for a session's length: a backlog grows.
        report = witness.check(60, since_last=kind == "over Kafka")
        growth.check()
        print(f"{kills} kills; {witness.ledger.refused} refused, {witness.ledger.unknown} unknown")
        assert report.accepted > 20 * seconds
