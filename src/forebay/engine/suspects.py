"""The requests of failed batches: run again in smaller groups until the guilty stand alone (see `isolate`)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from forebay.batching import Batch, Batcher
from forebay.batching.background import LONGEST_WAIT_S
from forebay.core.errors import DeadlineExceeded, ExecutionError, ForebayError
from forebay.core.request import Request
from forebay.engine.flight import Flight, nobody
from forebay.engine.isolate import Group, Isolation, Verdict
from forebay.engine.split import halve
from forebay.models.signature import Signature

LONE_DEATHS = 2
"""Processes that must end by themselves while they run a request alone before it is blamed."""
LONE_KILLS = 5
"""The same for processes that were killed. What is run again runs first in the replacement, so one who kills every
replacement at once hits the same request; only a request that really gets its process killed is hit each time."""


class Suspects:
    """The groups that wait to be run again, each with nobody else. Belongs to one engine, on its loop."""

    def __init__(
        self,
        send: Callable[[Batch[Request], Group[Request]], None],
        fail: Callable[[Request, ForebayError], None],
        piece_done: Callable[[Request], None],
        forgive: Callable[[int], None],
    ) -> None:
        self.groups: deque[Group[Request]] = deque()
        self._send = send
        self._fail = fail
        self._piece_done = piece_done
        self._forgive = forgive  # so many deaths were a request's fault, not the model's
        self._signature: Signature
        self._batchable = False
        self._turn_at = 0.0
        """Until then groups of jobs wait while somebody else's request does."""

    def learn(self, signature: Signature, batchable: bool) -> None:
        """What the model is, once it is known."""
        self._signature = signature
        self._batchable = batchable

    def accuse(self, flight: Flight, error: ExecutionError, *, killed: bool = False) -> None:
        """A batch failed with this error: find out whose fault it is.

        A request is blamed for a dead process only after several lone deaths. `killed`: the process was killed, as
        an operator or the kernel does it, so that its death says little about what it ran.
        """
        group, waiting = flight.group, flight.waiting()
        deaths = (group.deaths if group is not None else 0) + 1
        lone = error.code == "instance_crashed" and len(waiting) == 1
        once_more = lone and deaths < (LONE_KILLS if killed else LONE_DEATHS)
        if group is not None:
            if once_more:
                self.groups.append(Group(group.isolation, waiting, group.stage, deaths=deaths))
            else:
                self._apply(group.isolation, group.isolation.outcome(group, ok=False, cause=error))
        elif waiting:
            isolation = Isolation(waiting, error)
            # Others were in the batch, and have their answer or have left: what failed may have been theirs.
            company = len(waiting) == 1 < len(flight.batch.items)
            if once_more or company:
                self.groups.append(Group(isolation, waiting, "part", deaths=0 if company else deaths))
            else:
                self._apply(isolation, isolation.begin())

    def passed(self, group: Group[Request]) -> None:
        """A group ran well."""
        self._apply(group.isolation, group.isolation.outcome(group, ok=True))

    def _apply(self, isolation: Isolation[Request], verdict: Verdict[Request]) -> None:
        self.groups.extend(verdict.run)
        crashed = False
        for item in verdict.blamed:
            error = isolation.cause_of(item)
            assert isinstance(error, ExecutionError)
            crashed |= error.code == "instance_crashed"
            if error.code != "out_of_memory" or item.rows == 1 or not self._batchable:
                self._fail(item, error)
            elif item.on_done is not nobody:
                halves = halve(self._signature, item, self._piece_done)
                self.groups.extend(Group(Isolation([half], error), [half], "part") for half in halves)
        if crashed and not verdict.model_blamed:
            self._forgive(1)

    def send(self, batcher: Batcher[Request], now: float) -> None:
        """Send waiting groups to idle instances. Those of jobs let others go first, for a while."""
        held: list[Group[Request]] = []
        while self.groups:
            group = self.groups.popleft()
            group.items = [item for item in group.items if item.on_done is not nobody]
            if not group.items:
                self.passed(group)
                continue
            behind = group.items[0].background is not None
            if behind and batcher.depth_rows and now < self._turn_at:
                held.append(group)
                continue
            batch = batcher.place(group.items, now)
            if batch is None:
                held.append(group)
                break
            if behind:
                self._turn_at = now + LONGEST_WAIT_S
            self._send(batch, group)
        self.groups.extendleft(reversed(held))

    def sweep(self, now: float) -> float:
        """Answer those whose deadline has passed; returns when to look again (infinity: never)."""
        due = float("inf")
        for item in [item for group in self.groups for item in group.items]:
            if item.deadline <= now:
                self._fail(item, DeadlineExceeded("the batch failed and its retry came too late", stage="executing"))
            else:
                due = min(due, item.deadline)
        return due

    def take_all(self) -> list[Request]:
        """Forget all groups; their requests are the caller's."""
        items = [item for group in self.groups for item in group.items]
        self.groups.clear()
        return items
