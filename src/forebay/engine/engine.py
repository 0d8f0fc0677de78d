"""One model's engine: it admits requests, sends batches to its instances and gives each request its own answer.

Everything here runs on one event loop, and nothing in it is heavy: models, and large bodies, live in other processes.
"""

from __future__ import annotations

import asyncio
import logging
import math

import msgspec

from forebay.batching import Batch, Batcher, LatencyModel
from forebay.core.errors import AdmissionError, DeadlineExceeded, ExecutionError, ForebayError
from forebay.core.request import Request
from forebay.engine import assemble, frames
from forebay.engine.costs_file import ChoiceFile, CostsFile
from forebay.engine.door import Door
from forebay.engine.finite import finite_check
from forebay.engine.flight import Flight, begin
from forebay.engine.instance import Instance
from forebay.engine.isolate import Group
from forebay.engine.kept_inputs import KeptInputs
from forebay.engine.setup import Plan, compare_files
from forebay.engine.split import is_fixed
from forebay.engine.supervisor import Supervisor
from forebay.engine.suspects import Suspects
from forebay.telemetry.logs import fields
from forebay.telemetry.metrics import ModelMetrics

log = logging.getLogger("forebay.engine")

NEVER = float("inf")
PAUSED_LOOK_S = 1.0
"""When to look again whether an instance hangs that is paused for others."""


class Engine(Door):
    """Sends what was let in to its instances, and answers it. Made by `setup.start_engine`."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.supervisor = Supervisor(self, self._instance_up)
        self.latency: LatencyModel
        self.costs: CostsFile | None = None
        self.choices: ChoiceFile | None = None
        self.kept_inputs: KeptInputs | None = None
        """Live inputs to measure with; None where nothing is measured."""
        self._suspects = Suspects(self._send, self._answers.fail, self._piece_done, self.supervisor.guard.forgive)
        self._wake: asyncio.TimerHandle | None = None
        self._wake_at = NEVER
        self._succeeded = False

    # -- out to the instances -----------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Send what may be sent, drop what is too late, and see to being called again in time."""
        self._pump_due = False
        batcher = self._batcher
        now = self._clock()
        if self._suspects.groups:
            self._suspects.send(batcher, now)
        while (batch := batcher.pull(now)) is not None:
            self._send(batch, None)
        if batcher.depth_rows or batcher.any_expired or batcher.backlog.rows:
            for item in batcher.take_expired(now):
                self._answers.fail(item, self._too_late(running=False))
            due = batcher.wake_at(now)
            if due is not None and due < self._wake_at:
                self._arm(due)
        if self.turns is not None:
            self.turns.settle()

    def _send(self, batch: Batch[Request], group: Group[Request] | None) -> None:
        instance = self.supervisor.instances[batch.instance]
        if batch.background:
            begin(batch.items, batch.sent_at)
        flight = Flight(batch, group)
        try:
            parts, counts, payloads = assemble.gather(self.signature, batch.items)
            listened = self._streams.depart(flight) if self.streams else ()
            instance.send(flight, batch.rows, counts, parts, payloads, listened)
        except Exception as error:  # such as more than 2 GiB, or a payload that is none: its own batch fails
            self._batcher.aborted(batch, self._clock())
            self._suspects.accuse(flight, ExecutionError(f"the batch could not be sent: {error}", code="model_error"))
            self._pump_soon()
            return
        if self.turns is not None:
            self.turns.began(instance)
        if flight.deadline < self._wake_at:
            self._arm(flight.deadline)

    def _arm(self, at: float) -> None:
        if self._wake is not None:
            self._wake.cancel()
        self._wake_at = at
        # uvloop rounds delays to whole milliseconds, and 0 to "now", which would spin: always the next one up.
        delay_ms = max(1, math.ceil((at - self._clock()) * 1e3))
        self._wake = self._loop.call_later(delay_ms / 1e3, self._on_wake)

    def _on_wake(self) -> None:
        self._wake, self._wake_at = None, NEVER
        now = self._clock()
        due = NEVER
        for instance in self.supervisor.instances.values():
            for flight in instance.flights.values():
                due = min(due, self._sweep(instance, flight, now))
        due = min(due, self._suspects.sweep(now))
        if due < NEVER:
            self._arm(due)
        self._pump()

    def _sweep(self, instance: Instance, flight: Flight, now: float) -> float:
        """Answer the flight's requests whose deadline has passed; returns when to look again.

        A run that is far beyond both its prediction and a caller's patience hangs: its instance is killed, and those
        who still wait run again.
        """
        running: bool = instance.oldest() is flight
        if flight.deadline <= now:
            flight.overdue, flight.deadline = True, NEVER
            late = self._too_late(running)
            waiting = flight.waiting()
            if flight.batch.background and len(waiting) > 1 and not self.streams:
                waiting = []  # one of them hangs: each will be run alone, and is then judged by its own timeout
            for item in waiting:
                if item.deadline <= now:
                    self._answers.fail(item, late)
                else:
                    flight.deadline = min(flight.deadline, item.deadline)
            if self.streams:
                self._streams.dismiss([instance])
        due = flight.deadline
        if not flight.overdue or flight.hung or not running:
            return due
        if instance.paused_at:
            return min(due, now + PAUSED_LOOK_S)
        if now < flight.hang_at():
            return min(due, flight.hang_at())
        flight.hung = True
        log.error("a model call hangs; its instance is killed", extra=fields(model=self.name, pid=instance.pid))
        self._kill(instance, "a model call hung")
        return due

    def _kill(self, instance: Instance, reason: str) -> None:
        """`on_lost` follows; until then nothing more is sent to it."""
        self._batcher.remove_instance(instance.number, self._clock())
        instance.kill(reason)

    def _too_late(self, running: bool) -> DeadlineExceeded:
        if running:
            return DeadlineExceeded(f"model {self.name!r} was still running at the deadline", stage="executing")
        return DeadlineExceeded(f"model {self.name!r} was busy until the deadline", stage="queued")

    def _land(self, instance: Instance, batch_id: int, now: float, busy_s: float) -> Flight:
        """Take a flight that came back off its instance; the one that waited behind it begins."""
        flight: Flight = instance.flights.pop(batch_id)
        if self.turns is not None:
            self.turns.landed(instance, busy_s, len(flight.batch.items))
        if instance.flights:
            following: Flight = instance.oldest()
            following.began = now
            if following.overdue and following.hang_at() < self._wake_at:
                self._arm(following.hang_at())
        return flight

    # -- back from the instances --------------------------------------------------------------------------------------

    def on_ready(self, instance: Instance, header: frames.ReadyHeader) -> None:
        """An instance is loaded and warm."""
        self.supervisor.on_ready(instance, header)

    def _instance_up(self, instance: Instance, header: frames.ReadyHeader) -> None:
        if self.state == "starting":
            return  # setup adds them once the first has told what the model is
        compare_files(self, header)
        self.add_instance(instance.number)

    def all_instances(self) -> list[Instance]:
        """Those that load and those that wait included."""
        return list(self.supervisor.instances.values())

    def add_instance(self, number: int) -> None:
        """From now on this instance gets batches."""
        self._batcher.add_instance(number, self._clock())
        if self.state == "failed":
            self.state, self.reason = "ready", ""
        self._pump()

    def open(self, batcher: Batcher[Request]) -> None:
        """All is known: take requests."""
        self._batcher = batcher
        for number, instance in self.supervisor.instances.items():
            if instance.ready:
                batcher.add_instance(number, self._clock())
        self._fixed = is_fixed(self.signature)
        self._check = finite_check(self.signature)
        self._suspects.learn(self.signature, self.batchable)
        self._streams.learn(self.signature)
        self.state, self.reason = "ready", ""

    def on_done(self, instance: Instance, header: frames.DoneHeader, payload: memoryview) -> None:
        """A batch's answer. The instance gets its next batch before anyone is answered."""
        now = self._clock()
        # An answer that is none raises here, and the instance is lost with the flight still on it.
        batch: Batch[Request] = instance.flights[header.batch_id].batch
        outputs = assemble.scatter(self.signature, header.outputs, payload, instance.arena.view, batch.rows)
        flight = self._land(instance, header.batch_id, now, header.busy_s)
        self._batcher.finished(batch, now, header.busy_s)
        if flight.group is not None:
            self._suspects.passed(flight.group)
        self._pump()
        self._record.executed(batch, header.busy_s)
        if self.kept_inputs is not None:
            self.kept_inputs.offer(self.signature, batch.items[0])
        if batch.background:
            self._answers.deliver_behind(batch, outputs, now, header.busy_s)
        else:
            self._answers.deliver(batch, outputs, now)

    def on_streamed(self, instance: Instance, kind: int, header: bytes, payload: memoryview) -> None:
        """What a model that streams says while its batch runs, and that it is over."""
        if kind != frames.CLOSED:
            self._streams.heard(instance, kind, header, payload)
            return
        now = self._clock()
        closed = msgspec.msgpack.decode(header, type=frames.ClosedHeader)
        self._streams.check_closed(instance.flights[closed.batch_id])
        flight = self._land(instance, closed.batch_id, now, closed.busy_s)
        if closed.complete:
            if self.kept_inputs is not None:
                self.kept_inputs.offer(self.signature, flight.batch.items[0])
            self._batcher.finished(flight.batch, now, closed.busy_s)
        else:
            self._batcher.aborted(flight.batch, now)
        if flight.group is not None:
            self._suspects.passed(flight.group)
        self._pump()
        self._record.executed(flight.batch, closed.busy_s)

    def on_failed(self, instance: Instance, header: frames.FailedHeader) -> None:
        """A batch raised: find the guilty, run the others again."""
        now = self._clock()
        flight = self._land(instance, header.batch_id, now, header.busy_s)
        self._batcher.aborted(flight.batch, now)
        self._record.failed(header.busy_s)
        error = ExecutionError(header.message, code=header.code)
        self._streams.give_up(flight, error)
        flight.unbegin()
        alone = len(flight.batch.items) == 1 and (flight.batch.rows == 1 or not self.batchable)
        self._suspects.accuse(flight, error)
        if alone and header.code == "out_of_memory":
            log.error("out of memory for one request; the instance is restarted", extra=fields(model=self.name))
            self._kill(instance, "a request did not fit into its memory")
        self._pump()

    def on_lost(self, instance: Instance, reason: str) -> None:
        """An instance died. What it was running is suspect; what waited behind that is not."""
        now = self._clock()
        self.metrics.deaths += 1
        flights: list[Flight] = list(instance.flights.values())
        instance.flights.clear()
        if self.turns is not None:
            self.turns.lost(instance)
        error = ExecutionError(f"the model's process died: {reason}", code="instance_crashed")
        for flight in flights:
            self._streams.give_up(flight, error)
            flight.unbegin()
        if self.state != "starting":
            self._batcher.remove_instance(instance.number, now)
        suspect = flights.pop(0) if flights and not instance.killed_for else None
        retried = suspect is not None and suspect.group is not None
        self.supervisor.on_lost(instance, reason, blamed=retried or bool(instance.killed_for))
        for flight in reversed(flights):
            self._put_back(flight, now)
        if suspect is not None:
            self._suspects.accuse(suspect, error, killed=instance.killed)
        if self.state != "starting" and not self.supervisor.ready and self.supervisor.guard.looping(now):
            self._give_up(reason)
        if self.state != "starting":
            self._pump()

    def _put_back(self, flight: Flight, now: float) -> None:
        waiting = flight.waiting()
        if flight.hung and flight.batch.background:
            # Whose row it was is not known, and another search by halves would hang each time.
            for item in waiting:
                item.lane = object()
            if flight.group is not None:
                self._suspects.passed(flight.group)
        elif flight.group is not None:
            self._suspects.groups.appendleft(flight.group)
            return
        self._batcher.requeue(waiting, now)

    def _give_up(self, reason: str) -> None:
        """Every instance is gone and replacements keep dying: answer what waits, refuse what comes, keep trying."""
        crashing = f"model {self.name!r} keeps crashing: {reason}"
        if self.state == "draining":
            # Jobs have no deadline: they, and who waits for the end of the engine, would wait for ever.
            self._fail_all(AdmissionError(f"{self.reason}, and {crashing}", code="draining"))
            return
        self.state, self.reason = "failed", reason
        self._fail_all(AdmissionError(crashing, code="model_not_ready"))

    def _fail_all(self, error: ForebayError) -> None:
        """Answer all that is admitted: in the queue, to be run again, or at an instance."""
        if self.state == "starting":
            return
        items = [*self._batcher.take_all(), *self._batcher.take_expired(self._clock())]
        items += self._suspects.take_all()
        for instance in self.supervisor.instances.values():
            items += [item for flight in instance.flights.values() for item in flight.batch.items]
        for item in items:
            self._answers.fail(item, error)

    # -- endings ------------------------------------------------------------------------------------------------------

    def _gauges(self) -> dict[str, float]:
        known = self.state != "starting"
        return {
            "forebay_in_flight_requests": self.in_flight,
            "forebay_queue_depth_rows": self._batcher.depth_rows if known else 0,
            "forebay_queue_depth_bytes": self._batcher.depth_bytes if known else 0,
            "forebay_instances_ready": self.supervisor.ready,
        }

    def succeeded_by(self, other: Engine) -> None:
        """Another engine takes this one's place, counters included: what this one still answers counts there."""
        self._succeeded = True
        self._record.move_to(other.metrics)
        self.metrics = other.metrics

    def goes_on_for(self, other: Engine) -> None:
        """This is the same model as another engine, only of another size: its statistics and kept inputs go on here."""
        self._record.statistics = other._record.statistics
        self.kept_inputs = other.kept_inputs

    def running_since(self) -> list[float]:
        """When each batch began that is running now."""
        flights = [instance.oldest() for instance in self.supervisor.instances.values()]
        return [flight.began for flight in flights if flight is not None]

    def drain(self, reason: str = "the server is shutting down") -> None:
        """Refuse new requests; what is admitted still runs."""
        if self.state not in ("starting", "draining"):
            self.state, self.reason = "draining", reason

    async def close(self, grace_s: float | None) -> None:
        """Wait for the admitted, at most so long (None: until their own deadlines), then end the instances."""
        self.drain()
        await self._answers.all_given(grace_s)
        if self._wake is not None:
            self._wake.cancel()
        await self.supervisor.close()
        self._fail_all(AdmissionError(f"{self.reason}; this request was not got to", code="draining"))
        if self.costs is not None and self.latency.observations:
            self.costs.save(self.latency)
        if self._succeeded:
            # Nothing is counted any more. This engine may stay for ever, since what start-up made is frozen, and the
            # counters of the one that took its place lead to that one and to all after it.
            self.metrics = ModelMetrics(self.name, self.version, dict)
            self._record.part(self.metrics)
