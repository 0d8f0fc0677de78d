"""The batcher under a virtual clock: seeded arrivals and true costs in, latencies, goodput and batch sizes out."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from forebay.batching.arrivals import Kind
from forebay.batching.batcher import Batcher
from forebay.batching.costs import Cost, Noise
from forebay.batching.item import Batch, DispatchReason
from forebay.batching.latency import LatencyModel
from forebay.batching.policy import Policy
from forebay.core.request import Background

Arrivals = Callable[[random.Random], Iterator[float]]
Lengths = Callable[[random.Random], int]
MakeBatcher = Callable[[Policy, LatencyModel], Batcher["SimItem"]]
FOREVER = float("inf")
WARM_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
WARM_LENGTHS = (8, 16, 32, 64, 128, 256)


class SimItem:
    """A request in the simulator."""

    __slots__ = (
        "arrived",
        "background",
        "behind_s",
        "client",
        "deadline",
        "lane",
        "length",
        "nbytes",
        "order",
        "priority",
        "rows",
    )

    def __init__(self, arrived: float, deadline: float, rows: int, length: int, priority: int, lane: Hashable) -> None:
        self.arrived = arrived
        self.deadline = deadline
        self.rows = rows
        self.length = length
        self.priority = priority
        self.lane = lane
        self.nbytes = 0
        self.behind_s = 0.0
        self.order: Any = None
        self.background: Background | None = None
        self.client = False


@dataclass(frozen=True)
class Scenario:
    """One simulated run. Give `arrivals` (open loop) or `clients` (closed loop) or both."""

    cost: Cost
    arrivals: Arrivals | None = None
    clients: int = 0
    think_s: float = 0.0
    """Mean of the exponential pause of a client between an answer and its next request; 0: none."""
    seconds: float = 10.0
    slo_s: float = 30.0
    instances: int = 1
    hand_over_s: float = 0.0
    """From sending a batch to its start, and from its end to the answer, together."""
    lengths: Lengths | None = None
    kinds: Sequence[Kind] = (Kind(),)
    policy: Policy = field(default_factory=Policy)
    noise: Noise = field(default_factory=Noise)
    seed: int = 1
    warm_rows: Sequence[int] = WARM_ROWS
    """Batch sizes measured before the run, as the engine's warm-up does; larger ones than the policy's are left out."""
    jobs: int = 0
    """So many items wait in the background, at all times."""
    skip_s: float = 0.0
    """Requests that arrive earlier do not count."""


@dataclass(slots=True)
class KindOutcome:
    """What came of one kind of request."""

    sent: int = 0
    good: int = 0
    total_s: float = 0.0
    """Sum of the latencies of those that were run."""


@dataclass
class Outcome:
    """What came of the requests that arrived within the counted time. Latencies are seconds."""

    seconds: float
    sent: int = 0
    good: int = 0
    """Answered in time."""
    late: int = 0
    """Run, but answered after the deadline."""
    refused: int = 0
    expired: int = 0
    """Let in, then dropped from the queue."""
    latencies: list[float] = field(default_factory=list)
    """Of everything that was run."""
    by_kind: dict[tuple[int, Hashable], KindOutcome] = field(default_factory=dict)
    """By (priority, lane)."""
    batch_rows: dict[int, int] = field(default_factory=dict)
    reasons: dict[DispatchReason, int] = field(default_factory=dict)
    busy_s: float = 0.0
    jobs: int = 0
    """Items run in the background."""

    @property
    def goodput(self) -> float:
        """Answers in time, a second."""
        return self.good / self.seconds

    @property
    def broken(self) -> float:
        """Let in but not answered in time, as a share of all sent."""
        return (self.late + self.expired) / max(1, self.sent)

    @property
    def mean_s(self) -> float:
        """Mean latency."""
        return sum(self.latencies) / max(1, len(self.latencies))

    def quantile_s(self, share: float) -> float:
        """Quantile of the latency, 0 when nothing was run."""
        if not self.latencies:
            return 0.0
        return sorted(self.latencies)[min(len(self.latencies) - 1, int(share * len(self.latencies)))]

    @property
    def mean_batch_rows(self) -> float:
        """Mean over batches."""
        return sum(rows * n for rows, n in self.batch_rows.items()) / max(1, sum(self.batch_rows.values()))


class _Instance:
    __slots__ = ("computes_until", "queue")

    def __init__(self) -> None:
        self.computes_until = 0.0
        self.queue: deque[Batch[SimItem]] = deque()


class Simulation:
    """One run; `run()` returns its outcome. `progress`, if given, is called with the virtual seconds now and then."""

    def __init__(
        self, scenario: Scenario, make: MakeBatcher = Batcher, progress: Callable[[float], None] | None = None
    ) -> None:
        self.scenario = scenario
        # One stream for each purpose: two policies see the very same requests.
        self._arrival_rng, self._kind_rng, self._noise_rng, self._think_rng = (
            random.Random(f"{scenario.seed}/{name}") for name in ("arrivals", "kinds", "noise", "think")
        )
        self._progress = progress
        self.latency = LatencyModel(scenario.policy.max_batch_rows)
        self._warm_up()
        self.batcher = make(scenario.policy, self.latency)
        self._instances = [_Instance() for _ in range(scenario.instances)]
        for index in range(scenario.instances):
            self.batcher.add_instance(index, 0.0)
        self._events: list[tuple[float, int, Batch[SimItem] | None, float]] = []
        self._counter = 0
        self._arrivals = scenario.arrivals(self._arrival_rng) if scenario.arrivals else iter(())
        self._shares = [kind.share for kind in scenario.kinds]
        self.outcome = Outcome(scenario.seconds - scenario.skip_s)

    def _warm_up(self) -> None:
        scenario, noise = self.scenario, random.Random(f"{self.scenario.seed}/warm")
        for rows in scenario.warm_rows:
            if rows > scenario.policy.max_batch_rows:
                continue
            for length in WARM_LENGTHS if scenario.lengths else (0,):
                for _ in range(2):
                    seconds = scenario.cost.seconds(rows, length) * scenario.noise.draw(noise)
                    self.latency.observe(rows, length, seconds)

    def run(self) -> Outcome:
        """Run until everything that arrived within the scenario's time has its answer."""
        end = self.scenario.seconds
        next_arrival = next(self._arrivals, FOREVER)
        for _ in range(self.scenario.clients):
            self._schedule(0.0, None)
        events, batcher = self._events, self.batcher
        now, wake, steps = 0.0, 0.0, 0
        self._top_up(now)
        while True:
            upcoming = min(next_arrival, events[0][0] if events else FOREVER, wake)
            if upcoming == FOREVER:
                return self.outcome
            now = max(now, upcoming)
            # Everything of this instant first, then the batcher: a burst is offered whole, as the engine does.
            changed = wake <= now
            while next_arrival <= now:
                changed |= self._send(now, client=False)
                next_arrival = next(self._arrivals, FOREVER)
                if next_arrival >= end:
                    next_arrival = FOREVER
            while events and events[0][0] <= now:
                _, _, batch, busy_s = heapq.heappop(events)
                if batch is None:
                    changed |= now < end and self._send(now, client=True)
                else:
                    self._finish(batch, now, busy_s)
                    changed = True
            if changed:
                while (pulled := batcher.pull(now)) is not None:
                    self._start(pulled, now)
                for item in batcher.take_expired(now):
                    self._answer(item, now, "expired")
                at = batcher.wake_at(now)
                wake = FOREVER if at is None else at
            steps += 1
            if self._progress is not None and not steps % 5000:
                self._progress(now)

    def _schedule(self, at: float, batch: Batch[SimItem] | None, busy_s: float = 0.0) -> None:
        self._counter += 1
        heapq.heappush(self._events, (at, self._counter, batch, busy_s))

    def _send(self, now: float, *, client: bool) -> bool:
        scenario, rng = self.scenario, self._kind_rng
        kinds = scenario.kinds
        kind = kinds[0] if len(kinds) == 1 else rng.choices(kinds, self._shares)[0]
        length = scenario.lengths(rng) if scenario.lengths else 0
        slo_s = scenario.slo_s if kind.slo_s is None else kind.slo_s
        queued = False
        for place in range(kind.pieces):
            item = SimItem(now, now + slo_s, kind.rows, length, kind.priority, kind.lane)
            item.client = client
            item.behind_s = self.batcher.behind_s(place, kind.rows, length) if place else 0.0
            refusal = self.batcher.offer(item, now)
            if refusal is not None:
                self._answer(item, now, "refused", refusal.retry_after_s)
            queued |= refusal is None
        return queued

    def _top_up(self, now: float) -> None:
        if now < self.scenario.seconds:
            for _ in range(self.scenario.jobs - self.batcher.backlog.rows):
                item = SimItem(now, FOREVER, 1, 0, 0, "")
                item.background = Background()
                self.batcher.offer_background(item, now)
        else:
            self.batcher.backlog.take_all()

    def _start(self, batch: Batch[SimItem], now: float) -> None:
        scenario, instance = self.scenario, self._instances[batch.instance]
        half = scenario.hand_over_s / 2
        busy_s = scenario.cost.seconds(batch.rows, batch.length) * scenario.noise.draw(self._noise_rng)
        instance.computes_until = max(instance.computes_until, now + half) + busy_s
        self._schedule(instance.computes_until + half, batch, busy_s)
        if scenario.skip_s <= now < scenario.seconds:
            outcome = self.outcome
            outcome.batch_rows[batch.rows] = outcome.batch_rows.get(batch.rows, 0) + 1
            outcome.reasons[batch.reason] = outcome.reasons.get(batch.reason, 0) + 1
            outcome.busy_s += busy_s

    def _finish(self, batch: Batch[SimItem], now: float, busy_s: float) -> None:
        self.batcher.finished(batch, now, busy_s)
        if batch.background:
            if self.scenario.skip_s <= now:
                self.outcome.jobs += batch.rows
            self._top_up(now)
            return
        for item in batch.items:
            self._answer(item, now, "run")

    def _answer(self, item: SimItem, now: float, fate: str, retry_s: float = 0.0) -> None:
        if item.client:
            pause = self._think_rng.expovariate(1 / self.scenario.think_s) if self.scenario.think_s else 0.0
            self._schedule(now + pause + retry_s, None)
        if item.arrived < self.scenario.skip_s:
            return
        outcome = self.outcome
        outcome.sent += 1
        kind = outcome.by_kind.setdefault((item.priority, item.lane), KindOutcome())
        kind.sent += 1
        if fate == "refused":
            outcome.refused += 1
        elif fate == "expired":
            outcome.expired += 1
        else:
            outcome.latencies.append(now - item.arrived)
            kind.total_s += now - item.arrived
            if now <= item.deadline + 1e-9:
                outcome.good += 1
                kind.good += 1
            else:
                outcome.late += 1


def simulate_scenario(
    scenario: Scenario, make: MakeBatcher = Batcher, progress: Callable[[float], None] | None = None
) -> Outcome:
    """Run one scenario with one batcher."""
    return Simulation(scenario, make, progress).run()
