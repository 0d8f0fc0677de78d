"""The jobs that this process holds, from their lease to the commit of their end: opened, submitted, ended."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, Literal

from forebay.core.caching import CacheNote
from forebay.core.clock import Clock
from forebay.core.errors import ForebayError
from forebay.core.request import Background, Listener, Outputs, Request
from forebay.engine.client import EngineClient
from forebay.jobs.record import ENVELOPE_VERSION, JobError, JobSpec, Output
from forebay.jobs.store import Finish, JobQueue, LeasedJob, Partial
from forebay.telemetry.job_metrics import JobMetrics
from forebay.telemetry.logs import fields
from forebay.telemetry.metrics import count
from forebay.worker.codec import JobCodec, Opened
from forebay.worker.commits import Commits
from forebay.worker.outcomes import Outcome, outcome_of, unsupported
from forebay.worker.room import Room

log = logging.getLogger("forebay.worker")

STEP_S = 0.0002
"""Jobs are opened for so long, then the loop's other callers have their turn."""
LARGE_BYTES = 64 << 10
"""Larger bodies are decoded in steps."""
LONGEST_RUN_S = 3600.0
"""The timeout of a job that names none: nothing may hang for ever."""
MOST_OUTPUT_BYTES = 256 << 20
"""Half of what Redis takes as one value, and what it can be told in the time of one call: a larger answer would be
tried for ever, and all others behind it."""

Stage = Literal["leased", "submitted", "ended"]


class Held:
    """One job that is held. Its end comes by `done`, or by `Holding.end`."""

    __slots__ = ("client", "holding", "job", "request", "room", "stage", "told")

    def __init__(self, holding: Holding, job: LeasedJob, room: Room) -> None:
        self.holding = holding
        self.job = job
        self.room = room
        self.stage: Stage = "leased"
        self.client: EngineClient | None = None
        self.request: Request | None = None
        self.told = 0

    def done(self, request: Request) -> None:
        """Called by the engine."""
        holding = self.holding
        error = request.error
        if error is not None:
            holding.refuse(self, error)
            return
        try:
            result = holding.codec.close(request)
        except Exception as failure:
            holding.refuse(self, failure)
            return
        if isinstance(result, Output) and len(result.body) > MOST_OUTPUT_BYTES:
            told = f"its answer has {len(result.body)} bytes; that of a job may have at most {MOST_OUTPUT_BYTES}"
            result = JobError("model_error", told)
        if isinstance(result, JobError):
            holding.end(self, Finish(self.job, "failed", None, result, 0.0, _metrics(request)), request.rows)
        else:
            holding.end(self, Finish(self.job, "succeeded", result, None, 0.0, _metrics(request)), request.rows)

    def on_piece(self, row: int, outputs: Outputs) -> None:
        """A piece of the answer."""
        assert self.request is not None
        piece = self.holding.codec.piece(self.request, row, outputs)
        self._tell(Partial(self.job, piece=piece, number=self.told + 1))

    def on_progress(self, row: int, fraction: float) -> None:
        """How far a row is. Of several rows the first speaks for all."""
        if row == 0:
            self._tell(Partial(self.job, progress=fraction, number=self.told + 1))

    def _tell(self, partial: Partial) -> None:
        if self.stage != "submitted":
            return
        if self.holding.commits.tell(partial):
            self.told = partial.number  # by which the store knows what it is told a second time
        elif self.request is not None:
            self.request.listener = None  # no piece may be missing between others, so there are no more

    @property
    def running(self) -> bool:
        """Whether a batch with it has begun."""
        background = self.request.background if self.request is not None else None
        return self.stage == "submitted" and background is not None and background.began > 0


class Holding:
    """All jobs that are held, by id, and how many there is room for, by model."""

    def __init__(
        self, queue: JobQueue, codec: JobCodec, metrics: JobMetrics, clock: Clock, on_room: Callable[[], None]
    ) -> None:
        """`on_room` is called when there may be reason to lease more."""
        self.codec = codec
        self.commits = Commits(queue, metrics, self._settled, self._lost, on_room)
        self.held: dict[str, Held] = {}
        self.rooms: dict[str, Room] = {}
        self.nbytes = 0
        """Of the bodies of all that is held."""
        self.paused: dict[str, float] = {}
        """Models that refused jobs, and when to try again."""
        self.ended = asyncio.Event()
        """Set whenever a job ends."""
        self._metrics = metrics
        self._on_room = on_room
        self._clock = clock
        self._leased: deque[Held] = deque()
        self._opening: tuple[Held, Generator[None, None, Opened]] | None = None
        self._due = False

    def room_of(self, model: str) -> Room:
        """The model's own."""
        room = self.rooms.get(model)
        if room is None:
            room = self.rooms[model] = Room()
        return room

    # -- in -----------------------------------------------------------------------------------------------------------

    def take(self, jobs: Sequence[LeasedJob]) -> None:
        """Jobs were leased: open them, in turns of the loop."""
        now = self._clock()
        for job in jobs:
            spec = job.spec
            before = self.held.get(spec.id)
            if before is not None:
                self.drop(before)  # its lease had run out, unnoticed, and here it is again
                self._forget(before.job)  # also where it had ended and waits for its commit
            room = self.room_of(spec.model)
            room.took(len(spec.body), now)
            self.nbytes += len(spec.body)
            count(self._metrics.leased, spec.model)
            held = self.held[spec.id] = Held(self, job, room)
            self._leased.append(held)
        self._open_soon()

    def _open_soon(self) -> None:
        if not self._due and (self._leased or self._opening is not None):
            self._due = True
            asyncio.get_running_loop().call_soon(self._open_some)

    def _open_some(self) -> None:
        self._due = False
        until = self._clock() + STEP_S
        while True:
            if self._opening is not None:
                self._step(*self._opening)
            elif self._leased:
                held = self._leased.popleft()
                if held.stage == "leased":
                    self._open(held)
            else:
                return
            if self._clock() >= until:
                self._open_soon()
                return

    def _open(self, held: Held) -> None:
        spec = held.job.spec
        if spec.envelope != ENVELOPE_VERSION:
            self._settle_by(held, unsupported(spec.envelope, ENVELOPE_VERSION, held.job.attempt))
        elif len(spec.body) > LARGE_BYTES:
            self._opening = held, self.codec.open_in_steps(spec, held.done)
        else:
            try:
                client, request = self.codec.open(spec, held.done)
                self._submit(held, client, request)
            except Exception as error:
                self.refuse(held, error)

    def _step(self, held: Held, steps: Generator[None, None, Opened]) -> None:
        try:
            next(steps)
        except StopIteration as end:
            self._opening = None
            client, request = end.value
        except Exception as error:
            self._opening = None
            if held.stage == "leased":
                self.refuse(held, error)
            return
        else:
            if held.stage != "leased":
                self._opening = None
            return
        try:
            if held.stage == "leased":
                self._submit(held, client, request)
        except Exception as error:
            self.refuse(held, error)

    def _submit(self, held: Held, client: EngineClient, request: Request) -> None:
        timeout_s = held.job.spec.timeout_s
        alone = held.job.attempt > 1
        request.background = Background(LONGEST_RUN_S if timeout_s is None else timeout_s, alone)
        request.deadline = math.inf
        if client.streams:
            request.listener = Listener(held.on_piece, held.on_progress)
        client.submit(request)
        held.client, held.request, held.stage = client, request, "submitted"

    # -- out ----------------------------------------------------------------------------------------------------------

    def refuse(self, held: Held, error: Exception) -> None:
        """It cannot be run here, or its run failed."""
        spec = held.job.spec
        if isinstance(error, ForebayError):
            outcome = outcome_of(error, held.job.attempt, served=spec.model in self.codec.served())
            if outcome.kind == "release":
                self.paused[spec.model] = self._clock() + max(1.0, outcome.delay_s)
            self._settle_by(held, outcome)
            return
        log.error("a job failed: %s", type(error).__name__, exc_info=error, extra=fields(model=spec.model))
        told = JobError("internal", "an error in the server, which has been logged there")
        self._settle_by(held, Outcome("failed", told))

    def _settle_by(self, held: Held, outcome: Outcome) -> None:
        request = held.request
        metrics = _metrics(request) if request is not None and request.batch_rows else None
        finish = Finish(held.job, outcome.kind, None, outcome.error, outcome.delay_s, metrics)
        self.end(held, finish, request.rows if request is not None else 0)

    def end(self, held: Held, finish: Finish, rows: int) -> None:
        """The one end of a job that is held: from now on it only waits for its commit."""
        held.stage = "ended"
        held.request = held.client = None
        room = held.room
        room.done(rows, self._clock())
        self.commits.finish(finish)
        self.ended.set()
        if room.jobs <= room.low:
            self._on_room()

    def give_back(self, held: Held) -> None:
        """It will not be run here; somebody else may at once, and the attempt does not count."""
        self._cancel(held)
        self.end(held, Finish(held.job, "release"), 0)

    def drop(self, held: Held) -> None:
        """It is not ours any more: whatever comes of it is of no interest. One that has ended still gets its commit,
        which tells. Where a message brought it, the queue must be done with that: the store refuses the release."""
        if held.stage == "ended":
            return
        self._cancel(held)
        held.stage = "ended"
        held.request = held.client = None
        held.room.done(0, self._clock())
        self._forget(held.job)
        if held.job.receipt is not None:
            self.commits.finish(Finish(held.job, "release"))
        self.ended.set()
        self._on_room()

    def _cancel(self, held: Held) -> None:
        if held.client is not None and held.request is not None:
            held.client.cancel(held.request)

    def discard(self, ids: Iterable[str]) -> None:
        """These were canceled or deleted."""
        for id in ids:
            held = self.held.get(id)
            if held is not None:
                self.drop(held)

    def _lost(self, job: LeasedJob) -> None:
        held = self.held.get(job.spec.id)
        if held is not None and held.job is job:
            self.drop(held)

    def _settled(self, finish: Finish, stands: bool) -> None:
        self._forget(finish.job)

    def _forget(self, job: LeasedJob) -> None:
        spec: JobSpec = job.spec
        held = self.held.get(spec.id)
        if held is not None and held.job is job:
            del self.held[spec.id]
            self.nbytes -= len(spec.body)

    def unfinished(self) -> list[Held]:
        """All that has not ended."""
        return [held for held in self.held.values() if held.stage != "ended"]


def _metrics(request: Request) -> dict[str, Any]:
    """What is told of a job's batch. Times in ms, to the microsecond."""
    background = request.background
    compute_s = background.compute_s if background is not None else 0.0
    if isinstance(request.cached, CacheNote) and request.cached.outcome in ("exact", "semantic"):
        note = request.cached
        told = {"cached": note.outcome, "entry": note.entry, "age_s": note.age_s}
        return told if note.score is None else {**told, "score": note.score}
    return {
        "batch_rows": request.batch_rows,
        "queue_ms": int(request.queue_s * 1e6) / 1e3,
        "compute_ms": int(compute_s * 1e6) / 1e3,
        "dispatch_reason": request.dispatch_reason,
    }
