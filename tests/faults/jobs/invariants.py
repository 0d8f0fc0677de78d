"""The invariants that hold after every fault, checked in one place.

I1: every accepted job ends. I2: its result is committed once, and is the right one. I3: nothing that can be read is
dead without a reason. I4: nothing waits, runs or is held any more. I5: the web process stays responsive.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.server import eventually
from tests.faults.jobs.calls import BrokenError, Caller
from tests.faults.jobs.houses import BASE, House
from tests.faults.jobs.ledger import Began, Entry, Ledger, run_of, tally
from tests.faults.jobs.watch import SLOWEST_S, Probe, Subscriber
from tests.models.tallied import FIRST

LOOKED_AT = 300
"""Of so many jobs, drawn at random, the history is read; of all that were run more than once."""


@dataclass
class Found:
    """What became of the accepted jobs."""

    accepted: int
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def faults(self) -> list[str]:
        """All that should not be."""
        return [*self.lost, *self.twice, *self.wrong, *self.left]

    def __str__(self) -> str:
        return (
            f"accepted {self.accepted}: {len(self.lost)} lost / {len(self.twice)} committed twice / "
            f"{len(self.wrong)} wrong; left over: {len(self.left)}"
        )


class Witness:
    """Looks on while a fault happens, and judges afterwards."""

    def __init__(self, house: House, ledger: Ledger, subscriber: Subscriber, probe: Probe) -> None:
        self.house, self.ledger, self.subscriber, self.probe = house, ledger, subscriber, probe
        self._dead_before = self._dead_now()
        self._began = Began(house.tally_folder)

    def more(self, accepted: int) -> None:
        """Wait until the load has had so many more jobs accepted."""
        enough = len(self.ledger) + accepted
        eventually(lambda: len(self.ledger) >= enough, f"{accepted} more jobs are accepted", 60)

    def more_refused(self) -> None:
        """Wait until the load has been refused once more."""
        before = self.ledger.refused
        eventually(lambda: self.ledger.refused > before, "a submission is refused", 60)

    def running(self) -> set[str]:
        """Accepted jobs that somebody has claimed."""
        return self.ledger.entries.keys() & self.house.running()

    def begun(self) -> set[str]:
        """Of these, those whose batch has begun, as the model tells."""
        self._began.look()
        entries = self.ledger.entries
        return {id for id in self.running() if entries[id].value in self._began.values}

    def taken_over(self, ids: set[str]) -> None:
        """Wait until jobs run in their second attempt."""
        with Caller(self.house.port) as caller:
            for id in ids:
                eventually(lambda id=id: caller.show(id)["attempt"] == 2, f"{id} is taken over", 30)  # type: ignore[misc]

    def late_results(self, house: House, count: float) -> None:
        """Wait until a worker has been refused so many results."""
        eventually(lambda: late_results(house) >= count, f"{count:g} late results are refused")

    def settle(self, within_s: float, *, since_last: bool = False) -> None:
        """Wait until every accepted job has ended, `within_s` at most, and judge each. `since_last`: so long since the
        last one ended, for where more was accepted than could be done meanwhile."""
        end = time.monotonic() + within_s
        with Caller(self.house.port) as caller:
            while open_ones := [entry for entry in list(self.ledger.entries.values()) if entry.seen is None]:
                ended = [self._ends(caller, entry) for entry in open_ones]
                if since_last and any(ended):
                    end = time.monotonic() + within_s
                if time.monotonic() > end:
                    return
                if not any(ended):
                    time.sleep(0.05)

    def _ends(self, caller: Caller, entry: Entry) -> bool:
        asked_s = time.monotonic()
        with contextlib.suppress(BrokenError):
            reply = caller.ask(f"/v1/jobs/{entry.id}")
            return reply.status == 200 and self.ledger.see(entry, reply.json(), asked_s)
        return False

    def check(self, within_s: float = 30.0, *, responsive: bool = True, since_last: bool = False) -> Found:
        """All invariants. `within_s`, `since_last`: by when every job has ended, see `settle`. `responsive`: I5 holds
        for this fault."""
        self.settle(within_s, since_last=since_last)
        found = Found(len(self.ledger), wrong=list(self.ledger.wrong))
        found.lost = [entry.id for entry in self.ledger.entries.values() if entry.seen is None]
        self._committed_once(found)
        self._dead(found)
        eventually(lambda: not self._left(), f"nothing is left: {self._left()}")
        found.left = self._left()
        p99_s = self.probe.quantile(0.99)
        print(f"{found}; p99 of GET {p99_s * 1000:.0f} ms")
        assert not found.faults(), vars(found)
        # Of few, the slowest ones tell more of the machine, which others use too.
        count = len(self.probe.latencies_s)
        slow_s = self.probe.quantile(0.99 if count >= 1000 else 0.9 if count >= 100 else 0.5)
        assert not responsive or slow_s < SLOWEST_S, sorted(self.probe.latencies_s)
        return found

    # -- I2 -----------------------------------------------------------------------------------------------------------

    def _committed_once(self, found: Found) -> None:
        entries = [entry for entry in self.ledger.entries.values() if entry.seen is not None]
        found.twice += [f"{id}: {ends}" for id, ends in self.subscriber.endings.items() if len(ends) > 1]
        found.twice += self.subscriber.after_the_end
        runs = tally(self.house.tally_folder)
        chosen = set(random.Random(len(entries)).sample(range(len(entries)), min(LOOKED_AT, len(entries))))
        with Caller(self.house.port) as caller:
            for number, entry in enumerate(entries):
                assert entry.seen is not None
                again = entry.seen["attempt"] > 1
                if entry.seen["status"] == "succeeded" and run_of(entry.seen) not in runs.get(entry.value, []):
                    found.wrong.append(f"{entry.id}: its answer is of no run of {entry.value:g}")
                if number in chosen or again:
                    if self.ledger.changed(caller.show(entry.id)):
                        found.twice.append(f"{entry.id}: {entry.seen}, then {caller.show(entry.id)}")
                    self._history(caller, entry, found)
        found.twice += [f"{value:g}: {ids}" for value, ids in self._answers().items() if len(ids) > 1]

    def _history(self, caller: Caller, entry: Entry, found: Found) -> None:
        """queued (odd), running (even), and so on, then one ending (odd). Earlier attempts may leave out `running`."""
        assert entry.seen is not None
        told = {sequence: data["status"] for sequence, _, data in caller.events(entry.id)}
        last = max(told)
        right = dict.fromkeys(range(1, last, 2), "queued") | {last: entry.seen["status"]}
        right |= {number: "running" for number in told if number % 2 == 0}
        # What never ran is finished from `queued`: an even number.
        if told != right and not (entry.seen["attempt"] == 0 and told == {1: "queued", 2: entry.seen["status"]}):
            found.twice.append(f"{entry.id}: its history is {told}")

    def _answers(self) -> dict[float, list[str]]:
        """The ids of all jobs in the store with an answer, by the value that it is for. No value from FIRST up is
        sent twice, but with the key of the first time."""
        answers: dict[float, list[str]] = {}
        with self.house.client() as client:
            keys = list(client.scan_iter(match=f"{BASE}j:*", count=1000))
            for start in range(0, len(keys), 1000):
                pipe = client.pipeline(transaction=False)
                for key in keys[start : start + 1000]:
                    pipe.hget(key, "o")
                for key, output in zip(keys[start : start + 1000], pipe.execute(), strict=True):
                    if output is not None:
                        (y,) = json.loads(output)["output"]["y"]
                        if (value := (y - 1) / 2) >= FIRST:
                            answers.setdefault(value, []).append(key[-16:].hex())
        return answers

    # -- I3, I4 -------------------------------------------------------------------------------------------------------

    def _dead(self, found: Found) -> None:
        expected = {
            entry.id.replace("-", "") for entry in self.ledger.entries.values() if isinstance(entry.expected, str)
        }
        found.wrong += [f"{id} is dead" for id in self._dead_now() - self._dead_before - expected]

    def _dead_now(self) -> set[str]:
        return {member.hex() for member in self.house.ask("ZRANGE", f"{BASE}dead", 0, -1)}

    def _left(self) -> list[str]:
        """What is in the store or a worker and should be done with."""
        with self.house.client() as client:
            left = Counter({name: client.zcard(f"{BASE}{name}:tallied") for name in "qdr"})
            left["t"] = client.zcard(f"{BASE}t")
            left["bytes"] = int(client.hget(f"{BASE}n", "b:tallied") or 0)
        for name in ("forebay_jobs_held", "forebay_jobs_results_held"):
            left[name] = int(self.house.metric(name))
        return [f"{name} {number}" for name, number in left.items() if number]


def late_results(house: House) -> float:
    """Results that a worker was not allowed to commit."""
    return house.metric("forebay_jobs_finished_total", kind="lost")


@contextlib.contextmanager
def witnessing(house: House) -> Iterator[Witness]:
    """Somebody who looks on from now."""
    with Subscriber(house.socket) as subscriber, Probe(house.port) as probe:
        assert subscriber.stands.wait(20)
        yield Witness(house, Ledger(house.values), subscriber, probe)


def submitted(witness: Witness, caller: Caller, count: int, **options: Any) -> list[Entry]:
    """Jobs, accepted one after the other."""
    values = [witness.ledger.value() for _ in range(count)]
    return [witness.ledger.accept(caller.submit(value, **options).json()["id"], value) for value in values]
