"""Several models on the cores of one machine, under a virtual clock: what one does to the others, with fairness or not.

Each model has its own batcher and instances of one thread. Where more instances compute than there are cores, all are
slowed alike, as an operating system does; with fairness some are paused instead. Requests have one row, of no length.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from forebay.batching.batcher import Batcher
from forebay.batching.costs import Cost, Noise
from forebay.batching.fairness import QUANTUM_S, Claim, Fairness
from forebay.batching.item import Batch
from forebay.batching.latency import LatencyModel
from forebay.batching.policy import Policy
from forebay.batching.simulate import FOREVER, WARM_ROWS, Arrivals, SimItem

_DONE_S = 1e-12


@dataclass(frozen=True)
class Tenant:
    """One model: what its batches cost in core seconds, and what it is asked."""

    cost: Cost
    arrivals: Arrivals
    slo_s: float = 30.0
    instances: int = 2
    weight: float = 1.0
    policy: Policy = field(default_factory=Policy)
    noise: Noise = field(default_factory=Noise)


@dataclass
class TenantOutcome:
    """What came of the requests to one model. Latencies are seconds, of everything that was run."""

    sent: int = 0
    good: int = 0
    late: int = 0
    refused: int = 0
    expired: int = 0
    core_s: float = 0.0
    latencies: list[float] = field(default_factory=list)

    def quantile_s(self, share: float) -> float:
        """Quantile of the latency, 0 when nothing was run."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


class _Job:
    """A batch at an instance."""

    __slots__ = ("batch", "claim", "left_s", "model", "started")

    def __init__(self, model: _Model, batch: Batch[SimItem], claim: Claim, left_s: float, started: float) -> None:
        self.model = model
        self.batch = batch
        self.claim = claim
        self.left_s = left_s
        self.started = started


class _Model:
    def __init__(self, tenant: Tenant, fairness: Fairness, seed: str) -> None:
        self.tenant = tenant
        self.outcome = TenantOutcome()
        self.member = fairness.join(tenant.weight, 1)
        self.noise = random.Random(f"{seed}/noise")
        self.arrivals = tenant.arrivals(random.Random(f"{seed}/arrivals"))
        self.next_arrival = next(self.arrivals, FOREVER)
        self.wake = FOREVER
        latency = LatencyModel(tenant.policy.max_batch_rows)
        for rows in WARM_ROWS:
            for _ in range(2 if rows <= tenant.policy.max_batch_rows else 0):
                latency.observe(rows, 0, self.draw(rows))
        self.batcher: Batcher[SimItem] = Batcher(tenant.policy, latency)
        for instance in range(tenant.instances):
            self.batcher.add_instance(instance, 0.0)

    def draw(self, rows: int) -> float:
        return self.tenant.cost.seconds(rows, 0) * self.tenant.noise.draw(self.noise)

    def offer(self, now: float) -> None:
        item = SimItem(now, now + self.tenant.slo_s, 1, 0, 0, None)
        self.outcome.sent += 1
        if self.batcher.offer(item, now) is not None:
            self.outcome.refused += 1

    def answer(self, batch: Batch[SimItem], now: float, busy_s: float) -> None:
        self.batcher.finished(batch, now, busy_s)
        for item in batch.items:
            self.outcome.latencies.append(now - item.arrived)
            if now <= item.deadline + 1e-9:
                self.outcome.good += 1
            else:
                self.outcome.late += 1


class SharedSimulation:
    """One run of several models."""

    def __init__(
        self, tenants: Sequence[Tenant], *, cores: int = 2, seconds: float = 10.0, fair: bool = True, seed: int = 1
    ) -> None:
        self._cores = cores
        self._seconds = seconds
        self._fair = fair
        self._fairness = Fairness(cores)
        self._models = [_Model(tenant, self._fairness, f"{seed}/{place}") for place, tenant in enumerate(tenants)]
        self._jobs: list[_Job] = []
        self._tick = FOREVER

    def run(self) -> list[TenantOutcome]:
        """Until everything that arrived has its answer; an outcome for each model, in their order."""
        now = 0.0
        while True:
            running = [job for job in self._jobs if job.claim.runs]
            speed = min(1.0, self._cores / len(running)) if running else 1.0
            soonest = min((now + job.left_s / speed for job in running), default=FOREVER)
            upcoming = min(soonest, self._tick, *(min(m.next_arrival, m.wake) for m in self._models))
            if upcoming == FOREVER:
                return [model.outcome for model in self._models]
            upcoming = max(now, upcoming)
            for job in running:
                used_s = (upcoming - now) * speed
                job.left_s -= used_s
                job.model.outcome.core_s += used_s
                self._fairness.charge(job.claim, used_s)
            now = upcoming
            self._step(now)

    def _step(self, now: float) -> None:
        for job in [job for job in self._jobs if job.left_s <= _DONE_S]:
            self._jobs.remove(job)
            self._fairness.end(job.claim)
            job.model.answer(job.batch, now, now - job.started)
        for model in self._models:
            while model.next_arrival <= now:
                model.offer(now)
                model.next_arrival = next(model.arrivals, FOREVER)
                if model.next_arrival >= self._seconds:
                    model.next_arrival = FOREVER
            batcher = model.batcher
            while (batch := batcher.pull(now)) is not None:
                claim = self._fairness.begin(model.member)
                self._jobs.append(_Job(model, batch, claim, model.draw(batch.rows), now))
            model.outcome.expired += len(batcher.take_expired(now))
            at = batcher.wake_at(now)
            model.wake = FOREVER if at is None else at
        if self._fair and self._fairness.crowded():
            self._fairness.choose()
            self._tick = now + QUANTUM_S
        else:
            self._fairness.all_run()
            self._tick = FOREVER
