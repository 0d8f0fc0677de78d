"""Everything is killed, again and again, under load: no accepted job is lost, done twice or done wrong."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from tests.faults.jobs.growth import Growth
from tests.faults.jobs.houses import Kind, house
from tests.faults.jobs.invariants import witnessing
from tests.faults.jobs.lengths import BOTH
from tests.faults.jobs.load import Load
from tests.models.tallied import CAPACITY_PER_S


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(("seconds", "every_s"), [(8, 2.0), pytest.param(300, 5.0, marks=pytest.mark.full)])
@pytest.mark.timeout(600)
def test_no_job_is_lost_whatever_is_killed(tmp_path: Path, kind: Kind, seconds: float, every_s: float) -> None:
    rng = random.Random(kind)
    with house(tmp_path, kind) as found, witnessing(found) as witness:
        kills, growth = 0, Growth(found)
        with Load(found.port, witness.ledger, 0.7 * CAPACITY_PER_S):
            end = time.monotonic() + seconds
            while time.monotonic() + every_s < end:
                time.sleep(every_s * rng.uniform(0.5, 1.0))
                found.kill(found.roles[kills] if kills < len(found.roles) else rng.choice(found.roles))
                kills += 1
        report = witness.check(60)
        growth.check()
        print(f"{kills} kills; {witness.ledger.refused} refused, {witness.ledger.unknown} unknown")
        assert report.accepted > 20 * seconds
